"""Chapter 8 as it is written: the language model and its loss, of the ops of a backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from refgss import checks
from refgss.config import LMConfig
from refgss.layers import kind_of, of_layer
from refgss.layers.states import bundled
from refgss.torch.inputs import Tensor, eager

Params = Mapping[str, Tensor]
State = Any


def lm_logits(
    ops: Any, params: Params, tokens: Tensor, state: State | None, config: LMConfig
) -> tuple[Tensor, State]:
    """tokens (B,L) int, state (depth,B,H,N) or a tuple, or None -> logits (B,L,V), state.

    Clauses: GSS-LM-1..3, GSS-LM-6, GSS-STA-3, GSS-HYB-6.
    """
    if eager():
        checks.check_language_model("lm_logits", params, tokens, state, config)
    x, states = functional.embedding(tokens.long(), params["embedding.weight"]), []
    for i, layer in enumerate(config.layers):
        op = getattr(ops, kind_of(layer).OP, None)
        if op is None:
            raise NotImplementedError(f"refgss.torch has no {kind_of(layer).OP}")
        x, after = op(of_layer(params, i), x, None if state is None else state[i], config=layer)
        states.append(after)
    if config.final_norm:
        x = ops.layer_norm(x, params["norm.weight"], params["norm.bias"], eps=config.eps)
    head = params["embedding.weight"].T if config.tied else params["head.weight"]
    return ops.dense(x, head, None), bundled(states, lambda own: torch.stack(list(own)))


def lm_loss(
    ops: Any,
    params: Params,
    tokens: Tensor,
    targets: Tensor,
    state: State | None,
    config: LMConfig,
) -> Tensor:
    """Mean negative log-likelihood of targets (B,L) int, in nats: a scalar.

    Clauses: GSS-LM-4..6.
    """
    if eager():
        checks.check_targets("lm_loss", params, tokens, targets)
    logits, _ = lm_logits(ops, params, tokens, state, config)
    return functional.cross_entropy(logits.flatten(0, 1), targets.long().flatten())
