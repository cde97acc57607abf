"""How often diagnosis names the right clause, over all mutants.

    python -m refgss.conformance.selftest.diagnosis_score [--write] [--misses]

prints the share of mutants whose clause comes first and among the first three, in the three ways of
WAYS; --write renews spec/diagnosis.json, from which chapter 15 has its figures;
--misses lists what is not first where the mutant itself is left out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging import diagnosis
from refgss.conformance.judging.compare import Outcome
from refgss.conformance.judging.diagnosis import Test
from refgss.conformance.judging.runner import Question, Record, ask
from refgss.conformance.selftest import chapter, mutants
from refgss.conformance.vectors.format import Vector, moderate, read_vectors
from refgss.standard import spec_folder


def records(name: str, vectors: Sequence[Vector], fails: Set[Test]) -> list[Record]:
    """The records of a check of a mutant; asked again is only what a diagnosis looks at closely."""
    candidate = diagnosis.mutant(name)
    by_id = {v.id: v for v in vectors}
    first = diagnosis.first_ops({by_id[id].op for id, _ in fails})
    found = []
    for v in vectors:
        for precision in mutants.declared()[name].precisions:
            if (v.id, precision) in fails and v.op in first:
                with np.errstate(all="ignore"):
                    found.append(ask(candidate, Question(v, precision)))
            else:
                outcome = Outcome.WRONG_VALUE if (v.id, precision) in fails else Outcome.PASS
                found.append({"id": v.id, "precision": precision, "outcome": str(outcome)})
    return found


WAYS = {
    "known": "the mutant's own signature is known",
    "unknown": "it is left out, as if nobody had thought of the error",
    "staged": "it is left out, and the candidate offers the stages of its layers",
}


def rank(
    name: str, vectors: Sequence[Vector], signatures: Mapping[str, Set[Test]]
) -> dict[str, int]:
    """The place of the mutant's clause (0 is the first) in each of WAYS."""
    checked = records(name, vectors, signatures[name])
    others = {m: fails for m, fails in signatures.items() if m != name}
    open_, closed = diagnosis.mutant(name), ModuleCandidate(diagnosis.mutant(name).module)
    closed.about = replace(closed.about, probes=())
    places = {}
    for way, candidate, known in (
        ("known", closed, signatures),
        ("unknown", closed, others),
        ("staged", open_, others),
    ):
        suspects = diagnosis.diagnose(candidate, vectors, checked, known)
        clauses = [s.clause for s in suspects]
        right = mutants.declared()[name].clause
        places[way] = clauses.index(right) if right in clauses else len(clauses)
    return places


def share(places: Sequence[int], most: int) -> float:
    return sum(p < most for p in places) / len(places)


def main(arguments: Sequence[str]) -> None:
    vectors = moderate(read_vectors(spec_folder() / "vectors").vectors)
    signatures = diagnosis.published()
    work = partial(rank, vectors=vectors, signatures=signatures)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(signatures, pool.map(work, signatures, chunksize=8), strict=True))
    scores = []
    for way, meaning in WAYS.items():
        places = [f[way] for f in found.values()]
        first, three = share(places, 1), share(places, 3)
        scores.append({"meaning": meaning, "first": first, "first_three": three})
        print(f"{first:.1%} first, {three:.1%} in the first three: {meaning}")
    if "--misses" in arguments:
        for name, f in found.items():
            if f["unknown"]:
                print(f"{name} ({mutants.declared()[name].clause}): {f}")
    if "--write" in arguments:
        chapter.publish("diagnosis.json", scores)


if __name__ == "__main__":
    main(sys.argv[1:])
