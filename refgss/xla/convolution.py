"""Chapter 4: y[b,l,h] = Σ_j k[h,j] u[b,l-j,h], by FFT or by matrix products."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.fft import next_fast_len

from refgss import contract
from refgss.xla import ffi
from refgss.xla.inputs import arrays
from refgss.xla.pairs import Array, Pair, einsum
from refgss.xla.plan import Plan, resolve


def causal_conv(u: Array, k: Array, *, plan: Plan | None = None) -> Array:
    """u (B,L,H), k (H,Lk) real -> y (B,L,H).  Clauses: GSS-CNV-1..GSS-CNV-4, GSS-ACC-5.

    A value that is not finite spoils its own row (b,h), earlier positions included (GSS-NFI-8).
    Raises ValueError where the channels of u and k differ.
    """
    contract.check_convolution("causal_conv", u, k)
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
    n = PQ, t = Q p + q and m = r + P s the transform is a matrix product over p, a factor for each
    (r, q), and a matrix product over q; the twist w^t is part of the first two.
    """
    L, dtype = u.shape[1], u.dtype
    P = 2 ** math.ceil(math.log2(L) / 2)
    Q = -(-L // P)
    outer, twiddle, inner = factors(P, Q, dtype)

    def forward(x: Array) -> Pair:
        """(B,L,H) real -> (B,P,Q,H): the spectrum at r + P s."""
        x = jnp.pad(x, ((0, 0), (0, P * Q - x.shape[1]), (0, 0)))
        x = x.reshape(x.shape[0], P, Q, x.shape[2])
        x = halves(einsum("pr,bpqh->brqh", outer, x), 1) * twiddle
        return halves(einsum("qs,brqh->brsh", inner, x.stack(2)), 2)

    spectrum = forward(u) * forward(k.T[None])
    # the inverse is the conjugate of the forward transform of the conjugate, and y is real
    x = halves(einsum("sq,brsh->brqh", inner, spectrum.conj().stack(2)), 2) * twiddle
    y = einsum("pr,brqh->bpqh", outer * signs(P, dtype), x.stack(1))  # Re only
    return (y / (P * Q)).reshape(u.shape[0], P * Q, u.shape[2])[:, :L]


def factors(P: int, Q: int, dtype) -> tuple[Array, Pair, Array]:
    """outer (P,2P) = [Re, Im] of e^{-2πi p(r - 1/4)/P}; twiddle (P,Q,1) = e^{-2πi q(r - 1/4)/PQ};
    inner (2Q,2Q): e^{-2πi qs/Q} as a real matrix acting on [Re; Im]."""
    p, r, q = np.arange(P), np.arange(P) - 0.25, np.arange(Q)
    outer = np.exp(-2j * np.pi * np.outer(p, r) / P)
    twiddle = np.exp(-2j * np.pi * np.outer(r, q) / (P * Q))[..., None]
    inner = np.exp(-2j * np.pi * np.outer(q, q) / Q)
    return (
        jnp.asarray(np.hstack([outer.real, outer.imag]), dtype),
        Pair(jnp.asarray(twiddle.real, dtype), jnp.asarray(twiddle.imag, dtype)),
        jnp.asarray(np.block([[inner.real, inner.imag], [-inner.imag, inner.real]]), dtype),
    )


def signs(P: int, dtype) -> Array:
    """[1, -1]: Re(ab) = Re a Re b - Im a Im b."""
    return jnp.asarray(np.repeat([1.0, -1.0], P), dtype)


def halves(x: Array, axis: int) -> Pair:
    return Pair(*jnp.split(x, 2, axis))
