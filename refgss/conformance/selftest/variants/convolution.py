"""Variants of the convolution: u (B,L,H), k (H,taps), and the positions asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft

from refgss.conformance.selftest.variants.declare import Rejection, instead_of
from refgss.reference.convolution import convolution_at

Array = np.ndarray
Rows = range | list[int]


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


@instead_of("convolution.convolution_at")
def overlap_save(u: Array, k: Array, rows: Rows) -> Array:
    """Overlap-save: blocks of 8 outputs, each from a transform of all inputs that reach it."""
    (_, L, _), block = u.shape, 8
    y = np.zeros_like(u)
    for start in range(0, L, block):
        stop = min(start + block, L)
        first = max(stop - k.shape[1] - block, 0)
        y[:, start:stop] = fft_power_of_two(
            u[:, first:stop], k, list(range(start - first, stop - first))
        )
    return y[:, rows]


@instead_of("convolution.convolution_at")
def four_accumulators(u: Array, k: Array, rows: Rows) -> Array:
    """Four partial sums, every fourth tap each, as a vector unit has them."""
    taps = range(min(u.shape[1], k.shape[1]))
    parts = [chained(u, k, taps[i::4]) for i in range(4)]
    return ((parts[0] + parts[1]) + (parts[2] + parts[3]))[:, rows]


@instead_of("convolution.convolution_at")
def taps_in_pairs(u: Array, k: Array, rows: Rows) -> Array:
    """The sum over the taps as a balanced tree."""

    def tree(taps: range) -> Array:
        if len(taps) <= 1:
            return chained(u, k, taps)
        half = len(taps) // 2
        return tree(taps[:half]) + tree(taps[half:])

    return tree(range(min(u.shape[1], k.shape[1])))[:, rows]


@instead_of("convolution.convolution_at", precisions=("f32",))
def fused_multiply_add(u: Array, k: Array, rows: Rows) -> Array:
    """A chain of fused multiply-adds: each product exact, each sum rounded once."""
    y = np.zeros_like(u)
    for j in range(min(u.shape[1], k.shape[1])):
        product = u[:, : u.shape[1] - j].astype(np.float64) * k[:, j].astype(np.float64)
        y[:, j:] = (y[:, j:] + product).astype(u.dtype)
    return y[:, rows]


@instead_of("convolution.convolution_at")
def two_float_sums(u: Array, k: Array, rows: Rows) -> Array:
    """Sums of two numbers each: the running sum and all that it has rounded away."""
    y, low = np.zeros_like(u), np.zeros_like(u)
    for j in range(min(u.shape[1], k.shape[1])):
        term, old = u[:, : u.shape[1] - j] * k[:, j], y[:, j:].copy()
        total = old + term
        part = total - old
        low[:, j:] += (old - (total - part)) + (term - part)
        y[:, j:] = total
    return (y + low)[:, rows]


@instead_of("convolution.convolution_at")
def bluestein(u: Array, k: Array, rows: Rows) -> Array:
    """Bluestein's transforms: any length as a convolution with a chirp."""
    if by_definition(u, k, rows):
        return convolution_at(u, k, rows)
    k, size = k[:, : u.shape[1]], full_size(u, k)
    working = np.result_type(u, 1j)
    spectrum = chirp_transform(padded(u, size).astype(working), -1)
    spectrum = spectrum * chirp_transform(padded(k.T[None], size).astype(working), -1)
    return (chirp_transform(spectrum, 1).real / size)[:, rows].astype(u.dtype)


def padded(x: Array, size: int) -> Array:
    return np.concatenate([x, np.zeros((len(x), size - x.shape[1], x.shape[2]), x.dtype)], 1)


def chirp_transform(x: Array, sign: int) -> Array:
    """The discrete Fourier transform of axis 1, unscaled, of the sign given."""
    n = x.shape[1]
    squares = np.arange(n) ** 2 % (2 * n)  # so that the angle is exact
    chirp = np.exp(sign * 1j * np.pi * squares / n).astype(x.dtype)[:, None]
    size = scipy.fft.next_fast_len(2 * n - 1)
    wave = np.zeros((size, 1), x.dtype)
    wave[:n] = np.conj(chirp)
    wave[size - n + 1 :] = np.conj(chirp[1:][::-1])
    product = scipy.fft.fft(x * chirp, size, axis=1) * scipy.fft.fft(wave, axis=0)
    return scipy.fft.ifft(product, axis=1)[:, :n] * chirp


@instead_of("convolution.convolution_at")
def karatsuba(u: Array, k: Array, rows: Rows) -> Array:
    """Karatsuba's recursion on halves of both operands, down to 32 taps."""
    if by_definition(u, k, rows):
        return convolution_at(u, k, rows)
    L = u.shape[1]
    size = 1 << max(L - 1, 0).bit_length()
    whole = halves(padded(u, size), padded(k[:, :L].T[None], size))
    return whole[:, :L][:, rows]


def halves(a: Array, b: Array) -> Array:
    """The full product of two polynomials along axis 1, both of n = 2^m coefficients."""
    n = a.shape[1]
    if n <= 32:
        a = padded(a, 2 * n)
        return chained(a, np.broadcast_to(b, (1, n, a.shape[2]))[0].T, range(n))
    m = n // 2
    low, high = halves(a[:, :m], b[:, :m]), halves(a[:, m:], b[:, m:])
    middle = halves(a[:, :m] + a[:, m:], b[:, :m] + b[:, m:]) - low - high
    y = np.zeros((len(a), 2 * n, a.shape[2]), a.dtype)
    y[:, :n] += low
    y[:, n:] += high
    y[:, m : m + n] += middle
    return y


@instead_of(
    "convolution.convolution_at",
    rejections=(
        Rejection(
            "GSS-CNV-4",
            ("causal_conv", "causal_conv_vjp", "ssm_scan", "ssm_scan_vjp"),
            "two channels in one complex transform: the errors of one scale with the other",
        ),
    ),
)
def two_rows_in_one_transform(u: Array, k: Array, rows: Rows) -> Array:
    """Two channels as the real and the imaginary part of one complex transform."""
    if by_definition(u, k, rows) or u.shape[2] < 2:
        return convolution_at(u, k, rows)
    odd, size = u.shape[2] % 2, full_size(u, k)
    wide = np.concatenate([u, u[..., :1]], 2) if odd else u
    taps = np.concatenate([k, k[:1]]) if odd else k
    taps = taps[:, : u.shape[1]].T
    spectrum = scipy.fft.fft(wide[..., ::2] + 1j * wide[..., 1::2], size, axis=1)
    back = np.conj(np.roll(spectrum[:, ::-1], 1, axis=1))
    first, second = (spectrum + back) / 2, (spectrum - back) / 2j
    kernels = scipy.fft.fft(taps, size, axis=0)
    product = first * kernels[:, ::2] + 1j * second * kernels[:, 1::2]
    both = scipy.fft.ifft(product, axis=1)
    y = np.stack([both.real, both.imag], -1).reshape(*both.shape[:2], -1)
    return y[:, rows][..., : u.shape[2]].astype(u.dtype)
