"""Chapter 18: attention over the keys near a query, with a state of fixed size."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from refgss import checks
from refgss.config import AttentionForm
from refgss.xla import ffi
from refgss.xla.blocks import attend, blocks_of
from refgss.xla.inputs import arrays
from refgss.xla.pairs import Array
from refgss.xla.plan import Plan, resolve
from refgss.xla.window import (
    State,
    counted,
    from_last,
    handed_on,
    in_order,
    is_phase,
    of_rows,
    on_arrival,
    reach,
    zero_state,
)


def attention(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    state: State | None = None,
    *,
    window: AttentionForm,
    plan: Plan | None = None,
) -> tuple[Array, State]:
    """q (B,L,Hq,D), k, v (B,L,G,D), bias (Hq,M) or None, state or None -> y (B,L,Hq,D), state.

    The state is {"k", "v": (B,S,G,D), "t": (B,)}.  Raises ValueError where shapes disagree, or for
    a t that no state has (NaN under jit).  It has no forward-mode derivative.
    Clauses: GSS-ATT-1..3, GSS-ATT-6..8, GSS-ATT-10, GSS-ATT-11, GSS-ATT-15, GSS-ATT-17,
    GSS-ATT-25, GSS-ATT-26.
    """
    checks.check_attention("attention", q, k, v, bias, state, window)
    return attention_compiled(*arrays("attention", q, k, v, bias, state), window, resolve(plan))


@partial(jax.jit, static_argnames=("window", "plan"))
def attention_compiled(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    state: State | None,
    window: AttentionForm,
    plan: Plan,
) -> tuple[Array, State]:
    """Over the devices of the plan's axis where a piece sees keys of another, else on each."""
    (B, L, G, D), axis, fresh = k.shape, plan.length_axis, state is None
    if axis is None or not reach(L, lax.axis_size(axis), window, fresh):
        return attention_here(q, k, v, bias, state, window, plan)
    given = zero_state(B, G, D, k.dtype, window) if state is None else with_signed_time(state)
    arrived = on_arrival({"k": k, "v": v}, given, fresh, window, axis)
    y, left = attention_here(q, k, v, bias, arrived, window, plan)
    return y, from_last(left, axis)


def with_signed_time(state: State) -> State:
    """t as integers that are wide and may be negative."""
    t = state["t"]
    return {**state, "t": t.astype(jnp.promote_types(t.dtype, jnp.int32))}


def attention_here(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    state: State | None,
    window: AttentionForm,
    plan: Plan,
) -> tuple[Array, State]:
    """All that this device holds, from the state that enters."""
    start = jnp.zeros(len(k), jnp.int32)
    good = None
    if state is not None:
        start = with_signed_time(state)["t"]
        good = is_phase(start, window)
        state = {**state, "t": jnp.where(good, start, 0)}
    if plan.native and len(k):  # of no rows a state has no memory, as none has
        y, *parts = ffi.attention(q, k, v, bias, state, window)
    else:
        y, *parts = attention_in_blocks(q, k, v, bias, state, window, plan.precision)
    if good is not None:  # compiled code cannot refuse, but its results show it
        y, *parts = (jnp.where(of_rows(good[:, None]), x, jnp.nan) for x in (y, *parts))
    return y, {"k": parts[0], "v": parts[1], "t": counted(start + k.shape[1], window)}


def attention_in_blocks(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    state: State | None,
    window: AttentionForm,
    precision: str,
) -> tuple[Array, Array, Array]:
    """y, and the keys and values of the next state."""
    (B, L, heads, D), G = q.shape, k.shape[2]
    new = {"k": k, "v": v}
    blocks = blocks_of(L, window, state is None, precision)
    given = zero_state(B, G, D, k.dtype, window) if state is None else state
    start = given["t"]

    def with_earlier(part: str) -> Array:
        """(B,back + L,G,D)."""
        if state is None:
            return jnp.pad(new[part], ((0, 0), (blocks.back, 0), (0, 0), (0, 0)))
        return jnp.concatenate([in_order(given[part], start), new[part]], 1)

    y = attend(
        blocks.queries(q.reshape(B, L, G, heads // G, D)),
        with_earlier("k"),
        with_earlier("v"),
        None if bias is None else bias.reshape(G, heads // G, -1),
        jnp.zeros(1, jnp.int32) if state is None else start,
        blocks,
    )
    y = y.reshape(B, blocks.count * blocks.size, heads, D)[:, :L]
    return y, *(handed_on(given[n], x, start, start + L, window) for n, x in new.items())


def attention_step(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    state: State | None = None,
    *,
    window: AttentionForm,
    plan: Plan | None = None,
) -> tuple[Array, State]:
    """One token: q (B,Hq,D), k, v (B,G,D) -> y (B,Hq,D), state.

    Clauses: GSS-ATT-23, GSS-ATT-27.
    """
    checks.check_attention_step("attention_step", q, k, v)
    q, k, v = (x[:, None] for x in arrays("attention_step", q, k, v))
    y, state = attention(q, k, v, bias, state, window=window, plan=plan)
    return y[:, 0], state
