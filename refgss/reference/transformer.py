"""Chapter 19: the transformer layer of the hybrid: local attention and an MLP, each after a norm.

Parameters: norm1.weight, [norm1.bias] (E,); w_q (E,Hq·D), w_k, w_v (E,G·D), w_o (Hq·D,E); [b_q,
b_k, b_v, b_o]; [position.table (Hq,32) | position.weight (positions,E)]; norm2.weight, [norm2.bias]
(E,); w_1 (E,M), w_2 (M,E), [w_3 (E,M)]; [b_1, b_2, b_3].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from refgss import checks
from refgss.config import BlockRecurrentConfig, TransformerConfig
from refgss.reference.attention import (
    State,
    attention,
    attention_vjp,
    rope,
    rope_vjp,
    t5_bias,
    t5_bias_vjp,
)
from refgss.reference.elementary import Array, alibi, normal_cdf_tanh, normal_pdf_tanh
from refgss.reference.pointwise import (
    dense,
    dense_vjp,
    gelu,
    gelu_vjp,
    layer_norm,
    layer_norm_vjp,
    rms_norm,
    rms_norm_vjp,
)

Params = Mapping[str, Array]


class TransformerForward(NamedTuple):
    """All that a transformer layer computes on its way.  Clauses: GSS-CNF-10."""

    r: np.ndarray  # (B,L) integers, the position of each token
    h: Array  # (B,L,E), what queries, keys and values are made of
    q: Array  # (B,L,Hq,D), after rope
    k: Array  # (B,L,G,D), after rope
    v: Array  # (B,L,G,D)
    bias: Array | None  # (Hq,M)
    a: Array  # (B,L,Hq·D)
    x1: Array  # (B,L,E)
    h2: Array  # (B,L,E)
    m_in: Array  # (B,L,M)
    gate: Array | None  # (B,L,M), of a gated MLP
    m: Array  # (B,L,M)
    out: Array  # (B,L,E)
    state: State


def transformer_forward(
    p: Params, x: Array, state: State | None, config: TransformerConfig
) -> TransformerForward:
    """x (B,L,E), state or None.  Clauses: GSS-HYB-2, GSS-HYB-5, GSS-HYB-11."""
    B, L, _ = x.shape
    r = positions(B, L, state, config)
    h = norm("norm1", p, x, config)
    if config.position == "learned":
        h = h + p["position.weight"][r]
    q, k, v = (
        dense(h, p[f"w_{name}"], p.get(f"b_{name}")).reshape(B, L, heads, width(p, config))
        for name, heads in (("q", config.heads), ("k", config.groups), ("v", config.groups))
    )
    if config.position.startswith("rope"):
        q, k = (rope(z, r, base=config.rope_base, pairing=pairing(config)) for z in (q, k))
    bias = distance_bias(p, x, config)
    y, state = attention(q, k, v, bias, state, window=config.form)
    a = y.reshape(B, L, p["w_o"].shape[0])
    x1 = dense(a, p["w_o"], p.get("b_o")) + x
    h2 = norm("norm2", p, x1, config)
    m_in = dense(h2, p["w_1"], p.get("b_1"))
    gate = dense(h2, p["w_3"], p.get("b_3")) if config.mlp == "glu" else None
    m = activation(m_in, config) if gate is None else activation(m_in, config) * gate
    out = dense(m, p["w_2"], p.get("b_2")) + x1
    return TransformerForward(r, h, q, k, v, bias, a, x1, h2, m_in, gate, m, out, state)


def transformer_layer(
    params: Params, x: Array, state: State | None = None, *, config: TransformerConfig
) -> tuple[Array, State]:
    """x (B,L,E), state {"k", "v": (B,S,G,D), "t": (B,)} or None -> (B,L,E), state.

    Raises ValueError where a token is beyond the learned positions.
    Clauses: GSS-HYB-2..5, GSS-HYB-9..11, GSS-ATT-4, GSS-ATT-7..8, GSS-NFI-1.
    """
    checks.check_transformer("transformer_layer", params, x, state, config)
    f = transformer_forward(params, x, state, config)
    return f.out, f.state


def transformer_layer_vjp(
    params: Params,
    x: Array,
    state: State | None,
    dout: Array,
    dstate: State,
    *,
    config: TransformerConfig,
) -> tuple[dict[str, Array], Array, State]:
    """dout (B,L,E), dstate {"k", "v"} -> dparams, dx (B,L,E), dstate_0.  Clauses: GSS-HYB-7."""
    checks.check_transformer("transformer_layer_vjp", params, x, state, config)
    checks.check_layer_cotangents("transformer_layer_vjp", params, x, dout, dstate, config)
    p, f = params, transformer_forward(params, x, state, config)
    g: dict[str, Array] = {}
    dm = dense_back("2", p, f.m, dout, g)
    dm_in = activation_vjp(f.m_in, dm if f.gate is None else dm * f.gate, config)
    dh2 = dense_back("1", p, f.h2, dm_in, g)
    if f.gate is not None:
        dh2 = dh2 + dense_back("3", p, f.h2, dm * activation(f.m_in, config), g)
    dx1 = norm_back("norm2", p, f.x1, dh2, config, g) + dout
    dy = dense_back("o", p, f.a, dx1, g).reshape(*f.q.shape)
    dq, dk, dv, dbias, dstate0 = attention_vjp(
        f.q, f.k, f.v, f.bias, state, dy, dstate, window=config.form
    )
    if config.position.startswith("rope"):
        base, pairs = config.rope_base, pairing(config)
        dq, dk = (rope_vjp(f.r, dz, base=base, pairing=pairs) for dz in (dq, dk))
    if config.position == "t5":
        g["position.table"] = t5_bias_vjp(p["position.table"], config.form.distances, dbias)
    dq, dk, dv = (dz.reshape(*x.shape[:2], dz.shape[2] * dz.shape[3]) for dz in (dq, dk, dv))
    dh = dense_back("q", p, f.h, dq, g) + dense_back("k", p, f.h, dk, g)
    dh = dh + dense_back("v", p, f.h, dv, g)
    if config.position == "learned":
        g["position.weight"] = np.stack([dh[f.r == n].sum(0) for n in range(config.rows)])
    return g, norm_back("norm1", p, x, dh, config, g) + dx1, dstate0


# --- positions ------------------------------------------------------------------------------------


def positions(B: int, L: int, state: State | None, config: TransformerConfig) -> np.ndarray:
    """r (B,L), t or, under "chunk", t mod C.  Clauses: GSS-ATT-4."""
    start = np.zeros(B, np.int64) if state is None else state["t"].astype(np.int64)
    r = start[:, None] + np.arange(L)
    return r % config.chunk if config.visible == "chunk" else r


def width(p: Params, config: TransformerConfig) -> int:
    """D, of a head."""
    return p["w_q"].shape[1] // config.heads


def pairing(config: TransformerConfig) -> str:
    return config.position.removeprefix("rope-")


def distance_bias(p: Params, like: Array, config: TransformerConfig) -> Array | None:
    """(Hq,M) or None.  Clauses: GSS-ATT-4, GSS-ATT-5."""
    if config.position == "t5":
        return t5_bias(p["position.table"], config.form.distances)
    return alibi(like, config.heads, config.form.distances) if config.position == "alibi" else None


# --- the parts of a layer, each beside its gradient -----------------------------------------------


def norm(name: str, p: Params, x: Array, config: TransformerConfig) -> Array:
    """Clauses: GSS-HYB-4."""
    weight = p[f"{name}.weight"]
    if config.norm == "rms":
        return rms_norm(x, weight, eps=config.eps)
    return layer_norm(x, weight, p[f"{name}.bias"], eps=config.eps)


def norm_back(
    name: str, p: Params, x: Array, dy: Array, config: TransformerConfig, g: dict[str, Array]
) -> Array:
    """dx; the gradients of the norm's parameters are added to g."""
    weight = p[f"{name}.weight"]
    if config.norm == "rms":
        dx, g[f"{name}.weight"] = rms_norm_vjp(x, weight, dy, eps=config.eps)
        return dx
    bias = p[f"{name}.bias"]
    dx, g[f"{name}.weight"], g[f"{name}.bias"] = layer_norm_vjp(x, weight, bias, dy, eps=config.eps)
    return dx


def dense_back(name: str, p: Params, x: Array, dy: Array, g: dict[str, Array]) -> Array:
    """dx; the gradients of w_name and b_name are added to g."""
    dx, g[f"w_{name}"], db = dense_vjp(x, p[f"w_{name}"], p.get(f"b_{name}"), dy)
    if db is not None:
        g[f"b_{name}"] = db
    return dx


def activation(x: Array, config: TransformerConfig | BlockRecurrentConfig) -> Array:
    """Of the MLP.  Clauses: GSS-HYB-3."""
    if config.mlp == "relu":
        return np.maximum(x, 0)
    return x * normal_cdf_tanh(x) if config.mlp == "gelu-tanh" else gelu(x)


def activation_vjp(x: Array, dy: Array, config: TransformerConfig | BlockRecurrentConfig) -> Array:
    if config.mlp == "relu":
        return np.where(x > 0, dy, 0)
    if config.mlp == "gelu-tanh":
        return (normal_cdf_tanh(x) + x * normal_pdf_tanh(x)) * dy
    return gelu_vjp(x, dy)
