"""Diagnosis: which clauses a failing candidate most probably violates, and why.

Three kinds of evidence are added up for each clause:

- coverage: of the failing vectors of the first ops that fail, how many name the clause, and how
  many vectors that name it pass (Ochiai's measure of fault localisation);
- pattern: how like the set of failing vectors is to that of a mutant of the clause (Jaccard);
- agreement: how like the wrong results are to those of that mutant, on a few failing vectors.

The first ranks clauses for errors that no mutant has; the others name the error if one has it.
`diagnosis_score` measures how often the right clause comes first.

An op whose parts fail too is not looked at: a layer is wrong because its GELU is.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from refgss.conformance import mutants, spec_folder
from refgss.conformance.candidates import Candidate, ModuleCandidate
from refgss.conformance.compare import NEUTRAL, Answer, Failure, Outcome
from refgss.conformance.ops import OPS
from refgss.conformance.runner import Record, answer_to
from refgss.conformance.vectors import Vector

Test = tuple[str, str]  # the id of a vector, a precision

PARTS = {  # what an op is made of; a gradient is made of its op besides
    "ssm_kernel": ("discretize",),
    "ssm_scan": ("ssm_kernel", "causal_conv"),
    "ssm_step": ("discretize",),
    "gss_layer": ("layer_norm", "gelu", "dense", "gss_lambda", "ssm_scan"),
    "dss_layer": ("layer_norm", "gelu", "dense", "gss_lambda", "ssm_scan"),
    "lm_logits": ("gss_layer", "dss_layer"),
    "lm_loss": ("lm_logits",),
}
SHORTLIST = 40  # mutants whose results are compared
PROBES = 8  # vectors on which they are
SAME = 0.99  # an agreement that cannot be chance


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

    @property
    def score(self) -> float:
        # agreement counts as far as the pattern does: a mutant that fails where the candidate
        # passes is another error, even if it is wrong in the same way elsewhere
        return self.pattern * (1 + 2 * self.agreement + (self.agreement > SAME))


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
    broken = {by_id[id].op for id, _ in failed}
    first = {op for op in broken if not parts(op) & broken}
    asked = {(r["id"], r["precision"]) for r in judged}
    clauses = covered(by_id, asked, failed, first)
    likenesses = compare(candidate, by_id, asked, failed, first, signatures)
    hints = hinted(
        [r for r in judged if r["outcome"] != Outcome.PASS and by_id[r["id"]].op in first]
    )
    best: dict[str, Likeness] = {}
    for like in likenesses:
        clause = mutants.declared()[like.mutant].clause
        if clause not in best or like.score > best[clause].score:
            best[clause] = like
    suspects = [
        Suspect(
            c,
            clauses.get(c, (0.0, ""))[0] + (best[c].score if c in best else 0) + hints.get(c, 0),
            reason(best.get(c), clauses.get(c, (0.0, ""))[1]),
        )
        for c in clauses.keys() | best.keys() | hints.keys()
    ]
    return sorted((s for s in suspects if s.score > 0), key=lambda s: (-s.score, s.clause))


def neutral(record: Record) -> bool:
    return record["outcome"] in NEUTRAL and record["outcome"] != Outcome.PASS


def covered(
    by_id: Mapping[str, Vector], asked: Set[Test], failed: Set[Test], first: Set[str]
) -> dict[str, tuple[float, str]]:
    """By clause, Ochiai's measure among all tests and those of the first ops, and a sentence."""
    of_first = {t for t in asked if by_id[t[0]].op in first}
    overall, local = ochiai(by_id, asked, failed), ochiai(by_id, of_first, failed & of_first)
    ops = ", ".join(sorted(first))
    return {
        c: (score + overall[c][0], f"{n} of {named} tests of {ops} that name it fail")
        for c, (score, n, named) in local.items()
    }


def ochiai(
    by_id: Mapping[str, Vector], asked: Set[Test], failed: Set[Test]
) -> dict[str, tuple[float, int, int]]:
    """By clause: failing/√(naming · all failing), and how many name it and fail, and name it."""
    named = Counter(c for id, _ in asked for c in by_id[id].clauses)
    failing = Counter(c for id, _ in failed for c in by_id[id].clauses)
    return {c: (n / np.sqrt(named[c] * len(failed)), n, named[c]) for c, n in failing.items()}


def hinted(failures: Sequence[Record]) -> dict[str, float]:
    """What the kind of the failures says by itself: the share of them that are of that kind."""
    kinds = Counter(
        "narrow" if "representable in" in r.get("detail", "") else str(r["outcome"])
        for r in failures
    )
    share = {kind: n / len(failures) for kind, n in kinds.items()}
    return {
        "GSS-ARR-1": 2 * share.get(Outcome.WRONG_DTYPE, 0),
        "GSS-ARR-2": share.get(Outcome.WRONG_SHAPE, 0),
        "GSS-ACC-1": share.get("narrow", 0),
    }


def compare(
    candidate: Candidate,
    by_id: Mapping[str, Vector],
    asked: Set[Test],
    failed: Set[Test],
    first: Set[str],
    signatures: Mapping[str, Set[Test]],
) -> list[Likeness]:
    """The mutants that fail most nearly the same tests, with the agreement of their results."""
    likely = []
    for name, fails in signatures.items():
        if met := fails & asked:
            likely.append(Likeness(name, len(met & failed) / len(met | failed)))
    likely.sort(key=lambda like: -like.pattern)
    tests = probes(by_id, failed, first)
    answers = [(t, answer_to(candidate, by_id[t[0]], t[1])) for t in tests]
    return [
        Likeness(
            like.mutant,
            like.pattern,
            float(
                np.mean(
                    [
                        agreement(a, mutant_answer(like.mutant, by_id[t[0]], t[1]), by_id[t[0]])
                        for t, a in answers
                    ]
                )
            )
            if i < SHORTLIST
            else 0.0,
        )
        for i, like in enumerate(likely)
    ]


def probes(by_id: Mapping[str, Vector], failed: Set[Test], first: Set[str]) -> list[Test]:
    """A few failing tests of the first failing ops, of as many clauses as possible, small first."""
    able = sorted(
        (t for t in failed if by_id[t[0]].op in first),
        key=lambda t: (sum(x.size for x in by_id[t[0]].tensors.values()), t),
    )
    groups: dict[tuple[str, tuple[str, ...], str], list[Test]] = defaultdict(list)
    for t in able:
        groups[by_id[t[0]].op, by_id[t[0]].clauses, t[1]].append(t)
    chosen: list[Test] = []
    while len(chosen) < min(PROBES, len(able)):
        for group in groups.values():
            if group and len(chosen) < PROBES:
                chosen.append(group.pop(0))
    return chosen


@cache
def mutant(name: str) -> ModuleCandidate:
    return ModuleCandidate(mutants.load(mutants.declared()[name]))


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
    if not np.array_equal(np.isfinite(x), np.isfinite(y)):
        return 0.0
    rx, ry = x - e.hi.ravel(), y - e.hi.ravel()
    finite = np.isfinite(rx) & np.isfinite(ry)
    with np.errstate(over="ignore"):
        size = np.linalg.norm(rx[finite]) + np.linalg.norm(ry[finite])
        apart = np.linalg.norm(rx[finite] - ry[finite])
    return 1.0 if size == 0 else float(1 - apart / size) if np.isfinite(size) else 0.0


def reason(like: Likeness | None, counted: str) -> str:
    """The strongest evidence in a sentence."""
    if like is None or max(like.agreement, like.pattern) < 0.5:
        return counted or "the kind of the failures points to it"
    m = mutants.declared()[like.mutant]
    if like.agreement > SAME:
        return f"the results are those of the mutant {m.name} ({m.note})"
    return f"it fails like the mutant {m.name} ({m.note}), on {like.pattern:.0%} of the same tests"
