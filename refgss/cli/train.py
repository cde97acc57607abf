"""`refgss train`: a language model from text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from refgss.cli import terminal
from refgss.config import (
    BlockRecurrentConfig,
    Distance,
    Gate,
    LayerConfig,
    LMConfig,
    Mlp,
    Norm,
    Position,
    Scale,
    TransformerConfig,
    Update,
    Visible,
)
from refgss.layers import KINDS, block_recurrent, kind_of
from refgss.model import load_checkpoint, load_tokenizer
from refgss.model.profiles import Profile, layers_of, parameter_count, state_bytes
from refgss.training.data import DataConfig
from refgss.training.recipe import Recipe, Run, Sizes, sizes_of

USUAL = Run()
USUAL_ATTENTION = SimpleNamespace(**{f.name: f.default for f in fields(TransformerConfig)})
USUAL_RECURRENT = SimpleNamespace(
    **{f"recurrent_{f.name}": f.default for f in fields(BlockRecurrentConfig)}
)
COUNT = click.IntRange(1)

MODEL = {
    "width": "Model width E.",
    "gate": "Gate width F of GSS layers.",
    "channels": "State-space channels H of GSS layers.",
    "states": "States N per channel.",
    "inner": "Width of attention, all heads together.  Default: the width.",
    "hidden": "Width of the MLP of attention layers.  Default: 4 E, or 8/3 E if gated.",
    "memory": "Longest time constant of GSS layers, in tokens; 0 draws the modes from N(0,1).",
}
TRAINING = {
    "steps": "Number of parameter updates.",
    "minutes": "Train for this long instead; such a run is not reproducible bit for bit.",
    "batch": "Windows per update.",
    "length": "Tokens per window.",
    "segments": "Windows that follow each other in the text and hand the state on, one per update.",
    "accumulate": "Split each batch into this many parts and sum their gradients.",
    "optimizer": "muon updates the matrices of layers, and adamw everything else.",
    "rate": "Peak learning rate.",
    "matrix_rate": "Peak learning rate of matrices under muon.",
    "modes_rate": "Peak learning rate of the modes Λ and the steps Δ.",
    "warmup": "Steps of linear warm-up.",
    "final": "Final learning rate, as a fraction of the peak.",
    "weight_decay": "Weight decay of the matrices of layers.",
    "clip": "Clip the gradient to this norm.",
    "seed": "Seed of the initial parameters and of the order of windows.",
    "weights": "bf16 multiplies by weights rounded to bfloat16.",
    "data_parallel": "Number of devices to split each batch over.",
    "sequence_parallel": "Number of devices to split each window over.",
}
ATTENTION = {
    "heads": "Query heads of attention layers.",
    "kv_heads": "Key and value heads; they divide the query heads.  Default: as many.",
    "chunk": "Tokens of a chunk, or of the window, of attention.",
    "visible": "Which keys a query sees.",
    "scale": "Scale of the logits: 1/√D, or 1.",
    "position": "How attention knows positions.",
    "positions": "Rows of learned positions.",
    "rope_base": "Base of the angles of rope.",
    "mlp": "MLP of attention layers.",
    "norm": "Norm of attention layers.",
}
RECURRENT = {  # of block-recurrent layers, whose other options are those of attention
    "recurrent_window": "Tokens of a window of recurrent layers.",
    "recurrent_states": "Vectors of the state of recurrent layers.",
    "recurrent_gate": "Gate through which their state is renewed.",
    "recurrent_update": "What their state is renewed by: attention, an MLP, or both.",
    "recurrent_position": "How their tokens know positions.",
}
SHARED = ("heads", "mlp")  # options of attention that a recurrent layer takes where they are given
CHOICES = {
    "recurrent_gate": click.Choice(get_args(Gate)),
    "recurrent_update": click.Choice(get_args(Update)),
    "recurrent_position": click.Choice(get_args(Distance)),
    "visible": click.Choice(get_args(Visible)),
    "scale": click.Choice(get_args(Scale)),
    "position": click.Choice(get_args(Position)),
    "mlp": click.Choice(get_args(Mlp)),
    "norm": click.Choice(get_args(Norm)),
    "optimizer": click.Choice(["adamw", "adafactor", "muon"]),
    "weights": click.Choice(["full", "bf16"]),
}
FLOATS = ("memory", "minutes")  # whose default may be None


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def options(defaults: Any, helps: dict[str, str]) -> Callable[[Callable], Callable]:
    """An option for each field, its default that of the dataclass."""

    def add(command: Callable) -> Callable:
        for name, text in reversed(helps.items()):
            value = getattr(defaults, name)
            usual = int if value is None else type(value)
            kind = CHOICES.get(name) or (float if name in FLOATS else usual)
            shown = value is not None
            option = click.option(
                flag(name), type=kind, default=value, show_default=shown, help=text
            )
            command = option(command)
        return command

    return add


@click.command(short_help="Train a language model on text.")
@click.option(
    "--data", "paths", multiple=True, help="Text files and folders to train on.", metavar="PATH..."
)
@click.argument("more", nargs=-1, metavar="[PATH]...")
@click.option(
    "--out",
    default="trained",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the run.",
)
@click.option(
    "--suffix",
    "suffixes",
    multiple=True,
    help="Read only files with this suffix, such as .py; may be repeated.",
)
@click.option(
    "--held-out",
    default=USUAL.data.held_out,
    show_default=True,
    help="Fraction of the files to hold out.",
)
@click.option(
    "--held-out-tail", default=0.0, help="Hold out this fraction at the end of the text instead."
)
@click.option(
    "--layers",
    "--layer",
    default="gss",
    show_default=True,
    metavar="KINDS",
    help='Kind of the layers, or a repeating pattern such as "gss gss gss attention".',
)
@click.option(
    "--depth", type=COUNT, default=USUAL.model.depth, show_default=True, help="Number of layers."
)
@click.option("--ssm-norm", is_flag=True, help="LayerNorm before the SSM of GSS layers.")
@click.option("--tied", is_flag=True, help="Use the transposed embedding as the head.")
@click.option("--no-final-norm", is_flag=True, help="No LayerNorm after the last layer.")
@click.option("--from", "start", type=click.Path(path_type=Path), help="Start from this model.")
@options(USUAL.sizes, MODEL)
@options(USUAL_ATTENTION, ATTENTION)
@click.option("--bias", is_flag=True, help="Biases in the dense maps of attention layers.")
@options(USUAL_RECURRENT, RECURRENT)
@click.option(
    "--recurrent-plain-keys",
    is_flag=True,
    help="Queries and keys of recurrent layers as they are, scaled by 1/√D.",
)
@options(USUAL.recipe, TRAINING)
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), help="A tokenizer.json. Default: bytes."
)
@click.option("--log-every", type=COUNT, default=10, show_default=True, help="Steps per log line.")
@click.option(
    "--evaluate-every", type=COUNT, default=250, show_default=True, help="Steps per evaluation."
)
@click.option(
    "--save-every", type=COUNT, default=250, show_default=True, help="Steps per saved state."
)
@click.option("--dry-run", is_flag=True, help="Print what the model would take, and train nothing.")
@click.option("--stop", type=COUNT, help="Stop after this step; the same command continues later.")
def train(
    paths: tuple[str, ...],
    more: tuple[str, ...],
    out: Path,
    suffixes: tuple[str, ...],
    held_out: float,
    held_out_tail: float,
    layers: str,
    depth: int,
    ssm_norm: bool,
    tied: bool,
    no_final_norm: bool,
    start: Path | None,
    tokenizer: Path | None,
    log_every: int,
    evaluate_every: int,
    save_every: int,
    dry_run: bool,
    stop: int | None,
    **named: Any,
) -> None:
    """Train a language model on text files, or on the Python standard library.

    Writes model.safetensors, metrics.jsonl and loss.png to the folder --out.  Repeating the
    command continues a run that was stopped, even by kill -9, with the same result.
    """
    recipe = Recipe(**{name: named[name] for name in TRAINING})
    data = DataConfig((*paths, *more), suffixes, held_out, held_out_tail)
    checkpoint = None if start is None else load_checkpoint(start)
    if checkpoint is None:
        attention = {name: named[name] for name in (*ATTENTION, "bias")}
        pattern = pattern_of(layers, recurrent_options(named), ssm_norm=ssm_norm, **attention)
        given = sizes_given(pattern, named)
        model = LMConfig(pattern, depth, final_norm=not no_final_norm, tied=tied)
        run = Run(model, Sizes(**given), data, recipe, description_of(tokenizer))
    else:
        refuse_options_of_models(f"the model of --from {start}")
        sizes = sizes_of(checkpoint.params, checkpoint.config)
        run = Run(checkpoint.config, sizes, data, recipe, checkpoint.tokenizer, checkpoint.digest)
    if dry_run:
        terminal.say(what_it_takes(run))
        return
    try:
        from refgss.training import loop
    except ImportError as e:
        raise click.UsageError(f"training needs JAX: pip install 'refgss[jax]' ({e})") from e
    habits = loop.Habits(log_every, evaluate_every, save_every, stop)
    with bar() as watch:
        file = loop.train(run, out, habits, watch, checkpoint)
    terminal.say(f"{file} is trained; see {out / 'metrics.jsonl'} and {out / 'loss.png'}")
    terminal.say(closing_line(out / "metrics.jsonl", recipe.text))


def sizes_given(pattern: Sequence[LayerConfig], named: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that some layer of the pattern has, None for all others.

    Raises UsageError where one was asked for that no layer has.
    """
    sizes = {f.name for layer in pattern for f in fields(kind_of(layer).Sizes)}
    sizes |= {"memory"} if "gate" in sizes else set()  # of GSS layers
    known = set(sizes)
    for kind in map(kind_of, pattern):
        own = {f.name for f in fields(kind.Config)}
        known |= {*RECURRENT, "recurrent_plain_keys", *SHARED} if kind is block_recurrent else own
    for name in (*MODEL, *ATTENTION, "bias", *RECURRENT, "recurrent_plain_keys"):
        if name not in known and was_given(name):
            raise click.UsageError(f"no layer of this pattern has the option {flag(name)}")
    return {name: (named[name] or None) if name in sizes else None for name in MODEL}


def what_it_takes(run: Run) -> str:
    """Parameters, and the state of a stream, of a model that is not made."""
    sizes = {k: x for k, x in asdict(run.sizes).items() if x is not None and k != "memory"}
    try:
        model = Profile(run.model, sizes, load_tokenizer(run.tokenizer).size)
        size = parameter_count(model), state_bytes(layers_of(model))
    except ValueError as e:
        raise click.UsageError(f"there is no such model: {e}") from e
    return f"{size[0]:,} parameters; {size[1]:,} bytes of state a stream, at any length"


def was_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT


def recurrent_options(named: Mapping[str, Any]) -> dict[str, Any]:
    """The options of block-recurrent layers, by the names that they have there."""
    own = {name.removeprefix("recurrent_"): named[name] for name in RECURRENT}
    shared = {name: named[name] for name in SHARED if was_given(name)}
    return {**own, **shared, "normalize_keys": not named["recurrent_plain_keys"]}


def pattern_of(
    layers: str, recurrent: Mapping[str, Any] | None = None, **options: Any
) -> tuple[LayerConfig, ...]:
    """The options of each layer of a pattern; a flag is for the kinds that have such an option.

    recurrent  the options of block-recurrent layers; their usual ones if None.
    """
    pattern = []
    for name in layers.split():
        kind = next((kind for kind in KINDS.values() if kind.NAME == name), None)
        if kind is None:
            known = ", ".join(kind.NAME for kind in KINDS.values())
            raise click.UsageError(f"there is no layer {name!r}: --layers is made of {known}")
        has = {f.name for f in fields(kind.Config)}
        own = {k: x for k, x in options.items() if k in has}
        own = dict(recurrent or {}) if kind is block_recurrent else own
        try:
            pattern.append(kind.Config(**own))
        except ValueError as e:
            raise click.UsageError(f"there is no such layer {name}: {e}") from e
    if not pattern:
        raise click.UsageError("--layers names no layer: gss, for example")
    return tuple(pattern)


def refuse_options_of_models(owner: str) -> None:
    """Raises UsageError where an option was given that describes a new model."""
    described = (
        *MODEL,
        *ATTENTION,
        "bias",
        *RECURRENT,
        "recurrent_plain_keys",
        "layers",
        "depth",
        "ssm_norm",
        "tied",
    )
    for name in (*described, "no_final_norm", "tokenizer"):
        if was_given(name):
            raise click.UsageError(f"{flag(name)} is determined by {owner}: leave it out")


def closing_line(metrics: Path, length: int) -> str:
    """The last losses, and how the held-out one is measured."""
    last: dict[str, float] = {}
    for line in metrics.read_text("utf-8").splitlines():
        last |= json.loads(line)
    parts = [f"loss {last['loss']:.4f}"] if "loss" in last else []
    if "held_out" in last:
        parts.append(
            f"held-out loss {last['held_out']:.4f} nats per token, over windows of {length} tokens "
            "(`refgss eval` reads whole files, which is lower where a long context helps)"
        )
    return ", ".join(parts) or "no step was taken"


def description_of(tokenizer: Path | None) -> str:
    try:
        return "bytes" if tokenizer is None else tokenizer.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise click.UsageError(f"{tokenizer} cannot be read: {e}") from e


@contextmanager
def bar() -> Iterator[Callable[[Any], None]]:
    """Loss, tokens/s and the time left on a terminal; nothing in a pipe."""
    errors = terminal.console(stderr=True)
    columns = (
        TextColumn("step {task.fields[step]}"),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as progress:
        task = progress.add_task("training", total=1.0, step=0, said="compiling the first step")

        def watch(p: Any) -> None:
            fast = p.tokens_per_second  # not known after one step
            speed = "" if math.isnan(fast) else f", {fast:.0f} tokens/s, left"
            said = f"loss {p.loss:.4f}{speed}"
            progress.update(task, completed=p.share, step=p.step, said=said)

        yield watch
