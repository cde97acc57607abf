"""Chapters 7 and 19 as they are written: the layers, of the ops of a backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from refgss import checks
from refgss.config import GSS, DSSConfig, GSSConfig, TransformerConfig
from refgss.torch.inputs import Tensor, eager

Params = Mapping[str, Tensor]
State = Any


def gss_layer(
    ops: Any, params: Params, x: Tensor, state: Tensor | None, config: GSSConfig
) -> tuple[Tensor, Tensor]:
    """x (B,L,E), state (B,H,N) or None -> (B,L,E), state.  Clauses: GSS-LAY-1..5."""
    if eager():
        checks.check_layer("gss_layer", params, x, state, config)
    p, eps = params, config.eps
    h = ops.layer_norm(x, p["norm.weight"], p["norm.bias"], eps=eps)
    v = ops.gelu(ops.dense(h, p["w_v"], None))  # (B,L,F), the gate
    u = ops.gelu(ops.dense(h, p["w_u"], None))  # (B,L,H)
    if config.ssm_norm:
        u = ops.layer_norm(u, p["ssm.norm.weight"], p["ssm.norm.bias"], eps=eps)
    lam = ops.gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.imag)
    s, state = ops.ssm_scan(u, lam, p["ssm.c"], state, delta=x.new_ones(()), form=GSS)
    uc = ops.dense(s + p["ssm.d"] * u, p["w_uc"], None)  # (B,L,F), linear
    return ops.dense(uc * v, p["w_o"], p.get("b_o")) + x, state


def dss_layer(
    ops: Any, params: Params, x: Tensor, state: Tensor | None, config: DSSConfig
) -> tuple[Tensor, Tensor]:
    """x (B,L,E), state (B,E,N) or None -> (B,L,E), state.  Clauses: GSS-LAY-6."""
    if eager():
        checks.check_layer("dss_layer", params, x, state, config)
    p = params
    u = ops.layer_norm(x, p["norm.weight"], p["norm.bias"], eps=config.eps)
    lam = ops.gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.imag)
    delta = p["ssm.log_delta"].exp()  # (E,) or (E,2)
    s, state = ops.ssm_scan(u, lam, p["ssm.c"], state, delta=delta, form=config.form)
    y = ops.gelu(s + p["ssm.d"] * u)
    return ops.dense(y, p["w_o"], p.get("b_o")) + x, state


def transformer_layer(
    ops: Any, params: Params, x: Tensor, state: State | None, config: TransformerConfig
) -> tuple[Tensor, State]:
    """x (B,L,E), state {"k", "v": (B,S,G,D), "t": (B,)} or None -> (B,L,E), state.

    Clauses: GSS-HYB-2..5, GSS-HYB-9..11, GSS-ATT-4.
    """
    if eager():
        checks.check_transformer("transformer_layer", params, x, state, config)
    (B, L, _), p = x.shape, params

    def norm(name: str, x: Tensor) -> Tensor:
        weight = p[f"{name}.weight"]
        if config.norm == "rms":
            return ops.rms_norm(x, weight, eps=config.eps)
        return ops.layer_norm(x, weight, p[f"{name}.bias"], eps=config.eps)

    def linear(name: str, x: Tensor) -> Tensor:
        return ops.dense(x, p[f"w_{name}"], p.get(f"b_{name}"))

    r = positions(x, state, config)
    h = norm("norm1", x)
    if config.position == "learned":
        h = h + p["position.weight"][r]
    width = p["w_q"].shape[1] // config.heads
    q, k, v = (
        linear(name, h).reshape(B, L, heads, width)
        for name, heads in (("q", config.heads), ("k", config.groups), ("v", config.groups))
    )
    if config.position.startswith("rope"):
        pairing = config.position.removeprefix("rope-")
        q, k = (ops.rope(z, r, base=config.rope_base, pairing=pairing) for z in (q, k))
    bias = distance_bias(ops, p, x, config)
    a, state = ops.attention(q, k, v, bias, state, window=config.form)
    x = linear("o", a.reshape(B, L, p["w_o"].shape[0])) + x
    h = norm("norm2", x)
    m = activation(ops, linear("1", h), config)
    return linear("2", m * linear("3", h) if config.mlp == "glu" else m) + x, state


def positions(x: Tensor, state: State | None, config: TransformerConfig) -> Tensor:
    """r (B,L): t or, under "chunk", t mod C.  Clauses: GSS-ATT-4."""
    B, L, _ = x.shape
    new = torch.arange(L, device=x.device)
    r = new.expand(B, L) if state is None else state["t"].long()[:, None] + new
    return r % config.chunk if config.visible == "chunk" else r


def distance_bias(ops: Any, p: Params, like: Tensor, config: TransformerConfig) -> Tensor | None:
    """(Hq,M) or None.  Clauses: GSS-ATT-4, GSS-ATT-5."""
    length = config.form.distances
    if config.position == "t5":
        return ops.t5_bias(p["position.table"], length)
    if config.position != "alibi":
        return None
    heads = torch.arange(1, config.heads + 1, dtype=torch.float64, device=like.device)
    slopes = 2.0 ** (-8 * heads / config.heads)
    return (-slopes[:, None] * torch.arange(length, device=like.device)).to(like.dtype)


def activation(ops: Any, x: Tensor, config: TransformerConfig) -> Tensor:
    """Of the MLP.  Clauses: GSS-HYB-3."""
    if config.mlp == "relu":
        return torch.relu(x)
    if config.mlp == "gelu-tanh":
        return torch.nn.functional.gelu(x, approximate="tanh")
    return ops.gelu(x)
