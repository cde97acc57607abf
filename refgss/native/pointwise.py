"""Norms, GELU, the dense map and gates in C++: the contract of refgss.reference.

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


def l2_normalize(x: np.ndarray, *, eps: float) -> np.ndarray:
    """x/√(Σ x² + ε) over the last axis.  Clauses: GSS-BRT-3."""
    eps = checks.check_l2_normalize("l2_normalize", x, eps)
    return _core.l2_normalize(rows(x), eps).reshape(x.shape)


def l2_normalize_vjp(x: np.ndarray, dy: np.ndarray, *, eps: float) -> np.ndarray:
    """dy (...,D) -> dx (...,D).  Clauses: GSS-BRT-20."""
    eps = checks.check_l2_normalize("l2_normalize_vjp", x, eps)
    checks.check_shape("l2_normalize_vjp", "dy", dy, x.shape, "f")
    return _core.l2_normalize_vjp(rows(x), rows(dy), eps).reshape(x.shape)


def gate(
    s: np.ndarray, z: np.ndarray, f: np.ndarray, i: np.ndarray | None = None, *, kind: str
) -> np.ndarray:
    """What is kept of s and taken of z, (...,E); f (E,) or (...,E), i (...,E) under "lstm".

    Clauses: GSS-BRT-13.
    """
    checks.check_gate("gate", s, z, f, i, kind)
    return _core.gate(rows(s), rows(z), *gate_parts(f, i, kind), GATE[kind]).reshape(s.shape)


def gate_vjp(
    s: np.ndarray,
    z: np.ndarray,
    f: np.ndarray,
    i: np.ndarray | None,
    dout: np.ndarray,
    *,
    kind: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """dout (...,E) -> ds, dz (...,E), df of the shape of f, di or None.  Clauses: GSS-BRT-20."""
    checks.check_gate("gate_vjp", s, z, f, i, kind)
    checks.check_shape("gate_vjp", "dout", dout, s.shape, "f")
    ds, dz, df, di = _core.gate_vjp(
        rows(s), rows(z), *gate_parts(f, i, kind), rows(dout), GATE[kind]
    )
    shaped = ds.reshape(s.shape), dz.reshape(s.shape), df.reshape(f.shape)
    return *shaped, None if di is None else di.reshape(s.shape)


GATE = {"fixed": 1, "lstm": 2, "full": 3}  # enum refgss_gate_kind


def gate_parts(
    f: np.ndarray, i: np.ndarray | None, kind: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """f and i as `_core` takes them."""
    return f if kind == "fixed" else rows(f), None if i is None else rows(i)


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
