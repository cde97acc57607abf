"""Whether the vectors ask enough: every op, argument and option, said in one sentence each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from refgss.conformance.vectors.format import Vector
from refgss.ops import OPS, SCALARS, SCORES, decode_option, never_returned

ONE_SIZE = {"length"}  # options that are no choice: they follow from the shapes


def complaints(vectors: Iterable[Vector]) -> list[str]:
    """What no vector asks, although an implementation could get it wrong."""
    vectors = list(vectors)
    return [*not_refused(vectors), *not_varied(vectors), *not_judged(vectors)]


def not_refused(vectors: Iterable[Vector]) -> Iterator[str]:
    """Each tensor of each op stands in a vector that must be refused."""
    refused: dict[str, set[str]] = defaultdict(set)
    for v in vectors:
        if v.error:
            refused[v.op] |= {part for name in v.tensors for part in (name, name.split(".")[0])}
    for op, row in OPS.items():
        free = all(axes == "..." for axes in row.axes.values())  # nothing that could be wrong
        for name in sorted(row.axes.keys() - refused[op]) if not free else ():
            yield f"{op}: no vector with a bad {name} must be refused"


def not_varied(vectors: Iterable[Vector]) -> Iterator[str]:
    """Each option of each op has two values at least in vectors that must be computed."""
    found: dict[tuple[str, str], set[Any]] = defaultdict(set)
    for v in vectors:
        for name, value in v.options.items():
            if (name in SCALARS or v.op not in OPS) and not v.error:
                for path, x in leaves(name, decode_option(v.op, name, value)):
                    found[v.op, path].add(x if isinstance(x, Hashable) else repr(x))
    for (op, path), values in found.items():
        chosen = values - {None}
        if len(chosen) < 2 and chosen:
            yield f"{op}: {path} is {chosen.pop()!r} in every vector: ask another value too"


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The options inside a config, by their paths; a layer's path names its kind."""
    if not is_dataclass(value):
        yield name, value
        return
    for field in fields(value):
        inner = getattr(value, field.name)
        label = field.name
        if label == "layer":
            label = type(inner).__name__.removesuffix("Config").lower()
        yield from leaves(f"{name}.{label}", inner)


def not_judged(vectors: Iterable[Vector]) -> Iterator[str]:
    """Where a vector judges some outputs only, another one with the same input judges all."""
    whole = {v.id for v in vectors}
    for v in vectors:
        if v.op in SCORES:  # whose vectors judge all outputs; a list of texts may be empty
            continue
        names = {name.split(".")[0] for name in v.expected}
        due = set(OPS[v.op].outputs) - never_returned(v.tensors)
        if not v.error and names != due and f"{v.id}-whole" not in whole:
            yield f"{v.id}: {min(due - names)} is not judged, and there is no {v.id}-whole"
