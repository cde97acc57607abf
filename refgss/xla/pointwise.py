"""Chapter 6: layer norm, GELU and the dense map; norms and gates of chapters 18 and 20."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax

from refgss import checks
from refgss.xla import ffi
from refgss.xla.inputs import arrays
from refgss.xla.pairs import Array, einsum
from refgss.xla.plan import Plan, resolve


def layer_norm(
    x: Array, weight: Array, bias: Array, *, eps: float, plan: Plan | None = None
) -> Array:
    """(x - mean)/√(var + ε)·weight + bias over the last axis.  Clauses: GSS-NRM-1, GSS-NRM-2.

    x (...,E), weight and bias (E,) -> (...,E).  The variance is the mean squared deviation.
    """
    eps = checks.check_layer_norm("layer_norm", x, weight, bias, eps)
    x, weight, bias = arrays("layer_norm", x, weight, bias)
    if resolve(plan).native:
        return ffi.layer_norm(x, weight, bias, eps)
    d = x - x.mean(-1, keepdims=True)
    return d * lax.rsqrt((d * d).mean(-1, keepdims=True) + eps) * weight + bias


def rms_norm(x: Array, weight: Array, *, eps: float, plan: Plan | None = None) -> Array:
    """x/√(mean x² + ε)·weight over the last axis: x (...,E), weight (E,).  Clauses: GSS-ATT-12."""
    eps = checks.check_rms_norm("rms_norm", x, weight, eps)
    x, weight = arrays("rms_norm", x, weight)
    if resolve(plan).native:
        return ffi.rms_norm(x, weight, eps)
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def l2_normalize(x: Array, *, eps: float) -> Array:
    """x/√(Σ x² + ε) over the last axis: x (...,D); zeros stay zeros.  Clauses: GSS-BRT-3."""
    eps = checks.check_l2_normalize("l2_normalize", x, eps)
    (x,) = arrays("l2_normalize", x)
    return x * lax.rsqrt((x * x).sum(-1, keepdims=True) + eps)


def gate(s: Array, z: Array, f: Array, i: Array | None = None, *, kind: str) -> Array:
    """What is kept of s and taken of z, (...,E) both.  Clauses: GSS-BRT-13.

    kind "fixed": s σ(f) + z σ(-f), f (E,); "full": the same with f + 1, f (...,E); "lstm":
    s σ(f + 1) + z σ(i - 1), f and i (...,E).
    """
    checks.check_gate("gate", s, z, f, i, kind)
    s, z, f, i = arrays("gate", s, z, f, i)
    if kind != "fixed":
        f = f + 1
    return s * jax.nn.sigmoid(f) + z * jax.nn.sigmoid(-f if i is None else i - 1)


@jax.custom_jvp
def normal_cdf(x: Array) -> Array:
    """Φ(x) = erfc(-x/√2)/2: no cancellation in either tail.  Clauses: GSS-NRM-3."""
    return 0.5 * lax.erfc(x * -math.sqrt(0.5))


@normal_cdf.defjvp
def _normal_cdf_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return normal_cdf(x), jnp.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi)) * dx


def gelu(x: Array, *, plan: Plan | None = None) -> Array:
    """x Φ(x): the exact form.  Clauses: GSS-NRM-3.  Any shape."""
    checks.check_real("gelu", "x", x)
    (x,) = arrays("gelu", x)
    return ffi.gelu(x) if resolve(plan).native else x * normal_cdf(x)


@jax.custom_jvp
def to_bf16(weight: Array) -> Array:
    """Rounded to bfloat16, in its own type; the gradient passes through as it is.

    The rounding stays even where a compiler drops conversions that undo each other; where it keeps
    them it knows that the number is short, and a TPU multiplies in half as many passes.
    """
    short = lax.reduce_precision(weight, exponent_bits=8, mantissa_bits=7)
    return short.astype(jnp.bfloat16).astype(weight.dtype)


@to_bf16.defjvp
def _to_bf16_jvp(primals, tangents):
    return to_bf16(*primals), tangents[0]


def rounded_weights(params: Mapping[str, Array], plan: Plan) -> dict[str, Array]:
    """A layer's parameters, the matrices of its dense maps as the plan keeps them."""
    bf16 = plan.weights == "bf16"
    return {k: to_bf16(x) if bf16 and k.startswith("w_") else x for k, x in params.items()}


def dense(x: Array, weight: Array, bias: Array | None = None, *, plan: Plan | None = None) -> Array:
    """x (...,I) @ weight (I,O) [+ bias (O,)] -> (...,O).  Clauses: GSS-NRM-4.

    The product is in the precision of its operands, unless Plan(precision="high") asks for less;
    under Plan(weights="bf16") the weight is first rounded to bfloat16, and the gradient passes
    through the rounding.
    """
    checks.check_dense("dense", x, weight, bias)
    x, weight, bias = arrays("dense", x, weight, bias)
    plan = resolve(plan)
    if plan.weights == "bf16":
        weight = to_bf16(weight)
    if plan.native:
        return ffi.dense(x, weight, bias)
    y = einsum("...i,io->...o", x, weight, precision=plan.precision)
    return y if bias is None else y + bias


def by_positions(f: Callable[..., Array], size: int | None, *xs: Array) -> Array:
    """f of arrays (B,L,·) -> (B,L,·), `size` positions at a time and again in the gradient."""
    B, L = xs[0].shape[:2]
    if size is None or size >= B * L:
        return f(*xs)
    pieces = -(-B * L // size)

    def split(x: Array) -> Array:
        """(B,L,·) -> (pieces,size,·), zeros at the end."""
        rows = jnp.pad(x.reshape(B * L, -1), ((0, pieces * size - B * L), (0, 0)))
        return rows.reshape(pieces, size, -1)

    y = lax.map(lambda xs: jax.checkpoint(f, prevent_cse=False)(*xs), tuple(map(split, xs)))
    return y.reshape(pieces * size, -1)[: B * L].reshape(B, L, -1)
