"""Clauses: read from the chapters of the spec, and found again in the docstrings that name them.

A clause is one line of a chapter: `**GSS-KER-1** (MUST) One normative sentence.`  A function names
its clauses in its docstring: `Clauses: GSS-KER-1, GSS-INI-1..4.`
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ID = r"GSS-[A-Z]{2,3}-[1-9][0-9]*"
LINE = re.compile(rf"^\*\*({ID})\*\* \((MUST|SHOULD|MAY)\) (.+)$", re.MULTILINE)
CITATION = re.compile(rf"Clauses?:\s*((?:{ID}|\.\.(?:[0-9]+)?|[,\s]+)+)")
RANGE = re.compile(rf"({ID})(?:\.\.(?:GSS-[A-Z]{{2,3}}-)?([0-9]+))?")


@dataclass(frozen=True)
class Clause:
    id: str
    level: str  # MUST, SHOULD or MAY
    text: str
    chapter: str  # the chapter's file name without its ending, "03-kernel"

    @property
    def judged_by_vectors(self) -> bool:
        """Clauses on files, claims and sampling (FMT, CNF, SMP) are not: no op is called there."""
        return self.id.split("-")[1] not in ("FMT", "CNF", "SMP")

    @property
    def of_scores(self) -> bool:
        """Whether it is about scores, not about layers."""
        return self.id.split("-")[1] in ("TSK", "ANS", "CAL", "EST")


def read_clauses(folder: Path) -> dict[str, Clause]:
    """All clauses of the chapters NN-*.md in order.  Raises ValueError where an id comes twice."""
    clauses: dict[str, Clause] = {}
    for chapter in sorted(folder.glob("[0-9][0-9]-*.md")):
        for id, level, text in LINE.findall(chapter.read_text("utf-8")):
            if id in clauses:
                raise ValueError(f"{id} is defined in {clauses[id].chapter} and in {chapter.stem}")
            clauses[id] = Clause(id, level, text.strip(), chapter.stem)
    return clauses


def cited(text: str) -> list[str]:
    """The ids that a docstring names after `Clauses:`, ranges spelt out."""
    found = []
    for citation in CITATION.findall(text):
        for first, last in RANGE.findall(citation):
            stem, number = first.rsplit("-", 1)
            found += [f"{stem}-{i}" for i in range(int(number), int(last or number) + 1)]
    return found


def citing_functions(package: Path) -> dict[str, list[str]]:
    """By clause id, the functions of a package that name it: "reference.kernel.ssm_kernel"."""
    found = defaultdict(list)
    for file in sorted(package.rglob("*.py")):
        module = ".".join(file.relative_to(package).with_suffix("").parts)
        for name, docstring in docstrings(ast.parse(file.read_text("utf-8"))):
            for clause in cited(docstring):
                found[clause].append(f"{module}.{name}")
    return dict(found)


def docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names and docstrings of the functions and classes of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, ast.get_docstring(node) or ""
