"""Variants of chapter 20: σ by other formulas, scales that come first, softmax formed online."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np

from refgss import checks
from refgss.conformance.selftest.variants.declare import instead_of
from refgss.reference.attention import by_keys, over_seen
from refgss.reference.elementary import sigmoid


@instead_of("elementary.sigmoid")
def sigmoid_by_tanh(x):
    """(1 + tanh(x/2))/2, as XLA has it."""
    return x.dtype.type(0.5) * (1 + np.tanh(x * x.dtype.type(0.5)))


@instead_of("elementary.sigmoid")
def sigmoid_of_any_sign(x):
    """1/(1 + e^{−x}), the exponent held below the range."""
    return 1 / (1 + np.exp(np.minimum(-x, 80)))


@instead_of("pointwise.shares")
def gate_by_difference(f, i, kind):
    """1 − σ(f) for σ(−f)."""
    if kind == "lstm":
        return sigmoid(f + 1), sigmoid(i - 1)
    keep = sigmoid(f + 1 if kind == "full" else f)
    return keep, 1 - keep


@instead_of("pointwise.gate")
def gate_by_step(s, z, f, i=None, *, kind):
    """s σ(f) and what σ(f) leaves of z."""
    checks.check_gate("gate", s, z, f, i, kind)
    if kind == "lstm":
        return s * sigmoid(f + 1) + z * sigmoid(i - 1)
    keep = sigmoid(f + 1 if kind == "full" else f)
    return s * keep + (z - z * keep)


@instead_of("pointwise.inverse_length")
def length_in_binary64(x, eps):
    """The square root in binary64."""
    wide = x.astype(np.float64)
    return (1 / np.sqrt((wide * wide).sum(-1, keepdims=True) + eps)).astype(x.dtype)


@instead_of("window_attention.scaled")
def scale_of_queries(q, keys, bias, scale):
    """The scale multiplies queries and bias, before the products."""
    plain = np.einsum("bthd,bshd->btsh", q, keys)
    if scale is None:
        root = q.dtype.type(1 / np.sqrt(q.shape[3]))
        a = np.einsum("bthd,bshd->btsh", q * root, keys)
        return (a, a) if bias is None else (a + bias, a + bias)
    size = np.abs(scale)
    a = np.einsum("bthd,bshd->btsh", q * size[:, None], keys)
    return (a, plain) if bias is None else (a + bias * size, plain + bias)


@instead_of("attention.weighted")
def weights_online(a, x, seen):
    """An online softmax, key by key."""
    y = np.zeros((*a.shape[:2], *x.shape[2:]), x.dtype)
    for b, t in np.ndindex(*a.shape[:2]):
        m, total = np.full(a.shape[3], -np.inf, a.dtype), np.zeros(a.shape[3], a.dtype)
        for s in np.flatnonzero(seen[b, t]):
            larger = np.maximum(m, a[b, t, s])
            e, again = np.exp(a[b, t, s] - larger), np.exp(m - larger)
            total, m = total * again + e, larger
            y[b, t] = y[b, t] * again[:, None] + e[:, None] * x[b, s]
        if seen[b, t].any():
            y[b, t] = y[b, t] * (1 / total)[:, None]
    return y


@instead_of("attention.weighted_vjp")
def weights_from_logsumexp(a, x, seen, dy):
    """Weights from the logarithm of the sum that each row kept, and its sum from y."""
    w, da = np.zeros((2, *a.shape), a.dtype)
    for b, t in np.ndindex(*a.shape[:2]):
        s = np.flatnonzero(seen[b, t])
        if len(s):
            m = a[b, t, s].max(0)
            w[b, t, s] = np.exp(a[b, t, s] - (m + np.log(np.exp(a[b, t, s] - m).sum(0))))
            y = (w[b, t, s][..., None] * x[b, s]).sum(0)
            dw = (dy[b, t] * x[b, s]).sum(-1)
            da[b, t, s] = w[b, t, s] * (dw - (dy[b, t] * y).sum(-1))
    return da, over_seen(by_keys(w), dy, seen.transpose(0, 2, 1))
