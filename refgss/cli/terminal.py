"""What a check says on the terminal: a table of ops, the clauses that fail, and the verdict."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from time import monotonic
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from refgss.conformance.clauses import Clause
from refgss.conformance.judging.compare import NEUTRAL, Outcome
from refgss.conformance.judging.runner import Record
from refgss.conformance.reports.failures import NO_NUMBERS, describe, without_numbers
from refgss.conformance.reports.report import (
    CONFORMS,
    Report,
    Summary,
    by_clause,
    by_op,
    extent,
    judged_profiles,
    must_clauses,
    ratio_of,
)
from refgss.text import harmless, printable

WIDTH_OF_A_PIPE = 110
FIRST_LINE = 10.0  # seconds after which work in a pipe says how far it is
COLOURS = {"passed": "green", "failed": "red", "waived": "yellow", "not claimed": "dim"}


class Terminal(Console):
    """A console on which all text is harmless, wherever it comes from.

    Its reader may leave early (`| head`): the rest of the output goes nowhere.
    """

    def render(self, *what: Any, **how: Any) -> Iterator[Segment]:
        for text, style, control in super().render(*what, **how):
            lines = text if control else "\n".join(map(harmless, text.split("\n")))
            yield Segment(lines, style, control)

    def on_broken_pipe(self) -> None:
        discard(1)


def console(stderr: bool = False) -> Console:
    """A console as wide as the terminal; in a pipe of a fixed width, without colours."""
    found = Terminal(stderr=stderr, highlight=False)
    if found.is_terminal:
        return found
    return Terminal(stderr=stderr, highlight=False, width=WIDTH_OF_A_PIPE)


def discard(descriptor: int) -> None:
    """Send what is still written there nowhere, so that the command goes on to its own end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def say(text: str = "", bold: bool = False) -> None:
    """One line of output, harmless wherever its words come from.  Raises OSError: a full disk."""
    try:
        click.secho(harmless(text), bold=bold)
    except BrokenPipeError:
        discard(1)


def complain(text: str) -> None:
    """One line on standard error, harmless; lost where standard error cannot be written."""
    with suppress(OSError):
        click.echo(harmless(text), err=True)


def note(text: str) -> None:
    """A remark that is no result."""
    with suppress(OSError):
        console(stderr=True).print(Text(printable(f"note: {text}", 1000), "yellow"), soft_wrap=True)


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[..., None]]:
    """A bar on a terminal; yields the function that advances it, by 1 or n.

    Elsewhere a line from time to time, the first after FIRST_LINE seconds: what is quick is quiet.
    """
    errors = console(stderr=True)
    if not errors.is_terminal:
        yield spoken(name, total)
        return
    with Progress(console=errors, transient=True) as bar:
        task = bar.add_task(escape(printable(name)), total=total)
        yield lambda n=1: bar.advance(task, n)


def spoken(name: str, total: int) -> Callable[..., None]:
    """A function that counts, and says how far it is after 10, 20, 40, ... seconds."""
    began, due, done = monotonic(), FIRST_LINE, 0

    def step(n: int = 1) -> None:
        nonlocal due, done
        done += n
        if (seconds := monotonic() - began) > due and done < total:
            due = 2 * seconds
            complain(f"{name}: {done} of {total} after {seconds:.0f} s")

    return step


@contextmanager
def watched(what: str, steps: int) -> Iterator[Callable[[], None]]:
    """A bar for so many steps, a spinner where their number is not known."""
    if steps:
        with progress(what, steps) as step:
            yield step
        return
    with waiting(what):
        yield lambda: None


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A line with a spinner on a terminal, nothing in a pipe."""
    errors = console(stderr=True)
    with errors.status(Text(printable(text))) if errors.is_terminal else nullcontext():
        yield


def show(report: Report, clauses: Mapping[str, Clause], small: Sequence[str] = ()) -> None:
    """The whole report: ops, failed clauses, counterexamples that were made small, verdict."""
    out = console()
    out.print(op_table(report))
    if absent := [s for s in by_op(report.cases) if not s.judged]:
        cases = sum(len(s.cases) for s in absent)
        names = ", ".join(printable(s.name) for s in absent)
        out.print(Text(f"not claimed ({cases} cases): {names}\n", "dim"), soft_wrap=True)
    if suspects := report.footer.get("suspects"):
        out.print(diagnosis(suspects, clauses), soft_wrap=True)
    if any(case["outcome"] in NO_NUMBERS for case in report.cases):
        out.print(without_numbers(report.cases), soft_wrap=True)
    for summaries in failing_clauses(report):
        out.print(failed_clauses(summaries, clauses), soft_wrap=True)
    if any(case["outcome"] == Outcome.ADVICE for case in report.cases):
        out.print(advice(report.cases, clauses), soft_wrap=True)
    for sentence in small:
        out.print(Text(f"{sentence}\n"), soft_wrap=True)
    out.print(closing_line(report, clauses), soft_wrap=True)


def compare(reports: Sequence[Report], clauses: Mapping[str, Clause]) -> None:
    """One line for each of several reports."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("candidate")
    for heading in ("passed", "failed", "waived", "not claimed", "MUST clauses"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for report in reports:
        counts = Counter(case["outcome"] for case in report.cases)
        failed = sum(n for outcome, n in counts.items() if outcome not in NEUTRAL)
        numbers = (counts[Outcome.PASS], failed, counts[Outcome.WAIVED], counts[Outcome.UNCLAIMED])
        passed, total = must_clauses(report, clauses)
        verdict = Text(
            f"{report.verdict}{extent(report)}", "green" if report.verdict == CONFORMS else "red"
        )
        table.add_row(Text(report.name), *map(str, numbers), f"{passed}/{total}", verdict)
    console().print(table)


def op_table(report: Report) -> Table:
    head = report.header
    against = f"spec {head['spec']}, vectors {head['vectors']} ({head['manifest'][:16]})"
    title = f"{report.name} on {printable(against)}"
    table = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left")
    table.add_column("op")
    counted = ("cases", "passed", "failed", "not claimed")
    for heading in (*counted, "clauses", "worst error/budget", "ms per case"):
        table.add_column(heading, justify="right")
    for summary in by_op(report.cases):
        if not summary.judged:
            continue
        groups = by_clause(summary.judged).values()
        table.add_row(
            Text(printable(summary.name), COLOURS[summary.outcome]),
            str(len(summary.cases)),
            str(sum(case["outcome"] == Outcome.PASS for case in summary.cases)),
            Text(str(len(summary.failed) or ""), "red"),
            str(len(summary.cases) - len(summary.judged) or ""),
            f"{sum(g.outcome == 'passed' for g in groups)}/{len(groups)}",
            worst_ratio(summary),
            f"{1e3 * summary.seconds / len(summary.judged):.2f}",
        )
    return table


def worst_ratio(summary: Summary) -> Text:
    """error/budget of the worst case, or the outcome of a failure that has none."""
    worst = summary.worst
    if worst is None:
        return Text("")
    if "ratio" in worst:
        return Text(f"{ratio_of(worst):.2g}", "red" if summary.failed else "")
    return Text(worst["outcome"], "red")


def diagnosis(suspects: Sequence[Mapping[str, str]], clauses: Mapping[str, Clause]) -> Text:
    """The clauses that are most probably violated, and why."""
    text = Text().append("most probably violated:\n", "bold")
    for suspect in suspects:
        clause = clauses.get(suspect["clause"])
        text.append(f"  {suspect['clause']} ", "bold red").append(clause.text if clause else "")
        text.append(f"\n    {printable(suspect['reason'])}\n", "dim")
    return text


def failing_clauses(report: Report) -> list[list[Summary]]:
    """Clauses that fail, together where it is in the same cases, those of the diagnosis first."""
    suspects = [suspect["clause"] for suspect in report.footer.get("suspects", ())]
    groups: dict[tuple[tuple[str, str], ...], list[Summary]] = {}
    for s in by_clause(report.cases).values():
        if failed := tuple((c["id"], c["precision"]) for c in s.failed if computed(c)):
            groups.setdefault(failed, []).append(s)

    def rank(s: Summary) -> tuple[float, ...]:
        suspected = suspects.index(s.name) if s.name in suspects else len(suspects)
        return suspected, -len(s.failed) / len(s.judged), len(s.cases)

    ranked = [sorted(group, key=rank) for group in groups.values()]
    return sorted(ranked, key=lambda group: rank(group[0]))


def advice(cases: Sequence[Record], clauses: Mapping[str, Clause]) -> Text:
    """The SHOULD clauses that are not kept, each with its first case: no failures."""
    text = Text().append("advice, no failure:\n", "bold yellow")
    for s in by_clause(c for c in cases if c["outcome"] == Outcome.ADVICE).values():
        clause = clauses.get(s.name)
        text.append(f"  {s.name} ", "yellow").append(clause.text if clause else "")
        text.append(f"\n    {len(s.cases)} cases, first: {describe(s.cases[0])}\n", "dim")
    return text


def computed(case: Record) -> bool:
    """Whether a failure has something to compare: the others have lines of their own."""
    return case["outcome"] not in NO_NUMBERS


def failed_clauses(summaries: Sequence[Summary], clauses: Mapping[str, Clause]) -> Text:
    """Clauses that fail in the same cases: the first one's sentence, and the worst case."""
    first, *others = summaries
    clause = clauses.get(first.name)
    text = Text()
    text.append(f"{first.name} ", "bold red")
    text.append(f"{len(first.failed)} of {len(first.judged)} cases fail. ")
    text.append(f"{clause.text}\n" if clause else "\n", "italic")
    worst = max(filter(computed, first.failed), key=ratio_of)
    text.append(f"    worst: {describe(worst)}\n")
    if others:
        text.append(f"    the same cases fail for {', '.join(s.name for s in others)}\n", "dim")
    return text


def summary(report: Report) -> str:
    """The verdict and what it rests on, in a few words."""
    fresh = sum(bool(case.get("fresh")) for case in report.cases)
    return (
        f"{report.name} {report.verdict}{extent(report)} ({', '.join(judged_profiles(report))}), "
        f"{len(report.cases)} cases, {fresh} of them fresh, "
        f"{report.header.get('selection', 'default')} selection"
    )


def closing_line(report: Report, clauses: Mapping[str, Clause]) -> Text:
    """The verdict with its counts, and how to repeat it."""
    counts = Counter(case["outcome"] for case in report.cases)
    passed, total = must_clauses(report, clauses)
    failures = sum(n for outcome, n in counts.items() if outcome not in NEUTRAL)
    advised = f", {n} advice" if (n := counts[Outcome.ADVICE]) else ""
    colour = "bold green" if report.verdict == CONFORMS else "bold red"
    text = Text().append(f"{report.name} {report.verdict}{extent(report)}", colour)
    text.append(
        f" ({', '.join(judged_profiles(report))}): {counts[Outcome.PASS]} cases pass, {failures} "
        f"fail{advised}, {counts[Outcome.WAIVED]} waived, {counts[Outcome.UNCLAIMED]} not claimed; "
        f"{passed} of {total} MUST clauses that vectors judge; "
        f"{report.header.get('selection', 'default')} selection, seed {report.header['seed']}"
    )
    return text
