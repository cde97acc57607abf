"""`refgss train`: a language model from text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from refgss.cli import terminal
from refgss.config import LayerConfig, LMConfig
from refgss.layers import KINDS, kind_of
from refgss.model import load_checkpoint
from refgss.training.data import DataConfig
from refgss.training.recipe import Recipe, Run, Sizes, sizes_of

USUAL = Run()
COUNT = click.IntRange(1)

MODEL = {
    "width": "E.",
    "gate": "F, of GSS layers.",
    "channels": "H, of GSS layers.",
    "states": "N.",
    "memory": "Spread the modes of GSS layers over so many tokens; 0: draw them from N(0,1).",
}
TRAINING = {
    "steps": "Updates of the parameters.",
    "minutes": "Stop after so many; the run then cannot be repeated bit by bit.",
    "batch": "Windows an update.",
    "length": "Tokens a window.",
    "accumulate": "Parts of a batch, their gradients computed one after the other.",
    "optimizer": "muon: for the matrices of layers, and adamw for the rest.",
    "rate": "Peak learning rate.",
    "matrix_rate": "Of matrices under muon.",
    "modes_rate": "Of the modes Λ and steps Δ.",
    "warmup": "Steps over which rates rise.",
    "final": "Rates fall to this share of the peak.",
    "weight_decay": "Of the matrices of layers.",
    "clip": "Largest norm of the gradient.",
    "seed": "Of parameters and of the order of windows.",
    "weights": "bf16: products with weights rounded to bfloat16.",
    "data_parallel": "Devices over which a batch is spread.",
    "sequence_parallel": "Devices over which each window is spread.",
}
CHOICES = {
    "optimizer": click.Choice(["adamw", "adafactor", "muon"]),
    "weights": click.Choice(["full", "bf16"]),
}
FLOATS = ("memory", "minutes")  # whose default may be None


def options(defaults: Any, helps: dict[str, str]) -> Callable[[Callable], Callable]:
    """An option for each field, its default that of the dataclass."""

    def add(command: Callable) -> Callable:
        for name, text in reversed(helps.items()):
            value = getattr(defaults, name)
            kind = CHOICES.get(name) or (float if name in FLOATS else type(value))
            flag = f"--{name.replace('_', '-')}"
            option = click.option(flag, type=kind, default=value, show_default=True, help=text)
            command = option(command)
        return command

    return add


@click.command(short_help="Train a language model on text.")
@click.option("--data", "paths", multiple=True, help="Text files and folders.", metavar="PATH...")
@click.argument("more", nargs=-1, metavar="[PATH]...")
@click.option("--out", default="trained", show_default=True, type=click.Path(path_type=Path))
@click.option("--suffix", "suffixes", multiple=True, help="In folders, only such files: .py")
@click.option("--held-out", default=USUAL.data.held_out, show_default=True, help="Share of files.")
@click.option("--held-out-tail", default=0.0, help="Hold out the last share of the text instead.")
@click.option(
    "--layers",
    "--layer",
    default="gss",
    show_default=True,
    metavar="KINDS",
    help='The kind of the layers, or a pattern that repeats: "gss gss dss".',
)
@click.option("--depth", type=COUNT, default=USUAL.model.depth, show_default=True, help="Layers.")
@click.option("--ssm-norm", is_flag=True, help="A LayerNorm before the SSM of GSS layers.")
@click.option("--tied", is_flag=True, help="The head is the transposed embedding.")
@click.option("--no-final-norm", is_flag=True, help="No LayerNorm after the last layer.")
@click.option("--from", "start", type=click.Path(path_type=Path), help="Begin with this model.")
@options(USUAL.sizes, MODEL)
@options(USUAL.recipe, TRAINING)
@click.option("--tokenizer", type=click.Path(path_type=Path), help="A tokenizer.json; else bytes.")
@click.option("--log-every", type=COUNT, default=10, show_default=True, help="Steps.")
@click.option("--evaluate-every", type=COUNT, default=250, show_default=True, help="Steps.")
@click.option("--save-every", type=COUNT, default=250, show_default=True, help="Steps.")
@click.option("--stop", type=COUNT, help="The step after which to stop, to go on another time.")
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
    stop: int | None,
    **sizes_and_recipe: Any,
) -> None:
    """Train a language model on text files, or on the Python standard library.

    The folder --out receives model.safetensors, metrics.jsonl and loss.png.  The same command
    continues a run that was stopped, also by kill -9, as if it had not been.
    """
    recipe = Recipe(**{name: sizes_and_recipe[name] for name in TRAINING})
    data = DataConfig((*paths, *more), suffixes, held_out, held_out_tail)
    checkpoint = None if start is None else load_checkpoint(start)
    if checkpoint is None:
        wanted: dict[str, Any] = {name: sizes_and_recipe[name] or None for name in MODEL}
        pattern = pattern_of(layers, ssm_norm=ssm_norm)
        known = {f.name for layer in pattern for f in fields(kind_of(layer).Sizes)}
        known |= {"memory"} if "gate" in known else set()  # of GSS layers
        given: dict[str, Any] = {name: wanted[name] if name in known else None for name in MODEL}
        model = LMConfig(pattern, depth, final_norm=not no_final_norm, tied=tied)
        run = Run(model, Sizes(**given), data, recipe, description_of(tokenizer))
    else:
        refuse_options_of_models(f"the model of --from {start}")
        sizes = sizes_of(checkpoint.params, checkpoint.config)
        run = Run(checkpoint.config, sizes, data, recipe, checkpoint.tokenizer, checkpoint.digest)
    try:
        from refgss.training import loop
    except ImportError as e:
        raise click.UsageError(f"training needs JAX: pip install 'refgss[jax]' ({e})") from e
    habits = loop.Habits(log_every, evaluate_every, save_every, stop)
    with bar() as watch:
        file = loop.train(run, out, habits, watch, checkpoint)
    terminal.say(f"{file} is trained; see {out / 'metrics.jsonl'} and {out / 'loss.png'}")
    terminal.say(closing_line(out / "metrics.jsonl", recipe.length))


def pattern_of(layers: str, **options: bool) -> tuple[LayerConfig, ...]:
    """The options of each layer of a pattern; a flag is for the kinds that have such an option."""
    pattern = []
    for name in layers.split():
        kind = next((kind for kind in KINDS.values() if kind.NAME == name), None)
        if kind is None:
            known = ", ".join(kind.NAME for kind in KINDS.values())
            raise click.UsageError(f"there is no layer {name!r}: --layers is made of {known}")
        usual = kind.Config()
        pattern.append(replace(usual, **{k: x for k, x in options.items() if hasattr(usual, k)}))
    if not pattern:
        raise click.UsageError("--layers names no layer: gss, for example")
    return tuple(pattern)


def refuse_options_of_models(owner: str) -> None:
    """Raises UsageError where an option was given that describes a new model."""
    context = click.get_current_context()
    for name in (*MODEL, "layers", "depth", "ssm_norm", "tied", "no_final_norm", "tokenizer"):
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{flag} is that of {owner}: leave it out")


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
    return ", ".join(parts) or "no step was made"


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
