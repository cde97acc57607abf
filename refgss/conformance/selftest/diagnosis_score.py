"""How often the diagnosis names the right clause, on errors that nobody tuned it to.

    python -m refgss.conformance.selftest.diagnosis_score [--sample N] [--named N] [--fit] [--write]

Generated mutants are taken for failing candidates; right is a clause that the changed function
names in its docstring, or its callers where it names none, and that on shapes where nothing but
the shapes of results is wrong.  The functions of the reference are two
halves: the weights of the diagnosis are fitted on one (`--fit` prints them), and the published
shares are those of the other.  Named mutants are scored beside, each with its own signature left
out; right is the clause that its author wrote down.  --write renews spec/diagnosis.json.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import click
import numpy as np

from refgss.conformance import LAYER_PROFILES, PRECISIONS
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging import diagnosis, likeness
from refgss.conformance.judging.compare import Finding, Outcome
from refgss.conformance.judging.coverage import clauses_of
from refgss.conformance.judging.diagnosis import WEIGHTS, Evidence, Weights
from refgss.conformance.judging.runner import Question, Record, ask, record, select
from refgss.conformance.judging.slices import Slices, published_slices
from refgss.conformance.selftest import chapter, generated, mutants
from refgss.conformance.selftest.operators import Generated, generate
from refgss.conformance.vectors.format import Vector, moderate, read_vectors
from refgss.ops import OPS
from refgss.standard import spec_folder

PRECISION = "f64"  # of the checks of generated mutants: their errors are of meaning
PROFILES = (*PRECISIONS, *LAYER_PROFILES)
FORM = {"GSS-ARR-1", "GSS-ARR-2"}  # what every op asks of its results
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


def held_out(everything: Sequence[Generated]) -> Callable[[Generated], bool]:
    """Every second function, in the order of their names: the half that no weight is fitted on."""
    functions = sorted({(m.file, m.function) for m in everything})
    return lambda m: functions.index((m.file, m.function)) % 2 == 1


@cache
def asked() -> tuple[tuple[Vector, ...], Slices]:
    """The vectors of a quick check that the signatures know, and what functions move in them."""
    vectors = moderate(read_vectors(spec_folder() / "vectors").vectors)
    quick = {q.vector.id for q in select(vectors, PROFILES, selection="quick")}
    return tuple(v for v in vectors if v.id in quick), published_slices(vectors)


def trial(mutant: Generated) -> Trial:
    """Check a generated mutant and collect the evidence; none where it survives or only crashes."""
    candidate, (vectors, spectra) = ModuleCandidate(generated.load(mutant)), asked()
    ids = likeness.published_reach().get(f"{mutant.file}.{mutant.function}", frozenset())
    claims = claimed({v.op for v in vectors if v.id in ids})
    signal.signal(signal.SIGALRM, generated.too_slow)
    records: list[Record] = []
    with np.errstate(all="ignore"):
        for v in (v for v in vectors if v.op in claims):
            signal.alarm(generated.MOST_SECONDS)
            try:
                records.append(judged(candidate, v, PRECISION, v.id in ids))
            except generated.TooSlowError:
                records.append(line_of(v, PRECISION, Outcome.TIMED_OUT))
            finally:
                signal.alarm(0)
        found = diagnosis.evidence(candidate, vectors, records, likeness.published(), spectra)
    right = clauses_of(f"{mutant.file}.{mutant.function}")
    return Trial(mutant.name, right | of_form(found.keys()), dict(found))


def of_form(suspects: Set[str]) -> Set[str]:
    """The clause on shapes or types where a result has another one and nothing else is wrong."""
    return suspects & FORM if suspects <= FORM else set()


def claimed(able: Set[str]) -> Set[str]:
    """The ops that a candidate claims: all but models and layers, if its error shows in others.

    The diagnosis looks at the first ops that fail; what is made of them repeats the error only.
    """
    models = {op for op in OPS if op.startswith("lm_")}
    layers = {op for op in OPS if "_layer" in op}
    if not able - models - layers:
        return OPS.keys() - models if able - models else OPS.keys()
    return OPS.keys() - models - layers


def judged(candidate: ModuleCandidate, v: Vector, precision: str, able: bool) -> Record:
    """The record of a case; one that cannot fail is not asked."""
    return ask(candidate, Question(v, precision)) if able else line_of(v, precision, Outcome.PASS)


def line_of(v: Vector, precision: str, outcome: Outcome) -> Record:
    return record(Question(v, precision), Finding(outcome), 0.0)


# --- named mutants ------------------------------------------------------------------------------


def named_trial(name: str) -> Trial:
    """The evidence for a named mutant whose own signature is left out."""
    candidate, (vectors, spectra) = ModuleCandidate(likeness.mutant(name).module), asked()
    candidate.about = replace(candidate.about, probes=())
    fails = likeness.published()[name]
    tests = [(v, p) for v in vectors for p in mutants.declared()[name].precisions]
    records = [judged(candidate, v, p, (v.id, p) in fails) for v, p in tests]
    others = {m: s for m, s in likeness.published().items() if m != name}
    found = diagnosis.evidence(candidate, vectors, records, others, spectra)
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
@click.option("--jobs", type=int, help="Processes; one for each core if not given.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--fit", is_flag=True, help="Print the best weights for the first half.")
@click.option("--misses", is_flag=True, help="List what is not first.")
@click.option("--write", is_flag=True, help="Publish the scores.")
def main(
    sample: int,
    named: int | None,
    jobs: int | None,
    seed: int,
    fit: bool,
    misses: bool,
    write: bool,
) -> None:
    rng = random.Random(seed)
    everything = [m for m in generate(mutants.trees()) if m.name not in generated.equivalent()]
    everything = [m for m in everything if f"{m.file}.{m.function}" in likeness.published_reach()]
    chosen = rng.sample(everything, min(sample, len(everything)))
    names = list(likeness.published())
    names = names if named is None else rng.sample(names, named)
    asked()  # before the processes fork, so that none of them reads it again
    with ProcessPoolExecutor(jobs or os.cpu_count()) as pool:
        trials = list(pool.map(trial, chosen, chunksize=4))
        by_name = list(pool.map(named_trial, names, chunksize=4))
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
