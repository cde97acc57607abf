"""`refgss bench`: the native backend timed beside the libraries that are installed."""

from __future__ import annotations

from pathlib import Path

import click

WORKS = ("conv", "conv-cached", "kernel", "scan", "step", "layer", "train")


@click.command(short_help="Time the native backend beside others.")
@click.argument("work", type=click.Choice(WORKS))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=2.0, show_default=True, help="For each size, about.")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write JSON.")
def bench(work: str, threads: int, seconds: float, file: Path | None) -> None:
    """Time one kind of WORK in one interleaved run: medians, spread, ratio and error."""
    from refgss.bench import run

    try:
        report = run(work, threads=threads, seconds=seconds)
    except ValueError as e:
        raise click.UsageError(str(e)) from e
    click.echo(report.table())
    if file:
        file.write_text(report.json() + "\n", "utf-8")
