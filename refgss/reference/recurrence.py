"""Chapter 5: the same map with a state.  x_l = Ā x_{l-1} + u_l,  y_l = Re Σ_n C̃ x_l.

The state is in unit-input form (B̄ is folded into C̃ = s C B̄) and read after the update (GSS-REC-1).
`ssm_step` is the recurrence; `ssm_scan` is its closed form, which can be certified:
y = K * u + Re C̃ Ā^{l+1} x_0 and x_L = Ā^L x_0 + Σ_l Ā^{L-1-l} u_l.
"""

from __future__ import annotations

import numpy as np

from refgss import checks
from refgss.config import KernelForm
from refgss.reference.convolution import causal_conv, causal_conv_vjp
from refgss.reference.discretization import ONE, powers, powers_derivative, step_exponent
from refgss.reference.elementary import Array
from refgss.reference.kernel import mode_weight, modes_vjp, read_out


def channel_powers(z: Array, l: Array, form: KernelForm, c: Array) -> Array:
    """Ā^l for every channel (H,N,|l|), with the budget of a recurrence.

    Clauses: GSS-REC-4, GSS-ACC-4.
    """
    p = powers(z, l, form, c, True)
    return p if p.ndim == 3 else np.broadcast_to(p, (c.shape[0], *p.shape))


def ssm_scan(
    u: Array, lam: Array, c: Array, state: Array | None, *, delta: Array, form: KernelForm
) -> tuple[Array, Array]:
    """u (B,L,H), x_0 (B,H,N) or None for zeros -> y (B,L,H), x_L (B,H,N).

    lam (N,), c (H,N) complex; delta scalar, (H,) or (H,2).  L = 0 returns the state unchanged.
    Raises ValueError as `ssm_kernel` does, and where shapes disagree.
    Clauses: GSS-REC-1..4, GSS-STA-1..2, GSS-ARR-2, GSS-NFI-1, GSS-NFI-9..10, GSS-NFI-14.
    """
    delta, state = checks.check_scan("ssm_scan", u, lam, c, state, delta, form)
    L = u.shape[1]
    z = step_exponent(lam, delta)
    weight = mode_weight(lam, c, delta, z, form)  # C̃ (H,N)
    p = channel_powers(z, np.arange(L + 1), form, c)  # (H,N,L+1)
    k = read_out(weight, p[..., :L])
    y = causal_conv(u, k if len(lam) else k[:, :0])  # N = 0: a sum over nothing, whatever u is
    y = y + np.einsum("bhn,hn,hnl->blh", state, weight, p[..., 1:]).real
    x = p[..., L] * state + np.einsum("blh,hnl->bhn", u, p[..., :L][..., ::-1])
    return y, x


def ssm_scan_vjp(
    u: Array,
    lam: Array,
    c: Array,
    state: Array | None,
    dy: Array,
    dstate: Array,
    *,
    delta: Array,
    form: KernelForm,
) -> tuple[Array, Array, Array, Array, Array]:
    """dy (B,L,H), dx_L (B,H,N) -> du, dΛ, dC, dx_0, dΔ.  Clauses: GSS-GRD-1, GSS-GRD-6."""
    delta, state = checks.check_scan("ssm_scan_vjp", u, lam, c, state, delta, form)
    checks.check_shape("ssm_scan_vjp", "dy", dy, u.shape, "f")
    checks.check_shape("ssm_scan_vjp", "dstate", dstate, state.shape, "c")
    L = u.shape[1]
    z = step_exponent(lam, delta)
    weight = mode_weight(lam, c, delta, z, form)  # C̃ (H,N)
    p = channel_powers(z, np.arange(L + 1), form, c)  # (H,N,L+1)
    cp, cw = np.conj(p), np.conj(weight)
    du, dk = causal_conv_vjp(u, read_out(weight, p[..., :L]), dy)
    du = du + np.einsum("bhn,hnl->blh", dstate, cp[..., :L][..., ::-1]).real
    carried = np.einsum("blh,hnl->bhn", dy, cp[..., 1:])  # Σ_l dy_l conj(Ā^{l+1})
    dstate0 = cw * carried + cp[..., L] * dstate
    dweight = np.einsum("hl,hnl->hn", dk, cp[..., :L])
    dweight = dweight + np.einsum("bhn,bhn->hn", np.conj(state), carried)
    # dp (H,N,l): what reaches the power Ā^l through the kernel, the carried state and x_L
    kernel = np.einsum("hn,hl->hnl", cw, dk)
    inputs = np.einsum("blh,bhn->hnl", u, dstate)[..., ::-1]
    carry = np.einsum("hn,bhn,blh->hnl", cw, np.conj(state), dy)
    final = np.einsum("bhn,bhn->hn", np.conj(state), dstate)[..., None]
    slope = np.conj(powers_derivative(z, np.arange(L + 1), form, c, True))
    slope = slope if slope.ndim == 3 else np.broadcast_to(slope, p.shape)
    dz = np.einsum("hnl,hnl->hn", slope[..., :L], kernel + inputs)
    dz = dz + np.einsum("hnl,hnl->hn", slope[..., 1:], carry) + (slope[..., L:] * final)[..., 0]
    dlam, dc, ddelta = modes_vjp(lam, c, delta, z, dweight, dz, form)
    return du, dlam, dc, dstate0, ddelta


def ssm_step(
    u: Array, lam: Array, c: Array, state: Array | None, *, delta: Array, form: KernelForm
) -> tuple[Array, Array]:
    """One token: u (B,H), x (B,H,N) or None -> y (B,H), x' (B,H,N).

    Clauses: GSS-REC-1, GSS-REC-2, GSS-STA-1, GSS-STA-2, GSS-ARR-2, GSS-NFI-9.
    """
    delta, state = checks.check_step("ssm_step", u, lam, c, state, delta, form)
    z = step_exponent(lam, delta)
    abar = powers(z, ONE, form, c)[..., 0]  # (·,N)
    x = abar * state + u[..., None]  # (B,H,N)
    return np.einsum("hn,bhn->bh", mode_weight(lam, c, delta, z, form), x).real, x


def ssm_step_vjp(
    u: Array,
    lam: Array,
    c: Array,
    state: Array | None,
    dy: Array,
    dstate: Array,
    *,
    delta: Array,
    form: KernelForm,
) -> tuple[Array, Array, Array, Array, Array]:
    """dy (B,H), dx' (B,H,N) -> du, dΛ, dC, dx, dΔ: the scan's, at L = 1.  Clauses: GSS-GRD-6."""
    delta, state = checks.check_step("ssm_step_vjp", u, lam, c, state, delta, form)
    checks.check_shape("ssm_step_vjp", "dy", dy, u.shape, "f")
    checks.check_shape("ssm_step_vjp", "dstate", dstate, state.shape, "c")
    du, *rest = ssm_scan_vjp(u[:, None], lam, c, state, dy[:, None], dstate, delta=delta, form=form)
    return (du[:, 0], *rest)
