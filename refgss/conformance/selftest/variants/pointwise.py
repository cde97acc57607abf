"""Variants of layer norm and of the normal distribution function in GELU."""

from __future__ import annotations

import math

import numpy as np
import scipy.special

from refgss.conformance.selftest.variants.declare import Rejection, instead_of

Array = np.ndarray


@instead_of("elementary.normal_cdf")
def cdf_by_erf(x: Array) -> Array:
    """½(1 + erf(x/√2)), as frameworks write it."""
    return (0.5 * (1 + scipy.special.erf(x * x.dtype.type(math.sqrt(0.5))))).astype(x.dtype)


@instead_of("elementary.normal_cdf")
def cdf_by_erfc(x: Array) -> Array:
    """½ erfc(−x/√2) in the working precision."""
    return (0.5 * scipy.special.erfc(x * -x.dtype.type(math.sqrt(0.5)))).astype(x.dtype)


@instead_of("elementary.normal_cdf")
def cdf_by_ndtr(x: Array) -> Array:
    """SciPy's distribution function."""
    return scipy.special.ndtr(x).astype(x.dtype)


@instead_of("pointwise.normalize")
def shifted_welford(x: Array, eps: float) -> tuple[Array, Array]:
    """Mean and variance in one pass, of the deviations from the first element."""
    x = x - x[..., :1]
    mean, squares = np.zeros_like(x[..., :1]), np.zeros_like(x[..., :1])
    for i in range(x.shape[-1]):
        d = x[..., i : i + 1] - mean
        mean = mean + d / x.dtype.type(i + 1)
        squares = squares + d * (x[..., i : i + 1] - mean)
    scale = 1 / np.sqrt(squares / x.dtype.type(x.shape[-1]) + x.dtype.type(eps))
    return (x - mean) * scale, scale


@instead_of("pointwise.normalize")
def divided_by_root(x: Array, eps: float) -> tuple[Array, Array]:
    """A quotient instead of a product with the reciprocal; NumPy's variance."""
    root = np.sqrt(x.var(-1, keepdims=True) + x.dtype.type(eps))
    return (x - x.mean(-1, keepdims=True)) / root, 1 / root


@instead_of("pointwise.normalize")
def normalized_in_binary64(x: Array, eps: float) -> tuple[Array, Array]:
    """Statistics in binary64, rounded at the end."""
    d = x - x.mean(-1, keepdims=True, dtype=np.float64)
    scale = 1 / np.sqrt((d * d).mean(-1, keepdims=True) + eps)
    return (d * scale).astype(x.dtype), scale.astype(x.dtype)


@instead_of("elementary.normal_cdf")
def cdf_by_logarithm(x: Array) -> Array:
    """e^{log Φ(x)}, from SciPy's logarithm of the distribution function."""
    return np.exp(scipy.special.log_ndtr(x.astype(np.float64))).astype(x.dtype)


@instead_of("elementary.normal_cdf", precisions=("f32",))
def cdf_by_polynomial(x: Array) -> Array:
    """erf by a rational polynomial (Abramowitz and Stegun 7.1.26), as small libraries have it."""
    t = np.abs(x) * x.dtype.type(math.sqrt(0.5))
    s = 1 / (1 + x.dtype.type(0.3275911) * t)
    series = np.zeros_like(t)
    for a in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = series * s + x.dtype.type(a)
    erf = np.copysign(1 - series * s * np.exp(-t * t), x)
    return np.asarray(0.5 * (1 + erf), x.dtype)


@instead_of("elementary.normal_pdf")
def pdf_by_logarithm(x: Array) -> Array:
    """e^{−x²/2 − log √(2π)}."""
    return np.exp(x * x * x.dtype.type(-0.5) - x.dtype.type(0.5 * math.log(2 * math.pi)))


@instead_of("pointwise.normalize")
def corrected_two_pass(x: Array, eps: float) -> tuple[Array, Array]:
    """Two passes and the correction of Chan, Golub and LeVeque: −(Σd)²/E, and d less its mean."""
    d = x - x.mean(-1, keepdims=True)
    rest = d.mean(-1, keepdims=True)
    scale = 1 / np.sqrt((d * d).mean(-1, keepdims=True) - rest * rest + x.dtype.type(eps))
    return (d - rest) * scale, scale


@instead_of("pointwise.normalize")
def merged_moments(x: Array, eps: float) -> tuple[Array, Array]:
    """Means and squares of blocks of 4, merged as Chan does, of deviations from the first."""
    x = x - x[..., :1]
    blocks = [x[..., i : i + 4] for i in range(0, x.shape[-1], 4)]
    count, mean, squares = 0, np.zeros_like(x[..., :1]), np.zeros_like(x[..., :1])
    for block in blocks:
        n, m = block.shape[-1], block.mean(-1, keepdims=True)
        apart, total = m - mean, count + n
        squares = squares + ((block - m) ** 2).sum(-1, keepdims=True)
        squares = squares + apart * apart * x.dtype.type(count * n / total)
        mean, count = mean + apart * x.dtype.type(n / total), total
    scale = 1 / np.sqrt(squares / x.dtype.type(count) + x.dtype.type(eps))
    return (x - mean) * scale, scale


@instead_of("pointwise.normalize")
def root_by_newton(x: Array, eps: float) -> tuple[Array, Array]:
    """The reciprocal root from half the digits and one step of Newton's."""
    d = x - x.mean(-1, keepdims=True)
    v = (d * d).mean(-1, keepdims=True) + x.dtype.type(eps)
    half = np.float32 if x.dtype == np.float64 else np.float16
    ample = (v > 1e-4) & (v < 1e4)  # where the narrow type has them
    scale = np.where(ample, (1 / np.sqrt(np.where(ample, v, 1).astype(half))).astype(x.dtype), 0)
    for _ in range(2):
        scale = scale * (x.dtype.type(1.5) - x.dtype.type(0.5) * v * scale * scale)
    scale = np.where(ample, scale, 1 / np.sqrt(v))
    return d * scale, scale


@instead_of(
    "pointwise.normalize",
    rejections=(
        Rejection(
            "GSS-NRM-2",
            ("layer_norm", "layer_norm_vjp"),
            "the mean is rounded before anything is subtracted: σ² errs by 𝐮·|μ|/σ of itself",
        ),
    ),
)
def welford(x: Array, eps: float) -> tuple[Array, Array]:
    """Welford's recurrence on the numbers as they are, in one pass."""
    mean, squares = np.zeros_like(x[..., :1]), np.zeros_like(x[..., :1])
    for i in range(x.shape[-1]):
        d = x[..., i : i + 1] - mean
        mean = mean + d / x.dtype.type(i + 1)
        squares = squares + d * (x[..., i : i + 1] - mean)
    scale = 1 / np.sqrt(squares / x.dtype.type(x.shape[-1]) + x.dtype.type(eps))
    return (x - mean) * scale, scale
