"""The transformer layer: the reference's own text, run over the ops of this backend.

There is no second copy that could drift.  What it adds to the products, attention, norms and GELU
that run in C++ are sums of two arrays: a hundredth of its time.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

from refgss.native.attention import (
    attention,
    attention_vjp,
    rope,
    rope_vjp,
    t5_bias,
    t5_bias_vjp,
)
from refgss.native.pointwise import (
    dense,
    dense_vjp,
    gelu,
    gelu_vjp,
    layer_norm,
    layer_norm_vjp,
    rms_norm,
    rms_norm_vjp,
)

OPS: tuple[Callable[..., Any], ...] = (
    *(attention, attention_vjp, rope, rope_vjp, t5_bias, t5_bias_vjp),
    *(dense, dense_vjp, gelu, gelu_vjp, layer_norm, layer_norm_vjp, rms_norm, rms_norm_vjp),
)


def over(text: str, ops: tuple[Callable[..., Any], ...]) -> ModuleType:
    """The text of a module once more, with these ops in place of those that it imports."""
    spec = find_spec(text)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    for op in ops:
        assert hasattr(module, op.__name__), f"{text} does not import {op.__name__}"
        setattr(module, op.__name__, op)
    return module


_here = over("refgss.reference.transformer", OPS)
transformer_layer: Callable[..., Any] = _here.transformer_layer
transformer_layer_vjp: Callable[..., Any] = _here.transformer_layer_vjp
activation: Callable[..., Any] = _here.activation
activation_vjp: Callable[..., Any] = _here.activation_vjp
