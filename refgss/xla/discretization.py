"""Chapter 2: parameters and discretisation.  (a, b) -> Λ;  (Λ, Δ) -> z = ΔΛ -> Ā, B̄.

Δ is a scalar, (H,) or (H,2); what depends on it is (N,) for a scalar and (H,N) otherwise: (·,N).
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from refgss import checks
from refgss.config import Imag, KernelForm
from refgss.xla.inputs import arrays
from refgss.xla.pairs import Array, Pair, choose, pair, unpair
from refgss.xla.powers import Exponent, cayley, pole, powers


def s4d_lambda(n: int, *, init: str) -> Array:
    """Λ (n,) complex: one of each conjugate pair.  Clauses: GSS-INI-1..GSS-INI-4.

    Raises ValueError for an unknown init or n < 1.
    """
    if n < 1:
        raise ValueError(f"s4d_lambda: n must be at least 1, not {n}")
    k = np.arange(n)
    re: np.ndarray = np.full(n, -0.5)
    im: np.ndarray = np.zeros(n)
    if init == "lin":
        im = math.pi * k
    elif init == "inv":
        im = 2 * n / math.pi * (2 * n / (2 * k + 1) - 1)
    elif init == "real":
        re = -1.0 - k
    elif init == "legs":  # HiPPO's skew part is normal: its spectrum is ±i times singular values
        root = np.sqrt(2 * np.arange(2 * n) + 1.0)
        skew = np.outer(root, root) / 2 * np.sign(np.subtract.outer(root, root))
        im = np.linalg.svd(skew, compute_uv=False)[::2]
    else:
        raise ValueError(f"s4d_lambda: unknown init {init!r}: use lin, inv, real or legs")
    return jnp.asarray(re + 1j * im)


def gss_lambda(a: Array, b: Array, *, imag: Imag) -> Array:
    """Λ = -e^a + i e^b, or -e^a + i b: (N,) -> (N,) complex.  Clauses: GSS-PAR-1, GSS-PAR-2."""
    checks.check_lambda_parameters(a, b, imag)
    a, b = arrays("gss_lambda", a, b)
    return lax.complex(-jnp.exp(a), jnp.exp(b) if imag == "exp" else b)


def admitted(
    lam: Array, delta: Array, form: KernelForm, *, growing: bool = False
) -> tuple[Array, Array]:
    """Λ and Δ, NaN where an op refuses them: compiled code cannot refuse, but its results show it.

    Clauses: GSS-DIS-6, GSS-DIS-8, GSS-NFI-2, GSS-NFI-3.
    """
    softmax = form.method == "dss-softmax"
    good = (jnp.real(lam) <= 0) | (growing and softmax)
    if softmax:
        good &= lam != 0
    return jnp.where(good, lam, jnp.nan), jnp.where(delta > 0, delta, jnp.nan)


def step_exponent(lam: Pair, delta: Array) -> Exponent:
    """z = ΔΛ (·,N), or Δ_re Re Λ + i Δ_im Im Λ.  Clauses: GSS-DIS-1, GSS-ACC-2."""
    if delta.ndim == 2:
        return Exponent(lam, delta[:, :1], delta[:, 1:])
    return Exponent(lam, delta[..., None], delta[..., None])


# Gauss-Legendre on [0,1]: eight nodes integrate e^{sz} to 10^-22 where |z| < 1
NODES, WEIGHTS = (np.polynomial.legendre.leggauss(8) + np.array([[1.0], [0.0]])) / 2


def expm1_and_phi(z: Exponent, times: int = 1) -> tuple[Pair, Pair]:
    """e^z - 1 and φ(z) = (e^z - 1)/z = ∫₀¹ e^{sz} ds, of `times` z: the integral where |z| < 1.

    A sum of positive weights cancels nothing, in φ as in φ′ = ∫₀¹ s e^{sz} ds, and neither does the
    derivative e^z of e^z - 1 elsewhere.  Clauses: GSS-ACC-3.
    """
    e = powers(z, times * np.append(NODES, 1), "zoh")
    terms, e = e[..., :-1] * jnp.asarray(WEIGHTS, z.lam.re.dtype), e[..., -1]
    inside = Pair(terms.re.sum(-1), terms.im.sum(-1))
    slim = z.rounded * times
    small = slim.re * slim.re + slim.im * slim.im < 1
    outside = Pair(e.re - 1, e.im)
    divisor = Pair(jnp.where(small, 1, slim.re), slim.im)  # not 0, for the sake of the gradient
    return (
        choose(small, inside * slim, outside),
        choose(small, inside, outside * divisor.reciprocal()),
    )


def input_weight(lam: Pair, delta: Array, z: Exponent, form: KernelForm) -> Pair:
    """B̄ (·,N); where Re Λ > 0 times e^{z(R-1)}.

    Clauses: GSS-DIS-2, GSS-DIS-3, GSS-DIS-4, GSS-DIS-5, GSS-DIS-9, GSS-DIS-10, GSS-DIS-11.
    """
    slim, step = z.rounded, delta[..., None]
    if form.method == "zoh":
        return expm1_and_phi(z)[1] * step
    if form.method == "bilinear":
        return pole(slim) * step
    if form.method == "dss-exp":
        if form.reciprocal == "shifted":
            return expm1_and_phi(z)[0] * shifted_reciprocal(lam, form.floor)
        size = jnp.maximum(lam.re**2 + lam.im**2, form.floor)
        return expm1_and_phi(z)[0] * Pair(lam.re / size, -lam.im / size)
    if form.reciprocal == "shifted":
        first, last = softmax_ends(z, form)
        return first * shifted_reciprocal(last * lam, form.floor)
    if form.reciprocal == "shifted-sum":
        return shifted_reciprocal(softmax_sum(z, form), form.floor) * lam.reciprocal()
    return (lam * softmax_sum(z, form)).reciprocal()


def softmax_ends(z: Exponent, form: KernelForm) -> tuple[Pair, Pair]:
    """e^z - 1 and e^{zR} - 1 (·,N), whose quotient is 1/Σ_r e^{zr}; of -z where Re Λ > 0."""
    _, z = decaying(z)
    return expm1_and_phi(z)[0], expm1_and_phi(z, form.span)[0]


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def shifted_reciprocal(x: Pair, eps: float) -> Pair:
    """conj(x)/(|x|² + ε), scaled so that |x|² neither over- nor underflows."""
    scale = 1 / jnp.maximum(jnp.maximum(jnp.abs(x.re), jnp.abs(x.im)), math.sqrt(eps))
    re, im = x.re * scale, x.im * scale
    size = re * re + im * im + eps * scale * scale
    return Pair(re, -im) * (scale / size)


@shifted_reciprocal.defjvp
def _shifted_reciprocal_jvp(eps, primals, tangents):
    """-r² dx + ε/(|x|² + ε)² conj(dx): r is not holomorphic.  Clauses: GSS-GRD-15."""
    (x,), (dx,) = primals, tangents
    r = shifted_reciprocal(x, eps)
    size = x.re * x.re + x.im * x.im + eps
    return r, r * r * dx * -1.0 + dx.conj() * (eps / size / size)


def decaying(z: Exponent) -> tuple[Array, Exponent]:
    """Whether Re z > 0 (N,), and z, or then -z: the largest term of a softmax is factored out."""
    grows = z.lam.re > 0
    return grows, Exponent(choose(grows, z.lam * -1.0, z.lam), z.step_re, z.step_im)


def softmax_sum(z: Exponent, form: KernelForm) -> Pair:
    """Σ_r e^{±z r} over r < form.length (·,N), every term at most 1 in modulus.

    Two levels: with r = T j + t the sum is a product of two short sums, and a remainder.
    """
    _, z = decaying(z)
    L = form.span
    T = max(math.isqrt(L), 1)
    q = L // T
    A, B = powers(z, T * np.arange(q + 1), "zoh"), powers(z, np.arange(T), "zoh")

    def total(p: Pair) -> Pair:
        return Pair(p.re.sum(-1), p.im.sum(-1))

    return total(A[..., :q]) * total(B) + A[..., q] * total(B[..., : L - q * T])


def transition(z: Exponent, form: KernelForm) -> Pair:
    """Ā (·,N): e^z, or (1 + z/2)/(1 - z/2).  Clauses: GSS-DIS-2, GSS-DIS-3."""
    if form.method == "bilinear":
        return cayley(z.rounded)
    return powers(z, np.ones(1, int), form.method)[..., 0]


def discretize(lam: Array, delta: Array, *, form: KernelForm) -> tuple[Array, Array]:
    """Ā, B̄ (·,N) complex.  lam (N,) complex; delta scalar, (H,) or (H,2) real.

    Raises ValueError where Re Λ > 0, Δ <= 0, or Λ = 0 under dss-softmax; where these are not known
    yet (under jit) the results are NaN.
    Clauses: GSS-DIS-1..GSS-DIS-6.
    """
    delta = checks.check_modes("discretize", lam, delta, form)
    return discretized(*arrays("discretize", lam, delta), form)


@partial(jax.jit, static_argnames="form")
def discretized(lam: Array, delta: Array, form: KernelForm) -> tuple[Array, Array]:
    lam, delta = admitted(lam, delta, form)
    z = step_exponent(pair(lam), delta)
    return unpair(transition(z, form)), unpair(input_weight(pair(lam), delta, z, form))
