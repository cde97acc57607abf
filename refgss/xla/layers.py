"""Chapter 7: the GSS layer (figure 1(b) of arXiv 2206.13947) and the DSS layer.

Parameters are flat mappings, named as in the standard.  Under `jax.grad` the gradient of the
complex `ssm.c` is JAX's, the conjugate of the standard's: `gss_layer_vjp` returns the standard's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp

from refgss import checks
from refgss.config import GSS, BlockRecurrentConfig, DSSConfig, GSSConfig, TransformerConfig
from refgss.layers.states import State
from refgss.xla import ffi
from refgss.xla.block_recurrent import block_recurrent_layer
from refgss.xla.discretization import gss_lambda
from refgss.xla.inputs import arrays, parameters
from refgss.xla.pairs import Array
from refgss.xla.plan import Plan, resolve
from refgss.xla.pointwise import by_positions, dense, gelu, layer_norm, rounded_weights
from refgss.xla.recurrence import ssm_scan
from refgss.xla.transformer import transformer_layer

Params = Mapping[str, Array]


def gss_layer(
    params: Params,
    x: Array,
    state: Array | None = None,
    *,
    config: GSSConfig,
    plan: Plan | None = None,
) -> tuple[Array, Array]:
    """x (B,L,E), state (B,H,N) complex or None -> (B,L,E), state.

    Clauses: GSS-LAY-1..GSS-LAY-5, GSS-STA-3.
    """
    checks.check_layer("gss_layer", params, x, state, config)
    p, tensors = parameters("gss_layer", params), arrays("gss_layer", x, state)
    return gss_compiled(p, *tensors, config, resolve(plan))


@partial(jax.jit, static_argnames=("config", "plan"))
def gss_compiled(
    p: Params, x: Array, state: Array | None, config: GSSConfig, plan: Plan
) -> tuple[Array, Array]:
    if plan.native_layers:
        return ffi.gss_layer(rounded_weights(p, plan), x, state, config)

    def norm(x: Array) -> Array:
        return layer_norm(x, p["norm.weight"], p["norm.bias"], eps=config.eps, plan=plan)

    def gated(x: Array, s: Array) -> Array:
        """(...,E), (...,H) -> (...,E): all that is as wide as F, and no position knows another."""
        v = gelu(dense(norm(x), p["w_v"], plan=plan), plan=plan)  # (...,F), the gate
        uc = dense(s, p["w_uc"], plan=plan)  # (...,F), linear
        return dense(uc * v, p["w_o"], p.get("b_o"), plan=plan) + x

    def mixed(x: Array, state: Array | None) -> tuple[Array, Array]:
        """(B,L,E) -> (B,L,H), state: all that crosses positions."""
        u = gelu(dense(norm(x), p["w_u"], plan=plan), plan=plan)  # (B,L,H)
        if config.ssm_norm:
            u = layer_norm(u, p["ssm.norm.weight"], p["ssm.norm.bias"], eps=config.eps, plan=plan)
        lam = gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.imag)  # (N,)
        one = jnp.ones((), x.dtype)
        s, state = ssm_scan(u, lam, p["ssm.c"], state, delta=one, form=GSS, plan=plan)  # (B,L,H)
        return s + p["ssm.d"] * u, state

    s, state = (mixed if plan.gate is None else jax.checkpoint(mixed))(x, state)
    return by_positions(gated, plan.gate, x, s), state


def dss_layer(
    params: Params,
    x: Array,
    state: Array | None = None,
    *,
    config: DSSConfig,
    plan: Plan | None = None,
) -> tuple[Array, Array]:
    """x (B,L,E), state (B,E,N) complex or None -> (B,L,E), state.

    Clauses: GSS-LAY-6, GSS-STA-3.
    """
    checks.check_layer("dss_layer", params, x, state, config)
    p, tensors = parameters("dss_layer", params), arrays("dss_layer", x, state)
    return dss_compiled(p, *tensors, config, resolve(plan))


@partial(jax.jit, static_argnames=("config", "plan"))
def dss_compiled(
    p: Params, x: Array, state: Array | None, config: DSSConfig, plan: Plan
) -> tuple[Array, Array]:
    if plan.native_layers:
        return ffi.dss_layer(rounded_weights(p, plan), x, state, config)
    u = layer_norm(x, p["norm.weight"], p["norm.bias"], eps=config.eps, plan=plan)  # (B,L,E)
    lam = gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.imag)  # (N,)
    delta = jnp.exp(p["ssm.log_delta"])  # (E,) or (E,2)
    s, state = ssm_scan(u, lam, p["ssm.c"], state, delta=delta, form=config.form, plan=plan)
    y = gelu(s + p["ssm.d"] * u, plan=plan)
    return dense(y, p["w_o"], p.get("b_o"), plan=plan) + x, state


LAYERS: dict[type, Callable[..., tuple[Array, State]]] = {
    GSSConfig: gss_layer,
    DSSConfig: dss_layer,
    TransformerConfig: transformer_layer,
    BlockRecurrentConfig: block_recurrent_layer,
}
