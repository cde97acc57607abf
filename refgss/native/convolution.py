"""Causal convolution in C++: the contract of refgss.reference, cached kernels, streams."""

from __future__ import annotations

import numpy as np

from refgss import checks
from refgss.native import _core
from refgss.native._core import ConvStream, Spectrum

__all__ = ["ConvStream", "Spectrum", "causal_conv", "causal_conv_vjp"]


def causal_conv(u: np.ndarray, k: np.ndarray) -> np.ndarray:
    """u (B,L,H), k (H,Lk) real -> y (B,L,H).  Clauses: GSS-CNV-1..GSS-CNV-4."""
    checks.check_convolution("causal_conv", u, k)
    return _core.causal_conv(u, k)


def causal_conv_vjp(u: np.ndarray, k: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """dy (B,L,H) -> du (B,L,H), dk (H,Lk).  Clauses: GSS-GRD-5."""
    checks.check_convolution("causal_conv_vjp", u, k)
    checks.check_shape("causal_conv_vjp", "dy", dy, u.shape, "f")
    return _core.causal_conv_vjp(u, k, dy)
