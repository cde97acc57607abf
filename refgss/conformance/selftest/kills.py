"""The mutation score: which vectors reject which mutants, and the tables that publish it.

    python -m refgss.conformance.selftest.kills [--write]

prints the score and, where it has been measured (`diagnosis_score --write`), that of the diagnosis;
--write renews spec/mutants.json (status and killing vectors of each mutant), spec/signatures.json
(every vector that each mutant fails, for `diagnosis`), and the table for readers,
spec/15-mutants.md; --table that table alone.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from refgss import checks, reference
from refgss.conformance import PRECISIONS
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging import runner
from refgss.conformance.judging.compare import NEUTRAL
from refgss.conformance.judging.runner import Question, Record
from refgss.conformance.selftest import mutants
from refgss.conformance.selftest.mutants import Mutant
from refgss.conformance.vectors.format import Vector, read_vectors
from refgss.standard import spec_folder

Function = tuple[str, str]  # file without .py, name
Reach = Mapping[Function, set[str]]  # the ids of the vectors that call it


def reached(vectors: Iterable[Vector]) -> Reach:
    """Which functions of the reference each vector calls: a mutant shows in no other vector."""
    stems = {path_of(stem): stem for stem in mutants.sources()}
    found: dict[Function, set[str]] = defaultdict(set)
    candidate = ModuleCandidate(reference)
    for v in vectors:

        def note(frame: FrameType, event: str, _: Any, id: str = v.id) -> None:
            if event == "call" and (stem := stems.get(frame.f_code.co_filename)):
                found[stem, frame.f_code.co_name].add(id)

        sys.setprofile(note)
        try:
            runner.ask(candidate, Question(v, "f64"))
        finally:
            sys.setprofile(None)
    return found


def path_of(stem: str) -> str:
    if stem == "checks":
        return str(checks.__file__)
    return str(Path(str(reference.__file__)).with_name(f"{stem}.py"))


def enclosing(mutant: Mutant) -> str:
    """The name of the function in which the substitution is made."""
    source = mutants.sources()[mutant.file]
    last = source[: source.index(mutant.before) + len(mutant.before.rstrip())].count("\n") + 1
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.lineno <= last <= (node.end_lineno or 0):
            return node.name
    raise ValueError(f"{mutant.name}: its substitution is not in a function")


def questions(mutant: Mutant, vectors: Sequence[Vector], reach: Reach) -> list[Question]:
    """What can tell the mutant from the reference; vectors that name its clause come first."""
    ids = reach.get((mutant.file, enclosing(mutant)), set())
    able = sorted((v for v in vectors if v.id in ids), key=lambda v: mutant.clause not in v.clauses)
    return [Question(v, p) for v in able for p in mutant.precisions]


def failures(mutant: Mutant, asked: Iterable[Question]) -> Iterator[Record]:
    """The vectors that reject the mutant, one after the other."""
    candidate = ModuleCandidate(mutants.load(mutant))
    for question in asked:
        with np.errstate(all="ignore"):
            record = runner.ask(candidate, question)
        if record["outcome"] not in NEUTRAL:
            yield record


def killers(mutant: Mutant, asked: Sequence[Question]) -> dict[str, str]:
    """The first vector that rejects the mutant at each precision; empty where it survives."""
    found = {}
    for precision in mutant.precisions:
        at = (q for q in asked if q.precision == precision)
        if (record := next(failures(mutant, at), None)) is not None:
            found[precision] = str(record["id"])
    return found


def survey(mutant: Mutant, vectors: Sequence[Vector], reach: Reach) -> dict[str, list[str]]:
    """The ids of all vectors that reject the mutant, at each precision."""
    found: dict[str, list[str]] = {p: [] for p in mutant.precisions}
    for record in failures(mutant, questions(mutant, vectors, reach)):
        found[record["precision"]].append(record["id"])
    return found


def entry(mutant: Mutant, failed: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A line of mutants.json."""
    killed = all(failed[p] for p in mutant.precisions)
    line = {"name": mutant.name, "clause": mutant.clause, "file": mutant.file}
    line |= {"status": "killed" if killed else "survived", "note": mutant.note}
    by = {p: ids[0] for p, ids in failed.items() if ids}
    return line | {"killed_by": by, "rejections": {p: len(ids) for p, ids in failed.items()}}


def signatures(
    failed: Mapping[str, Mapping[str, Sequence[str]]], vectors: Sequence[Vector]
) -> dict[str, Any]:
    """For each mutant and precision a hexadecimal number: bit i is set if it fails vector i."""
    ids = sorted(v.id for v in vectors)
    place = {id: i for i, id in enumerate(ids)}
    return {
        "vectors": ids,
        "fails": {
            name: {p: f"{sum(1 << place[id] for id in found):x}" for p, found in by.items()}
            for name, by in failed.items()
        },
    }


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The chapter for readers."""
    killed = sum(line["status"] == "killed" for line in lines)
    text = [
        "# 15 Mutants\n",
        "A mutant is the reference with one named error of meaning. The vectors are measured by",
        "the mutants that they reject, in every precision in which the error shows. This chapter",
        "is written by `python -m refgss.conformance.selftest.kills --write`.\n",
        f"**{killed} of {len(lines)} killed.**\n",
        *diagnosed(),
        "What changes rounding alone is no mutant but an honest variant (chapter 16). No mutant is",
        "equivalent to the reference in both precisions; those that are in one say why:",
        f"{', '.join(f'`{name}`' for name in one_sided())}.\n",
        "| area | killed | declared |",
        "|---|---|---|",
        *areas(lines),
        "",
        "| clause | mutant | what it does | rejected first by |",
        "|---|---|---|---|",
    ]
    for line in sorted(lines, key=lambda line: clause_order(line["clause"])):
        by = sorted(set(line["killed_by"].values()))
        shown = ", ".join(f"`{id}`" for id in by) or "**survives**"
        note = line["note"].replace("|", "\\|")
        text.append(f"| {line['clause']} | `{line['name']}` | {note} | {shown} |")
    return "\n".join(text) + "\n"


def diagnosed() -> list[str]:
    """How often the diagnosis names the clause, as measured by `diagnosis_score`."""
    from refgss.conformance.selftest.diagnosis_score import WAYS

    file = spec_folder() / "diagnosis.json"
    if not file.exists():
        return []
    scores = json.loads(file.read_text("utf-8"))
    text = [
        "`refgss check` names the clauses that a failing candidate most probably violates. Of the",
        "mutants, taken for such candidates",
        "(`python -m refgss.conformance.selftest.diagnosis_score`):\n",
        "| the violated clause is | first | among the first three |",
        "|---|---|---|",
    ]
    for way, meaning in WAYS.items():
        score = scores[way]
        text.append(f"| {meaning} | {score['first']:.1%} | {score['first_three']:.1%} |")
    return [*text, ""]


def one_sided() -> list[str]:
    return [m.name for m in mutants.declared().values() if m.precisions != PRECISIONS]


def areas(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Killed and declared mutants of the clauses of each area."""
    for area in AREAS:
        of_area = [line for line in lines if line["clause"].split("-")[1] == area]
        killed = sum(line["status"] == "killed" for line in of_area)
        yield f"| GSS-{area} {AREAS[area]} | {killed} | {len(of_area)} |"


AREAS = {  # in the order of the chapters
    "ARR": "arrays",
    "PAR": "parameters",
    "INI": "initialisation",
    "DIS": "discretisation",
    "KER": "kernel",
    "CNV": "convolution",
    "REC": "recurrence",
    "NRM": "norm, GELU, dense map",
    "LAY": "layers",
    "LM": "language model",
    "GRD": "gradients",
    "STA": "streaming",
    "ACC": "accuracy",
    "NFI": "bad and empty input",
}


def clause_order(id: str) -> tuple[int, int]:
    _, area, number = id.split("-")
    return list(AREAS).index(area), int(number)


def main(arguments: Sequence[str]) -> int:
    """Survey all mutants; the exit code is 1 if one survives."""
    folder = spec_folder()
    if "--table" in arguments:
        lines = json.loads((folder / "mutants.json").read_text("utf-8"))
        (folder / "15-mutants.md").write_text(table(lines), "utf-8")
        return 0
    vectors = read_vectors(folder / "vectors").vectors
    declared = mutants.declared()
    work = partial(survey, vectors=vectors, reach=reached(vectors))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        failed = dict(zip(declared, pool.map(work, declared.values(), chunksize=8), strict=True))
    lines = [entry(m, failed[name]) for name, m in declared.items()]
    survivors = [line for line in lines if line["status"] != "killed"]
    for line in survivors:
        print(f"survived: {line['name']} ({line['clause']}): {line['note']}")
    clauses = len({line["clause"] for line in lines if line["status"] == "killed"})
    print(f"{len(lines) - len(survivors)} of {len(lines)} mutants killed, of {clauses} clauses")
    print("\n".join(diagnosed()))
    if "--write" in arguments:
        write_json(folder / "mutants.json", lines)
        write_json(folder / "signatures.json", signatures(failed, vectors))
        (folder / "15-mutants.md").write_text(table(lines), "utf-8")
    return bool(survivors)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
