"""Chapter 3: the kernel as one real matrix product.

K[h, T j + t] = Re Σ_n (C̃[h,n] Ā_n^{Tj}) Ā_n^t: two tables of about √L powers replace one of L, the
complex sum is a real product of [Re, -Im] and [Re; Im], and the gradient is two more products.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from refgss import contract
from refgss.config import KernelForm
from refgss.xla.discretization import (
    decaying,
    input_weight,
    step_exponent,
)
from refgss.xla.inputs import arrays
from refgss.xla.pairs import Array, Pair, choose, einsum, pair
from refgss.xla.powers import Exponent, powers


def block(length: int, rows: int) -> int:
    """T, a power of two: `rows` tables of length/T powers and one of T take the least memory."""
    return 2 ** round(math.log2(max(length * rows, 1)) / 2)


def mode_weight(lam: Pair, c: Pair, delta: Array, z: Exponent, form: KernelForm) -> Pair:
    """C̃ = s C B̄ (H,N).  Clauses: GSS-KER-2."""
    return c * input_weight(lam, delta, z, form) * (2 if form.pairs else 1)


def mode_sum(weight: Pair, z: Exponent, l0: int, length: int, form: KernelForm) -> Array:
    """Re Σ_n w[...,n] Ā_n^l for l0 <= l < l0 + length: (...,N) -> (...,length).

    z is (N,), or (H,N) where weight is (...,H,N).
    """
    shared = z.shared
    rows = math.prod(weight.re.shape[:-1]) if shared else math.prod(weight.re.shape[:-2])
    T = min(block(length, rows), 2 ** math.ceil(math.log2(max(length, 1))))
    J = -(-length // T)
    A = powers(z, l0 + T * np.arange(J), form.method)  # (·,N,J)
    B = powers(z, np.arange(T), form.method).stack(-2)  # (·,2N,T)
    W = weight[..., None] * A  # (...,N,J)
    left = jnp.concatenate([W.re, -W.im], -2)  # (...,2N,J)
    subscripts = "...mj,mt->...jt" if shared else "...hmj,hmt->...hjt"
    k = einsum(subscripts, left, B)
    return k.reshape(*k.shape[:-2], J * T)[..., :length]


def kernel(weight: Pair, z: Exponent, length: int, form: KernelForm) -> Array:
    """K (H,length) from C̃ (H,N).  Clauses: GSS-KER-1, GSS-KER-3."""
    if form.method != "dss-softmax":
        return mode_sum(weight, z, 0, length, form)
    # a growing mode is e^{-z(R-1-l)}: a decaying one in reversed time, R the declared length
    assert form.length is not None
    grows, z = decaying(z)
    zero = weight * 0.0
    ahead = mode_sum(choose(grows, zero, weight), z, 0, length, form)
    behind = mode_sum(choose(grows, weight, zero), z, form.length - length, length, form)
    return ahead + behind[..., ::-1]


def ssm_kernel(lam: Array, c: Array, length: int, *, delta: Array, form: KernelForm) -> Array:
    """K (H,length) real; lam (N,), c (H,N) complex; delta scalar, (H,) or (H,2) real.

    `length` is static.  Raises ValueError where shapes disagree, concrete Re Λ > 0 (dss-softmax
    excepted) or Δ <= 0.  Clauses: GSS-KER-1..GSS-KER-4.
    """
    delta = contract.check_kernel("ssm_kernel", lam, c, length, delta, form)
    lam, c, delta = arrays("ssm_kernel", lam, c, delta)
    z = step_exponent(pair(lam), delta)
    return kernel(mode_weight(pair(lam), pair(c), delta, z, form), z, length, form)
