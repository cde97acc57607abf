"""Attention in C++, and what tells it positions: the contract of refgss.reference.attention.

A state is {"k", "v": (B,S,G,D), "t": (B,)}, or None.  Outputs depend neither on the number of
threads nor on how a sequence is cut into calls: pieces and steps are the whole, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from refgss import checks
from refgss.config import AttentionForm
from refgss.native import _core

State = Mapping[str, np.ndarray]

VISIBLE = {"chunk": 1, "sliding": 2, "look1": 3, "strict": 4}  # enum refgss_visible
PAIRING = {"half": 1, "interleaved": 2}  # enum refgss_pairing


def window_tuple(window: AttentionForm) -> tuple[int, int, bool]:
    """The window as `_core` takes it."""
    return window.chunk, VISIBLE[window.visible], window.scale == "one"


def state_tuple(state: State | None) -> tuple[np.ndarray, ...] | None:
    """The state as `_core` takes it."""
    return None if state is None else (state["k"], state["v"], state["t"].astype(np.int64))


def state_of(parts: tuple[np.ndarray, ...], before: State | None) -> State:
    """The next state; its integers are of the type of those before, or int32."""
    k, v, t = parts
    kind = np.int32 if before is None else np.promote_types(before["t"].dtype, np.int32)
    return {"k": k, "v": v, "t": t.astype(kind)}


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray | None,
    state: State | None = None,
    *,
    window: AttentionForm,
) -> tuple[np.ndarray, State]:
    """q (B,L,Hq,D), k, v (B,L,G,D), bias (Hq,M) or None, state or None -> y (B,L,Hq,D), state.

    Memory beyond input and output does not grow with L.
    Clauses: GSS-ATT-1..3, GSS-ATT-6..8, GSS-ATT-10..11, GSS-ATT-17, GSS-ATT-25.
    """
    checks.check_attention("attention", q, k, v, bias, state, window)
    y, after = _core.attention(q, k, v, bias, state_tuple(state), window_tuple(window))
    return y, state_of(after, state)


def attention_vjp(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray | None,
    state: State | None,
    dy: np.ndarray,
    dstate: State,
    *,
    window: AttentionForm,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, State]:
    """dy (B,L,Hq,D), dstate {"k", "v"} -> dq, dk, dv, dbias or None, dstate_0 {"k", "v"}.

    Clauses: GSS-ATT-9, GSS-ATT-16.
    """
    given = checks.check_attention("attention_vjp", q, k, v, bias, state, window)
    checks.check_attention_cotangents("attention_vjp", q, given, dy, dstate)
    return gradients(_core.attention_vjp, q, k, v, bias, state, dy, dstate, window)


def attention_step(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray | None,
    state: State | None = None,
    *,
    window: AttentionForm,
) -> tuple[np.ndarray, State]:
    """One token: q (B,Hq,D), k, v (B,G,D) -> y (B,Hq,D), state.

    Clauses: GSS-ATT-1..3, GSS-ATT-6..7, GSS-ATT-23, GSS-ATT-27.
    """
    checks.check_attention_step("attention_step", q, k, v)
    rows = q[:, None], k[:, None], v[:, None]
    checks.check_attention("attention_step", *rows, bias, state, window)
    y, after = _core.attention_step(q, k, v, bias, state_tuple(state), window_tuple(window))
    return y, state_of(after, state)


def attention_step_vjp(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray | None,
    state: State | None,
    dy: np.ndarray,
    dstate: State,
    *,
    window: AttentionForm,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, State]:
    """dy (B,Hq,D): that of `attention` at L = 1.  Clauses: GSS-ATT-9, GSS-ATT-23."""
    checks.check_attention_step("attention_step_vjp", q, k, v)
    rows = q[:, None], k[:, None], v[:, None]
    given = checks.check_attention("attention_step_vjp", *rows, bias, state, window)
    checks.check_shape("attention_step_vjp", "dy", dy, q.shape, "f")
    checks.check_attention_cotangents("attention_step_vjp", q[:, None], given, dy[:, None], dstate)
    return gradients(_core.attention_step_vjp, q, k, v, bias, state, dy, dstate, window)


def gradients(
    op: Any,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray | None,
    state: State | None,
    dy: np.ndarray,
    dstate: State,
    window: AttentionForm,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, State]:
    cotangents = dy, dstate["k"], dstate["v"]
    found = op(q, k, v, bias, state_tuple(state), *cotangents, window_tuple(window))
    dq, dk, dv, dbias, dstate0_k, dstate0_v = found
    return dq, dk, dv, dbias, {"k": dstate0_k, "v": dstate0_v}


def rope(x: np.ndarray, r: np.ndarray, *, base: float, pairing: str) -> np.ndarray:
    """x (B,L,H,D), each pair turned by r·base^(-2i/D); r (B,L).  Clauses: GSS-ATT-13..14."""
    base = checks.check_rope("rope", "x", x, r, base, pairing)
    return _core.rope(x, r.astype(np.int64), base, PAIRING[pairing], False)


def rope_vjp(r: np.ndarray, dy: np.ndarray, *, base: float, pairing: str) -> np.ndarray:
    """dy (B,L,H,D) -> dx: turned back.  Clauses: GSS-ATT-14, GSS-ATT-21."""
    base = checks.check_rope("rope_vjp", "dy", dy, r, base, pairing)
    return _core.rope(dy, r.astype(np.int64), base, PAIRING[pairing], True)


def t5_bias(table: np.ndarray, length: int) -> np.ndarray:
    """table (H,32) -> bias (H,length): that of the bucket of each distance.  Clauses: GSS-ATT-5."""
    checks.check_table("t5_bias", table, length)
    return _core.t5_bias(table, length)


def t5_bias_vjp(table: np.ndarray, length: int, dbias: np.ndarray) -> np.ndarray:
    """dbias (H,length) -> dtable (H,32).  Clauses: GSS-ATT-22."""
    checks.check_table("t5_bias_vjp", table, length)
    checks.check_shape("t5_bias_vjp", "dbias", dbias, (table.shape[0], length), "f")
    return _core.t5_bias_vjp(dbias)
