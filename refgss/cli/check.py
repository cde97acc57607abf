"""`refgss check`: judge a candidate, say which clause fails, and leave with the verdict."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click

from refgss.cli import terminal
from refgss.cli.arguments import CLAUSE, FOLDER, OP, Amount, Target, nearest
from refgss.cli.exits import (
    OF_VERDICT,
    USAGE,
    ExitError,
    StaleWaiverError,
    sentence_of,
)
from refgss.cli.new_candidate import FRAMEWORKS, write_candidate
from refgss.conformance import PROFILES
from refgss.conformance.candidates.claims import Candidate, CandidateError, Capabilities, claimed
from refgss.conformance.candidates.targets import ALIASES, import_backend, open_candidate
from refgss.conformance.check import Checked, Plan, TooFewCasesError
from refgss.conformance.check import check as check_one
from refgss.conformance.clauses import Clause, read_clauses
from refgss.conformance.judging import runner, shrink, waivers
from refgss.conformance.judging.compare import NEUTRAL, Outcome
from refgss.conformance.reports import page
from refgss.conformance.reports import report as reports
from refgss.conformance.reports.badge import badge as badge_of
from refgss.conformance.reports.failures import describe
from refgss.conformance.reports.junit import junit as junit_of
from refgss.conformance.vectors import fresh
from refgss.conformance.vectors.format import VectorSet, read_vectors, write_vectors
from refgss.files import atomic_write, filling
from refgss.ops import CONTRACT
from refgss.standard import spec_folder

EPILOG = """
\b
A candidate is one of
  reference, native, jax, torch
                             a backend of this project
  scores                     the scores of this project
  python:MODULE[:OBJECT]     functions with the reference's names, in a process of their own
  python:FILE.py             the same, from a file
  lib:FILE.so                a library that implements include/refgss.h
  cmd:"PROGRAM ARGS"         any program that speaks the protocol (spec/13-file-formats.md)

\b
Exit codes: 0 conforms, 1 does not, 2 usage, 3 could not start or broke the protocol,
4 vectors damaged or no case judged, 5 a waiver is stale, 70 a defect of refgss.

\b
Examples
  refgss check                                      every backend that is usable here
  refgss check --candidate python:my_gss.py --profile f32 --op gelu
  refgss check --candidate lib:./libmine.so --report mine.jsonl --html mine.html
"""
NAMED = 5  # names that a candidate claims and that mean nothing


NO_FRESH = (
    "no fresh cases are drawn, so a table of answers would pass: "
    "python-flint is missing, install refgss[certify]"
)


@dataclass(frozen=True)
class Targets:
    """The files that a check writes, if they are asked for."""

    report: Path | None
    junit: Path | None
    html: Path | None
    badge: Path | None

    def write(self, done: Sequence[reports.Report], clauses: Mapping[str, Clause]) -> list[str]:
        """Write all of them; a sentence for each that could not be written."""
        views = (
            (self.report, lambda: reports.content(done)),
            (self.junit, lambda: junit_of(done)),
            (self.html, lambda: page.html(done, clauses)),
            (self.badge, lambda: badge_of(done[0], clauses)),
        )
        failed = []
        for path, content in views:
            try:
                if path:
                    atomic_write(path, content())
            except OSError as e:
                failed.append(sentence_of(e))
        return failed


@click.command(epilog=EPILOG, short_help="Judge an implementation by clause.")
@click.option(
    "--candidate",
    "specs",
    multiple=True,
    metavar="CANDIDATE",
    help="What to judge (see below). Default: every usable backend of this project.",
)
@click.option(
    "--profile",
    "requested",
    multiple=True,
    type=click.Choice(PROFILES),
    help="Profile to check against; may be repeated. Default: every profile it claims.",
)
@click.option(
    "--op", "ops", multiple=True, type=OP, metavar="OP", help="Check only this op; may be repeated."
)
@click.option(
    "--clause", "only", multiple=True, type=CLAUSE, metavar="ID", help="Check only this clause."
)
@click.option(
    "--case", "ids", multiple=True, metavar="ID", help="Check only this vector; may be repeated."
)
@click.option(
    "--report",
    "report_file",
    type=Target(),
    help="Write the report as JSON lines (several candidates: one report after another).",
)
@click.option("--junit", type=Target(), help="Write the results as JUnit XML.")
@click.option("--html", type=Target(), help="Write the results as one self-contained HTML page.")
@click.option("--badge", type=Target(), help="Write a badge (SVG).")
@click.option(
    "--timeout",
    type=Amount(),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Time limit per case.",
)
@click.option(
    "--memory",
    type=Amount(),
    default=8.0,
    show_default=True,
    metavar="GIB",
    help="Memory limit of the candidate's process.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**53),
    metavar="N",
    help="Seed of the order and of the fresh cases. Default: random, and printed.",
)
@click.option(
    "--fresh",
    "per_op",
    default=2,
    show_default=True,
    type=click.IntRange(0),
    metavar="N",
    help="Number of fresh cases to draw and certify for each op.",
)
@click.option(
    "--again",
    "again_per_op",
    default=2,
    show_default=True,
    type=click.IntRange(0),
    metavar="N",
    help="Cases per op to repeat with strided or read-only memory, threads, and so on.",
)
@click.option(
    "--waivers",
    "waiver_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="JSON file of known failures to waive.",
)
@click.option("--quick", "selection", flag_value="quick", help="Skip the larger sizes.")
@click.option(
    "--thorough",
    "selection",
    flag_value="thorough",
    help="Include the largest sizes, up to 65,537.",
)
@click.option(
    "--vectors",
    "folder",
    type=FOLDER,
    help="Use the vectors in this folder instead of the published ones.",
)
@click.option(
    "--shrink",
    "counterexamples",
    type=FOLDER,
    help="Minimize the worst failure of each op and save it as a vector in this new folder.",
)
@click.option(
    "--new-candidate",
    type=Target(),
    help="Write a candidate to start from (FILE.py, .c, .rs or .mjs), then exit.",
)
@click.option(
    "--framework",
    type=click.Choice(FRAMEWORKS),
    default="numpy",
    show_default=True,
    help="Arrays of the new candidate, if it is in Python.",
)
def check(
    specs: Sequence[str],
    requested: Sequence[str],
    ops: Sequence[str],
    only: Sequence[str],
    ids: Sequence[str],
    report_file: Path | None,
    junit: Path | None,
    html: Path | None,
    badge: Path | None,
    timeout: float,
    memory: float,
    seed: int | None,
    per_op: int,
    again_per_op: int,
    waiver_file: Path | None,
    selection: str | None,
    folder: Path | None,
    counterexamples: Path | None,
    new_candidate: Path | None,
    framework: str,
) -> None:
    """Judge an implementation against the standard, clause by clause."""
    if new_candidate is not None:
        return write_candidate(new_candidate, framework)
    specs = list(dict.fromkeys(specs)) or usable_backends()
    if len(specs) > 1 and (badge or waiver_file or counterexamples):
        raise click.UsageError("--badge, --waivers and --shrink are for one --candidate at a time")
    if counterexamples:
        refuse_to_shrink(counterexamples)
    plan = Plan(
        requested,
        ops,
        only,
        ids,
        selection or "default",
        per_op,
        again_per_op,
        secrets.randbelow(2**32) if seed is None else seed,
    )
    if per_op and not fresh.available():
        terminal.note(NO_FRESH)
    clauses = read_clauses(spec_folder())
    published = read_vectors(folder or spec_folder() / "vectors")
    refuse_unknown(ids, published)
    accepted = read_waivers(waiver_file, published) if waiver_file else []
    targets = Targets(report_file, junit, html, badge)
    done: list[reports.Report] = []
    stale: list[str] = []
    unwritten: list[str] = []
    for spec in specs:
        with closing(opened(spec, timeout, memory)) as candidate:
            note_claims(requested, candidate.about)
            checked = check_one(
                candidate, spec, published, clauses, plan, accepted, terminal.watched
            )
            done.append(checked.report)
            stale += checked.stale
            unwritten = targets.write(done, clauses)  # before a reader can leave (| head)
            small: list[str] = []
            try:
                small = minimized(candidate, checked, counterexamples, published.date)
                advice = about_minimizing(checked.report.cases, counterexamples, small)
            except OSError as e:  # the result is shown all the same
                unwritten.append(sentence_of(e))
                advice = None
            terminal.show(checked.report, clauses, small)
            if advice:
                terminal.note(advice)
    if len(done) > 1:
        terminal.compare(done, clauses)
    for sentence in unwritten:
        terminal.complain(f"refgss: {sentence}")
    if unwritten:
        raise ExitError(USAGE)
    finish(done, stale)


def opened(spec: str, timeout: float, memory: float) -> Candidate:
    try:
        with terminal.waiting(f"starting {spec}"):
            return open_candidate(spec, timeout, int(min(memory * 2**30, 2**62)))
    except ValueError as e:
        raise click.UsageError(str(e)) from e


def usable_backends() -> list[str]:
    """The backends of this project that can be used here; a note about each that cannot."""
    usable = []
    for alias in ALIASES:
        try:
            if claimed(import_backend(alias)).ops:
                usable.append(alias)
        except CandidateError as e:
            terminal.note(f"{e}; it is not checked")
    return usable


def note_claims(requested: Sequence[str], about: Capabilities) -> None:
    """Notes about claims that mean nothing, and about what is checked without being claimed."""
    note_unknown("op", runner.unknown_ops(about), CONTRACT)
    note_unknown("profile", sorted(set(about.profiles) - set(PROFILES)), PROFILES)
    for profile in sorted(set(requested) - set(about.profiles)):
        terminal.note(f"the candidate does not claim {profile}; it is checked because you asked")


def note_unknown(kind: str, names: Sequence[str], known: Iterable[str]) -> None:
    """A note about each of the first few names that mean nothing, and how many more there are."""
    for name in names[:NAMED]:
        guess = nearest(name, known)
        terminal.note(f"the candidate claims {name}, which is no {kind}: {guess}it is ignored")
    if len(names) > NAMED:
        more = len(names) - NAMED
        terminal.note(
            f"{more} more names that the candidate claims are no {kind}: they are ignored"
        )


def refuse_unknown(ids: Sequence[str], published: VectorSet) -> None:
    """Raises UsageError for an id that no vector has."""
    known = {v.id for v in published.vectors}
    for id in ids:
        if id not in known:
            raise click.UsageError(
                f"there is no vector {id}: {nearest(id, known)}`refgss vectors list` lists them"
            )


def minimized(candidate: Candidate, checked: Checked, folder: Path | None, date: str) -> list[str]:
    """Shrink the worst failure of each op, write it as a vector, and say what it is."""
    if folder is None:
        return []
    with terminal.waiting("looking for small counterexamples"):
        found = shrink.counterexamples(candidate, checked.questions, checked.report.cases)
    if not found:
        return []
    with filling(folder) as new:
        write_vectors(new, [small for small, _ in found.values()], date)
    told = [f"{describe(r)}\n    {shrink.shown(small)}" for small, r in found.values()]
    return [*told, f"saved in {folder}: check them with --vectors {folder} --fresh 0"]


def about_minimizing(
    cases: Sequence[runner.Record], folder: Path | None, small: Sequence[str]
) -> str | None:
    """Why there is no counterexample, or how to get one; None where neither needs saying."""
    if small:
        return None
    if folder is None:
        able = any(case["outcome"] in shrink.WORTH_IT for case in cases)
        return "--shrink FOLDER finds a minimal input that fails, for each op" if able else None
    failed = [case for case in cases if case["outcome"] not in NEUTRAL]
    why = "no failure is one of numbers on inputs that can be cut" if failed else "nothing fails"
    return f"--shrink found nothing to make small and wrote nothing: {why}"


def refuse_to_shrink(folder: Path) -> None:
    """Say at once what would stop the counterexamples from being saved."""
    if not fresh.available():
        raise click.UsageError("--shrink needs python-flint: install refgss[certify]")
    if folder.exists() and any(folder.iterdir()):
        raise click.UsageError(f"--shrink {folder} is not empty: choose a new folder")


def read_waivers(path: Path, published: VectorSet) -> list[waivers.Waiver]:
    """The waivers of a file, each of a vector that there is."""
    try:
        found = waivers.read(path)
    except ValueError as e:
        raise click.UsageError(f"the waivers cannot be used: {e}") from e
    known = {v.id for v in published.vectors}
    for waiver in found:
        if waiver.id not in known:
            guess = nearest(waiver.id, known)
            raise click.UsageError(
                f"{path} waives {waiver.id}, which is no vector: {guess}".rstrip(": ")
            )
    return found


def finish(done: Sequence[reports.Report], stale: Sequence[str]) -> None:
    """Leave with the exit code of the worst verdict."""
    for report in done:
        if not any(case["outcome"] != Outcome.UNCLAIMED for case in report.cases):
            raise TooFewCasesError(
                f"{report.name} claims none of the ops selected: nothing was tested"
            )
    if code := max(OF_VERDICT[report.verdict] for report in done):
        for sentence in stale:
            terminal.note(sentence)
        raise ExitError(code)
    if stale:
        raise StaleWaiverError("; ".join(stale))
