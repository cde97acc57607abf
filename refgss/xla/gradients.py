"""Chapter 9: `<op>_vjp` of every differentiable op.

The cotangent of a complex z is ∂ℓ/∂Re z + i ∂ℓ/∂Im z (GSS-GRD-1); JAX's is its conjugate.
The rules that plain differentiation would get wrong or slow (powers, φ, Φ, exact products) stand
with their functions, so that `jax.grad` and `jax.jvp` use them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from refgss import contract
from refgss.config import DSSConfig, GSSConfig, Imag, KernelForm, LMConfig
from refgss.xla import (
    convolution,
    discretization,
    kernel,
    language_model,
    layers,
    pointwise,
    recurrence,
)
from refgss.xla.inputs import arrays, parameters
from refgss.xla.pairs import Array
from refgss.xla.plan import Plan

Params = Mapping[str, Array]


def pull_back(op: str, f: Callable, primals: tuple, cotangents: Any, names: str) -> tuple:
    """(∂f)^T cotangents, in the standard's convention.  names: of the cotangents, for messages."""
    out, back = jax.vjp(f, *primals)
    given = cotangents if isinstance(cotangents, tuple) else (cotangents,)
    expected = out if isinstance(out, tuple) else (out,)
    for name, d, y in zip(names.split(), given, expected, strict=True):
        contract.check_shape(op, name, d, y.shape, "c" if jnp.iscomplexobj(y) else "f")
    conjugated = tuple(jnp.conj(d) for d in arrays(op, *given))
    gradients = back(conjugated if isinstance(out, tuple) else conjugated[0])
    return jax.tree.map(jnp.conj, gradients)


def gss_lambda_vjp(a: Array, b: Array, dlam: Array, *, imag: Imag) -> tuple[Array, Array]:
    """dΛ (N,) -> da, db (N,).  Clauses: GSS-GRD-1, GSS-GRD-2."""
    contract.check_lambda_parameters(a, b, imag)
    a, b = arrays("gss_lambda_vjp", a, b)
    return pull_back(
        "gss_lambda_vjp",
        lambda a, b: discretization.gss_lambda(a, b, imag=imag),
        (a, b),
        dlam,
        "dlam",
    )


def discretize_vjp(
    lam: Array, delta: Array, dabar: Array, dbbar: Array, *, form: KernelForm
) -> tuple[Array, Array]:
    """dĀ, dB̄ (·,N) -> dΛ (N,), dΔ of Δ's shape.  Clauses: GSS-GRD-1, GSS-GRD-3."""
    delta = contract.check_modes("discretize_vjp", lam, delta, form)
    lam, delta = arrays("discretize_vjp", lam, delta)
    return pull_back(
        "discretize_vjp",
        lambda lam, delta: discretization.discretize(lam, delta, form=form),
        (lam, delta),
        (dabar, dbbar),
        "dabar dbbar",
    )


def ssm_kernel_vjp(
    lam: Array, c: Array, length: int, dk: Array, *, delta: Array, form: KernelForm
) -> tuple[Array, Array, Array]:
    """dK (H,length) -> dΛ (N,), dC (H,N), dΔ of Δ's shape.  Clauses: GSS-GRD-1, GSS-GRD-4."""
    delta = contract.check_kernel("ssm_kernel_vjp", lam, c, length, delta, form)
    return pull_back(
        "ssm_kernel_vjp",
        lambda lam, c, delta: kernel.ssm_kernel(lam, c, length, delta=delta, form=form),
        tuple(arrays("ssm_kernel_vjp", lam, c, delta)),
        dk,
        "dk",
    )


def causal_conv_vjp(
    u: Array, k: Array, dy: Array, *, plan: Plan | None = None
) -> tuple[Array, Array]:
    """dy (B,L,H) -> du (B,L,H), dk (H,Lk).  Clauses: GSS-GRD-5."""
    contract.check_convolution("causal_conv_vjp", u, k)
    return pull_back(
        "causal_conv_vjp",
        lambda u, k: convolution.causal_conv(u, k, plan=plan),
        tuple(arrays("causal_conv_vjp", u, k)),
        dy,
        "dy",
    )


def ssm_scan_vjp(
    u: Array,
    lam: Array,
    c: Array,
    state: Array | None,
    dy: Array,
    dstate: Array,
    *,
    delta: Array,
    form: KernelForm,
    plan: Plan | None = None,
) -> tuple[Array, Array, Array, Array, Array]:
    """dy (B,L,H), dx_L (B,H,N) -> du, dΛ, dC, dx_0, dΔ.  Clauses: GSS-GRD-1, GSS-GRD-6."""
    delta, state = contract.check_scan("ssm_scan_vjp", u, lam, c, state, delta, form)
    return pull_back(
        "ssm_scan_vjp",
        lambda u, lam, c, state, delta: recurrence.ssm_scan(
            u, lam, c, state, delta=delta, form=form, plan=plan
        ),
        tuple(arrays("ssm_scan_vjp", u, lam, c, state, delta)),
        (dy, dstate),
        "dy dstate",
    )


def ssm_step_vjp(
    u: Array,
    lam: Array,
    c: Array,
    state: Array | None,
    dy: Array,
    dstate: Array,
    *,
    delta: Array,
    form: KernelForm,
) -> tuple[Array, Array, Array, Array, Array]:
    """dy (B,H), dx' (B,H,N) -> du, dΛ, dC, dx, dΔ.  Clauses: GSS-GRD-6."""
    delta, state = contract.check_step("ssm_step_vjp", u, lam, c, state, delta, form)
    return pull_back(
        "ssm_step_vjp",
        lambda u, lam, c, state, delta: recurrence.ssm_step(
            u, lam, c, state, delta=delta, form=form
        ),
        tuple(arrays("ssm_step_vjp", u, lam, c, state, delta)),
        (dy, dstate),
        "dy dstate",
    )


def layer_norm_vjp(
    x: Array, weight: Array, bias: Array, dy: Array, *, eps: float
) -> tuple[Array, Array, Array]:
    """dy (...,E) -> dx (...,E), dweight (E,), dbias (E,).  Clauses: GSS-GRD-7."""
    contract.check_layer_norm("layer_norm_vjp", x, weight, bias, eps)
    return pull_back(
        "layer_norm_vjp",
        lambda x, weight, bias: pointwise.layer_norm(x, weight, bias, eps=eps),
        tuple(arrays("layer_norm_vjp", x, weight, bias)),
        dy,
        "dy",
    )


def gelu_vjp(x: Array, dy: Array) -> Array:
    """dx = (Φ(x) + x e^{-x²/2}/√(2π)) dy.  Clauses: GSS-GRD-7."""
    contract.check_real("gelu_vjp", "x", x)
    return pull_back("gelu_vjp", pointwise.gelu, tuple(arrays("gelu_vjp", x)), dy, "dy")[0]


def dense_vjp(
    x: Array, weight: Array, bias: Array | None, dy: Array, *, plan: Plan | None = None
) -> tuple[Array, Array, Array | None]:
    """dy (...,O) -> dx (...,I), dweight (I,O), dbias (O,) or None.  Clauses: GSS-GRD-7."""
    contract.check_dense("dense_vjp", x, weight, bias)
    return pull_back(
        "dense_vjp",
        lambda x, weight, bias: pointwise.dense(x, weight, bias, plan=plan),
        tuple(arrays("dense_vjp", x, weight, bias)),
        dy,
        "dy",
    )


def gss_layer_vjp(
    params: Params,
    x: Array,
    state: Array | None,
    dout: Array,
    dstate: Array,
    *,
    config: GSSConfig,
    plan: Plan | None = None,
) -> tuple[dict[str, Array], Array, Array]:
    """dout (B,L,E), dstate (B,H,N) -> dparams, dx (B,L,E), dstate_0.  Clauses: GSS-GRD-8."""
    contract.check_layer("gss_layer_vjp", params, x, state, config)
    state = contract.check_state("gss_layer_vjp", state, params["ssm.c"], x.shape[0])
    return pull_back(
        "gss_layer_vjp",
        lambda p, x, s: layers.gss_layer(p, x, s, config=config, plan=plan),
        (parameters("gss_layer_vjp", params), *arrays("gss_layer_vjp", x, state)),
        (dout, dstate),
        "dout dstate",
    )


def dss_layer_vjp(
    params: Params,
    x: Array,
    state: Array | None,
    dout: Array,
    dstate: Array,
    *,
    config: DSSConfig,
    plan: Plan | None = None,
) -> tuple[dict[str, Array], Array, Array]:
    """dout (B,L,E), dstate (B,E,N) -> dparams, dx (B,L,E), dstate_0.  Clauses: GSS-GRD-8."""
    contract.check_layer("dss_layer_vjp", params, x, state, config)
    state = contract.check_state("dss_layer_vjp", state, params["ssm.c"], x.shape[0])
    return pull_back(
        "dss_layer_vjp",
        lambda p, x, s: layers.dss_layer(p, x, s, config=config, plan=plan),
        (parameters("dss_layer_vjp", params), *arrays("dss_layer_vjp", x, state)),
        (dout, dstate),
        "dout dstate",
    )


def zero_states(params: Params, tokens: Array, config: LMConfig) -> np.ndarray:
    c = params["layers.0.ssm.c"]
    return np.zeros((config.depth, tokens.shape[0], *c.shape), str(c.dtype))


def lm_logits_vjp(
    params: Params,
    tokens: Array,
    state: Array | None,
    dlogits: Array,
    dstate: Array,
    *,
    config: LMConfig,
    plan: Plan | None = None,
) -> tuple[dict[str, Array], Array]:
    """dlogits (B,L,V), dstate (depth,B,H,N) -> dparams, dstate_0.  Clauses: GSS-GRD-9."""
    contract.check_language_model("lm_logits_vjp", params, tokens, state, config)
    state = zero_states(params, tokens, config) if state is None else state
    return pull_back(
        "lm_logits_vjp",
        lambda p, s: language_model.lm_logits(p, tokens, s, config=config, plan=plan),
        (parameters("lm_logits_vjp", params), *arrays("lm_logits_vjp", state)),
        (dlogits, dstate),
        "dlogits dstate",
    )


def lm_loss_vjp(
    params: Params,
    tokens: Array,
    targets: Array,
    state: Array | None,
    dloss: Array,
    *,
    config: LMConfig,
    plan: Plan | None = None,
) -> tuple[dict[str, Array], Array]:
    """dloss scalar -> dparams, dstate_0.  Clauses: GSS-GRD-9."""
    contract.check_targets("lm_loss_vjp", params, tokens, targets)
    state = zero_states(params, tokens, config) if state is None else state
    return pull_back(
        "lm_loss_vjp",
        lambda p, s: language_model.lm_loss(p, tokens, targets, s, config=config, plan=plan),
        (parameters("lm_loss_vjp", params), *arrays("lm_loss_vjp", state)),
        dloss,
        "dloss",
    )
