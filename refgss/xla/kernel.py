"""Chapter 3: the kernel as one real matrix product.

K[h, T j + t] = Re Σ_n (C̃[h,n] Ā_n^{Tj}) Ā_n^t: two tables of about √L powers replace one of L, the
complex sum is a real product of [Re, -Im] and [Re; Im], and the gradient is two more products.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from refgss import checks
from refgss.config import KernelForm
from refgss.xla import ffi
from refgss.xla.discretization import (
    admitted,
    decaying,
    input_weight,
    step_exponent,
)
from refgss.xla.inputs import arrays
from refgss.xla.pairs import Array, Pair, choose, einsum, pair
from refgss.xla.plan import Plan, resolve
from refgss.xla.powers import Exponent, powers


def block(length: int, rows: int) -> int:
    """T, a power of two: `rows` tables of length/T powers and one of T take the least memory."""
    return 2 ** round(math.log2(max(length * rows, 1)) / 2)


def mode_weight(lam: Pair, c: Pair, delta: Array, z: Exponent, form: KernelForm) -> Pair:
    """C̃ = s C B̄ (H,N).  Clauses: GSS-KER-2."""
    return c * input_weight(lam, delta, z, form) * (2 if form.pairs else 1)


class Powers(NamedTuple):
    """Ā^l for 0 <= l < JT, as products of two tables; and what a state needs beside them."""

    coarse: Pair  # Ā^{Tj} (·,N,J)
    fine: Pair  # Ā^t (·,N,T)
    first: Pair  # Ā (·,N)
    last: Pair  # Ā^L (·,N)

    @property
    def shared(self) -> bool:
        """One table for all channels."""
        return self.first.re.ndim == 1


def two_level_powers(z: Exponent, length: int, rows: int, form: KernelForm) -> Powers:
    """For sums over (rows,N) modes, or for z (H,N) over one row of N modes a channel."""
    T = min(block(length, rows if z.shared else 1), 2 ** math.ceil(math.log2(max(length, 1))))
    J = -(-length // T)
    p = powers(z, np.concatenate([T * np.arange(J), np.arange(T), [1, length]]), form.method)
    return Powers(p[..., :J], p[..., J : J + T], p[..., J + T], p[..., J + T + 1])


def mode_sum(weight: Pair, p: Powers, length: int) -> Array:
    """Re Σ_n w[...,n] Ā_n^l for l < length: (...,N) -> (...,length)."""
    W = weight[..., None] * p.coarse  # (...,N,J)
    left = jnp.concatenate([W.re, -W.im], -2)  # (...,2N,J)
    k = einsum("...mj,mt->...jt" if p.shared else "...hmj,hmt->...hjt", left, p.fine.stack(-2))
    return k.reshape(*k.shape[:-2], k.shape[-2] * k.shape[-1])[..., :length]


def kernel(weight: Pair, z: Exponent, length: int, form: KernelForm) -> Array:
    """K (H,length) from C̃ (H,N).  Clauses: GSS-KER-1, GSS-KER-3."""
    H = weight.re.shape[0]
    if form.method != "dss-softmax":
        return mode_sum(weight, two_level_powers(z, length, H, form), length)
    # a growing mode is e^{-z(R-1-l)}: a decaying one in reversed time, R the declared length
    assert form.length is not None
    grows, z = decaying(z)
    p = two_level_powers(z, length, H, form)
    late = powers(z, np.array([form.length - length]), form.method)[..., 0]
    ahead = mode_sum(choose(grows, weight * 0.0, weight), p, length)
    behind = mode_sum(choose(grows, weight * late, weight * 0.0), p, length)
    return ahead + behind[..., ::-1]


def ssm_kernel(
    lam: Array,
    c: Array,
    length: int,
    *,
    delta: Array,
    form: KernelForm,
    plan: Plan | None = None,
) -> Array:
    """K (H,length) real; lam (N,), c (H,N) complex; delta scalar, (H,) or (H,2) real.

    `length` is static.  Raises ValueError where shapes disagree, Re Λ > 0 (dss-softmax excepted) or
    Δ <= 0; where these are not known yet (under jit) the results are NaN.

    Clauses: GSS-KER-1..GSS-KER-4.
    """
    delta = checks.check_kernel("ssm_kernel", lam, c, length, delta, form)
    return kernel_of_modes(*arrays("ssm_kernel", lam, c, delta), length, form, resolve(plan))


@partial(jax.jit, static_argnames=("length", "form", "plan"))
def kernel_of_modes(
    lam: Array, c: Array, delta: Array, length: int, form: KernelForm, plan: Plan
) -> Array:
    if plan.native:
        return ffi.ssm_kernel(lam, c, delta, length, form)
    lam, delta = admitted(lam, delta, form, growing=True)
    z = step_exponent(pair(lam), delta)
    return kernel(mode_weight(pair(lam), pair(c), delta, z, form), z, length, form)
