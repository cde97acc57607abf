"""Chapter 8: the language model and its loss, with one compiled layer for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from refgss import checks
from refgss.config import GSSConfig, LMConfig
from refgss.xla.inputs import arrays, parameters
from refgss.xla.layers import dss_layer, gss_layer
from refgss.xla.pairs import Array
from refgss.xla.plan import Plan, resolve
from refgss.xla.pointwise import dense, layer_norm

Params = Mapping[str, Array]


def stacked_layers(params: Params, depth: int) -> dict[str, Array]:
    """layers.{i}.NAME as NAME (depth, ...): what a scan over the layers takes apart again."""
    names = [k.removeprefix("layers.0.") for k in params if k.startswith("layers.0.")]
    return {k: jnp.stack([params[f"layers.{i}.{k}"] for i in range(depth)]) for k in names}


def hidden_states(
    params: Params, tokens: Array, state: Array | None, config: LMConfig, plan: Plan
) -> tuple[Array, Array]:
    """The output of the last layer (B,L,E), and the states (depth,B,H,N)."""
    layer: Any = gss_layer if isinstance(config.layer, GSSConfig) else dss_layer

    def body(x: Array, of_layer: tuple[Params, Array | None]) -> tuple[Array, Array]:
        return layer(of_layer[0], x, of_layer[1], config=config.layer, plan=plan)

    x = params["embedding.weight"][tokens]
    return lax.scan(body, x, (stacked_layers(params, config.depth), state))


def lm_logits(
    params: Params,
    tokens: Array,
    state: Array | None = None,
    *,
    config: LMConfig,
    plan: Plan | None = None,
) -> tuple[Array, Array]:
    """tokens (B,L) int, state (depth,B,H,N) or None -> logits (B,L,V), state.

    Clauses: GSS-LM-1, GSS-LM-2, GSS-LM-3, GSS-STA-3.
    """
    checks.check_language_model("lm_logits", params, tokens, state, config)
    p, tensors = parameters("lm_logits", params), arrays("lm_logits", tokens, state)
    return logits_compiled(p, *tensors, config, resolve(plan))


@partial(jax.jit, static_argnames=("config", "plan"))
def logits_compiled(
    p: Params, tokens: Array, state: Array | None, config: LMConfig, plan: Plan
) -> tuple[Array, Array]:
    x, state = hidden_states(p, tokens, state, config, plan)
    if config.final_norm:
        x = layer_norm(x, p["norm.weight"], p["norm.bias"], eps=config.layer.eps, plan=plan)
    head = p["embedding.weight"].T if config.tied else p["head.weight"]
    return dense(x, head, plan=plan), state


def lm_loss(
    params: Params,
    tokens: Array,
    targets: Array,
    state: Array | None = None,
    *,
    config: LMConfig,
    plan: Plan | None = None,
) -> Array:
    """Mean negative log-likelihood of targets (B,L) int, in nats: a scalar.  Clauses: GSS-LM-4."""
    checks.check_targets("lm_loss", params, tokens, targets)
    logits, _ = lm_logits(params, tokens, state, config=config, plan=plan)
    (targets,) = arrays("lm_loss", targets)
    logp = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(logp, targets[..., None], -1).mean()
