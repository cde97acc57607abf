"""A candidate in JAX to start from: give it your own code, op by op, and check it again.

    refgss check --candidate python:THIS_FILE --profile f32

An op that is missing here, or that raises NotImplementedError, counts as not claimed; any other
exception counts as a refusal of the input.  `refgss spec GSS-KER-1` prints a clause.  Arguments are
JAX's arrays, whose values are known; channels last: u (B,L,H).  Results have the precision of the
arguments.
"""

import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)  # for the profile f64, and for exponents (GSS-ACC-2)
jax.config.update("jax_default_matmul_precision", "highest")  # not that of a TPU (GSS-ACC-6)


def capabilities():
    """What this candidate claims; profiles: f32, f64 and the layers paper and gss-pytorch."""
    return {
        "name": "my-gss",
        "version": "0.1",
        "ops": ["causal_conv", "ssm_kernel", "layer_norm"],
        "profiles": ["f32", "f64"],
        "arrays": "jax",
    }


def causal_conv(u, k):
    """u (B,L,H), k (H,Lk) -> y (B,L,H): y[b,l,h] = sum over j of k[h,j] u[b,l-j,h]."""
    if u.ndim != 3 or k.ndim != 2 or u.shape[2] != k.shape[0]:
        raise ValueError(f"u {u.shape} and k {k.shape} must be (B,L,H) and (H,Lk)")
    length = u.shape[1]
    lag = jnp.arange(length)[:, None] - jnp.arange(length)
    inside = (lag >= 0) & (lag < k.shape[1])
    padded = jnp.pad(k, ((0, 0), (0, 1)))
    toeplitz = padded[:, jnp.where(inside, lag, k.shape[1])]  # (H,L,L)
    return jnp.einsum("hlt,bth->blh", toeplitz, u)


def ssm_kernel(lam, c, length, *, delta, form):
    """lam (N,), c (H,N) complex -> K (H,length) = Re sum over n of C (e^z - 1)/Λ e^{zl}, z = ΔΛ."""
    if form.method != "zoh" or delta.ndim:
        raise NotImplementedError("zero-order hold with one step for all channels")
    if lam.ndim != 1 or c.ndim != 2 or c.shape[1] != lam.shape[0]:
        raise ValueError(f"lam {lam.shape} and c {c.shape} must be (N,) and (H,N)")
    if not jnp.isfinite(lam).all() or not (lam.real <= 0).all():
        raise ValueError("Re lam must be finite and not positive")
    if not (jnp.isfinite(delta) and delta > 0):
        raise ValueError("delta must be positive and finite")
    if not 0 <= length < 2**31:
        raise ValueError("length must not be negative")
    z = jnp.complex128(delta) * lam  # exponents in binary64, whatever the precision (GSS-ACC-2)
    nonzero = jnp.where(z == 0, 1, z)
    bbar = delta * jnp.where(z == 0, 1, jnp.expm1(nonzero) / nonzero)  # expm1: no cancellation
    powers = jnp.exp(z[:, None] * jnp.arange(length))  # (N,length)
    k = ((c * bbar) @ powers).real
    return ((2 if form.pairs else 1) * k).astype(c.real.dtype)


def layer_norm(x, weight, bias, *, eps):
    """x (...,E), weight and bias (E,) -> (...,E)."""
    if not x.ndim or not x.shape[-1] or not x.shape[-1:] == weight.shape == bias.shape:
        raise ValueError(f"x {x.shape} must end in the shape of weight {weight.shape} and bias")
    d = x - x.mean(-1, keepdims=True)
    return d / jnp.sqrt((d * d).mean(-1, keepdims=True) + eps) * weight + bias
