"""On CPUs: the kernels of refgss.native inside compiled programs, as custom calls with gradients.

librefgss holds the handlers (csrc/abi/xla.cpp) and was built without XLA's headers, so one build
serves every JAX that speaks the same major version of XLA's foreign function interface.  Operands
and results are XLA's own buffers: nothing is copied, and no Python runs while a program does.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from refgss.config import AttentionForm, DSSConfig, GSSConfig, KernelForm
from refgss.xla.pairs import Array

MAJOR = 0  # csrc/abi/xla_ffi.hpp
TARGETS = (
    *("causal_conv", "causal_conv_vjp", "ssm_kernel", "ssm_kernel_vjp", "ssm_scan", "ssm_scan_vjp"),
    *("layer_norm", "layer_norm_vjp", "rms_norm", "rms_norm_vjp", "gelu", "gelu_vjp"),
    *("dense", "dense_vjp", "attention", "attention_vjp"),
    *("gss_layer", "gss_layer_keeping", "gss_layer_vjp", "dss_layer", "dss_layer_vjp"),
)


@cache
def obstacle() -> str | None:
    """Why the kernels cannot be used, or None after registering them with XLA."""
    try:
        from refgss.native.abi import HERE, LIBRARY
    except ImportError as e:
        return str(e)
    header = Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h"
    spoken = re.search(r"#define XLA_FFI_API_MAJOR (\d+)", header.read_text())
    if spoken is None or int(spoken[1]) != MAJOR:
        return f"jax {jax.__version__} has another foreign function interface than version {MAJOR}"
    library = ctypes.CDLL(str(HERE / LIBRARY))
    for name in TARGETS:
        handler = jax.ffi.pycapsule(getattr(library, f"refgss_xla_{name}"))
        jax.ffi.register_ffi_target(f"refgss_{name}", handler, platform="cpu")
    return None


def preferred() -> bool:
    """Whether to use the kernels unasked: one CPU device, as XLA cannot split a custom call."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1 and obstacle() is None


def run(
    name: str, outputs: tuple, options: tuple[tuple[str, float], ...], operands: tuple
) -> tuple[Array, ...]:
    call = jax.ffi.ffi_call(f"refgss_{name}", outputs, vmap_method="sequential")
    return tuple(call(*operands, **{k: np.float64(v) for k, v in options}))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def op(name: str, outputs: tuple, kept: tuple, options: tuple, *primals: Array) -> tuple:
    """A native op; its gradient is the native NAME_vjp, of the same options.

    Operands that are integers have no gradient.
    Where something is kept for the gradient, NAME_keeping returns it after the outputs.
    """
    return run(name, outputs, options, primals)


def forward(name: str, outputs: tuple, kept: tuple, options: tuple, *primals: Any) -> tuple:
    primals = tuple(p.value for p in primals)
    if not kept:
        return run(name, outputs, options, primals), primals
    results = run(f"{name}_keeping", outputs + kept, options, primals)
    return results[: len(outputs)], primals + results[len(outputs) :]


def backward(
    name: str, outputs: tuple, kept: tuple, options: tuple, residuals: tuple, cotangents: tuple
) -> tuple:
    primals = residuals[: len(residuals) - len(kept)]
    first, *states = cotangents
    used = states if any(not is_zero(d) for d in states) else []  # what nobody uses costs nothing
    options = (*options, ("dstate", bool(used)))
    # the cotangent of a complex number is the conjugate of JAX's (GSS-GRD-1)
    standard = tuple(conjugate(filled(d)) for d in (first, *used))
    outputs = tuple(like(x) for x in primals if not is_integer(x))
    gradients = iter(run(f"{name}_vjp", outputs, options, residuals + standard))
    return tuple(None if is_integer(x) else conjugate(next(gradients)) for x in primals)


op.defvjp(forward, backward, symbolic_zeros=True)


def is_zero(cotangent: Any) -> bool:
    """Known to be zero while tracing."""
    return isinstance(cotangent, jax.custom_derivatives.SymbolicZero)


def filled(cotangent: Any) -> Array:
    return jnp.zeros(cotangent.shape, cotangent.dtype) if is_zero(cotangent) else cotangent


def is_integer(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.integer)


def conjugate(x: Array) -> Array:
    return jnp.conj(x) if jnp.iscomplexobj(x) else x


def shaped(x: Array, *shape: int) -> jax.ShapeDtypeStruct:
    """An output of this shape and of x's dtype."""
    return jax.ShapeDtypeStruct(shape, x.dtype)


def like(x: Array) -> jax.ShapeDtypeStruct:
    return shaped(x, *x.shape)


def given(*tensors: Array | None) -> tuple[Array, ...]:
    return tuple(x for x in tensors if x is not None)


def form_options(form: KernelForm) -> tuple[tuple[str, float], ...]:
    from refgss.native.state_space import form_tuple

    return tuple(zip(("method", "pairs", "form_eps", "form_length"), form_tuple(form), strict=True))


# the ops as refgss.xla calls them; what is checked there is not checked again


def causal_conv(u: Array, k: Array) -> Array:
    return op("causal_conv", (like(u),), (), (), u, k)[0]


def ssm_kernel(lam: Array, c: Array, delta: Array, length: int, form: KernelForm) -> Array:
    out = shaped(delta, c.shape[0], length)
    return op("ssm_kernel", (out,), (), form_options(form), lam, c, delta)[0]


def ssm_scan(
    u: Array, lam: Array, c: Array, state: Array | None, delta: Array, form: KernelForm
) -> tuple[Array, Array]:
    options = (*form_options(form), ("state", state is not None))
    outputs = like(u), shaped(c, u.shape[0], *c.shape)
    return op("ssm_scan", outputs, (), options, *given(u, lam, c, delta, state))


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    return op("layer_norm", (like(x),), (), (("eps", eps),), x, weight, bias)[0]


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return op("rms_norm", (like(x),), (), (("eps", eps),), x, weight)[0]


def gelu(x: Array) -> Array:
    return op("gelu", (like(x),), (), (), x)[0]


def dense(x: Array, weight: Array, bias: Array | None) -> Array:
    y = shaped(x, *x.shape[:-1], weight.shape[1])
    return op("dense", (y,), (), (("bias", bias is not None),), *given(x, weight, bias))[0]


def attention(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    state: Mapping[str, Array] | None,
    window: AttentionForm,
) -> tuple[Array, Array, Array]:
    """y, and the keys and values of the next state; t must be that of a state."""
    from refgss.native.attention import window_tuple

    options = (
        *zip(("chunk", "visible", "unscaled"), window_tuple(window), strict=True),
        ("bias", bias is not None),
        ("state", state is not None),
    )
    slots = shaped(k, k.shape[0], window.slots, *k.shape[2:])
    parts = () if state is None else (state["k"], state["v"], state["t"])
    return op("attention", (like(q), slots, slots), (), options, *given(q, k, v, bias, *parts))


GSS_PARAMETERS = (
    *("norm.weight", "norm.bias", "w_v", "w_u", "ssm.norm.weight", "ssm.norm.bias"),
    *("ssm.a", "ssm.b", "ssm.c", "ssm.d", "w_uc", "w_o", "b_o"),
)
DSS_PARAMETERS = (
    *("norm.weight", "norm.bias", "ssm.a", "ssm.b", "ssm.c", "ssm.d", "ssm.log_delta"),
    *("w_o", "b_o"),
)


def gss_layer(
    params: dict[str, Array], x: Array, state: Array | None, config: GSSConfig
) -> tuple[Array, Array]:
    options = (
        ("eps", config.eps),
        ("imag_is_exp", config.imag == "exp"),
        ("ssm_norm", config.ssm_norm),
        ("bias", config.out_bias),
        ("state", state is not None),
    )
    B, L, _ = x.shape
    H, F = params["w_uc"].shape
    kept = shaped(x, B, L, F), shaped(x, B, L, H), shaped(x, B, L, H), shaped(x, B, L, F)
    outputs = like(x), shaped(params["ssm.c"], B, *params["ssm.c"].shape)
    tensors = given(*map(params.get, GSS_PARAMETERS), x, state)
    return op("gss_layer", outputs, kept, options, *tensors)


def dss_layer(
    params: dict[str, Array], x: Array, state: Array | None, config: DSSConfig
) -> tuple[Array, Array]:
    options = (
        *form_options(config.form),
        ("eps", config.eps),
        ("imag_is_exp", config.imag == "exp"),
        ("bias", config.out_bias),
        ("state", state is not None),
    )
    outputs = like(x), shaped(params["ssm.c"], x.shape[0], *params["ssm.c"].shape)
    tensors = given(*map(params.get, DSS_PARAMETERS), x, state)
    return op("dss_layer", outputs, (), options, *tensors)
