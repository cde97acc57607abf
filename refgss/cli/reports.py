"""`refgss report`, `diff` and `verify`: reports that have been written, shown and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from refgss import files as whole
from refgss.cli import terminal
from refgss.cli.arguments import REPORT, Target
from refgss.cli.exits import NOT_CONFORMING, OF_VERDICT, ExitError
from refgss.conformance import page, spec_folder
from refgss.conformance.clauses import read_clauses
from refgss.conformance.compare import NEUTRAL
from refgss.conformance.junit import junit as junit_of
from refgss.conformance.report import Report, ratio_of, read
from refgss.conformance.runner import Record


@click.command(short_help="Show reports together.")
@click.argument("files", nargs=-1, required=True, type=REPORT)
@click.option("--html", type=Target(), help="Write one self-contained HTML page.")
@click.option("--junit", type=Target(), help="Write JUnit XML.")
def report(files: Sequence[Path], html: Path | None, junit: Path | None) -> None:
    """Show reports together; leaves with the worst of their verdicts."""
    reports = [read(file) for file in files]
    clauses = read_clauses(spec_folder())
    for one in reports:
        terminal.show(one, clauses)
    if html:
        whole.write(html, page.html(reports, clauses))
    if junit:
        whole.write(junit, junit_of(reports))
    if code := max(OF_VERDICT[one.verdict] for one in reports):
        raise ExitError(code)


@click.command(short_help="Say what changed between two reports.")
@click.argument("before", type=REPORT)
@click.argument("after", type=REPORT)
def diff(before: Path, after: Path) -> None:
    """Say which cases changed their outcome, or their error/budget by a factor of 2 or more.

    Leaves with 1 where a case that did not fail before fails now.
    """
    old, new = (by_key(read(file)) for file in (before, after))
    worse = 0
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if (change := changed(a, b)) is not None:
            click.echo(f"{key[0]} ({key[1]}): {change}")
        fails = b is not None and b["outcome"] not in NEUTRAL
        worse += fails and (a is None or a["outcome"] in NEUTRAL)
    click.echo(f"{worse} new failures")
    if worse:
        raise ExitError(NOT_CONFORMING)


def by_key(report: Report) -> dict[tuple[str, str], Record]:
    return {(case["id"], case["precision"]): case for case in report.cases}


def changed(a: Record | None, b: Record | None) -> str | None:
    """What happened to a case between two reports; None if nothing worth a line."""
    if a is None or b is None:
        return "only in the first report" if b is None else "only in the second report"
    if a["outcome"] != b["outcome"]:
        return f"{a['outcome']} became {b['outcome']}"
    x, y = ratio_of(a), ratio_of(b)
    if 0 < x < float("inf") and 0 < y < float("inf") and not x / 2 < y < x * 2:
        return f"error/budget {x:.2g} became {y:.2g}"
    return None


@click.command(short_help="Refuse reports that were edited.")
@click.argument("files", nargs=-1, required=True, type=REPORT)
def verify(files: Sequence[Path]) -> None:
    """Check that reports are complete and as they were written."""
    for file in files:
        found = read(file)
        click.echo(f"{file}: intact, {found.name} {found.verdict}, {len(found.cases)} cases")
