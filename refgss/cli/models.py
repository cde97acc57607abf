"""What the commands on models share: which model, which backend, how many threads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import click

from refgss.cli.terminal import note
from refgss.conformance.candidates.claims import CandidateError
from refgss.conformance.candidates.targets import ALIASES, import_backend
from refgss.model import Checkpoint, load_checkpoint
from refgss.model.session import default_backend
from refgss.model.text import BUNDLED


def model_and_rest(arguments: tuple[str, ...]) -> tuple[Checkpoint, tuple[str, ...]]:
    """The model, if the first argument ends in .safetensors, else the bundled one; the rest."""
    if arguments and arguments[0].endswith(".safetensors"):
        return load_checkpoint(arguments[0]), arguments[1:]
    if not BUNDLED.exists():
        raise click.UsageError(
            "no model is bundled with this installation: name a file that ends in .safetensors, or "
            "make one with `refgss train`"
        )
    return load_checkpoint(BUNDLED), arguments


def backend_options(command: Callable) -> Callable:
    """--backend and --threads."""
    command = click.option(
        "--threads",
        type=click.IntRange(1, 1024),
        help="Threads of the native backend. Default: one per core.",
    )(command)
    return click.option(
        "--backend",
        type=click.Choice(list(ALIASES)),
        help="Backend to compute with. Default: native if it is built, otherwise reference.",
    )(command)


def usable_backend(alias: str | None, threads: int | None) -> Any:
    """The module; a note says so where it is NumPy for want of the native one.

    Raises UsageError where it cannot be imported.
    """
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            module = import_backend(alias) if alias else default_backend()
    except CandidateError as e:
        raise click.UsageError(str(e)) from e
    for warning in said:
        note(str(warning.message))
    if threads is not None:
        if not hasattr(module, "set_num_threads"):
            raise click.UsageError(f"--threads is for the native backend, not {module.__name__}")
        module.set_num_threads(threads)
    return module
