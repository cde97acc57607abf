"""Variants of the discretisation and of the kernel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refgss.config import KernelForm
from refgss.conformance.selftest.variants.declare import instead_of
from refgss.reference.discretization import powers, transition
from refgss.reference.elementary import narrow, phi

Array = np.ndarray


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


@instead_of("discretization.powers", precisions=("f32",))
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


@instead_of("discretization.powers", precisions=("f32",))
def running_product(z: Any, l: Any, form: KernelForm, like: Any, stepwise: bool = False) -> Array:
    """Ā^l = Ā·Ā^{l−1} in binary64, as Horner's rule has it, for results of binary32."""
    l = np.asarray(l)
    if l.ndim != 1 or not len(l) or l[0] != 0 or np.any(np.diff(l) != 1):
        return powers(z, l, form, like, stepwise)
    base = np.broadcast_to(transition(z, form)[..., None], (*z.shape, len(l))).copy()
    base[..., 0] = 1
    return narrow(np.cumprod(base, -1), like)


@instead_of("discretization.powers")
def sine_of_the_half(z: Any, l: Any, form: KernelForm, like: Any, stepwise: bool = False) -> Array:
    """cos θ = 1 − 2 sin²(θ/2), the exponent reduced modulo 2π first."""
    if form.method == "bilinear":
        return powers(z, l, form, like, stepwise)
    exponent = z[..., None] * l
    angle = np.remainder(exponent.imag + math.pi, 2 * math.pi) - math.pi
    turned = 1 - 2 * np.sin(angle / 2) ** 2 + 1j * np.sin(angle)
    return narrow(np.exp(exponent.real) * turned, like)


@instead_of("kernel.read_out")
def modes_in_pairs(weight: Array, p: Array) -> Array:
    """The sum over the modes as a balanced tree."""
    terms = weight[:, :, None] * p

    def tree(x: Array) -> Array:
        half = x.shape[1] // 2
        return x.sum(1) if x.shape[1] < 2 else tree(x[:, :half]) + tree(x[:, half:])

    return tree(terms).real


@instead_of("kernel.read_out", precisions=("f32",))
def read_out_in_binary64(weight: Array, p: Array) -> Array:
    """The sum over the modes in binary64, rounded once."""
    wide = weight.astype(np.complex128)[:, :, None] * p
    return wide.sum(1).real.astype(weight.real.dtype)


@instead_of("elementary.phi")
def phi_by_kahan(z: Array) -> Array:
    """Kahan's (w − 1)/log w, w = e^z rounded, where |z| < 1: the errors of both cancel."""
    w = np.exp(z)
    near = (np.abs(z) < 1) & (w != 1)
    quotient = (w - 1) / np.log(np.where(near, w, 2))
    return np.where(near, quotient, np.where(w == 1, 1, phi(z))).astype(z.dtype)


@instead_of("elementary.phi")
def phi_by_sinh(z: Array) -> Array:
    """e^{z/2}·sinh(z/2)/(z/2) where |z| < 1."""
    half = np.where((np.abs(z) < 1) & (z != 0), z / 2, 1)
    product = np.exp(half) * np.sinh(half) / half
    return np.where(np.abs(z) < 1, np.where(z == 0, 1, product), phi(z)).astype(z.dtype)
