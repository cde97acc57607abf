"""Waivers: failures that are known and accepted, each with a reason, a link and a last day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from refgss.conformance.judging.compare import NEUTRAL, Outcome
from refgss.conformance.judging.runner import Record
from refgss.files import bounded_read
from refgss.schemas import parse, problem


@dataclass(frozen=True)
class Waiver:
    id: str  # of the vector
    reason: str
    link: str
    expires: str  # the last day on which it holds, YYYY-MM-DD


def read(path: Path) -> list[Waiver]:
    """The waivers of a file.  Raises ValueError where it does not fit its schema."""
    try:
        content = parse(bounded_read(path))
    except ValueError as e:
        raise ValueError(f"{path} is not JSON: {e}") from e
    if wrong := problem("waivers", content):
        raise ValueError(f"{path}: {wrong}")
    found = [Waiver(**w) for w in content["waivers"]]
    if twice := [id for id, n in Counter(w.id for w in found).items() if n > 1]:
        raise ValueError(f"{path}: {twice[0]} is waived twice")
    for waiver in found:
        try:
            date.fromisoformat(waiver.expires)
        except ValueError as e:
            raise ValueError(f"{path}: {waiver.expires!r} of {waiver.id} is no day") from e
    return found


def waives(waiver: str, id: str) -> bool:
    """Whether a waiver of this vector excuses a case: the vector's own, or one drawn like it."""
    return id == waiver or id.startswith(f"{waiver}.fresh-")


def apply(
    waivers: Sequence[Waiver], records: Sequence[Record], today: date
) -> tuple[list[Record], list[str]]:
    """The records with waived failures, and a sentence for each waiver that is stale.

    A waiver is stale when its day is over, or when its vector was run and did not fail.
    Clauses: GSS-CNF-7.
    """
    valid = [w for w in waivers if date.fromisoformat(w.expires) >= today]
    stale = [
        f"the waiver of {w.id} expired on {w.expires}: fix the failure or renew it"
        for w in waivers
        if w not in valid
    ]
    waived = list(records)
    for w in valid:
        ran = [i for i, r in enumerate(records) if waives(w.id, r["id"])]
        failed = [i for i in ran if records[i]["outcome"] not in NEUTRAL]
        if ran and not failed:
            stale.append(f"the waiver of {w.id} has nothing left to waive: remove it")
        for i in failed:
            waived[i] = records[i] | {
                "outcome": str(Outcome.WAIVED),
                "reason": f"{w.reason} ({w.link})",
            }
    return waived, stale
