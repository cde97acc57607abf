"""Chapter 19: the transformer layer of a hybrid: local attention and an MLP, each after a norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from refgss import checks
from refgss.config import BlockRecurrentConfig, TransformerConfig
from refgss.xla.attention import attention
from refgss.xla.inputs import arrays, parameters
from refgss.xla.pairs import Array
from refgss.xla.plan import Plan, resolve
from refgss.xla.pointwise import by_positions, dense, gelu, layer_norm, rms_norm
from refgss.xla.positions import rope, t5_bias
from refgss.xla.window import State

Params = Mapping[str, Array]


def transformer_layer(
    params: Params,
    x: Array,
    state: State | None = None,
    *,
    config: TransformerConfig,
    plan: Plan | None = None,
) -> tuple[Array, State]:
    """x (B,L,E), state {"k", "v": (B,S,G,D), "t": (B,)} or None -> (B,L,E), state.

    Raises ValueError for a token beyond the learned positions (NaN under jit).
    Clauses: GSS-HYB-2..5, GSS-HYB-9..11, GSS-ATT-4.
    """
    checks.check_transformer("transformer_layer", params, x, state, config)
    p, tensors = parameters("transformer_layer", params), arrays("transformer_layer", x, state)
    return transformer_compiled(p, *tensors, config, resolve(plan))


@partial(jax.jit, static_argnames=("config", "plan"))
def transformer_compiled(
    p: Params, x: Array, state: State | None, config: TransformerConfig, plan: Plan
) -> tuple[Array, State]:
    B, L, _ = x.shape

    def linear(name: str, x: Array) -> Array:
        return dense(x, p[f"w_{name}"], p.get(f"b_{name}"), plan=plan)

    def norm(name: str, x: Array) -> Array:
        if config.norm == "rms":
            return rms_norm(x, p[f"{name}.weight"], eps=config.eps, plan=plan)
        return layer_norm(x, p[f"{name}.weight"], p[f"{name}.bias"], eps=config.eps, plan=plan)

    def mlp(x: Array) -> Array:
        h = norm("norm2", x)
        m = activation(linear("1", h), config, plan)
        return x + linear("2", m * linear("3", h) if config.mlp == "glu" else m)

    r = positions(B, L, state, config, plan)
    h = norm("norm1", x)
    if config.position == "learned":
        h = h + rows_at(p["position.weight"], r)
    q, k, v = (
        linear(name, h).reshape(B, L, heads, p["w_q"].shape[1] // config.heads)
        for name, heads in (("q", config.heads), ("k", config.groups), ("v", config.groups))
    )
    if config.position.startswith("rope"):
        pairing = config.position.removeprefix("rope-")
        q, k = (rope(z, r, base=config.rope_base, pairing=pairing) for z in (q, k))
    bias = distance_bias(p, x, config)
    a, state = attention(q, k, v, bias, state, window=config.form, plan=plan)
    x = x + linear("o", a.reshape(B, L, p["w_o"].shape[0]))
    return by_positions(mlp, plan.gate, x), state


def positions(B: int, L: int, state: State | None, config: TransformerConfig, plan: Plan) -> Array:
    """r (B,L): t or, under "chunk", t mod C.  Clauses: GSS-ATT-4."""
    start = jnp.zeros(B, jnp.int32) if state is None else state["t"]
    if plan.length_axis is not None:
        start = start + lax.axis_index(plan.length_axis) * L
    r = start[:, None] + np.arange(L)
    return r % config.chunk if config.visible == "chunk" else r


def rows_at(table: Array, r: Array) -> Array:
    """Rows of the learned table, NaN where there is none.  Clauses: GSS-HYB-10."""
    return table.at[jnp.where(r < 0, len(table), r)].get(mode="fill", fill_value=jnp.nan)


def distance_bias(p: Params, like: Array, config: TransformerConfig) -> Array | None:
    """(Hq,M) or None.  Clauses: GSS-ATT-4."""
    length = config.form.distances
    if config.position == "t5":
        return t5_bias(p["position.table"], length)
    if config.position != "alibi":
        return None
    slopes = 2.0 ** (-8 * np.arange(1, config.heads + 1) / config.heads)
    return jnp.asarray(-slopes[:, None] * np.arange(length), like.dtype)


def activation(x: Array, config: TransformerConfig | BlockRecurrentConfig, plan: Plan) -> Array:
    """Of the MLP.  Clauses: GSS-HYB-3."""
    other: dict[str, Callable[[Array], Array]] = {
        "relu": jax.nn.relu,
        "gelu-tanh": partial(jax.nn.gelu, approximate=True),
    }
    return other[config.mlp](x) if config.mlp in other else gelu(x, plan=plan)
