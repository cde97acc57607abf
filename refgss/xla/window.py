"""Chapter 18: which keys a query sees, and the state that holds them between calls and devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from refgss.config import AttentionForm
from refgss.xla.pairs import Array

State = Mapping[str, Array]


def visible(t: Array, s: Array, window: AttentionForm) -> Array:
    """Whether the query at t sees the key at s.  Clauses: GSS-ATT-1, GSS-ATT-2."""
    C, distance = window.chunk, t - s
    if window.visible == "strict":
        seen = (distance > 0) & (distance <= C)
    elif window.visible == "sliding":
        seen = (distance >= 0) & (distance < C)
    else:
        seen = (distance >= 0) & (t // C - s // C <= (window.visible == "look1"))
    return seen & (s >= 0)


def slots_at(t: Array, window: AttentionForm) -> Array:
    """The last token before the one at t (B,) of each slot: (B,S).  Clauses: GSS-ATT-7."""
    t = t[:, None]
    return t - 1 - (t - 1 - np.arange(window.slots)) % window.slots


def in_order(slots: Array, start: Array) -> Array:
    """(B,S,G,D), the tokens that the slots hold before the one at `start`, the oldest first."""
    S = slots.shape[1]
    return jnp.take_along_axis(slots, of_rows((start[:, None] + np.arange(S)) % S), 1)


def handed_on(slots: Array, x: Array, start: Array, end: Array, window: AttentionForm) -> Array:
    """What the token at `end` (B,) sees, each in its slot, else zeros: (B,S,G,D).

    x (B,T,G,D) are the last tokens before `end`; those before `start` are in the slots.
    Clauses: GSS-ATT-7.
    """
    S, T = window.slots, x.shape[1]
    x = x[:, max(0, T - S) :]
    s = slots_at(end, window)
    index = jnp.where(s < start[:, None], np.arange(S), S + s - (end[:, None] - x.shape[1]))
    found = jnp.take_along_axis(jnp.concatenate([slots, x], 1), of_rows(index), 1, mode="clip")
    return jnp.where(of_rows(visible(end[:, None], s, window)), found, 0)


def of_rows(index: Array) -> Array:
    return index[..., None, None]


def counted(t: Array, window: AttentionForm) -> Array:
    """t as a state has it.  Clauses: GSS-ATT-7."""
    return t % window.chunk if window.visible == "chunk" else t


def zero_state(batch: int, groups: int, width: int, dtype: Any, window: AttentionForm) -> State:
    """Before the first token.  Clauses: GSS-STA-2."""
    zeros = jnp.zeros((batch, window.slots, groups, width), dtype)
    return {"k": zeros, "v": zeros, "t": jnp.zeros(batch, jnp.int32)}


def is_phase(t: Array, window: AttentionForm) -> Array:
    """Whether t can be that of a state.  Clauses: GSS-ATT-26."""
    return (t >= 0) & ((window.visible != "chunk") | (t < window.chunk))


# --- over devices ---------------------------------------------------------------------------------


def reach(length: int, pieces: int, window: AttentionForm, fresh: bool) -> int:
    """How many tokens before its piece a device may have to see.

    With no state (`fresh`) it is known where in its chunk each piece begins.
    """
    C = window.chunk
    if window.visible in ("sliding", "strict"):
        return C - (window.visible == "sliding")
    within = max(i * length % C for i in range(pieces)) if fresh else C - 1
    return within + C * (window.visible == "look1")


def tail_before(x: Array, n: int, axis: str) -> Array:
    """The last n tokens before this device's piece x (B,L,G,D), or zeros where there are none.

    A device receives no more than it may have to see: a part of each neighbour's piece.
    """
    L, devices = x.shape[1], lax.axis_size(axis)
    parts = []
    for hop in range(1, devices):
        own = min(L, n - (hop - 1) * L)
        if own <= 0:
            break
        there = [(i, i + hop) for i in range(devices - hop)]
        parts.append(lax.ppermute(x[:, L - own :], axis, there))
    return jnp.concatenate([x[:, :0], *parts[::-1]], 1)


def on_arrival(new: State, state: State, fresh: bool, window: AttentionForm, axis: str) -> State:
    """The state with which this device's piece, k and v of `new`, begins."""
    L = new["k"].shape[1]
    start = state["t"]
    here = start + lax.axis_index(axis) * L
    n = reach(L, lax.axis_size(axis), window, fresh)
    parts = {
        part: handed_on(state[part], tail_before(x, n, axis), start, here, window)
        for part, x in new.items()
    }
    return {**parts, "t": counted(here, window)}


def from_last(state: State, axis: str) -> State:
    """The state of the last device, on all."""
    last = lax.axis_index(axis) == lax.axis_size(axis) - 1
    return {part: lax.psum(jnp.where(last, x, 0), axis) for part, x in state.items()}
