"""Chapter 2 in plain PyTorch: (a, b) -> Λ;  (Λ, Δ) -> z = ΔΛ -> Ā, B̄.

z, and all that is made of it, is in binary64 until it is rounded.  Δ is a scalar, (H,) or (H,2);
what depends on it is (N,) for a scalar and (H,N) otherwise, written (·,N).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from refgss import checks
from refgss.config import KernelForm
from refgss.torch.inputs import Tensor, eager


def gss_lambda(a: Tensor, b: Tensor, imag: str) -> Tensor:
    """Clauses: GSS-PAR-1, GSS-PAR-2."""
    if eager():
        checks.check_lambda_parameters(a, b, imag)
    return torch.complex(-a.exp(), b.exp() if imag == "exp" else b)


def wide(x: Tensor) -> Tensor:
    """In binary64, in which exponents are formed.  Clauses: GSS-ACC-2."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def admitted(lam: Tensor, delta: Tensor, form: KernelForm, growing: bool = False) -> Any:
    """Λ and Δ, NaN where an op refuses them: compiled code cannot refuse, but its results show it.

    Clauses: GSS-DIS-6, GSS-DIS-8, GSS-NFI-2, GSS-NFI-3.
    """
    if eager():
        return lam, delta
    softmax = form.method == "dss-softmax"
    good = lam.real <= 0
    if softmax:
        good = (good | growing) & (lam != 0)
    nothing = float("nan")
    return torch.where(good, lam, nothing), torch.where(delta > 0, delta, nothing)


def step_exponent(lam: Tensor, delta: Tensor) -> Tensor:
    """z = ΔΛ (·,N), or Δ_re Re Λ + i Δ_im Im Λ.  Clauses: GSS-DIS-1, GSS-ACC-2."""
    lam, delta = wide(lam), wide(delta)
    if delta.ndim == 2:
        return torch.complex(delta[:, :1] * lam.real, delta[:, 1:] * lam.imag)
    step = delta[..., None]
    return torch.complex(step * lam.real, step * lam.imag)


def exponential(z: Tensor) -> Tensor:
    """e^z; 0 where Re z is far below all exponents, whatever the angle, and if it overflowed."""
    vanishes = z.real < -1e5
    x, y = torch.where(vanishes, -1e5, z.real), torch.where(vanishes, 0.0, z.imag)
    return torch.polar(x.exp(), y)


class Cayley(torch.autograd.Function):
    """(1 + z/2)/(1 - z/2); as a quotient its derivative would be a difference."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return (1 + z / 2) / (1 - z / 2)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        pole = 1 / (1 - z / 2)
        return cotangents[0] * (pole * pole).conj()


class IntegerPowers(torch.autograd.Function):
    """a^l (·,N,|l|) for whole l >= 0, by squares, with a derivative that is right at 0 too."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, l: Tensor) -> Tensor:
        ctx.save_for_backward(a, l)
        return whole_powers(a, l)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        a, l = ctx.saved_tensors
        slope = l * whole_powers(a, (l - 1).clamp(min=0))
        return (cotangents[0] * slope.conj()).sum(-1), None


def whole_powers(a: Tensor, l: Tensor) -> Tensor:
    p, square = torch.ones_like(a)[..., None].expand(*a.shape, len(l)), a[..., None]
    for bit in range(int(l.max()).bit_length() if len(l) else 0):
        p = torch.where((l >> bit) & 1 == 1, p * square, p)
        square = square * square
    return p


def powers(z: Tensor, l: Tensor, method: str) -> Tensor:
    """Ā^l (·,N,|l|), l whole and not negative.  Clauses: GSS-KER-3, GSS-ACC-2."""
    if method == "bilinear":
        return IntegerPowers.apply(Cayley.apply(z), l)
    times = l.to(torch.float64)
    return exponential(torch.complex(z.real[..., None] * times, z.imag[..., None] * times))


# Gauss-Legendre on [0,1]: eight nodes integrate e^{sz} to 10^-22 where |z| < 1
NODES, WEIGHTS = (np.polynomial.legendre.leggauss(8) + np.array([[1.0], [0.0]])) / 2


def expm1_and_phi(z: Tensor) -> tuple[Tensor, Tensor]:
    """e^z - 1 and φ(z) = (e^z - 1)/z = ∫₀¹ e^{sz} ds: the integral where |z| < 1.

    A sum of positive weights cancels nothing, in φ as in φ′ = ∫₀¹ s e^{sz} ds.
    Clauses: GSS-ACC-3.
    """
    near = z.real * z.real + z.imag * z.imag < 1
    small, large = torch.where(near, z, 0), torch.where(near, 1, z)
    nodes, weights = (torch.as_tensor(x, device=z.device) for x in (NODES, WEIGHTS))
    inside = (exponential(small[..., None] * nodes) * weights).sum(-1)
    outside = exponential(large) - 1
    return torch.where(near, inside * small, outside), torch.where(near, inside, outside / large)


def input_weight(lam: Tensor, delta: Tensor, z: Tensor, form: KernelForm) -> Tensor:
    """B̄ (·,N) in binary64; where Re Λ > 0 times e^{z(R-1)}.

    Clauses: GSS-DIS-2, GSS-DIS-3, GSS-DIS-4, GSS-DIS-5, GSS-DIS-9, GSS-DIS-10, GSS-DIS-11.
    """
    lam, step = wide(lam), wide(delta)[..., None]
    if form.method == "zoh":
        return step * expm1_and_phi(z)[1]
    if form.method == "bilinear":
        return step / (1 - z / 2)
    if form.method == "dss-exp":
        if form.reciprocal == "shifted":
            return expm1_and_phi(z)[0] * ShiftedReciprocal.apply(lam, form.floor)
        size = lam.real * lam.real + lam.imag * lam.imag
        clamped = size <= form.floor
        inverse = torch.where(clamped, lam.conj() / form.floor, 1 / torch.where(clamped, 1, lam))
        return expm1_and_phi(z)[0] * inverse
    if form.reciprocal == "shifted":
        first, last = (expm1_and_phi(x)[0] for x in (falling(z), falling(z) * form.span))
        return first * ShiftedReciprocal.apply(last * lam, form.floor)
    total = softmax_sum(falling(z), form)
    if form.reciprocal == "shifted-sum":
        return ShiftedReciprocal.apply(total, form.floor) / lam
    return 1 / (lam * total)


def falling(z: Tensor) -> Tensor:
    """z, or -z where Re Λ > 0: the exponent of a mode that does not grow."""
    return torch.where(z.real > 0, -z, z)


def softmax_sum(z: Tensor, form: KernelForm) -> Tensor:
    """Σ_r e^{zr} over r < form.length (·,N), in two levels: r = Tj + t, a product of short sums.

    Clauses: GSS-DIS-5, GSS-KER-4.
    """
    R = form.span
    T = max(math.isqrt(R), 1)
    q = R // T
    l = torch.arange(max(q + 1, T), device=z.device)
    outer, inner = powers(z, T * l[: q + 1], "zoh"), powers(z, l[:T], "zoh")
    rest = outer[..., q] * inner[..., : R - q * T].sum(-1)
    return outer[..., :q].sum(-1) * inner.sum(-1) + rest


class ShiftedReciprocal(torch.autograd.Function):
    """conj(x)/(|x|² + ε), scaled so that |x|² neither over- nor underflows.

    The derivative is -r² dx + ε/(|x|² + ε)² conj(dx): r is not holomorphic.  Clauses: GSS-GRD-15.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.eps = eps
        return shifted_reciprocal(x, eps)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        (x,), (dr,) = ctx.saved_tensors, cotangents
        r = shifted_reciprocal(x, ctx.eps)
        size = x.real * x.real + x.imag * x.imag + ctx.eps
        return ctx.eps / size / size * dr.conj() - (r * r).conj() * dr, None


def shifted_reciprocal(x: Tensor, eps: float) -> Tensor:
    scale = 1 / torch.maximum(x.real.abs(), x.imag.abs()).clamp(min=math.sqrt(eps))
    re, im = x.real * scale, x.imag * scale
    factor = scale / (re * re + im * im + eps * scale * scale)
    return torch.complex(re * factor, -im * factor)


def discretize(lam: Tensor, delta: Tensor, form: KernelForm) -> tuple[Tensor, Tensor]:
    """Ā, B̄ (·,N).  Clauses: GSS-DIS-1..11."""
    if eager():
        checks.check_modes("discretize", lam, delta, form)
    dtype = lam.dtype
    lam, delta = admitted(lam, delta, form)
    z = step_exponent(lam, delta)
    return transition(z, form).to(dtype), input_weight(lam, delta, z, form).to(dtype)


def transition(z: Tensor, form: KernelForm) -> Tensor:
    """Ā (·,N).  Clauses: GSS-DIS-2, GSS-DIS-3."""
    return Cayley.apply(z) if form.method == "bilinear" else exponential(z)
