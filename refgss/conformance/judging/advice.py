"""Failures that break only clauses of the levels SHOULD and MAY: advice, and no failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from refgss.conformance.clauses import Clause
from refgss.conformance.judging.compare import BROKEN, NEUTRAL, Outcome
from refgss.conformance.judging.runner import Record


def apply(records: Sequence[Record], clauses: Mapping[str, Clause]) -> list[Record]:
    """The records; a failure of a case that no MUST clause asks for becomes advice.

    Its outcome stands in front of its detail.  Clauses: GSS-CNF-6.
    """
    return [advised(r) if only_advised(r, clauses) else r for r in records]


def only_advised(record: Record, clauses: Mapping[str, Clause]) -> bool:
    if record["outcome"] in NEUTRAL | BROKEN | {Outcome.CRASHED, Outcome.TIMED_OUT}:
        return False
    levels = {clauses[c].level for c in record["clauses"] if c in clauses}
    return bool(levels) and "MUST" not in levels


def advised(record: Record) -> Record:
    detail = "; ".join(filter(None, (record["outcome"], record.get("detail"))))
    return record | {"outcome": str(Outcome.ADVICE), "detail": detail}
