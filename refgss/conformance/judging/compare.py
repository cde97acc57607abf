"""Judging an answer: error/budget against the proven value; outcomes that are never confused."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from refgss.conformance.vectors.format import Expected, Vector
from refgss.ops import CONTRACT, FLOATS, INTEGER, SCORES, TEXT, exact_kind, never_returned
from refgss.text import printable


class Outcome(StrEnum):
    PASS = "pass"
    WRONG_VALUE = "wrong value"
    NON_FINITE = "non-finite"
    WRONG_SHAPE = "wrong shape"
    WRONG_DTYPE = "wrong dtype"
    RAISED = "raised"
    ACCEPTED = "accepted bad input"
    CRASHED = "crashed"
    TIMED_OUT = "timed out"
    GARBAGE = "garbage"
    OUT_OF_ORDER = "out of order"
    WRONG_FRESH = "wrong on fresh input"
    WROTE = "wrote elsewhere"
    ADVICE = "advice"
    UNCLAIMED = "not claimed"
    WAIVED = "waived"


# all others are failures
NEUTRAL = frozenset({Outcome.PASS, Outcome.ADVICE, Outcome.UNCLAIMED, Outcome.WAIVED})
BROKEN = frozenset({Outcome.GARBAGE, Outcome.OUT_OF_ORDER})  # the candidate left the protocol


@dataclass(frozen=True)
class Outputs:
    """What the candidate computed, by output name, in real layout."""

    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Failure:
    """Why the candidate gave no outputs."""

    outcome: Outcome
    message: str


Answer = Outputs | Failure

MANY = 8  # so many values do not fit a narrow type by chance


@dataclass(frozen=True)
class Finding:
    """The judgement of an answer: `ratio` is the worst error/budget, the rest says where it is."""

    outcome: Outcome
    detail: str = ""
    output: str | None = None
    ratio: float | None = None
    index: tuple[int, ...] | None = None
    got: float | None = None
    expected: float | None = None
    budget: float | None = None
    wrong: tuple[str, ...] = ()  # every output that fails

    @property
    def failed(self) -> bool:
        return self.outcome not in NEUTRAL


def judge(vector: Vector, answer: Answer, precision: str) -> Finding:
    """Compare an answer with what the vector proves.  Clauses: GSS-ACC-1, GSS-CNF-6."""
    if isinstance(answer, Failure):
        if vector.error and answer.outcome is Outcome.RAISED:
            return Finding(Outcome.PASS, answer.message)
        return Finding(answer.outcome, answer.message)
    if vector.error:
        return Finding(Outcome.ACCEPTED, "the input is not valid, and it was computed all the same")
    got = answer.arrays
    if trouble := other_names(vector, got.keys()):
        return Finding(Outcome.WRONG_SHAPE, trouble)
    judged = [judge_output(n, e, got[n], vector, precision) for n, e in vector.expected.items()]
    worst = max(judged, key=lambda f: (SEVERITY.index(f.outcome), f.ratio or 0))
    return replace(worst, wrong=tuple(f.output for f in judged if f.failed and f.output))


# where outputs differ in outcome the last of these speaks for the case
SEVERITY = [
    Outcome.PASS,
    Outcome.WRONG_VALUE,
    Outcome.NON_FINITE,
    Outcome.WRONG_DTYPE,
    Outcome.WRONG_SHAPE,
]


def other_names(vector: Vector, got: Set[str]) -> str | None:
    """What is missing or has no place; a vector may ask for some outputs of its op only."""
    wanted = vector.expected.keys()
    if missing := sorted(wanted - got):
        return f"the output {missing[0]} is missing"
    known = set(CONTRACT[vector.op].outputs) - never_returned(vector.tensors)
    in_parts = {name.split(".")[0] for name in wanted if "." in name}  # all parts are wanted
    free = set() if vector.op in SCORES else known - in_parts  # of scores all outputs are wanted
    surplus = {name for name in got - wanted if name.split(".")[0] not in free}
    return f"the output {min(surplus)} is not due here" if surplus else None


def judge_output(
    name: str, want: Expected, got: np.ndarray, vector: Vector, precision: str
) -> Finding:
    """One output: its shape, its type, then its worst element.  Clauses: GSS-ARR-1, GSS-ARR-2."""
    kind = exact_kind(vector.op, name)
    if kind == TEXT:
        return judge_text(name, want, got)
    if got.shape != want.full_shape:
        return Finding(
            Outcome.WRONG_SHAPE, f"{name} has shape {got.shape}, not {want.full_shape}", name
        )
    if kind == INTEGER:
        if got.dtype.kind not in "iu":
            return Finding(Outcome.WRONG_DTYPE, f"{name} is {got.dtype}, not an integer type", name)
    wanted = np.dtype(FLOATS[precision])
    # an op without tensors is not told a precision, so binary64 is welcome
    free = kind == INTEGER or (not vector.tensors and got.dtype == np.float64)
    if got.dtype != wanted and not free:
        return Finding(Outcome.WRONG_DTYPE, f"{name} is {got.dtype}, not {wanted}", name)
    values = (got if want.at is None else got.ravel()[want.at]).astype(np.float64)
    ratio = error_ratio(values, want, precision)
    if not ratio.size:
        return Finding(Outcome.PASS, output=name)
    worst = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    where = worst if want.at is None else np.unravel_index(int(want.at[worst]), want.full_shape)
    finding = Finding(
        Outcome.PASS,
        output=name,
        ratio=float(ratio[worst]),
        index=tuple(int(i) for i in where),
        got=float(values[worst]),
        expected=float(want.hi[worst]),
        budget=float(want.budget[precision][worst]),
    )
    if ratio[worst] <= 1:
        return finding
    outcome, detail = Outcome.WRONG_VALUE, narrow_hint(values, want.hi, precision)
    if np.any(~np.isfinite(values) & np.isfinite(want.hi) & (ratio > 1)):
        outcome, detail = Outcome.NON_FINITE, f"{name} has NaN or infinity where a number belongs"
    elif np.isnan(want.hi[worst]):
        detail = f"{name} must be NaN here"
    return Finding(**{**vars(finding), "outcome": outcome, "detail": detail})


def judge_text(name: str, want: Expected, got: np.ndarray) -> Finding:
    """A text: its bytes in UTF-8, all of them."""
    if got.dtype != np.uint8 or got.ndim != 1:
        return Finding(Outcome.WRONG_DTYPE, f"{name} is {got.dtype} {got.shape}, no text", name)
    due = want.hi.astype(np.uint8)
    if np.array_equal(got, due):
        return Finding(Outcome.PASS, output=name, ratio=0.0)
    told = [repr(printable(x.tobytes().decode("utf-8", "replace"))) for x in (got, due)]
    return Finding(Outcome.WRONG_VALUE, f"{name} is {told[0]}, not {told[1]}", name, np.inf)


def error_ratio(values: np.ndarray, want: Expected, precision: str) -> np.ndarray:
    """|(got - hi) - lo| / budget, element by element; 0/0 is 0, and what must be NaN is 0 or ∞."""
    budget = want.budget[precision]
    with np.errstate(all="ignore"):
        equal = values == want.hi  # infinities too, whose difference is NaN
        error = np.where(equal, np.abs(want.lo), np.abs((values - want.hi) - want.lo))
        ratio = np.where(error == 0, 0.0, error / budget)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    ratio = np.where(np.isnan(want.hi), np.where(np.isnan(values), 0.0, np.inf), ratio)
    return np.where(np.isinf(budget), 0.0, ratio)


def narrow_hint(values: np.ndarray, truth: np.ndarray, precision: str) -> str:
    """A sentence if all values, and they are many, fit a narrower type that the truth does not."""
    if np.count_nonzero(values) < MANY:
        return ""
    for name in ("bfloat16", "float16") + (("float32",) if precision == "f64" else ()):
        if fits(values, name) and not fits(truth, name):
            return f"every value is exactly representable in {name}: was it computed in {name}?"
    return ""


def fits(x: np.ndarray, name: str) -> bool:
    with np.errstate(all="ignore"):
        if name == "bfloat16":
            low = x.astype(np.float32)
            exact = bool(np.all(low.view(np.uint32) & 0xFFFF == 0))
            return exact and np.array_equal(low, x, equal_nan=True)
        return np.array_equal(x.astype(name), x, equal_nan=True)
