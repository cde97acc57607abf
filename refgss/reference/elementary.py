"""Chapter 11: elementary functions, and the only lines where precision is named.

The reference is plain NumPy.  An array type other than `ndarray` that answers to the same
operators, and brings methods named as the functions below, gives the same text another reading:
`refgss.conformance.vectors.enclosure` reads it in proven balls and derives the error budgets
from it.
"""

from __future__ import annotations

import math
from functools import wraps
from typing import Any

import numpy as np

Array = Any  # ndarray, or another reading of it


def readable(function):
    """Let an array type that is not NumPy's bring its own method of the function's name."""

    @wraps(function)
    def read(x: Array, *args: Any) -> Array:
        own = getattr(x, function.__name__, None)
        return function(x, *args) if own is None else own(*args)

    return read


@readable
def wide(x):
    """x in binary64, exactly: the precision in which exponents are formed.  Clauses: GSS-ACC-2."""
    return np.asarray(x, np.result_type(x, np.float64))


@readable
def narrow(x, like):
    """x rounded to the precision of `like`; real stays real and complex stays complex.

    Clauses: GSS-ARR-1, GSS-ACC-1.
    """
    return x.astype(np.result_type(like.real.dtype, 1j) if np.iscomplexobj(x) else like.real.dtype)


@readable
def rounded_powers(p, l, like, stepwise):
    """p = Ā^l rounded to the precision of `like`.  Clauses: GSS-ACC-2, GSS-ACC-4.

    `stepwise` changes no value here; it says that the clause allows l multiplications by a rounded
    Ā (a recurrence), where otherwise the power is one elementary function.
    """
    return narrow(p, like)


@readable
def fft_allowance(y, k, u):
    """y (B,L,H), unchanged: the budget of a convolution admits an FFT's error.

    Clauses: GSS-ACC-5.
    """
    return y


@readable
def phi(z):
    """φ(z) = (e^z - 1)/z and φ(0) = 1, without cancellation.

    Clauses: GSS-DIS-2, GSS-DIS-4, GSS-DIS-7, GSS-ACC-3.
    """
    one = np.abs(z) < np.finfo(z.dtype).eps  # to within 𝐮; a subnormal divisor would overflow
    return np.where(one, 1, np.expm1(z) / np.where(one, 1, z)).astype(z.dtype)


@readable
def exp_minus_one(z, like):
    """e^z - 1, its exponent in binary64, rounded to the precision of `like`.

    Clauses: GSS-ACC-2, GSS-ACC-3.
    """
    return narrow(np.expm1(z), like)


@readable
def phi_derivative(z):
    """φ'(z) = (e^z - φ(z))/z, by its Taylor series Σ (k+1)/(k+2)! z^k where |z| < 1.

    Clauses: GSS-GRD-3, GSS-ACC-3.
    """
    series = np.zeros_like(z)
    small = np.where(np.abs(z) < 1, z, 0)
    for k in reversed(range(20)):  # Horner; 1/20! is below binary64
        series = series * small + (k + 1) / math.factorial(k + 2)
    large = np.where(np.abs(z) < 1, 1, z)
    return np.where(np.abs(z) < 1, series, (np.exp(large) - phi(large)) / large).astype(z.dtype)


@readable
def normal_cdf(x):
    """Φ(x) = erfc(-x/√2)/2: no cancellation in either tail.  Clauses: GSS-NRM-3, GSS-ACC-3."""
    erfc = np.frompyfunc(math.erfc, 1, 1)
    return (0.5 * erfc(-wide(x) / math.sqrt(2)).astype(np.float64)).astype(x.dtype)


@readable
def normal_pdf(x):
    """Φ'(x) = e^{-x²/2}/√(2π).  Clauses: GSS-GRD-8."""
    return np.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))


@readable
def sigmoid(x):
    """1/(1 + e^-x), by e^-|x|, which does not overflow.  Clauses: GSS-BRT-13, GSS-ACC-3."""
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1) / (1 + small)


CUBIC = 0.044715  # of the approximation of Φ by tanh


@readable
def normal_cdf_tanh(x):
    """(1 + tanh(√(2/π)(x + 0.044715 x³)))/2, an approximation of Φ(x).  Clauses: GSS-HYB-3."""
    z = math.sqrt(2 / math.pi) * (x + CUBIC * x * x * x)
    return 0.5 * (1 + np.tanh(z))


@readable
def normal_pdf_tanh(x):
    """The derivative of `normal_cdf_tanh`.  Clauses: GSS-HYB-3."""
    root = math.sqrt(2 / math.pi)
    tanh = np.tanh(root * (x + CUBIC * x * x * x))
    return 0.5 * root * (1 - tanh * tanh) * (1 + 3 * CUBIC * x * x)


@readable
def over_root(x, n):
    """x/√n, n an integer.  Clauses: GSS-ATT-3."""
    return x / math.sqrt(n)


@readable
def rotation(x, r, base):
    """cos and sin (B,L,D/2) of r·base^(-2i/D), D the last axis of x, in the precision of x.

    The angles are formed in binary64: at position 10⁶ binary32 has no digit of them left.
    Clauses: GSS-ATT-14.
    """
    D = x.shape[-1]
    angle = r[..., None] * base ** (-np.arange(0, D, 2) / D)
    return np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype)


@readable
def alibi(x, heads, length):
    """-2^(-8(h+1)/heads)·n for distances n, (heads,length), in the precision of x.

    Clauses: GSS-ATT-4.
    """
    slopes = 2.0 ** (-8 * np.arange(1, heads + 1) / heads)
    return (-slopes[:, None] * np.arange(length)).astype(x.dtype)


@readable
def online_allowance(y, w, x, seen):
    """y = Σ w x over what is seen, unchanged: the budget admits sums that are formed online.

    Clauses: GSS-ATT-18.
    """
    return y


@readable
def either(x, other):
    """x: the budget admits the errors of `other` too, which is the same number made otherwise.

    Clauses: GSS-ATT-19.
    """
    return x


@readable
def to_complex(re, im):
    """re + i·im."""
    return re + 1j * im
