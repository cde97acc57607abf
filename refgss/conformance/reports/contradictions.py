"""What cannot be true of a report, though it is complete and its hash fits: see `refgss verify`.

A report is what a check wrote, so its lines agree with each other, with the claims in its header
and, where it was made with the published vectors, with these.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from refgss.conformance import PRECISIONS, SCORES
from refgss.conformance.candidates.presentation import AGAIN, UNTOUCHED, WAYS, clauses_of
from refgss.conformance.judging.compare import NEUTRAL, Outcome
from refgss.conformance.judging.runner import Record, select
from refgss.conformance.reports.report import Report, profile_of, ratio_of
from refgss.conformance.vectors.format import Vector, VectorSet

OF_NUMBERS = {Outcome.WRONG_VALUE, Outcome.NON_FINITE, Outcome.WRONG_FRESH}  # error/budget > 1
MEASURED = ("ratio", "got", "expected", "budget", "index")
EPS = 2.0**-52


def contradictions(report: Report, published: VectorSet) -> Iterator[str]:
    """A sentence for each thing in a report that cannot be true.  Clauses: GSS-FMT-10."""
    yield from of_header(report.header)
    known = {v.id: v for v in published.vectors}
    vectors = known if report.header["manifest"] == published.digest else None
    counts = Counter((c["id"], c["precision"], c.get("way", "")) for c in report.cases)
    for (id, *how), n in counts.items():
        if n > 1:
            yield f"{id} ({', '.join(filter(None, how))}) is there {n} times"
    for case in report.cases:
        found = [*of_claims(case, report.header), *of_outcome(case), *of_numbers(case)]
        found += of_vector(case, vectors) if vectors is not None else []
        yield from (f"{case['id']} ({case['precision']}): {wrong}" for wrong in found)
    if vectors is not None:
        yield from of_selection(report, published)
    if "suspects" in report.footer and all(c["outcome"] in NEUTRAL for c in report.cases):
        yield "clauses are suspected, though no case failed"


def of_header(header: Mapping[str, Any]) -> Iterator[str]:
    for name, names in (("profiles", header["profiles"]), ("ops", header["candidate"]["ops"])):
        if len(set(names)) < len(names):
            yield f"its {name} name one twice"
    if not {*PRECISIONS, SCORES} & set(header["profiles"]):
        yield f"it was held to no precision: {', '.join(PRECISIONS)}"
    try:
        datetime.fromisoformat(header["started"])
    except ValueError:
        yield f"{header['started']!r} is no time to have started at"


def of_selection(report: Report, published: VectorSet) -> Iterator[str]:
    """Every case of the selection is there, and no other but fresh ones.  Clauses: GSS-CNF-16."""
    head = report.header
    only, selection = head.get("only", {}), head.get("selection", "default")
    narrowed = only.get("ops", ()), only.get("clauses", ())
    ids = only.get("ids", ())
    due = select(published.vectors, head["profiles"], *narrowed, selection, ids)
    want = {(q.vector.id, q.precision) for q in due}
    found = {(c["id"], c["precision"]) for c in report.cases if not was_drawn(c)}
    yield from (
        f"it lacks {id} ({precision}), which belongs to what was asked"
        for id, precision in sorted(want - found)
    )
    yield from (
        f"{id} ({precision}) belongs to nothing that was asked"
        for id, precision in sorted(found - want)
    )


def was_drawn(case: Record) -> bool:
    """Whether the seed chose a case, or the way in which it was asked."""
    return ".fresh-" in case["id"] or "way" in case


def of_claims(case: Record, header: Mapping[str, Any]) -> Iterator[str]:
    """A case is of an op and of profiles that the header names."""
    if case["outcome"] != Outcome.UNCLAIMED and case["op"] not in header["candidate"]["ops"]:
        yield f"{case['outcome']}, though the candidate does not claim {case['op']}"
    judged = profile_of(case["op"], case["precision"])
    for profile in (judged, case.get("layer_profile")):
        if profile is not None and profile not in header["profiles"]:
            yield f"it is of the profile {profile}, which was not judged"


def of_outcome(case: Record) -> Iterator[str]:
    """An outcome has what belongs to it and nothing else."""
    outcome, ratio = case["outcome"], ratio_of(case)
    if ("reason" in case) != (outcome == Outcome.WAIVED):
        yield "a reason is given for what is waived, and only for that"
    if case.get("fresh", False) != (".fresh-" in case["id"]):
        yield "its id and `fresh` disagree"
    if outcome == Outcome.WRONG_FRESH and not case.get("fresh"):
        yield f"{outcome}, though it is a published vector"
    if outcome in OF_NUMBERS | {Outcome.WAIVED} and "ratio" in case and not ratio > 1:
        yield f"{outcome}, though error/budget is {ratio:g}"
    if outcome in OF_NUMBERS and "ratio" not in case and "way" not in case:
        yield f"{outcome} without error/budget"
    if outcome == Outcome.PASS and not 0 <= ratio <= 1:
        yield f"{outcome}, though error/budget is {ratio:g}"
    if outcome not in OF_NUMBERS | {Outcome.PASS, Outcome.WAIVED}:
        yield from (f"{outcome}, though it has a {name}" for name in MEASURED if name in case)


def of_numbers(case: Record) -> Iterator[str]:
    """error/budget is what the numbers beside it give, but for the part of `expected` below it."""
    if not {"ratio", "got", "expected", "budget"} <= case.keys():
        return
    ratio, got, want, budget = (float(case[x]) for x in ("ratio", "got", "expected", "budget"))
    if not all(map(math.isfinite, (ratio, got, want, budget))):
        return
    error = abs(got - want)
    rounding = math.ulp(want) + 4 * EPS * (error + abs(ratio * budget))
    if budget < 0 or not abs(ratio * budget - error) <= rounding:
        yield f"error/budget is {ratio:g}, though |{got:g} - {want:g}| / {budget:g} is another"


def of_vector(case: Record, vectors: Mapping[str, Vector]) -> Sequence[str]:
    """A case is of a vector that there is, and has its op, layer profile and clauses."""
    v = vectors.get(case["id"].partition(".fresh-")[0])
    if v is None:
        return ["there is no such vector"]
    way = case.get("way")
    if way is not None and way not in {*WAYS, AGAIN}:
        return [f"there is no way {way!r} to ask"]
    may: list[tuple[str, ...]] = (
        [UNTOUCHED] if case["outcome"] in (Outcome.WROTE, Outcome.WAIVED) else []
    )
    if case["outcome"] != Outcome.WROTE:
        may.append(v.clauses if way is None else clauses_of(way))
    agrees = (case["op"], case.get("layer_profile")) == (v.op, v.layer_profile)
    return [] if agrees and tuple(case["clauses"]) in may else ["the vector is another"]
