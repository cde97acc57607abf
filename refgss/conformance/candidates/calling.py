"""Candidates that are Python modules, called in this process."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from refgss import ops
from refgss.conformance.candidates.claims import claimed, one_line
from refgss.conformance.judging.compare import Answer, Failure, Outcome, Outputs


def answer_of(
    module: Any,
    op: str,
    tensors: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
) -> Answer:
    """Call an op of a Python module on tensors in real layout."""
    arguments = {name: ops.from_real(name, x) for name, x in tensors.items()}
    try:
        result = ops.invoke(module, op, arguments, options)
    except NotImplementedError as e:
        return Failure(Outcome.UNCLAIMED, str(e))
    except Exception as e:
        return Failure(Outcome.RAISED, one_line(e))
    try:
        named = ops.named_outputs(op, result)
    except TypeError as e:
        return Failure(Outcome.WRONG_SHAPE, one_line(e))
    try:
        return Outputs({k: ops.to_real(x) for k, x in named.items()})
    except Exception as e:  # a tensor that is not on this device, or still needs its gradient
        return Failure(Outcome.WRONG_DTYPE, f"an output is no NumPy array: {one_line(e)}")


def stages_of(
    module: Any, op: str, tensors: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """What `probe` of a Python module gives, in real layout; nothing where it fails."""
    arguments = {name: ops.from_real(name, x) for name, x in tensors.items()}
    probing = SimpleNamespace(**{op: partial(module.probe, op)})
    try:
        found = ops.invoke(probing, op, arguments, options)
        return {name: ops.to_real(x) for name, x in found.items()}
    except Exception:
        return {}


class ModuleCandidate:
    """A backend of this project, called in this process: no time-out and no overhead."""

    def __init__(self, module: Any):
        self.module = module
        self.about = claimed(module)

    def ask(
        self, op: str, tensors: Mapping[str, np.ndarray], options: Mapping[str, Any], precision: str
    ) -> Answer:
        with np.errstate(all="ignore"):  # vectors overflow and divide by zero on purpose
            return answer_of(self.module, op, ops.at_precision(tensors, precision), options)

    def probe(
        self, op: str, tensors: Mapping[str, np.ndarray], options: Mapping[str, Any], precision: str
    ) -> Mapping[str, np.ndarray]:
        if op not in self.about.probes:
            return {}
        with np.errstate(all="ignore"):
            return stages_of(self.module, op, ops.at_precision(tensors, precision), options)

    def close(self) -> None:
        pass
