"""Candidates that are Python modules, called in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from refgss import ops
from refgss.conformance.candidates import presentation
from refgss.conformance.candidates.claims import claimed, one_line
from refgss.conformance.candidates.frameworks import ARRAYS
from refgss.conformance.candidates.presentation import Layout, WroteElsewhereError, contiguous
from refgss.conformance.definition import definition
from refgss.conformance.judging.compare import Answer, Failure, Outcome, Outputs


def answer_of(
    module: Any,
    op: str,
    tensors: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
    arrays: str = "numpy",
    layout: Layout = contiguous,
) -> Answer:
    """Call an op of a Python module on tensors in real layout.

    arrays names the framework whose arrays the module takes, layout how they lie in memory.
    """
    if hasattr(module, "laid_out"):  # a library, which sees other arrays than its caller
        module, layout = module.laid_out(layout), contiguous
    native = {name: ops.from_real(name, x) for name, x in tensors.items()}
    given = presentation.laid(native, layout)
    arguments = {name: ARRAYS[arrays](x) for name, x in given.arrays.items()}
    answer = result_of(partial(ops.invoke, module, op, arguments, options), op)
    if changed := given.changed():
        return Failure(Outcome.WROTE, f"the argument {changed} was changed")
    return answer


def result_of(call: Callable[[], Any], op: str) -> Answer:
    """What a call of an op returns, by name and in real layout; what it raises is a Failure."""
    try:
        result = call()
    except WroteElsewhereError as e:
        return Failure(Outcome.WROTE, str(e))
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


@dataclass(frozen=True)
class Asking:
    """One op of a Python module, with its options: what `presentation` asks."""

    module: Any
    op: str
    options: Mapping[str, Any]
    arrays: str

    def once(self, tensors: Mapping[str, np.ndarray], layout: Layout) -> Answer:
        with np.errstate(all="ignore"):  # of this thread alone
            return answer_of(self.module, self.op, tensors, self.options, self.arrays, layout)

    def many(self, tensors: Mapping[str, np.ndarray]) -> Callable[[], Answer]:
        take = ARRAYS[self.arrays]
        arguments = {name: take(ops.from_real(name, x)) for name, x in tensors.items()}
        if hasattr(self.module, "prepare"):  # a library: nothing but the call itself is repeated
            preparing = SimpleNamespace(**{self.op: partial(self.module.prepare, self.op)})
            return ops.invoke(preparing, self.op, arguments, self.options).step
        call = partial(ops.invoke, self.module, self.op, arguments, self.options)

        def step() -> Answer:
            with np.errstate(all="ignore"):
                return result_of(call, self.op)

        return step

    def truth(self, tensors: Mapping[str, np.ndarray], precision: str = "f64") -> Answer:
        with np.errstate(all="ignore"):
            return answer_of(
                definition(self.op), self.op, ops.at_precision(tensors, precision), self.options
            )


def presented(
    way: str,
    module: Any,
    op: str,
    tensors: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
    arrays: str = "numpy",
) -> Answer:
    """The answer of a Python module to a case that is asked in one of `presentation.WAYS`."""
    return presentation.present(way, Asking(module, op, options, arrays), tensors)


def stages_of(
    module: Any,
    op: str,
    tensors: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
    arrays: str = "numpy",
) -> dict[str, np.ndarray]:
    """What `probe` of a Python module gives, in real layout; nothing where it fails."""
    arguments = {name: ARRAYS[arrays](ops.from_real(name, x)) for name, x in tensors.items()}
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
        self,
        op: str,
        tensors: Mapping[str, np.ndarray],
        options: Mapping[str, Any],
        precision: str,
        way: str | None = None,
    ) -> Answer:
        tensors, arrays = ops.at_precision(tensors, precision), self.about.arrays
        if way is not None:
            return presented(way, self.module, op, tensors, options, arrays)
        with np.errstate(all="ignore"):  # vectors overflow and divide by zero on purpose
            return answer_of(self.module, op, tensors, options, arrays)

    def probe(
        self, op: str, tensors: Mapping[str, np.ndarray], options: Mapping[str, Any], precision: str
    ) -> Mapping[str, np.ndarray]:
        if op not in self.about.probes:
            return {}
        with np.errstate(all="ignore"):
            at_precision = ops.at_precision(tensors, precision)
            return stages_of(self.module, op, at_precision, options, self.about.arrays)

    def close(self) -> None:
        pass
