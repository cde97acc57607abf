"""`refgss bench`: refgss.bench on the command line."""

from __future__ import annotations

import click


@click.command()
def bench() -> None:
    """Time the native backend against the libraries that are installed."""
    raise click.UsageError("benchmarks are not part of this installation")
