"""Cases that passed, asked again in other ways: which of them, and what the failures say.

Only a case that passed is asked again, so that a failure here is one of memory, order or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from refgss.conformance.candidates.claims import Candidate
from refgss.conformance.candidates.presentation import AGAIN, THREADS, ZERO, constant_axes
from refgss.conformance.judging.compare import NEUTRAL, Outcome
from refgss.conformance.judging.runner import Question, Record, run
from refgss.conformance.vectors.format import Vector
from refgss.ops import SCORES

MOST_SECONDS = 0.1  # that an answer took which is asked for many times


def again(
    questions: Sequence[Question],
    records: Sequence[Record],
    ways: Iterable[str],
    per_op: int,
    seed: int,
) -> list[Question]:
    """Of the questions that passed, up to per_op of each op and precision in each of the ways.

    The first is one that tells most in that way, the others are drawn from the seed.  Scores, whose
    arguments are records, are asked a second time and in no other way.
    """
    rng = np.random.default_rng(seed)
    groups: dict[tuple[str, str], list[tuple[Question, Record]]] = {}
    for question, record in zip(questions, records, strict=True):
        if record["outcome"] == Outcome.PASS and not question.vector.error:
            key = question.vector.op, question.precision
            groups.setdefault(key, []).append((question, record))
    chosen = []
    for (op, _), group in groups.items():
        for way in (AGAIN,) if op in SCORES else (AGAIN, *ways):
            few = [q for q, r in group if way != THREADS or r["seconds"] <= MOST_SECONDS]
            shuffled = [few[i] for i in rng.permutation(len(few))]
            shuffled.sort(key=lambda q, way=way: -telling(q.vector, way))  # type: ignore[misc]
            rest = [shuffled[1:][i] for i in rng.permutation(max(len(shuffled) - 1, 0))]
            most = min(per_op, 1) if way == THREADS else per_op
            chosen += [replace(q, way=way) for q in (shuffled[:1] + rest)[:most]]
    return chosen


def telling(v: Vector, way: str) -> int:
    """How much a vector can tell in a way: by its size, or by the tensors that it concerns."""
    if way == THREADS:
        sizes = [x.size for x in v.tensors.values()]
        return sum(sizes) + sum(int(np.prod(e.full_shape)) for e in v.expected.values())
    if way == ZERO:
        return sum(bool(constant_axes(x)) for x in v.tensors.values())
    return sum(x.size > 1 for x in v.tensors.values())


def ask_again(
    candidate: Candidate, questions: Sequence[Question], seed: int, progress: Callable[[], None]
) -> list[Record]:
    """Ask in another order than before; a failure says in which way it was asked."""
    return [told(record) for record in run(candidate, questions, seed + 1, progress)]


def told(record: Record) -> Record:
    """The record of a failure with the way in its detail; what was claimed cannot be declined."""
    if record["outcome"] == Outcome.PASS:
        return record
    if record["outcome"] == Outcome.UNCLAIMED:
        record = record | {"outcome": str(Outcome.RAISED), "detail": "it declines what it answered"}
    return record | {"detail": "; ".join(filter(None, (record["way"], record.get("detail"))))}


def own(record: Record) -> bool:
    """Whether a record is about memory, order or threads and not about the op's mathematics."""
    return "way" in record or record["outcome"] == Outcome.WROTE


def suspects(records: Sequence[Record]) -> list[dict[str, str]]:
    """The clauses on presentation that are violated, each with what shows it."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if own(record) and record["outcome"] not in NEUTRAL:
            found.setdefault(record["clauses"][0], []).append(record)
    return [{"clause": clause, "reason": reason(failed)} for clause, failed in found.items()]


def reason(failed: Sequence[Record]) -> str:
    """What happened, to which ops."""
    ops = ", ".join(sorted({record["op"] for record in failed}))
    ways = sorted({record["way"] for record in failed if "way" in record})
    if not ways:
        return f"{ops}: {failed[0]['detail']}, on {failed[0]['id']}"
    return f"{ops}: what passed before fails {', and '.join(ways)}"
