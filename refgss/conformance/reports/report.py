"""The report: JSON lines, the single truth from which every other view is made.

A header, one line per case, and a footer with the counts and the SHA-256 of all lines before it, so
that an edited or truncated report is noticed.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import refgss
from refgss.conformance import PROTOCOL, SCORES
from refgss.conformance.candidates.claims import Capabilities
from refgss.conformance.clauses import Clause
from refgss.conformance.judging.compare import BROKEN, NEUTRAL, Outcome
from refgss.conformance.judging.runner import Record
from refgss.conformance.vectors.format import VectorSet
from refgss.files import atomic_write, bounded_read
from refgss.ops import SCORES as SCORE_OPS
from refgss.schemas import parse, problem
from refgss.standard import SPEC_VERSION
from refgss.text import printable

LAYER_OPS = frozenset({"gss_layer", "gss_layer_vjp"})  # whose configs the layer profiles fix
CONFORMS, FAILS, BROKE = "conforms", "does not conform", "broke the protocol"


class DamagedReportError(ValueError):
    """The file is not the report that was written; the message says why."""


@dataclass(frozen=True)
class Report:
    header: Mapping[str, Any]
    cases: Sequence[Record]
    footer: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The candidate's name, with its version if it told one."""
        about = self.header["candidate"]
        return printable(f"{about['name']} {about['version']}") or "unnamed"

    @property
    def verdict(self) -> str:
        return str(self.footer["verdict"])


def header(
    spec: str,
    about: Capabilities,
    profiles: Sequence[str],
    vectors: VectorSet,
    seed: int,
    selection: str = "default",
    only: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Everything that is needed to run the same check again.  Clauses: GSS-CNF-16.

    only: the "ops", "clauses" and "ids" to which the check was narrowed, where it was.
    """
    narrowed = {kind: list(names) for kind, names in (only or {}).items() if names}
    claims: dict[str, Any] = {"name": about.name, "version": about.version}
    claims |= {"ops": list(about.ops), "profiles": list(about.profiles)}
    return {
        "type": "header",
        "report": 1,
        "refgss": refgss.__version__,
        "spec": SPEC_VERSION,
        "vectors": vectors.date,
        "manifest": vectors.digest,
        "protocol": PROTOCOL,
        "seed": seed,
        "selection": selection,
        **({"only": narrowed} if narrowed else {}),
        "profiles": list(profiles),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "candidate": {"spec": spec, **claims},
        "host": host(),
    }


def host() -> dict[str, str]:
    """The machine's kind and the versions that numbers may depend on."""
    found = {"machine": platform.machine(), "system": platform.system()}
    found["python"] = platform.python_version()
    for package in ("numpy", "scipy", "jax", "torch", "python-flint"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def close(
    header: Mapping[str, Any], cases: Sequence[Record], suspects: Sequence[Mapping[str, str]] = ()
) -> Report:
    """A complete report: counts, verdict and seal in its footer.  Clauses: GSS-FMT-10.

    suspects: clauses that the failures point to, each with a reason, most likely first.
    """
    counts = Counter(case["outcome"] for case in cases)
    body = [line(x) for x in (header, *cases)]
    footer = {
        "type": "footer",
        "counts": dict(sorted(counts.items())),
        "verdict": verdict(counts),
        "lines": len(body),
        "sha256": hashlib.sha256(b"".join(body)).hexdigest(),
    }
    footer |= {"suspects": list(suspects)} if suspects else {}
    return Report(header, cases, footer)


def verdict(counts: Mapping[str, int]) -> str:
    """What the outcomes add up to.  Clauses: GSS-CNF-6."""
    if any(outcome in BROKEN for outcome in counts):
        return BROKE
    return CONFORMS if counts.keys() <= NEUTRAL and counts.get(Outcome.PASS) else FAILS


def line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def content(reports: Iterable[Report]) -> bytes:
    """A file of reports, one after another.  Clauses: GSS-FMT-10."""
    return b"".join(line(x) for r in reports for x in (r.header, *r.cases, r.footer))


def write(report: Report, path: Path) -> None:
    atomic_write(path, content([report]))


def read(path: Path) -> Report:
    """The one report of a file, as `read_all`."""
    found = read_all(path)
    if len(found) > 1:
        raise DamagedReportError(f"{path} holds {len(found)} reports, where one is expected")
    return found[0]


def read_all(path: Path) -> list[Report]:
    """The reports of a file.  Raises DamagedReportError unless all are complete and unedited.

    Clauses: GSS-FMT-3, GSS-FMT-10.
    """
    try:
        lines = bounded_read(path).splitlines(keepends=True)
        values = [parse(x) for x in lines]
    except OSError as e:
        raise DamagedReportError(f"{path} cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise DamagedReportError(f"{path} is not a report: a line of it is not JSON") from e
    for number, value in enumerate(values, 1):
        if wrong := problem("report", value):
            raise DamagedReportError(f"{path}, line {number}: {wrong}")
    starts = [i for i, value in enumerate(values) if value["type"] == "header"]
    if not values or starts[:1] != [0]:
        raise DamagedReportError(f"{path} is truncated, or its lines are out of order")
    cuts = [slice(*ends) for ends in pairwise([*starts, len(values)])]
    found = [one(path, lines[cut], values[cut]) for cut in cuts]
    counts = Counter(report.header["candidate"]["spec"] for report in found)
    if twice := [spec for spec, n in counts.items() if n > 1]:
        raise DamagedReportError(f"{path} holds two reports of {twice[0]}")
    return found


def one(path: Path, lines: Sequence[bytes], values: Sequence[dict[str, Any]]) -> Report:
    """The report of these lines.  Raises DamagedReportError."""
    kinds = [value["type"] for value in values]
    if kinds != ["header", *["case"] * (len(kinds) - 2), "footer"]:
        raise DamagedReportError(f"{path} is truncated, or its lines are out of order")
    cases = cast(Sequence[Record], values[1:-1])  # the schema has judged them
    report = close(values[0], cases, values[-1].get("suspects", ()))
    if values[-1]["sha256"] != hashlib.sha256(b"".join(lines[:-1])).hexdigest():
        raise DamagedReportError(f"{path} was edited: its lines do not have the footer's SHA-256")
    if values[-1] != report.footer:
        raise DamagedReportError(f"{path} was edited: its footer does not count its cases")
    return report


# ---- Summaries --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """Cases that have something in common: an op or a clause."""

    name: str
    cases: Sequence[Record]

    @property
    def judged(self) -> list[Record]:
        return [case for case in self.cases if case["outcome"] != Outcome.UNCLAIMED]

    @property
    def failed(self) -> list[Record]:
        return [case for case in self.cases if case["outcome"] not in NEUTRAL]

    @property
    def outcome(self) -> str:
        """failed, waived, passed or not claimed: the first that applies."""
        outcomes = {case["outcome"] for case in self.cases}
        if self.failed:
            return "failed"
        if Outcome.WAIVED in outcomes:
            return "waived"
        return "passed" if Outcome.PASS in outcomes else "not claimed"

    @property
    def worst(self) -> Record | None:
        """The failure that says most, or the case nearest to its budget; None without any ratio."""
        pool = self.failed or [case for case in self.cases if "ratio" in case]
        return max(pool, key=lambda case: (ratio_of(case), was_asked(case)), default=None)

    @property
    def seconds(self) -> float:
        return float(sum(case["seconds"] for case in self.cases))


def was_asked(case: Record) -> bool:
    """Whether the candidate was given the case: after some crashes its op is not asked again."""
    return not case.get("detail", "").startswith("not asked")


def ratio_of(case: Record) -> float:
    """error/budget as a number; a failure without one counts as infinite."""
    if "ratio" in case:
        return float(case["ratio"])
    return 0.0 if case["outcome"] in NEUTRAL else float("inf")


def by_op(cases: Iterable[Record]) -> list[Summary]:
    groups: dict[str, list[Record]] = {}
    for case in cases:
        groups.setdefault(case["op"], []).append(case)
    return [Summary(name, group) for name, group in groups.items()]


def by_clause(cases: Iterable[Record]) -> dict[str, Summary]:
    groups: dict[str, list[Record]] = {}
    for case in cases:
        for clause in case["clauses"]:
            groups.setdefault(clause, []).append(case)
    return {name: Summary(name, group) for name, group in sorted(groups.items())}


def must_clauses(report: Report, clauses: Mapping[str, Clause]) -> tuple[int, int]:
    """How many MUST clauses passed, of those that vectors of these profiles judge."""
    summaries = by_clause(report.cases)
    due = {profile == SCORES for profile in report.header["profiles"]}
    must = [
        id
        for id, c in clauses.items()
        if c.level == "MUST" and c.judged_by_vectors and c.of_scores in due
    ]
    return sum(id in summaries and summaries[id].outcome == "passed" for id in must), len(must)


def judged_profiles(report: Report) -> list[str]:
    """The profiles of a check in which something was judged.

    A layer profile is one of layers: it is named where its layer ops were.  Clauses: GSS-CNF-5.
    """
    judged = [case for case in report.cases if case["outcome"] != Outcome.UNCLAIMED]
    numbers = {profile_of(case["op"], case["precision"]) for case in judged}
    layers = {case.get("layer_profile") for case in judged if case["op"] in LAYER_OPS}
    return [p for p in report.header["profiles"] if p in numbers | layers]


def profile_of(op: str, precision: str) -> str:
    """The number profile of a case, or that of scores."""
    return SCORES if op in SCORE_OPS else precision


def extent(report: Report) -> str:
    """Words after the verdict on less than the standard; else nothing.

    They say that most ops were not claimed, and to what the check was narrowed.
    """
    only = " and ".join(", ".join(names) for names in report.header.get("only", {}).values())
    alone = f" for {printable(only, 100)} alone" if only else ""
    ops = {case["op"] for case in report.cases}
    judged = {case["op"] for case in report.cases if case["outcome"] != Outcome.UNCLAIMED}
    if 2 * len(judged) >= len(ops):
        return alone
    return f" in part, {len(judged)} of {len(ops)} ops{alone}"
