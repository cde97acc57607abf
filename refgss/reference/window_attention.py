"""Chapter 20: attention of tokens to the W tokens before them, and to or from a state.

Other than in chapter 18, the keys before the first token are zeros, and they are seen; the bias of
the distance is multiplied by the scale; and the scale is the absolute value of a number that each
head has.  A state of `window_attention` is {"k", "v": (B,W,H,D)}: the last W keys and values,
oldest first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from refgss import checks
from refgss.reference.attention import by_distance, by_keys, over_seen, weighted, weighted_vjp
from refgss.reference.elementary import Array, either, over_root

State = Mapping[str, Array]


def distances(length: int, window: int) -> np.ndarray:
    """t - s (L,W+L) of the tokens at t from the keys at s, those of the state first.

    Clauses: GSS-BRT-7.
    """
    return np.asarray(np.arange(length)[:, None] - np.arange(-window, length))


def in_window(batch: int, distance: np.ndarray, window: int) -> np.ndarray:
    """Whether the token sees the key, (B,L,W+L): the W before it, and not itself.

    Clauses: GSS-BRT-7.
    """
    seen = (distance >= 1) & (distance <= window)
    return np.broadcast_to(seen, (batch, *seen.shape))


def scaled(q: Array, keys: Array, bias: Array | None, scale: Array | None) -> tuple[Array, Array]:
    """The logits (B,L,T,H), and what the scale multiplies: bias (L,T,H).

    (q·k + bias) |scale|, and without a scale q·k/√D + bias.  Clauses: GSS-BRT-4, GSS-BRT-8.
    """
    a = np.einsum("bthd,bshd->btsh", q, keys)
    if scale is None:
        a = over_root(a, q.shape[3])
    if bias is not None:
        a = a + bias
    if scale is None:
        return a, a
    size = np.abs(scale)
    first = np.einsum("bthd,bshd->btsh", q * size[:, None], keys)  # a scale of the queries
    return either(a * size, first if bias is None else first + bias * size), a


def scaled_vjp(
    q: Array, keys: Array, seen: np.ndarray, da: Array, a: Array, scale: Array | None
) -> tuple[Array, Array, Array, Array | None]:
    """da, and the a that the scale multiplies -> dq, dkeys, da before the scale, dscale or None.

    |scale| has the derivative 0 at 0.  Clauses: GSS-BRT-20.
    """
    if scale is None:
        inner, dscale = over_root(da, q.shape[3]), None
    else:
        da, dscale = da * np.abs(scale), (da * np.where(seen[..., None], a, 0)).sum((0, 1, 2))
        inner, dscale = da, dscale * np.sign(scale)
    by_key = seen.transpose(0, 2, 1)
    return over_seen(inner, keys, seen), over_seen(by_keys(inner), q, by_key), da, dscale


def window_attention(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    scale: Array | None,
    state: State | None = None,
    *,
    window: int,
) -> tuple[Array, State]:
    """q, k, v (B,L,H,D), bias (H,M) or None, scale (H,) or None, state -> y (B,L,H,D), state.

    The token at t sees the keys at t - W to t - 1, of which those before the first token are zeros;
    bias[h,n] is that of the distance n, so that M is at least W + 1.  L = 0 returns the state.
    Clauses: GSS-BRT-4, GSS-BRT-6..8, GSS-NFI-1.
    """
    state = checks.check_window_attention("window_attention", q, k, v, bias, scale, state, window)
    keys, values = (np.concatenate([state[n], x], 1) for n, x in (("k", k), ("v", v)))
    n = distances(q.shape[1], window)
    seen = in_window(len(q), n, window)
    a, _ = scaled(q, keys, of_distance(bias, n), scale)
    return weighted(a, values, seen), {"k": keys[:, k.shape[1] :], "v": values[:, k.shape[1] :]}


def of_distance(bias: Array | None, distance: np.ndarray) -> Array | None:
    """bias (H,M) -> (L,T,H), that of each distance; those that are not seen mean nothing."""
    return None if bias is None else bias.T[np.clip(distance, 0, bias.shape[1] - 1)]


def window_attention_vjp(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    scale: Array | None,
    state: State | None,
    dy: Array,
    dstate: State,
    *,
    window: int,
) -> tuple[Array, Array, Array, Array | None, Array | None, State]:
    """dy (B,L,H,D), dstate {"k", "v"} -> dq, dk, dv, dbias, dscale (or None), dstate_0.

    Clauses: GSS-BRT-20.
    """
    op = "window_attention_vjp"
    state = checks.check_window_attention(op, q, k, v, bias, scale, state, window)
    checks.check_attention_cotangents(op, q, state, dy, dstate)
    keys, values = (np.concatenate([state[n], x], 1) for n, x in (("k", k), ("v", v)))
    n = distances(q.shape[1], window)
    seen = in_window(len(q), n, window)
    a, inner = scaled(q, keys, of_distance(bias, n), scale)
    da, dvalues = weighted_vjp(a, values, seen, dy)
    dq, dkeys, da, dscale = scaled_vjp(q, keys, seen, da, inner, scale)
    dbias = None if bias is None else by_distance(da, seen, n, bias)
    dkeys, dvalues = (  # the last W stay in the state
        np.concatenate([dx[:, : k.shape[1]], dx[:, k.shape[1] :] + dstate[part]], 1)
        for part, dx in (("k", dkeys), ("v", dvalues))
    )
    dstate0 = {"k": dkeys[:, :window], "v": dvalues[:, :window]}
    return dq, dkeys[:, window:], dvalues[:, window:], dbias, dscale, dstate0


def state_attention(q: Array, k: Array, v: Array, scale: Array | None) -> Array:
    """q (B,T,H,D), k, v (B,M,H,D), scale (H,) or None -> (B,T,H,D): every query sees every key.

    Without a key, M = 0, it is 0.  Clauses: GSS-BRT-4, GSS-BRT-9, GSS-NFI-1.
    """
    checks.check_state_attention("state_attention", q, k, v, scale)
    if not k.shape[1]:
        return np.zeros_like(q)
    return weighted(scaled(q, k, None, scale)[0], v, all_of(q, k))


def all_of(q: Array, k: Array) -> np.ndarray:
    """(B,T,M), all of it seen.  Clauses: GSS-BRT-9."""
    return np.ones((*q.shape[:2], k.shape[1]), bool)


def state_attention_vjp(
    q: Array, k: Array, v: Array, scale: Array | None, dy: Array
) -> tuple[Array, Array, Array, Array | None]:
    """dy (B,T,H,D) -> dq, dk, dv, dscale or None.  Clauses: GSS-BRT-20."""
    checks.check_state_attention("state_attention_vjp", q, k, v, scale)
    checks.check_shape("state_attention_vjp", "dy", dy, q.shape, "f")
    if not k.shape[1]:
        return np.zeros_like(q), k, v, None if scale is None else np.zeros_like(scale)
    a, inner = scaled(q, k, None, scale)
    da, dv = weighted_vjp(a, v, all_of(q, k), dy)
    dq, dk, _, dscale = scaled_vjp(q, k, all_of(q, k), da, inner, scale)
    return dq, dk, dv, dscale
