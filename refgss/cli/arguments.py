"""Arguments that several commands take: names with the nearest one suggested, files, amounts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from refgss.conformance.clauses import read_clauses
from refgss.ops import CONTRACT
from refgss.standard import spec_folder

LONGEST = 80  # characters of a name that are compared with those that are known
REPORT = click.Path(path_type=Path, dir_okay=False, exists=True)
FOLDER = click.Path(path_type=Path, file_okay=False)


def nearest(name: str, known: Iterable[str]) -> str:
    """A question for the name that was probably meant, or nothing where none is near."""
    by_lower = {x.lower(): x for x in known}
    found = get_close_matches(name[:LONGEST].lower(), by_lower, 1, cutoff=0.5)
    return f"did you mean {by_lower[found[0]]}? " if found else ""


class Name(click.ParamType):
    """One of many names; `listing` says which command lists them."""

    def __init__(self, kind: str, known: Callable[[], Iterable[str]], listing: str):
        self.name, self.known, self.listing = kind, known, listing

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> str:
        known = list(self.known())
        for name in known:
            if name.lower() == value.lower():
                return name
        sentence = (
            f"there is no {self.name} {value}: {nearest(value, known)}`{self.listing}` lists them"
        )
        return self.fail(sentence, param, context)


OP = Name("op", lambda: CONTRACT, "refgss spec --ops")
CLAUSE = Name("clause", lambda: read_clauses(spec_folder()), "refgss spec --list")


class Target(click.Path):
    """A file to write: refused at once, not after an hour, where its folder is not there."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False, writable=True)

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, context)))
        if not path.parent.is_dir():
            self.fail(f"the folder {path.parent} does not exist: create it first", param, context)
        if not path.exists() and not os.access(path.parent, os.W_OK):
            self.fail(f"the folder {path.parent} cannot be written", param, context)
        return path


class Amount(click.FloatRange):
    """A positive number."""

    def __init__(self) -> None:
        super().__init__(0, min_open=True)

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> Any:
        x = super().convert(value, param, context)
        return x if math.isfinite(x) else self.fail(f"{value} is no number", param, context)
