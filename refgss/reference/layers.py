"""Chapter 7: the GSS layer (figure 1(b) of arXiv 2206.13947) and the DSS layer, with gradients.

Parameters are a flat mapping from names to arrays.  GSS: norm.weight, norm.bias (E,); w_v (E,F);
w_u (E,H); [ssm.norm.weight, ssm.norm.bias (H,)]; ssm.a, ssm.b (N,); ssm.c (H,N) complex; ssm.d
(H,); w_uc (H,F); w_o (F,E); [b_o (E,)].  DSS, where H = E: norm.weight, norm.bias; ssm.a, ssm.b,
ssm.c, ssm.d; ssm.log_delta (E,) or (E,2); w_o (E,E); [b_o (E,)].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from refgss import checks
from refgss.config import GSS, BlockRecurrentConfig, DSSConfig, GSSConfig, TransformerConfig
from refgss.reference.block_recurrent import block_recurrent_layer, block_recurrent_layer_vjp
from refgss.reference.discretization import gss_lambda, gss_lambda_vjp
from refgss.reference.elementary import Array
from refgss.reference.pointwise import dense, dense_vjp, gelu, gelu_vjp, layer_norm, layer_norm_vjp
from refgss.reference.recurrence import ssm_scan, ssm_scan_vjp
from refgss.reference.transformer import transformer_layer, transformer_layer_vjp

Params = Mapping[str, Array]


class GSSForward(NamedTuple):
    """All that a GSS layer computes on its way.  Clauses: GSS-CNF-10."""

    h: Array  # (B,L,E)
    v_in: Array  # (B,L,F)
    v: Array  # (B,L,F), the gate
    u_in: Array  # (B,L,H)
    u_act: Array  # (B,L,H)
    u: Array  # (B,L,H)
    lam: Array  # (N,)
    s: Array  # (B,L,H)
    y: Array  # (B,L,H)
    uc: Array  # (B,L,F)
    out: Array  # (B,L,E)
    state: Array  # (B,H,N)


def gss_forward(p: Params, x: Array, state: Array | None, config: GSSConfig) -> GSSForward:
    """x (B,L,E), state (B,H,N) or None.  Clauses: GSS-LAY-1..5."""
    eps = config.eps
    h = layer_norm(x, p["norm.weight"], p["norm.bias"], eps=eps)
    v_in, u_in = dense(h, p["w_v"]), dense(h, p["w_u"])
    v = gelu(v_in)
    u = u_act = gelu(u_in)
    if config.ssm_norm:
        u = layer_norm(u_act, p["ssm.norm.weight"], p["ssm.norm.bias"], eps=eps)
    lam = gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.imag)
    s, state = ssm_scan(u, lam, p["ssm.c"], state, delta=1.0, form=GSS)
    y = s + p["ssm.d"] * u
    uc = dense(y, p["w_uc"])  # linear
    out = dense(uc * v, p["w_o"], p.get("b_o")) + x
    return GSSForward(h, v_in, v, u_in, u_act, u, lam, s, y, uc, out, state)


def gss_layer(
    params: Params, x: Array, state: Array | None = None, *, config: GSSConfig
) -> tuple[Array, Array]:
    """x (B,L,E), state (B,H,N) or None -> (B,L,E), state.

    Clauses: GSS-LAY-1..5, GSS-LAY-7..8, GSS-STA-3..4, GSS-NFI-1, GSS-NFI-12.
    """
    checks.check_layer("gss_layer", params, x, state, config)
    f = gss_forward(params, x, state, config)
    return f.out, f.state


def gss_layer_vjp(
    params: Params,
    x: Array,
    state: Array | None,
    dout: Array,
    dstate: Array,
    *,
    config: GSSConfig,
) -> tuple[dict[str, Array], Array, Array]:
    """dout (B,L,E), dstate (B,H,N) -> dparams, dx (B,L,E), dstate_0.  Clauses: GSS-GRD-10."""
    checks.check_layer("gss_layer_vjp", params, x, state, config)
    checks.check_layer_cotangents("gss_layer_vjp", params, x, dout, dstate, config)
    p, g, f = params, {}, gss_forward(params, x, state, config)
    duv, g["w_o"], db_o = dense_vjp(f.uc * f.v, p["w_o"], p.get("b_o"), dout)
    if db_o is not None:
        g["b_o"] = db_o
    dy, g["w_uc"], _ = dense_vjp(f.y, p["w_uc"], None, duv * f.v)
    du, dlam, g["ssm.c"], dstate0, _ = ssm_scan_vjp(
        f.u, f.lam, p["ssm.c"], state, dy, dstate, delta=1.0, form=GSS
    )
    g["ssm.a"], g["ssm.b"] = gss_lambda_vjp(p["ssm.a"], p["ssm.b"], dlam, imag=config.imag)
    g["ssm.d"] = (dy * f.u).sum((0, 1))
    du = du + p["ssm.d"] * dy
    if config.ssm_norm:
        du, g["ssm.norm.weight"], g["ssm.norm.bias"] = layer_norm_vjp(
            f.u_act, p["ssm.norm.weight"], p["ssm.norm.bias"], du, eps=config.eps
        )
    dh_u, g["w_u"], _ = dense_vjp(f.h, p["w_u"], None, gelu_vjp(f.u_in, du))
    dh_v, g["w_v"], _ = dense_vjp(f.h, p["w_v"], None, gelu_vjp(f.v_in, duv * f.uc))
    dx, g["norm.weight"], g["norm.bias"] = layer_norm_vjp(
        x, p["norm.weight"], p["norm.bias"], dh_u + dh_v, eps=config.eps
    )
    return g, dx + dout, dstate0


class DSSForward(NamedTuple):
    """All that a DSS layer computes on its way.  Clauses: GSS-CNF-10."""

    u: Array  # (B,L,E)
    lam: Array  # (N,)
    delta: Array  # (E,) or (E,2)
    s: Array  # (B,L,E)
    y_in: Array  # (B,L,E)
    y: Array  # (B,L,E)
    out: Array  # (B,L,E)
    state: Array  # (B,E,N)


def dss_forward(p: Params, x: Array, state: Array | None, config: DSSConfig) -> DSSForward:
    """x (B,L,E), state (B,E,N) or None.  Clauses: GSS-LAY-6."""
    u = layer_norm(x, p["norm.weight"], p["norm.bias"], eps=config.eps)
    lam = gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.imag)
    delta = np.exp(p["ssm.log_delta"])
    s, state = ssm_scan(u, lam, p["ssm.c"], state, delta=delta, form=config.form)
    y_in = s + p["ssm.d"] * u
    y = gelu(y_in)
    out = dense(y, p["w_o"], p.get("b_o")) + x
    return DSSForward(u, lam, delta, s, y_in, y, out, state)


def dss_layer(
    params: Params, x: Array, state: Array | None = None, *, config: DSSConfig
) -> tuple[Array, Array]:
    """x (B,L,E), state (B,E,N) or None -> (B,L,E), state.

    Clauses: GSS-LAY-6, GSS-STA-3..4, GSS-NFI-1, GSS-NFI-12.
    """
    checks.check_layer("dss_layer", params, x, state, config)
    f = dss_forward(params, x, state, config)
    return f.out, f.state


def dss_layer_vjp(
    params: Params,
    x: Array,
    state: Array | None,
    dout: Array,
    dstate: Array,
    *,
    config: DSSConfig,
) -> tuple[dict[str, Array], Array, Array]:
    """dout (B,L,E), dstate (B,E,N) -> dparams, dx (B,L,E), dstate_0.  Clauses: GSS-GRD-10."""
    checks.check_layer("dss_layer_vjp", params, x, state, config)
    checks.check_layer_cotangents("dss_layer_vjp", params, x, dout, dstate, config)
    p, g, f = params, {}, dss_forward(params, x, state, config)
    dy, g["w_o"], db_o = dense_vjp(f.y, p["w_o"], p.get("b_o"), dout)
    if db_o is not None:
        g["b_o"] = db_o
    dy = gelu_vjp(f.y_in, dy)
    du, dlam, g["ssm.c"], dstate0, ddelta = ssm_scan_vjp(
        f.u, f.lam, p["ssm.c"], state, dy, dstate, delta=f.delta, form=config.form
    )
    g["ssm.a"], g["ssm.b"] = gss_lambda_vjp(p["ssm.a"], p["ssm.b"], dlam, imag=config.imag)
    g["ssm.log_delta"] = f.delta * ddelta
    g["ssm.d"] = (dy * f.u).sum((0, 1))
    dx, g["norm.weight"], g["norm.bias"] = layer_norm_vjp(
        x, p["norm.weight"], p["norm.bias"], du + p["ssm.d"] * dy, eps=config.eps
    )
    return g, dx + dout, dstate0


class LayerOps(NamedTuple):
    """A kind of layer and its gradient, as one backend computes them."""

    forward: Callable[..., Any]
    vjp: Callable[..., Any]


LAYERS: dict[type, LayerOps] = {
    GSSConfig: LayerOps(gss_layer, gss_layer_vjp),
    DSSConfig: LayerOps(dss_layer, dss_layer_vjp),
    TransformerConfig: LayerOps(transformer_layer, transformer_layer_vjp),
    BlockRecurrentConfig: LayerOps(block_recurrent_layer, block_recurrent_layer_vjp),
}
