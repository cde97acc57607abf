"""Chapter 3: the kernel.  K[h,l] = s Re Σ_n C[h,n] B̄[·,n] Ā[·,n]^l, s = 2 for conjugate pairs."""

from __future__ import annotations

import numpy as np

from refgss import checks
from refgss.config import KernelForm
from refgss.reference.discretization import (
    input_weight,
    input_weight_vjp,
    powers,
    powers_derivative,
    softmax_shift,
    step_exponent,
)
from refgss.reference.elementary import Array


def kernel_at(lam: Array, c: Array, l: Array, delta: Array, form: KernelForm) -> Array:
    """K at the positions l only: (N,), (H,N), (|l|,) -> (H,|l|).  Clauses: GSS-KER-1, GSS-KER-2."""
    z = step_exponent(lam, delta)
    if form.method == "dss-softmax":
        l = l - softmax_shift(z, form)
    return read_out(mode_weight(lam, c, delta, z, form), powers(z, l, form, c))


def mode_weight(lam: Array, c: Array, delta: Array, z: Array, form: KernelForm) -> Array:
    """C̃ = s C B̄ (H,N): the weight of each mode.  Clauses: GSS-KER-1, GSS-KER-2, GSS-REC-2."""
    return (2 if form.pairs else 1) * c * input_weight(lam, delta, z, form)


def read_out(weight: Array, p: Array) -> Array:
    """Re Σ_n C̃[h,n] p[·,n,l]: (H,N), (·,N,l) -> (H,l).  Clauses: GSS-KER-1."""
    return np.einsum("hn,nl->hl" if p.ndim == 2 else "hn,hnl->hl", weight, p).real


def ssm_kernel(lam: Array, c: Array, length: int, *, delta: Array, form: KernelForm) -> Array:
    """K (H, length) real.  Clauses: GSS-KER-1..6, GSS-NFI-14.

    lam (N,), c (H,N) complex; delta scalar, (H,) or (H,2) real.  length >= 0.
    Raises ValueError where Re Λ > 0 (dss-softmax excepted), Δ <= 0 or length < 0.
    """
    delta = checks.check_kernel("ssm_kernel", lam, c, length, delta, form)
    return kernel_at(lam, c, np.arange(length), delta, form)


def ssm_kernel_vjp(
    lam: Array, c: Array, length: int, dk: Array, *, delta: Array, form: KernelForm
) -> tuple[Array, Array, Array]:
    """dK (H,length) -> dΛ (N,), dC (H,N), dΔ of Δ's shape.

    Clauses: GSS-GRD-1, GSS-GRD-4, GSS-NFI-16.
    """
    delta = checks.check_kernel("ssm_kernel_vjp", lam, c, length, delta, form)
    checks.check_shape("ssm_kernel_vjp", "dk", dk, (c.shape[0], length), "f")
    z, l = step_exponent(lam, delta), np.arange(length)
    if form.method == "dss-softmax":
        l = l - softmax_shift(z, form)
    weight = mode_weight(lam, c, delta, z, form)
    p = powers(z, l, form, c)  # (·,N,l)
    slope = powers_derivative(z, l, form, c, False)
    dweight = np.einsum("hl,nl->hn" if p.ndim == 2 else "hl,hnl->hn", dk, np.conj(p))
    dz = np.einsum("hl,nl->hn" if p.ndim == 2 else "hl,hnl->hn", dk, np.conj(slope))
    return modes_vjp(lam, c, delta, z, dweight, np.conj(weight) * dz, form)


def modes_vjp(
    lam: Array, c: Array, delta: Array, z: Array, dweight: Array, dz: Array, form: KernelForm
) -> tuple[Array, Array, Array]:
    """dC̃ and dz, both (H,N) -> dΛ (N,), dC (H,N), dΔ of Δ's shape.

    Clauses: GSS-GRD-4, GSS-GRD-6.
    """
    s = 2 if form.pairs else 1
    dc = s * np.conj(input_weight(lam, delta, z, form)) * dweight  # (H,N)
    dbbar = s * np.conj(c) * dweight  # (H,N)
    if not delta.ndim:  # z and B̄ are shared by the channels: (H,N) -> (N,)
        dbbar, dz = dbbar.sum(0), dz.sum(0)
    dlam, ddelta = input_weight_vjp(lam, delta, z, dbbar, dz, form)
    return dlam, dc, ddelta
