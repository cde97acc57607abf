"""Chapter 8: the language model and its loss.

Parameters: embedding.weight (V,E); layers.{i}.<name> for each layer; with final_norm, norm.weight
and norm.bias (E,); without tied, head.weight (E,V).  The state stacks those of the layers,
(depth,B,H,N).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from refgss import checks
from refgss.config import GSSConfig, LMConfig
from refgss.reference.elementary import Array
from refgss.reference.layers import dss_layer, dss_layer_vjp, gss_layer, gss_layer_vjp
from refgss.reference.pointwise import dense, dense_vjp, layer_norm, layer_norm_vjp

Params = Mapping[str, Array]


def of_layer(params: Params, i: int) -> dict[str, Array]:
    """The parameters of layer i under its own names."""
    prefix = f"layers.{i}."
    return {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}


def head_weight(params: Params, config: LMConfig) -> Array:
    """(E,V): the head, or the transposed embedding."""
    return params["embedding.weight"].T if config.tied else params["head.weight"]


def hidden_states(
    params: Params, tokens: Array, state: Array | None, config: LMConfig
) -> tuple[list[Array], list[Array]]:
    """The input of every layer and the output of the last, depth + 1 of (B,L,E); the states."""
    layer: Any = gss_layer if isinstance(config.layer, GSSConfig) else dss_layer
    xs, states = [params["embedding.weight"][tokens]], []
    for i in range(config.depth):
        x, s = layer(
            of_layer(params, i), xs[-1], None if state is None else state[i], config=config.layer
        )
        xs.append(x)
        states.append(s)
    return xs, states


def lm_logits(
    params: Params, tokens: Array, state: Array | None = None, *, config: LMConfig
) -> tuple[Array, Array]:
    """tokens (B,L) int, state (depth,B,H,N) or None -> logits (B,L,V), state.

    Clauses: GSS-LM-1..3, GSS-LM-6, GSS-LAY-8, GSS-STA-3..4.
    """
    checks.check_language_model("lm_logits", params, tokens, state, config)
    xs, states = hidden_states(params, tokens, state, config)
    x = xs[-1]
    if config.final_norm:
        x = layer_norm(x, params["norm.weight"], params["norm.bias"], eps=config.layer.eps)
    return dense(x, head_weight(params, config)), np.stack(states)


def lm_logits_vjp(
    params: Params,
    tokens: Array,
    state: Array | None,
    dlogits: Array,
    dstate: Array,
    *,
    config: LMConfig,
) -> tuple[dict[str, Array], Array]:
    """dlogits (B,L,V), dstate (depth,B,H,N) -> dparams, dstate_0.  Clauses: GSS-GRD-11."""
    checks.check_language_model("lm_logits_vjp", params, tokens, state, config)
    layer_vjp: Any = gss_layer_vjp if isinstance(config.layer, GSSConfig) else dss_layer_vjp
    xs, states = hidden_states(params, tokens, state, config)
    head = head_weight(params, config)
    shapes = (*tokens.shape, head.shape[1]), (config.depth, *states[0].shape)
    checks.check_shape("lm_logits_vjp", "dlogits", dlogits, shapes[0], "f")
    checks.check_shape("lm_logits_vjp", "dstate", dstate, shapes[1], "c")
    g: dict[str, Array] = {}
    x = xs[-1]
    if config.final_norm:
        x = layer_norm(x, params["norm.weight"], params["norm.bias"], eps=config.layer.eps)
    dx, dhead, _ = dense_vjp(x, head, None, dlogits)
    if config.final_norm:
        dx, g["norm.weight"], g["norm.bias"] = layer_norm_vjp(
            xs[-1], params["norm.weight"], params["norm.bias"], dx, eps=config.layer.eps
        )
    dstates: list[Array] = []
    for i in reversed(range(config.depth)):
        dlayer, dx, ds = layer_vjp(
            of_layer(params, i),
            xs[i],
            None if state is None else state[i],
            dx,
            dstate[i],
            config=config.layer,
        )
        g |= {f"layers.{i}.{k}": v for k, v in dlayer.items()}
        dstates.insert(0, ds)
    one_hot = np.eye(params["embedding.weight"].shape[0])[tokens].astype(dx.dtype)  # (B,L,V)
    g["embedding.weight"] = np.einsum("blv,ble->ve", one_hot, dx)
    if config.tied:
        g["embedding.weight"] = g["embedding.weight"] + dhead.T
    else:
        g["head.weight"] = dhead
    return g, np.stack(dstates)


def log_softmax(logits: Array) -> Array:
    """logits - log Σ_v e^logits (B,L,V), the largest factored out.  Clauses: GSS-LM-5."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def lm_loss(
    params: Params, tokens: Array, targets: Array, state: Array | None = None, *, config: LMConfig
) -> Array:
    """Mean negative log-likelihood of targets (B,L) int, in nats: a scalar.

    Clauses: GSS-LM-4..6, GSS-NFI-4.
    """
    checks.check_targets("lm_loss", params, tokens, targets)
    logp = log_softmax(lm_logits(params, tokens, state, config=config)[0])
    one_hot = np.eye(logp.shape[-1])[targets].astype(logp.dtype)  # (B,L,V)
    return -(one_hot * logp).sum() / targets.size


def lm_loss_vjp(
    params: Params,
    tokens: Array,
    targets: Array,
    state: Array | None,
    dloss: Array,
    *,
    config: LMConfig,
) -> tuple[dict[str, Array], Array]:
    """dloss scalar -> dparams, dstate_0: dlogits = (softmax - one-hot) dloss/(B L).

    Clauses: GSS-GRD-12.
    """
    checks.check_targets("lm_loss_vjp", params, tokens, targets)
    checks.check_shape("lm_loss_vjp", "dloss", dloss, (), "f")
    logits, states = lm_logits(params, tokens, state, config=config)
    one_hot = np.eye(logits.shape[-1])[targets].astype(logits.dtype)
    dlogits = (np.exp(log_softmax(logits)) - one_hot) * (dloss / targets.size)
    return lm_logits_vjp(params, tokens, state, dlogits, np.zeros_like(states), config=config)
