"""Shrinking: from a failing vector to the smallest one that fails in the same way.

Axes are cut, numbers lose digits, and every step is certified anew, so that what is left is a valid
vector that can be saved, replayed, and read by a person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refgss.conformance.candidates import Candidate
from refgss.conformance.compare import Outcome
from refgss.conformance.ops import is_complex
from refgss.conformance.report import ratio_of
from refgss.conformance.runner import Question, Record, ask
from refgss.conformance.vectors import Vector

MOST_STEPS = 300  # tries in all: each costs one certification and one answer
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


def lengths(v: Vector) -> list[int]:
    """The lengths of all axes, longest first; the two parts of a complex number are no axis."""
    found = {
        n for name, x in v.tensors.items() for n in x.shape[: -1 if is_complex(name) else None]
    }
    return sorted(found | {v.options.get("length", 0)}, reverse=True)


def cut(v: Vector, n: int, part: slice) -> Vector:
    """The vector with every axis of length n cut to a part of it.

    Axes that mean the same have the same length, so they are cut together.  Where others happen to
    have that length too, the result may make no sense; certification then refuses it.
    """
    m = len(range(n)[part])
    tensors = {}
    for name, x in v.tensors.items():
        parts = 1 if is_complex(name) else 0
        axes = x.shape[: x.ndim - parts]
        tensors[name] = np.array(x[tuple(part if size == n else slice(None) for size in axes)])
    if len(v.tensors.get("params.embedding.weight", ())) == n:  # fewer words
        tensors |= {k: np.minimum(x, m - 1) for k, x in tensors.items() if x.dtype.kind == "i"}
    options = dict(v.options)
    if options.get("length") == n:
        options["length"] = m
    if "splits" in options:
        options["splits"] = [min(s, m) for s in options["splits"]]
    return replace(v, tensors=tensors, options=options)


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """x with so many significant bits."""
    mantissa, exponent = np.frexp(x)
    scale = 2.0**bits
    return np.asarray(np.ldexp(np.trunc(mantissa * scale) / scale, exponent) + 0, x.dtype)  # no -0


def smaller(v: Vector) -> Iterator[Vector]:
    """Simpler vectors, boldest first."""
    for n in lengths(v):
        for m in sorted({1, n // 2, n - 1} & set(range(1, n))):
            yield cut(v, n, slice(m))
            yield cut(v, n, slice(n - m, n))
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
            steps += 1
            certified = certify_again(replace(simpler, id=id))
            if certified is not None and fails(certified):
                found, progress = certified, True
                break
            if steps >= MOST_STEPS:
                break
    return found


def certify_again(v: Vector) -> Vector | None:
    """The vector with expected values of its own; None where the op refuses it."""
    from refgss.conformance.build import vector
    from refgss.conformance.cases import Case

    try:
        return vector(
            Case(
                id=v.id,
                op=v.op,
                clauses=v.clauses,
                tensors=dict(v.tensors),
                options=dict(v.options),
                layer_profile=v.layer_profile,
                outputs=tuple(v.expected),
            )
        )
    except (ValueError, TypeError, IndexError, ZeroDivisionError):
        return None


def can_shrink(v: Vector) -> bool:
    """Vectors that demand a refusal, hold NaN, or are judged at samples are left as they are."""
    return (
        bool(v.expected)
        and all(e.at is None for e in v.expected.values())
        and all(np.all(np.isfinite(x)) for x in v.tensors.values())
    )


def counterexamples(
    candidate: Candidate, questions: Sequence[Question], records: Sequence[Record]
) -> dict[str, tuple[Vector, Record]]:
    """For each op that fails, its worst failure made small, and the record of that."""
    worst: dict[str, tuple[Question, Record]] = {}
    for question, record in zip(questions, records, strict=True):
        op = question.vector.op
        if record["outcome"] in WORTH_IT and can_shrink(question.vector):
            if op not in worst or ratio_of(record) > ratio_of(worst[op][1]):
                worst[op] = question, record
    found = {}
    for op, (question, record) in worst.items():

        def asked(v: Vector, question: Question = question) -> Record:
            return ask(candidate, replace(question, vector=v))

        def fails(v: Vector, outcome: str = record["outcome"]) -> bool:
            return bool(asked(v)["outcome"] == outcome)

        small = shrink(question.vector, fails)
        found[op] = small, asked(small)
    return found


def shown(v: Vector) -> str:
    """The inputs of a vector on one line, or how many numbers they are."""
    values: Mapping[str, Any] = {k: x.tolist() for k, x in v.tensors.items()} | dict(v.options)
    text = ", ".join(f"{k} = {value}" for k, value in values.items())
    return text if len(text) < 600 else f"{sum(x.size for x in v.tensors.values())} numbers"
