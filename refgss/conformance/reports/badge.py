"""A badge: profiles, and how many of the MUST clauses that vectors judge were passed."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from refgss.conformance.clauses import Clause
from refgss.conformance.reports.report import (
    CONFORMS,
    Report,
    extent,
    judged_profiles,
    must_clauses,
)
from refgss.text import printable

ADVANCE = 6.6  # mean width of a character at 11 px


def badge(report: Report, clauses: Mapping[str, Clause]) -> str:
    """The SVG text; what was not claimed counts as not passed.  Clauses: GSS-CNF-5."""
    passed, total = must_clauses(report, clauses)
    left = printable(f"GSS {report.header['spec']} {' '.join(judged_profiles(report))}")
    right = f"{passed}/{total} clauses"
    if report.verdict != CONFORMS:
        right += f", {report.verdict}"
    elif extent(report):
        right += ", partial"
    colour = (
        "#b3261e" if report.verdict != CONFORMS else "#2b7a3d" if passed == total else "#8a6d00"
    )
    a, b = (round(ADVANCE * len(text)) + 12 for text in (left, right))
    vectors = f"vectors {report.header['vectors']} ({report.header['manifest'][:16]})"
    title = f"{report.name}: {left}, {right}, {vectors}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{a + b}" height="20" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f'<rect width="{a + b}" height="20" rx="3" fill="#444"/>'
        f'<path d="M{a} 0h{b - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3H{a}z" fill="{colour}"/>'
        '<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" '
        f'font-size="11"><text x="{a / 2}" y="14" textLength="{a - 12}">{escape(left)}</text>'
        f'<text x="{a + b / 2}" y="14" textLength="{b - 12}">{escape(right)}</text></g></svg>\n'
    )
