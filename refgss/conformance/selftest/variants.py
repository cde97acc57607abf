"""Honest variants: other ways to compute the same, none of which a check may reject.

Each function below stands in for the function of the reference that its decorator names, in a copy
of the reference, so that gradients, layers and models are computed with it too.  A budget that is
too narrow shows here, as one that is too wide shows in a mutant that survives.
A variant runs as a candidate:
`--candidate python:refgss.conformance.selftest.variants:variant_fft`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import scipy.fft
import scipy.special

from refgss import checks
from refgss.config import KernelForm
from refgss.conformance.selftest.mutants import copy, sources
from refgss.reference.convolution import convolution_at
from refgss.reference.discretization import powers, step_exponent, transition
from refgss.reference.elementary import narrow, phi
from refgss.reference.kernel import mode_weight

Array = np.ndarray
Rows = range | list[int]


@dataclass(frozen=True)
class Variant:
    """The function `by` in place of the reference's `file.function`."""

    name: str
    file: str
    function: str
    by: Callable[..., Any]
    precisions: tuple[str, ...]
    note: str


VARIANTS: dict[str, Variant] = {}


def instead_of(target: str, precisions: tuple[str, ...] = ("f32", "f64")) -> Callable[..., Any]:
    """Declare a function as a variant of the reference's FILE.FUNCTION, honest at `precisions`."""

    def declare(function: Any) -> Any:
        name, (file, replaced) = function.__name__, target.split(".")
        note = (function.__doc__ or "").strip().splitlines()[0]
        VARIANTS[name] = Variant(name, file, replaced, function, precisions, note)
        return function

    return declare


def load(variant: Variant) -> ModuleType:
    """The reference with the variant's function in place of its own."""
    texts = dict(sources())
    texts[variant.file] += (
        f'\n\nfrom {__name__} import VARIANTS\n{variant.function} = VARIANTS["{variant.name}"].by\n'
    )
    return copy(f"variant_{variant.name}", texts)


# --- convolution: u (B,L,H), k (H,taps), and the positions asked for -----------------------------


def by_transform(u: Array, k: Array, rows: Rows, size: int, fft: Any) -> Array:
    """The convolution by real transforms of `size` points."""
    if by_definition(u, k, rows):
        return convolution_at(u, k, rows)
    spectrum = fft.rfft(u, size, axis=1) * fft.rfft(k.T, size, axis=0)
    return fft.irfft(spectrum, size, axis=1)[:, rows].astype(u.dtype)


def by_definition(u: Array, k: Array, rows: Rows) -> bool:
    """Where there is nothing to transform, or a NaN that would spread over its row (GSS-NFI-10)."""
    return not (u.size and k.size and len(rows) and np.all(np.isfinite(u)))


def full_size(u: Array, k: Array) -> int:
    """Points that a linear convolution takes; taps beyond the signal are cut."""
    return max(u.shape[1] + min(k.shape[1], u.shape[1]) - 1, 1)


@instead_of("convolution.convolution_at")
def fft(u: Array, k: Array, rows: Rows) -> Array:
    """NumPy's real FFT, as few points as it takes, even, odd and prime numbers of them."""
    return by_transform(u, k[:, : u.shape[1]], rows, full_size(u, k), np.fft)


@instead_of("convolution.convolution_at")
def fft_power_of_two(u: Array, k: Array, rows: Rows) -> Array:
    """NumPy's real FFT, padded to a power of two."""
    return by_transform(
        u, k[:, : u.shape[1]], rows, 1 << (full_size(u, k) - 1).bit_length(), np.fft
    )


@instead_of("convolution.convolution_at")
def fft_twice_the_length(u: Array, k: Array, rows: Rows) -> Array:
    """NumPy's real FFT of 2L points, the usual choice."""
    return by_transform(u, k[:, : u.shape[1]], rows, max(2 * u.shape[1], 1), np.fft)


@instead_of("convolution.convolution_at")
def fft_scipy(u: Array, k: Array, rows: Rows) -> Array:
    """SciPy's real FFT of a fast length."""
    size = scipy.fft.next_fast_len(full_size(u, k), real=True)
    return by_transform(u, k[:, : u.shape[1]], rows, size, scipy.fft)


@instead_of("convolution.convolution_at")
def right_angle(u: Array, k: Array, rows: Rows) -> Array:
    """The right-angle convolution: twisted by i^{l/L}, a transform of L points needs no padding."""
    if by_definition(u, k, rows):
        return convolution_at(u, k, rows)
    L = u.shape[1]
    kernel = np.zeros((L, len(k)), k.dtype)
    kernel[: k.shape[1]] = k[:, :L].T
    twist = np.exp(0.5j * np.pi / L * np.arange(L))[:, None].astype(np.result_type(u, 1j))
    product = scipy.fft.fft(u * twist, axis=1) * scipy.fft.fft(kernel * twist, axis=0)
    return (scipy.fft.ifft(product, axis=1) * np.conj(twist)).real[:, rows].astype(u.dtype)


@instead_of("convolution.convolution_at")
def toeplitz(u: Array, k: Array, rows: Rows) -> Array:
    """A product with the kernel's Toeplitz matrix."""
    if by_definition(u, k, rows):
        return convolution_at(u, k, rows)
    L = u.shape[1]
    taps = np.zeros((len(k), 2 * L - 1), k.dtype)
    taps[:, L - 1 :][:, : k.shape[1]] = k[:, :L]
    matrix = np.lib.stride_tricks.sliding_window_view(taps, L, axis=1)[..., ::-1]  # (H,L,L)
    return np.einsum("hlj,bjh->blh", matrix, u)[:, rows]


@instead_of("convolution.convolution_at")
def tap_by_tap(u: Array, k: Array, rows: Rows) -> Array:
    """One long chain of additions, first tap first."""
    return chained(u, k, range(min(u.shape[1], k.shape[1])))[:, rows]


@instead_of("convolution.convolution_at")
def tap_by_tap_reversed(u: Array, k: Array, rows: Rows) -> Array:
    """One long chain of additions, last tap first."""
    return chained(u, k, reversed(range(min(u.shape[1], k.shape[1]))))[:, rows]


def chained(u: Array, k: Array, taps: Any) -> Array:
    y = np.zeros_like(u)
    for j in taps:
        y[:, j:] += u[:, : u.shape[1] - j] * k[:, j]
    return y


@instead_of("convolution.convolution_at")
def tap_by_tap_compensated(u: Array, k: Array, rows: Rows) -> Array:
    """Kahan's compensated sum."""
    y, low = np.zeros_like(u), np.zeros_like(u)
    for j in range(min(u.shape[1], k.shape[1])):
        term = u[:, : u.shape[1] - j] * k[:, j] - low[:, j:]
        total = y[:, j:] + term
        low[:, j:] = (total - y[:, j:]) - term
        y[:, j:] = total
    return y[:, rows]


@instead_of("convolution.convolution_at")
def in_blocks(u: Array, k: Array, rows: Rows) -> Array:
    """Overlap-add: blocks of 8 positions, each convolved by transforms."""
    (_, L, _), block = u.shape, 8
    y = np.zeros_like(u)
    for start in range(0, L, block):
        piece = np.zeros_like(u[:, start:])
        piece[:, :block] = u[:, start : start + block]
        y[:, start:] += fft_power_of_two(piece, k, range(L - start))
    return y[:, rows]


@instead_of("convolution.convolution_at")
def accumulated_in_binary64(u: Array, k: Array, rows: Rows) -> Array:
    """Products and sums in binary64, one rounding at the end, as fused multiply-add gives it."""
    return tap_by_tap(u.astype(np.float64), k.astype(np.float64), rows).astype(u.dtype)


# --- discretisation and kernel -------------------------------------------------------------------


@instead_of("discretization.powers")
def two_level_table(z: Any, l: Any, form: KernelForm, like: Any, stepwise: bool = False) -> Array:
    """e^{z(8j+i)} as e^{8zj}·e^{zi}, each factor one exponential, rounded once."""
    if form.method == "bilinear":
        return powers(z, l, form, like, stepwise)
    z, l = z[..., None], np.asarray(l)
    fine = np.fmod(l, 8)  # of l's sign, so that no factor overflows where the shift makes l < 0
    return narrow(np.exp(z * (l - fine)), like) * narrow(np.exp(z * fine), like)


@instead_of("discretization.powers")
def polar(z: Any, l: Any, form: KernelForm, like: Any, stepwise: bool = False) -> Array:
    """e^{zl} from a real exponential, a cosine and a sine, each rounded."""
    if form.method == "bilinear":
        return powers(z, l, form, like, stepwise)
    exponent = z[..., None] * l
    parts = np.exp(exponent.real), np.cos(exponent.imag), np.sin(exponent.imag)
    size, cosine, sine = (narrow(x, like) for x in parts)
    return size * cosine + 1j * (size * sine)


@instead_of("discretization.powers", ("f32",))
def repeated_squaring(z: Any, l: Any, form: KernelForm, like: Any, stepwise: bool = False) -> Array:
    """Ā^l by repeated squaring in binary64, for results of binary32."""
    base, l = transition(z, form)[..., None], np.asarray(l)
    if np.any(l < 0):  # the shifted softmax of growing modes
        return powers(z, l, form, like, stepwise)
    p = np.ones(np.broadcast_shapes(base.shape, l.shape), base.dtype)
    while np.any(l > 0):
        p = np.where(l % 2 == 1, p * base, p)
        base, l = base * base, l // 2
    return narrow(p, like)


@instead_of("kernel.read_out")
def real_products(weight: Array, p: Array) -> Array:
    """Re C̃·Re p − Im C̃·Im p by two real matrix products."""
    if p.ndim == 2:
        return weight.real @ p.real - weight.imag @ p.imag
    w = weight[:, None]  # (H,1,N)
    return (w.real @ p.real - w.imag @ p.imag)[:, 0]


@instead_of("kernel.read_out")
def modes_reversed(weight: Array, p: Array) -> Array:
    """The sum over the modes, last mode first."""
    weight, p = weight[:, ::-1], p[..., ::-1, :]
    return np.sum(weight[:, :, None] * p, axis=1).real


@instead_of("kernel.read_out")
def decayed_modes_dropped(weight: Array, p: Array) -> Array:
    """Without the modes that lie below 1/16 unit in the last place of the largest one."""
    terms = weight[:, :, None] * p  # (H,N,l)
    size = np.abs(terms)
    kept = size > np.finfo(size.dtype).eps / 16 * size.max(1, keepdims=True, initial=0)
    return np.where(kept, terms, 0).sum(1).real


@instead_of("elementary.phi")
def phi_by_parts(z: Array) -> Array:
    """e^z − 1 = (e^x − 1) cos y − 2 sin²(y/2) + i e^x sin y, then the quotient."""
    x, y = z.real, z.imag
    numerator = np.expm1(x) * np.cos(y) - 2 * np.sin(y / 2) ** 2 + 1j * np.exp(x) * np.sin(y)
    zero = z == 0
    return np.where(zero, 1, numerator / np.where(zero, 1, z)).astype(z.dtype)


@instead_of("elementary.phi")
def phi_by_series(z: Array) -> Array:
    """The Taylor series below |z| = 1, the quotient above."""
    series = np.zeros_like(z)
    small = np.where(np.abs(z) < 1, z, 0)
    for k in reversed(range(20)):
        series = series * small + 1 / math.factorial(k + 1)
    return np.where(np.abs(z) < 1, series, phi(z)).astype(z.dtype)


# --- recurrence ----------------------------------------------------------------------------------


def scan_in_pieces(
    u: Array, lam: Array, c: Array, state: Any, delta: Any, form: KernelForm, size: int
) -> tuple[Array, Array]:
    """Pieces of `size` positions: inside, products with powers; between them, the state."""
    (B, L, H), N = u.shape, len(lam)
    delta = np.asarray(delta, lam.real.dtype)
    z = step_exponent(lam, delta)
    weight = mode_weight(lam, c, delta, z, form)
    p = np.broadcast_to(powers(z, np.arange(size + 1), form, c), (H, N, size + 1))
    x = np.zeros((B, H, N), c.dtype) if state is None else state
    y = np.zeros_like(u)
    for start in range(0, L, size):
        piece = u[:, start : start + size]
        for i in range(piece.shape[1]):
            inside = np.einsum("blh,hnl->bhn", piece[:, : i + 1], p[..., : i + 1][..., ::-1])
            y[:, start + i] = ((p[..., i + 1] * x + inside) * weight).sum(-1).real
        x = p[..., piece.shape[1]] * x + inside
    return y, x


@instead_of("recurrence.ssm_scan")
def stepped(
    u: Array, lam: Array, c: Array, state: Any, *, delta: Any, form: KernelForm
) -> tuple[Array, Array]:
    """The recurrence itself, position by position, in the working precision."""
    return checked_scan(u, lam, c, state, delta, form, 1)


@instead_of("recurrence.ssm_scan")
def chunked(
    u: Array, lam: Array, c: Array, state: Any, *, delta: Any, form: KernelForm
) -> tuple[Array, Array]:
    """Chunks of 4 positions, the state carried between them."""
    return checked_scan(u, lam, c, state, delta, form, 4)


def checked_scan(
    u: Array, lam: Array, c: Array, state: Any, delta: Any, form: KernelForm, size: int
) -> tuple[Array, Array]:
    delta, state = checks.check_scan("ssm_scan", u, lam, c, state, delta, form)
    return scan_in_pieces(u, lam, c, state, delta, form, size)


# --- pointwise maps ------------------------------------------------------------------------------


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


@instead_of("pointwise.dense")
def dense_by_einsum(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """The product by einsum, without a BLAS."""
    return checked_dense(x, weight, bias, lambda a, w: np.einsum("...i,io->...o", a, w))


@instead_of("pointwise.dense")
def dense_in_blocks(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Blocks of 3 rows of the weight, summed from the last to the first."""

    def product(a: Array, w: Array) -> Array:
        starts = reversed(range(0, len(w), 3))
        return sum((a[..., i : i + 3] @ w[i : i + 3] for i in starts), np.zeros((), a.dtype))

    return checked_dense(x, weight, bias, product)


@instead_of("pointwise.dense")
def dense_from_bias(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """A chain of additions that begins with the bias."""

    def product(a: Array, w: Array) -> Array:
        y = np.zeros((*a.shape[:-1], w.shape[1]), a.dtype) + (0 if bias is None else bias)
        for i in range(len(w)):
            y = y + a[..., i : i + 1] * w[i]
        return y

    return checked_dense(x, weight, bias, product, add=False)


def checked_dense(x: Array, weight: Array, bias: Any, product: Any, add: bool = True) -> Array:
    checks.check_dense("dense", x, weight, bias)
    y = product(x, weight)
    return y + bias if add and bias is not None else y


# --- language model ------------------------------------------------------------------------------


@instead_of("language_model.log_softmax")
def log_softmax_scipy(logits: Array) -> Array:
    """SciPy's log_softmax."""
    return scipy.special.log_softmax(logits, -1).astype(logits.dtype)


@instead_of("language_model.log_softmax")
def log_sum_exp(logits: Array) -> Array:
    """The logits minus SciPy's logsumexp."""
    return (logits - scipy.special.logsumexp(logits, -1, keepdims=True)).astype(logits.dtype)


def __getattr__(name: str) -> ModuleType:
    if name.startswith("variant_") and name.removeprefix("variant_") in VARIANTS:
        return load(VARIANTS[name.removeprefix("variant_")])
    raise AttributeError(f"there is no variant {name!r}")
