"""Chapter 18: attention of a query to the keys near it, with a state, and what tells it positions.

The definition, in O(L²): what a query does not see is left out of every sum, so that nothing it
holds is felt (GSS-ATT-10).  A state is {"k", "v": (B,S,G,D), "t": (B,)}: t tokens were seen, under
the visibility "chunk" modulo C, and slot j holds key and value of the token s with s mod S = j
where the next token sees it, else zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from refgss import checks
from refgss.config import AttentionForm
from refgss.reference.elementary import Array, either, online_allowance, over_root, rotation

State = Mapping[str, Array]

# T5: distances below 16 have a bucket of their own; these are the first of buckets 16 to 31
FIRST = (16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113)
BUCKETS = 16 + len(FIRST)


# --- positions ------------------------------------------------------------------------------------


def rope(x: Array, r: Array, *, base: float, pairing: str) -> Array:
    """x (B,L,H,D), each pair of numbers turned by the angle r·base^(-2i/D); r (B,L) integers.

    pairing "half": pairs (x_i, x_{i+D/2}); "interleaved": (x_{2i}, x_{2i+1}).
    Raises ValueError for an odd D.  Clauses: GSS-ATT-13..14, GSS-NFI-1.
    """
    base = checks.check_rope("rope", "x", x, r, base, pairing)
    cos, sin = rotation(x, r, base)
    return turned(x, cos, sin, pairing)


def rope_vjp(r: Array, dy: Array, *, base: float, pairing: str) -> Array:
    """dy (B,L,H,D) -> dx: turned back.  Clauses: GSS-ATT-14, GSS-ATT-21."""
    base = checks.check_rope("rope_vjp", "dy", dy, r, base, pairing)
    cos, sin = rotation(dy, r, base)
    return turned(dy, cos, -sin, pairing)


def turned(x: Array, cos: Array, sin: Array, pairing: str) -> Array:
    """(x₁ cos - x₂ sin, x₁ sin + x₂ cos) of every pair; cos and sin (B,L,D/2)."""
    half = x.shape[-1] // 2
    first = slice(half) if pairing == "half" else slice(None, None, 2)
    second = slice(half, None) if pairing == "half" else slice(1, None, 2)
    x1, x2, cos, sin = x[..., first], x[..., second], cos[:, :, None], sin[:, :, None]
    y1, y2 = x1 * cos - x2 * sin, x1 * sin + x2 * cos
    if pairing == "half":
        return np.concatenate([y1, y2], -1)
    return np.stack([y1, y2], -1).reshape(*x.shape)


def buckets(length: int) -> np.ndarray:
    """The bucket of each distance from 0 to length - 1.  Clauses: GSS-ATT-5."""
    n = np.arange(length)
    return np.where(n < 16, n, 15 + np.searchsorted(FIRST, n, "right"))


def t5_bias(table: Array, length: int) -> Array:
    """table (H,32) -> bias (H,length): that of the bucket of each distance.

    Clauses: GSS-ATT-5, GSS-NFI-1.
    """
    checks.check_table("t5_bias", table, length)
    return table[:, buckets(length)]


def t5_bias_vjp(table: Array, length: int, dbias: Array) -> Array:
    """dbias (H,length) -> dtable (H,32).  Clauses: GSS-ATT-22."""
    checks.check_table("t5_bias_vjp", table, length)
    checks.check_shape("t5_bias_vjp", "dbias", dbias, (table.shape[0], length), "f")
    of = buckets(length)
    return np.stack([np.where(of == i, dbias, 0).sum(1) for i in range(BUCKETS)], 1)


# --- which keys there are, and which are seen -----------------------------------------------------


def visible(t: np.ndarray, s: np.ndarray, window: AttentionForm) -> np.ndarray:
    """Whether the query at t sees the key at s.  Clauses: GSS-ATT-1, GSS-ATT-2."""
    C, distance = window.chunk, t - s
    if window.visible == "strict":
        seen = (distance > 0) & (distance <= C)
    elif window.visible == "sliding":
        seen = (distance >= 0) & (distance < C)
    else:
        seen = (distance >= 0) & (t // C - s // C <= (window.visible == "look1"))
    return np.asarray(seen & (s >= 0))


class Tokens(NamedTuple):
    """The tokens whose keys are there: those of the slots, then the new ones."""

    t: np.ndarray  # (B,L) positions of the queries
    s: np.ndarray  # (B,S+L) positions of the keys; below 0: an empty slot
    end: np.ndarray  # (B,1) position of the next token
    seen: np.ndarray  # (B,L,S+L) whether the query sees the key

    @property
    def distance(self) -> np.ndarray:
        """t - s (B,L,S+L), 0 where it is not seen."""
        return np.where(self.seen, self.t[:, :, None] - self.s[:, None], 0)


def in_slots(t: np.ndarray, S: int) -> np.ndarray:
    """The last token of each slot before the one at t: (B,1) -> (B,S).  Clauses: GSS-ATT-7."""
    return t - 1 - (t - 1 - np.arange(S)) % S


def tokens(t: np.ndarray, L: int, window: AttentionForm) -> Tokens:
    """t (B,): how many tokens were seen before these L."""
    start = t.astype(np.int64)[:, None]
    new = start + np.arange(L)
    s = np.concatenate([in_slots(start, window.slots), new], 1)
    return Tokens(new, s, start + L, visible(new[:, :, None], s[:, None], window))


def next_state(at: Tokens, t: np.ndarray, keys: Array, values: Array, window: AttentionForm) -> Any:
    """What the next token sees, each in its slot.  Clauses: GSS-ATT-7."""
    S = window.slots
    held = in_slots(at.end, S)  # (B,S)
    kept = visible(at.end, held, window)[:, :, None, None]
    start = at.end - at.t.shape[1]
    index = np.where(held >= start, S + held - start, np.arange(S))
    rows = np.arange(len(index))[:, None]
    end = at.end[:, 0] % window.chunk if window.visible == "chunk" else at.end[:, 0]
    return {
        "k": np.where(kept, keys[rows, index], 0),
        "v": np.where(kept, values[rows, index], 0),
        "t": end.astype(np.promote_types(t.dtype, np.int32)),
    }


# --- attention ------------------------------------------------------------------------------------


def of_heads(x: Array, heads: int) -> Array:
    """(B,T,G,D) -> (B,T,Hq,D): query head h uses key and value head h div (Hq/G).

    Clauses: GSS-ATT-6.
    """
    return x[:, :, np.arange(heads) // (heads // x.shape[2])]


def of_groups(x: Array, groups: int) -> Array:
    """The gradient of `of_heads`: (B,T,Hq,D) -> (B,T,G,D)."""
    B, T, A, D = x.shape
    return x.reshape(B, T, groups, A // groups, D).sum(3)


def over_seen(w: Array, x: Array, seen: np.ndarray) -> Array:
    """Σ_s w[b,t,s,h] x[b,s,h], over what is seen alone: (B,L,T,H), (B,T,H,D) -> (B,L,H,D).

    Clauses: GSS-ATT-3, GSS-ATT-10.
    """
    B, L, _, A = w.shape
    if not B * L * A * x.shape[-1]:
        return np.zeros((B, L, A, x.shape[-1]), x.dtype)
    sums = []
    for b, t in np.ndindex(B, L):
        s = np.flatnonzero(seen[b, t])
        sums.append(np.einsum("sh,shd->hd", w[b, t, s], x[b, s]))
    return np.stack(sums).reshape(B, L, *sums[0].shape)


def logits(q: Array, keys: Array, bias: Array | None, at: Tokens, window: AttentionForm) -> Array:
    """scale·q_t·k_s + bias[t - s], (B,L,S+L,Hq); those that are not seen mean nothing.

    Clauses: GSS-ATT-3, GSS-ATT-15.
    """
    a = np.einsum("bthd,bshd->btsh", q, of_heads(keys, q.shape[2]))
    if window.scale == "inverse-root":
        a = over_root(a, q.shape[3])
    return a if bias is None else a + bias.T[at.distance]


def exponentials(a: Array, seen: np.ndarray) -> tuple[Array, Array, Array]:
    """e^{a-m} (B,L,S+L,Hq), 0 where nothing is seen, its sum (1 where no key is seen) and m.

    m is the largest logit of those that are seen.  Clauses: GSS-ATT-11, GSS-ATT-17.
    """
    seen = seen[..., None]
    some = seen.any(2, keepdims=True)  # under "strict" the first token sees none
    m = np.where(some, np.where(seen, a, -np.inf).max(2, keepdims=True), 0)
    e = np.where(seen, np.exp(np.where(seen, a, m) - m), 0)
    return e, np.where(some, e.sum(2, keepdims=True), 1), m


def weighted(a: Array, x: Array, seen: np.ndarray) -> Array:
    """Σ_s softmax_s(a) x_s over what is seen: a (B,L,T,H), x (B,T,H,D) -> (B,L,H,D).

    Clauses: GSS-ATT-3, GSS-ATT-18, GSS-BRT-4.
    """
    e, total, _ = exponentials(a, seen)
    w = e / total
    return online_allowance(over_seen(w, x, seen), w, x, seen)


def weighted_vjp(a: Array, x: Array, seen: np.ndarray, dy: Array) -> tuple[Array, Array]:
    """dy (B,L,H,D) -> da (B,L,T,H), 0 where it is not seen, and dx (B,T,H,D).

    With w the weights and dw_ts = dy_t·x_s: da = w (dw - Σ_s w dw).

    Clauses: GSS-ATT-9, GSS-ATT-16, GSS-ATT-19, GSS-BRT-20.
    """
    e, total, m = exponentials(a, seen)
    some = seen[..., None]
    w = either(e / total, np.where(some, np.exp(np.where(some, a, m) - (m + np.log(total))), 0))
    dw = np.where(some, np.einsum("bthd,bshd->btsh", dy, x), 0)
    y = weighted(a, x, seen)
    along = either((w * dw).sum(2), (dy * y).sum(3))
    da = w * (dw - along[:, :, None])
    return da, over_seen(by_keys(w), dy, seen.transpose(0, 2, 1))


def attend(
    q: Array, keys: Array, values: Array, bias: Array | None, at: Tokens, window: AttentionForm
) -> Array:
    """y (B,L,Hq,D) of the keys and values (B,S+L,G,D).  Clauses: GSS-ATT-3."""
    return weighted(logits(q, keys, bias, at, window), of_heads(values, q.shape[2]), at.seen)


def attention(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    state: State | None = None,
    *,
    window: AttentionForm,
) -> tuple[Array, State]:
    """q (B,L,Hq,D), k, v (B,L,G,D), bias (Hq,M) or None, state or None -> y (B,L,Hq,D), state.

    y_t = Σ_s softmax_s(scale·q_t·k_s + bias[t - s]) v_s over the keys that t sees; 0 where it sees
    none.  M is at least the largest distance and 1; L = 0 returns the state.
    Raises ValueError where shapes disagree or a state is of another phase.
    Clauses: GSS-ATT-1..3, GSS-ATT-6..8, GSS-ATT-10..11, GSS-ATT-15, GSS-ATT-17, GSS-ATT-25..26,
    GSS-NFI-1.
    """
    state = checks.check_attention("attention", q, k, v, bias, state, window)
    at = tokens(state["t"], q.shape[1], window)
    keys, values = (np.concatenate([state[n], x], 1) for n, x in (("k", k), ("v", v)))
    y = attend(q, keys, values, bias, at, window)
    return y, next_state(at, state["t"], keys, values, window)


def attention_vjp(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    state: State | None,
    dy: Array,
    dstate: State,
    *,
    window: AttentionForm,
) -> tuple[Array, Array, Array, Array | None, State]:
    """dy (B,L,Hq,D), dstate {"k", "v"} -> dq, dk, dv, dbias or None, dstate_0 {"k", "v"}.

    Clauses: GSS-ATT-9, GSS-ATT-16, GSS-ATT-19.
    """
    state = checks.check_attention("attention_vjp", q, k, v, bias, state, window)
    checks.check_attention_cotangents("attention_vjp", q, state, dy, dstate)
    at, S = tokens(state["t"], q.shape[1], window), window.slots
    keys, values = (np.concatenate([state[n], x], 1) for n, x in (("k", k), ("v", v)))
    dq, dkeys, dvalues, dbias = attend_vjp(q, keys, values, bias, at, window, dy)
    # a key that stays in the state is found in slot s mod S
    stays = visible(at.end, at.s, window)[:, :, None, None]
    rows = np.arange(len(q))[:, None]
    dkeys, dvalues = (
        dx + np.where(stays, dstate[n][rows, at.s % S], 0)
        for n, dx in (("k", dkeys), ("v", dvalues))
    )
    return dq, dkeys[:, S:], dvalues[:, S:], dbias, {"k": dkeys[:, :S], "v": dvalues[:, :S]}


def attend_vjp(
    q: Array,
    keys: Array,
    values: Array,
    bias: Array | None,
    at: Tokens,
    window: AttentionForm,
    dy: Array,
) -> tuple[Array, Array, Array, Array | None]:
    """dy (B,L,Hq,D) -> dq, dkeys and dvalues (B,S+L,G,D), dbias or None.

    Clauses: GSS-ATT-9, GSS-ATT-16.
    """
    A, G, by_key = q.shape[2], keys.shape[2], at.seen.transpose(0, 2, 1)
    a = logits(q, keys, bias, at, window)
    da, dvalues = weighted_vjp(a, of_heads(values, A), at.seen, dy)
    dbias = None if bias is None else by_distance(da, at.seen, at.distance, bias)
    if window.scale == "inverse-root":
        da = over_root(da, q.shape[3])
    dq = over_seen(da, of_heads(keys, A), at.seen)
    return dq, of_groups(over_seen(by_keys(da), q, by_key), G), of_groups(dvalues, G), dbias


def by_keys(w: Array) -> Array:
    """(B,L,T,H) -> (B,T,L,H)."""
    return np.einsum("btsh->bsth", w)


def by_distance(da: Array, seen: np.ndarray, distance: np.ndarray, bias: Array) -> Array:
    """dbias (Hq,M): the sum over all that are seen and so far apart."""
    distance = np.where(seen, distance, -1)
    return np.stack([da[distance == n].sum(0) for n in range(bias.shape[1])], 1)


def attention_step(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    state: State | None = None,
    *,
    window: AttentionForm,
) -> tuple[Array, State]:
    """One token: q (B,Hq,D), k, v (B,G,D) -> y (B,Hq,D), state.

    Clauses: GSS-ATT-1..3, GSS-ATT-6..7, GSS-ATT-23, GSS-ATT-27, GSS-NFI-1.
    """
    checks.check_attention_step("attention_step", q, k, v)
    y, state = attention(q[:, None], k[:, None], v[:, None], bias, state, window=window)
    return y[:, 0], state


def attention_step_vjp(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    state: State | None,
    dy: Array,
    dstate: State,
    *,
    window: AttentionForm,
) -> tuple[Array, Array, Array, Array | None, State]:
    """dy (B,Hq,D): that of `attention` at L = 1.  Clauses: GSS-ATT-9, GSS-ATT-23."""
    checks.check_attention_step("attention_step_vjp", q, k, v)
    checks.check_shape("attention_step_vjp", "dy", dy, q.shape, "f")
    dq, dk, dv, dbias, dstate0 = attention_vjp(
        q[:, None], k[:, None], v[:, None], bias, state, dy[:, None], dstate, window=window
    )
    return dq[:, 0], dk[:, 0], dv[:, 0], dbias, dstate0
