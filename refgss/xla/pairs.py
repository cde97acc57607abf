"""Complex numbers as pairs of real arrays.

Matrix units multiply real numbers, TPUs have no complex128, and complex scans compile slowly:
inside this backend a complex array is a `Pair`; it becomes complex again where an op returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pair:
    """re + i·im, two real arrays of one shape."""

    re: Array
    im: Array

    def __add__(self, other: Pair) -> Pair:
        return Pair(self.re + other.re, self.im + other.im)

    def __mul__(self, other: Any) -> Pair:
        """With a Pair, or with a real array or number."""
        if not isinstance(other, Pair):
            return Pair(self.re * other, self.im * other)
        return Pair(
            self.re * other.re - self.im * other.im, self.re * other.im + self.im * other.re
        )

    def __getitem__(self, index: Any) -> Pair:
        return Pair(self.re[index], self.im[index])

    def conj(self) -> Pair:
        return Pair(self.re, -self.im)

    def reciprocal(self) -> Pair:
        return reciprocal(self)

    def stack(self, axis: int) -> Array:
        """[re, im] along an axis that exists: what a real matrix product sums over."""
        return jnp.concatenate([self.re, self.im], axis)


@jax.custom_jvp
def reciprocal(z: Pair) -> Pair:
    """1/z, scaled by the larger component so that |z|² neither over- nor underflows."""
    scale = 1 / jnp.maximum(jnp.abs(z.re), jnp.abs(z.im))
    x, y = z.re * scale, z.im * scale
    return Pair(x, -y) * (scale / (x * x + y * y))


@reciprocal.defjvp
def _reciprocal_jvp(primals, tangents):
    inverse = reciprocal(*primals)
    return inverse, inverse * inverse * tangents[0] * -1.0


def pair(x: Array) -> Pair:
    return Pair(jnp.real(x), jnp.imag(x))


def unpair(x: Pair) -> Array:
    return lax.complex(x.re, x.im)


def choose(condition: Array, a: Pair, b: Pair) -> Pair:
    return Pair(jnp.where(condition, a.re, b.re), jnp.where(condition, a.im, b.im))


def einsum(subscripts: str, *operands: Array, precision: str = "highest") -> Array:
    """A matrix product in the full precision of its operands, whatever the platform's default."""
    return jnp.einsum(subscripts, *operands, precision=lax.Precision(precision))
