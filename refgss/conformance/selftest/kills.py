"""The mutation score: which vectors reject which mutants, and the tables that publish it.

    python -m refgss.conformance.selftest.kills [--write] [--all]

prints the score; --write renews spec/mutants.json (status and killing vectors of each mutant),
spec/signatures.json (every vector that each mutant fails, for `diagnosis`) and the chapter for
readers, spec/15-mutants.md.  A vector keeps its inputs for good, so that only new vectors and new
mutants are surveyed; with --all everything is, as after a change of the reference.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from refgss import checks, reference, scores
from refgss.conformance import PRECISIONS
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging import likeness, runner, slices
from refgss.conformance.judging.compare import NEUTRAL, Answer
from refgss.conformance.judging.runner import Question, Record
from refgss.conformance.selftest import chapter, mutants
from refgss.conformance.selftest.mutants import Mutant
from refgss.conformance.selftest.slicing import executed, moved, truth
from refgss.conformance.selftest.substitution import functions
from refgss.conformance.vectors.format import Vector, moderate, read_vectors
from refgss.standard import spec_folder

Function = tuple[str, str]  # file without .py, name
Reach = dict[Function, set[str]]  # the ids of the vectors that call it


def reach_of(vectors: Sequence[Vector]) -> Reach:
    """Which functions of the reference each vector calls: a mutant shows in no other vector.

    Only vectors that spec/signatures.json does not know are traced.
    """
    known, ids = likeness.published_vectors(), {v.id for v in vectors}
    found = called(executed((v for v in vectors if v.id not in known), paths()))
    for name, calling in likeness.published_reach().items():
        stem, function = name.split(".")
        if calls := calling & known & ids:
            found[stem, function] = found.get((stem, function), set()) | calls
    return found


def called(lines: Mapping[str, Sequence[set[str]]]) -> Reach:
    """The vectors that call each function: those that run a statement of it."""
    found: Reach = {}
    for function, sets in lines.items():
        stem, name = function.split(".")
        found[stem, name] = set().union(*sets)
    return found


def paths() -> dict[str, str]:
    """The files of the reference by their paths."""
    return {path_of(stem): stem for stem in mutants.sources()}


def path_of(stem: str) -> str:
    if stem == "checks":
        return str(checks.__file__)
    if stem.startswith(mutants.OF_SCORES):
        name = stem.removeprefix(mutants.OF_SCORES)
        return str(Path(str(scores.__file__)).with_name(f"{name}.py"))
    return str(Path(str(reference.__file__)).with_name(f"{stem}.py"))


def questions(mutant: Mutant, vectors: Sequence[Vector], reach: Reach) -> list[Question]:
    """What can tell the mutant from the reference."""
    ids = reach.get(mutant.place, set())
    return [Question(v, p) for v in vectors if v.id in ids for p in mutant.precisions]


def failures(mutant: Mutant, asked: Iterable[Question]) -> Iterator[Record]:
    """The vectors that reject the mutant, one after the other."""
    candidate = ModuleCandidate(mutants.load(mutant))
    for question in asked:
        with np.errstate(all="ignore"):
            record = runner.ask(candidate, question)
        if record["outcome"] not in NEUTRAL:
            yield record


def survey(
    mutant: Mutant, vectors: Sequence[Vector], reach: Reach, known: Known
) -> dict[str, list[str]]:
    """The ids of all vectors that reject the mutant, at each precision, its clause's own first."""
    before = known.fails.get(mutant.name)
    found = {p: set(before[p]) if before else set() for p in mutant.precisions}
    asked = [v for v in vectors if before is None or v.id not in known.vectors]
    for record in failures(mutant, questions(mutant, asked, reach)):
        found[record["precision"]].add(record["id"])
    order = sorted(vectors, key=lambda v: mutant.clause not in v.clauses)
    return {p: [v.id for v in order if v.id in ids] for p, ids in found.items()}


@dataclass(frozen=True)
class Known:
    """What spec/signatures.json says of its vectors: which fail, and what functions move."""

    vectors: frozenset[str] = frozenset()
    fails: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    moves: Mapping[str, frozenset[slices.Result]] = field(default_factory=dict)


def published(vectors: Sequence[Vector]) -> Known:
    fails = {
        name: {p: frozenset(id for id, q in tests if q == p) for p in PRECISIONS}
        for name, tests in likeness.published().items()
    }
    return Known(likeness.published_vectors(), fails, slices.published_moves(vectors))


def entry(mutant: Mutant, failed: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A line of mutants.json."""
    killed = all(failed[p] for p in mutant.precisions)
    line = {"name": mutant.name, "clause": mutant.clause, "function": ".".join(mutant.place)}
    line |= {"status": "killed" if killed else "survived", "note": mutant.note}
    by = {p: ids[0] for p, ids in failed.items() if ids}
    return line | {"killed_by": by, "rejections": {p: len(ids) for p, ids in failed.items()}}


def signatures(
    failed: Mapping[str, Mapping[str, Sequence[str]]], vectors: Sequence[Vector], known: Known
) -> dict[str, Any]:
    """Sets of vectors as hexadecimal numbers, bit i standing for vector i.

    `fails`: what each mutant fails at each precision; `calls`: what calls each function; `lines`:
    what runs each of its statements; `moves`: the results that it moves (`judging.slices`).
    """
    ids = sorted(v.id for v in vectors)
    lines = dict(sorted(executed(vectors, paths()).items()))
    order, moving = slices.results(ids, vectors), moves(lines, vectors, known)

    def bits(found: Container[Any], among: Sequence[Any] = ids) -> str:
        return f"{sum(1 << i for i, x in enumerate(among) if x in found):x}"

    return {
        "vectors": ids,
        "calls": {".".join(f): bits(found) for f, found in called(lines).items()},
        "lines": {f: [bits(ids) for ids in sets] for f, sets in lines.items()},
        "moves": {f: bits(found, order) for f, found in moving.items()},
        "fails": {n: {p: bits(found) for p, found in by.items()} for n, by in failed.items()},
    }


def moves(
    lines: Mapping[str, Sequence[set[str]]], vectors: Sequence[Vector], known: Known
) -> dict[str, set[slices.Result]]:
    """The results that each function moves; of known vectors, what spec/signatures.json says."""
    answers: dict[str, Answer] = {}
    found = {}
    for function, sets in lines.items():
        before = known.moves.get(function)
        ids = set().union(*sets) - (set() if before is None else known.vectors)
        if function.startswith("checks."):  # they compute nothing; their refusals count as moved
            ids = set()
        if tuple(function.split(".")) not in functions(mutants.trees()):  # a method
            ids = set()
        new = [v for v in vectors if v.id in ids and not v.error]
        answers |= {v.id: truth(v) for v in new if v.id not in answers}
        found[function] = set(before or ()) | (moved(function, new, answers) if new else set())
    return found


def main(arguments: Sequence[str]) -> int:
    """Survey all mutants; the exit code is 1 if one survives."""
    vectors = moderate(read_vectors(spec_folder() / "vectors").vectors)
    declared = mutants.declared()
    known = Known() if "--all" in arguments else published(vectors)
    reach = reach_of(vectors) if known.vectors else called(executed(vectors, paths()))
    work = partial(survey, vectors=vectors, reach=reach, known=known)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        failed = dict(zip(declared, pool.map(work, declared.values(), chunksize=64), strict=True))
    lines = [entry(m, failed[name]) for name, m in declared.items()]
    survivors = [line for line in lines if line["status"] != "killed"]
    for line in survivors:
        print(f"survived: {line['name']} ({line['clause']}): {line['note']}")
    clauses = len({line["clause"] for line in lines if line["status"] == "killed"})
    print(f"{len(lines) - len(survivors)} of {len(lines)} mutants killed, of {clauses} clauses")
    if "--write" in arguments:
        chapter.publish("mutants.json", lines)
        chapter.publish("signatures.json", signatures(failed, vectors, known))
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
