"""Chapter 6, and the RMS norm of chapter 18, in plain PyTorch."""

from __future__ import annotations

import math
from typing import Any

import torch

from refgss import checks
from refgss.torch.inputs import Tensor, eager


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: Any) -> Tensor:
    """Clauses: GSS-NRM-1, GSS-NRM-2."""
    if eager():
        eps = checks.check_layer_norm("layer_norm", x, weight, bias, eps)
    d = x - x.mean(-1, keepdim=True)
    return d * ((d * d).mean(-1, keepdim=True) + eps).rsqrt() * weight + bias


def rms_norm(x: Tensor, weight: Tensor, eps: Any) -> Tensor:
    """Clauses: GSS-ATT-12."""
    if eager():
        eps = checks.check_rms_norm("rms_norm", x, weight, eps)
    return x * ((x * x).mean(-1, keepdim=True) + eps).rsqrt() * weight


class NormalCdf(torch.autograd.Function):
    """Φ(x) = erfc(-x/√2)/2: no cancellation in either tail, nor in the density."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return 0.5 * torch.erfc(x * -math.sqrt(0.5))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return cotangents[0] * (x * x * -0.5).exp() * (1 / math.sqrt(2 * math.pi))


def gelu(x: Tensor) -> Tensor:
    """x Φ(x): the exact form.  Clauses: GSS-NRM-3."""
    if eager():
        checks.check_real("gelu", "x", x)
    return x * NormalCdf.apply(x)


def dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Clauses: GSS-NRM-4, GSS-ACC-6."""
    if eager():
        checks.check_dense("dense", x, weight, bias)
    y = x @ weight
    return y if bias is None else y + bias
