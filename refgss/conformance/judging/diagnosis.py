"""Diagnosis: which clauses a failing candidate most probably violates, and why.

A clause comes first where the wrong numbers are exactly those of a named mutant of it.  Then counts
the weighted sum of the evidence (`Evidence`, `Weights`):

- coverage: what the failing tests have in common (`coverage`);
- likeness: to the tests that the named mutants fail, and to their numbers (`likeness`);
- kind: what the failures say by themselves: a type, a shape, a conjugate, a faint error;
- stage: where a candidate offers the stages of a layer, the first one that is wrong (`probes`).

A clause that the failures cannot violate (`plausible`) is left out.  A candidate that crashes,
hangs or has another signature gave no numbers: nothing is said about these cases.
An op whose parts fail too is not looked at: a layer is wrong because its GELU is.
`diagnosis_score` measures how often the right clause comes first.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from functools import cache

import numpy as np

from refgss.conformance.candidates.claims import Candidate
from refgss.conformance.clauses import read_clauses
from refgss.conformance.judging import probes
from refgss.conformance.judging.compare import NEUTRAL, Failure, Outcome, Outputs
from refgss.conformance.judging.coverage import Coverage, covered, first_ops
from refgss.conformance.judging.likeness import (
    Likeness,
    Sample,
    Test,
    compare,
    error_size,
    published_vectors,
    wrong_outputs,
)
from refgss.conformance.judging.relations import relation
from refgss.conformance.judging.runner import Record, answer_to
from refgss.conformance.judging.slices import Slices, outputs_of, published_slices
from refgss.conformance.selftest import mutants
from refgss.conformance.vectors import fresh
from refgss.conformance.vectors.format import Vector
from refgss.ops import is_complex
from refgss.standard import spec_folder

SAMPLES = 6  # failing vectors that are asked again
FAINT = 2.0**-6  # of the result: a larger error is one of meaning, a smaller one of precision


@dataclass(frozen=True)
class Suspect:
    """A clause, how strongly the evidence points to it, and the evidence in a sentence."""

    clause: str
    score: float
    reason: str
    exact: bool = False


@dataclass(frozen=True)
class Weights:
    """How much each kind of evidence counts.

    Fitted by `diagnosis_score --fit`, a coordinate search over the generated mutants of one half of
    the functions; the shares that chapter 15 publishes first are those of the other half.
    """

    overall: float = 0.75  # coverage
    first: float = 0.0
    part: float = 0.0
    function: float = 0.25
    anywhere: float = 1.0
    pattern: float = 0.25  # likeness
    kinship: float = 1.0
    agreement: float = 2.0
    hint: float = 4.0  # kinds and stages


WEIGHTS = Weights()


@dataclass
class Evidence:
    """What points to a clause."""

    coverage: Coverage = field(default_factory=Coverage)
    like: Likeness | None = None  # the mutant of the clause that is most like the candidate
    hint: float = 0.0
    sentences: list[str] = field(default_factory=list)

    def score(self, weights: Weights) -> float:
        """The weighted sum; likeness of numbers counts as far as the same tests fail."""
        values = {name: getattr(self.coverage, name) for name in COVERAGE} | {"hint": self.hint}
        if (like := self.like) is not None:
            values |= {"pattern": like.pattern, "kinship": like.pattern * like.kinship}
            values["agreement"] = like.pattern * like.agreement
        return sum(getattr(weights, name) * x for name, x in values.items())

    @property
    def exact(self) -> bool:
        return self.like is not None and self.like.exact


COVERAGE = ("overall", "first", "part", "function", "anywhere")
assert {f.name for f in fields(Weights)} == {*COVERAGE, "pattern", "kinship", "agreement", "hint"}


def diagnose(
    candidate: Candidate,
    vectors: Iterable[Vector],
    records: Sequence[Record],
    signatures: Mapping[str, Set[Test]],
    spectra: Slices | None = None,
) -> list[Suspect]:
    """Clauses that the failures are consistent with violating, most likely first.

    `records` are those of a check of `candidate` on `vectors`; a few vectors are asked again.
    `spectra` say what each function of the reference moves: the published ones by default.
    An empty list where nothing fails, or nothing but crashes and the like.
    """
    found = evidence(candidate, tuple(vectors), records, signatures, spectra)
    return ranked(found, WEIGHTS)


def ranked(found: Mapping[str, Evidence], weights: Weights) -> list[Suspect]:
    """The clauses in order, each with its reason."""
    suspects = [Suspect(c, e.score(weights), reason(e), e.exact) for c, e in found.items()]
    suspects = [s for s in suspects if s.score > 0]
    return sorted(suspects, key=lambda s: (not s.exact, -s.score, chapter_order().get(s.clause, 0)))


@cache
def chapter_order() -> Mapping[str, int]:
    """The place of each clause in the standard: of two that tie the more elementary comes first."""
    return {clause: i for i, clause in enumerate(read_clauses(spec_folder()))}


def evidence(
    candidate: Candidate,
    vectors: Iterable[Vector],
    records: Sequence[Record],
    signatures: Mapping[str, Set[Test]],
    spectra: Slices | None = None,
) -> dict[str, Evidence]:
    """What points to each clause that the failures can violate."""
    by_id = {v.id: v for v in vectors}
    judged = says_something([r for r in records if r["id"] in by_id], by_id)
    failures = [r for r in judged if r["outcome"] != Outcome.PASS]
    if not failures:
        return {}
    asked = {(r["id"], r["precision"]) for r in judged}
    failed = {(r["id"], r["precision"]) for r in failures}
    first = first_ops({by_id[id].op for id, _ in failed})
    spectra = published_slices(tuple(by_id.values())) if spectra is None else spectra
    wrong = {(r["id"], o) for r in failures for o in r.get("wrong") or outputs_of(by_id[r["id"]])}
    samples = [
        (by_id[id], precision, answer_to(candidate, by_id[id], precision))
        for id, precision in sampled(by_id, failed, first)
    ]
    found: dict[str, Evidence] = defaultdict(Evidence)
    for clause, coverage in covered(by_id, asked, failed, first, spectra, wrong).items():
        found[clause].coverage = coverage
    met = {t for t in asked if t[0] in published_vectors()}  # what the mutants were asked
    for like in compare(samples, met, failed & met, signatures):
        entry = found[mutants.declared()[like.mutant].clause]
        if entry.like is None or rank(like) > rank(entry.like):
            entry.like = like
    of_first = [r for r in failures if by_id[r["id"]].op in first]
    for clause, weight, sentence in hints(candidate, of_first, by_id, samples):
        found[clause].hint += weight
        found[clause].sentences += [sentence] if sentence else []
    how, share, said = related(samples)
    for clause in RELATED.get(how, ()):
        if clause in found and found[clause].coverage.naming:
            found[clause].hint += share
    coarse = too_coarse(samples)
    possible = {c: e for c, e in found.items() if plausible(c, e, of_first, by_id, coarse)}
    for entry in possible.values():
        entry.sentences += [said] if said else []
    return possible


def rank(like: Likeness) -> tuple[bool, float]:
    return like.exact, Evidence(like=like).score(WEIGHTS)


# --- which failures speak ------------------------------------------------------------------------

NO_NUMBERS = frozenset(
    {Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.GARBAGE, Outcome.OUT_OF_ORDER, Outcome.RAISED}
)
PROGRAMMING = re.compile(
    "(Type|Attribute|Name|Key|Index|Import|ModuleNotFound|UnboundLocal|Memory|Recursion|OS)Error"
)


def says_something(records: Sequence[Record], by_id: Mapping[str, Vector]) -> list[Record]:
    """The passes, and the failures that say something about the mathematics.

    Refusing what is valid does, if the op computes other cases; an exception of programming, a
    crash or a time-out does not.
    """
    passed = {by_id[r["id"]].op for r in records if r["outcome"] == Outcome.PASS}

    def speaks(r: Record) -> bool:
        if r["outcome"] in NEUTRAL:
            return bool(r["outcome"] == Outcome.PASS)
        if r["outcome"] == Outcome.RAISED:
            refused = not PROGRAMMING.match(r.get("detail", ""))
            return refused and by_id[r["id"]].op in passed
        return r["outcome"] not in NO_NUMBERS

    return [r for r in records if speaks(r)]


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


def too_coarse(samples: Sequence[Sample]) -> bool:
    """Whether every error is larger than a narrow type of an operand makes most of them."""
    sizes = [error_size(v, a) for v, p, a in samples if wrong_outputs(v, p, a)]
    finite = [size for size in sizes if size < math.inf]
    return bool(finite) and min(finite) >= FAINT


def plausible(
    clause: str,
    entry: Evidence,
    failures: Sequence[Record],
    by_id: Mapping[str, Vector],
    coarse: bool,
) -> bool:
    """Whether the failures can violate the clause at all."""
    outcomes = {r["outcome"] for r in failures}
    compared = not outcomes <= {Outcome.WRONG_SHAPE, Outcome.WRONG_DTYPE}  # numbers
    if clause in ("GSS-ACC-1", "GSS-ACC-6") and coarse and not entry.exact:
        return False
    if clause == "GSS-ACC-6":  # "under the profile f32"
        return compared and all(r["precision"] == "f32" for r in failures)
    if clause == "GSS-ARR-1":
        kinds = {kind(r, by_id[r["id"]]) for r in failures}
        return bool(kinds & {Outcome.WRONG_DTYPE, "complex"})
    if clause == "GSS-ARR-2":
        return Outcome.WRONG_SHAPE in outcomes
    if clause == "GSS-NFI-14":
        return all(is_empty(by_id[r["id"]]) for r in failures)
    return compared or entry.exact


def is_empty(v: Vector) -> bool:
    return not all(x.size for x in v.tensors.values()) or v.options.get("length") == 0


# --- what failures and numbers say by themselves -------------------------------------------------

Hint = tuple[str, float, str]  # a clause, a weight, and a sentence or nothing

ACCURACY = {  # the clause on the accuracy of an op, where there is one of its own
    "ssm_kernel": "GSS-ACC-2",
    "ssm_scan": "GSS-ACC-4",
    "ssm_step": "GSS-ACC-4",
    "causal_conv": "GSS-ACC-5",
    "dense": "GSS-ACC-6",
    "attention": "GSS-ATT-18",
    "attention_step": "GSS-ATT-18",
    "rope": "GSS-ATT-14",
    "layer_norm": "GSS-ACC-6",
}
COMPLEX = re.compile(r"has shape \((.*)\), not \((.*)\)")


def hints(
    candidate: Candidate,
    failures: Sequence[Record],
    by_id: Mapping[str, Vector],
    samples: Sequence[Sample],
) -> Iterator[Hint]:
    yield from hinted(failures, by_id)
    yield from seen(samples)
    yield from staged(candidate, samples)


def hinted(failures: Sequence[Record], by_id: Mapping[str, Vector]) -> Iterator[Hint]:
    """What the kind of the failures says by itself: the share of them that are of that kind."""
    kinds = Counter(kind(r, by_id[r["id"]]) for r in failures)
    share = {kind: n / len(failures) for kind, n in kinds.items()}
    weight = 2 * share.get(Outcome.WRONG_DTYPE, 0) + 3 * share.get("complex", 0)
    yield "GSS-ARR-1", weight, ""
    yield "GSS-ARR-2", 2 * share.get(Outcome.WRONG_SHAPE, 0), ""
    yield "GSS-ACC-1", 2 * share.get("narrow", 0), ""
    yield "GSS-NFI-14", share.get("empty", 0), ""
    yield "GSS-NFI-1", 0.5 * share.get(Outcome.RAISED, 0), "what is valid is refused"


def kind(failure: Record, v: Vector) -> str:
    """The outcome of a failure, told apart further by its sentence and the input."""
    detail = failure.get("detail", "")
    if failure["outcome"] == Outcome.RAISED and is_empty(v):
        return "empty"
    if "representable in" in detail:
        return "narrow"
    shapes = COMPLEX.search(detail)  # a real output that came as a complex one
    if shapes and shapes[1] == f"{shapes[2].rstrip(',')}, 2":
        return "complex"
    return str(failure["outcome"])


def seen(samples: Sequence[Sample]) -> Iterator[Hint]:
    """What the wrong numbers say by themselves: conjugated gradients, faint errors."""
    wrong = [(v, p, a) for v, p, a in samples if wrong_outputs(v, p, a)]
    finite = [(v, p, a) for v, p, a in wrong if isinstance(a, Outputs)]
    if not finite:
        return
    conjugated = [conjugate(v, p, a) for v, p, a in finite if v.op.endswith("_vjp")]
    if conjugated:  # the other convention always shows, so that its absence speaks too
        yield "GSS-GRD-1", 4 * float(np.mean(conjugated)) - 1, ""
    faint = sum(error_size(v, a) < FAINT for v, _, a in finite) / len(wrong)
    precise = {ACCURACY[base] for v, *_ in wrong if (base := v.op.removesuffix("_vjp")) in ACCURACY}
    for clause in precise:
        yield clause, faint, ""
    yield "GSS-ACC-1", 0.75 * faint, ""
    if "GSS-ACC-6" not in precise:
        yield "GSS-ACC-6", 0.75 * faint, ""


def conjugate(v: Vector, precision: str, answer: Outputs) -> bool:
    """Whether some output that is wrong is right once conjugated, or if it is real, negated."""
    wrong = wrong_outputs(v, precision, answer)
    turned = {
        name: x * np.array([1, -1] if is_complex(name) and x.shape[-1:] == (2,) else -1, x.dtype)
        for name, x in answer.arrays.items()
    }
    return bool(wrong - wrong_outputs(v, precision, Outputs(turned)))


def staged(candidate: Candidate, samples: Sequence[Sample]) -> Iterator[Hint]:
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


# the clauses that a relation of the wrong numbers to the proven ones points to
RELATED: Mapping[str, tuple[str, ...]] = {
    "the proven number × 1/2": ("GSS-KER-2",),
    "the proven number × 2": ("GSS-KER-2",),
    "reversed in time": ("GSS-CNV-1",),
    "one step late": ("GSS-REC-1", "GSS-CNV-1", "GSS-KER-1"),
    "one step early": ("GSS-REC-1", "GSS-CNV-1", "GSS-KER-1"),
    "transposed": ("GSS-NRM-4",),
}


def related(samples: Sequence[Sample]) -> tuple[str, float, str]:
    """The relation to the proven numbers that most of the wrong outputs have.

    With its share of them, and a sentence; both empty where there is none.
    """
    told: Counter[tuple[str, str]] = Counter()
    example: dict[tuple[str, str], str] = {}
    wrong = 0
    for v, p, answer in samples:
        if isinstance(answer, Failure):
            continue
        for output in wrong_outputs(v, p, answer):
            wrong += 1
            if output in answer.arrays and (how := relation(v, output, answer.arrays[output], p)):
                told[output, how] += 1
                example.setdefault((output, how), v.id)
    if not told:
        return "", 0.0, ""
    (output, how), n = told.most_common(1)[0]
    more = f" and {n - 1} more" if n > 1 else ""
    return how, n / wrong, f"{output} is {how}, in {example[output, how]}{more}"


def reason(entry: Evidence) -> str:
    """The strongest evidence in a sentence, after what the numbers say."""
    coverage, like = entry.coverage, entry.like
    said = list(entry.sentences)
    if like is not None and (like.exact or like.pattern >= 0.5):
        m = mutants.declared()[like.mutant]
        tests = f"it fails {like.both} of the {like.fails} tests that this fails"
        tests += f" and {like.alone} more" if like.alone else ""
        how = "the results are those of" if like.exact else "it fails like"
        said.append(f"{how} the mutant {m.name} ({m.note}); {tests}")
    elif coverage.naming:
        said.append(f"{coverage.failing} of {coverage.naming} tests that name it fail")
    return "; ".join(said) or "the kind of the failures points to it"
