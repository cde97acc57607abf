"""The paper's pseudocode (arXiv 2206.13947) in JAX, line by line: what a reader would write first.

Complex arithmetic, the kernel's N×L exponentials at once, an FFT of length 2L.  The precision of
matrix products is left to whoever compiles it.
"""

import jax
import jax.numpy as jnp


def kernel_and_convolution(re, im, c, u):
    """re, im (N,): Λ = re + i·im; c (H,N,2); u (B,L,H) -> (B,L,H)."""
    L = u.shape[1]
    lam = re + 1j * im
    weight = (c[..., 0] + 1j * c[..., 1]) * (jnp.exp(lam) - 1) / lam
    powers = jnp.exp(lam[:, None] * jnp.arange(L))
    k = jnp.einsum("hn,nl->hl", weight, powers).real
    spectrum = jnp.fft.rfft(u, 2 * L, axis=1) * jnp.fft.rfft(k.T, 2 * L, axis=0)
    return jnp.fft.irfft(spectrum, 2 * L, axis=1)[:, :L]


def layer_norm(x, weight, bias):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight + bias


def gss_layer(p, x):
    """x (B,L,E) -> (B,L,E)."""
    h = layer_norm(x, p["norm.weight"], p["norm.bias"])
    v = jax.nn.gelu(h @ p["w_v"], approximate=False)
    u = jax.nn.gelu(h @ p["w_u"], approximate=False)
    y = kernel_and_convolution(-jnp.exp(p["ssm.a"]), jnp.exp(p["ssm.b"]), p["ssm.c"], u)
    y = y + p["ssm.d"] * u
    return ((y @ p["w_uc"]) * v) @ p["w_o"] + x
