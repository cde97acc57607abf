"""The score of mutants that no author chose: every small change of the reference's functions.

    python -m refgss.conformance.selftest.generated [--sample N] [--resume FILE] [--write]

A mutant is killed by the first vector that rejects it; only the vectors that call its function are
asked.  Those that cannot be told from the reference are listed, each with the reason, in
equivalent.toml, and asked the cases that kill most of their neighbours.  --sample measures some,
drawn from --seed; --resume keeps what has been measured in a file and goes on from there; --write
renews spec/generated.json and chapter 15.
The exit code is 1 if more than 1 % of those that are not equivalent survive.
"""

from __future__ import annotations

import ast
import json
import os
import random
import resource
import signal
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import groupby
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import click
import numpy as np

from refgss.conformance import PRECISIONS
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging import runner
from refgss.conformance.judging.compare import NEUTRAL
from refgss.conformance.judging.runner import Question
from refgss.conformance.selftest import chapter, mutants
from refgss.conformance.selftest.kills import Reach, reach_of
from refgss.conformance.selftest.operators import Generated, generate
from refgss.conformance.selftest.substitution import with_function
from refgss.conformance.vectors.format import Vector, moderate, read_vectors
from refgss.standard import spec_folder

WANTED = 0.99  # of those that are not equivalent
MOST_SECONDS = 20  # for a case: a mutant that takes longer is killed by the time-out
ENOUGH = 100  # cases for a mutant that is listed as equivalent
MOST_BYTES = 4 * 2**30  # for a process: a mutant may ask for an array of 2³¹ numbers
SURVIVED = "survived"
Found = dict[str, str]  # by mutant, the case that kills it, or SURVIVED


class TooSlowError(BaseException):
    """A case took too long; no Exception, so that no candidate's answer hides it."""


@cache
def equivalent() -> Mapping[str, str]:
    """The mutants that no vector can kill, by name, each with the reason."""
    table = tomllib.loads(mutants.text(__package__, "equivalent.toml"))
    return {name: reason for reason, names in table.items() for name in names}


def load(mutant: Generated) -> ModuleType:
    """The reference with the changed function."""
    function = ast.parse(mutant.text).body[0]
    assert isinstance(function, ast.FunctionDef)
    changed = with_function(mutants.trees()[mutant.file], function)
    return mutants.copy("generated_mutant", {**mutants.sources(), mutant.file: changed})


def killer(mutant: Generated, asked: Iterable[Question]) -> str:
    """The case that rejects the mutant; SURVIVED where none does."""
    signal.signal(signal.SIGALRM, too_slow)
    try:
        candidate = ModuleCandidate(load(mutant))
    except Exception as e:
        return f"import: {type(e).__name__}"
    for question in asked:
        signal.alarm(MOST_SECONDS)
        try:
            with np.errstate(all="ignore"):
                outcome = runner.ask(candidate, question)["outcome"]
        except TooSlowError:
            outcome = "timed out"
        finally:
            signal.alarm(0)
        if outcome not in NEUTRAL:
            return f"{question.vector.id} {question.precision}"
    return SURVIVED


def too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlowError


def of_function(group: Sequence[Generated], vectors: Sequence[Vector], reach: Reach) -> Found:
    """Measure the mutants of one function: what has killed one is asked first of the next."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, resource.RLIM_INFINITY))
    ids = reach.get((group[0].file, group[0].function), set())
    able = sorted((v for v in vectors if v.id in ids), key=size)
    questions = {f"{v.id} {p}": Question(v, p) for p in reversed(PRECISIONS) for v in able}
    found, kills = {}, Counter[str]()
    for mutant in group:
        order = sorted(questions, key=lambda case: -kills[case])
        if mutant.name in equivalent():  # nothing kills it; what kills most of the others is asked
            order = order[:ENOUGH]
        by = killer(mutant, (questions[case] for case in order))
        kills[by] += 1
        found[mutant.name] = by
    return found


@cache
def published() -> tuple[Sequence[Vector], Reach]:
    vectors = moderate(read_vectors(spec_folder() / "vectors").vectors)
    return vectors, reach_of(vectors)


def of_published(group: Sequence[Generated]) -> Found:
    return of_function(group, *published())


def size(v: Vector) -> int:
    return sum(x.size for x in v.tensors.values())


def pieces(chosen: Sequence[Generated], most: int = 40) -> Iterator[list[Generated]]:
    """The mutants function by function, in pieces that are soon done."""
    for _, group in groupby(chosen, key=lambda m: (m.file, m.function)):
        members = list(group)
        yield from (members[i : i + most] for i in range(0, len(members), most))


def measure(
    chosen: Sequence[Generated], known: Found, resume: Path | None, jobs: int | None
) -> Found:
    """What kills each of the mutants; what is known already is not measured again."""
    found = {m.name: known[m.name] for m in chosen if m.name in known}
    published()  # before the processes fork, so that none of them reads it again
    with ProcessPoolExecutor(jobs or os.cpu_count()) as pool:
        for part in pool.map(of_published, pieces([m for m in chosen if m.name not in known])):
            found |= part
            if resume:
                with resume.open("a") as file:
                    file.writelines(json.dumps(line) + "\n" for line in part.items())
    return {m.name: found[m.name] for m in chosen}


def report(chosen: Sequence[Generated], found: Found) -> dict[str, Any]:
    """What chapter 15 publishes: the counts of each file of the reference, and the survivors."""
    files: dict[str, Counter[str]] = defaultdict(Counter)
    survivors = []
    for m in chosen:
        status = "killed" if found[m.name] != SURVIVED else "survived"
        if status == "survived" and m.name in equivalent():
            status = "equivalent"
        files[m.file][status] += 1
        survivors += [m.name] if status == "survived" else []
    counts = {k: dict(sorted(v.items())) for k, v in files.items()}
    return {"generated": len(chosen), "files": counts, "survivors": survivors}


def totals(result: Mapping[str, Any]) -> Counter[str]:
    return sum((Counter(counts) for counts in result["files"].values()), Counter[str]())


@click.command()
@click.option("--sample", type=int, help="Measure so many, drawn at random; all if not given.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample.")
@click.option(
    "--resume", type=click.Path(path_type=Path, dir_okay=False), help="Keep results here."
)
@click.option("--jobs", type=int, help="Processes; one for each core if not given.")
@click.option("--write", is_flag=True, help="Publish the score; for all of them only.")
def main(sample: int | None, seed: int, resume: Path | None, jobs: int | None, write: bool) -> None:
    if write and sample is not None:
        raise click.UsageError("--write publishes the score of all mutants: leave --sample out")
    everything = generate(mutants.trees())
    chosen = everything
    if sample is not None:
        drawn = set(
            random.Random(seed).sample(range(len(everything)), min(sample, len(everything)))
        )
        chosen = [m for i, m in enumerate(everything) if i in drawn]
    lines = resume.read_text("utf-8").splitlines() if resume and resume.exists() else []
    found = measure(chosen, dict(map(json.loads, lines)), resume, jobs)
    result = report(chosen, found)
    count = totals(result)
    for name in result["survivors"]:
        print(f"survived: {name}")
    for name in sorted(n for n in equivalent() if found.get(n, SURVIVED) != SURVIVED):
        print(f"not equivalent: {found[name]} kills {name}")
    judged = count["killed"] + count["survived"]
    share = count["killed"] / judged
    print(
        f"{len(chosen)} generated mutants: {count['equivalent']} equivalent; "
        f"of the others {count['killed']} of {judged} killed ({share:.2%})"
    )
    if write:
        chapter.publish("generated.json", result)
    raise SystemExit(share < WANTED)


if __name__ == "__main__":
    main()
