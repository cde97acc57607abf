"""Chapter 7: the GSS layer (figure 1(b) of arXiv 2206.13947) and the DSS layer, with gradients.

Parameters are a flat mapping from names to arrays.  GSS: norm.weight, norm.bias (E,); w_v (E,F);
w_u (E,H); [ssm.norm.weight, ssm.norm.bias (H,)]; ssm.a, ssm.b (N,); ssm.c (H,N) complex; ssm.d
(H,); w_uc (H,F); w_o (F,E); [b_o (E,)].  DSS, where H = E: norm.weight, norm.bias; ssm.a, ssm.b,
ssm.c, ssm.d; ssm.log_delta (E,) or (E,2); w_o (E,E); [b_o (E,)].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from refgss import checks
from refgss.config import GSS, DSSConfig, GSSConfig
from refgss.reference.discretization import gss_lambda, gss_lambda_vjp
from refgss.reference.elementary import Array
from refgss.reference.pointwise import dense, dense_vjp, gelu, gelu_vjp, layer_norm, layer_norm_vjp
from refgss.reference.recurrence import ssm_scan, ssm_scan_vjp

Params = Mapping[str, Array]


def gss_layer(
    params: Params, x: Array, state: Array | None = None, *, config: GSSConfig
) -> tuple[Array, Array]:
    """x (B,L,E), state (B,H,N) or None -> (B,L,E), state.

    Clauses: GSS-LAY-1..5, GSS-LAY-7..8, GSS-STA-3..4, GSS-NFI-1, GSS-NFI-12.
    """
    checks.check_layer("gss_layer", params, x, state, config)
    p, eps = params, config.eps
    h = layer_norm(x, p["norm.weight"], p["norm.bias"], eps=eps)  # (B,L,E)
    v = gelu(dense(h, p["w_v"]))  # (B,L,F), the gate
    u = gelu(dense(h, p["w_u"]))  # (B,L,H)
    if config.ssm_norm:
        u = layer_norm(u, p["ssm.norm.weight"], p["ssm.norm.bias"], eps=eps)
    lam = gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.imag)  # (N,)
    s, state = ssm_scan(u, lam, p["ssm.c"], state, delta=1.0, form=GSS)  # (B,L,H)
    y = s + p["ssm.d"] * u
    uc = dense(y, p["w_uc"])  # (B,L,F), linear
    return dense(uc * v, p["w_o"], p.get("b_o")) + x, state  # (B,L,E)


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
    checks.check_layer_cotangents("gss_layer_vjp", params, x, dout, dstate)
    p, g, eps = params, {}, config.eps
    # forward, keeping what the gradient needs
    h = layer_norm(x, p["norm.weight"], p["norm.bias"], eps=eps)
    v_in, u_in = dense(h, p["w_v"]), dense(h, p["w_u"])
    v, u_act = gelu(v_in), gelu(u_in)
    u = u_act
    if config.ssm_norm:
        u = layer_norm(u_act, p["ssm.norm.weight"], p["ssm.norm.bias"], eps=eps)
    lam = gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.imag)
    s, _ = ssm_scan(u, lam, p["ssm.c"], state, delta=1.0, form=GSS)
    y = s + p["ssm.d"] * u
    uc = dense(y, p["w_uc"])
    # backward
    duv, g["w_o"], db_o = dense_vjp(uc * v, p["w_o"], p.get("b_o"), dout)
    if db_o is not None:
        g["b_o"] = db_o
    dy, g["w_uc"], _ = dense_vjp(y, p["w_uc"], None, duv * v)
    du, dlam, g["ssm.c"], dstate0, _ = ssm_scan_vjp(
        u, lam, p["ssm.c"], state, dy, dstate, delta=1.0, form=GSS
    )
    g["ssm.a"], g["ssm.b"] = gss_lambda_vjp(p["ssm.a"], p["ssm.b"], dlam, imag=config.imag)
    g["ssm.d"] = (dy * u).sum((0, 1))
    du = du + p["ssm.d"] * dy
    if config.ssm_norm:
        du, g["ssm.norm.weight"], g["ssm.norm.bias"] = layer_norm_vjp(
            u_act, p["ssm.norm.weight"], p["ssm.norm.bias"], du, eps=eps
        )
    dh_u, g["w_u"], _ = dense_vjp(h, p["w_u"], None, gelu_vjp(u_in, du))
    dh_v, g["w_v"], _ = dense_vjp(h, p["w_v"], None, gelu_vjp(v_in, duv * uc))
    dx, g["norm.weight"], g["norm.bias"] = layer_norm_vjp(
        x, p["norm.weight"], p["norm.bias"], dh_u + dh_v, eps=eps
    )
    return g, dx + dout, dstate0


def dss_layer(
    params: Params, x: Array, state: Array | None = None, *, config: DSSConfig
) -> tuple[Array, Array]:
    """x (B,L,E), state (B,E,N) or None -> (B,L,E), state.

    Clauses: GSS-LAY-6, GSS-STA-3..4, GSS-NFI-1, GSS-NFI-12.
    """
    checks.check_layer("dss_layer", params, x, state, config)
    p = params
    u = layer_norm(x, p["norm.weight"], p["norm.bias"], eps=config.eps)  # (B,L,E)
    lam = gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.imag)  # (N,)
    delta = np.exp(p["ssm.log_delta"])  # (E,) or (E,2)
    s, state = ssm_scan(u, lam, p["ssm.c"], state, delta=delta, form=config.form)
    y = gelu(s + p["ssm.d"] * u)
    return dense(y, p["w_o"], p.get("b_o")) + x, state


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
    checks.check_layer_cotangents("dss_layer_vjp", params, x, dout, dstate)
    p, g = params, {}
    u = layer_norm(x, p["norm.weight"], p["norm.bias"], eps=config.eps)
    lam = gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.imag)
    delta = np.exp(p["ssm.log_delta"])
    s, _ = ssm_scan(u, lam, p["ssm.c"], state, delta=delta, form=config.form)
    y_in = s + p["ssm.d"] * u
    dy, g["w_o"], db_o = dense_vjp(gelu(y_in), p["w_o"], p.get("b_o"), dout)
    if db_o is not None:
        g["b_o"] = db_o
    dy = gelu_vjp(y_in, dy)
    du, dlam, g["ssm.c"], dstate0, ddelta = ssm_scan_vjp(
        u, lam, p["ssm.c"], state, dy, dstate, delta=delta, form=config.form
    )
    g["ssm.a"], g["ssm.b"] = gss_lambda_vjp(p["ssm.a"], p["ssm.b"], dlam, imag=config.imag)
    g["ssm.log_delta"] = delta * ddelta
    g["ssm.d"] = (dy * u).sum((0, 1))
    dx, g["norm.weight"], g["norm.bias"] = layer_norm_vjp(
        x, p["norm.weight"], p["norm.bias"], du + p["ssm.d"] * dy, eps=config.eps
    )
    return g, dx + dout, dstate0
