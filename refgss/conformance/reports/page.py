"""Reports as one HTML page, clauses × candidates, that needs nothing but a browser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files

from refgss.conformance.clauses import Clause
from refgss.conformance.reports.report import Report, by_clause, extent


def html(reports: Sequence[Report], clauses: Mapping[str, Clause]) -> str:
    """`page.html` with the reports and the clauses that they judge put in as JSON."""
    judged = {id for report in reports for id in by_clause(report.cases)}
    known = [
        asdict(clause)
        for clause in clauses.values()
        if clause.id in judged or (clause.level == "MUST" and clause.judged_by_vectors)
    ]
    unknown = [
        {"id": id, "level": "", "text": "not a clause of this version", "chapter": "unknown"}
        for id in sorted(judged - clauses.keys())
    ]
    data = {
        "clauses": known + unknown,
        "reports": [
            {"name": r.name, "header": r.header, "cases": r.cases, "footer": r.footer}
            | {"verdict": f"{r.verdict}{extent(r)}"}
            for r in reports
        ],
    }
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    safe = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    page = files("refgss.conformance.reports").joinpath("page.html").read_text("utf-8")
    return page.replace("REPORT_DATA", safe, 1)
