"""Chapter 20: attention of tokens to the W tokens before them, and to or from a state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from refgss import checks
from refgss.config import AttentionForm
from refgss.xla.attention import attention_here
from refgss.xla.inputs import arrays
from refgss.xla.pairs import Array, einsum
from refgss.xla.plan import Plan, resolve

State = Mapping[str, Array]


def window_attention(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    scale: Array | None,
    state: State | None = None,
    *,
    window: int,
    plan: Plan | None = None,
) -> tuple[Array, State]:
    """q, k, v (B,L,H,D), bias (H,M) or None, scale (H,) or None, state -> y (B,L,H,D), state.

    The state is {"k", "v": (B,W,H,D)}, the last W keys and values, oldest first, None for zeros.
    Clauses: GSS-BRT-4, GSS-BRT-6..8.
    """
    op = "window_attention"
    state = checks.check_window_attention(op, q, k, v, bias, scale, state, window)
    return windows_compiled(*arrays(op, q, k, v, bias, scale, state), window, resolve(plan))


@partial(jax.jit, static_argnames=("window", "plan"))
def windows_compiled(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    scale: Array | None,
    state: State,
    window: int,
    plan: Plan,
) -> tuple[Array, State]:
    """As attention of a row that has read W tokens: all W keys are there, zeros or not."""
    if scale is not None:  # GSS-BRT-24
        q, bias = q * size_of(scale), None if bias is None else bias * size_of(scale)
    form = AttentionForm(window, "strict", "inverse-root" if scale is None else "one")
    read = jnp.full(len(q), window, jnp.int32)
    y, _ = attention_here(q, k, v, bias, {**state, "t": read}, form, plan)
    last = {n: jnp.concatenate([state[n], x], 1)[:, x.shape[1] :] for n, x in (("k", k), ("v", v))}
    return y, last


def size_of(scale: Array) -> Array:
    """|scale| (H,1); the derivative is 0 at 0.  Clauses: GSS-BRT-20."""
    return (scale * lax.stop_gradient(jnp.sign(scale)))[:, None]


def state_attention(
    q: Array, k: Array, v: Array, scale: Array | None, *, plan: Plan | None = None
) -> Array:
    """q (B,T,H,D), k, v (B,M,H,D), scale (H,) or None -> (B,T,H,D): every query sees every key.

    Without a key, M = 0, it is 0.  Clauses: GSS-BRT-4, GSS-BRT-9.
    """
    checks.check_state_attention("state_attention", q, k, v, scale)
    q, k, v, scale = arrays("state_attention", q, k, v, scale)
    if not k.shape[1]:
        return jnp.zeros_like(q)
    factor = 1 / math.sqrt(q.shape[3]) if scale is None else 1.0
    q = q if scale is None else q * size_of(scale)
    return attend_to_all(q, k, v, factor, resolve(plan).precision)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def attend_to_all(q: Array, k: Array, v: Array, factor: float, precision: str) -> Array:
    """Of the weights nothing is kept for the gradient but two numbers a query."""
    return attend_keeping(q, k, v, factor, precision)[0]


def logits(q: Array, k: Array, factor: float, precision: str) -> Array:
    """(B,H,T,M)."""
    return einsum("bthd,bmhd->bhtm", q, k, precision=precision) * factor


def attend_keeping(
    q: Array, k: Array, v: Array, factor: float, precision: str
) -> tuple[Array, tuple]:
    a = logits(q, k, factor, precision)
    largest = a.max(-1, keepdims=True)
    e = jnp.exp(a - largest)
    total = e.sum(-1, keepdims=True)
    y = einsum("bhtm,bmhd->bthd", e / total, v, precision=precision)
    return y, (q, k, v, largest, total)


def attend_back(factor: float, precision: str, kept: tuple, dy: Array) -> tuple:
    """dS = P∘(dP - rowsum(P∘dP)), P from the logits again.  Clauses: GSS-BRT-20."""
    q, k, v, largest, total = kept
    w = jnp.exp(logits(q, k, factor, precision) - largest) / total
    dw = einsum("bthd,bmhd->bhtm", dy, v, precision=precision)
    da = w * (dw - (w * dw).sum(-1, keepdims=True)) * factor
    dq = einsum("bhtm,bmhd->bthd", da, k, precision=precision)
    dk = einsum("bhtm,bthd->bmhd", da, q, precision=precision)
    return dq, dk, einsum("bhtm,bthd->bmhd", w, dy, precision=precision)


attend_to_all.defvjp(attend_keeping, attend_back)
