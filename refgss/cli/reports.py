"""`refgss report`, `diff` and `verify`: reports that have been written, shown and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from refgss.cli import terminal
from refgss.cli.arguments import REPORT, Target
from refgss.cli.exits import NOT_CONFORMING, OF_VERDICT, ExitError
from refgss.conformance.clauses import read_clauses
from refgss.conformance.judging.compare import NEUTRAL
from refgss.conformance.judging.runner import Record
from refgss.conformance.reports import page
from refgss.conformance.reports.contradictions import contradictions
from refgss.conformance.reports.junit import junit as junit_of
from refgss.conformance.reports.report import DamagedReportError, Report, ratio_of, read, read_all
from refgss.conformance.vectors.format import read_vectors
from refgss.files import atomic_write
from refgss.standard import spec_folder

SHOWN = 3  # contradictions of a report


@click.command(short_help="Show one or more reports.")
@click.argument("files", nargs=-1, required=True, type=REPORT)
@click.option("--html", type=Target(), help="Write the reports as one self-contained HTML page.")
@click.option("--junit", type=Target(), help="Write the results as JUnit XML.")
def report(files: Sequence[Path], html: Path | None, junit: Path | None) -> None:
    """Show one or more reports; the exit code is that of the worst verdict."""
    reports = [one for file in files for one in read_all(file)]
    clauses = read_clauses(spec_folder())
    if html:
        atomic_write(html, page.html(reports, clauses))
    if junit:
        atomic_write(junit, junit_of(reports))
    for one in reports:
        terminal.show(one, clauses)
    if len(reports) > 1:
        terminal.compare(reports, clauses)
    if code := max(OF_VERDICT[one.verdict] for one in reports):
        raise ExitError(code)


@click.command(short_help="Compare two reports.")
@click.argument("before", type=REPORT)
@click.argument("after", type=REPORT)
def diff(before: Path, after: Path) -> None:
    """List the cases whose outcome changed, or whose error/budget changed twofold or more.

    Of fresh cases only failures count.  The exit code is 1 if a case fails that did not before.
    """
    first, second = read(before), read(after)
    for field in ("spec", "vectors", "manifest"):
        if first.header[field] != second.header[field]:
            terminal.note(f"the reports are of different {field}")
            break
    old, new = by_key(first), by_key(second)
    worse = 0
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if (change := changed(a, b)) is not None:
            terminal.say(f"{key[0]} ({', '.join(filter(None, key[1:]))}): {change}")
        worse += fails(b) and not fails(a)
    for which, only in (("first", old.keys() - new.keys()), ("second", new.keys() - old.keys())):
        if only:
            terminal.say(f"{len(only)} cases are only in the {which} report")
    terminal.say(f"{worse} new failures")
    if worse:
        raise ExitError(NOT_CONFORMING)


def fails(case: Record | None) -> bool:
    return case is not None and case["outcome"] not in NEUTRAL


def by_key(report: Report) -> dict[tuple[str, str, str], Record]:
    """The cases of a report that another may have too, and every failure."""
    return {
        (case["id"], case["precision"], case.get("way", "")): case
        for case in report.cases
        if not (case.get("fresh") or case.get("way")) or fails(case)
    }


def changed(a: Record | None, b: Record | None) -> str | None:
    """What happened to a case between two reports; None if nothing worth a line."""
    if a is None or b is None:
        return f"{b['outcome']}, only in the second report" if b is not None and fails(b) else None
    if a["outcome"] != b["outcome"]:
        return f"{a['outcome']} became {b['outcome']}"
    x, y = ratio_of(a), ratio_of(b)
    if 0 < x < float("inf") and 0 < y < float("inf") and not x / 2 < y < x * 2:
        return f"error/budget {x:.2g} became {y:.2g}"
    return None


@click.command(short_help="Check that reports are intact.")
@click.argument("files", nargs=-1, required=True, type=REPORT)
def verify(files: Sequence[Path]) -> None:
    """Check that reports are complete, unedited and free of contradictions.

    The exit code is 1 if one is not.
    """
    published = read_vectors(spec_folder() / "vectors")
    damaged = 0
    for file in files:
        try:
            found = read_all(file)
        except DamagedReportError as e:
            damaged += 1
            terminal.complain(f"refgss: {e}")
            continue
        for one in found:
            wrong = list(contradictions(one, published))
            damaged += bool(wrong)
            for sentence in wrong[:SHOWN]:
                terminal.complain(f"refgss: {file} contradicts itself: {sentence}")
            if len(wrong) > SHOWN:
                terminal.complain(f"refgss: {file}: and {len(wrong) - SHOWN} more contradictions")
            if not wrong:
                terminal.say(f"{file}: intact, {terminal.summary(one)}")
    if damaged:
        raise ExitError(NOT_CONFORMING)
