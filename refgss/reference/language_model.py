"""Chapter 8: the language model and its loss.

Parameters: embedding.weight (V,E); layers.{i}.<name> for each layer; with final_norm, norm.weight
and norm.bias (E,); without tied, head.weight (E,V).  The state is that of the layers, stacked where
they are arrays of one shape, (depth,B,H,N), else a tuple.

The text is the same over the ops of any backend, which it takes as `ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from refgss import checks
from refgss.config import LMConfig
from refgss.layers import of_layer
from refgss.layers.states import State, bundled, mapped, without_integers
from refgss.reference.elementary import Array
from refgss.reference.layers import LAYERS, LayerOps
from refgss.reference.pointwise import dense, dense_vjp, layer_norm, layer_norm_vjp

Params = Mapping[str, Array]


class ModelOps(NamedTuple):
    """The ops that a language model is made of, as one backend computes them."""

    layers: Mapping[type, LayerOps]  # by the type of a layer's options
    dense: Callable[..., Any]
    dense_vjp: Callable[..., Any]
    layer_norm: Callable[..., Any]
    layer_norm_vjp: Callable[..., Any]


OPS = ModelOps(LAYERS, dense, dense_vjp, layer_norm, layer_norm_vjp)


def head_weight(params: Params, config: LMConfig) -> Array:
    """(E,V): the head, or the transposed embedding.  Clauses: GSS-LM-3."""
    return params["embedding.weight"].T if config.tied else params["head.weight"]


def hidden_states(
    params: Params, tokens: Array, state: State | None, config: LMConfig, ops: ModelOps
) -> tuple[list[Array], list[State]]:
    """The input of every layer and the output of the last, depth + 1 of (B,L,E); the states.

    Clauses: GSS-LM-1, GSS-LM-2, GSS-STA-3.
    """
    xs, states = [params["embedding.weight"][tokens]], []
    for i, layer in enumerate(config.layers):
        given = None if state is None else state[i]
        x, s = ops.layers[type(layer)].forward(of_layer(params, i), xs[-1], given, config=layer)
        xs.append(x)
        states.append(s)
    return xs, states


def lm_logits(
    params: Params,
    tokens: Array,
    state: State | None = None,
    *,
    config: LMConfig,
    ops: ModelOps = OPS,
) -> tuple[Array, State]:
    """tokens (B,L) int, state (depth,B,H,N) or a tuple, or None -> logits (B,L,V), state.

    Clauses: GSS-LM-1..3, GSS-LM-6, GSS-LAY-8, GSS-STA-3..4, GSS-HYB-1, GSS-HYB-6, GSS-HYB-8.
    """
    checks.check_language_model("lm_logits", params, tokens, state, config)
    xs, states = hidden_states(params, tokens, state, config, ops)
    x = xs[-1]
    if config.final_norm:
        x = ops.layer_norm(x, params["norm.weight"], params["norm.bias"], eps=config.eps)
    return ops.dense(x, head_weight(params, config)), bundled(states)


def lm_logits_vjp(
    params: Params,
    tokens: Array,
    state: State | None,
    dlogits: Array,
    dstate: State,
    *,
    config: LMConfig,
    ops: ModelOps = OPS,
) -> tuple[dict[str, Array], State]:
    """dlogits (B,L,V), dstate -> dparams, dstate_0.  Clauses: GSS-GRD-11, GSS-HYB-8."""
    checks.check_language_model("lm_logits_vjp", params, tokens, state, config)
    xs, _ = hidden_states(params, tokens, state, config, ops)
    head = head_weight(params, config)
    checks.check_shape("lm_logits_vjp", "dlogits", dlogits, (*tokens.shape, head.shape[1]), "f")
    checks.check_depth("lm_logits_vjp", "dstate", dstate, config.depth)
    g: dict[str, Array] = {}
    x = xs[-1]
    if config.final_norm:
        x = ops.layer_norm(x, params["norm.weight"], params["norm.bias"], eps=config.eps)
    dx, dhead, _ = ops.dense_vjp(x, head, None, dlogits)
    if config.final_norm:
        dx, g["norm.weight"], g["norm.bias"] = ops.layer_norm_vjp(
            xs[-1], params["norm.weight"], params["norm.bias"], dx, eps=config.eps
        )
    dstates: list[State] = []
    for i, layer in reversed(list(enumerate(config.layers))):
        dlayer, dx, ds = ops.layers[type(layer)].vjp(
            of_layer(params, i),
            xs[i],
            None if state is None else state[i],
            dx,
            dstate[i],
            config=layer,
        )
        g |= {f"layers.{i}.{k}": v for k, v in dlayer.items()}
        dstates.insert(0, ds)
    one_hot = np.eye(params["embedding.weight"].shape[0])[tokens].astype(dx.dtype)  # (B,L,V)
    g["embedding.weight"] = np.einsum("blv,ble->ve", one_hot, dx)
    if config.tied:
        g["embedding.weight"] = g["embedding.weight"] + dhead.T
    else:
        g["head.weight"] = dhead
    return g, bundled(dstates)


def log_softmax(logits: Array) -> Array:
    """logits - log Σ_v e^logits (B,L,V), the largest factored out.  Clauses: GSS-LM-4, GSS-LM-5."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def lm_loss(
    params: Params,
    tokens: Array,
    targets: Array,
    state: State | None = None,
    *,
    config: LMConfig,
    ops: ModelOps = OPS,
) -> Array:
    """Mean negative log-likelihood of targets (B,L) int, in nats: a scalar.

    Clauses: GSS-LM-4..6, GSS-NFI-4.
    """
    checks.check_targets("lm_loss", params, tokens, targets)
    logp = log_softmax(lm_logits(params, tokens, state, config=config, ops=ops)[0])
    one_hot = np.eye(logp.shape[-1])[targets].astype(logp.dtype)  # (B,L,V)
    return -(one_hot * logp).sum() / targets.size


def lm_loss_vjp(
    params: Params,
    tokens: Array,
    targets: Array,
    state: State | None,
    dloss: Array,
    *,
    config: LMConfig,
    ops: ModelOps = OPS,
) -> tuple[dict[str, Array], State]:
    """dloss scalar -> dparams, dstate_0: dlogits = (softmax - one-hot) dloss/(B L).

    Clauses: GSS-GRD-12.
    """
    checks.check_targets("lm_loss_vjp", params, tokens, targets)
    dloss = checks.as_scalar("lm_loss_vjp", "dloss", dloss, params["embedding.weight"])
    checks.check_shape("lm_loss_vjp", "dloss", dloss, (), "f")
    logits, states = lm_logits(params, tokens, state, config=config, ops=ops)
    one_hot = np.eye(logits.shape[-1])[targets].astype(logits.dtype)
    dlogits = (np.exp(log_softmax(logits)) - one_hot) * (dloss / targets.size)
    dstates = mapped(np.zeros_like, without_integers(states))
    return lm_logits_vjp(params, tokens, state, dlogits, dstates, config=config, ops=ops)
