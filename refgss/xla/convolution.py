"""Chapter 4: y[b,l,h] = Σ_j k[h,j] u[b,l-j,h], by FFT or by matrix products."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.fft import next_fast_len

from refgss import checks
from refgss.xla import ffi
from refgss.xla.inputs import arrays
from refgss.xla.pairs import Array, Pair, einsum
from refgss.xla.plan import Plan, resolve


def causal_conv(u: Array, k: Array, *, plan: Plan | None = None) -> Array:
    """u (B,L,H), k (H,Lk) real -> y (B,L,H).  Clauses: GSS-CNV-1..GSS-CNV-4, GSS-ACC-5.

    A value that is not finite spoils its own row (b,h), earlier positions included (GSS-NFI-8).
    Raises ValueError where the channels of u and k differ.
    """
    checks.check_convolution("causal_conv", u, k)
    u, k = arrays("causal_conv", u, k)
    return convolve(u, k, resolve(plan))


@partial(jax.jit, static_argnames="plan")
def convolve(u: Array, k: Array, plan: Plan) -> Array:
    if plan.native:
        return ffi.causal_conv(u, k)
    k = k[:, : u.shape[1]]  # later taps meet no signal
    if 0 in (*u.shape, *k.shape):
        return jnp.zeros_like(u)
    return fft_convolution(u, k) if plan.convolution == "fft" else matmul_convolution(u, k)


def fft_convolution(u: Array, k: Array) -> Array:
    L = u.shape[1]
    n = next_fast_len(L + k.shape[1] - 1, real=True)  # nothing wraps round
    spectrum = jnp.fft.rfft(u, n, axis=1) * jnp.fft.rfft(k.T, n, axis=0)
    return jnp.fft.irfft(spectrum, n, axis=1)[:, :L]


def matmul_convolution(u: Array, k: Array) -> Array:
    """The right-angle convolution, its transforms in two factors.

    With w = e^{iπ/2n}, the circular convolution of w^t u and w^t k, times w^{-t}, is
    y[t] + i·y[n + t]: length n is enough for L <= n, and what wraps round is imaginary.  With
    n = PQ, t = Q p + q and m = r + P s the transform is a matrix product over p and, for each r,
    one over q; the twist w^t and the factor of (r,q) between the two are part of the matrices.
    """
    B, L, H = u.shape
    Q = min(2 ** math.ceil(math.log2(L) / 2), INNER)
    P = -(-L // Q)
    outer, inner = factors(P, Q, u.dtype)

    def forward(x: Array) -> Pair:
        """(B,L,H) real -> (P,B,Q,H): the spectrum at r + P s."""
        x = jnp.pad(x, ((0, 0), (0, P * Q - x.shape[1]), (0, 0)))
        x = einsum("pcr,bpqh->rbcqh", outer, x.reshape(-1, P, Q, H))
        x = einsum("rmk,rbmh->rbkh", inner, x.reshape(P, -1, 2 * Q, H))
        return Pair(*jnp.split(x, 2, 2))

    spectrum = forward(u) * forward(k.T[None])
    # the inverse is the transpose of a real matrix, the conjugate of a complex one
    x = einsum("rmk,rbkh->rbmh", inner, spectrum.stack(2)).reshape(P, B, 2, Q, H)
    y = einsum("pcr,rbcqh->bpqh", outer / (P * Q), x)  # Re only
    return y.reshape(B, P * Q, H)[:, :L]


INNER = 64  # Q at most: [Re; Im] then fills a matrix unit, and `inner` has 4Q numbers a position


def factors(P: int, Q: int, dtype: Any) -> tuple[Array, Array]:
    """outer (P,2,P) = Re, Im of e^{-2πi p(r - 1/4)/P};
    inner (P,2Q,2Q), for each r the real matrix of e^{-2πi q(r - 1/4)/PQ} e^{-2πi qs/Q}."""
    p, r, q = np.arange(P), np.arange(P) - 0.25, np.arange(Q)
    outer = np.exp(-2j * np.pi * np.outer(p, r) / P)
    twiddle = np.exp(-2j * np.pi * np.outer(r, q) / (P * Q))[..., None]  # (P,Q,1)
    # in the program are its two factors, not their product
    x = constant(twiddle, dtype) * constant(np.exp(-2j * np.pi * np.outer(q, q) / Q), dtype)
    inner = jnp.concatenate([x.stack(2), Pair(-x.im, x.re).stack(2)], 1)
    return jnp.asarray(np.stack([outer.real, outer.imag], 1), dtype), inner


def constant(x: np.ndarray, dtype: Any) -> Pair:
    """Complex numbers that the compiler does not multiply out."""
    re, im = lax.optimization_barrier((jnp.asarray(x.real, dtype), jnp.asarray(x.imag, dtype)))
    return Pair(re, im)
