"""The mutation score: which vectors reject which mutants, and the tables that publish it.

    python -m refgss.conformance.selftest.kills [--write]

prints the score; --write renews spec/mutants.json (status and killing vectors of each mutant),
spec/signatures.json (every vector that each mutant fails, for `diagnosis`) and the chapter for
readers, spec/15-mutants.md.
"""

from __future__ import annotations

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
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging import runner
from refgss.conformance.judging.compare import NEUTRAL
from refgss.conformance.judging.runner import Question, Record
from refgss.conformance.selftest import chapter, mutants
from refgss.conformance.selftest.mutants import Mutant
from refgss.conformance.vectors.format import Vector, moderate, read_vectors
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


def questions(mutant: Mutant, vectors: Sequence[Vector], reach: Reach) -> list[Question]:
    """What can tell the mutant from the reference; vectors that name its clause come first."""
    ids = reach.get(mutant.place, set())
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


def survey(mutant: Mutant, vectors: Sequence[Vector], reach: Reach) -> dict[str, list[str]]:
    """The ids of all vectors that reject the mutant, at each precision."""
    found: dict[str, list[str]] = {p: [] for p in mutant.precisions}
    for record in failures(mutant, questions(mutant, vectors, reach)):
        found[record["precision"]].append(record["id"])
    return found


def entry(mutant: Mutant, failed: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A line of mutants.json."""
    killed = all(failed[p] for p in mutant.precisions)
    line = {"name": mutant.name, "clause": mutant.clause, "function": ".".join(mutant.place)}
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


def main(arguments: Sequence[str]) -> int:
    """Survey all mutants; the exit code is 1 if one survives."""
    vectors = moderate(read_vectors(spec_folder() / "vectors").vectors)
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
    if "--write" in arguments:
        chapter.publish("mutants.json", lines)
        chapter.publish("signatures.json", signatures(failed, vectors))
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
