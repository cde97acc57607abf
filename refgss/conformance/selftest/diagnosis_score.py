"""How often the diagnosis names the right clause, on errors that nobody tuned it to.

    python -m refgss.conformance.selftest.diagnosis_score [--sample N] [--named N] [--fit] [--write]

Generated mutants are taken for failing candidates; right is a clause that the changed function
names in its docstring, or its callers where it names none.  The functions of the reference are two
halves: the weights of the diagnosis are fitted on one (`--fit` prints them), and the published
shares are those of the other.  Named mutants are scored beside, each with its own signature left
out; right is the clause that its author wrote down.  --write renews spec/diagnosis.json.
"""

from __future__ import annotations

import ast
import os
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from typing import Any

import click
import numpy as np

from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging import diagnosis, likeness
from refgss.conformance.judging.compare import Finding, Outcome
from refgss.conformance.judging.coverage import clauses_of_functions, first_ops
from refgss.conformance.judging.diagnosis import WEIGHTS, Evidence, Weights
from refgss.conformance.judging.runner import Question, Record, ask, record
from refgss.conformance.selftest import chapter, generated, mutants
from refgss.conformance.selftest.operators import Generated, generate
from refgss.conformance.vectors.format import Vector, moderate, read_vectors
from refgss.standard import spec_folder

PRECISION = "f64"  # of the checks of generated mutants: their errors are of meaning
STEPS = (0.0, 0.25, 0.5, 0.75, 1.5, 2.0, 4.0)  # of the coordinate search


@dataclass(frozen=True)
class Trial:
    """A failing candidate: the evidence for each clause, and the clauses that are right."""

    name: str
    right: frozenset[str]
    evidence: Mapping[str, Evidence]

    def place(self, weights: Weights) -> int:
        """The place of the first right clause, 0 being the first; infinite if none is named."""
        found = diagnosis.ranked(self.evidence, weights)
        return next((i for i, s in enumerate(found) if s.clause in self.right), len(found) + 99)


# --- generated mutants --------------------------------------------------------------------------


def right_clauses(file: str, function: str) -> frozenset[str]:
    """What a function names, or where it names nothing, what those that call it name."""
    own = clauses_of_functions().get(f"{file}.{function}", ())
    if own:
        return frozenset(own)
    return frozenset(c for caller in callers(function) for c in clauses_of_functions()[caller])


@cache
def callers(function: str) -> tuple[str, ...]:
    return tuple(
        f"{stem}.{node.name}"
        for stem, tree in mutants.trees().items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any(called(n) == function for n in ast.walk(node))
    )


def called(node: ast.AST) -> str:
    """The name of the function that a node calls; empty where it calls none."""
    function = getattr(node, "func", None)
    return str(getattr(function, "id", getattr(function, "attr", "")))


def held_out(everything: Sequence[Generated]) -> Callable[[Generated], bool]:
    """Every second function, in the order of their names: the half that no weight is fitted on."""
    functions = sorted({(m.file, m.function) for m in everything})
    return lambda m: functions.index((m.file, m.function)) % 2 == 1


def trial(
    mutant: Generated, vectors: Sequence[Vector], signatures: Any, reach: Mapping[str, Any]
) -> Trial:
    """Check a generated mutant and collect the evidence; none where it survives or only crashes."""
    candidate = ModuleCandidate(generated.load(mutant))
    ids = reach.get(f"{mutant.file}.{mutant.function}", frozenset())
    records: list[Record] = []
    with np.errstate(all="ignore"):
        for v in vectors:
            if v.id in ids:
                records.append(ask(candidate, Question(v, PRECISION)))
            else:
                records.append(record(Question(v, PRECISION), Finding(Outcome.PASS), 0.0))
        found = diagnosis.evidence(candidate, vectors, records, signatures, reach)
    return Trial(mutant.name, right_clauses(mutant.file, mutant.function), dict(found))


# --- named mutants ------------------------------------------------------------------------------


def named_trial(
    name: str, vectors: Sequence[Vector], signatures: Mapping[str, Any], reach: Mapping[str, Any]
) -> Trial:
    """The evidence for a named mutant whose own signature is left out."""
    candidate = ModuleCandidate(likeness.mutant(name).module)
    candidate.about = replace(candidate.about, probes=())
    fails, by_id = signatures[name], {v.id: v for v in vectors}
    first = first_ops({by_id[id].op for id, _ in fails})
    records: list[Record] = []
    for v in vectors:
        for p in mutants.declared()[name].precisions:
            if (v.id, p) in fails and v.op in first:
                records.append(ask(candidate, Question(v, p)))
            else:
                outcome = Outcome.WRONG_VALUE if (v.id, p) in fails else Outcome.PASS
                records.append(record(Question(v, p), Finding(outcome), 0.0))
    others = {m: s for m, s in signatures.items() if m != name}
    found = diagnosis.evidence(candidate, vectors, records, others, reach)
    return Trial(name, frozenset({mutants.declared()[name].clause}), dict(found))


# --- scores -------------------------------------------------------------------------------------


def share(trials: Sequence[Trial], most: int, weights: Weights) -> float:
    return sum(t.place(weights) < most for t in trials) / max(len(trials), 1)


def fitted(trials: Sequence[Trial]) -> Weights:
    """Coordinate search for the weights under which most right clauses come first."""

    def value(weights: Weights) -> float:
        return share(trials, 1, weights) + share(trials, 3, weights) / 2

    best, before = WEIGHTS, -1.0
    while (now := value(best)) > before:
        before = now
        for f in fields(Weights):
            tried = [replace(best, **{f.name: s * (getattr(best, f.name) or 1)}) for s in STEPS]
            best = max([best, *tried], key=value)
    return best


def line(meaning: str, trials: Sequence[Trial], weights: Weights) -> dict[str, Any]:
    first, three = share(trials, 1, weights), share(trials, 3, weights)
    print(f"{first:.1%} first, {three:.1%} in the first three, of {len(trials)}: {meaning}")
    return {"meaning": meaning, "mutants": len(trials), "first": first, "first_three": three}


@click.command()
@click.option(
    "--sample", type=int, default=400, show_default=True, help="Of the generated mutants."
)
@click.option("--named", type=int, help="So many of the named mutants; all if not given.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--fit", is_flag=True, help="Print the best weights for the first half.")
@click.option("--misses", is_flag=True, help="List what is not first.")
@click.option("--write", is_flag=True, help="Publish the scores.")
def main(sample: int, named: int | None, seed: int, fit: bool, misses: bool, write: bool) -> None:
    vectors = moderate(read_vectors(spec_folder() / "vectors").vectors)
    signatures, reach = likeness.published(), likeness.published_reach()
    known: dict[str, Any] = {"vectors": vectors, "signatures": signatures, "reach": reach}
    rng = random.Random(seed)
    everything = [m for m in generate(mutants.trees()) if m.name not in generated.equivalent()]
    chosen = rng.sample(everything, min(sample, len(everything)))
    names = list(signatures)
    names = names if named is None else rng.sample(names, named)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        trials = list(pool.map(partial(trial, **known), chosen, chunksize=8))
        by_name = list(pool.map(partial(named_trial, **known), names, chunksize=8))
    apart = held_out(everything)
    speaking = [(m, t) for m, t in zip(chosen, trials, strict=True) if t.evidence]
    one = [t for m, t in speaking if not apart(m)]
    other = [t for m, t in speaking if apart(m)]
    weights = WEIGHTS
    if fit:
        weights = fitted(one)
        print(weights)
    scores = [
        line("generated mutants, of functions that no weight was fitted on", other, weights),
        line("generated mutants, of functions that the weights were fitted on", one, weights),
        line("named mutants, as if nobody had thought of the error", by_name, weights),
    ]
    if misses:
        for t in (*one, *other, *by_name):
            if t.place(weights):
                found = [s.clause for s in diagnosis.ranked(t.evidence, weights)[:3]]
                print(f"{t.name}: {' '.join(sorted(t.right))} not first in {' '.join(found)}")
    if write:
        chapter.publish("diagnosis.json", scores)


if __name__ == "__main__":
    main()
