"""Powers Ā^l of the modes, their exponents in binary64 whatever the working precision (GSS-ACC-2).

l·Im z reaches 10^7 radians: formed in binary32 it is off by a radian.  Tables are short (a long one
is the product of two: `refgss.xla.kernel`), so this costs little, and x64 mode is on only in here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from refgss.config import Method
from refgss.xla.pairs import Array, Pair, choose


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Exponent:
    """z = Δ_re Re Λ + i Δ_im Im Λ (·,N), as its factors: their product is exact in binary64."""

    lam: Pair
    step_re: Array
    step_im: Array

    @property
    def rounded(self) -> Pair:
        return Pair(self.step_re * self.lam.re, self.step_im * self.lam.im)

    @property
    def shared(self) -> bool:
        """All channels have the same z: (N,), not (H,N)."""
        return self.rounded.re.ndim == 1


def pole(z: Pair) -> Pair:
    """1/(1 - z/2)."""
    return Pair(1 - z.re / 2, -z.im / 2).reciprocal()


@jax.custom_jvp
def cayley(z: Pair) -> Pair:
    """(1 + z/2)/(1 - z/2).  Its derivative is 1/(1 - z/2)²."""
    return Pair(1 + z.re / 2, z.im / 2) * pole(z)


@cayley.defjvp
def _cayley_jvp(primals, tangents):
    p = pole(*primals)
    return cayley(*primals), p * p * tangents[0]


def log_cayley(z: Pair) -> Pair:
    """log((1 + z/2)/(1 - z/2)): no cancellation, be the mode slow (log1p) or fast."""
    x, y = z.re / 2, z.im / 2
    below = (1 - x) ** 2 + y * y
    size = 4 * x / below  # |Ā|² - 1
    tiny = ((1 + x) ** 2 + y * y) / below  # |Ā|²
    double = jnp.where(size < -0.5, jnp.log(tiny), jnp.log1p(jnp.maximum(size, -0.5)))
    return Pair(0.5 * double, jnp.arctan2(2 * y, (1 - x) * (1 + x) - y * y))


def cos_sin(y: Array) -> tuple[Array, Array]:
    """Of binary64 angles, in binary64: CPUs and GPUs."""
    return jnp.cos(y), jnp.sin(y)


def cos_sin_in_binary32(y: Array) -> tuple[Array, Array]:
    """The same from binary32 functions of reduced angles, with a correction to first order.

    TPUs emulate binary64: products are cheap enough, sines take a minute to compile.
    """
    turns = y * (0.5 / math.pi)
    y = (turns - jnp.round(turns)) * (2 * math.pi)
    high = y.astype(jnp.float32)
    low = (y - high).astype(jnp.float32)
    cos, sin = jnp.cos(high), jnp.sin(high)
    return cos - low * sin, sin + low * cos


def rotation(r: Array, frequency: np.ndarray, dtype: Any) -> tuple[Array, Array]:
    """cos and sin of r·frequency, the angles in binary64: integers r (...), (n,) -> (...,n)."""
    with jax.enable_x64(True):
        angle = r.astype(jnp.float64)[..., None] * jnp.asarray(frequency, jnp.float64)
        if dtype == jnp.float64:
            return cos_sin(angle)
        return by_platform(cos_sin, cos_sin_in_binary32, angle)


def exponentials(x: Array, y: Array) -> tuple[Array, Array]:
    """e^{x + iy} of binary64 arguments, in binary64: CPUs and GPUs."""
    size, (cos, sin) = jnp.exp(x), cos_sin(y)
    return size * cos, size * sin


def exponentials_in_binary32(x: Array, y: Array) -> tuple[Array, Array]:
    """The same from binary32 functions, for TPUs."""
    high = x.astype(jnp.float32)
    low = (x - high).astype(jnp.float32)
    size, (cos, sin) = jnp.exp(high) * (1 + low), cos_sin_in_binary32(y)
    return size * cos, size * sin


def by_platform(default: Any, tpu: Any, *arguments: Array) -> tuple[Array, Array]:
    """One of two functions of binary64 arrays, rounded to binary32."""

    def rounded(f: Any) -> Any:
        return lambda *x: tuple(v.astype(jnp.float32) for v in f(*x))

    re, im = lax.platform_dependent(*arguments, tpu=rounded(tpu), default=rounded(default))
    return re, im


def table(z: Exponent, l: np.ndarray, method: Method) -> Pair:
    dtype = z.lam.re.dtype
    with jax.enable_x64(True):
        lam = Pair(z.lam.re.astype(jnp.float64), z.lam.im.astype(jnp.float64))
        exact = Exponent(lam, z.step_re.astype(jnp.float64), z.step_im.astype(jnp.float64)).rounded
        if method == "bilinear":
            exact = log_cayley(exact)
        times = jnp.asarray(l, jnp.float64)
        x = jnp.maximum(exact.re, -1e5)[..., None] * times  # e^{-10^5} is 0, and 0·(-∞) avoided
        y = exact.im[..., None] * times
        if dtype == jnp.float64:
            return Pair(*exponentials(x, y))
        return Pair(*by_platform(exponentials, exponentials_in_binary32, x, y))


def powers(z: Exponent, l: np.ndarray, method: Method) -> Pair:
    """Ā^l, z (·,N) and static l -> (·,N,|l|); l is whole, or any for e^{zl}.

    The derivative is l e^{zl}, or l Ā^{l-1} ∂Ā/∂z, from the same table.
    Clauses: GSS-KER-3, GSS-ACC-2.
    """
    power = jax.custom_jvp(lambda z: table(z, l, method))

    @power.defjvp
    def power_jvp(primals, tangents):
        p = power(*primals)
        z, dz = jax.jvp(lambda z: z.rounded, primals, tangents)
        times = jnp.asarray(l, p.re.dtype)
        if method != "bilinear":
            return p, p * times * dz[..., None]
        abar = cayley(z)
        zero = (abar.re == 0) & (abar.im == 0)
        one, nothing = jnp.ones_like(z.re), jnp.zeros_like(z.re)
        inverse = choose(zero, Pair(one, nothing), abar).reciprocal()
        first = Pair((times == 1) + 0 * p.re, 0 * p.im)  # 0^{l-1} is 1 at l = 1, else 0
        before = choose(zero[..., None], first, p * inverse[..., None])  # Ā^{l-1}
        return p, before * times * (pole(z) * pole(z) * dz)[..., None]

    return power(z)
