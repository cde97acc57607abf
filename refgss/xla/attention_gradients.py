"""The gradients of chapters 18 and 19: `<op>_vjp` of attention and of what stands around it.

A state's t has no gradient: cotangents of states have the parts k and v alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refgss import checks
from refgss.config import AttentionForm, TransformerConfig
from refgss.layers.states import without_integers
from refgss.xla import pointwise, positions, transformer
from refgss.xla.attention import attention
from refgss.xla.gradients import pull_back
from refgss.xla.inputs import arrays, parameters
from refgss.xla.pairs import Array
from refgss.xla.plan import Plan
from refgss.xla.window import State, zero_state

Params = Mapping[str, Array]


def rms_norm_vjp(
    x: Array, weight: Array, dy: Array, *, eps: float, plan: Plan | None = None
) -> tuple[Array, Array]:
    """dy (...,E) -> dx (...,E), dweight (E,).  Clauses: GSS-ATT-20."""
    eps = checks.check_rms_norm("rms_norm_vjp", x, weight, eps)
    return pull_back(
        "rms_norm_vjp",
        pointwise.rms_norm,
        tuple(arrays("rms_norm_vjp", x, weight)),
        cotangents={"dy": dy},
        eps=eps,
        plan=plan,
    )


def rope_vjp(r: Array, dy: Array, *, base: float, pairing: str) -> Array:
    """dy (B,L,H,D) -> dx: turned back.  Clauses: GSS-ATT-21."""
    base = checks.check_rope("rope_vjp", "dy", dy, r, base, pairing)
    r, dy = arrays("rope_vjp", r, dy)
    return positions.turned(dy, r, base, pairing, -1)


def t5_bias_vjp(table: Array, length: int, dbias: Array) -> Array:
    """dbias (H,length) -> dtable (H,32).  Clauses: GSS-ATT-22."""
    checks.check_table("t5_bias_vjp", table, length)
    return pull_back(
        "t5_bias_vjp",
        positions.t5_bias,
        tuple(arrays("t5_bias_vjp", table)),
        cotangents={"dbias": dbias},
        length=length,
    )[0]


def attention_op(
    q: Array, k: Array, v: Array, bias: Array | None, moving: State, t: Array, **options: Any
) -> tuple[Array, State]:
    y, state = attention(q, k, v, bias, {**moving, "t": t}, **options)
    return y, without_integers(state)


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
    plan: Plan | None = None,
) -> tuple[Array, Array, Array, Array | None, State]:
    """dy (B,L,Hq,D), dstate {"k", "v"} -> dq, dk, dv, dbias or None, dstate_0 {"k", "v"}.

    Clauses: GSS-ATT-9, GSS-ATT-16, GSS-ATT-19.
    """
    state = checks.check_attention("attention_vjp", q, k, v, bias, state, window)
    checks.check_attention_cotangents("attention_vjp", q, state, dy, dstate)
    (state,) = arrays("attention_vjp", state)
    return pull_back(
        "attention_vjp",
        attention_op,
        (*arrays("attention_vjp", q, k, v, bias), without_integers(state)),
        (state["t"],),
        cotangents={"dy": dy, "dstate": dstate},
        window=window,
        plan=plan,
    )


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
    plan: Plan | None = None,
) -> tuple[Array, Array, Array, Array | None, State]:
    """dy (B,Hq,D): that of `attention` at L = 1.  Clauses: GSS-ATT-9, GSS-ATT-23."""
    checks.check_attention_step("attention_step_vjp", q, k, v)
    checks.check_shape("attention_step_vjp", "dy", dy, q.shape, "f")
    q, k, v, dy = (x[:, None] for x in arrays("attention_step_vjp", q, k, v, dy))
    dq, dk, dv, dbias, dstate0 = attention_vjp(
        q, k, v, bias, state, dy, dstate, window=window, plan=plan
    )
    return dq[:, 0], dk[:, 0], dv[:, 0], dbias, dstate0


def transformer_op(
    p: Params, x: Array, moving: State, t: Array, **options: Any
) -> tuple[Array, State]:
    y, state = transformer.transformer_layer(p, x, {**moving, "t": t}, **options)
    return y, without_integers(state)


def transformer_layer_vjp(
    params: Params,
    x: Array,
    state: State | None,
    dout: Array,
    dstate: State,
    *,
    config: TransformerConfig,
    plan: Plan | None = None,
) -> tuple[dict[str, Array], Array, State]:
    """dout (B,L,E), dstate {"k", "v"} -> dparams, dx (B,L,E), dstate_0.  Clauses: GSS-HYB-7."""
    op = "transformer_layer_vjp"
    checks.check_transformer(op, params, x, state, config)
    checks.check_layer_cotangents(op, params, x, dout, dstate, config)
    p, (x, state) = parameters(op, params), arrays(op, x, state)
    if state is None:
        width = p["w_q"].shape[1] // config.heads
        state = zero_state(x.shape[0], config.groups, width, x.dtype, config.form)
    return pull_back(
        op,
        transformer_op,
        (p, x, without_integers(state)),
        (state["t"],),
        cotangents={"dout": dout, "dstate": dstate},
        config=config,
        plan=plan,
    )
