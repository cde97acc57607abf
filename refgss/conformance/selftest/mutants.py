"""Mutants: the reference with one named error of meaning each, as one substitution in its source.

The table is `mutants.toml`.  A mutant is loaded as a module with all ops, and runs as a candidate:
`refgss check --candidate python:refgss.conformance.selftest.mutants:gelu_tanh`.
A conformance suite is as good as the mutants that it rejects; `kills.py` measures that.
"""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.resources import files
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

from refgss.conformance import PRECISIONS

REFERENCE = "refgss.reference"


@dataclass(frozen=True)
class Mutant:
    """One substitution: `before`, which occurs once in the source `file`, becomes `after`.

    clause      the clause that it violates.
    note        what it does, and where that has been seen or why it is likely.
    precisions  where it differs from the reference at all; all of them unless the note says why.
    """

    name: str
    clause: str
    file: str  # of the reference, without .py; or "checks"
    before: str
    after: str
    note: str
    precisions: tuple[str, ...] = PRECISIONS


@cache
def declared() -> Mapping[str, Mutant]:
    """All mutants by name, in the order of the table."""
    table = tomllib.loads(text("refgss.conformance.selftest", "mutants.toml"))
    mutants = [
        Mutant(name=name, file=file, **{k: frozen(v) for k, v in fields.items()})
        for file, entries in table.items()
        for name, fields in entries.items()
    ]
    by_name = {m.name: m for m in mutants}
    assert len(by_name) == len(mutants), "two mutants share a name"
    return by_name


def frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@cache
def text(package: str, file: str) -> str:
    return files(package).joinpath(file).read_text("utf-8")


@cache
def sources() -> Mapping[str, str]:
    """The sources that a mutant copies, by file name without .py."""
    names = [f.name for f in files(REFERENCE).iterdir() if f.name.endswith(".py")]
    found = {name.removesuffix(".py"): text(REFERENCE, name) for name in sorted(names)}
    return found | {"checks": text("refgss", "checks.py")}


class Package(MetaPathFinder, InspectLoader):
    """A package made of texts, importable while it is on sys.meta_path."""

    def __init__(self, name: str, texts: Mapping[str, str]):
        self.name = name
        self.modules = {f"{name}.{stem}": text for stem, text in texts.items()}
        self.modules[name] = self.modules.pop(f"{name}.__init__")

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in self.modules else None

    def is_package(self, fullname: str) -> bool:
        return fullname == self.name

    def get_source(self, fullname: str) -> str:
        return self.modules[fullname]

    def load(self) -> ModuleType:
        sys.meta_path.insert(0, self)
        try:
            return importlib.import_module(self.name)
        finally:
            sys.meta_path.remove(self)
            for module in self.modules:
                sys.modules.pop(module, None)


def load(mutant: Mutant) -> ModuleType:
    """The mutated reference.  Raises ValueError where `before` does not occur exactly once."""
    texts = dict(sources())
    if (times := texts[mutant.file].count(mutant.before)) != 1:
        raise ValueError(
            f"{mutant.name}: its text occurs {times} times in {mutant.file}.py: adapt the table"
        )
    texts[mutant.file] = texts[mutant.file].replace(mutant.before, mutant.after)
    return copy(f"mutant_{mutant.name}", texts)


def copy(name: str, texts: Mapping[str, str]) -> ModuleType:
    """The reference's texts as a package of another name, that imports nothing of the original."""
    own = {
        stem: text.replace(REFERENCE, name).replace(
            "from refgss import checks", f"from {name} import checks"
        )
        for stem, text in texts.items()
    }
    return Package(name, own).load()


def __getattr__(name: str) -> ModuleType:
    if name.startswith("__") or name not in declared():
        raise AttributeError(f"there is no mutant {name!r}")
    return load(declared()[name])
