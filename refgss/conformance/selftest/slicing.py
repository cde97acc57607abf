"""Which results each statement of the reference moves: measured, for `judging.slices`."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType, ModuleType
from typing import Any

import numpy as np

from refgss import reference, scores
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.definition import definition
from refgss.conformance.judging.compare import Answer, Failure
from refgss.conformance.judging.runner import answer_to
from refgss.conformance.judging.slices import Result, outputs_of
from refgss.conformance.selftest import mutants
from refgss.conformance.vectors.format import Vector

PRECISION = "f64"
NUDGE = 2.0**-6  # what a function returns becomes larger by about this share of it


def executed(vectors: Iterable[Vector], path_of: Mapping[str, str]) -> dict[str, list[set[str]]]:
    """By function the vectors that run each of its statements, no set twice.

    path_of  the files of the reference, by their paths.
    """
    ran: dict[tuple[str, int], set[str]] = defaultdict(set)
    candidates = {module: ModuleCandidate(module) for module in (reference, scores)}
    for v in vectors:
        candidate = candidates[definition(v.op)]

        def note(frame: FrameType, event: str, _: Any, id: str = v.id) -> Any:
            if stem := path_of.get(frame.f_code.co_filename):
                if event == "line" and frame.f_code.co_name.isidentifier():
                    ran[f"{stem}.{frame.f_code.co_name}", frame.f_lineno].add(id)
                return note
            return None

        sys.settrace(note)
        try:
            answer_to(candidate, v, PRECISION)
        finally:
            sys.settrace(None)
    found: dict[str, list[set[str]]] = defaultdict(list)
    for (function, _), ids in sorted(ran.items()):
        if ids not in found[function]:
            found[function].append(ids)
    return dict(found)


def truth(v: Vector) -> Answer:
    return answer_to(ModuleCandidate(definition(v.op)), v, PRECISION)


def moved(function: str, vectors: Sequence[Vector], answers: Mapping[str, Answer]) -> set[Result]:
    """The results that change when what the function returns does, in every element.

    answers  those of the reference, by vector.
    """
    candidate = ModuleCandidate(nudged(function))
    found: set[Result] = set()
    for v in vectors:
        with np.errstate(all="ignore"):
            answer = answer_to(candidate, v, PRECISION)
        found |= {(v.id, o) for o in outputs_of(v) if differs(answer, answers[v.id], o)}
    return found


def differs(answer: Answer, truth: Answer, output: str) -> bool:
    if isinstance(answer, Failure) or isinstance(truth, Failure):
        return isinstance(answer, Failure) != isinstance(truth, Failure)
    x, y = answer.arrays[output], truth.arrays[output]
    return x.shape != y.shape or not np.allclose(x, y, rtol=1e-9, atol=0, equal_nan=True)


def nudged(function: str) -> ModuleType:
    """The reference, one function of which returns other numbers."""
    stem, name = function.split(".")
    around = f"""
from refgss.conformance.selftest.slicing import nudge as _nudge
_{name} = {name}
def {name}(*args, **kwargs):
    return _nudge(_{name}(*args, **kwargs))
"""
    texts = dict(mutants.sources())
    scores = stem.startswith(mutants.OF_SCORES)
    return mutants.copy("nudged_reference", texts | {stem: texts[stem] + around}, scores)


def nudge(x: Any) -> Any:
    """x with all of its numbers larger by shares that differ."""
    if isinstance(x, tuple | list):
        return type(x)(map(nudge, x))
    if isinstance(x, dict):
        return {k: nudge(y) for k, y in x.items()}
    if isinstance(x, np.ndarray) and x.dtype.kind in "fc":
        share = NUDGE * (1 + np.arange(x.size).reshape(x.shape) % 7 / 8)
        return x * (1 + share).astype(x.real.dtype)
    return x
