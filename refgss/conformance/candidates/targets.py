"""The candidate that a command line names."""

from __future__ import annotations

import importlib
import os
import shlex
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from refgss.children import python
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.candidates.claims import Candidate, CandidateError
from refgss.conformance.candidates.processes import ProcessCandidate

SCORERS = {"scores": "refgss.scores"}
ALIASES = {
    "reference": "refgss.reference",
    "native": "refgss.native",
    "jax": "refgss.xla",
    "torch": "refgss.torch",
}


def open_candidate(spec: str, timeout: float = 30.0, memory: int = 8 << 30) -> Candidate:
    """The candidate that a command line names.

    spec is reference, native, jax, torch, scores, python:MODULE[:OBJECT], python:FILE.py, lib:FILE
    or cmd:"PROGRAM ARGS".  A process may take `timeout` seconds a case and `memory` bytes.
    Raises CandidateError where it cannot be started, ValueError where spec is none of these.
    """
    kind, _, target = spec.partition(":")
    if kind in ALIASES and not target:
        return ModuleCandidate(import_backend(kind))
    if kind in SCORERS and not target:
        return ModuleCandidate(importlib.import_module(SCORERS[kind]))
    if kind in ("python", "lib") and target:
        worker = python("-m", "refgss.conformance.candidates.worker", kind, target)
        return ProcessCandidate(worker, timeout, memory)
    if kind == "cmd" and target.strip():
        try:
            return ProcessCandidate(shlex.split(target), timeout, memory)
        except ValueError as e:
            raise ValueError(f"the command {target!r} cannot be split into words: {e}") from e
    ending = {".py": "python", ".so": "lib", ".dylib": "lib"}.get(Path(spec).suffix)
    guesses = (
        [f"{ending}:{spec}"]
        if ending and not target
        else get_close_matches(spec, [*ALIASES, *SCORERS])
    )
    raise ValueError(
        f"unknown candidate {spec!r}: "
        + (f"did you mean {guesses[0]}? " if guesses else "")
        + "use reference, native, jax, torch, scores, python:MODULE[:OBJECT], python:FILE.py, "
        'lib:FILE or cmd:"PROGRAM ARGS"'
    )


def import_backend(alias: str) -> ModuleType:
    """One of this project's backends by its short name."""
    if alias == "jax":
        os.environ.setdefault("JAX_ENABLE_X64", "1")  # profile f64 needs it; f32 is not affected
    try:
        return importlib.import_module(ALIASES[alias])
    except ImportError as e:
        raise CandidateError(f"the backend {alias} cannot be used here: {e}") from e
