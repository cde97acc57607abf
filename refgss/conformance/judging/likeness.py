"""How like a failing candidate is to the named mutants, by failing tests and by wrong numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging.compare import Answer, Failure, error_ratio
from refgss.conformance.judging.runner import answer_to
from refgss.conformance.selftest import mutants
from refgss.conformance.vectors.format import Vector
from refgss.standard import spec_folder

Test = tuple[str, str]  # the id of a vector, a precision
Sample = tuple[Vector, str, Answer]  # a failing test and what the candidate answered

SHORTLIST = 16  # mutants whose results are compared, in either of two orders
SAME = 0.99  # an agreement that cannot be chance


@dataclass(frozen=True)
class Likeness:
    """How like a failing candidate is to a mutant, each from 0 to 1.

    pattern     the tests that both fail, of those that one of them fails (Jaccard).
    agreement   of the wrong results, on a few failing tests.
    kinship     whether the same outputs are wrong, by errors of like size.
    exact       the wrong numbers are those of the mutant.
    """

    mutant: str
    pattern: float
    both: int = 0  # tests that both fail
    alone: int = 0  # tests that the candidate fails and the mutant does not
    fails: int = 0  # tests that the mutant fails, of those that were asked
    agreement: float = 0.0
    kinship: float = 0.0
    exact: bool = False


def read_signatures(path: Path) -> dict[str, frozenset[Test]]:
    """By mutant, the tests that it fails: the inverse of `kills.signatures`."""
    content = json.loads(path.read_text("utf-8"))
    ids = content["vectors"]
    return {
        name: frozenset((ids[i], p) for p, bits in by.items() for i in set_bits(int(bits, 16)))
        for name, by in content["fails"].items()
    }


@cache
def published() -> Mapping[str, frozenset[Test]]:
    """The signatures that belong to the published vectors."""
    return read_signatures(spec_folder() / "signatures.json")


@cache
def published_vectors() -> frozenset[str]:
    """The vectors that the published signatures know."""
    return frozenset(json.loads((spec_folder() / "signatures.json").read_text("utf-8"))["vectors"])


@cache
def published_reach() -> Mapping[str, frozenset[str]]:
    """By function of the reference, `file.function`, the published vectors that call it."""
    content = json.loads((spec_folder() / "signatures.json").read_text("utf-8"))
    ids = content["vectors"]
    return {
        function: frozenset(ids[i] for i in set_bits(int(bits, 16)))
        for function, bits in content.get("calls", {}).items()
    }


def set_bits(bits: int) -> list[int]:
    return [i for i in range(bits.bit_length()) if bits >> i & 1]


def wrong_outputs(v: Vector, precision: str, answer: Answer) -> frozenset[str]:
    """The outputs outside their budgets, missing or of another shape; all where there are none."""
    if isinstance(answer, Failure):
        return frozenset(v.expected)
    wrong = set()
    for name, e in v.expected.items():
        x = answer.arrays.get(name)
        if x is None or x.shape != e.full_shape:
            wrong.add(name)
            continue
        values = (x if e.at is None else x.ravel()[e.at]).astype(float)
        if error_ratio(values, e, precision).max(initial=0) > 1:
            wrong.add(name)
    return frozenset(wrong)


def error_size(v: Vector, answer: Answer) -> float:
    """The largest error of an output, in norm, as a share of the output; infinite if unknown."""
    if isinstance(answer, Failure):
        return math.inf
    sizes = []
    for name, e in v.expected.items():
        x = answer.arrays.get(name)
        if x is None or x.shape != e.full_shape:
            return math.inf
        values = (x if e.at is None else x.ravel()[e.at]).astype(float).ravel()
        finite = np.isfinite(e.hi.ravel())
        if not np.all(np.isfinite(values[finite])):
            return math.inf
        error = np.linalg.norm(values[finite] - e.hi.ravel()[finite])
        sizes.append(float(error) / max(float(np.linalg.norm(e.hi.ravel()[finite])), 1e-300))
    return max(sizes, default=math.inf)


def compare(
    samples: Sequence[Sample],
    asked: Set[Test],
    failed: Set[Test],
    signatures: Mapping[str, Set[Test]],
) -> list[Likeness]:
    """The mutants that fail most nearly the same tests, with the likeness of their results."""
    likely = []
    for name, fails in signatures.items():
        if met := fails & asked:
            both, either = len(met & failed), len(met | failed)
            likely.append(Likeness(name, both / either, both, len(failed) - both, len(met)))
    alike = sorted(likely, key=lambda like: -like.pattern)[:SHORTLIST]
    # an error in one caller of a function fails a part of what the function's own error fails
    wider = sorted(likely, key=lambda like: (-like.both, like.fails))[:SHORTLIST]
    chosen = {like.mutant for like in (*alike, *wider)}
    return [resembling(like, samples) if like.mutant in chosen else like for like in likely]


def resembling(like: Likeness, samples: Sequence[Sample]) -> Likeness:
    """How like the mutant's results are to those of the candidate, on average."""
    pairs = [(v, p, a, mutant_answer(like.mutant, v, p)) for v, p, a in samples]
    agreed = float(np.mean([agreement(a, b, v) for v, _, a, b in pairs]))
    return replace(
        like,
        agreement=agreed,
        kinship=float(np.mean([kinship(v, p, a, b) for v, p, a, b in pairs])),
        exact=agreed > SAME and any(not isinstance(a, Failure) for _, _, a, _ in pairs),
    )


def kinship(v: Vector, precision: str, a: Answer, b: Answer) -> float:
    """1 where the same outputs are wrong by errors of the same size; a decade of size halves it."""
    wrong = [wrong_outputs(v, precision, x) for x in (a, b)]
    both = wrong[0] | wrong[1]
    same = len(wrong[0] & wrong[1]) / len(both) if both else 1.0
    sizes = [error_size(v, x) for x in (a, b)]
    if not all(map(math.isfinite, sizes)):
        return same * (sizes[0] == sizes[1])
    apart = abs(math.log10(max(sizes[0], 1e-30) / max(sizes[1], 1e-30)))
    return same / (1 + apart)


@cache
def mutant(name: str) -> ModuleCandidate:
    return ModuleCandidate(mutants.load(mutants.declared()[name]))


@cache
def mutant_answer(name: str, v: Vector, precision: str) -> Answer:
    with np.errstate(all="ignore"):
        return answer_to(mutant(name), v, precision)


def agreement(a: Answer, b: Answer, v: Vector) -> float:
    """1 where two answers are wrong in the same way, 0 where they have nothing in common."""
    if isinstance(a, Failure) or isinstance(b, Failure):
        return float(isinstance(a, Failure) and isinstance(b, Failure) and a.outcome == b.outcome)
    if not v.expected:  # both accepted what must be refused
        return 1.0
    return float(np.mean([alike(a.arrays.get(k), b.arrays.get(k), v, k) for k in v.expected]))


def alike(x: np.ndarray | None, y: np.ndarray | None, v: Vector, output: str) -> float:
    """1 − |x − y|/(|x − e| + |y − e|) in the norm, e being the expected output."""
    if x is None or y is None:
        return float(x is y)
    e = v.expected[output]
    if x.shape != y.shape or x.dtype != y.dtype or x.shape != e.full_shape:
        return float(x.shape == y.shape and x.dtype == y.dtype)
    x, y = (
        z.astype(float).ravel() if e.at is None else z.ravel()[e.at].astype(float) for z in (x, y)
    )
    judged = np.isfinite(e.budget["f64"].ravel())
    x, y, hi = x[judged], y[judged], e.hi.ravel()[judged]
    if not np.array_equal(np.isfinite(x), np.isfinite(y)):
        return 0.0
    rx, ry = x - hi, y - hi
    finite = np.isfinite(rx) & np.isfinite(ry)
    with np.errstate(over="ignore"):
        size = np.linalg.norm(rx[finite]) + np.linalg.norm(ry[finite])
        apart = np.linalg.norm(rx[finite] - ry[finite])
    return 1.0 if size == 0 else float(1 - apart / size) if np.isfinite(size) else 0.0
