"""Running a check: which cases, in which order, and the record that each of them leaves."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Required, TypedDict, cast

import numpy as np

from refgss.conformance import LAYER_PROFILES, PRECISIONS, PROFILES, SCORES
from refgss.conformance.candidates.claims import Candidate, Capabilities
from refgss.conformance.candidates.presentation import AGAIN, UNTOUCHED
from refgss.conformance.candidates.presentation import clauses_of as clauses_of_way
from refgss.conformance.judging import procedures
from refgss.conformance.judging.compare import Answer, Finding, Outcome, judge
from refgss.conformance.vectors.format import Vector
from refgss.ops import SCORES as SCORE_OPS
from refgss.ops import is_complex


class Record(TypedDict, total=False):
    """One case line of a report (report.schema.json); what is unknown is left out."""

    type: Required[str]  # "case"
    id: Required[str]
    op: Required[str]
    precision: Required[str]
    clauses: Required[list[str]]  # that the case judges
    outcome: Required[str]
    seconds: Required[float]
    layer_profile: str
    fresh: bool
    way: str  # in which it was asked
    wrong: list[str]  # every output that fails
    output: str  # the worst element: of which output, where, what was got and what is proven
    index: list[int]
    got: float | str
    expected: float | str
    budget: float | str
    ratio: float | str
    detail: str
    inputs: str  # shapes and options, of failures
    reason: str  # of a waiver


@dataclass(frozen=True, eq=False)
class Question:
    """A vector at a precision: what one line of a report answers."""

    vector: Vector
    precision: str
    fresh: bool = False
    way: str | None = None  # in which it is asked: `presentation.WAYS`


def profiles_to_check(requested: Sequence[str], claimed: Sequence[str]) -> list[str]:
    """The precisions and layer profiles of a check: what is asked for of either kind, else claimed.

    So `--profile paper` checks the paper's layers in every precision that is claimed.  The profile
    of scores, which no layer has to do with, stands alone.  Clauses: GSS-CNF-3, GSS-CNF-4,
    GSS-CNF-17.
    """
    chosen = [SCORES] if SCORES in (requested or claimed) else []
    if requested and chosen == list(dict.fromkeys(requested)):
        return chosen
    for kind in (PRECISIONS, LAYER_PROFILES):
        wanted = [p for p in kind if p in requested]
        chosen += wanted or [p for p in kind if p in claimed]
    return [p for p in PROFILES if p in chosen]


def precisions(op: str, profiles: Sequence[str]) -> list[str]:
    """In which of the profiles' precisions an op is asked."""
    if op in SCORE_OPS:
        return ["f64"] if SCORES in profiles else []
    return [p for p in PRECISIONS if p in profiles]


# selection -> the flags of the vectors that it leaves out (GSS-CNF-16)
SELECTIONS = {"quick": {"size"}, "default": {"large"}, "thorough": set[str]()}


def select(
    vectors: Iterable[Vector],
    profiles: Sequence[str],
    only_ops: Sequence[str] = (),
    only_clauses: Sequence[str] = (),
    selection: str = "default",
    only_ids: Sequence[str] = (),
) -> list[Question]:
    """Every vector that profiles and restrictions admit, at every precision of the profiles."""
    return [
        Question(v, precision)
        for v in vectors
        if (not SELECTIONS[selection] & set(v.flags) or v.id in only_ids)
        and (v.layer_profile is None or v.layer_profile in profiles)
        and (not only_ops or v.op in only_ops)
        and (not only_clauses or set(only_clauses) & set(v.clauses))
        and (not only_ids or v.id in only_ids)
        for precision in precisions(v.op, profiles)
    ]


def run(
    candidate: Candidate,
    questions: Sequence[Question],
    seed: int,
    progress: Callable[[], None] = lambda: None,
) -> list[Record]:
    """Ask every question once, in an order drawn from the seed; records in the given order."""
    found: dict[int, Record] = {}
    for i in map(int, np.random.default_rng(seed).permutation(len(questions))):
        found[i] = ask(candidate, questions[i])
        progress()
    return [found[i] for i in range(len(questions))]


def claimed_in_vain(
    claims: Container[str], questions: Sequence[Question], records: Sequence[Record]
) -> list[Record]:
    """The records; an op that is claimed and declined wherever a result is due has failed.

    Refusals are no results: who refuses everything has computed nothing.  Clauses: GSS-CNF-15.
    """
    due = [q.vector.op in claims and not q.vector.error for q in questions]
    asked = list(zip(due, questions, records, strict=True))
    answered = {
        (q.vector.op, q.precision)
        for is_due, q, r in asked
        if is_due and r["outcome"] != Outcome.UNCLAIMED
    }
    detail = "the op is claimed, and every case of it was declined"
    return [
        record(q, Finding(Outcome.RAISED, detail), r["seconds"])
        if is_due and (q.vector.op, q.precision) not in answered
        else r
        for is_due, q, r in asked
    ]


def ask(candidate: Candidate, question: Question) -> Record:
    """Put one question to the candidate and judge the answer."""
    v = question.vector
    if v.op not in candidate.about.offered:
        return record(question, Finding(Outcome.UNCLAIMED), 0.0)
    start = time.perf_counter()
    answer = answer_to(candidate, v, question.precision, question.way)
    seconds = time.perf_counter() - start
    finding = judge(v, answer, question.precision)
    if question.fresh and finding.outcome in (Outcome.WRONG_VALUE, Outcome.NON_FINITE):
        finding = replace(finding, outcome=Outcome.WRONG_FRESH)
    return record(question, finding, seconds)


def answer_to(candidate: Candidate, v: Vector, precision: str, way: str | None = None) -> Answer:
    """The answer to a vector, piece by piece where it is cut, asked in this way."""
    manner = {} if way in (None, AGAIN) else {"way": way}

    def piece(op: str, tensors: procedures.Tensors, options: procedures.Options) -> Answer:
        return candidate.ask(op, tensors, options, precision, **manner)

    return procedures.execute(piece, v.op, v.tensors, v.options)


def record(question: Question, finding: Finding, seconds: float) -> Record:
    """The line of the report; what is unknown is left out."""
    v = question.vector
    line: dict[str, Any] = {
        "type": "case",
        "id": v.id,
        "op": v.op,
        "precision": question.precision,
        "clauses": list(clauses_of(question, finding)),
        "outcome": str(finding.outcome),
        "seconds": round(seconds, 6),
        "layer_profile": v.layer_profile,
        "fresh": question.fresh,
        "way": question.way,
        "output": finding.output,
        "wrong": list(finding.wrong) or None,
        "detail": finding.detail or None,
        "inputs": inputs_of(v) if finding.failed else None,
        "index": None if finding.index is None else list(finding.index),
    }
    for name in ("ratio", "got", "expected", "budget"):
        value = getattr(finding, name)
        line[name] = value if value is None or np.isfinite(value) else str(value)
    known = {k: x for k, x in line.items() if x is not None and x is not False}
    return cast(Record, known)


def inputs_of(v: Vector) -> str:
    """The shapes and options of a vector in words; the parameters of a model are counted."""
    shapes = {n: x.shape[: -1 if is_complex(n) else None] for n, x in v.tensors.items()}
    told = [f"{n} {shown(shape)}" for n, shape in shapes.items() if not n.startswith("params.")]
    if parameters := len(shapes) - len(told):
        told.append(f"{parameters} parameters")
    return ", ".join([*told, *(f"{k} = {in_words(x)}" for k, x in v.options.items())])


def shown(shape: tuple[int, ...]) -> str:
    return f"({','.join(map(str, shape))})"


def in_words(option: Any) -> str:
    """An option without its braces, and without what is not set."""
    if not isinstance(option, Mapping):
        return str(option)
    return " ".join(f"{k}:{in_words(x)}" for k, x in option.items() if x is not None)


def clauses_of(question: Question, finding: Finding) -> tuple[str, ...]:
    """What a case judges: its vector's clauses, or those on the way in which it is asked."""
    if finding.outcome is Outcome.WROTE:
        return UNTOUCHED
    return question.vector.clauses if question.way is None else clauses_of_way(question.way)


def unknown_ops(about: Capabilities) -> list[str]:
    """Ops that the candidate claims and that the standard does not have."""
    return sorted(set(about.ops) - about.offered)
