"""Shrinking: from a failing vector to the smallest one that fails in the same way.

Axes are cut, numbers lose digits, and every step is certified anew, so that what is left is a valid
vector that can be saved, replayed, and read by a person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from refgss.conformance.candidates.claims import Candidate
from refgss.conformance.judging.compare import Outcome
from refgss.conformance.judging.procedures import SEQUENCES
from refgss.conformance.judging.runner import Question, Record, ask
from refgss.conformance.reports.report import ratio_of
from refgss.conformance.vectors.format import Vector
from refgss.ops import is_complex

MOST_STEPS = 300  # tries in all: each costs one certification and one answer
FEW_AXES = 5
LONG = 64  # an axis that is cut to small parts at once
MOST_NUMBERS = 4096  # of inputs that are certified: a sampled vector is cut below that first
CLEARLY = 10.0  # error/budget below which what is simpler convinces less
DIGITS = (0, 1, 4, 11)  # significant bits that numbers are cut to; 0 bits is zero
# not crashes and time-outs: a process that keeps dying is not asked for ever
WORTH_IT = frozenset(
    {
        Outcome.WRONG_VALUE,
        Outcome.WRONG_FRESH,
        Outcome.NON_FINITE,
        Outcome.WRONG_SHAPE,
        Outcome.WRONG_DTYPE,
        Outcome.RAISED,
    }
)


Axes = frozenset[tuple[str, int]]  # tensor and position; ("length", 0) is the option


def axes_of(v: Vector) -> dict[int, Axes]:
    """All axes by their length, longest first; the two parts of a complex number are no axis."""
    found: dict[int, set[tuple[str, int]]] = {v.options.get("length", 0): {("length", 0)}}
    for name, x in v.tensors.items():
        for i, n in enumerate(x.shape[: -1 if is_complex(name) else None]):
            found.setdefault(n, set()).add((name, i))
    return {n: frozenset(found[n]) for n in sorted(found, reverse=True)}


def groups(axes: Axes) -> Iterator[Axes]:
    """What to cut together: axes that mean the same have the same length, so all of them; and if
    they are few, any of them, since others may happen to have that length too."""
    yield axes
    for size in range(1, len(axes) if len(axes) <= FEW_AXES else 0):
        yield from map(frozenset, combinations(sorted(axes), size))


def cut(v: Vector, axes: Axes, n: int, part: slice) -> Vector:
    """The vector with these axes of length n cut to a part; certification refuses nonsense."""
    m = len(range(n)[part])
    tensors = {
        name: np.array(x[tuple(part if (name, i) in axes else slice(None) for i in range(x.ndim))])
        for name, x in v.tensors.items()
    }
    if ("params.embedding.weight", 0) in axes:  # fewer words
        tensors |= {k: np.minimum(x, m - 1) for k, x in tensors.items() if x.dtype.kind == "i"}
    options = dict(v.options)
    if ("length", 0) in axes:
        options["length"] = m
    if "splits" in options:
        longest = max(x.shape[1] for name, x in tensors.items() if name in SEQUENCES)
        options["splits"] = [min(s, longest) for s in options["splits"]]
    return replace(v, tensors=tensors, options=options)


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """x with so many significant bits."""
    mantissa, exponent = np.frexp(x)
    scale = 2.0**bits
    return np.asarray(np.ldexp(np.trunc(mantissa * scale) / scale, exponent) + 0, x.dtype)  # no -0


def lengths(n: int) -> list[int]:
    """What an axis of length n is cut to: one, a half, one less, and of a long one small parts."""
    parts = {n >> k for k in range(2, n.bit_length(), 2)} if n > LONG else set()
    return sorted(m for m in {1, n // 2, n - 1} | parts if 0 < m < n)


def smaller(v: Vector) -> Iterator[Vector]:
    """Simpler vectors, boldest first."""
    for n, axes in axes_of(v).items():
        for group in groups(axes):
            for m in lengths(n):
                yield cut(v, group, n, slice(m))
                yield cut(v, group, n, slice(n - m, n))
    for i in range(len(v.options.get("splits", ()))):
        left = [s for j, s in enumerate(v.options["splits"]) if j != i]
        yield replace(v, options={**v.options, "splits": left})
    for name, x in v.tensors.items():
        for bits in DIGITS:
            simple = rounded(x, bits) if x.dtype.kind == "f" else np.zeros_like(x)
            if not np.array_equal(simple, x, equal_nan=True):
                yield replace(v, tensors={**v.tensors, name: simple})


def shrink(v: Vector, fails: Callable[[Vector], bool]) -> Vector:
    """The smallest vector found that still fails; `fails` is asked certified vectors only."""
    steps = 0
    found, id = v, f"{v.id}.shrunk"
    progress = True
    while progress and steps < MOST_STEPS:
        progress = False
        for simpler in smaller(found):
            certified = certify_again(replace(simpler, id=id))
            if certified is None:
                continue
            steps += 1
            if fails(certified):
                found, progress = certified, True
                break
            if steps >= MOST_STEPS:
                break
    return found


def certify_again(v: Vector) -> Vector | None:
    """The vector with expected values of its own; None where the op refuses it, or it is large."""
    if sum(x.size for x in v.tensors.values()) + v.options.get("length", 0) > MOST_NUMBERS:
        return None
    from refgss.conformance.vectors.build import vector
    from refgss.conformance.vectors.cases import Case

    case = Case(
        id=v.id,
        op=v.op,
        clauses=v.clauses,
        tensors=dict(v.tensors),
        options=dict(v.options),
        layer_profile=v.layer_profile,
        outputs=tuple(v.expected),
    )
    try:
        with np.errstate(all="ignore"):
            return vector(case)
    except (ValueError, TypeError, IndexError, ZeroDivisionError):
        return None


def can_shrink(v: Vector) -> bool:
    """Vectors that demand a refusal or hold NaN are left as they are."""
    return bool(v.expected) and all(np.all(np.isfinite(x)) for x in v.tensors.values())


def counterexamples(
    candidate: Candidate, questions: Sequence[Question], records: Sequence[Record]
) -> dict[str, tuple[Vector, Record]]:
    """For each op that fails, its worst failure made small, and the record of that."""
    worst: dict[str, tuple[Question, Record]] = {}
    for question, record in zip(questions, records, strict=True):
        op = question.vector.op
        if question.way is None and record["outcome"] in WORTH_IT and can_shrink(question.vector):
            if op not in worst or ratio_of(record) > ratio_of(worst[op][1]):
                worst[op] = question, record
    found = {}
    for op, (question, record) in worst.items():

        def asked(v: Vector, question: Question = question) -> Record:
            return ask(candidate, replace(question, vector=v))

        def fails(v: Vector, record: Record = record) -> bool:
            found = asked(v)
            clearly = ratio_of(found) >= min(CLEARLY, ratio_of(record))
            return bool(found["outcome"] == record["outcome"] and clearly)

        small = shrink(question.vector, fails)
        found[op] = small, asked(small)
    return found


def shown(v: Vector) -> str:
    """The inputs of a vector on one line, or how many numbers they are."""
    values: Mapping[str, Any] = {k: x.tolist() for k, x in v.tensors.items()} | dict(v.options)
    text = ", ".join(f"{k} = {value}" for k, value in values.items())
    return text if len(text) < 600 else f"{sum(x.size for x in v.tensors.values())} numbers"
