"""Diagnosis: which clauses a failing candidate most probably violates, and why.

The evidence that is added up for each clause:

- coverage: of the failing vectors of the first ops that fail, how many name the clause, and how
  many vectors that name it pass (Ochiai's measure of fault localisation);
- pattern: how like the set of failing vectors is to that of a mutant of the clause (Jaccard);
- kinship: whether the same outputs are wrong as with that mutant, by errors of like size;
- agreement: how like the wrong results are to those of that mutant, on a few failing vectors;
- kind: what the failures say by themselves: a type, a shape, a conjugate, a faint error;
- stage: where a candidate offers the stages of a layer, the first one that is wrong (`probes`).

The pattern and the agreement name the error if a mutant has it; the others rank clauses for errors
that no mutant has.  `diagnosis_score` measures how often the right clause comes first.

An op whose parts fail too is not looked at: a layer is wrong because its GELU is.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.candidates.claims import Candidate
from refgss.conformance.judging import probes
from refgss.conformance.judging.compare import (
    NEUTRAL,
    Answer,
    Failure,
    Outcome,
    Outputs,
    error_ratio,
)
from refgss.conformance.judging.runner import Record, answer_to
from refgss.conformance.selftest import mutants
from refgss.conformance.vectors import fresh
from refgss.conformance.vectors.format import Vector
from refgss.ops import OPS, is_complex
from refgss.standard import spec_folder

Test = tuple[str, str]  # the id of a vector, a precision
Sample = tuple[Vector, str, Answer]  # a failing test and what the candidate answered

PARTS = {  # what an op is made of; a gradient is made of its op besides
    "ssm_kernel": ("discretize",),
    "ssm_scan": ("ssm_kernel", "causal_conv"),
    "ssm_step": ("discretize",),
    "gss_layer": ("layer_norm", "gelu", "dense", "gss_lambda", "ssm_scan"),
    "dss_layer": ("layer_norm", "gelu", "dense", "gss_lambda", "ssm_scan"),
    "lm_logits": ("gss_layer", "dss_layer"),
    "lm_loss": ("lm_logits",),
}
SHORTLIST = 30  # mutants whose results are compared
PART = "part"  # the flag of vectors most of whose parts are switched off
SAMPLES = 8  # vectors on which they are
SAME = 0.99  # an agreement that cannot be chance
FAINT = 2.0**-6  # of the result: a larger error is one of meaning, a smaller one of precision


@dataclass(frozen=True)
class Suspect:
    """A clause, how strongly the evidence points to it, and the evidence in a sentence."""

    clause: str
    score: float
    reason: str


@dataclass(frozen=True)
class Likeness:
    """How like a failing candidate is to a mutant."""

    mutant: str
    pattern: float
    agreement: float = 0.0
    kinship: float = 0.0

    @property
    def score(self) -> float:
        # the others count as far as the pattern does: a mutant that fails where the candidate
        # passes is another error, even if it is wrong in the same way elsewhere
        like = self.kinship + 2 * self.agreement + (self.agreement > SAME)
        return self.pattern * (0.25 + like)


@cache
def parts(op: str) -> frozenset[str]:
    """All ops that an op is made of, at any depth."""
    base = op.removesuffix("_vjp")
    own = set(PARTS.get(base, ()))
    if op != base:
        own |= {f"{part}_vjp" for part in own} & OPS.keys() | {base}
    return frozenset(own.union(*(parts(part) for part in own)))


def read_signatures(path: Path) -> dict[str, frozenset[Test]]:
    """By mutant, the tests that it fails: the inverse of `kills.signatures`."""
    content = json.loads(path.read_text("utf-8"))
    ids = content["vectors"]
    return {
        name: frozenset((ids[i], p) for p, bits in by.items() for i in set_bits(int(bits, 16)))
        for name, by in content["fails"].items()
    }


def published() -> dict[str, frozenset[Test]]:
    """The signatures that belong to the published vectors."""
    return read_signatures(spec_folder() / "signatures.json")


def set_bits(bits: int) -> list[int]:
    return [i for i in range(bits.bit_length()) if bits >> i & 1]


def diagnose(
    candidate: Candidate,
    vectors: Iterable[Vector],
    records: Sequence[Record],
    signatures: Mapping[str, Set[Test]],
) -> list[Suspect]:
    """Clauses that the failures are consistent with violating, most likely first.

    `records` are those of a check of `candidate` on `vectors`; a few vectors are asked again.
    An empty list where nothing fails.
    """
    by_id = {v.id: v for v in vectors}
    judged = [r for r in records if r["id"] in by_id and not neutral(r)]
    failed = {(r["id"], r["precision"]) for r in judged if r["outcome"] != Outcome.PASS}
    if not failed:
        return []
    first = first_ops({by_id[id].op for id, _ in failed})
    asked = {(r["id"], r["precision"]) for r in judged}
    clauses = covered(by_id, asked, failed, first)
    samples = [
        (by_id[id], precision, answer_to(candidate, by_id[id], precision))
        for id, precision in sampled(by_id, failed, first)
    ]
    likenesses = compare(samples, asked, failed, signatures)
    hints: dict[str, float] = defaultdict(float)
    of_first = [r for r in judged if r["outcome"] != Outcome.PASS and by_id[r["id"]].op in first]
    for clause, weight in (*hinted(of_first, by_id).items(), *seen(samples).items()):
        hints[clause] += weight
    located = {}
    for clause, weight, sentence in staged(candidate, samples):
        hints[clause] += weight
        located[clause] = sentence
    best: dict[str, Likeness] = {}
    for like in likenesses:
        clause = mutants.declared()[like.mutant].clause
        if clause not in best or like.score > best[clause].score:
            best[clause] = like
    suspects = [
        Suspect(
            c,
            clauses.get(c, (0.0, ""))[0] + (best[c].score if c in best else 0) + hints.get(c, 0),
            reason(best.get(c), located.get(c) or clauses.get(c, (0.0, ""))[1]),
        )
        for c in clauses.keys() | best.keys() | hints.keys()
    ]
    return sorted((s for s in suspects if s.score > 0), key=lambda s: (-s.score, s.clause))


def first_ops(broken: Set[str]) -> set[str]:
    """Of the ops that fail those of which no part fails."""
    return {op for op in broken if not parts(op) & broken}


def neutral(record: Record) -> bool:
    return record["outcome"] in NEUTRAL and record["outcome"] != Outcome.PASS


def covered(
    by_id: Mapping[str, Vector], asked: Set[Test], failed: Set[Test], first: Set[str]
) -> dict[str, tuple[float, str]]:
    """By clause, Ochiai's measure among all tests, those of the first ops, and of these those of
    which most parts are switched off; and a sentence."""
    of_first = {t for t in asked if by_id[t[0]].op in first}
    overall, local = ochiai(by_id, asked, failed), ochiai(by_id, of_first, failed & of_first)
    single = {t for t in of_first if PART in by_id[t[0]].flags}
    alone = ochiai(by_id, single, failed & single)
    ops = ", ".join(sorted(first))
    return {
        c: (
            score + overall[c][0] + alone.get(c, (0.0,))[0],
            f"{n} of {named} tests of {ops} that name it fail",
        )
        for c, (score, n, named) in local.items()
    }


def ochiai(
    by_id: Mapping[str, Vector], asked: Set[Test], failed: Set[Test]
) -> dict[str, tuple[float, int, int]]:
    """By clause: failing/√(naming · all failing), and how many name it and fail, and name it."""
    named = Counter(c for id, _ in asked for c in by_id[id].clauses)
    failing = Counter(c for id, _ in failed for c in by_id[id].clauses)
    return {c: (n / np.sqrt(named[c] * len(failed)), n, named[c]) for c, n in failing.items()}


def hinted(failures: Sequence[Record], by_id: Mapping[str, Vector]) -> dict[str, float]:
    """What the kind of the failures says by itself: the share of them that are of that kind."""
    kinds = Counter(kind(r, by_id[r["id"]]) for r in failures)
    share = {kind: n / len(failures) for kind, n in kinds.items()}
    return {
        "GSS-ARR-1": 2 * share.get(Outcome.WRONG_DTYPE, 0) + 3 * share.get("complex", 0),
        "GSS-ARR-2": 2 * share.get(Outcome.WRONG_SHAPE, 0),
        "GSS-ACC-1": 2 * share.get("narrow", 0),
        "GSS-NFI-14": share.get("empty", 0),
    }


def kind(failure: Record, v: Vector) -> str:
    """The outcome of a failure, told apart further by its sentence and the input."""
    detail = failure.get("detail", "")
    if failure["outcome"] == Outcome.RAISED and not all(x.size for x in v.tensors.values()):
        return "empty"
    if "representable in" in detail:
        return "narrow"
    shapes = COMPLEX.search(detail)  # a real output that came as a complex one
    if shapes and shapes[1] == f"{shapes[2].rstrip(',')}, 2":
        return "complex"
    return str(failure["outcome"])


ACCURACY = {  # the clause on the accuracy of an op, where there is one of its own
    "ssm_kernel": "GSS-ACC-2",
    "ssm_scan": "GSS-ACC-4",
    "ssm_step": "GSS-ACC-4",
    "causal_conv": "GSS-ACC-5",
    "dense": "GSS-ACC-6",
    "layer_norm": "GSS-ACC-6",
}
COMPLEX = re.compile(r"has shape \((.*)\), not \((.*)\)")


def seen(samples: Sequence[Sample]) -> dict[str, float]:
    """What the wrong numbers say by themselves: conjugated gradients, faint errors."""
    wrong = [(v, p, a, outputs) for v, p, a in samples if (outputs := wrong_outputs(v, p, a))]
    finite = [(v, p, a, outputs) for v, p, a, outputs in wrong if isinstance(a, Outputs)]
    if not finite:
        return {}
    conjugated = [conjugate(v, p, a) for v, p, a, _ in finite if v.op.endswith("_vjp")]
    faint = sum(error_size(v, a) < FAINT for v, _, a, _ in finite) / len(wrong)
    precise = {ACCURACY[base] for v, *_ in wrong if (base := v.op.removesuffix("_vjp")) in ACCURACY}
    return {
        **{clause: faint for clause in precise},
        # the other convention always shows as a conjugate, so that its absence speaks too
        "GSS-GRD-1": 4 * float(np.mean(conjugated)) - 1 if conjugated else 0.0,
        "GSS-ACC-1": 0.75 * faint,
        "GSS-ACC-6": (1.0 if "GSS-ACC-6" in precise else 0.75) * faint,
    }


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


def conjugate(v: Vector, precision: str, answer: Outputs) -> bool:
    """Whether some output that is wrong is right once conjugated, or if it is real, negated."""
    wrong = wrong_outputs(v, precision, answer)
    turned = {
        name: x * np.array([1, -1] if is_complex(name) and x.shape[-1:] == (2,) else -1, x.dtype)
        for name, x in answer.arrays.items()
    }
    return bool(wrong - wrong_outputs(v, precision, Outputs(turned)))


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


def staged(candidate: Candidate, samples: Sequence[Sample]) -> Iterator[tuple[str, float, str]]:
    """Clauses of the first wrong stage of a failing layer, with weights and a sentence."""
    for v, precision, answer in samples:
        if v.op not in probes.STAGES or not isinstance(answer, Outputs) or "splits" in v.options:
            continue
        stages = candidate.probe(v.op, v.tensors, v.options, precision)
        if not stages or not fresh.available():
            continue
        if found := probes.first_wrong(v, stages, answer.arrays["y"], precision):
            stage, clauses, _ = found
            sentence = f"of the stages of {v.op} the first that is wrong is {stage}, on {v.id}"
            for clause, weight in zip(clauses, (2.0, 1.5, 1.0), strict=False):
                yield clause, weight, sentence
            return


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
            likely.append(Likeness(name, len(met & failed) / len(met | failed)))
    likely.sort(key=lambda like: -like.pattern)
    least = likely[:SHORTLIST][-1].pattern if likely else 0.0  # with all that are as like as that
    return [resembling(like, samples) if like.pattern >= least else like for like in likely]


def resembling(like: Likeness, samples: Sequence[Sample]) -> Likeness:
    """How like the mutant's results are to those of the candidate, on average."""
    pairs = [(v, p, a, mutant_answer(like.mutant, v, p)) for v, p, a in samples]
    return replace(
        like,
        agreement=float(np.mean([agreement(a, b, v) for v, _, a, b in pairs])),
        kinship=float(np.mean([kinship(v, p, a, b) for v, p, a, b in pairs])),
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


def sampled(by_id: Mapping[str, Vector], failed: Set[Test], first: Set[str]) -> list[Test]:
    """A few failing tests of the first failing ops, of as many clauses as possible, small first."""
    able = sorted(
        (t for t in failed if by_id[t[0]].op in first),
        key=lambda t: (sum(x.size for x in by_id[t[0]].tensors.values()), t),
    )
    groups: dict[tuple[str, tuple[str, ...], str], list[Test]] = defaultdict(list)
    for t in able:
        groups[by_id[t[0]].op, by_id[t[0]].clauses, t[1]].append(t)
    chosen: list[Test] = []
    while len(chosen) < min(SAMPLES, len(able)):
        for group in groups.values():
            if group and len(chosen) < SAMPLES:
                chosen.append(group.pop(0))
    return chosen


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


def reason(like: Likeness | None, counted: str) -> str:
    """The strongest evidence in a sentence; `counted` is that of stages or coverage."""
    if (
        like is None
        or max(like.agreement, like.pattern) < 0.5
        or (like.agreement <= SAME and counted.startswith("of the stages"))
    ):
        return counted or "the kind of the failures points to it"
    m = mutants.declared()[like.mutant]
    if like.agreement > SAME:
        return f"the results are those of the mutant {m.name} ({m.note})"
    return f"it fails like the mutant {m.name} ({m.note}), on {like.pattern:.0%} of the same tests"
