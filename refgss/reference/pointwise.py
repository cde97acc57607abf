"""Chapters 6, 18 and 20: norms, GELU, the dense map and gates, each beside its gradient."""

from __future__ import annotations

import math

import numpy as np

from refgss import checks
from refgss.reference.elementary import Array, either, normal_cdf, normal_pdf, sigmoid


def layer_norm(x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    """(x - mean)/√(var + ε)·weight + bias over the last axis.

    x (...,E), weight and bias (E,) -> (...,E).  The variance is the mean squared deviation.
    Clauses: GSS-NRM-1, GSS-NRM-2, GSS-NFI-1, GSS-NFI-11.
    """
    eps = checks.check_layer_norm("layer_norm", x, weight, bias, eps)
    return normalize(x, eps)[0] * weight + bias


def normalize(x: Array, eps: float) -> tuple[Array, Array]:
    """x̂ (...,E) and 1/√(var + ε) (...,1).  Clauses: GSS-NRM-1, GSS-NRM-2."""
    d = x - x.mean(-1, keepdims=True)
    scale = 1 / np.sqrt((d * d).mean(-1, keepdims=True) + eps)
    return d * scale, scale


def layer_norm_vjp(
    x: Array, weight: Array, bias: Array, dy: Array, *, eps: float
) -> tuple[Array, Array, Array]:
    """dy (...,E) -> dx (...,E), dweight (E,), dbias (E,).  Clauses: GSS-GRD-7."""
    eps = checks.check_layer_norm("layer_norm_vjp", x, weight, bias, eps)
    checks.check_shape("layer_norm_vjp", "dy", dy, x.shape, "f")
    xhat, scale = normalize(x, eps)
    g = dy * weight
    along = (g * xhat).mean(-1, keepdims=True)
    dx = (g - g.mean(-1, keepdims=True) - xhat * along) * scale
    rows = tuple(range(x.ndim - 1))
    return dx, (dy * xhat).sum(rows), dy.sum(rows)


def rms_norm(x: Array, weight: Array, *, eps: float) -> Array:
    """x/√(mean x² + ε)·weight over the last axis: x (...,E), weight (E,) -> (...,E).

    Clauses: GSS-ATT-12, GSS-NFI-1.
    """
    eps = checks.check_rms_norm("rms_norm", x, weight, eps)
    return x * inverse_rms(x, eps) * weight


def inverse_rms(x: Array, eps: float) -> Array:
    """1/√(mean x² + ε) (...,1).  Clauses: GSS-ATT-12."""
    return 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def rms_norm_vjp(x: Array, weight: Array, dy: Array, *, eps: float) -> tuple[Array, Array]:
    """dy (...,E) -> dx (...,E), dweight (E,).  Clauses: GSS-ATT-20."""
    eps = checks.check_rms_norm("rms_norm_vjp", x, weight, eps)
    checks.check_shape("rms_norm_vjp", "dy", dy, x.shape, "f")
    scale = inverse_rms(x, eps)
    xhat, g = x * scale, dy * weight
    dx = (g - xhat * (g * xhat).mean(-1, keepdims=True)) * scale
    return dx, (dy * xhat).sum(tuple(range(x.ndim - 1)))


def l2_normalize(x: Array, *, eps: float) -> Array:
    """x/√(Σ x² + ε) over the last axis: x (...,D) -> (...,D); zeros stay zeros.

    Clauses: GSS-BRT-3, GSS-NFI-1.
    """
    eps = checks.check_l2_normalize("l2_normalize", x, eps)
    return x * inverse_length(x, eps)


def inverse_length(x: Array, eps: float) -> Array:
    """1/√(Σ x² + ε) (...,1).  Clauses: GSS-BRT-3."""
    return 1 / np.sqrt((x * x).sum(-1, keepdims=True) + eps)


def l2_normalize_vjp(x: Array, dy: Array, *, eps: float) -> Array:
    """dy (...,D) -> dx (...,D).  Clauses: GSS-BRT-20."""
    eps = checks.check_l2_normalize("l2_normalize_vjp", x, eps)
    checks.check_shape("l2_normalize_vjp", "dy", dy, x.shape, "f")
    scale = inverse_length(x, eps)
    xhat = x * scale
    return (dy - xhat * (dy * xhat).sum(-1, keepdims=True)) * scale


def gate(s: Array, z: Array, f: Array, i: Array | None = None, *, kind: str) -> Array:
    """What is kept of s and taken of z, (...,E) both.

    kind "fixed": s σ(f) + z σ(-f), f (E,); "full": the same with f + 1, f (...,E); "lstm":
    s σ(f + 1) + z σ(i - 1), f and i (...,E).  i belongs to "lstm".
    Clauses: GSS-BRT-13, GSS-NFI-1.
    """
    checks.check_gate("gate", s, z, f, i, kind)
    keep, take = shares(f, i, kind)
    return s * keep + z * take


def shares(f: Array, i: Array, kind: str) -> tuple[Array, Array]:
    """The factors of s and of z; i is None but under "lstm".  Clauses: GSS-BRT-13."""
    if kind == "lstm":
        return sigmoid(f + 1), sigmoid(i - 1)
    if kind == "full":
        f = f + 1
    return sigmoid(f), sigmoid(-f)


def gate_vjp(
    s: Array, z: Array, f: Array, i: Array | None, dout: Array, *, kind: str
) -> tuple[Array, Array, Array, Array | None]:
    """dout (...,E) -> ds, dz (...,E), df of the shape of f, di or None.  Clauses: GSS-BRT-20."""
    checks.check_gate("gate_vjp", s, z, f, i, kind)
    checks.check_shape("gate_vjp", "dout", dout, s.shape, "f")
    keep, take = shares(f, i, kind)
    ds, dz = dout * keep, dout * take
    if kind == "lstm":
        return ds, dz, ds * s * (1 - keep), dz * z * (1 - take)
    both = ds * take
    df = either((s - z) * both, s * both - z * both)
    return ds, dz, df.sum(tuple(range(s.ndim - 1))) if kind == "fixed" else df, None


def gelu(x: Array) -> Array:
    """x Φ(x), Φ the normal distribution function: the exact form.  Any shape.

    Clauses: GSS-NRM-3, GSS-NFI-11.
    """
    checks.check_real("gelu", "x", x)
    return x * normal_cdf(x)


def gelu_vjp(x: Array, dy: Array) -> Array:
    """dx = (Φ(x) + x e^{-x²/2}/√(2π)) dy.  Clauses: GSS-GRD-8."""
    checks.check_real("gelu_vjp", "x", x)
    checks.check_shape("gelu_vjp", "dy", dy, x.shape, "f")
    return (normal_cdf(x) + x * normal_pdf(x)) * dy


def dense(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x (...,I) @ weight (I,O) [+ bias (O,)] -> (...,O).

    Clauses: GSS-NRM-4, GSS-ACC-6, GSS-NFI-1, GSS-NFI-11.
    """
    checks.check_dense("dense", x, weight, bias)
    y = x @ weight
    return y if bias is None else y + bias


def dense_vjp(
    x: Array, weight: Array, bias: Array | None, dy: Array
) -> tuple[Array, Array, Array | None]:
    """dy (...,O) -> dx (...,I), dweight (I,O), dbias (O,) or None.  Clauses: GSS-GRD-9."""
    checks.check_dense("dense_vjp", x, weight, bias)
    checks.check_shape("dense_vjp", "dy", dy, (*x.shape[:-1], weight.shape[1]), "f")
    rows = math.prod(x.shape[:-1])
    xs, dys = x.reshape(rows, x.shape[-1]), dy.reshape(rows, dy.shape[-1])
    return dy @ weight.T, xs.T @ dys, None if bias is None else dys.sum(0)
