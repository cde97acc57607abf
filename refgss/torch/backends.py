"""The two backends of this folder: kernels of refgss.native, and plain PyTorch.

Each has every op, with the arguments of the standard.  What is made of other ops is written once,
over either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any

import torch

from refgss import ops, reference
from refgss.torch import formulas, kernels, language_model, layers
from refgss.torch.gradients import pull_back
from refgss.torch.inputs import named_arguments, tensors_of

Op = Callable[..., Any]


def by_order(op: str, f: Op) -> Op:
    """f, which takes its arguments by name, with the signature of an op."""

    @wraps(getattr(reference, op))
    def call(*given: Any, **keywords: Any) -> Any:
        arguments = named_arguments(op, given, keywords)
        tensors_of(op, arguments)  # which refuses what is none
        return f(**arguments)

    return call


def s4d_lambda(n: int, init: Any) -> torch.Tensor:
    """The reference's own: work of O(N)."""
    return torch.from_numpy(reference.s4d_lambda(n, init=init))


def backend(own: Mapping[str, Op], composed: Mapping[str, Op]) -> SimpleNamespace:
    """A backend with ops of its own; others, and gradients, are made of them."""
    alone = {"s4d_lambda": s4d_lambda, **own}
    made = SimpleNamespace(**{op: by_order(op, f) for op, f in alone.items()})
    for op, f in composed.items():
        setattr(made, op, by_order(op, partial(f, made)))
    for op in ops.OPS:
        if op.endswith("_vjp") and not hasattr(made, op) and hasattr(made, op[: -len("_vjp")]):
            setattr(made, op, by_order(op, partial(pull_back, made, op)))
    return made


MODELS: dict[str, Op] = {
    "transformer_layer": layers.transformer_layer,
    "lm_logits": language_model.lm_logits,
    "lm_loss": language_model.lm_loss,
}
LAYERS: dict[str, Op] = {"gss_layer": layers.gss_layer, "dss_layer": layers.dss_layer}
plain = backend(formulas.FORMULAS, LAYERS | MODELS)
native = None if kernels.obstacle() else backend(kernels.KERNELS, MODELS)


def chosen(op: str) -> Op:
    """An op by the backend that its tensors ask for: the kernels where all are on the CPU."""

    @wraps(getattr(reference, op))
    def call(*given: Any, **keywords: Any) -> Any:
        arguments = named_arguments(op, given, keywords)
        own = native
        if own is None or any(not x.is_cpu for x in tensors_of(op, arguments).values()):
            own = plain
        return getattr(own, op)(**arguments)

    return call


OPS = {op: chosen(op) for op in ops.OPS if hasattr(plain, op)}
