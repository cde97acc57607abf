"""Variants of the scan: the same map step by step, in chunks, and by associative products."""

from __future__ import annotations

from typing import Any

import numpy as np

from refgss import checks
from refgss.config import KernelForm
from refgss.conformance.selftest.variants.declare import instead_of
from refgss.reference.discretization import powers, step_exponent
from refgss.reference.kernel import mode_weight
from refgss.reference.recurrence import ssm_scan

Array = np.ndarray


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


@instead_of("recurrence.ssm_scan")
def duality(
    u: Array, lam: Array, c: Array, state: Any, *, delta: Any, form: KernelForm
) -> tuple[Array, Array]:
    """Chunks of 8 as Mamba-2 has them: inside a convolution, the state between them."""
    checks.check_scan("ssm_scan", u, lam, c, state, delta, form)
    ys, x = [u[:, :0]], state
    for start in range(0, max(u.shape[1], 1), 8):
        y, x = ssm_scan(u[:, start : start + 8], lam, c, x, delta=delta, form=form)
        ys.append(y)
    return np.concatenate(ys, 1), x


@instead_of("recurrence.ssm_scan")
def associative(
    u: Array, lam: Array, c: Array, state: Any, *, delta: Any, form: KernelForm
) -> tuple[Array, Array]:
    """A parallel scan of (Ā, u): log₂ L rounds of doubling, as `associative_scan` makes them."""
    delta, state = checks.check_scan("ssm_scan", u, lam, c, state, delta, form)
    (B, L, H), N = u.shape, len(lam)
    if not L:
        return u.copy(), state
    z = step_exponent(lam, np.asarray(delta))
    weight = mode_weight(lam, c, np.asarray(delta, lam.real.dtype), z, form)
    a = np.broadcast_to(powers(z, np.array([1]), form, c)[..., 0], (H, N))
    x = np.broadcast_to(u[..., None], (B, L, H, N)).astype(c.dtype)
    x[:, 0] += a * state
    gain, step = np.broadcast_to(a, (L, H, N)).copy(), 1
    while step < L:
        x[:, step:] = x[:, step:] + gain[step:] * x[:, :-step]
        gain[step:] = gain[step:] * gain[:-step]
        step *= 2
    return np.einsum("hn,blhn->blh", weight, x).real, x[:, -1].copy()


@instead_of("recurrence.ssm_scan", precisions=("f32",))
def scanned_in_binary64(
    u: Array, lam: Array, c: Array, state: Any, *, delta: Any, form: KernelForm
) -> tuple[Array, Array]:
    """The recurrence in binary64, rounded at the end, for results of binary32."""
    delta, state = checks.check_scan("ssm_scan", u, lam, c, state, delta, form)
    wide = u.astype(np.float64), lam.astype(complex), c.astype(complex), state.astype(complex)
    y, x = scan_in_pieces(*wide, np.asarray(delta, np.float64), form, 1)
    return y.astype(u.dtype), x.astype(c.dtype)
