"""Chapter 5: the same map with a state.  x_l = Ā x_{l-1} + u_l,  y_l = Re Σ_n C̃ x_l.

Nothing here steps through time but `ssm_step`: over a piece, y is a convolution with K plus what
the state contributes, and the new state is a matrix product with powers of Ā.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from refgss import checks
from refgss.config import KernelForm
from refgss.xla import ffi
from refgss.xla.convolution import convolve
from refgss.xla.discretization import admitted, step_exponent, transition
from refgss.xla.inputs import arrays
from refgss.xla.kernel import Powers, mode_sum, mode_weight, two_level_powers
from refgss.xla.pairs import Array, Pair, choose, einsum, pair, unpair
from refgss.xla.plan import Plan, resolve
from refgss.xla.powers import Exponent, powers


def ssm_scan(
    u: Array,
    lam: Array,
    c: Array,
    state: Array | None,
    *,
    delta: Array,
    form: KernelForm,
    plan: Plan | None = None,
) -> tuple[Array, Array]:
    """u (B,L,H), x_0 (B,H,N) or None for zeros -> y (B,L,H), x_L (B,H,N).

    lam (N,), c (H,N), states complex; delta scalar, (H,) or (H,2).  Raises ValueError where shapes
    disagree, Re Λ > 0 or Δ <= 0 (NaN under jit).  A NaN in row (b,h) changes nothing before it.
    Clauses: GSS-REC-1..GSS-REC-4, GSS-STA-1, GSS-STA-2, GSS-ACC-4, GSS-NFI-9, GSS-NFI-10.
    """
    delta, _ = checks.check_scan("ssm_scan", u, lam, c, state, delta, form)
    tensors = arrays("ssm_scan", u, lam, c, state, delta)
    return scan_modes(*tensors, form, resolve(plan))


@partial(jax.jit, static_argnames=("form", "plan"))
def scan_modes(
    u: Array,
    lam: Array,
    c: Array,
    state: Array | None,
    delta: Array,
    form: KernelForm,
    plan: Plan,
) -> tuple[Array, Array]:
    if plan.native_layers:
        return ffi.ssm_scan(u, lam, c, state, delta, form)
    lam, delta = admitted(lam, delta, form)
    z = step_exponent(pair(lam), delta)
    weight = mode_weight(pair(lam), pair(c), delta, z, form)
    y, x = scan(u, weight, z, None if state is None else pair(state), form, plan)
    return y, unpair(x)


def scan(
    u: Array, weight: Pair, z: Exponent, state: Pair | None, form: KernelForm, plan: Plan
) -> tuple[Array, Pair]:
    """`ssm_scan` from C̃ (H,N) and z (·,N), over devices and in chunks where the plan says so."""
    if plan.length_axis is None or lax.axis_size(plan.length_axis) == 1:
        return scan_here(u, weight, z, state, form, plan)
    L, H = u.shape[1:]
    y, left = scan_here(u, weight, z, None, form, plan)
    entry, state = hand_over(left, z, state, L, form, plan.length_axis)
    return y + carried(weight * entry, two_level_powers(z, L, H, form), L), state


def hand_over(
    left: Pair, z: Exponent, state: Pair | None, length: int, form: KernelForm, axis: str
) -> tuple[Pair, Pair]:
    """The state with which this device's piece begins, and the one after the last piece.

    `left` (B,H,N) is what each piece leaves behind from a zero state.  These states are all that
    travels: x_i = Ā^{iL} x_0 + Σ_{j<i} Ā^{(i-1-j)L} left_j on device i, whose piece has length L.
    """
    devices, i = lax.axis_size(axis), lax.axis_index(axis)
    pieces = Pair(lax.all_gather(left.re, axis), lax.all_gather(left.im, axis))  # (P,B,H,N)
    p = powers(z, length * np.arange(devices + 1), form.method)
    p = Pair(jnp.moveaxis(p.re, -1, 0), jnp.moveaxis(p.im, -1, 0))  # (P+1,·,N)
    p = p[:, None, None] if z.shared else p[:, None]  # (P+1,1,·,N)

    def before(i: Array) -> Pair:
        gap = i - 1 - np.arange(devices)
        terms = p[jnp.maximum(gap, 0)] * pieces
        earlier = (gap >= 0)[:, None, None, None]
        x = Pair(*(jnp.where(earlier, part, 0).sum(0) for part in (terms.re, terms.im)))
        return x if state is None else x + p[i] * state

    return before(i), before(jnp.asarray(devices))


def scan_here(
    u: Array, weight: Pair, z: Exponent, state: Pair | None, form: KernelForm, plan: Plan
) -> tuple[Array, Pair]:
    """All that this device holds, in chunks where the plan says so."""
    (B, L, H), T = u.shape, plan.chunk
    if T is None or T >= L:
        p = two_level_powers(z, L, H, form)
        return scan_piece(u, mode_sum(weight, p, L), weight, p, state, plan)
    p = two_level_powers(z, T, H, form)
    k = mode_sum(weight, p, T)
    if state is None:
        zeros = jnp.zeros((B, *weight.re.shape), u.dtype)
        state = Pair(zeros, zeros)

    def step(x: Pair, u: Array) -> tuple[Pair, Array]:
        y, x = scan_piece(u, k, weight, p, x, plan)
        return x, y

    whole = L - L % T
    chunks = u[:, :whole].reshape(B, whole // T, T, H).swapaxes(0, 1)
    x, y = lax.scan(step, state, chunks)  # (L/T,B,T,H)
    y = y.swapaxes(0, 1).reshape(B, whole, H)
    if whole == L:
        return y, x
    p = two_level_powers(z, L - whole, H, form)
    rest, x = scan_piece(u[:, whole:], k, weight, p, x, plan)
    return jnp.concatenate([y, rest], 1), x


def scan_piece(
    u: Array, k: Array, weight: Pair, p: Powers, state: Pair | None, plan: Plan
) -> tuple[Array, Pair]:
    """One piece at once: y = K ∗ u + Re Σ C̃ Ā^{l+1} x_0,  x_L = Ā^L x_0 + Σ_l Ā^{L-1-l} u_l."""
    finite = jnp.isfinite(u)
    clean, sound = before_first(~finite, u)
    y, x = convolve_causally(clean, k, plan), final_state(clean, p)
    if state is not None:
        y = y + carried(weight * state, p, u.shape[1])
        x = x + p.last * state
    y = jnp.where(sound, y, jnp.nan)
    if weight.re.shape[-1] == 0:
        y = jnp.zeros_like(u)  # a sum over nothing, whatever u is (GSS-NFI-14)
    ends = jnp.where(jnp.all(sound, axis=1), 0, jnp.nan).astype(u.dtype)[..., None]  # (B,H,1)
    return y, Pair(x.re + ends, x.im + ends)


def before_first(bad: Array, u: Array) -> tuple[Array, Array]:
    """u with zeros from the first bad value of each row (b,h) on; where that is still to come.

    A transform, and 0·NaN in a matrix product, would carry the value back in time (GSS-NFI-10).
    """
    l = jnp.arange(u.shape[1])[:, None]
    first = jnp.min(jnp.where(bad, l, u.shape[1]), axis=1, initial=u.shape[1])  # (B,H)
    sound = l < first[:, None]
    return jnp.where(sound, u, 0), sound


def convolve_causally(u: Array, k: Array, plan: Plan) -> Array:
    """K ∗ u for finite u, where a step that would overflow in a transform spoils none before it.

    What comes before such a step is the convolution without it; what follows is that of the row
    divided by a power of two.
    """
    limit = 2.0**40 if u.dtype == jnp.float32 else 2.0**300
    calm, before = before_first(jnp.abs(u) > limit, u)
    y = convolve(calm, k, plan)

    def with_large_steps() -> Array:
        largest = lax.stop_gradient(jnp.max(jnp.abs(u), axis=1, keepdims=True, initial=1))
        half = jnp.frexp(largest)[1] // 2
        small = jnp.ldexp(jnp.ones_like(largest), -half)  # its square would not be normal
        scaled = convolve(u * small * small, k, plan)
        return jnp.where(before, y, scaled / small / small)

    return lax.cond(jnp.all(before), lambda: y, with_large_steps)


def carried(weighted: Pair, p: Powers, length: int) -> Array:
    """What a state contributes later: Re Σ_n (C̃ x_0) Ā^{l+1}, (B,H,N) -> (B,length,H)."""
    return mode_sum(weighted * p.first, p, length).swapaxes(1, 2)


def final_state(u: Array, p: Powers) -> Pair:
    """Σ_l Ā^{L-1-l} u_l: (B,L,H) -> (B,H,N), the two tables read backwards."""
    B, L, H = u.shape
    J, T = p.coarse.re.shape[-1], p.fine.re.shape[-1]
    u = jnp.pad(u, ((0, 0), (J * T - L, 0), (0, 0))).reshape(B, J, T, H)
    within = p.fine[..., ::-1].stack(-2)  # (·,2N,T)
    x = einsum("mt,bjth->bhmj" if p.shared else "hmt,bjth->bhmj", within, u)
    x = Pair(*jnp.split(x, 2, 2)) * p.coarse[..., ::-1]  # (B,H,N,J)
    return Pair(x.re.sum(-1), x.im.sum(-1))


def ssm_step(
    u: Array,
    lam: Array,
    c: Array,
    state: Array | None,
    *,
    delta: Array,
    form: KernelForm,
) -> tuple[Array, Array]:
    """One token: u (B,H), x (B,H,N) or None -> y (B,H), x' (B,H,N).

    Clauses: GSS-REC-1, GSS-REC-2, GSS-NFI-9.
    """
    delta, state = checks.check_step("ssm_step", u, lam, c, state, delta, form)
    return step_modes(*arrays("ssm_step", u, lam, c, state, delta), form)


@partial(jax.jit, static_argnames="form")
def step_modes(
    u: Array, lam: Array, c: Array, state: Array, delta: Array, form: KernelForm
) -> tuple[Array, Array]:
    lam, delta = admitted(lam, delta, form)
    z = step_exponent(pair(lam), delta)
    weight = mode_weight(pair(lam), pair(c), delta, z, form)
    y, x = step(u, weight, transition(z, form), pair(state))
    return y, unpair(x)


def step(u: Array, weight: Pair, abar: Pair, state: Pair) -> tuple[Array, Pair]:
    """From C̃ (H,N) and Ā (·,N), which a decoding loop computes once."""
    x = abar * state
    x = Pair(x.re + u[..., None], x.im)  # (B,H,N)
    y = einsum("hn,bhn->bh", weight.stack(-1), Pair(x.re, -x.im).stack(-1))
    return y, choose(jnp.isfinite(u)[..., None], x, Pair(x.re, x.im + 0 * u[..., None]))
