"""`refgss eval`: what a model makes of text files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table

from refgss.cli import terminal
from refgss.cli.mathematics import math
from refgss.cli.models import backend_options, model_and_rest, usable_backend
from refgss.cli.tasks import tasks
from refgss.model import Checkpoint
from refgss.model.documents import find_documents, read_tokens, windows
from refgss.model.evaluation import EDGES, Evaluation, evaluate, xz_bits_per_byte
from refgss.model.tokenizer import load_tokenizer
from refgss.training.data import DataConfig, split


class OnText(click.Group):
    """A group whose first word, where it is no command, is an argument of `text`."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        known = {*self.commands, *context.help_option_names}
        if not arguments or arguments[0] not in known:
            arguments = ["text", *arguments]
        return super().parse_args(context, arguments)


@click.group("eval", cls=OnText, short_help="Measure a model: on text, or its answers.")
def evaluate_() -> None:
    """Measure a model.

    `refgss eval [MODEL.safetensors] [PATH]...` is `refgss eval text`, which measures it on text.
    """


@evaluate_.command("text", short_help="Measure a model on text.")
@click.argument("arguments", nargs=-1, metavar="[MODEL.safetensors] [PATH]...")
@click.option(
    "--suffix",
    "suffixes",
    multiple=True,
    help="Read only files with this suffix, such as .py; may be repeated.",
)
@click.option("--limit", type=click.IntRange(1), help="Maximum number of tokens per document.")
@click.option(
    "--window", type=click.IntRange(1), help="Join all files and cut them into windows of N tokens."
)
@click.option("--by-position", is_flag=True, help="Show the loss by position in the document.")
@click.option("--compare", type=click.Choice(["xz"]), help="Compare with xz -9 on each file.")
@backend_options
def text(
    arguments: tuple[str, ...],
    suffixes: tuple[str, ...],
    limit: int | None,
    window: int | None,
    by_position: bool,
    compare: str | None,
    backend: str | None,
    threads: int | None,
) -> None:
    """Measure nats per token, perplexity and bits per byte on text files and folders.

    Every file is read from its beginning; the error shown is the standard error over files.
    Without a PATH, the files held out when the model was trained are used.
    """
    checkpoint, rest = model_and_rest(arguments)
    files = find_documents(rest, suffixes) if rest else held_out(checkpoint)
    tokenizer, module = load_tokenizer(checkpoint.tokenizer), usable_backend(backend, threads)
    documents: Iterator = (read_tokens(f, tokenizer) for f in files)
    if window:
        documents = windows(files, tokenizer, window)
    size = sum(f.stat().st_size for f in files)
    with terminal.progress("evaluating", size) as step:
        found = evaluate(checkpoint, documents, backend=module, limit=limit, progress=step)
    unit = "windows" if window else "files"
    terminal.say(
        f"{len(found.sizes)} {unit}, {sum(found.sizes)} bytes, {checkpoint.weights} weights"
    )
    terminal.say(f"nats per token  {found.loss:.4f}")
    terminal.say(f"perplexity      {found.perplexity:.4f}")
    terminal.say(f"bits per byte   {found.bits_per_byte}")
    if not rest and not window and (length := trained_length(checkpoint)):
        terminal.note(f"training measured its held-out loss over windows: --window {length}")
    if compare:
        terminal.say(f"xz -9           {xz_bits_per_byte(files)}")
    if by_position:
        terminal.console().print(position_table(found))


evaluate_.add_command(math)
evaluate_.add_command(tasks)


def trained_length(checkpoint: Checkpoint) -> int | None:
    """Tokens of the windows of its training, where it noted them."""
    try:
        return int(checkpoint.about["run"]["recipe"]["length"])
    except (KeyError, TypeError, ValueError):
        return None


def held_out(checkpoint: Checkpoint) -> list[Path]:
    """The files that `refgss train` held out, found again by the settings that it noted."""
    try:
        noted: dict[str, Any] = checkpoint.about["run"]["data"]
        lists = {k: tuple(v) for k, v in noted.items() if isinstance(v, list)}
        data = DataConfig(**{**noted, **lists})
    except (KeyError, TypeError) as e:
        raise click.UsageError("name text files, or folders that have some") from e
    if files := list(split(data)[1].values()):
        return files
    raise click.UsageError("this model was trained without holding out files: name text files")


def position_table(found: Evaluation) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("from", "to", "tokens", "nats per token"):
        table.add_column(name, justify="right")
    for i, (nats, tokens) in enumerate(found.by_position):
        if tokens:
            table.add_row(str(EDGES[i]), str(EDGES[i + 1] - 1), str(tokens), f"{nats / tokens:.4f}")
    return table
