"""A report as JUnit XML, for continuous integration: one suite a candidate, one test a case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from refgss.conformance.judging.compare import NEUTRAL, Outcome
from refgss.conformance.reports.report import Report

FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0


def junit(reports: Sequence[Report]) -> str:
    """The XML text; a failure carries its outcome and its detail."""
    root = ET.Element("testsuites")
    for report in reports:
        failures = sum(c["outcome"] not in NEUTRAL for c in report.cases)
        skipped = sum(c["outcome"] in (Outcome.UNCLAIMED, Outcome.WAIVED) for c in report.cases)
        suite = ET.SubElement(
            root,
            "testsuite",
            name=clean(report.name),
            tests=str(len(report.cases)),
            failures=str(failures),
            skipped=str(skipped),
            timestamp=clean(report.header["started"]),
        )
        for case in report.cases:
            test = ET.SubElement(
                suite,
                "testcase",
                classname=clean(f"{case['op']}.{case['precision']}"),
                name=clean(" ".join(filter(None, (case["id"], case.get("way"))))),
                time=f"{case['seconds']:.6f}",
            )
            text = clean(case.get("reason") or case.get("detail") or case["outcome"])
            if case["outcome"] in (Outcome.UNCLAIMED, Outcome.WAIVED):
                ET.SubElement(test, "skipped", message=f"{case['outcome']}: {text}")
            elif case["outcome"] != Outcome.PASS:
                failure = ET.SubElement(test, "failure", type=case["outcome"], message=text)
                failure.text = f"clauses {', '.join(case['clauses'])}; ratio {case.get('ratio')}"
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def clean(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return FORBIDDEN.sub("\ufffd", text)
