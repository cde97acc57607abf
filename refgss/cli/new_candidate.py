"""`refgss check --new-candidate FILE`: a candidate to start from, in the language of the file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from refgss.cli import terminal
from refgss.files import atomic_write
from refgss.standard import header_file

FRAMEWORKS = ("numpy", "torch", "jax")  # of a candidate in Python
COMPILED = {
    ".c": "cc -O2 -shared -fPIC -I{include} {file} -o {library} -lm",
    ".rs": "rustc --edition 2021 -O --crate-type cdylib {file} -o {library}",
}


def write_candidate(path: Path, framework: str) -> None:
    """Write the candidate and say how it is checked.  Raises UsageError, and writes nothing, where
    there is a file already or none for its language."""
    if path.exists():
        raise click.UsageError(f"{path} exists: choose another name")
    suffix = path.suffix
    if suffix not in (".py", ".mjs", *COMPILED):
        raise click.UsageError(
            f"{path} does not end in .py, .c, .rs or .mjs, by which its language is told"
        )
    if suffix != ".py" and framework != "numpy":
        raise click.UsageError(f"--framework is for Python, and {path} is not")
    name = f"{framework}_gss.py" if suffix == ".py" else f"gss{suffix}"
    folder = files("refgss.conformance.candidates").joinpath("templates")
    atomic_write(path, folder.joinpath(name).read_bytes())
    terminal.say(f"wrote {path}; now run:")
    for command in commands(path):
        terminal.say(f"  {command}")


def commands(path: Path) -> list[str]:
    """What checks the candidate."""
    if path.suffix == ".py":
        return [f"refgss check --candidate python:{path}"]
    if path.suffix == ".mjs":
        return [f"refgss check --candidate 'cmd:node {path}'"]
    library = path.with_name(f"lib{path.stem}.so")
    build = COMPILED[path.suffix].format(include=header_file().parent, file=path, library=library)
    return [build, f"refgss check --candidate lib:{library.absolute()}"]
