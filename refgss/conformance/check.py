"""A whole check of one candidate: what is asked, in which order, and the report of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import date

from refgss.conformance.candidates.claims import Candidate
from refgss.conformance.clauses import Clause
from refgss.conformance.judging import advice, presented, runner, waivers
from refgss.conformance.judging.compare import NEUTRAL
from refgss.conformance.judging.diagnosis import diagnose
from refgss.conformance.judging.likeness import published as signatures
from refgss.conformance.judging.runner import Question, Record
from refgss.conformance.reports import report as reports
from refgss.conformance.vectors import fresh
from refgss.conformance.vectors.format import VectorSet

SUSPECTS = 3  # clauses that a diagnosis names

# told what begins and how many steps it has, or 0 where that is not known; gives the next step
Watch = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


class TooFewCasesError(Exception):
    """Nothing was selected, or nothing was judged: that is no conformance."""


@dataclass(frozen=True)
class Plan:
    """What is asked of a candidate; with its claims, all that is needed to ask it again.

    profiles           precisions and layer profiles; those that the candidate claims if empty.
    ops, clauses, ids  of the vectors to which the check is narrowed, where they are given.
    selection          "quick", "default" or "thorough": up to which sizes.
    fresh              cases to draw and certify for each op; they need python-flint.
    again              cases of each op to ask once more in each other way.
    seed               of the order and of all that is drawn.
    """

    profiles: Sequence[str] = ()
    ops: Sequence[str] = ()
    clauses: Sequence[str] = ()
    ids: Sequence[str] = ()
    selection: str = "default"
    fresh: int = 2
    again: int = 2
    seed: int = field(default_factory=lambda: secrets.randbelow(2**32))

    @property
    def only(self) -> dict[str, Sequence[str]]:
        return {"ops": self.ops, "clauses": self.clauses, "ids": self.ids}


@dataclass(frozen=True)
class Checked:
    """A report, the questions behind its cases, and a sentence for each stale waiver."""

    report: reports.Report
    questions: Sequence[Question]
    stale: Sequence[str]


def unwatched(what: str, steps: int) -> AbstractContextManager[Callable[[], None]]:
    return nullcontext(lambda: None)


def check(
    candidate: Candidate,
    spec: str,
    published: VectorSet,
    clauses: Mapping[str, Clause],
    plan: Plan,
    accepted: Sequence[waivers.Waiver] = (),
    watch: Watch = unwatched,
) -> Checked:
    """Ask the candidate, named `spec` in the report, all of the plan.

    Raises TooFewCasesError where the plan selects nothing.
    """
    about = candidate.about
    profiles = runner.profiles_to_check(plan.profiles, about.profiles)
    questions = selected(candidate, published, profiles, plan, watch)
    with watch(about.name, len(questions)) as step:
        records = runner.run(candidate, questions, plan.seed, step)
    if not (plan.clauses or plan.ids):  # a few cases may well be such as may be declined
        records = runner.claimed_in_vain(about.offered, questions, records)
    more = presented.again(questions, records, about.ways, plan.again, plan.seed)
    with watch(f"{about.name}, again", len(more)) as step:
        records += presented.ask_again(candidate, more, plan.seed, step)
    records = advice.apply(records, clauses)
    records, stale = waivers.apply(accepted, records, date.today())
    suspects = suspected(candidate, published, records, watch)
    head = reports.header(spec, about, profiles, published, plan.seed, plan.selection, plan.only)
    return Checked(reports.close(head, records, suspects), [*questions, *more], stale)


def selected(
    candidate: Candidate, published: VectorSet, profiles: Sequence[str], plan: Plan, watch: Watch
) -> list[Question]:
    """The vectors of the plan, and fresh ones like them of the ops that are claimed."""
    questions = runner.select(
        published.vectors, profiles, plan.ops, plan.clauses, plan.selection, plan.ids
    )
    if not questions:
        raise TooFewCasesError(
            "no vector fits this choice of profiles, ops and clauses: choose less narrowly"
        )
    if not plan.fresh or not fresh.available():
        return questions
    offered = candidate.about.offered
    templates = {q.vector.id: q.vector for q in questions if q.vector.op in offered}
    precisions = sorted({q.precision for q in questions})
    with watch("drawing and certifying fresh cases", 0):
        large = plan.selection != "quick"
        drawn = fresh.draw(templates.values(), plan.fresh, plan.seed, large)
    return questions + [Question(v, p, fresh=True) for v in drawn for p in precisions]


def suspected(
    candidate: Candidate, published: VectorSet, records: Sequence[Record], watch: Watch
) -> list[dict[str, str]]:
    """The clauses that the failures point to, if there are failures."""
    if all(record["outcome"] in NEUTRAL for record in records):
        return []
    mathematical = [record for record in records if not presented.own(record)]
    with watch("looking for the clause that is violated", 0):
        found = diagnose(candidate, published.vectors, mathematical, signatures())
    named = [{"clause": s.clause, "reason": s.reason} for s in found[:SUSPECTS]]
    return named + presented.suspects(records)
