"""What each function of the reference moves: the spectra by which an error is located.

A result is a vector and one of its outputs.  spec/signatures.json says which vectors run each
statement of a function (`lines`) and which results change when what the function returns changes
(`moves`); a statement moves the results that are in both.  Sets of results are numbers, bit i
standing for result i, so that they are compared in no time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from refgss.conformance.vectors.format import Vector
from refgss.standard import spec_folder

Result = tuple[str, str]  # the id of a vector, the name of an output


@dataclass(frozen=True)
class Slices:
    """By function, `file.function`, what each of its statements moves, no set twice."""

    place: Mapping[Result, int]  # the bit of each result
    moved: Mapping[str, Sequence[int]]

    def bits(self, results: Iterable[Result]) -> int:
        """The set of those results that are known."""
        return sum(1 << self.place[r] for r in set(results) if r in self.place)

    def likeness(self, wrong: int, asked: int) -> dict[str, float]:
        """By function Ochiai's measure, hits/√(moved · wrong), of its likeliest statement."""
        found = {}
        for function, sets in self.moved.items():
            best = max((ochiai(wrong, moved & asked) for moved in sets), default=0.0)
            if best:
                found[function] = best
        return found


def ochiai(wrong: int, moved: int) -> float:
    hits = (wrong & moved).bit_count()
    return hits / math.sqrt(wrong.bit_count() * moved.bit_count()) if hits else 0.0


def results(ids: Sequence[str], vectors: Iterable[Vector]) -> list[Result]:
    """The results of vectors in the order of their bits."""
    by_id = {v.id: v for v in vectors}
    return [(id, output) for id in ids for output in outputs_of(by_id[id])]


def outputs_of(v: Vector) -> tuple[str, ...]:
    """What can be wrong in an answer; of a refusal, that it is none."""
    return tuple(v.expected) or ("",)


def of_signatures(content: Mapping[str, Any], vectors: Iterable[Vector]) -> Slices:
    """The slices of spec/signatures.json.  A refusal is moved by whatever runs before it."""
    ids = content["vectors"]
    order = results(ids, vectors)
    whole, refusals = dict.fromkeys(ids, 0), 0  # the results of each vector; those of refusals
    for i, (id, output) in enumerate(order):
        whole[id] |= 1 << i
        refusals |= 0 if output else 1 << i
    moved = {}
    for function, lines in content.get("lines", {}).items():
        moves = int(content["moves"][function], 16) | refusals
        run = (sum(whole[ids[i]] for i in set_bits(int(bits, 16))) for bits in lines)
        moved[function] = tuple({moves & ran for ran in run} - {0})
    return Slices({r: i for i, r in enumerate(order)}, moved)


def set_bits(bits: int) -> Iterator[int]:
    return (i for i, bit in enumerate(reversed(f"{bits:b}")) if bit == "1")


def read() -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads((spec_folder() / "signatures.json").read_text("utf-8"))
    return content


@cache
def published_slices(vectors: tuple[Vector, ...]) -> Slices:
    """Those of the published signatures; none where the vectors are others."""
    content = read()
    if not {v.id for v in vectors}.issuperset(content["vectors"]):
        return Slices({}, {})
    return of_signatures(content, vectors)


def published_moves(vectors: Iterable[Vector]) -> dict[str, frozenset[Result]]:
    """By function the results that it moves."""
    content = read()
    order = results(content["vectors"], vectors)
    return {
        function: frozenset(order[i] for i in set_bits(int(bits, 16)))
        for function, bits in content.get("moves", {}).items()
    }
