"""What an honest variant is, and how it is loaded.

A variant stands in for functions of the reference, in a copy of it, so that gradients, layers and
models are computed with it too; or it is a module of its own, with the ops that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from refgss.conformance.selftest.mutants import copy, sources

Function = tuple[str, str]  # file of the reference without .py, name


@dataclass(frozen=True)
class Rejection:
    """A clause that a well-known algorithm does not satisfy, in some ops, and why."""

    clause: str
    ops: tuple[str, ...]
    reason: str
    precisions: tuple[str, ...] = ("f32", "f64")


@dataclass(frozen=True)
class Variant:
    """Another way to compute the same.

    functions   what stands in for which function of the reference; empty for a module of its own.
    module      the module of its own; None for a copy of the reference.
    rejections  what the standard does not grant it: everything else must pass.
    """

    name: str
    note: str
    functions: Mapping[Function, Callable[..., Any]]
    precisions: tuple[str, ...]
    rejections: tuple[Rejection, ...] = ()
    module: Callable[[], Any] | None = None

    def rejected(self, op: str, precision: str) -> Rejection | None:
        """The declared rejection of this variant in an op, if there is one."""
        return next((r for r in self.rejections if op in r.ops and precision in r.precisions), None)


VARIANTS: dict[str, Variant] = {}


def instead_of(
    *targets: str,
    precisions: tuple[str, ...] = ("f32", "f64"),
    rejections: tuple[Rejection, ...] = (),
) -> Callable[..., Any]:
    """Declare a function as a variant of the reference's FILE.FUNCTION, honest at `precisions`.

    For several targets the decorated function is given each name and returns what stands in for it.
    """

    def declare(function: Any) -> Any:
        places = [(file, name) for file, _, name in (t.partition(".") for t in targets)]
        functions = {
            place: function if len(places) == 1 else function(place[1]) for place in places
        }
        name, note = function.__name__, first_line(function)
        VARIANTS[name] = Variant(name, note, functions, precisions, rejections)
        return function

    return declare


def of_its_own(
    needs: str, precisions: tuple[str, ...] = ("f32", "f64"), rejections: tuple[Rejection, ...] = ()
) -> Callable[..., Any]:
    """Declare a function that returns a module as a variant, where the package `needs` is there."""

    def declare(function: Any) -> Any:
        if find_spec(needs):
            name = function.__name__
            VARIANTS[name] = Variant(
                name, first_line(function), {}, precisions, rejections, function
            )
        return function

    return declare


def first_line(function: Any) -> str:
    return str((function.__doc__ or "").strip().splitlines()[0])


def load(variant: Variant) -> Any:
    """The variant's module, or the reference with the variant's functions in place of its own."""
    if variant.module is not None:
        return variant.module()
    texts = dict(sources())
    for file, function in variant.functions:
        texts[file] += (
            f"\n\nfrom {__package__} import VARIANTS\n"
            f'{function} = VARIANTS["{variant.name}"].functions["{file}", "{function}"]\n'
        )
    return copy(f"variant_{variant.name}", texts)
