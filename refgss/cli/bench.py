"""`refgss bench`: the native backend timed beside the libraries that are installed."""

from __future__ import annotations

from pathlib import Path

import click

from refgss.cli import terminal
from refgss.cli.arguments import Target
from refgss.files import atomic_write

WORKS = (
    "conv",
    "conv-cached",
    "kernel",
    "scan",
    "step",
    "layer",
    "train",
    "attention",
    "attention-train",
    "block-recurrent",
    "block-recurrent-train",
)
MODEL_WORKS = ("decode", "prefill")  # of a language model


@click.command(short_help="Time the native backend beside other libraries.")
@click.argument("work", type=click.Choice(WORKS + MODEL_WORKS))
@click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(1), help="Number of threads."
)
@click.option("--seconds", default=2.0, show_default=True, help="Approximate time per size.")
@click.option(
    "--size",
    type=click.Choice(["bundled", "large"]),
    help="Size of the language model [default: both].",
)
@click.option(
    "--weights",
    type=click.Choice(["f32", "bf16", "int8"]),
    multiple=True,
    help="Weights of the language model; may be repeated [default: all; prefill: f32].",
)
@click.option("--json", "file", type=Target(), help="Write the results as JSON.")
def bench(
    work: str,
    threads: int,
    seconds: float,
    size: str | None,
    weights: tuple[str, ...],
    file: Path | None,
) -> None:
    """Time one kind of WORK beside other libraries, interleaved: medians, spread, ratio, error."""
    from refgss.bench import MODELS, model_sizes, run

    if work not in MODEL_WORKS and (size or weights):
        raise click.UsageError("--size and --weights belong to decode and prefill")
    sizes = None
    if size or weights:
        sizes = [model_sizes(s, work, weights) for s in ([size] if size else MODELS)]
    try:
        report = run(work, sizes, threads=threads, seconds=seconds)
    except (ImportError, ValueError) as e:
        raise click.UsageError(str(e)) from e
    for line in report.table().splitlines():
        terminal.say(line)
    if file:
        atomic_write(file, report.json() + "\n")
