"""Chapters 3 to 5 in plain PyTorch: kernel, causal convolution and the map with a state.

Nothing here steps through time but `ssm_step`: y is a convolution with K plus what the state
contributes, and the new state is a matrix product with powers of Ā.  Two tables of about √L powers
stand for one of L: K[h, Tj + t] = Re Σ_n (C̃[h,n] Ā_n^{Tj}) Ā_n^t.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.fft import next_fast_len
from torch.nn import functional

from refgss import checks
from refgss.config import KernelForm
from refgss.torch.discretization import (
    admitted,
    falling,
    input_weight,
    powers,
    step_exponent,
    transition,
    wide,
)
from refgss.torch.inputs import Tensor, eager


class Powers(NamedTuple):
    """Ā^l for 0 <= l < JT, as products of two tables; and what a state needs beside them."""

    coarse: Tensor  # Ā^{Tj} (·,N,J)
    fine: Tensor  # Ā^t (·,N,T)
    first: Tensor  # Ā (·,N)
    last: Tensor  # Ā^L (·,N)


def two_level_powers(z: Tensor, length: int, rows: int, method: str, dtype: torch.dtype) -> Powers:
    """For sums over (rows,N) modes, or for z (H,N) over one row of N modes a channel."""
    rows = rows if z.ndim == 1 else 1
    T = 2 ** round(math.log2(max(length * rows, 1)) / 2)
    T = min(T, 2 ** math.ceil(math.log2(max(length, 1))))
    J = -(-length // T)
    coarse = T * torch.arange(J, device=z.device)
    ends = torch.tensor([1, length], device=z.device)
    l = torch.cat([coarse, torch.arange(T, device=z.device), ends])
    p = powers(z, l, method).to(dtype)
    return Powers(p[..., :J], p[..., J : J + T], p[..., J + T], p[..., J + T + 1])


def real_part(a: Tensor, b: Tensor) -> Tensor:
    """Re(a @ b), as a real product of [Re, -Im] and [Re; Im]."""
    return torch.cat([a.real, -a.imag], -1) @ torch.cat([b.real, b.imag], -2)


def mode_weight(lam: Tensor, c: Tensor, delta: Tensor, z: Tensor, form: KernelForm) -> Tensor:
    """C̃ = s C B̄ (H,N).  Clauses: GSS-KER-2."""
    return ((2 if form.pairs else 1) * wide(c) * input_weight(lam, delta, z, form)).to(c.dtype)


def mode_sum(weight: Tensor, p: Powers, length: int) -> Tensor:
    """Re Σ_n w[...,h,n] Ā_n^l for l < length: (...,H,N) -> (...,H,length)."""
    W = weight[..., None] * p.coarse  # (...,H,N,J)
    k = real_part(W.mT, p.fine)  # (...,H,J,T)
    return k.flatten(-2)[..., :length]


def ssm_kernel(lam: Tensor, c: Tensor, length: int, delta: Tensor, form: KernelForm) -> Tensor:
    """K (H,length).  Clauses: GSS-KER-1..6."""
    if eager():
        checks.check_kernel("ssm_kernel", lam, c, length, delta, form)
    lam, delta = admitted(lam, delta, form, growing=True)
    z = step_exponent(lam, delta)
    weight = mode_weight(lam, c, delta, z, form)
    if form.method != "dss-softmax":
        p = two_level_powers(z, length, len(c), form.method, c.dtype)
        return mode_sum(weight, p, length)
    # a growing mode is e^{-z(R-1-l)}: a decaying one in reversed time, R the declared length
    grows, z = z.real > 0, falling(z)
    p = two_level_powers(z, length, len(c), form.method, c.dtype)
    since = torch.tensor([form.span - length], device=z.device)
    late = powers(z, since, form.method)[..., 0].to(c.dtype)
    ahead = mode_sum(torch.where(grows, 0, weight), p, length)
    behind = mode_sum(torch.where(grows, weight * late, 0), p, length)
    return ahead + behind.flip(-1)


# --- convolution ----------------------------------------------------------------------------------


def causal_conv(u: Tensor, k: Tensor) -> Tensor:
    """y (B,L,H).  A value that is not finite spoils its own row (b,h), earlier positions included.

    Clauses: GSS-CNV-1..4, GSS-ACC-5, GSS-NFI-8.
    """
    if eager():
        checks.check_convolution("causal_conv", u, k)
    return convolve(u, k)


@torch.compiler.assume_constant_result
def fast_length(n: int) -> int:
    """At least n, and quick to transform."""
    return next_fast_len(n, real=True)


def convolve(u: Tensor, k: Tensor) -> Tensor:
    L = u.shape[1]
    k = k[:, :L]  # later taps meet no signal
    if 0 in (*u.shape, *k.shape):
        return torch.zeros_like(u)
    n = fast_length(L + k.shape[1] - 1)  # nothing wraps round
    u, (a, b) = u.mT, (half_of_scale(u.mT), half_of_scale(k))
    spectrum = torch.fft.rfft(u * a * a, n) * torch.fft.rfft(k * b * b, n)
    return (torch.fft.irfft(spectrum, n)[..., :L] / (a * b) / (a * b)).mT


def half_of_scale(x: Tensor) -> Tensor:
    """A power of two for each row, whose square makes its largest number about 1; of zeros, 1.

    A transform of numbers that are not normal would lose their digits.  The square itself need not
    be normal.
    """
    largest = x.detach().abs().amax(-1, keepdim=True)
    return torch.exp2(-torch.frexp(largest)[1] // 2).to(x.dtype)


def before_first(bad: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """u with zeros from the first bad value of each row (b,h) on; where that is still to come.

    A transform, and 0·NaN in a matrix product, would carry the value back in time (GSS-NFI-10).
    """
    sound = bad.cumsum(1) == 0
    return torch.where(sound, u, 0), sound


def convolve_causally(u: Tensor, k: Tensor) -> Tensor:
    """K ∗ u for finite u, where a step that would overflow in a transform spoils none before it.

    What comes before such a step is the convolution without it.
    """
    limit = 2.0**40 if u.dtype == torch.float32 else 2.0**300
    calm, before = before_first(u.abs() > limit, u)
    y = convolve(calm, k)
    if eager() and before.all():
        return y
    return torch.where(before, y, convolve(u, k))


# --- recurrence -----------------------------------------------------------------------------------


def ssm_scan(
    u: Tensor, lam: Tensor, c: Tensor, state: Tensor | None, delta: Tensor, form: KernelForm
) -> tuple[Tensor, Tensor]:
    """y = K ∗ u + Re Σ C̃ Ā^{l+1} x_0 (B,L,H),  x_L = Ā^L x_0 + Σ_l Ā^{L-1-l} u_l (B,H,N).

    Clauses: GSS-REC-1..4, GSS-STA-1..2, GSS-ACC-4, GSS-NFI-9, GSS-NFI-10, GSS-NFI-14.
    """
    if eager():
        checks.check_scan("ssm_scan", u, lam, c, state, delta, form)
    lam, delta = admitted(lam, delta, form)
    z, L = step_exponent(lam, delta), u.shape[1]
    weight = mode_weight(lam, c, delta, z, form)
    p = two_level_powers(z, L, len(c), form.method, c.dtype)
    clean, sound = before_first(~u.isfinite(), u)
    y, x = convolve_causally(clean, mode_sum(weight, p, L)), final_state(clean, p)
    if state is not None:
        y = y + mode_sum(weight * state * p.first, p, L).mT
        x = x + p.last * state
    if not len(lam):  # a sum over nothing, whatever u is
        return torch.zeros_like(u), x
    nothing = float("nan")
    ends = torch.where(sound.all(1), 0.0, nothing).to(u.dtype)[..., None]  # (B,H,1)
    return torch.where(sound, y, nothing), x + torch.complex(ends, ends)


def final_state(u: Tensor, p: Powers) -> Tensor:
    """Σ_l Ā^{L-1-l} u_l: (B,L,H) -> (B,H,N), the two tables read backwards."""
    (B, L, H), J, T = u.shape, p.coarse.shape[-1], p.fine.shape[-1]
    u = functional.pad(u, (0, 0, J * T - L, 0)).reshape(B, J, T, H).permute(0, 3, 1, 2)
    within = p.fine.flip(-1).mT  # (·,T,N)
    x = torch.complex(u @ within.real, u @ within.imag)  # (B,H,J,N)
    return (x * p.coarse.flip(-1).mT).sum(-2)


def ssm_step(
    u: Tensor, lam: Tensor, c: Tensor, state: Tensor | None, delta: Tensor, form: KernelForm
) -> tuple[Tensor, Tensor]:
    """One token: u (B,H), x (B,H,N) or None -> y (B,H), x' (B,H,N).

    Clauses: GSS-REC-1, GSS-REC-2, GSS-NFI-9.
    """
    if eager():
        checks.check_step("ssm_step", u, lam, c, state, delta, form)
    lam, delta = admitted(lam, delta, form)
    z = step_exponent(lam, delta)
    x = torch.complex(u, 0 * u)[..., None].expand(*u.shape, len(lam))  # NaN in both parts
    if state is not None:
        x = x + transition(z, form).to(c.dtype) * state
    weight = mode_weight(lam, c, delta, z, form)
    return (weight * x).real.sum(-1), x
