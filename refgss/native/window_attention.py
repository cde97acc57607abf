"""Attention to a window, and to or from a state, in C++: the contract of
refgss.reference.window_attention.

A state is {"k", "v": (B,W,H,D)}, the last W keys and values, oldest first; or None, which is zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from refgss import checks
from refgss.native import _core

State = Mapping[str, np.ndarray]


def window_attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray | None,
    scale: np.ndarray | None,
    state: State | None = None,
    *,
    window: int,
) -> tuple[np.ndarray, State]:
    """q, k, v (B,L,H,D), bias (H,M) or None, scale (H,) or None, state -> y (B,L,H,D), state.

    Memory beyond input and output does not grow with L.
    Clauses: GSS-BRT-4, GSS-BRT-6..7.
    """
    checks.check_window_attention("window_attention", q, k, v, bias, scale, state, window)
    parts = (None, None) if state is None else (state["k"], state["v"])
    y, after_k, after_v = _core.window_attention(q, k, v, bias, scale, *parts, window)
    return y, {"k": after_k, "v": after_v}


def window_attention_vjp(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray | None,
    scale: np.ndarray | None,
    state: State | None,
    dy: np.ndarray,
    dstate: State,
    *,
    window: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None, State]:
    """dy (B,L,H,D), dstate {"k", "v"} -> dq, dk, dv, dbias, dscale (or None), dstate_0.

    Clauses: GSS-BRT-20.
    """
    op = "window_attention_vjp"
    given = checks.check_window_attention(op, q, k, v, bias, scale, state, window)
    checks.check_attention_cotangents(op, q, given, dy, dstate)
    parts = (None, None) if state is None else (state["k"], state["v"])
    cotangents = dy, dstate["k"], dstate["v"]
    found = _core.window_attention_vjp(q, k, v, bias, scale, *parts, *cotangents, window)
    return *found[:5], {"k": found[5], "v": found[6]}


def state_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: np.ndarray | None
) -> np.ndarray:
    """q (B,T,H,D), k, v (B,M,H,D), scale (H,) or None -> (B,T,H,D).

    Clauses: GSS-BRT-4, GSS-BRT-9.
    """
    checks.check_state_attention("state_attention", q, k, v, scale)
    return _core.state_attention(q, k, v, scale)


def state_attention_vjp(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: np.ndarray | None, dy: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """dy (B,T,H,D) -> dq, dk, dv, dscale or None.  Clauses: GSS-BRT-20."""
    checks.check_state_attention("state_attention_vjp", q, k, v, scale)
    checks.check_shape("state_attention_vjp", "dy", dy, q.shape, "f")
    return _core.state_attention_vjp(q, k, v, scale, dy)
