"""Parameters, discretisation, kernel and recurrence in C++: the contract of refgss.reference."""

from __future__ import annotations

import numpy as np

from refgss import checks
from refgss.config import Imag, KernelForm
from refgss.native import _core


def form_tuple(form: KernelForm) -> tuple[int, bool, float, int]:
    """The form as `_core` takes it."""
    return form.number, form.pairs, form.eps or 0.0, form.length or 0


def gss_lambda(a: np.ndarray, b: np.ndarray, *, imag: Imag) -> np.ndarray:
    """a, b (N,) -> Λ = -e^a + i e^b, or -e^a + i b.  Clauses: GSS-PAR-1, GSS-PAR-2."""
    checks.check_lambda_parameters(a, b, imag)
    return _core.gss_lambda(a, b, imag == "exp")


def gss_lambda_vjp(
    a: np.ndarray, b: np.ndarray, dlam: np.ndarray, *, imag: Imag
) -> tuple[np.ndarray, np.ndarray]:
    """dΛ (N,) -> da, db (N,).  Clauses: GSS-GRD-2."""
    checks.check_lambda_parameters(a, b, imag)
    checks.check_shape("gss_lambda_vjp", "dlam", dlam, a.shape, "c")
    return _core.gss_lambda_vjp(a, b, dlam, imag == "exp")


def discretize(
    lam: np.ndarray, delta: np.ndarray | float, *, form: KernelForm
) -> tuple[np.ndarray, np.ndarray]:
    """Ā, B̄ (N,), or (H,N) where Δ has channels.  Clauses: GSS-DIS-1..GSS-DIS-6."""
    delta = checks.check_modes("discretize", lam, delta, form)
    return _core.discretize(lam, np.asarray(delta), form_tuple(form))


def discretize_vjp(
    lam: np.ndarray,
    delta: np.ndarray | float,
    dabar: np.ndarray,
    dbbar: np.ndarray,
    *,
    form: KernelForm,
) -> tuple[np.ndarray, np.ndarray]:
    """dĀ, dB̄ -> dΛ (N,), dΔ of Δ's shape.  Clauses: GSS-GRD-3."""
    delta = np.asarray(checks.check_modes("discretize_vjp", lam, delta, form))
    shape = (*delta.shape[:1], *lam.shape)
    checks.check_shape("discretize_vjp", "dabar", dabar, shape, "c")
    checks.check_shape("discretize_vjp", "dbbar", dbbar, shape, "c")
    return _core.discretize_vjp(lam, delta, dabar, dbbar, form_tuple(form))


def ssm_kernel(
    lam: np.ndarray, c: np.ndarray, length: int, *, delta: np.ndarray | float, form: KernelForm
) -> np.ndarray:
    """K (H, length).  lam (N,), c (H,N) complex.  Clauses: GSS-KER-1, GSS-KER-2, GSS-KER-3."""
    delta = checks.check_kernel("ssm_kernel", lam, c, length, delta, form)
    return _core.ssm_kernel(lam, c, int(length), np.asarray(delta), form_tuple(form))


def ssm_kernel_vjp(
    lam: np.ndarray,
    c: np.ndarray,
    length: int,
    dk: np.ndarray,
    *,
    delta: np.ndarray | float,
    form: KernelForm,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dK (H,length) -> dΛ (N,), dC (H,N), dΔ of Δ's shape.  Clauses: GSS-GRD-4."""
    delta = checks.check_kernel("ssm_kernel_vjp", lam, c, length, delta, form)
    checks.check_shape("ssm_kernel_vjp", "dk", dk, (c.shape[0], length), "f")
    return _core.ssm_kernel_vjp(lam, c, dk, np.asarray(delta), form_tuple(form))


def ssm_scan(
    u: np.ndarray,
    lam: np.ndarray,
    c: np.ndarray,
    state: np.ndarray | None,
    *,
    delta: np.ndarray | float,
    form: KernelForm,
) -> tuple[np.ndarray, np.ndarray]:
    """u (B,L,H), x_0 (B,H,N) or None -> y (B,L,H), x_L (B,H,N).  Clauses: GSS-REC-1, GSS-STA-1.

    Works on pieces of at most 2²³/H steps: memory beyond input and output does not grow with L.
    """
    delta, _ = checks.check_scan("ssm_scan", u, lam, c, state, delta, form)
    return _core.ssm_scan(u, lam, c, state, np.asarray(delta), form_tuple(form))


def ssm_scan_vjp(
    u: np.ndarray,
    lam: np.ndarray,
    c: np.ndarray,
    state: np.ndarray | None,
    dy: np.ndarray,
    dstate: np.ndarray,
    *,
    delta: np.ndarray | float,
    form: KernelForm,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """dy (B,L,H), dx_L (B,H,N) -> du, dΛ, dC, dx_0, dΔ.  Clauses: GSS-GRD-6."""
    delta, x = checks.check_scan("ssm_scan_vjp", u, lam, c, state, delta, form)
    checks.check_shape("ssm_scan_vjp", "dy", dy, u.shape, "f")
    checks.check_shape("ssm_scan_vjp", "dstate", dstate, x.shape, "c")
    return _core.ssm_scan_vjp(u, lam, c, state, dy, dstate, np.asarray(delta), form_tuple(form))


def ssm_step(
    u: np.ndarray,
    lam: np.ndarray,
    c: np.ndarray,
    state: np.ndarray | None,
    *,
    delta: np.ndarray | float,
    form: KernelForm,
) -> tuple[np.ndarray, np.ndarray]:
    """One token: u (B,H), x (B,H,N) or None -> y (B,H), x' (B,H,N).  Clauses: GSS-REC-1.

    Discretises anew each time; for many tokens see `Prepared` and `Stepper`.
    """
    delta, _ = checks.check_step("ssm_step", u, lam, c, state, delta, form)
    return _core.ssm_step(u, lam, c, state, np.asarray(delta), form_tuple(form))


def ssm_step_vjp(
    u: np.ndarray,
    lam: np.ndarray,
    c: np.ndarray,
    state: np.ndarray | None,
    dy: np.ndarray,
    dstate: np.ndarray,
    *,
    delta: np.ndarray | float,
    form: KernelForm,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """dy (B,H), dx' (B,H,N) -> du, dΛ, dC, dx, dΔ: the scan's, at L = 1.  Clauses: GSS-GRD-6."""
    delta, _ = checks.check_step("ssm_step_vjp", u, lam, c, state, delta, form)
    du, dlam, dc, dstate0, ddelta = ssm_scan_vjp(
        u[:, None], lam, c, state, dy[:, None], dstate, delta=delta, form=form
    )
    return du[:, 0], dlam, dc, dstate0, ddelta


class Prepared:
    """The map of `ssm_scan` and `ssm_step`, discretised once, its kernel transformed once.

    `length` is that of the scans to come; others work too.  The arrays are copied: after a change
    of a parameter, prepare anew.  Several threads may use one map at the same time.
    """

    def __init__(
        self,
        lam: np.ndarray,
        c: np.ndarray,
        length: int,
        *,
        delta: np.ndarray | float,
        form: KernelForm,
    ):
        delta = checks.check_kernel("Prepared", lam, c, length, delta, form)
        self.dtype, self.shape = c.dtype, c.shape
        self._core = _core.Prepared(lam, c, np.asarray(delta), form_tuple(form), length)

    def scan(self, u: np.ndarray, state: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """u (B,L,H), x_0 (B,H,N) or None -> y (B,L,H), x_L (B,H,N)."""
        return self._core(u, state)

    def step(self, u: np.ndarray, state: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """u (B,H), x (B,H,N) or None -> y (B,H), x' (B,H,N)."""
        y, state = self._core(u[:, None], state)
        return y[:, 0], state

    def advance(self, u: np.ndarray, state: np.ndarray) -> np.ndarray:
        """u (B,L,H) -> y (B,L,H); state (B,H,N) is overwritten by the state after u."""
        return self._core.advance(u, state)


class Stepper:
    """Decoding, a token of each of B sequences at a time, without moving the state each time.

    Every `block` tokens the state advances by two matrix products; in between an output is a table
    entry and a convolution of at most `block` taps.  Exact: `state` is that after all tokens.

    A step that fails or is interrupted leaves it where it was.  It serves one thread at a time: a
    call from a second one raises RuntimeError.
    """

    def __init__(
        self, prepared: Prepared, batch: int, state: np.ndarray | None = None, *, block: int = 128
    ):
        checks.check_state("Stepper", state, np.empty(prepared.shape, prepared.dtype), batch)
        self._double = prepared.dtype == np.complex128
        self._core = _core.Stepper(prepared._core, batch, block, state)

    def step(self, u: np.ndarray) -> np.ndarray:
        """u (B,H) -> y (B,H)."""
        return self._core.step(u)

    @property
    def state(self) -> np.ndarray:
        """(B,H,N)."""
        return self._core.state(self._double)
