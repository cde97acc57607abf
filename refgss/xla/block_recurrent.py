"""Chapter 20: the layer of the Block-Recurrent Transformer, which reads tokens beside a state.

Attention of tokens to tokens is one op of the whole length.  What has to do with the state goes
window by window: the tokens of a call are laid out on a grid of whole windows, each row from its
own phase on, and a scan over them carries the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from refgss import checks
from refgss.config import BlockRecurrentConfig
from refgss.xla.inputs import arrays, parameters
from refgss.xla.pairs import Array
from refgss.xla.plan import Plan, resolve
from refgss.xla.pointwise import by_positions, dense, gate, l2_normalize, rms_norm
from refgss.xla.positions import t5_bias
from refgss.xla.transformer import activation
from refgss.xla.window_attention import state_attention, windows_compiled

Params = Mapping[str, Array]
State = Mapping[str, Array]
LENGTH_EPS = 1e-6  # of the lengths of queries and keys (GSS-BRT-3)


def block_recurrent_layer(
    params: Params,
    x: Array,
    state: State | None = None,
    *,
    config: BlockRecurrentConfig,
    plan: Plan | None = None,
) -> tuple[Array, State]:
    """x (B,L,E), state {"s", "k", "v", "t"} or None, which is zeros -> (B,L,E), state.

    Rows may have read different numbers of tokens.  Raises ValueError where t is not below 2W (NaN
    under jit), and where the length is to be split over devices.
    Clauses: GSS-BRT-1, GSS-BRT-3..12, GSS-BRT-14..18, GSS-BRT-21..24.
    """
    op = "block_recurrent_layer"
    fresh = state is None
    state = checks.check_block_recurrent(op, params, x, state, config)
    t = checks.known(state["t"])
    aligned = fresh or (t is not None and not np.any(np.asarray(t) % config.window))
    p, tensors = parameters(op, params), arrays(op, x, state)
    return block_recurrent_compiled(p, *tensors, config, resolve(plan), aligned)


def block_recurrent_step(
    params: Params,
    x: Array,
    state: State | None = None,
    *,
    config: BlockRecurrentConfig,
    plan: Plan | None = None,
) -> tuple[Array, State]:
    """One token: x (B,E) -> (B,E), state.  Clauses: GSS-BRT-18."""
    checks.check_rank("block_recurrent_step", "x", x, "B,E", "f")
    (x,) = arrays("block_recurrent_step", x)
    y, state = block_recurrent_layer(params, x[:, None], state, config=config, plan=plan)
    return y[:, 0], state


@partial(jax.jit, static_argnames=("config", "plan", "aligned"))
def block_recurrent_compiled(
    p: Params, x: Array, state: State, config: BlockRecurrentConfig, plan: Plan, aligned: bool
) -> tuple[Array, State]:
    """`aligned`: it is known that a window begins with the first token of every row."""
    if plan.length_axis is not None and lax.axis_size(plan.length_axis) > 1:
        raise ValueError(
            "block_recurrent_layer: the state goes from window to window, one after the other, so "
            "that a length cannot be split over devices: split the batch"
        )
    L = x.shape[1]
    make = Maker(config, plan)
    start, good = begun(p, state, config)
    place = Places(L, config.window, None if aligned else start["t"] % config.window)
    f = make.heads(p, make.norm(p, "norm1", x))
    bias = t5_bias(p["position.table"], config.window + 1) if config.position == "t5" else None
    before = {n: place.last_before(start[n]) for n in ("k", "v")}
    y, _ = windows_compiled(f.q, f.k, f.v, bias, p.get("scale"), before, config.window, plan)
    rows = {n: place.keys(start[n], new) for n, new in (("k", f.k), ("v", f.v))}
    s, y2 = over_windows(p, start["s"], f.q2, rows, place, make)
    x = x + dense(side_by_side(y, y2), p["w_o"], plan=plan)

    def mlp(x: Array) -> Array:
        return x + make.mlp(p, make.norm(p, "norm2", x))[1]

    y = by_positions(mlp, plan.gate, x)
    t = counted(start["t"] + L, config.window)
    s = jnp.where(of_rows(t > 0, s), s, 0)
    after = {"s": s, **{n: place.state_after(row) for n, row in rows.items()}}
    y, after = jax.tree.map(lambda z: jnp.where(of_rows(good, z), z, jnp.nan), (y, after))
    return y, {**after, "t": t}


# --- the state ------------------------------------------------------------------------------------


def begun(p: Params, state: State, config: BlockRecurrentConfig) -> tuple[State, Array]:
    """The state as it is read, and of each row whether its t can be that of a state.

    Where t is 0 the row begins with the first state, and with zeros for keys and values.
    Clauses: GSS-BRT-6, GSS-BRT-18.
    """
    t = state["t"]
    t = t.astype(jnp.promote_types(t.dtype, jnp.int32))  # wide, and may be negative
    good = (t >= 0) & (t < 2 * config.window)
    t = jnp.where(good, t, 0)
    new = t == 0
    s = jnp.where(of_rows(new, state["s"]), p["state.initial"], state["s"])
    k, v = (jnp.where(of_rows(new, state[n]), 0, state[n]) for n in ("k", "v"))
    return {"s": s, "k": k, "v": v, "t": t}, good


def counted(t: Array, window: int) -> Array:
    """t as a state has it.  Clauses: GSS-BRT-18."""
    return jnp.where(t < window, t, window + t % window)


def of_rows(flag: Array, like: Array) -> Array:
    """(B,) -> (B,1,...)."""
    return flag.reshape(-1, *[1] * (like.ndim - 1))


def over_windows(
    p: Params, s: Array, q2: Array, rows: State, place: Places, make: Maker
) -> tuple[Array, Array]:
    """The state after the last full window, and the tokens' attention to it: (B,S,E), (B,L,H,D).

    The tokens of a window see the state that there was when it began, and a window that is not full
    renews nothing.  Clauses: GSS-BRT-10, GSS-BRT-16, GSS-BRT-21.
    """
    own = {k.removeprefix("state."): x for k, x in p.items() if k.startswith("state.")}

    def window(s: Array, of_one: tuple[Array, ...]) -> tuple[Array, Array]:
        q2, keys, values, full = of_one
        f = make.heads(own, make.norm(own, "norm1", s) + own["ids"])  # GSS-BRT-5

        def renewed() -> Array:
            rows = (jnp.where(of_rows(full, x), x, 0) for x in (keys, values))
            return jnp.where(of_rows(full, s), make.renewed(own, s, f, *rows), s)

        y2 = state_attention(q2, f.k, f.v, p.get("scale2"), plan=make.plan)
        return lax.cond(full.any(), renewed, lambda: s), y2

    both = (place.with_window_before(rows[n]) for n in ("k", "v"))
    queries = place.windows(place.on_grid(q2))
    s, y2 = lax.scan(window, s, (queries, *both, place.full()))
    return s, place.from_grid(y2)


class Heads(NamedTuple):
    """Queries, keys and values of some vectors, (B,T,H,D)."""

    q: Array
    k: Array
    v: Array
    q2: Array  # of the tokens to the state, of the state to the tokens


class Maker(NamedTuple):
    """What tokens and the state have alike, of parameters without `state.`."""

    config: BlockRecurrentConfig
    plan: Plan

    def norm(self, p: Params, name: str, x: Array) -> Array:
        """Clauses: GSS-BRT-1."""
        return rms_norm(x, p[f"{name}.weight"], eps=self.config.eps, plan=self.plan)

    def heads(self, p: Params, h: Array) -> Heads:
        """Queries and keys of length 1, values as they are.  Clauses: GSS-BRT-3."""

        def made(name: str) -> Array:
            x = dense(h, p[f"w_{name}"], plan=self.plan)
            x = x.reshape(*h.shape[:2], self.config.heads, x.shape[2] // self.config.heads)
            length = self.config.normalize_keys and name != "v"
            return l2_normalize(x, eps=LENGTH_EPS) if length else x

        return Heads(*map(made, Heads._fields))

    def mlp(self, p: Params, h: Array) -> tuple[Array, Array]:
        """The hidden numbers, and the output.  Clauses: GSS-BRT-11."""
        m = activation(dense(h, p["w_1"], plan=self.plan), self.config, self.plan)
        if self.config.mlp == "glu":
            m = m * dense(h, p["w_3"], plan=self.plan)
        return m, dense(m, p["w_2"], plan=self.plan)

    def gated(self, p: Params, name: str, s: Array, z: Array, h: Array) -> Array:
        """s, renewed by z through the gate of this name, whose input is h.

        Clauses: GSS-BRT-13.
        """
        kind, f, i = self.config.gate, p[f"{name}.b_f"], None
        if kind != "fixed":
            f = dense(h, p[f"{name}.w_f"], f, plan=self.plan)
        if kind == "lstm":
            i = dense(h, p[f"{name}.w_i"], p[f"{name}.b_i"], plan=self.plan)
        return gate(s, z, f, i, kind=kind)

    def renewed(self, p: Params, s: Array, of: Heads, keys: Array, values: Array) -> Array:
        """The state after a window: keys, values (B,2W,H,D) of it and of the one before.

        Clauses: GSS-BRT-12, GSS-BRT-14..15.
        """
        own = state_attention(of.q, of.k, of.v, p.get("scale"), plan=self.plan)
        to_tokens = state_attention(of.q2, keys, values, p.get("scale2"), plan=self.plan)
        a = side_by_side(own, to_tokens)
        if self.config.update == "single":
            m, out = self.mlp(p, a)
            return self.gated(p, "gate2", s, jnp.tanh(out), m)
        u = self.gated(p, "gate1", s, dense(a, p["w_o"], plan=self.plan), a)
        if self.config.update == "skip":
            return u
        m, out = self.mlp(p, self.norm(p, "norm2", u))
        return self.gated(p, "gate2", u, out, m)


def side_by_side(y: Array, y2: Array) -> Array:
    """Both attentions (B,T,H,D) as one (B,T,2A), the own one first.  Clauses: GSS-BRT-11."""
    B, T, H, D = y.shape
    return jnp.concatenate([y, y2], 2).reshape(B, T, 2 * H * D)


# --- tokens in windows ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """Where L more tokens of each row stand in its windows, of which the first has j (B,) already.

    j is None where it is known to be 0 in all rows: then nothing moves.  A grid has `count` windows
    of W tokens, counted from the one that the row is in.
    """

    length: int
    window: int
    j: Array | None

    @property
    def count(self) -> int:
        if self.j is None:
            return -(-self.length // self.window)
        return max(1, -(-(self.length + self.window - 1) // self.window))

    @property
    def end(self) -> Any:
        """How many tokens of its grid each row has then."""
        return (0 if self.j is None else self.j) + self.length

    def full(self) -> Array:
        """(count,B) or (count,1)."""
        ends = (np.arange(self.count) + 1) * self.window
        return ends[:, None] <= jnp.atleast_1d(self.end)

    def on_grid(self, x: Array, held: Array | None = None) -> Array:
        """x (B,L,...) -> (B,count·W,...), in each row after the j tokens of `held` (B,W,...)."""
        width = self.count * self.window
        if self.j is None:
            return padded(x, width)
        base = jnp.zeros((len(x), width, *x.shape[2:]), x.dtype)
        if held is not None:
            there = np.arange(self.window) < self.j[:, None]
            held = jnp.where(there.reshape(*there.shape, *[1] * (x.ndim - 2)), held, 0)
            base = base.at[:, : self.window].set(held)
        return jax.vmap(partial(lax.dynamic_update_slice_in_dim, axis=0))(base, x, self.j)

    def from_grid(self, x: Array) -> Array:
        """(count,B,W,...) -> (B,L,...): the inverse for what is new."""
        x = jnp.moveaxis(x, 0, 1)
        x = x.reshape(len(x), self.count * self.window, *x.shape[3:])
        return self.taken(x, self.j, self.length)

    def taken(self, x: Array, start: Array | None, length: int) -> Array:
        """So many of each row's (B,·,...) from `start` on."""
        if start is None:
            return x[:, :length]
        return jax.vmap(lambda x, at: lax.dynamic_slice_in_dim(x, at, length))(x, start)

    def windows(self, x: Array) -> Array:
        """(B,n·W,...) -> (n,B,W,...)."""
        n = x.shape[1] // self.window
        return jnp.moveaxis(x.reshape(len(x), n, self.window, *x.shape[2:]), 1, 0)

    def last_before(self, slots: Array) -> Array:
        """The last W of a state's keys (B,2W,H,D), oldest first.  Clauses: GSS-BRT-7."""
        return self.taken(slots, self.j, self.window)

    def keys(self, slots: Array, new: Array) -> Array:
        """Those of the window before and of the grid: (B,W + count·W,H,D)."""
        before, held = slots[:, : self.window], slots[:, self.window :]
        return jnp.concatenate([before, self.on_grid(new, held)], 1)

    def with_window_before(self, keys: Array) -> Array:
        """(count,B,2W,H,D): of each window, and of the one before it."""
        x = self.windows(keys)
        return jnp.concatenate([x[:-1], x[1:]], 2)

    def state_after(self, keys: Array) -> Array:
        """The slots (B,2W,H,D): the last full window, the tokens of the next, zeros.

        Clauses: GSS-BRT-18, GSS-BRT-21.
        """
        within = self.end % self.window
        keys = padded(keys, keys.shape[1] + self.window)
        if self.j is None:
            whole = self.end - within
            return padded(keys[:, whole : whole + self.window + within], 2 * self.window)
        slots = self.taken(keys, self.end - within, 2 * self.window)
        there = np.arange(2 * self.window) < (self.window + within)[:, None]
        return jnp.where(there[..., None, None], slots, 0)


def padded(x: Array, length: int) -> Array:
    """Zeros after x (B,·,...)."""
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), *[(0, 0)] * (x.ndim - 2)))
