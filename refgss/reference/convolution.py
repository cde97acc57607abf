"""Chapter 4: causal convolution, by its definition.  y[b,l,h] = Σ_j k[h,j] u[b,l-j,h]."""

from __future__ import annotations

import numpy as np

from refgss import checks
from refgss.reference.elementary import Array, fft_allowance


def convolution_at(u: Array, k: Array, rows: range | list[int]) -> Array:
    """y at the positions `rows` only: (B,L,H), (H,Lk) -> (B,|rows|,H).  Clauses: GSS-CNV-1..3."""
    B, _, H = u.shape
    taps = k.shape[1]
    if not (B and H and taps and len(rows)):
        return np.zeros((B, len(rows), H), u.dtype)
    y = []
    for l in rows:
        m = min(l + 1, taps)  # taps that meet the signal
        y.append(np.einsum("bjh,hj->bh", u[:, l + 1 - m : l + 1], k[:, :m][:, ::-1]))
    return fft_allowance(np.stack(y, 1), k, u)


def causal_conv(u: Array, k: Array) -> Array:
    """u (B,L,H), k (H,Lk) real -> y (B,L,H).

    Raises ValueError where the channels of u and k differ.
    Clauses: GSS-CNV-1..4, GSS-NFI-1, GSS-NFI-6, GSS-NFI-7, GSS-NFI-14.
    """
    checks.check_convolution("causal_conv", u, k)
    return convolution_at(u, k, range(u.shape[1]))


def causal_conv_vjp(u: Array, k: Array, dy: Array) -> tuple[Array, Array]:
    """dy (B,L,H) -> du (B,L,H), dk (H,Lk): two correlations.  Clauses: GSS-GRD-5."""
    checks.check_convolution("causal_conv_vjp", u, k)
    checks.check_shape("causal_conv_vjp", "dy", dy, u.shape, "f")
    backward = dy[:, ::-1]  # a correlation is a convolution in reversed time
    rows = range(u.shape[1])
    du = convolution_at(backward, k, rows)[:, ::-1]
    dk = sum(  # dk[h,j] = Σ_b Σ_l u[b,l-j,h] dy[b,l,h]
        (convolution_at(backward[b : b + 1], u[b].T, rows)[0, ::-1].T for b in range(len(u))),
        start=np.zeros((k.shape[0], u.shape[1]), k.dtype),
    )
    beyond = max(k.shape[1] - u.shape[1], 0)  # taps that no output has seen
    return du, np.concatenate([dk[:, : k.shape[1]], np.zeros((len(k), beyond), k.dtype)], 1)
