"""The conformance kit inside other projects' test suites.

    from refgss.testing import assert_conforms

    def test_my_layers_conform():
        assert_conforms(my_module, ops=["gss_layer"], profiles=["f64", "paper"])

or, with a test for each vector and the pytest options of `refgss.pytest_plugin`,

    def test_conforms(refgss_case):
        refgss_case.check()
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from types import ModuleType
from typing import Any

from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.candidates.claims import Candidate
from refgss.conformance.candidates.targets import open_candidate
from refgss.conformance.check import Plan, check
from refgss.conformance.clauses import read_clauses
from refgss.conformance.judging.compare import NEUTRAL
from refgss.conformance.reports.failures import describe
from refgss.conformance.reports.report import CONFORMS, Report, extent
from refgss.conformance.vectors.format import read_vectors
from refgss.standard import spec_folder

SHOWN = 5  # failures in the message of an AssertionError


def assert_conforms(
    candidate: Any,
    *,
    ops: Sequence[str] = (),
    clauses: Sequence[str] = (),
    profiles: Sequence[str] = (),
    selection: str = "quick",
    fresh: int = 0,
    again: int = 1,
    seed: int = 0,
    timeout: float = 30.0,
) -> Report:
    """Check a candidate against the published vectors, and return the report.

    candidate  a module or an object with ops as attributes, called in this process, so that a
               debugger stops in it; or a string as `refgss check --candidate` takes, judged in a
               process of its own within `timeout` seconds a case.
    ops, clauses, profiles, selection, fresh, again, seed: see `refgss.conformance.check.Plan`.

    Raises AssertionError with the clauses most probably violated and the first failures where the
    candidate does not conform, CandidateError where it cannot be asked, ValueError where its name
    means nothing, TooFewCasesError where no vector is selected.  Clauses: GSS-CNF-6.
    """
    plan = Plan(profiles, ops, clauses, (), selection, fresh, again, seed)
    with closing(opened(candidate, timeout)) as asked:
        published = read_vectors(spec_folder() / "vectors")
        name = candidate if isinstance(candidate, str) else asked.about.name
        report = check(asked, name, published, read_clauses(spec_folder()), plan).report
    if report.verdict != CONFORMS:
        raise AssertionError(told(report))
    return report


def opened(candidate: Any, timeout: float) -> Candidate:
    """A candidate in this process, or the one that a string names."""
    if isinstance(candidate, str):
        return open_candidate(candidate, timeout)
    if not isinstance(candidate, ModuleType) and isinstance(candidate, type):
        raise ValueError(f"{candidate.__name__} is a class: give an object or a module with ops")
    return ModuleCandidate(candidate)


def told(report: Report) -> str:
    """A failing report in a few lines: the verdict, the suspects, the first failures."""
    clauses = read_clauses(spec_folder())
    lines = [f"{report.name} {report.verdict}{extent(report)}"]
    for suspect in report.footer.get("suspects", ()):
        clause = clauses.get(suspect["clause"])
        lines.append(f"{suspect['clause']} {clause.text if clause else ''}".rstrip())
        lines.append(f"    {suspect['reason']}")
    failed = [case for case in report.cases if case["outcome"] not in NEUTRAL]
    lines += map(describe, failed[:SHOWN])
    if len(failed) > SHOWN:
        lines.append(f"and {len(failed) - SHOWN} more failures of {len(report.cases)} cases")
    return "\n".join(lines)
