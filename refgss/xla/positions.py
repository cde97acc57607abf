"""Chapter 18: what tells attention the positions: rotations of queries and keys, T5's bias."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from refgss import checks
from refgss.xla.inputs import arrays
from refgss.xla.pairs import Array
from refgss.xla.powers import rotation

# T5: distances below 16 have a bucket of their own; these are the first of buckets 16 to 31
FIRST = (16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113)


def rope(x: Array, r: Array, *, base: float, pairing: str) -> Array:
    """x (B,L,H,D), each pair of numbers turned by r·base^(-2j/D); r (B,L) integers.

    pairing "half": (x_j, x_{j+D/2}); "interleaved": (x_{2j}, x_{2j+1}).
    Clauses: GSS-ATT-13, GSS-ATT-14.
    """
    base = checks.check_rope("rope", "x", x, r, base, pairing)
    return turned(*arrays("rope", x, r), base, pairing)


@partial(jax.jit, static_argnames=("base", "pairing", "sign"))
def turned(x: Array, r: Array, base: float, pairing: str, sign: int = 1) -> Array:
    """Each pair of numbers turned forth (sign 1) or back (-1)."""
    D = x.shape[-1]
    frequency = sign * base ** (-np.arange(0, D, 2) / D)
    cos, sin = (z[:, :, None] for z in rotation(r, frequency, x.dtype))  # (B,L,1,D/2)
    if pairing == "half":
        x1, x2 = x[..., : D // 2], x[..., D // 2 :]
        return jnp.concatenate([x1 * cos - x2 * sin, x1 * sin + x2 * cos], -1)
    x1, x2 = x[..., ::2], x[..., 1::2]
    return jnp.stack([x1 * cos - x2 * sin, x1 * sin + x2 * cos], -1).reshape(x.shape)


def t5_bias(table: Array, length: int) -> Array:
    """table (H,32) -> bias (H,length): that of the bucket of each distance.  Clauses: GSS-ATT-5."""
    checks.check_table("t5_bias", table, length)
    (table,) = arrays("t5_bias", table)
    n = np.arange(length)
    return table[:, np.where(n < 16, n, 15 + np.searchsorted(FIRST, n, "right"))]
