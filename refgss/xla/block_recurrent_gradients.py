"""The gradients of chapter 20: `<op>_vjp` of the block-recurrent layer and its parts.

A state's t has no gradient: cotangents of states have the other parts alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refgss import checks
from refgss.config import BlockRecurrentConfig
from refgss.layers.states import without_integers
from refgss.xla import block_recurrent, pointwise, window_attention
from refgss.xla.gradients import pull_back
from refgss.xla.inputs import arrays, parameters
from refgss.xla.pairs import Array
from refgss.xla.plan import Plan

Params = Mapping[str, Array]
State = Mapping[str, Array]


def l2_normalize_vjp(x: Array, dy: Array, *, eps: float) -> Array:
    """dy (...,D) -> dx (...,D).  Clauses: GSS-BRT-20."""
    eps = checks.check_l2_normalize("l2_normalize_vjp", x, eps)
    return pull_back(
        "l2_normalize_vjp",
        pointwise.l2_normalize,
        tuple(arrays("l2_normalize_vjp", x)),
        cotangents={"dy": dy},
        eps=eps,
    )[0]


def gate_vjp(
    s: Array, z: Array, f: Array, i: Array | None, dout: Array, *, kind: str
) -> tuple[Array, Array, Array, Array | None]:
    """dout (...,E) -> ds, dz (...,E), df of the shape of f, di or None.  Clauses: GSS-BRT-20."""
    checks.check_gate("gate_vjp", s, z, f, i, kind)
    return pull_back(
        "gate_vjp",
        pointwise.gate,
        tuple(arrays("gate_vjp", s, z, f, i)),
        cotangents={"dout": dout},
        kind=kind,
    )


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
    plan: Plan | None = None,
) -> tuple[Array, Array, Array, Array | None, Array | None, State]:
    """dy (B,L,H,D), dstate {"k", "v"} -> dq, dk, dv, dbias, dscale (or None), dstate_0.

    Clauses: GSS-BRT-20.
    """
    op = "window_attention_vjp"
    state = checks.check_window_attention(op, q, k, v, bias, scale, state, window)
    checks.check_attention_cotangents(op, q, state, dy, dstate)
    return pull_back(
        op,
        window_attention.window_attention,
        tuple(arrays(op, q, k, v, bias, scale, state)),
        cotangents={"dy": dy, "dstate": dstate},
        window=window,
        plan=plan,
    )


def state_attention_vjp(
    q: Array, k: Array, v: Array, scale: Array | None, dy: Array, *, plan: Plan | None = None
) -> tuple[Array, Array, Array, Array | None]:
    """dy (B,T,H,D) -> dq, dk, dv, dscale or None.  Clauses: GSS-BRT-20."""
    op = "state_attention_vjp"
    checks.check_state_attention(op, q, k, v, scale)
    return pull_back(
        op,
        window_attention.state_attention,
        tuple(arrays(op, q, k, v, scale)),
        cotangents={"dy": dy},
        plan=plan,
    )


def layer_op(p: Params, x: Array, moving: State, t: Array, **options: Any) -> tuple[Array, State]:
    y, state = block_recurrent.block_recurrent_layer(p, x, {**moving, "t": t}, **options)
    return y, without_integers(state)


def block_recurrent_layer_vjp(
    params: Params,
    x: Array,
    state: State | None,
    dout: Array,
    dstate: State,
    *,
    config: BlockRecurrentConfig,
    plan: Plan | None = None,
) -> tuple[dict[str, Array], Array, State]:
    """dout (B,L,E), dstate {"s", "k", "v"} -> dparams, dx (B,L,E), dstate_0.

    A row that begins gives the gradient of its state to state.initial.
    Clauses: GSS-BRT-18, GSS-BRT-20.
    """
    op = "block_recurrent_layer_vjp"
    state = checks.check_block_recurrent(op, params, x, state, config)
    checks.check_layer_cotangents(op, params, x, dout, dstate, config)
    p, (x, state) = parameters(op, params), arrays(op, x, state)
    return pull_back(
        op,
        layer_op,
        (p, x, without_integers(state)),
        (state["t"],),
        cotangents={"dout": dout, "dstate": dstate},
        config=config,
        plan=plan,
    )


def block_recurrent_step_vjp(
    params: Params,
    x: Array,
    state: State | None,
    dout: Array,
    dstate: State,
    *,
    config: BlockRecurrentConfig,
    plan: Plan | None = None,
) -> tuple[dict[str, Array], Array, State]:
    """dout (B,E): that of the layer at L = 1.  Clauses: GSS-BRT-18, GSS-BRT-20."""
    checks.check_rank("block_recurrent_step_vjp", "x", x, "B,E", "f")
    checks.check_shape("block_recurrent_step_vjp", "dout", dout, x.shape, "f")
    x, dout = (z[:, None] for z in arrays("block_recurrent_step_vjp", x, dout))
    g, dx, dstate0 = block_recurrent_layer_vjp(
        params, x, state, dout, dstate, config=config, plan=plan
    )
    return g, dx[:, 0], dstate0
