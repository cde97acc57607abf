"""How often diagnosis names the right clause, over all mutants.

    python -m refgss.conformance.diagnosis_score

prints the share of mutants whose clause comes first and among the first three: once with the
published signatures, once with the mutant's own signature left out, as if nobody had thought of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

from refgss.conformance import diagnosis, mutants, spec_folder
from refgss.conformance.compare import Outcome
from refgss.conformance.diagnosis import Test
from refgss.conformance.runner import Question, Record, ask
from refgss.conformance.vectors import Vector, read_vectors


def records(name: str, vectors: Sequence[Vector], fails: Set[Test]) -> list[Record]:
    """The records of a check of a mutant; only what it fails is asked again."""
    candidate = diagnosis.mutant(name)
    found = []
    for v in vectors:
        for precision in mutants.declared()[name].precisions:
            if (v.id, precision) in fails:
                with np.errstate(all="ignore"):
                    found.append(ask(candidate, Question(v, precision)))
            else:
                found.append({"id": v.id, "precision": precision, "outcome": str(Outcome.PASS)})
    return found


def rank(
    name: str, vectors: Sequence[Vector], signatures: Mapping[str, Set[Test]]
) -> tuple[int, int]:
    """The place of the mutant's clause (0 is the first) with its own signature, and without it."""
    checked = records(name, vectors, signatures[name])
    others = {m: fails for m, fails in signatures.items() if m != name}
    places = []
    for known in (signatures, others):
        suspects = diagnosis.diagnose(diagnosis.mutant(name), vectors, checked, known)
        clauses = [s.clause for s in suspects]
        right = mutants.declared()[name].clause
        places.append(clauses.index(right) if right in clauses else len(clauses))
    return places[0], places[1]


def main() -> None:
    vectors = read_vectors(spec_folder() / "vectors").vectors
    signatures = diagnosis.published()
    work = partial(rank, vectors=vectors, signatures=signatures)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        places = np.array(list(pool.map(work, signatures, chunksize=8)))
    for column, how in enumerate(("as published", "leaving it out")):
        first, three = (places[:, column] == 0).mean(), (places[:, column] < 3).mean()
        print(f"{how}: of {len(places)} mutants {first:.1%} first, {three:.1%} in the first three")


if __name__ == "__main__":
    main()
