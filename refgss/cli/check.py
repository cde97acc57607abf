"""`refgss check`: judge a candidate, say which clause fails, and leave with the verdict."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path

import click

from refgss.cli import terminal
from refgss.cli.arguments import CLAUSE, FOLDER, OP, Amount, Target, nearest
from refgss.cli.exits import (
    OF_VERDICT,
    USAGE,
    ExitError,
    StaleWaiverError,
    TooFewCasesError,
    sentence_of,
)
from refgss.cli.failures import describe
from refgss.conformance import PROFILES
from refgss.conformance.candidates.claims import Candidate, CandidateError, Capabilities, claimed
from refgss.conformance.candidates.targets import ALIASES, import_backend, open_candidate
from refgss.conformance.clauses import Clause, read_clauses
from refgss.conformance.judging import advice, presented, runner, shrink, waivers
from refgss.conformance.judging.compare import NEUTRAL, Outcome
from refgss.conformance.judging.diagnosis import diagnose
from refgss.conformance.judging.likeness import published as signatures
from refgss.conformance.reports import page
from refgss.conformance.reports import report as reports
from refgss.conformance.reports.badge import badge as badge_of
from refgss.conformance.reports.junit import junit as junit_of
from refgss.conformance.vectors import fresh
from refgss.conformance.vectors.format import VectorSet, read_vectors, write_vectors
from refgss.files import atomic_write
from refgss.ops import OPS
from refgss.standard import spec_folder

EPILOG = """
\b
A candidate is one of
  reference, native, jax     a backend of this project
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
SUSPECTS = 3  # clauses that a diagnosis names
NAMED = 5  # names that a candidate claims and that mean nothing


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
    "--new-candidate", type=Target(), help="Write a NumPy candidate to start from, then exit."
)
def check(
    specs: Sequence[str],
    requested: Sequence[str],
    ops: Sequence[str],
    only: Sequence[str],
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
) -> None:
    """Judge an implementation against the standard, clause by clause."""
    if new_candidate is not None:
        return write_template(new_candidate)
    specs = list(dict.fromkeys(specs)) or usable_backends()
    if len(specs) > 1 and (badge or waiver_file or counterexamples):
        raise click.UsageError("--badge, --waivers and --shrink are for one --candidate at a time")
    if counterexamples:
        refuse_to_shrink(counterexamples)
    clauses = read_clauses(spec_folder())
    published = read_vectors(folder or spec_folder() / "vectors")
    accepted = read_waivers(waiver_file, published) if waiver_file else []
    seed = secrets.randbelow(2**32) if seed is None else seed
    selection = selection or "default"
    targets = Targets(report_file, junit, html, badge)
    done, stale, unwritten = [], [], []
    for spec in specs:
        with closing(opened(spec, timeout, memory)) as candidate:
            about = candidate.about
            profiles = profiles_of(requested, about)
            questions = asked(published, profiles, ops, only, about, seed, per_op, selection)
            with terminal.progress(about.name, len(questions)) as step:
                records = runner.run(candidate, questions, seed, step)
            if not only:  # those of one clause may well be cases that an honest candidate declines
                records = runner.claimed_in_vain(about.offered, questions, records)
            ways = about.ways
            more = presented.again(questions, records, ways, again_per_op, seed)
            with terminal.progress(f"{about.name}, again", len(more)) as step:
                records += presented.ask_again(candidate, more, seed, step)
            questions += more
            records = advice.apply(records, clauses)
            records, old = waivers.apply(accepted, records, date.today())
            narrowed = {"ops": ops, "clauses": only}
            header = reports.header(spec, about, profiles, published, seed, selection, narrowed)
            done.append(reports.close(header, records, diagnosed(candidate, published, records)))
            stale += old
            unwritten = targets.write(done, clauses)  # before a reader can leave (| head)
            small = (
                save_counterexamples(candidate, questions, records, counterexamples, published.date)
                if counterexamples
                else []
            )
            terminal.show(done[-1], clauses, small)
            if counterexamples and not small:
                terminal.note(found_nothing(records))
            elif not small and any(record["outcome"] in shrink.WORTH_IT for record in records):
                terminal.note("--shrink FOLDER finds a minimal input that fails, for each op")
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


def profiles_of(requested: Sequence[str], about: Capabilities) -> list[str]:
    """What the candidate is held to, with a note about what it did not claim."""
    note_unknown("op", runner.unknown_ops(about), OPS)
    note_unknown("profile", sorted(set(about.profiles) - set(PROFILES)), PROFILES)
    for profile in sorted(set(requested) - set(about.profiles)):
        terminal.note(f"the candidate does not claim {profile}; it is checked because you asked")
    return runner.profiles_to_check(requested, about.profiles)


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


def asked(
    published: VectorSet,
    profiles: Sequence[str],
    ops: Sequence[str],
    only: Sequence[str],
    about: Capabilities,
    seed: int,
    per_op: int,
    selection: str,
) -> list[runner.Question]:
    """The selected vectors and fresh ones."""
    questions = runner.select(published.vectors, profiles, ops, only, selection)
    if not questions:
        raise TooFewCasesError(
            "no vector fits this choice of profiles, ops and clauses: choose less narrowly"
        )
    return questions + fresh_questions(
        questions, about.offered, per_op, seed, large=selection != "quick"
    )


def fresh_questions(
    questions: Sequence[runner.Question], ops: Collection[str], per_op: int, seed: int, large: bool
) -> list[runner.Question]:
    """Fresh cases like those selected, for the ops that are claimed."""
    if not per_op:
        return []
    if not fresh.available():
        terminal.note(
            "no fresh cases are drawn, so a table of answers would pass: "
            "python-flint is missing, install refgss[certify]"
        )
        return []
    templates = {q.vector.id: q.vector for q in questions if q.vector.op in ops}
    precisions = sorted({q.precision for q in questions})
    with terminal.waiting("drawing and certifying fresh cases"):
        drawn = fresh.draw(templates.values(), per_op, seed, large)
    return [runner.Question(v, precision, fresh=True) for v in drawn for precision in precisions]


def diagnosed(
    candidate: Candidate, published: VectorSet, records: Sequence[runner.Record]
) -> list[dict[str, str]]:
    """The clauses that the failures point to, if there are failures."""
    if all(record["outcome"] in NEUTRAL for record in records):
        return []
    mathematical = [record for record in records if not presented.own(record)]
    with terminal.waiting("looking for the clause that is violated"):
        found = diagnose(candidate, published.vectors, mathematical, signatures())
    named = [{"clause": s.clause, "reason": s.reason} for s in found[:SUSPECTS]]
    return named + presented.suspects(records)


def save_counterexamples(
    candidate: Candidate,
    questions: Sequence[runner.Question],
    records: Sequence[runner.Record],
    folder: Path,
    date: str,
) -> list[str]:
    """Shrink the worst failure of each op, write it as a vector, and say what it is."""
    with terminal.waiting("looking for small counterexamples"):
        found = shrink.counterexamples(candidate, questions, records)
    if not found:
        return []
    write_vectors(folder, [small for small, _ in found.values()], date)
    told = [f"{describe(r)}\n    {shrink.shown(small)}" for small, r in found.values()]
    return [*told, f"saved in {folder}: check them with --vectors {folder} --fresh 0"]


def found_nothing(records: Sequence[runner.Record]) -> str:
    """Why there is no counterexample, and that no folder was written."""
    failed = [r for r in records if r["outcome"] not in NEUTRAL]
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


def write_template(path: Path) -> None:
    """The NumPy candidate that a newcomer fills in."""
    if path.exists():
        raise click.UsageError(f"{path} exists: choose another name")
    if path.suffix != ".py":
        raise click.UsageError(f"{path} does not end in .py, as a Python file must")
    atomic_write(path, files("refgss.conformance.candidates").joinpath("template.py").read_bytes())
    terminal.say(f"wrote {path}; now run: refgss check --candidate python:{path}")


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
