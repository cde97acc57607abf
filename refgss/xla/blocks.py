"""Chapter 18: attention in blocks of queries, and its gradient.

Each block has the stretch of keys that any of its queries sees: a batch of small dense attentions.
Of the weights nothing is kept for the gradient but the largest logit and the sum of each query,
from which it computes them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from refgss.config import AttentionForm
from refgss.xla.pairs import Array, einsum
from refgss.xla.window import visible


@dataclass(frozen=True)
class Blocks:
    """How the queries of `length` tokens are taken: `size` at a time, with `back` keys before."""

    window: AttentionForm
    length: int
    size: int
    back: int
    precision: str

    @property
    def count(self) -> int:
        return -(-self.length // self.size)

    def seen(self, start: Array) -> Array:
        """Of tokens at `start` (B,) and on: (B,count,1,1,size,back + size)."""
        first = start[:, None] + np.arange(self.count) * self.size
        t = first[..., None, None, None, None] + np.arange(self.size)[:, None]
        s = first[..., None, None, None, None] + np.arange(-self.back, self.size)
        given = t < start.reshape(-1, 1, 1, 1, 1, 1) + self.length  # the last block may be short
        return visible(t, s, self.window) & given

    def queries(self, x: Array) -> Array:
        """(B,L,...) -> (B,count,size,...), zeros at the end."""
        x = at_end(x, self.count * self.size - self.length)
        return x.reshape(x.shape[0], self.count, self.size, *x.shape[2:])

    def keys(self, x: Array) -> Array:
        """(B,back + L,...) -> (B,count,back + size,...): what each block may see."""
        x = at_end(x, self.count * self.size - self.length)
        if self.count == 1:
            return x[:, None]
        shape = (x.shape[0], self.count, self.size, *x.shape[2:])
        length = self.count * self.size
        shifts = range(0, self.back + 1, self.size)
        return jnp.concatenate([x[:, i : i + length].reshape(shape) for i in shifts], 2)

    def by_distance(self, bias: Array) -> Array:
        """(G,R,M) -> (G,R,size,back + size), anything where no key is seen."""
        distance = np.arange(self.size)[:, None] - np.arange(-self.back, self.size)
        return bias[..., np.clip(distance, 0, bias.shape[-1] - 1)]


def at_end(x: Array, n: int) -> Array:
    """n zeros more along the second axis."""
    return jnp.pad(x, ((0, 0), (0, n), *(((0, 0),) * (x.ndim - 2))))


def blocks_of(length: int, window: AttentionForm, fresh: bool, precision: str) -> Blocks:
    """With no state (`fresh`) blocks are chunks, and fewer keys before them are seen."""
    C = window.chunk
    size = max(1, min(C, length))
    if not fresh:
        back = window.slots
    elif window.visible == "chunk" or length <= C:
        back = 0
    else:
        back = C
    return Blocks(window, length, size, back, precision)


def over_seen(subscripts: str, w: Array, x: Array, seen: Array, precision: str) -> Array:
    """A sum of w·x, w being 0 where nothing is seen: what is no number spoils no other sum.

    Clauses: GSS-ATT-10, GSS-ATT-16.
    """
    finite = jnp.isfinite(x)

    def carefully() -> Array:
        pairs = jnp.broadcast_to(seen, w.shape).astype(x.dtype)
        spoiled = einsum(subscripts, pairs, (~finite).astype(x.dtype)) > 0
        return jnp.where(
            spoiled, jnp.nan, einsum(subscripts, w, jnp.where(finite, x, 0), precision=precision)
        )

    return lax.cond(finite.all(), lambda: einsum(subscripts, w, x, precision=precision), carefully)


def logits(q: Array, k: Array, bias: Array | None, seen: Array, blocks: Blocks) -> Array:
    """(B,n,Q,G,R,D), (B,n,K,G,D) -> (B,n,G,R,Q,K), -∞ where nothing is seen."""
    a = einsum("bnqgrd,bnkgd->bngrqk", q, k, precision=blocks.precision) * scale(q, blocks)
    if bias is not None:
        a = a + blocks.by_distance(bias)
    return jnp.where(seen, a, -jnp.inf)


def scale(q: Array, blocks: Blocks) -> float:
    return 1 / math.sqrt(q.shape[-1]) if blocks.window.scale == "inverse-root" else 1.0


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def attend(
    q: Array, keys: Array, values: Array, bias: Array | None, start: Array, blocks: Blocks
) -> Array:
    """q (B,n,Q,G,R,D), keys and values (B,back + L,G,D), bias (G,R,M), start (B,) -> as q.

    Clauses: GSS-ATT-3, GSS-ATT-11, GSS-ATT-17, GSS-ATT-18, GSS-ATT-25.
    """
    return attend_keeping(q, keys, values, bias, start, blocks)[0]


def attend_keeping(
    q: Array, keys: Array, values: Array, bias: Array | None, start: Array, blocks: Blocks
) -> tuple[Array, tuple]:
    seen = blocks.seen(start)
    a = logits(q, blocks.keys(keys), bias, seen, blocks)
    some = seen.any(-1, keepdims=True)  # under "strict" the first token sees none
    largest = jnp.where(some, a.max(-1, keepdims=True), 0)
    e = jnp.where(seen, jnp.exp(a - largest), 0)
    total = jnp.where(some, e.sum(-1, keepdims=True), 1)
    v = blocks.keys(values)
    y = over_seen("bngrqk,bnkgd->bnqgrd", e / total, v, seen, blocks.precision)
    return y, (q, keys, values, bias, start, largest, total)


def attend_back(blocks: Blocks, kept: tuple, dy: Array) -> tuple:
    """dS = P∘(dP - rowsum(P∘dP)), P from the logits again.  Clauses: GSS-ATT-9, GSS-ATT-16."""
    q, keys, values, bias, start, largest, total = kept
    seen, precision = blocks.seen(start), blocks.precision
    k, v = blocks.keys(keys), blocks.keys(values)
    a = logits(q, k, bias, seen, blocks)
    w = jnp.where(seen, jnp.exp(a - largest) / total, 0)
    dw = jnp.where(seen, einsum("bnqgrd,bnkgd->bngrqk", dy, v, precision=precision), 0)
    da = jnp.where(seen, w * (dw - (w * dw).sum(-1, keepdims=True)), 0)
    dbias = None if bias is None else transpose(blocks.by_distance, bias, da.sum((0, 1)))
    scaled = da * scale(q, blocks)
    dq = over_seen("bngrqk,bnkgd->bnqgrd", scaled, k, seen, precision)
    dk = over_seen("bngrqk,bnqgrd->bnkgd", scaled, q, seen, precision)
    dv = over_seen("bngrqk,bnqgrd->bnkgd", w, dy, seen, precision)
    return dq, transpose(blocks.keys, keys, dk), transpose(blocks.keys, values, dv), dbias, None


def transpose(f: Callable[[Array], Array], x: Array, dy: Array) -> Array:
    """The gradient of a linear map."""
    return jax.linear_transpose(f, x)(dy)[0]


attend.defvjp(attend_keeping, attend_back)
