"""Chapter 2: parameters and discretisation.  (a, b) -> Λ;  (Λ, Δ) -> z = ΔΛ -> Ā, B̄.

Shapes: N states, H channels.  Δ is a scalar, (H,), or (H,2) with steps of its own for Re and Im;
what depends on it has shape (N,) for a scalar Δ and (H,N) otherwise, written (·,N) below.
Cotangents of complex arrays are ∂ℓ/∂Re + i ∂ℓ/∂Im (GSS-GRD-1).
"""

from __future__ import annotations

import numpy as np

from refgss import checks
from refgss.config import Imag, KernelForm
from refgss.reference.elementary import (
    Array,
    exp_minus_one,
    narrow,
    phi,
    phi_derivative,
    rounded_powers,
    to_complex,
    wide,
)

ONE = np.array([1])  # Ā itself, as its first power


def gss_lambda(a: Array, b: Array, *, imag: Imag) -> Array:
    """Λ = -e^a + i e^b, or -e^a + i b.  Clauses: GSS-PAR-1, GSS-PAR-2.

    a, b (N,) real -> Λ (N,) complex, Re Λ < 0.
    """
    checks.check_lambda_parameters(a, b, imag)
    return to_complex(-np.exp(a), np.exp(b) if imag == "exp" else b)


def gss_lambda_vjp(a: Array, b: Array, dlam: Array, *, imag: Imag) -> tuple[Array, Array]:
    """dΛ (N,) -> da, db (N,).  Clauses: GSS-GRD-1, GSS-GRD-2."""
    checks.check_lambda_parameters(a, b, imag)
    checks.check_shape("gss_lambda_vjp", "dlam", dlam, a.shape, "c")
    return -np.exp(a) * dlam.real, np.exp(b) * dlam.imag if imag == "exp" else dlam.imag


def step_exponent(lam: Array, delta: Array) -> Array:
    """z = ΔΛ (·,N), or Δ_re Re Λ + i Δ_im Im Λ, in binary64.  Clauses: GSS-DIS-1, GSS-ACC-2."""
    lam, delta = wide(lam), wide(delta)
    if delta.ndim == 2:
        return to_complex(delta[:, :1] * lam.real, delta[:, 1:] * lam.imag)  # (H,N)
    return delta[..., None] * lam  # (N,) or (H,N)


def step_exponent_vjp(lam: Array, delta: Array, dz: Array) -> tuple[Array, Array]:
    """dz (·,N) -> dΛ (N,), dΔ of Δ's shape.  Clauses: GSS-GRD-3, GSS-GRD-14."""
    if delta.ndim == 2:
        dlam = to_complex(np.sum(delta[:, :1] * dz.real, 0), np.sum(delta[:, 1:] * dz.imag, 0))
        return dlam, np.stack([dz.real @ lam.real, dz.imag @ lam.imag], 1)
    dlam = delta[..., None] * dz  # (·,N)
    return dlam.sum(0) if delta.ndim else dlam, (np.conj(lam) * dz).real.sum(-1)


def transition(z: Array, form: KernelForm) -> Array:
    """Ā (·,N): e^z, or (1 + z/2)/(1 - z/2).  Clauses: GSS-DIS-2, GSS-DIS-3."""
    return (1 + z / 2) / (1 - z / 2) if form.method == "bilinear" else np.exp(z)


def powers(z: Array, l: Array, form: KernelForm, like: Array, stepwise: bool = False) -> Array:
    """Ā^l (·,N,|l|), its exponent in binary64, rounded as `like`.

    Clauses: GSS-DIS-2, GSS-DIS-3, GSS-KER-1, GSS-KER-3, GSS-ACC-2, GSS-ACC-4.
    """
    z = z[..., None]
    p = transition(z, form) ** l if form.method == "bilinear" else np.exp(z * l)
    return rounded_powers(p, l, like, stepwise)


def powers_derivative(z: Array, l: Array, form: KernelForm, like: Array, stepwise: bool) -> Array:
    """∂Ā^l/∂z (·,N,|l|): l e^{zl}, or l Ā^{l-1} ∂Ā/∂z.  Clauses: GSS-GRD-3, GSS-GRD-4."""
    times = l.astype(like.real.dtype)  # an integer array would promote float32
    if form.method != "bilinear":
        return times * powers(z, l, form, like, stepwise)
    slope = narrow(1 / (1 - z / 2) ** 2, like)  # ∂Ā/∂z, (·,N)
    return times * powers(z, np.maximum(l - 1, 0), form, like, stepwise) * slope[..., None]


def input_weight(lam: Array, delta: Array, z: Array, form: KernelForm) -> Array:
    """B̄ (·,N); where Re Λ > 0 times e^{z(R-1)}.

    Clauses: GSS-DIS-2, GSS-DIS-3, GSS-DIS-4, GSS-DIS-5, GSS-DIS-9, GSS-DIS-10, GSS-DIS-11.
    """
    if form.reciprocal == "exact":
        return 1 / (lam * softmax_sum(z, form, lam))
    if form.reciprocal == "shifted-sum":
        return shifted_reciprocal(softmax_sum(z, form, lam), form) / lam
    if form.method == "dss-softmax":  # shifted
        first, last = softmax_ends(z, form, lam)
        return first * shifted_reciprocal(last * lam, form)
    z = narrow(z, lam)
    if form.method == "zoh":
        return delta[..., None] * phi(z)
    if form.method == "bilinear":
        return delta[..., None] / (1 - z / 2)
    if form.reciprocal == "shifted":
        return z * phi(z) * shifted_reciprocal(lam, form)
    return z * phi(z) * clamped_reciprocal(lam, form)  # dss-exp


def softmax_sum(z: Array, form: KernelForm, like: Array) -> Array:
    """Σ_r e^{z (r - shift)} over r < form.length (·,N): every term at most 1 in modulus.

    Clauses: GSS-DIS-5, GSS-KER-4, GSS-KER-5.
    """
    r = np.arange(form.span)
    return powers(z, r - softmax_shift(z, form), form, like).sum(-1)


def softmax_shift(z: Array, form: KernelForm) -> Array:
    """form.length - 1 where Re Λ > 0, else 0: the largest term factored out.  (·,N,1)

    Clauses: GSS-KER-5.
    """
    return (form.span - 1) * np.asarray(z.real > 0, int)[..., None]


def falling(z: Array) -> Array:
    """z, or -z where Re Λ > 0: the exponent of a mode that does not grow."""
    return np.where(z.real > 0, -z, z)


def softmax_ends(z: Array, form: KernelForm, like: Array) -> tuple[Array, Array]:
    """e^z - 1 and e^{zR} - 1 (·,N), whose quotient is 1/Σ_r e^{zr}; of -z where Re Λ > 0.

    Clauses: GSS-DIS-10.
    """
    z = falling(z)
    slim = narrow(z, like)
    return slim * phi(slim), exp_minus_one(z * form.span, like)


def shifted_reciprocal(x: Array, form: KernelForm) -> Array:
    """conj(x)/(|x|² + ε).  Clauses: GSS-DIS-9, GSS-DIS-10, GSS-DIS-11."""
    return np.conj(x) / (x.real**2 + x.imag**2 + form.floor)


def shifted_reciprocal_vjp(x: Array, dr: Array, form: KernelForm) -> Array:
    """dx of r = conj(x)/(|x|² + ε): -conj(r²) dr + ε/(|x|² + ε)² conj(dr).  Clauses: GSS-GRD-15."""
    size = x.real**2 + x.imag**2 + form.floor
    return form.floor / size / size * np.conj(dr) - (x / size) ** 2 * dr


def clamped_reciprocal(lam: Array, form: KernelForm) -> Array:
    """conj(Λ)/max(|Λ|², ε) (N,).  Clauses: GSS-DIS-4."""
    return np.conj(lam) / np.maximum(lam.real**2 + lam.imag**2, form.floor)


def discretize(lam: Array, delta: Array, *, form: KernelForm) -> tuple[Array, Array]:
    """Ā, B̄ (·,N): x_l = Ā x_{l-1} + B̄ u_l.  Clauses: GSS-DIS-1..11, GSS-NFI-2..3.

    lam (N,) complex, Re Λ <= 0; delta scalar, (H,) or (H,2) real, positive.
    Raises ValueError where Re Λ > 0, or Δ <= 0, or Λ = 0 under dss-softmax.
    """
    delta = checks.check_modes("discretize", lam, delta, form)
    z = step_exponent(lam, delta)
    return powers(z, ONE, form, lam)[..., 0], input_weight(lam, delta, z, form)


def discretize_vjp(
    lam: Array, delta: Array, dabar: Array, dbbar: Array, *, form: KernelForm
) -> tuple[Array, Array]:
    """dĀ, dB̄ (·,N) -> dΛ (N,), dΔ of Δ's shape.  Clauses: GSS-GRD-1, GSS-GRD-3."""
    delta = checks.check_modes("discretize_vjp", lam, delta, form)
    for name, cotangent in (("dabar", dabar), ("dbbar", dbbar)):
        shape = (*delta.shape[:1], *lam.shape)
        checks.check_shape("discretize_vjp", name, cotangent, shape, "c")
    z = step_exponent(lam, delta)
    dz = np.conj(powers_derivative(z, ONE, form, lam, False)[..., 0]) * dabar
    return input_weight_vjp(lam, delta, z, dbbar, dz, form)


def input_weight_vjp(
    lam: Array, delta: Array, z: Array, dbbar: Array, dz: Array, form: KernelForm
) -> tuple[Array, Array]:
    """dB̄ and, from elsewhere, dz (·,N) -> dΛ (N,), dΔ of Δ's shape.

    Clauses: GSS-GRD-3, GSS-GRD-13, GSS-GRD-15.
    """
    dlam: Array = 0  # what does not pass through z
    ddelta: Array = 0
    slim = narrow(z, lam)
    if form.method == "zoh":  # B̄ = Δ φ(z)
        dz = dz + np.conj(delta[..., None] * phi_derivative(slim)) * dbbar
        ddelta = (np.conj(phi(slim)) * dbbar).real.sum(-1)
    elif form.method == "bilinear":  # B̄ = Δ/(1 - z/2)
        pole = 1 / (1 - slim / 2)
        dz = dz + np.conj(delta[..., None] / 2 * pole**2) * dbbar
        ddelta = (np.conj(pole) * dbbar).real.sum(-1)
    elif form.reciprocal in ("shifted", "shifted-sum"):
        dz, dlam = shifted_weight_vjp(lam, z, dbbar, dz, form)
    elif form.method == "dss-exp":  # B̄ = (e^z - 1) r(Λ)
        dz = dz + np.conj(np.exp(slim) * clamped_reciprocal(lam, form)) * dbbar
        dr = np.conj(slim * phi(slim)) * dbbar  # (·,N)
        clamped = lam.real**2 + lam.imag**2 <= form.floor
        dlam = np.where(
            clamped, np.conj(dr) / form.floor, -dr / np.conj(np.where(clamped, 1, lam)) ** 2
        )
    else:  # B̄ = 1/(Λ σ(z))
        l = np.arange(form.span) - softmax_shift(z, form)
        bbar, slope = input_weight(lam, delta, z, form), powers_derivative(z, l, form, lam, False)
        dz = dz - np.conj(bbar * slope.sum(-1) / softmax_sum(z, form, lam)) * dbbar
        dlam = -np.conj(bbar / lam) * dbbar
    if delta.ndim and form.method.startswith("dss"):
        dlam = dlam.sum(0)
    through_z = step_exponent_vjp(lam, delta, dz)
    return dlam + through_z[0], ddelta + through_z[1]


def shifted_weight_vjp(
    lam: Array, z: Array, dbbar: Array, dz: Array, form: KernelForm
) -> tuple[Array, Array]:
    """dB̄ and dz (·,N) -> dz with the share of B̄, and dΛ (·,N) as far as it does not pass through z.

    Clauses: GSS-GRD-3, GSS-GRD-15.
    """
    slim = narrow(z, lam)
    if form.method == "dss-exp":  # B̄ = (e^z - 1) r(Λ)
        dz = dz + np.conj(np.exp(slim) * shifted_reciprocal(lam, form)) * dbbar
        return dz, shifted_reciprocal_vjp(lam, np.conj(slim * phi(slim)) * dbbar, form)
    r = np.arange(form.span) - softmax_shift(z, form)
    if form.reciprocal == "shifted-sum":  # B̄ = r(σ)/Λ
        total, slope = softmax_sum(z, form, lam), powers_derivative(z, r, form, lam, False).sum(-1)
        bbar = shifted_reciprocal(total, form) / lam
        dtotal = shifted_reciprocal_vjp(total, dbbar / np.conj(lam), form)
        return dz + np.conj(slope) * dtotal, -np.conj(bbar / lam) * dbbar
    first, last = softmax_ends(z, form, lam)  # B̄ = (e^z - 1) r((e^{zR} - 1)Λ)
    inverse = shifted_reciprocal(last * lam, form)
    dx = shifted_reciprocal_vjp(last * lam, np.conj(first) * dbbar, form)
    ends = powers(falling(z), np.array([1, form.span]), form, lam)  # e^z, e^{zR}
    through = np.conj(ends[..., 0] * inverse) * dbbar
    through = through + form.span * np.conj(ends[..., 1] * lam) * dx
    return dz + np.where(z.real > 0, -through, through), np.conj(last) * dx
