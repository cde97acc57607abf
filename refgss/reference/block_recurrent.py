"""Chapter 20: the layer of the Block-Recurrent Transformer, which reads tokens beside a state.

The tokens go as in a transformer layer, but that each attends to the W tokens before it and to S
vectors s, in one map of both (`tokens_forward`).  After every W tokens of a row s is renewed from
its own vectors and from the last 2W tokens (`renewed`).

Parameters: norm1.weight (E,); w_q, w_k, w_v, w_q2 (E,A); [scale, scale2 (H,)]; [position.table
(H,32)]; w_o (2A,E); norm2.weight (E,); w_1 (E,F), w_2 (F,E), [w_3 (E,F)].  Of the state, each named
`state.` and: initial, ids (S,E); norm1.weight; w_q, w_k, w_v, w_q2; [scale, scale2]; under "skip"
and "dual" w_o (2A,E) and gate1; under "dual" norm2.weight; under "single" and "dual" w_1 (2A,F) or
(E,F), w_2, [w_3] and gate2.  A gate: b_f (E,), [w_f (·,E)], [w_i (·,E), b_i (E,)].

A state is {"s": (B,S,E), "k", "v": (B,2W,H,D), "t": (B,)}: the keys and values of the window
before, then those of the j = t mod W tokens of this one, then zeros.  t is the number of tokens,
and from W on W + (that number mod W).  Where t is 0 the row begins, and nothing else of its state
is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from refgss import checks
from refgss.config import BlockRecurrentConfig
from refgss.reference.attention import t5_bias, t5_bias_vjp
from refgss.reference.elementary import Array
from refgss.reference.pointwise import (
    dense,
    dense_vjp,
    gate,
    gate_vjp,
    l2_normalize,
    l2_normalize_vjp,
    rms_norm,
    rms_norm_vjp,
)
from refgss.reference.transformer import activation, activation_vjp
from refgss.reference.window_attention import (
    state_attention,
    state_attention_vjp,
    window_attention,
    window_attention_vjp,
)

Params = Mapping[str, Array]
Gradients = dict[str, Array]
State = Mapping[str, Array]
LENGTH_EPS = 1e-6  # of the lengths of queries and keys (GSS-BRT-3)


# --- parts that tokens and the state have alike, each beside its gradient -------------------------


class Heads(NamedTuple):
    """Queries, keys and values of some vectors, (B,T,H,D)."""

    q: Array
    k: Array
    v: Array
    q2: Array  # of the tokens to the state, of the state to the tokens
    made: Mapping[str, Array]  # as the maps made them, before they got length 1


def heads(p: Params, h: Array, config: BlockRecurrentConfig) -> Heads:
    """h (B,T,E) -> queries and keys of length 1, values as they are.  Clauses: GSS-BRT-3."""
    D = p["w_q"].shape[1] // config.heads
    made = {
        name: dense(h, p[f"w_{name}"]).reshape(*h.shape[:2], config.heads, D)
        for name in ("q", "k", "v", "q2")
    }
    used = {
        name: l2_normalize(x, eps=LENGTH_EPS) if config.normalize_keys and name != "v" else x
        for name, x in made.items()
    }
    return Heads(**used, made=made)


def heads_back(
    p: Params,
    h: Array,
    f: Heads,
    d: Mapping[str, Array],
    config: BlockRecurrentConfig,
    g: Gradients,
) -> Array:
    """d: dq, dk, dv and dq2 by name -> dh; the gradients of the maps are added to g."""
    dh = []
    for name, dx in d.items():
        if config.normalize_keys and name != "v":
            dx = l2_normalize_vjp(f.made[name], dx, eps=LENGTH_EPS)
        dx = dx.reshape(*h.shape[:2], p["w_q"].shape[1])
        own, g[f"w_{name}"], _ = dense_vjp(h, p[f"w_{name}"], None, dx)
        dh.append(own)
    return dh[0] + dh[1] + dh[2] + dh[3]


def side_by_side(y: Array, y2: Array) -> Array:
    """Both attentions (B,T,H,D) as one (B,T,2A), the own one first.  Clauses: GSS-BRT-11."""
    B, T, H, D = y.shape
    return np.concatenate([y, y2], 2).reshape(B, T, 2 * H * D)


def apart(da: Array, like: Array) -> tuple[Array, Array]:
    """The gradient of `side_by_side`."""
    B, T, H, D = like.shape
    both = da.reshape(B, T, 2 * H, D)
    return both[:, :, :H], both[:, :, H:]


class Mlp(NamedTuple):
    m_in: Array  # (B,T,F)
    gate: Array | None  # (B,T,F), of a gated MLP
    m: Array  # (B,T,F)
    out: Array  # (B,T,E)


def mlp(p: Params, h: Array, config: BlockRecurrentConfig) -> Mlp:
    """As in a transformer layer.  Clauses: GSS-BRT-11."""
    m_in = dense(h, p["w_1"])
    linear = dense(h, p["w_3"]) if config.mlp == "glu" else None
    m = activation(m_in, config) if linear is None else activation(m_in, config) * linear
    return Mlp(m_in, linear, m, dense(m, p["w_2"]))


def mlp_back(
    p: Params, h: Array, f: Mlp, dm: Array | None, dout: Array, config: Any, g: Gradients
) -> Array:
    """dout, and dm of who reads m besides -> dh."""
    own, g["w_2"], _ = dense_vjp(f.m, p["w_2"], None, dout)
    dm = own if dm is None else own + dm
    dm_in = activation_vjp(f.m_in, dm if f.gate is None else dm * f.gate, config)
    dh, g["w_1"], _ = dense_vjp(h, p["w_1"], None, dm_in)
    if f.gate is not None:
        dgate, g["w_3"], _ = dense_vjp(h, p["w_3"], None, dm * activation(f.m_in, config))
        dh = dh + dgate
    return dh


# --- the state ------------------------------------------------------------------------------------


class Renewed(NamedTuple):
    """All that a state computes when a window is full.  Clauses: GSS-BRT-12."""

    a: Array  # (1,S,2A)
    z1: Array | None  # (1,S,E), what the first gate takes
    u: Array | None  # (1,S,E), what it gives
    h2: Array | None  # (1,S,E), of which the MLP is made
    mlp: Any  # an Mlp, or None
    s: Array  # (1,S,E), the new state


class Seen(NamedTuple):
    """A state, and what tokens see of it.  Clauses: GSS-BRT-10."""

    s: Array  # (1,S,E)
    h: Array  # (1,S,E)
    heads: Heads


def seen_state(p: Params, s: Array, config: BlockRecurrentConfig) -> Seen:
    """p of the state, without `state.`.  Clauses: GSS-BRT-5, GSS-BRT-10."""
    h = rms_norm(s, p["norm1.weight"], eps=config.eps) + p["ids"]
    return Seen(s, h, heads(p, h, config))


def gate_inputs(name: str, p: Params, h: Array, config: BlockRecurrentConfig) -> list[Array | None]:
    """f and i of a gate whose input is h.  Clauses: GSS-BRT-13."""
    if config.gate == "fixed":
        return [p[f"{name}.b_f"], None]
    f = dense(h, p[f"{name}.w_f"], p[f"{name}.b_f"])
    return [f, dense(h, p[f"{name}.w_i"], p[f"{name}.b_i"]) if config.gate == "lstm" else None]


def gated(
    name: str, p: Params, s: Array, z: Array, h: Array, config: BlockRecurrentConfig
) -> Array:
    """s, renewed by z through the gate of this name.  Clauses: GSS-BRT-13."""
    f, i = gate_inputs(name, p, h, config)
    return gate(s, z, f, i, kind=config.gate)


def gated_back(
    name: str,
    p: Params,
    s: Array,
    z: Array,
    h: Array,
    dout: Array,
    config: BlockRecurrentConfig,
    g: Gradients,
) -> tuple[Array, Array, Array | None]:
    """dout -> ds, dz, and dh where the gate has a map of h."""
    f, i = gate_inputs(name, p, h, config)
    ds, dz, df, di = gate_vjp(s, z, f, i, dout, kind=config.gate)
    if config.gate == "fixed":
        g[f"{name}.b_f"] = df
        return ds, dz, None
    dh, g[f"{name}.w_f"], g[f"{name}.b_f"] = dense_vjp(h, p[f"{name}.w_f"], p[f"{name}.b_f"], df)
    if di is not None:
        w, b = f"{name}.w_i", f"{name}.b_i"
        own, g[w], g[b] = dense_vjp(h, p[w], p[b], di)
        dh = dh + own
    return ds, dz, dh


def renewed(
    p: Params, seen: Seen, keys: Array, values: Array, config: BlockRecurrentConfig
) -> Renewed:
    """The state after a window: keys, values (1,2W,H,D) of it and of the one before.

    Clauses: GSS-BRT-12, GSS-BRT-14..15.
    """
    of, s = seen.heads, seen.s
    own = state_attention(of.q, of.k, of.v, p.get("scale"))
    a = side_by_side(own, state_attention(of.q2, keys, values, p.get("scale2")))
    if config.update == "single":
        f = mlp(p, a, config)
        return Renewed(a, None, None, None, f, gated("gate2", p, s, np.tanh(f.out), f.m, config))
    z1 = dense(a, p["w_o"])
    u = gated("gate1", p, s, z1, a, config)
    if config.update == "skip":
        return Renewed(a, z1, u, None, None, u)
    h2 = rms_norm(u, p["norm2.weight"], eps=config.eps)
    f = mlp(p, h2, config)
    return Renewed(a, z1, u, h2, f, gated("gate2", p, u, f.out, f.m, config))


def renewed_back(
    p: Params,
    seen: Seen,
    keys: Array,
    values: Array,
    f: Renewed,
    ds: Array,
    config: BlockRecurrentConfig,
    g: Gradients,
) -> tuple[Array, dict[str, Array], Array, Array]:
    """ds of the new state -> ds of the old one as it is gated; dq, dk, dv, dq2; dkeys, dvalues.

    Clauses: GSS-BRT-20.
    """
    s, of, da = seen.s, seen.heads, None
    if config.update == "single":
        t = np.tanh(f.mlp.out)
        ds, dt, dm = gated_back("gate2", p, s, t, f.mlp.m, ds, config, g)
        da = mlp_back(p, f.a, f.mlp, dm, dt * (1 - t * t), config, g)
    else:
        if config.update == "dual":
            ds, dz, dm = gated_back("gate2", p, f.u, f.mlp.out, f.mlp.m, ds, config, g)
            dh2 = mlp_back(p, f.h2, f.mlp, dm, dz, config, g)
            du, g["norm2.weight"] = rms_norm_vjp(f.u, p["norm2.weight"], dh2, eps=config.eps)
            ds = ds + du
        ds, dz, dgate = gated_back("gate1", p, s, f.z1, f.a, ds, config, g)
        da, g["w_o"], _ = dense_vjp(f.a, p["w_o"], None, dz)
        da = da if dgate is None else da + dgate
    dy, dy2 = apart(da, of.q)
    dq, dk, dv, dscale = state_attention_vjp(of.q, of.k, of.v, p.get("scale"), dy)
    dq2, dkeys, dvalues, dscale2 = state_attention_vjp(of.q2, keys, values, p.get("scale2"), dy2)
    if config.normalize_keys:
        g["scale"], g["scale2"] = dscale, dscale2
    return ds, {"q": dq, "k": dk, "v": dv, "q2": dq2}, dkeys, dvalues


# --- the layer ------------------------------------------------------------------------------------


class Window(NamedTuple):
    """A window of one row, or what there is of it."""

    tokens: slice  # of those that are given
    seen: Seen
    end: int  # of its keys among those of the row
    keys: Array | None  # (1,2W,H,D), of this window and the one before, where it is full
    values: Array | None
    renewed: Renewed | None


class Row(NamedTuple):
    """One stream of a batch: L more tokens, of which j were there in the current window."""

    j: int
    keys: Array  # (1,W+j+L,H,D), of the window before, of the j tokens, and new
    values: Array
    windows: list[Window]
    s: Array  # (1,S,E), after them


class Attended(NamedTuple):
    """What tokens take from the tokens before them and from the state.  Clauses: GSS-BRT-11."""

    a: Array  # (B,L,2A)
    bias: Array | None  # (H,W+1)
    before: State  # the last W keys and values before these tokens
    rows: list[Row]


class BlockRecurrentForward(NamedTuple):
    """All that a layer computes on its way.  Clauses: GSS-CNF-10."""

    h: Array  # (B,L,E)
    q: Array  # (B,L,H,D)
    k: Array
    v: Array
    q2: Array
    a: Array  # (B,L,2A), attention to tokens and to the state
    x1: Array  # (B,L,E)
    h2: Array  # (B,L,E)
    m: Array  # (B,L,F)
    out: Array  # (B,L,E)
    state: dict[str, Array]
    heads: Heads
    mlp: Mlp
    of: Attended


def attended(p: Params, f: Heads, start: State, config: BlockRecurrentConfig) -> Attended:
    """Both attentions of the tokens: f is theirs.  Clauses: GSS-BRT-7..8, GSS-BRT-10..11."""
    bias = t5_bias(p["position.table"], config.window + 1) if config.position == "t5" else None
    before, scale2 = last_keys(start, config.window), p.get("scale2")
    y, _ = window_attention(f.q, f.k, f.v, bias, p.get("scale"), before, window=config.window)
    rows = [row_of(of_state(p), b, start, f, config) for b in range(len(y))]
    y2 = [
        [
            state_attention(f.q2[b : b + 1, w.tokens], w.seen.heads.k, w.seen.heads.v, scale2)
            for w in row.windows
        ]
        for b, row in enumerate(rows)
    ]
    return Attended(side_by_side(y, together(y2, y)), bias, before, rows)


def block_recurrent_forward(
    p: Params, x: Array, state: State | None, config: BlockRecurrentConfig
) -> BlockRecurrentForward:
    """x (B,L,E), state or None.  Clauses: GSS-BRT-1, GSS-BRT-11."""
    h = rms_norm(x, p["norm1.weight"], eps=config.eps)
    f = heads(p, h, config)
    start = begun(p, checks.no_state(p, x, config) if state is None else state)
    of = attended(p, f, start, config)
    x1 = x + dense(of.a, p["w_o"])
    h2 = rms_norm(x1, p["norm2.weight"], eps=config.eps)
    m = mlp(p, h2, config)
    end = state_after(of.rows, start, x.shape[1], config.window)
    return BlockRecurrentForward(
        h, f.q, f.k, f.v, f.q2, of.a, x1, h2, m.m, x1 + m.out, end, f, m, of
    )


def block_recurrent_layer(
    params: Params, x: Array, state: State | None = None, *, config: BlockRecurrentConfig
) -> tuple[Array, State]:
    """x (B,L,E), state {"s", "k", "v", "t"} or None, which is zeros -> (B,L,E), state.

    Raises ValueError where t is not below 2W.
    Clauses: GSS-BRT-1, GSS-BRT-3..12, GSS-BRT-14..18, GSS-BRT-21..24, GSS-NFI-1.
    """
    state = checks.check_block_recurrent("block_recurrent_layer", params, x, state, config)
    f = block_recurrent_forward(params, x, state, config)
    return f.out, f.state


def block_recurrent_layer_vjp(
    params: Params,
    x: Array,
    state: State | None,
    dout: Array,
    dstate: State,
    *,
    config: BlockRecurrentConfig,
) -> tuple[Gradients, Array, State]:
    """dout (B,L,E), dstate {"s", "k", "v"} -> dparams, dx (B,L,E), dstate_0.

    A row that begins gives the gradient of its state to state.initial.
    Clauses: GSS-BRT-18, GSS-BRT-20.
    """
    op = "block_recurrent_layer_vjp"
    state = checks.check_block_recurrent(op, params, x, state, config)
    checks.check_layer_cotangents(op, params, x, dout, dstate, config)
    p, f = params, block_recurrent_forward(params, x, state, config)
    g = {k: np.zeros_like(z) for k, z in p.items() if k.startswith("state.")}
    dh2 = mlp_back(p, f.h2, f.mlp, None, dout, config, g)
    dx1, g["norm2.weight"] = rms_norm_vjp(f.x1, p["norm2.weight"], dh2, eps=config.eps)
    dx1 = dx1 + dout
    da, g["w_o"], _ = dense_vjp(f.a, p["w_o"], None, dx1)
    dy, dy2 = apart(da, f.q)
    nothing = {n: np.zeros_like(z) for n, z in f.of.before.items()}
    dq, dk, dv, dbias, dscale, dbefore = window_attention_vjp(
        f.q, f.k, f.v, f.of.bias, p.get("scale"), f.of.before, dy, nothing, window=config.window
    )
    if config.position == "t5":
        g["position.table"] = t5_bias_vjp(p["position.table"], config.window + 1, dbias)
    if config.normalize_keys:
        g["scale"], g["scale2"] = dscale, np.zeros_like(p["scale2"])
    back = [row_back(p, b, f, dy2, dbefore, (dk, dv), dstate, config, g) for b in range(len(x))]
    dq2, dk, dv, ds0, dk0, dv0 = (
        np.concatenate([like[:0], *parts])
        for like, parts in zip(
            (f.q, f.k, f.v, state["s"], state["k"], state["v"]),
            zip(*back, strict=True) if back else [()] * 6,
            strict=True,
        )
    )
    new = state["t"] == 0
    g["state.initial"] = np.where(new[:, None, None], ds0, 0).sum(0)
    d = {"q": dq, "k": dk, "v": dv, "q2": dq2}
    dx, g["norm1.weight"] = rms_norm_vjp(
        x, p["norm1.weight"], heads_back(p, f.h, f.heads, d, config, g), eps=config.eps
    )
    parts = {"s": ds0, "k": dk0, "v": dv0}
    rank = {n: new.reshape(-1, *[1] * (z.ndim - 1)) for n, z in parts.items()}
    return g, dx + dx1, {n: np.where(rank[n], 0, z) for n, z in parts.items()}


def block_recurrent_step(
    params: Params, x: Array, state: State | None = None, *, config: BlockRecurrentConfig
) -> tuple[Array, State]:
    """One token: x (B,E) -> (B,E), state.  Clauses: GSS-BRT-18, GSS-NFI-1."""
    checks.check_rank("block_recurrent_step", "x", x, "B,E", "f")
    y, state = block_recurrent_layer(params, x[:, None], state, config=config)
    return y[:, 0], state


def block_recurrent_step_vjp(
    params: Params,
    x: Array,
    state: State | None,
    dout: Array,
    dstate: State,
    *,
    config: BlockRecurrentConfig,
) -> tuple[Gradients, Array, State]:
    """dout (B,E): that of the layer at L = 1.  Clauses: GSS-BRT-18, GSS-BRT-20."""
    checks.check_rank("block_recurrent_step_vjp", "x", x, "B,E", "f")
    checks.check_shape("block_recurrent_step_vjp", "dout", dout, x.shape, "f")
    g, dx, dstate0 = block_recurrent_layer_vjp(
        params, x[:, None], state, dout[:, None], dstate, config=config
    )
    return g, dx[:, 0], dstate0


# --- rows and their windows -----------------------------------------------------------------------


def of_state(p: Params) -> dict[str, Array]:
    """The parameters of the state, without `state.`."""
    return {k.removeprefix("state."): x for k, x in p.items() if k.startswith("state.")}


def begun(p: Params, state: State) -> dict[str, Array]:
    """The state as it is read: where t is 0, the first state, and keys and values that are zeros.

    Clauses: GSS-BRT-6, GSS-BRT-18.
    """
    new = state["t"] == 0
    k, v = (np.where(new[:, None, None, None], 0, state[n]) for n in ("k", "v"))
    s = np.where(new[:, None, None], p["state.initial"], state["s"])
    return {"s": s, "k": k, "v": v, "t": state["t"].astype(np.int64)}


def last_keys(start: State, window: int) -> dict[str, Array]:
    """The last W keys and values (B,W,H,D), oldest first.  Clauses: GSS-BRT-7."""
    slots = (start["t"] % window)[:, None] + np.arange(window)
    return {n: start[n][np.arange(len(slots))[:, None], slots] for n in ("k", "v")}


def pieces(j: int, L: int, window: int) -> Iterator[tuple[int, int, bool]]:
    """Where the windows of L more tokens begin and end, and whether they are full then.

    Clauses: GSS-BRT-21.
    """
    starts = [0, *range(window - j, L + 1, window)]
    yield from ((a, b, True) for a, b in pairwise(starts))
    if starts[-1] < L:
        yield starts[-1], L, False


def row_of(p: Params, b: int, start: State, new: Heads, config: BlockRecurrentConfig) -> Row:
    """The windows of row b, and its state after them; p of the state, without `state.`.

    The tokens of a window see the state that there was when it began, and a window that is not full
    renews nothing.  Clauses: GSS-BRT-10, GSS-BRT-16, GSS-BRT-21.
    """
    W, j, at = config.window, int(start["t"][b]) % config.window, slice(b, b + 1)
    keys = np.concatenate([start["k"][at, : W + j], new.k[at]], 1)
    values = np.concatenate([start["v"][at, : W + j], new.v[at]], 1)
    s, windows = start["s"][at], []
    for first, last, full in pieces(j, new.k.shape[1], W):
        seen, end = seen_state(p, s, config), W + j + last
        window = Window(slice(first, last), seen, end, None, None, None)
        if full:
            both = keys[:, end - 2 * W : end], values[:, end - 2 * W : end]
            new_state = renewed(p, seen, *both, config)
            window, s = Window(slice(first, last), seen, end, *both, new_state), new_state.s
        windows.append(window)
    return Row(j, keys, values, windows, s)


def together(rows: list[list[Array]], like: Array) -> Array:
    """(B,L,H,D) from pieces of the tokens of each row; `like` has its shape."""
    return np.concatenate(
        [like[:0], *(np.concatenate([like[b : b + 1, :0], *row], 1) for b, row in enumerate(rows))]
    )


def state_after(rows: list[Row], start: State, L: int, window: int) -> dict[str, Array]:
    """The state after L more tokens; a row that has read none holds zeros.  Clauses: GSS-BRT-18."""
    t = start["t"] + L
    t = np.where(t < window, t, window + t % window)
    found = {"s": [start["s"][:0]], "k": [start["k"][:0]], "v": [start["v"][:0]]}
    for row, n in zip(rows, t, strict=True):
        found["s"].append(row.s if n else np.zeros_like(row.s))
        for name, x in (("k", row.keys), ("v", row.values)):
            held = x[:, x.shape[1] - window - n % window :]
            empty = np.zeros((1, window - n % window, *x.shape[2:]), x.dtype)
            found[name].append(np.concatenate([held, empty], 1))
    return {n: np.concatenate(x) for n, x in found.items()} | {"t": t.astype(np.int32)}


def placed(x: Array, start: int, length: int) -> Array:
    """x (1,n,H,D) from `start` on, in zeros (1,length,H,D)."""
    before = np.zeros((1, start, *x.shape[2:]), x.dtype)
    after = np.zeros((1, length - start - x.shape[1], *x.shape[2:]), x.dtype)
    return np.concatenate([before, x, after], 1)


def row_back(
    p: Params,
    b: int,
    f: BlockRecurrentForward,
    dy2: Array,
    dbefore: State,
    dnew: tuple[Array, Array],
    dstate: State,
    config: BlockRecurrentConfig,
    g: Gradients,
) -> tuple[Array, ...]:
    """Of row b: dq2, dk, dv (1,L,H,D) of the tokens, and ds, dk, dv of the state before them.

    Nothing stops the gradient from a window to the one before.  Clauses: GSS-BRT-18, GSS-BRT-20.
    """
    own, row, at, W = of_state(p), f.of.rows[b], slice(b, b + 1), config.window
    length, n = row.keys.shape[1], f.state["t"][b]
    dkeys, dvalues = (
        placed(dstate[part][at, : W + n % W], length - W - n % W, length)
        + placed(dbefore[part][at], row.j, length)
        + placed(dx[at], W + row.j, length)
        for part, dx in zip(("k", "v"), dnew, strict=True)
    )
    ds = dstate["s"][at] if n else np.zeros_like(row.s)
    dq2: list[Array] = []
    for w in reversed(row.windows):
        mine: Gradients = {}
        of = w.seen.heads
        dq, dk, dv, dscale2 = state_attention_vjp(
            f.q2[at, w.tokens], of.k, of.v, p.get("scale2"), dy2[at, w.tokens]
        )
        dq2.insert(0, dq)
        d = {"q": np.zeros_like(of.q), "k": dk, "v": dv, "q2": np.zeros_like(of.q2)}
        if w.renewed is not None:
            ds, more, dk, dv = renewed_back(
                own, w.seen, w.keys, w.values, w.renewed, ds, config, mine
            )
            d = more | {"k": d["k"] + more["k"], "v": d["v"] + more["v"]}
            dkeys = dkeys + placed(dk, w.end - 2 * W, length)
            dvalues = dvalues + placed(dv, w.end - 2 * W, length)
        dh = heads_back(own, w.seen.h, of, d, config, mine)
        mine["ids"] = dh.sum(0)
        dnorm, mine["norm1.weight"] = rms_norm_vjp(
            w.seen.s, own["norm1.weight"], dh, eps=config.eps
        )
        ds = ds + dnorm
        for name, x in mine.items():
            g[f"state.{name}"] = g[f"state.{name}"] + x
        if dscale2 is not None:
            g["scale2"] = g["scale2"] + dscale2
    dk0, dv0 = (placed(x[:, : W + row.j], 0, 2 * W) for x in (dkeys, dvalues))
    new = W + row.j
    return together([dq2], f.q2[at]), dkeys[:, new:], dvalues[:, new:], ds, dk0, dv0
