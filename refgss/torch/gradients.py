"""Chapter 9: `<op>_vjp` of what is written in PyTorch, by autograd through the op itself.

PyTorch's gradient of a complex number is ∂ℓ/∂Re + i ∂ℓ/∂Im, the convention of GSS-GRD-1.  Where
plain differentiation is not good enough, the rule stands with its function, so that autograd and
NAME_vjp are the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from refgss import checks, ops
from refgss.layers.states import mapped, zero_states
from refgss.torch.inputs import Tensor, gradient_of, regrouped, tensors_of


def pull_back(backend: Any, vjp: str, **arguments: Any) -> Any:
    """The gradient of an op of a backend; arguments as those of the op `vjp`."""
    op = vjp.removesuffix("_vjp")
    names = ops.OPS[op].arguments + ops.OPS[op].keywords
    given = {n: arguments[n] if n in arguments else arguments["dy"] for n in names}
    if "dstate0" in ops.OPS[vjp].outputs and given["state"] is None:
        given["state"] = zero_state(op, arguments)
    leaves = {
        n: x.detach().requires_grad_()
        for n, x in tensors_of(op, given).items()
        if x.is_floating_point() or x.is_complex()
    }
    with torch.enable_grad():
        results = getattr(backend, op)(**{n: replaced(n, x, leaves) for n, x in given.items()})
    found = ops.named_outputs(op, results)
    outputs = {n: y for n, y in found.items() if y.is_floating_point() or y.is_complex()}
    new = tensors_of(vjp, {n: x for n, x in arguments.items() if n not in names})
    check_cotangents(vjp, new, outputs)
    pairs = [(y, d) for y, d in zip(outputs.values(), new.values(), strict=True) if y.requires_grad]
    if pairs:
        ys, ds = zip(*pairs, strict=True)
        gradients = torch.autograd.grad(
            ys, tuple(leaves.values()), ds, allow_unused=True, materialize_grads=True
        )
    else:  # of nothing
        gradients = tuple(map(torch.zeros_like, leaves.values()))
    return regrouped(vjp, dict(zip(map(gradient_of, leaves), gradients, strict=True)))


def replaced(name: str, x: Any, leaves: Mapping[str, Tensor]) -> Any:
    """An argument with its leaves for its tensors."""
    if isinstance(x, Mapping):
        return {part: replaced(f"{name}.{part}", own, leaves) for part, own in x.items()}
    if isinstance(x, tuple):
        return tuple(replaced(f"{name}.{i}", own, leaves) for i, own in enumerate(x))
    return leaves.get(name, x)


def zero_state(op: str, arguments: Mapping[str, Any]) -> Any:
    """The state that None stands for."""
    if op == "lm_loss" or op == "lm_logits":
        params, batch = arguments["params"], arguments["tokens"].shape[0]
        table = params["embedding.weight"]
        zeros = zero_states(params, arguments["config"], batch, checks.type_of(table))
        return mapped(lambda x: torch.as_tensor(x, device=table.device), zeros)
    moving = mapped(torch.zeros_like, arguments["dstate"])
    if not isinstance(moving, Mapping):
        return moving
    like = moving["k"]
    return {**moving, "t": like.new_zeros(like.shape[0], dtype=torch.int32)}


def check_cotangents(vjp: str, given: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
    """Each of the shape and kind of its output."""
    if len(given) != len(outputs):
        raise ValueError(f"{vjp}: there are {len(outputs)} outputs and {len(given)} cotangents")
    for (name, d), y in zip(given.items(), outputs.values(), strict=True):
        checks.check_shape(vjp, name, d, y.shape, "c" if y.is_complex() else "f")
