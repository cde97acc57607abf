"""Frameworks that differentiate by themselves, as variants: modules of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from refgss import ops, reference
from refgss.conformance.selftest.variants.declare import Rejection, of_its_own


@of_its_own(
    "torch",
    rejections=(
        Rejection(
            "GSS-GRD-3",
            ("discretize_vjp", "ssm_kernel_vjp", "ssm_scan_vjp", "ssm_step_vjp"),
            "the derivative of (1 + z/2)/(1 − z/2) as a difference, |z|/4 times as large",
            ("f64",),
        ),
        Rejection(
            "GSS-GRD-7",
            ("layer_norm_vjp",),
            "r·g + b·x + c, three terms that are rounded apart and cancel",
        ),
    ),
)
def pytorch() -> Any:
    """PyTorch's own functions, and its autograd for every gradient."""
    from refgss.conformance.selftest.variants import torch_ops

    ways = {
        op: partial(by_autograd if op.endswith("_vjp") else forward, torch_ops, op)
        for op in ops.OPS
        if hasattr(torch_ops, op.removesuffix("_vjp"))
    }
    return SimpleNamespace(**ways)


def arguments_of(op: str, given: Any, keywords: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors by their names in files but in their own types, and the options."""
    named = dict(zip(ops.OPS[op].arguments, given, strict=True)) | keywords
    tensors = {f"params.{k}": v for k, v in named.pop("params", {}).items()}
    tensors |= {k: v for k, v in named.items() if k not in ops.SCALARS and v is not None}
    options = {k: ops.encode_option(v) for k, v in named.items() if k in ops.SCALARS}
    return tensors, options


def forward(torch_ops: Any, op: str, *given: Any, **keywords: Any) -> Any:
    """An op on NumPy arrays; the reference refuses what is to be refused."""
    getattr(reference, op)(*given, **keywords)
    tensors, options = arguments_of(op, given, keywords)
    to_torch: Callable[[Any], Any] = torch_ops.torch.tensor
    found = ops.call(torch_ops, op, {k: to_torch(v) for k, v in tensors.items()}, options)
    results = tuple(y.resolve_conj().numpy() for y in found.values())
    return results if len(results) > 1 else results[0]


def by_autograd(torch_ops: Any, op: str, *given: Any, **keywords: Any) -> Any:
    """A gradient of NumPy arrays; the reference refuses what is to be refused."""
    wanted = ops.named_outputs(op, getattr(reference, op)(*given, **keywords))
    tensors, options = arguments_of(op, given, keywords)
    base = op.removesuffix("_vjp")
    new = [k for k in ops.OPS[op].arguments if k not in ops.OPS[base].arguments]
    cotangents = [tensors.pop(k) for k in new]
    if "dstate0" in wanted and "state" not in tensors:
        tensors["state"] = np.zeros_like(wanted["dstate0"])
    found = torch_ops.gradients(base, tensors, cotangents, options)
    names = [k for k in ops.OPS[op].outputs if k != "dparams"]
    results: list[Any] = [found.get(name) for name in names]
    if "dparams" in ops.OPS[op].outputs:
        results.insert(0, {k[8:]: y for k, y in found.items() if k.startswith("dparams.")})
    return tuple(results) if len(results) > 1 else results[0]
