"""Chapter 9: `<op>_vjp` of every differentiable op.

The cotangent of a complex z is ∂ℓ/∂Re z + i ∂ℓ/∂Im z (GSS-GRD-1); JAX's is its conjugate.
The rules that plain differentiation would get wrong or slow (powers, φ, Φ, exact products) stand
with their functions, so that `jax.grad` and `jax.jvp` use them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from refgss import checks
from refgss.config import DSSConfig, GSSConfig, Imag, KernelForm, LMConfig
from refgss.layers.states import State, without_integers, zero_states
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
from refgss.xla.plan import Plan, resolve

Params = Mapping[str, Array]


@partial(jax.jit, static_argnames=("f", "options"))
def transposed(f: Callable, primals: tuple, cotangents: tuple, fixed: tuple, options: Any) -> tuple:
    """(∂f)^T cotangents in the standard's convention; f(*primals, *fixed, **options)."""
    out, back = jax.vjp(lambda *p: f(*p, *fixed, **dict(options)), *primals)
    conjugated = jax.tree.map(jnp.conj, cotangents)
    gradients = back(conjugated if isinstance(out, tuple) else conjugated[0])
    return jax.tree.map(jnp.conj, gradients)


def pull_back(
    op: str, f: Callable, primals: tuple, fixed: tuple = (), /, *, cotangents: dict, **options: Any
) -> tuple:
    """The gradient of f, compiled once for all calls with the same shapes and options.

    Raises as f does, and where a cotangent, given by name, has not the shape of its output.
    """
    out = jax.eval_shape(partial(f, **options), *primals, *fixed)
    outputs = out if isinstance(out, tuple) else (out,)
    for (name, d), y in zip(cotangents.items(), outputs, strict=True):
        given, wanted = jax.tree.leaves(d), jax.tree.leaves(y)
        if len(given) != len(wanted):
            raise ValueError(f"{op}: {name} must have {len(wanted)} arrays, not {len(given)}")
        for part, z in zip(given, wanted, strict=True):
            checks.check_shape(op, name, part, z.shape, "c" if jnp.iscomplexobj(z) else "f")
    tensors = tuple(arrays(op, *cotangents.values()))
    return transposed(f, primals, tensors, fixed, tuple(options.items()))


# the ops with everything that they differentiate in front


def kernel_op(lam: Array, c: Array, delta: Array, **options: Any) -> Array:
    return kernel.kernel_of_modes(lam, c, delta, **options)


def scan_op(u: Array, lam: Array, c: Array, state: Array, delta: Array, **options: Any) -> tuple:
    return recurrence.ssm_scan(u, lam, c, state, delta=delta, **options)


def step_op(u: Array, lam: Array, c: Array, state: Array, delta: Array, **options: Any) -> tuple:
    return recurrence.ssm_step(u, lam, c, state, delta=delta, **options)


def logits_op(params: Params, moving: State, state: State, tokens: Array, **options: Any) -> tuple:
    state = with_parts(state, moving)
    logits, state = language_model.lm_logits(params, tokens, state, **options)
    return logits, without_integers(state)


def loss_op(
    params: Params, moving: State, state: State, tokens: Array, targets: Array, **options: Any
) -> Array:
    return language_model.lm_loss(params, tokens, targets, with_parts(state, moving), **options)


def with_parts(state: State, moving: State) -> State:
    """A state with these numbers for its own, and its own integers."""
    if isinstance(state, tuple):
        return tuple(map(with_parts, state, moving))
    return {**state, **moving} if isinstance(state, Mapping) else moving


def gss_lambda_vjp(a: Array, b: Array, dlam: Array, *, imag: Imag) -> tuple[Array, Array]:
    """dΛ (N,) -> da, db (N,).  Clauses: GSS-GRD-1, GSS-GRD-2."""
    checks.check_lambda_parameters(a, b, imag)
    return pull_back(
        "gss_lambda_vjp",
        discretization.gss_lambda,
        tuple(arrays("gss_lambda_vjp", a, b)),
        cotangents={"dlam": dlam},
        imag=imag,
    )


def discretize_vjp(
    lam: Array, delta: Array, dabar: Array, dbbar: Array, *, form: KernelForm
) -> tuple[Array, Array]:
    """dĀ, dB̄ (·,N) -> dΛ (N,), dΔ of Δ's shape.  Clauses: GSS-GRD-1, GSS-GRD-3."""
    delta = checks.check_modes("discretize_vjp", lam, delta, form)
    return pull_back(
        "discretize_vjp",
        discretization.discretize,
        tuple(arrays("discretize_vjp", lam, delta)),
        cotangents={"dabar": dabar, "dbbar": dbbar},
        form=form,
    )


def ssm_kernel_vjp(
    lam: Array,
    c: Array,
    length: int,
    dk: Array,
    *,
    delta: Array,
    form: KernelForm,
    plan: Plan | None = None,
) -> tuple[Array, Array, Array]:
    """dK (H,length) -> dΛ (N,), dC (H,N), dΔ of Δ's shape.  Clauses: GSS-GRD-1, GSS-GRD-4."""
    delta = checks.check_kernel("ssm_kernel_vjp", lam, c, length, delta, form)
    return pull_back(
        "ssm_kernel_vjp",
        kernel_op,
        tuple(arrays("ssm_kernel_vjp", lam, c, delta)),
        cotangents={"dk": dk},
        length=length,
        form=form,
        plan=resolve(plan),
    )


def causal_conv_vjp(
    u: Array, k: Array, dy: Array, *, plan: Plan | None = None
) -> tuple[Array, Array]:
    """dy (B,L,H) -> du (B,L,H), dk (H,Lk).  Clauses: GSS-GRD-5."""
    checks.check_convolution("causal_conv_vjp", u, k)
    return pull_back(
        "causal_conv_vjp",
        convolution.causal_conv,
        tuple(arrays("causal_conv_vjp", u, k)),
        cotangents={"dy": dy},
        plan=plan,
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
    delta, state = checks.check_scan("ssm_scan_vjp", u, lam, c, state, delta, form)
    return pull_back(
        "ssm_scan_vjp",
        scan_op,
        tuple(arrays("ssm_scan_vjp", u, lam, c, state, delta)),
        cotangents={"dy": dy, "dstate": dstate},
        form=form,
        plan=plan,
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
    delta, state = checks.check_step("ssm_step_vjp", u, lam, c, state, delta, form)
    return pull_back(
        "ssm_step_vjp",
        step_op,
        tuple(arrays("ssm_step_vjp", u, lam, c, state, delta)),
        cotangents={"dy": dy, "dstate": dstate},
        form=form,
    )


def layer_norm_vjp(
    x: Array, weight: Array, bias: Array, dy: Array, *, eps: float, plan: Plan | None = None
) -> tuple[Array, Array, Array]:
    """dy (...,E) -> dx (...,E), dweight (E,), dbias (E,).  Clauses: GSS-GRD-7."""
    eps = checks.check_layer_norm("layer_norm_vjp", x, weight, bias, eps)
    return pull_back(
        "layer_norm_vjp",
        pointwise.layer_norm,
        tuple(arrays("layer_norm_vjp", x, weight, bias)),
        cotangents={"dy": dy},
        eps=eps,
        plan=plan,
    )


def gelu_vjp(x: Array, dy: Array, *, plan: Plan | None = None) -> Array:
    """dx = (Φ(x) + x e^{-x²/2}/√(2π)) dy.  Clauses: GSS-GRD-8."""
    checks.check_real("gelu_vjp", "x", x)
    return pull_back(
        "gelu_vjp",
        pointwise.gelu,
        tuple(arrays("gelu_vjp", x)),
        cotangents={"dy": dy},
        plan=plan,
    )[0]


def dense_vjp(
    x: Array, weight: Array, bias: Array | None, dy: Array, *, plan: Plan | None = None
) -> tuple[Array, Array, Array | None]:
    """dy (...,O) -> dx (...,I), dweight (I,O), dbias (O,) or None.  Clauses: GSS-GRD-9."""
    checks.check_dense("dense_vjp", x, weight, bias)
    return pull_back(
        "dense_vjp",
        pointwise.dense,
        tuple(arrays("dense_vjp", x, weight, bias)),
        cotangents={"dy": dy},
        plan=plan,
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
    """dout (B,L,E), dstate (B,H,N) -> dparams, dx (B,L,E), dstate_0.  Clauses: GSS-GRD-10."""
    checks.check_layer("gss_layer_vjp", params, x, state, config)
    state = checks.check_state("gss_layer_vjp", state, params["ssm.c"], x.shape[0])
    return pull_back(
        "gss_layer_vjp",
        layers.gss_layer,
        (parameters("gss_layer_vjp", params), *arrays("gss_layer_vjp", x, state)),
        cotangents={"dout": dout, "dstate": dstate},
        config=config,
        plan=plan,
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
    """dout (B,L,E), dstate (B,E,N) -> dparams, dx (B,L,E), dstate_0.  Clauses: GSS-GRD-10."""
    checks.check_layer("dss_layer_vjp", params, x, state, config)
    state = checks.check_state("dss_layer_vjp", state, params["ssm.c"], x.shape[0])
    return pull_back(
        "dss_layer_vjp",
        layers.dss_layer,
        (parameters("dss_layer_vjp", params), *arrays("dss_layer_vjp", x, state)),
        cotangents={"dout": dout, "dstate": dstate},
        config=config,
        plan=plan,
    )


def given_or_zero(state: State | None, params: Params, tokens: Array, config: LMConfig) -> State:
    if state is not None:
        return state
    return zero_states(params, config, tokens.shape[0], str(params["embedding.weight"].dtype))


def lm_logits_vjp(
    params: Params,
    tokens: Array,
    state: State | None,
    dlogits: Array,
    dstate: State,
    *,
    config: LMConfig,
    plan: Plan | None = None,
) -> tuple[dict[str, Array], State]:
    """dlogits (B,L,V), dstate of the form of a state -> dparams, dstate_0.

    Integers of a state have no gradient.  Clauses: GSS-GRD-11, GSS-HYB-8.
    """
    checks.check_language_model("lm_logits_vjp", params, tokens, state, config)
    (state,) = arrays("lm_logits_vjp", given_or_zero(state, params, tokens, config))
    return pull_back(
        "lm_logits_vjp",
        logits_op,
        (parameters("lm_logits_vjp", params), without_integers(state)),
        (state, *arrays("lm_logits_vjp", tokens)),
        cotangents={"dlogits": dlogits, "dstate": dstate},
        config=config,
        plan=plan,
    )


def lm_loss_vjp(
    params: Params,
    tokens: Array,
    targets: Array,
    state: State | None,
    dloss: Array,
    *,
    config: LMConfig,
    plan: Plan | None = None,
) -> tuple[dict[str, Array], State]:
    """dloss scalar -> dparams, dstate_0.  Clauses: GSS-GRD-12."""
    checks.check_targets("lm_loss_vjp", params, tokens, targets)
    dloss = checks.as_scalar("lm_loss_vjp", "dloss", dloss, params["embedding.weight"])
    (state,) = arrays("lm_loss_vjp", given_or_zero(state, params, tokens, config))
    return pull_back(
        "lm_loss_vjp",
        loss_op,
        (parameters("lm_loss_vjp", params), without_integers(state)),
        (state, *arrays("lm_loss_vjp", tokens, targets)),
        cotangents={"dloss": dloss},
        config=config,
        plan=plan,
    )
