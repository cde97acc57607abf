"""Chapter 8: the language model and its loss; layers of equal options in a row compile once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from refgss import checks
from refgss.config import LMConfig
from refgss.layers import of_layer
from refgss.layers.states import State, bundled
from refgss.xla.inputs import arrays, parameters
from refgss.xla.layers import LAYERS
from refgss.xla.pairs import Array
from refgss.xla.plan import Plan, resolve
from refgss.xla.pointwise import dense, layer_norm

Params = Mapping[str, Array]


def stacked(trees: Sequence[Any]) -> Any:
    """Trees of one form as one, each array with a new first axis."""
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


def rows_of(tokens: Array, vocabulary: int) -> Array:
    """The rows of a table, V for a negative token: NaN is read where there is no row.

    Compiled code cannot refuse a token out of range; its results show it.  Clauses: GSS-LM-6.
    """
    tokens = tokens.astype(jnp.int32)
    return jnp.where(tokens < 0, vocabulary, tokens)


def hidden_states(
    params: Params, tokens: Array, state: State | None, config: LMConfig, plan: Plan
) -> tuple[Array, State]:
    """The output of the last layer (B,L,E), and the states."""
    table, states = params["embedding.weight"], []
    x = table.at[rows_of(tokens, len(table))].get(mode="fill", fill_value=jnp.nan)
    for layer, run in groupby(range(config.depth), config.layers.__getitem__):
        of_run = list(run)

        def body(x: Array, of_one: tuple[Params, State | None]) -> tuple[Array, State]:
            p, given = of_one
            return LAYERS[type(layer)](p, x, given, config=layer, plan=plan)  # noqa: B023

        for i in of_run:
            if odd := of_layer(params, i).keys() ^ of_layer(params, of_run[0]).keys():
                raise ValueError(
                    f"lm_logits: layers.{i} differs from layers.{of_run[0]} in having or lacking "
                    f"the parameter {min(odd)}"
                )
        given = None if state is None else stacked([state[i] for i in of_run])
        x, after = lax.scan(body, x, (stacked([of_layer(params, i) for i in of_run]), given))
        states += [jax.tree.map(lambda s, j=j: s[j], after) for j in range(len(of_run))]
    return x, bundled(states, jnp.stack)


def lm_logits(
    params: Params,
    tokens: Array,
    state: State | None = None,
    *,
    config: LMConfig,
    plan: Plan | None = None,
) -> tuple[Array, State]:
    """tokens (B,L) int, state (depth,B,H,N) or a tuple, or None -> logits (B,L,V), state.

    Raises ValueError for a token out of range; where it is not known yet (under jit) the logits
    from there on are NaN.
    Clauses: GSS-LM-1, GSS-LM-2, GSS-LM-3, GSS-STA-3.
    """
    checks.check_language_model("lm_logits", params, tokens, state, config)
    p, tensors = parameters("lm_logits", params), arrays("lm_logits", tokens, state)
    return logits_compiled(p, *tensors, config, resolve(plan))


@partial(jax.jit, static_argnames=("config", "plan"))
def logits_compiled(
    p: Params, tokens: Array, state: State | None, config: LMConfig, plan: Plan
) -> tuple[Array, State]:
    x, state = hidden_states(p, tokens, state, config, plan)
    if config.final_norm:
        x = layer_norm(x, p["norm.weight"], p["norm.bias"], eps=config.eps, plan=plan)
    head = p["embedding.weight"].T if config.tied else p["head.weight"]
    return dense(x, head, plan=plan), state


def lm_loss(
    params: Params,
    tokens: Array,
    targets: Array,
    state: State | None = None,
    *,
    config: LMConfig,
    plan: Plan | None = None,
) -> Array:
    """Mean negative log-likelihood of targets (B,L) int, in nats: a scalar.  Clauses: GSS-LM-4.

    Raises ValueError for a token or target out of range; under jit the loss is NaN.
    """
    checks.check_targets("lm_loss", params, tokens, targets)
    logits, _ = lm_logits(params, tokens, state, config=config, plan=plan)
    return mean_loss(logits, *arrays("lm_loss", targets))


def mean_loss(logits: Array, targets: Array) -> Array:
    """Mean negative log-likelihood of targets (B,L) under logits (B,L,V).  Clauses: GSS-LM-4.

    A target out of range makes it NaN.
    """
    logp = jax.nn.log_softmax(logits)
    rows = rows_of(targets, logp.shape[-1])[..., None]
    return -jnp.take_along_axis(logp, rows, -1, mode="fill", fill_value=jnp.nan).mean()
