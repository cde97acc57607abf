"""What every op does with its arguments first: by their names, and as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from refgss import checks, ops

Tensor = torch.Tensor


def eager() -> bool:
    """Whether arguments can be judged before they are used: not while a compiler reads the code."""
    return not torch.compiler.is_compiling()


def named_arguments(op: str, given: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of an op by name; those that may be left out are then None.

    Raises TypeError for one that is missing, given twice, unknown, or no tensor.
    """
    contract = ops.OPS[op]
    found: dict[str, Any] = dict(zip(contract.arguments, given, strict=False))
    if twice := [name for name in keywords if name in found]:
        raise TypeError(f"{op}: {twice[0]} is given twice")
    if len(given) > len(contract.arguments):
        raise TypeError(f"{op} takes {len(contract.arguments)} arguments, not {len(given)}")
    found |= keywords
    for name in contract.arguments + contract.keywords:
        if name not in found and name not in ops.OPTIONAL:
            raise TypeError(f"{op}: the argument {name} is missing")
    for name in found:
        if name not in contract.arguments and name not in contract.keywords:
            raise TypeError(f"{op}: there is no argument {name}")
    arguments = {n: found.get(n) for n in contract.arguments + contract.keywords}
    return {n: scalar(op, n, x, arguments) for n, x in arguments.items()}


def scalar(op: str, name: str, x: Any, arguments: Mapping[str, Any]) -> Any:
    """Δ and the cotangent of a loss as tensors where they are numbers; all else as it is.

    Clauses: GSS-ARR-5.
    """
    if name == "delta":
        return as_scalar(op, name, x, arguments["lam"])
    if name == "dloss":
        return as_scalar(op, name, x, arguments["params"].get("embedding.weight"))
    return x


def as_scalar(op: str, name: str, x: Any, like: Any) -> Any:
    """A number of any type as a tensor () of the precision and on the device of `like`."""
    if not isinstance(like, Tensor) or checks.type_of(like) not in PRECISIONS:
        return x  # which is refused with its own sentence
    dtype = like.real.dtype if like.is_complex() else like.dtype
    if isinstance(x, Tensor):
        if x.ndim:
            return x
        if x.is_complex() or x.dtype == torch.bool:
            raise TypeError(f"{op}: {name} must be a real number or an array, not {x.dtype}")
        return x.to(like.device, dtype)
    if isinstance(x, int | float) and not isinstance(x, bool):
        return torch.tensor(x, dtype=dtype, device=like.device)
    value = checks.as_scalar(op, name, x, torch_free(like))
    return torch.as_tensor(value, device=like.device)


PRECISIONS = ("float32", "float64", "complex64", "complex128")


def torch_free(like: Tensor) -> Any:
    """A NumPy array () of the precision of a tensor."""
    import numpy as np

    return np.zeros((), checks.type_of(like))


def tensors_of(op: str, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a call by the names under which they travel (refgss.ops).

    Raises TypeError for what is no tensor.
    """
    found: dict[str, Any] = {}
    for name, x in arguments.items():
        if name not in ops.SCALARS:
            found |= ops.spread(name, x)
    for name, x in found.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{op}: {name} must be a torch.Tensor, not {type(x).__name__}")
    return found


def regrouped(op: str, found: Mapping[str, Tensor]) -> Any:
    """What an op returns, from its outputs by name: the inverse of `ops.named_outputs`."""
    results = [
        found[name] if name in found else ops.gathered(found, name) for name in ops.OPS[op].outputs
    ]
    return results[0] if len(results) == 1 else tuple(results)


def gradient_of(name: str) -> str:
    """What a gradient is called: of a state that it begins with, dstate0."""
    base, dot, part = name.partition(".")
    return f"{'dstate0' if base == 'state' else f'd{base}'}{dot}{part}"
