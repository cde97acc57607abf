"""The child process of python: and lib: candidates: hosts a module and speaks the protocol for it.

    python -m refgss.conformance.candidates.worker KIND TARGET

where KIND TARGET is `python MODULE[:OBJECT]`, `python FILE.py` or `lib FILE`.

Stdout belongs to the protocol; whatever the module itself prints goes to stderr.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.numpy

from refgss.conformance.candidates import protocol
from refgss.conformance.candidates.calling import answer_of, presented, stages_of
from refgss.conformance.candidates.claims import CandidateError, claimed, one_line
from refgss.conformance.judging.compare import Answer, Outcome, Outputs


def load(kind: str, target: str) -> Any:
    """The object with the ops.  Raises CandidateError with a sentence that says what to do."""
    if kind == "lib":
        from refgss.conformance.candidates.library import Library

        return Library(target)
    name, _, attribute = target.partition(":")
    if name.endswith(".py") and not Path(name).is_file():
        raise CandidateError(f"there is no file {name}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does, unless it is told `-P`
    try:
        module = load_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
        found = getattr(module, attribute) if attribute else module
        return found() if isinstance(found, type) else found
    except Exception as e:
        raise CandidateError(f"{target} cannot be imported: {one_line(e)}") from e


def load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.resolve().parent))  # as `python FILE.py` does
    spec.loader.exec_module(module)
    return module


def answer(candidate: Any, case: dict[str, Any], arrays: str = "numpy") -> dict[str, Any]:
    """Compute one case, write its outputs, and say how it went."""
    tensors = safetensors.numpy.load_file(case["inputs"])
    number = {"case": case["case"]}
    if not hasattr(candidate, case["op"]):
        return {"type": "unclaimed", **number}
    asked = candidate, case["op"], tensors, case["options"], arrays
    result: Answer = presented(case["way"], *asked) if "way" in case else answer_of(*asked)
    if "probes" in case:
        stages = stages_of(*asked)
        written(Outputs(stages), case["probes"])
    if isinstance(result, Outputs):
        return written(result, case["outputs"]) | number
    if result.outcome is Outcome.UNCLAIMED:
        return {"type": "unclaimed", **number, "message": result.message}
    if result.outcome is Outcome.RAISED:
        return {"type": "error", **number, "message": result.message}
    if result.outcome in (Outcome.WROTE, Outcome.WRONG_VALUE):
        said = {"outcome": str(result.outcome), "message": result.message}
        return {"type": "done", **number, **said}
    if result.outcome is Outcome.WRONG_DTYPE:
        return {"type": "done", **number, "message": result.message}
    return written(Outputs({}), case["outputs"]) | number  # not the op's outputs: none at all


def written(outputs: Outputs, path: str) -> dict[str, Any]:
    """Save the outputs, or say which is of a type that no file holds (object, longdouble)."""
    arrays = {k: np.asarray(x, order="C") for k, x in outputs.arrays.items()}
    try:
        safetensors.numpy.save_file(arrays, path)
    except safetensors.SafetensorError as e:
        return {"type": "done", "message": f"an output is no array of numbers: {one_line(e)}"}
    return {"type": "done"}


def serve(candidate: Any, lines: BinaryIO, replies: BinaryIO) -> None:
    """Answer messages until bye or the end of input."""
    about = claimed(candidate)
    for line in lines:
        message = protocol.decode(line)
        if message["type"] == "bye":
            return
        if message["type"] == "case":
            reply = answer(candidate, message, about.arrays)
        else:
            reply = protocol.capabilities(vars(about))
        replies.write(protocol.encode(reply))


def main(kind: str, target: str) -> None:
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    lines = os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)  # a print() of the candidate must not end up among the replies,
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nor may an input() take a message
    try:
        serve(load(kind, target), lines, replies)
    except CandidateError as e:
        replies.write(protocol.encode({"type": "error", "message": str(e)}))


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    main(*sys.argv[1:3])
