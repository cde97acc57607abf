"""Waivers: failures that are known and accepted, each with a reason, a link and a last day."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from refgss.conformance.compare import NEUTRAL, Outcome
from refgss.conformance.runner import Record
from refgss.conformance.schemas import complaint


@dataclass(frozen=True)
class Waiver:
    id: str  # of the vector
    reason: str
    link: str
    expires: str  # the last day on which it holds, YYYY-MM-DD


def read(path: Path) -> list[Waiver]:
    """The waivers of a file.  Raises ValueError where it does not fit its schema."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path} is not JSON: {e}") from e
    if trouble := complaint("waivers", content):
        raise ValueError(f"{path}: {trouble}")
    return [Waiver(**w) for w in content["waivers"]]


def apply(
    waivers: Sequence[Waiver], records: Sequence[Record], today: date
) -> tuple[list[Record], list[str]]:
    """The records with waived failures, and a sentence for each waiver that is stale.

    A waiver is stale when its day is over, or when its vector was run and did not fail.
    Clauses: GSS-CNF-7.
    """
    valid = {w.id: w for w in waivers if date.fromisoformat(w.expires) >= today}
    ran = {r["id"] for r in records}
    failed = {r["id"] for r in records if r["outcome"] not in NEUTRAL}
    stale = [
        f"the waiver of {w.id} expired on {w.expires}: fix the failure or renew it"
        for w in waivers
        if w.id not in valid
    ]
    stale += [
        f"the waiver of {id} has nothing left to waive: remove it"
        for id in valid
        if id in ran and id not in failed
    ]
    waived = [
        r
        if r["outcome"] in NEUTRAL or r["id"] not in valid
        else r | {"outcome": str(Outcome.WAIVED), "reason": valid[r["id"]].reason}
        for r in records
    ]
    return waived, stale
