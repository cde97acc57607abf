"""`refgss bench`: the native backend timed beside the libraries that are installed."""

from __future__ import annotations

from pathlib import Path

import click

from refgss.cli import terminal

WORKS = ("conv", "conv-cached", "kernel", "scan", "step", "layer", "train")
MODEL_WORKS = ("decode", "prefill")  # of a language model


@click.command(short_help="Time the native backend beside others.")
@click.argument("work", type=click.Choice(WORKS + MODEL_WORKS))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=2.0, show_default=True, help="For each size, about.")
@click.option(
    "--size", type=click.Choice(["bundled", "large"]), help="Of a language model [default: both]."
)
@click.option(
    "--weights",
    type=click.Choice(["f32", "bf16", "int8"]),
    multiple=True,
    help="Of a language model; may be repeated [default: all, and f32 to prefill].",
)
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write JSON.")
def bench(
    work: str,
    threads: int,
    seconds: float,
    size: str | None,
    weights: tuple[str, ...],
    file: Path | None,
) -> None:
    """Time one kind of WORK in one interleaved run: medians, spread, ratio and error."""
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
        file.write_text(report.json() + "\n", "utf-8")
