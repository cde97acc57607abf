"""Mutants: the reference with one named error of meaning each, as one substitution in a function.

The tables are `mutants.toml` and, of scores, `mutants_scores.toml`.  A mutant is loaded as a module
with all ops, and runs as a candidate:
`refgss check --candidate python:refgss.conformance.selftest.mutants:gelu_tanh`.
A conformance suite is as good as the mutants that it rejects; `kills.py` measures that.
"""

from __future__ import annotations

import ast
import importlib
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.resources import files
from importlib.util import spec_from_loader
from types import CodeType, ModuleType
from typing import Any

from refgss.conformance import PRECISIONS
from refgss.conformance.selftest.substitution import find, functions, replaced, with_function

REFERENCE, SCORES = "refgss.reference", "refgss.scores"
OF_SCORES = "scores/"  # in front of the names of their files


@dataclass(frozen=True)
class Mutant:
    """One substitution: `before`, which occurs once in a function, becomes `after`.

    clause      the clause that it violates.
    function    of the reference or of `refgss.checks`; `file.function` where two have that name.
    before      Python, as `after`: an expression or statements, compared as syntax trees.
    note        what it does, and where that has been seen or why it is likely.
    of_scores   whether the function is one of `refgss.scores`.
    precisions  where it differs from the reference at all; all of them unless the note says why.
    """

    name: str
    clause: str
    function: str
    before: str
    after: str
    note: str
    precisions: tuple[str, ...] = PRECISIONS
    of_scores: bool = False

    @property
    def place(self) -> tuple[str, str]:
        """The file, without .py, and the function.  Raises ValueError where there is none."""
        own = {k: t for k, t in trees().items() if k.startswith(OF_SCORES) == self.of_scores}
        return find(own, self.function)


@cache
def declared() -> Mapping[str, Mutant]:
    """All mutants by name, in the order of the tables."""
    layers, scores = (
        tomllib.loads(text("refgss.conformance.selftest", name))
        for name in ("mutants.toml", "mutants_scores.toml")
    )
    if twice := sorted(layers.keys() & scores.keys()):
        raise ValueError(f"two mutants are named {twice[0]}: give one of them another name")
    table = layers | {
        name: {"precisions": ["f64"], "of_scores": True, **row} for name, row in scores.items()
    }
    return {
        name: Mutant(name, **{k: frozen(v) for k, v in fields.items()})
        for name, fields in table.items()
    }


def frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@cache
def text(package: str, file: str) -> str:
    return files(package).joinpath(file).read_text("utf-8")


@cache
def sources() -> Mapping[str, str]:
    """The sources that a mutant copies, by file name without .py; of scores as scores/NAME."""
    found: dict[str, str] = {}
    for package, prefix in ((REFERENCE, ""), (SCORES, OF_SCORES)):
        names = [f.name for f in files(package).iterdir() if f.name.endswith(".py")]
        found |= {prefix + n.removesuffix(".py"): text(package, n) for n in sorted(names)}
    return found | {"checks": text("refgss", "checks.py")}


@cache
def trees() -> Mapping[str, ast.Module]:
    return {stem: ast.parse(text) for stem, text in sources().items()}


@lru_cache(maxsize=64)
def compiled(text: str) -> CodeType:
    """Most files of a mutant are those of all others, and compiled once."""
    return compile(text, "<mutant>", "exec", dont_inherit=True)


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

    def get_code(self, fullname: str) -> CodeType:
        return compiled(self.modules[fullname])

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
    try:
        stem, name = mutant.place
        function = replaced(functions(trees())[stem, name], mutant.before, mutant.after)
    except ValueError as e:
        raise ValueError(f"{mutant.name}: {e}: adapt the table") from e
    texts = {**sources(), stem: with_function(trees()[stem], function)}
    return copy(f"mutant_{mutant.name}", texts, mutant.of_scores)


def copy(name: str, texts: Mapping[str, str], scores: bool = False) -> ModuleType:
    """The reference's texts as a package of another name, that imports nothing of the original.

    With `scores` those of the scores, which share the reference's elementary functions.
    """
    if scores:
        mine = {k.removeprefix(OF_SCORES): t for k, t in texts.items() if k.startswith(OF_SCORES)}
        own = {stem: text.replace(SCORES, name) for stem, text in mine.items()}
        return Package(name, own).load()
    texts = {stem: text for stem, text in texts.items() if not stem.startswith(OF_SCORES)}
    own = {
        stem: text.replace(f"from {REFERENCE}.", "from .")
        .replace("from refgss import checks", "from . import checks")
        .replace(REFERENCE, name)
        for stem, text in texts.items()
    }
    return Package(name, own).load()


def __getattr__(name: str) -> ModuleType:
    if name.startswith("__") or name not in declared():
        raise AttributeError(f"there is no mutant {name!r}")
    return load(declared()[name])
