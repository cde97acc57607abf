"""Layer norm, RMS norm, GELU and the dense map in C++: the contract of refgss.reference.

The library works on matrices: all axes but the last become rows.
"""

from __future__ import annotations

import math

import numpy as np

from refgss import checks
from refgss.native import _core


def rows(x: np.ndarray) -> np.ndarray:
    """(...,E) -> (M,E)."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1] if x.ndim else 1)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, eps: float) -> np.ndarray:
    """(x - mean)/√(var + ε)·weight + bias over the last axis.  Clauses: GSS-NRM-1, GSS-NRM-2."""
    eps = checks.check_layer_norm("layer_norm", x, weight, bias, eps)
    return _core.layer_norm(rows(x), weight, bias, eps).reshape(x.shape)


def layer_norm_vjp(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, dy: np.ndarray, *, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dy (...,E) -> dx (...,E), dweight (E,), dbias (E,).  Clauses: GSS-GRD-7."""
    eps = checks.check_layer_norm("layer_norm_vjp", x, weight, bias, eps)
    checks.check_shape("layer_norm_vjp", "dy", dy, x.shape, "f")
    dx, dweight, dbias = _core.layer_norm_vjp(rows(x), weight, rows(dy), eps)
    return dx.reshape(x.shape), dweight, dbias


def rms_norm(x: np.ndarray, weight: np.ndarray, *, eps: float) -> np.ndarray:
    """x/√(mean(x²) + ε)·weight over the last axis.  Clauses: GSS-ATT-12."""
    eps = checks.check_rms_norm("rms_norm", x, weight, eps)
    return _core.rms_norm(rows(x), weight, eps).reshape(x.shape)


def rms_norm_vjp(
    x: np.ndarray, weight: np.ndarray, dy: np.ndarray, *, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """dy (...,E) -> dx (...,E), dweight (E,).  Clauses: GSS-ATT-20."""
    eps = checks.check_rms_norm("rms_norm_vjp", x, weight, eps)
    checks.check_shape("rms_norm_vjp", "dy", dy, x.shape, "f")
    dx, dweight = _core.rms_norm_vjp(rows(x), weight, rows(dy), eps)
    return dx.reshape(x.shape), dweight


def gelu(x: np.ndarray) -> np.ndarray:
    """x Φ(x), the exact form.  Any shape.  Clauses: GSS-NRM-3."""
    checks.check_real("gelu", "x", x)
    return _core.gelu(rows(x)).reshape(x.shape)


def gelu_vjp(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dx = (Φ(x) + x e^{-x²/2}/√(2π)) dy.  Clauses: GSS-GRD-8."""
    checks.check_real("gelu_vjp", "x", x)
    checks.check_shape("gelu_vjp", "dy", dy, x.shape, "f")
    return _core.gelu_vjp(rows(x), rows(dy)).reshape(x.shape)


def dense(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """x (...,I) @ weight (I,O) [+ bias (O,)] -> (...,O).  Clauses: GSS-NRM-4."""
    checks.check_dense("dense", x, weight, bias)
    return _core.dense(rows(x), weight, bias).reshape(*x.shape[:-1], weight.shape[1])


def dense_vjp(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, dy: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """dy (...,O) -> dx (...,I), dweight (I,O), dbias (O,) or None.  Clauses: GSS-GRD-9."""
    checks.check_dense("dense_vjp", x, weight, bias)
    checks.check_shape("dense_vjp", "dy", dy, (*x.shape[:-1], weight.shape[1]), "f")
    dx, dweight, dbias = _core.dense_vjp(rows(x), weight, rows(dy))
    return dx.reshape(x.shape), dweight, None if bias is None else dbias
