"""Chapter 20: attention to a window and to a state, gates, and the recurrent layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, get_args

import numpy as np

from refgss.config import BlockRecurrentConfig, Gate, Mlp, Update
from refgss.conformance.vectors.cases.common import Case, Draw, F
from refgss.conformance.vectors.cases.layers import named
from refgss.layers.block_recurrent import Sizes, parameters
from refgss.ops import encode_option

Tensors = Mapping[str, np.ndarray]


# --- lengths, gates ------------------------------------------------------------------------------


def lengths() -> Iterator[Case]:
    """`l2_normalize`."""
    draw = Draw("l2_normalize")
    zeros = draw(3, 4)
    zeros[1] = 0
    x = {
        "random": (draw(2, 3, 4), 1e-6, "GSS-BRT-3", ""),
        "short": (draw(3, 4, scale=1e-3), 1e-6, "GSS-BRT-3", "Σx² ≈ ε: shows the wrong ε"),
        "eps-1e-2": (draw(3, 4, scale=0.1), 1e-2, "GSS-BRT-3", "ε is an argument"),
        "zeros": (zeros, 1e-6, "GSS-BRT-3", "a row of zeros stays one"),
        "one": (draw(3, 1), 1e-6, "GSS-BRT-3", "D = 1: the sign, but for ε"),
        "vector": (draw(5), 1e-6, "GSS-BRT-3", "a single vector"),
        "no-rows": (draw(0, 4), 1e-6, "GSS-NFI-14", ""),
    }
    for label, (v, eps, clause, note) in x.items():
        o, flags = {"eps": eps}, ("small",) if label == "random" else ()
        yield Case(f"l2_normalize/{label}", "l2_normalize", (clause,), {"x": v}, o, flags, note)
        grad = {"x": v, "dy": draw(*v.shape)}
        ids = ("GSS-BRT-20",) if clause == "GSS-BRT-3" else (clause,)
        yield Case(f"l2_normalize_vjp/{label}", "l2_normalize_vjp", ids, grad, o, flags, note)
    ids, o = ("GSS-NFI-11",), {"eps": 1e-6}
    nan = {"x": draw(2, 3, 4)}
    args: Any = ("l2_normalize/nan", "l2_normalize", ids, nan, o, ("nan",), "NaN in one row")
    yield replace(Case(*args), nan=(1, 2, 0))
    grad = {"x": draw(2, 3), "dy": draw(2, 3)}
    empty = {"x": draw(2, 0)}
    id, ids = "l2_normalize/refuse-no-width", ("GSS-NFI-1",)
    yield Case(id, "l2_normalize", ids, empty, o, ("refusal",), error=True)
    for op, name, label, s in (
        ("l2_normalize", "x", "small", 1e-20),
        ("l2_normalize", "x", "large", 1e15),
        ("l2_normalize_vjp", "dy", "small", 1e-20),
        ("l2_normalize_vjp", "dy", "large", 1e20),
    ):
        given = grad if op.endswith("_vjp") else {"x": grad["x"]}
        scaled = given | {name: (given[name] * np.float64(s)).astype(F)}
        exact, note = ("GSS-ACC-1", "GSS-ACC-7"), f"{name} ~ {s:g}"
        yield Case(f"{op}/scale-{label}", op, exact, scaled, o, ("extreme",), note)


def gates() -> Iterator[Case]:
    """`gate`, of every kind: open, closed, and where σ is curved."""
    draw, wide = Draw("gate"), np.array([0, 1, -1, 5, -5, 30, -30, 100, -100, 1e4, -1e4], F)
    for kind in get_args(Gate):
        o, ids = {"kind": kind}, ("GSS-BRT-13",)

        def inputs(*shape: int, kind: str = kind) -> dict[str, np.ndarray]:
            f = draw(*(shape[-1:] if kind == "fixed" else shape))
            i = {"i": draw(*shape)} if kind == "lstm" else {}
            return {"s": draw(*shape), "z": draw(*shape), "f": f} | i

        edges = inputs(2, len(wide)) | {"f": wide if kind == "fixed" else np.stack([wide, -wide])}
        if kind == "lstm":
            edges["i"] = np.stack([wide[::-1], wide])
        calm = inputs(2, 3)
        cases = {
            "random": (inputs(2, 2, 4), ""),
            "edges": (edges, "gates that are open, closed, and in between"),
            "zero": (calm | {k: 0 * calm[k] for k in ("f", "i") if k in calm}, "f = 0, i = 0"),
            "alike": (calm | {"z": calm["s"]}, "s = z: fixed and full give it back"),
            "vector": (inputs(3), "a single vector"),
            "no-rows": (inputs(0, 3), ""),
        }
        for label, (tensors, note) in cases.items():
            flags = ("small",) if label == "random" else ()
            edge = ("GSS-NFI-14",) if label == "no-rows" else ()
            yield Case(f"gate/{kind}-{label}", "gate", (*ids, *edge), tensors, o, flags, note)
            grad = tensors | {"dout": draw(*tensors["s"].shape)}
            back = ("GSS-BRT-20", "GSS-BRT-13", *edge)
            yield Case(f"gate_vjp/{kind}-{label}", "gate_vjp", back, grad, o, flags, note)
        for label, s in (("small", 1e-20), ("large", 1e20)):
            scaled = {k: (x * np.float64(s)).astype(F) if k in "sz" else x for k, x in calm.items()}
            exact, note = ("GSS-ACC-1", "GSS-ACC-7"), f"s, z ~ {s:g}"
            id = f"gate/{kind}-scale-{label}"
            yield Case(id, "gate", exact, scaled, o, ("extreme",), note)
    base, i = {"s": draw(2, 3), "z": draw(2, 3), "f": draw(2, 3)}, {"i": draw(2, 3)}
    row = {"f": base["f"][0]}
    for op, kind in product(("gate", "gate_vjp"), ("fixed", "full", "lstm")):
        good = base | (row if kind == "fixed" else {}) | (i if kind == "lstm" else {})
        bad = {
            "f": good | ({"f": base["f"]} if kind == "fixed" else row),
            "i": base if kind == "lstm" else good | i,
        }
        for label, tensors in bad.items():
            grad = {"dout": draw(2, 3)} if op.endswith("_vjp") else {}
            id, own = f"{op}/refuse-{label}-{kind}", of_refusal(op, "GSS-BRT-13")
            yield Case(id, op, own, tensors | grad, {"kind": kind}, ("refusal",), error=True)


def of_refusal(op: str, clause: str) -> tuple[str, ...]:
    """The clauses of a refusal: of a gradient GSS-NFI-16 too."""
    return (clause, "GSS-NFI-16") if op.endswith("_vjp") else (clause,)


# --- attention -----------------------------------------------------------------------------------

FORWARD = ("GSS-BRT-4", "GSS-BRT-6", "GSS-BRT-7")


def of_window(
    label: str, tensors: Tensors, window: int, *flags: str, note: str = "",
    ids: tuple[str, ...] = FORWARD, back: bool = True,
) -> Iterator[Case]:  # fmt: skip
    """`window_attention` and its gradient on the same tensors."""
    o, op = {"window": window}, "window_attention"
    yield Case(f"{op}/{label}", op, ids, tensors, o, flags, note)
    if back:
        draw, k = Draw(f"{op}_vjp/{label}"), tensors["k"]
        held = (k.shape[0], window, *k.shape[2:])
        grad = {**tensors, "dy": draw(*k.shape), "dstate.k": draw(*held), "dstate.v": draw(*held)}
        edge = tuple(c for c in ids if c == "GSS-NFI-14")
        own = ("GSS-BRT-20", "GSS-BRT-7", *edge)
        yield Case(f"{op}_vjp/{label}", f"{op}_vjp", own, grad, o, flags, note)


def windows() -> Iterator[Case]:
    """`window_attention`: every kind of logit, every window, with and without a state."""
    draw = Draw("window_attention")

    def heads(b: int, n: int, h: int, d: int, w: int = 0) -> dict[str, Any]:
        found = {name: draw(b, n, h, d) for name in "qkv"}
        return found | ({f"state.{name}": draw(b, w, h, d) for name in "kv"} if w else {})

    full = heads(2, 5, 2, 2, 3) | {"bias": draw(2, 5), "scale": np.array([1.25, -0.75], F)}
    ids = (*FORWARD, "GSS-BRT-8")
    note = "two rows, a state, a longer bias, a negative scale"
    yield from of_window("full", full, 3, note=note, ids=ids)
    small = heads(1, 3, 1, 2, 2) | {"bias": draw(1, 3), "scale": np.array([1.5], F)}
    yield from of_window("small", small, 2, "small", ids=ids)
    yield from of_window("root", heads(1, 5, 2, 3), 2, note="no scale: 1/√D")
    bias = {"bias": draw(2, 4)}
    note = "no scale, but a bias, that is not divided"
    yield from of_window("root-bias", heads(1, 5, 2, 3) | bias, 3, note=note, ids=ids)
    plain = heads(1, 7, 1, 2) | {"scale": np.array([2], F)}
    note = "no state: the keys before the first token are zeros, and seen"
    yield from of_window("first", plain, 3, note=note)
    yield from of_window("window-1", plain, 1, note="a window of one token")
    yield from of_window("window-7", plain, 7, note="a window as long as the sequence")
    yield from of_window("window-9", plain, 9, note="a window that no token fills")
    for label, value in (("zero", 0), ("negative", -3), ("large", 200)):
        of = plain | {"scale": np.array([value], F)}
        yield from of_window(f"scale-{label}", of, 3, note=f"a scale of {value}")
    zero = plain | {"k": 0 * plain["k"]}
    yield from of_window("zero-keys", zero, 2, note="all keys are zeros: the mean")
    huge = plain | {k: (100 * plain[k]).astype(F) for k in "qk"}
    yield from of_window("huge", huge, 3, note="logits of ten thousand")
    low = plain | {"bias": np.full((1, 4), -600, F), "k": (0.1 * plain["k"]).astype(F)}
    note = "all logits near -1200: nothing else stands in the sum of the softmax"
    yield from of_window("low", low, 3, note=note, ids=ids)
    yield from of_window("width-1", heads(2, 4, 1, 1) | {"scale": draw(1)}, 2, note="D = 1")
    note = "no token: the state is returned unchanged"
    edge = ("GSS-NFI-14", "GSS-STA-2")
    yield from of_window("no-length", heads(2, 0, 1, 2, 2), 2, note=note, ids=edge)
    yield from of_window("no-batch", heads(0, 3, 1, 2), 2, ids=("GSS-NFI-14",))
    for splits in ([0], [1], [4], [2, 2, 5], [1, 2, 3, 4, 5, 6]):
        cut, o = "-".join(map(str, splits)), {"window": 3, "splits": splits}
        id, note = f"window_attention/split-{cut}", "the state handed over"
        own = ("GSS-BRT-7", "GSS-STA-4")
        yield Case(id, "window_attention", own, plain, o, ("chunks",), note)
    tensors = heads(2, 5, 2, 2)
    note = "NaN in row 1, token 2: whoever sees it is NaN, and nobody else"
    for name in "kv":
        id, own = f"window_attention/nan-{name}", ("GSS-BRT-7", "GSS-BRT-22")
        args: Any = (id, "window_attention", own, tensors, {"window": 2}, ("nan",), note)
        yield replace(Case(*args), nan=(1, 2, 1, 0), nan_in=name)
    short = draw(2, 3)
    for op in ("window_attention", "window_attention_vjp"):
        refused = of_refusal(op, "GSS-BRT-7")
        held = {f"dstate.{n}": draw(2, 3, 2, 2) for n in "kv"} | {"dy": draw(2, 5, 2, 2)}
        given = full | {"bias": short} | (held if op.endswith("_vjp") else {})
        for why, t, w in (
            ("short-bias", given, 3),
            ("other-window", given, 2),
            ("window-0", given, 0),
        ):
            id = f"{op}/refuse-{why}"
            yield Case(id, op, refused, t, {"window": w}, ("refusal",), error=True)


def states() -> Iterator[Case]:
    """`state_attention`: every query sees every key."""
    draw, op = Draw("state_attention"), "state_attention"

    def heads(b: int, t: int, m: int, h: int, d: int) -> dict[str, Any]:
        return {"q": draw(b, t, h, d), "k": draw(b, m, h, d), "v": draw(b, m, h, d)}

    calm = heads(1, 3, 4, 1, 2)
    scale = {"scale": np.array([2], F)}
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "full": (heads(2, 3, 4, 2, 2) | {"scale": np.array([1.25, -0.75], F)}, "a negative scale"),
        "small": (heads(1, 2, 2, 1, 2) | scale, ""),
        "root": (heads(2, 4, 3, 2, 3), "no scale: 1/√D"),
        "one-key": (heads(1, 3, 1, 2, 2), "one key: its value"),
        "one-query": (heads(1, 1, 5, 1, 2), "one query"),
        "scale-zero": (calm | {"scale": np.array([0], F)}, "the mean of all values"),
        "zero-keys": (calm | scale | {"k": 0 * calm["k"]}, "the mean of all values"),
        "huge": (calm | scale | {n: (100 * calm[n]).astype(F) for n in "qk"}, "logits of 10⁴"),
        "low": (
            calm | {"q": -np.abs(calm["q"]) * F(30), "k": np.abs(calm["k"]) * F(30) + F(5)},
            "all logits far below 0",
        ),
        "no-key": (heads(2, 3, 0, 1, 2) | scale, "no key: 0"),
        "no-query": (heads(1, 0, 3, 1, 2), ""),
        "no-batch": (heads(0, 2, 3, 1, 2), ""),
    }
    for label, (tensors, note) in cases.items():
        flags = ("small",) if label == "small" else ()
        edge = ("GSS-NFI-14",) if label in ("no-query", "no-batch") else ()
        ids = ("GSS-BRT-9", "GSS-BRT-4", *edge)
        yield Case(f"{op}/{label}", op, ids, tensors, {}, flags, note)
        grad = tensors | {"dy": draw(*tensors["q"].shape)}
        ids = ("GSS-BRT-20", "GSS-BRT-9", *edge)
        yield Case(f"{op}_vjp/{label}", f"{op}_vjp", ids, grad, {}, flags, note)
    for label, name, s in (("small", "v", 1e-20), ("large", "v", 1e20), ("query", "q", 1e-20)):
        scaled = calm | scale | {name: (calm[name] * np.float64(s)).astype(F)}
        exact, note = ("GSS-ACC-1", "GSS-ACC-7"), f"{name} ~ {s:g}"
        yield Case(f"{op}/scale-{label}", op, exact, scaled, {}, ("extreme",), note)


# --- the layer -----------------------------------------------------------------------------------

BASE = BlockRecurrentConfig(heads=2, window=2, states=2)
BLOCK = ("GSS-BRT-1", "GSS-BRT-3", "GSS-BRT-5", "GSS-BRT-10", "GSS-BRT-11", "GSS-BRT-12")
OF_UPDATE = {"skip": "GSS-BRT-14", "dual": "GSS-BRT-14", "single": "GSS-BRT-15"}
MLPS = get_args(Mlp)
LAYERS: dict[str, tuple[BlockRecurrentConfig, tuple[str, ...]]] = {}
for _gate, _update in product(get_args(Gate), get_args(Update)):
    LAYERS[f"{_gate}-{_update}"] = (
        replace(BASE, gate=_gate, update=_update, mlp=MLPS[len(LAYERS) % 4]),
        ("GSS-BRT-13", OF_UPDATE[_update], "GSS-BRT-16"),
    )
OTHERS: dict[str, tuple[BlockRecurrentConfig, tuple[str, ...]]] = {
    "root": (replace(BASE, normalize_keys=False, gate="lstm", update="dual"), ("GSS-BRT-4",)),
    "root-single": (
        replace(BASE, normalize_keys=False, gate="full", update="single"),
        ("GSS-BRT-4",),
    ),
    "plain": (replace(BASE, position="none", eps=1e-3), ("GSS-BRT-8",)),
    "window-1": (replace(BASE, window=1, heads=1, gate="full"), ("GSS-BRT-21",)),
    "window-5": (replace(BASE, window=5, states=1, heads=1, position="none"), ("GSS-BRT-21",)),
    "window-3": (replace(BASE, window=3, states=1, update="dual"), ("GSS-BRT-21",)),
    "no-states": (replace(BASE, states=0, update="dual"), ("GSS-BRT-9",)),
    "states-5": (replace(BASE, states=5, heads=1, update="single"), ("GSS-BRT-12",)),
}
# what others show in gradients
FORWARD_ALONE = ("window-3", "window-5", "states-5", "root-single")
E, D, FF = 4, 2, 3


def layer_params(draw: Draw, config: BlockRecurrentConfig, e: int = E) -> dict[str, np.ndarray]:
    """Parameters as a network has them that has learned a little; no two tables are alike."""
    params = {}
    for name, tensor in parameters(config, Sizes(e, config.heads * D, FF)).items():
        last = name.split(".")[-1]
        if name.endswith(("norm1.weight", "norm2.weight")):
            value = (1 + draw(*tensor.shape, scale=0.2)).astype(F)
        elif last in ("scale", "scale2"):
            value = (1.5 + draw(*tensor.shape, scale=0.3)).astype(F)
        elif last.startswith("w_"):
            value = draw(*tensor.shape, scale=tensor.shape[0] ** -0.5)
        elif last in ("initial", "ids"):  # far from 0, where norms forgive no rounding
            value = (2 * np.sign(draw(*tensor.shape)) + draw(*tensor.shape, scale=0.5)).astype(F)
        elif last == "b_f":
            value = (1 + draw(*tensor.shape, scale=0.5)).astype(F)
        else:
            value = draw(*tensor.shape)
        params[name] = value
    return params


def memory(
    draw: Draw, config: BlockRecurrentConfig, t: Sequence[int], e: int = E
) -> dict[str, np.ndarray]:
    """A state after so many tokens of each row; one that has read nothing holds zeros."""
    W, B = config.window, len(t)
    slots = np.arange(2 * W)
    held = [(slots < W + n % W) & ((slots >= W) | (n >= W)) & (n > 0) for n in t]
    full = np.array(held, bool).reshape(B, 2 * W)[:, :, None, None]
    k, v = (np.where(full, draw(B, 2 * W, config.heads, D), F(0)) for _ in "kv")
    if config.normalize_keys:
        k = (k / np.sqrt((k * k).sum(-1, keepdims=True) + F(1e-6))).astype(F)
    begun = np.array(t, np.int32).reshape(-1, 1, 1) > 0
    s = np.where(begun, draw(B, config.states, e), F(0))
    count = [n if n < W else W + n % W for n in t]
    return {"state.s": s, "state.k": k, "state.v": v, "state.t": np.array(count, np.int32)}


def given(
    draw: Draw, config: BlockRecurrentConfig, length: int, t: Sequence[int], b: int = 1
) -> dict[str, np.ndarray]:
    """Parameters, x, and a state after t tokens of each row; none for no t."""
    rows = len(t) or b
    state = memory(draw, config, t) if t else {}
    return named(layer_params(draw, config)) | {"x": draw(rows, length, E)} | state


def with_cotangents(draw: Draw, tensors: Tensors, config: BlockRecurrentConfig) -> dict[str, Any]:
    x = tensors["x"]
    slots = (len(x), 2 * config.window, config.heads, D)
    d = {"dstate.s": draw(len(x), config.states, E)}
    d |= {"dstate.k": draw(*slots), "dstate.v": draw(*slots)}
    return {**tensors, "dout": draw(*x.shape), **d}


def option(config: BlockRecurrentConfig, **more: Any) -> dict[str, Any]:
    return {"config": encode_option(config), **more}


def once(*clauses: str) -> tuple[str, ...]:
    """Each clause that is named, once."""
    return tuple(dict.fromkeys(clauses))


LAYER, STEP = "block_recurrent_layer", "block_recurrent_step"


def block_recurrents() -> Iterator[Case]:
    """Every combination of options; every place in a window; pieces, steps, gradients."""
    for name, (config, clauses) in (LAYERS | OTHERS).items():
        draw, o = Draw(f"{LAYER}/{name}"), option(config)
        ids = once(*BLOCK, *clauses, "GSS-BRT-18")
        length = {1: 3, 2: 4, 3: 5}.get(config.window, 7)
        if config.update == "dual" and config.gate != "full":
            length = 2  # errors grow from window to window
        tensors = given(draw, config, length, [config.window + 1])
        flags = ("small",) if name in ("fixed-skip", "lstm-single") else ()
        yield Case(f"{LAYER}/{name}", LAYER, ids, tensors, o, flags)
        if name not in FORWARD_ALONE:
            grad, back = with_cotangents(draw, tensors, config), once("GSS-BRT-20", *clauses)
            yield Case(f"{LAYER}_vjp/{name}", f"{LAYER}_vjp", back, grad, o, flags)
        length = 5 if config.window < 3 else 7
        whole = given(Draw(f"{LAYER}/{name}-pieces"), config, length, ())
        chunks = (("chunks",), "the sequence cut here, the state handed over")
        own = ("GSS-BRT-18", "GSS-BRT-21", "GSS-BRT-16", "GSS-STA-4")
        if name in FORWARD_ALONE:
            cut = option(config, splits=[3])
            yield Case(f"{LAYER}/{name}-split-3", LAYER, own, whole, cut, *chunks)
            continue
        steps = option(config, splits=list(range(1, length)))
        yield Case(f"{STEP}/{name}-steps", STEP, own, whole, steps, chunks[0], "token by token")
    yield from layer_cuts()
    yield from layer_rows()
    yield from layer_parts()
    yield from layer_edges()
    yield from layer_steps()


def layer_cuts() -> Iterator[Case]:
    """A short sequence, cut everywhere."""
    config = replace(BASE, window=3, gate="full", heads=1)
    whole = given(Draw(f"{LAYER}/cuts"), config, 7, ())
    ids = ("GSS-BRT-18", "GSS-BRT-21", "GSS-BRT-16", "GSS-STA-4")
    for splits in ([0], [1], [2], [4], [5], [7], [2, 2, 5]):
        o, cut = option(config, splits=splits), "-".join(map(str, splits))
        yield Case(f"{LAYER}/cut-{cut}", LAYER, ids, whole, o, ("chunks",))


def layer_rows() -> Iterator[Case]:
    """Rows at every place of a window; some begin, and what they hold is not read."""
    config = replace(BASE, heads=1, gate="lstm")
    draw, o = Draw(f"{LAYER}/rows"), option(config)
    ids = ("GSS-BRT-18", "GSS-BRT-21", "GSS-BRT-6")
    rows = given(draw, config, 3, [0, 1, 2, 3])
    note = "a row at each place of the first windows"
    yield Case(f"{LAYER}/rows", LAYER, ids, rows, o, (), note)
    grad = with_cotangents(draw, rows, config)
    yield Case(f"{LAYER}_vjp/rows", f"{LAYER}_vjp", ("GSS-BRT-20", *ids), grad, o, (), note)
    cut, note = option(config, splits=[1, 2]), "rows at each place, in pieces"
    yield Case(f"{LAYER}/rows-split", LAYER, (*ids, "GSS-STA-4"), rows, cut, ("chunks",), note)
    foreign = {k: (x + 1e3).astype(F) for k, x in rows.items() if k in ("state.s", "state.k")}
    begins = rows | foreign | {"state.t": np.zeros(4, np.int32)}
    note = "all rows begin: nothing else of their states is read"
    yield Case(f"{LAYER}/begins", LAYER, ids, begins, o, (), note)
    nan = begins | {k: np.full_like(x, np.nan) for k, x in foreign.items()}
    note = "NaN in the states of rows that begin"
    yield Case(f"{LAYER}/begins-nan", LAYER, ids, nan, o, ("nan",), note)
    beyond = dict(rows)
    W, t = config.window, np.array([0, 1, 2, 3])
    unread = (np.arange(2 * W) >= (W + t % W)[:, None])[:, :, None, None]
    for k in ("state.k", "state.v"):
        beyond[k] = np.where(unread, F(np.nan), rows[k])
    note = "NaN in the slots of tokens that were not read yet"
    yield Case(f"{LAYER}/unread-nan", LAYER, ids, beyond, o, ("nan",), note)
    only, note = grad | {"dout": 0 * grad["dout"]}, "a cotangent of the state alone"
    yield Case(f"{LAYER}_vjp/state-alone", f"{LAYER}_vjp", ("GSS-BRT-20",), only, o, (), note)


def layer_parts() -> Iterator[Case]:
    """Layers most of whose parts are switched off, so that a failure says which part it is."""
    for name in ("fixed-skip", "lstm-single", "full-dual", "root"):
        config, clauses = (LAYERS | OTHERS)[name]
        tensors = given(Draw(f"{LAYER}/{name}-parts"), config, 5, [3])
        E_, A = E, config.heads * D
        w_o = tensors["params.w_o"]
        own, state = (
            np.where(np.arange(2 * A)[:, None] < A, *x) for x in ((w_o, 0 * w_o), (0 * w_o, w_o))
        )
        no_mlp = {"params.w_2": 0 * tensors["params.w_2"]}
        closed = {
            k: np.full(E_, 40, F)
            for k in tensors
            if k.startswith("params.state.gate") and k.endswith(".b_f")
        }
        cases: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
            "no-attention": ({"params.w_o": 0 * w_o}, ("GSS-BRT-11",), "w_o = 0"),
            "window-alone": (
                no_mlp | {"params.w_o": own},
                ("GSS-BRT-7", "GSS-BRT-8", "GSS-BRT-4", "GSS-BRT-3"),
                "attention to tokens alone",
            ),
            "state-alone": (
                no_mlp | {"params.w_o": state},
                ("GSS-BRT-10", "GSS-BRT-5", *clauses),
                "attention to the state alone",
            ),
            "closed": (no_mlp | closed, ("GSS-BRT-13", "GSS-BRT-10"), "gates that keep the state"),
        }
        for label, (change, ids, note) in cases.items():
            if label == "closed" and config.gate == "lstm":
                continue
            id = f"{LAYER}/{name}-{label}"
            yield Case(id, LAYER, ids, tensors | change, option(config), ("part",), note)


def layer_edges() -> Iterator[Case]:
    """Hard numbers, no token, no row, a NaN, and counts that no state has."""
    config = replace(BASE, heads=1, gate="full", update="dual")
    draw, o = Draw(f"{LAYER}/edges"), option(config)
    calm = given(draw, config, 3, [3])
    zeroed = {k: 0 * x for k, x in calm.items() if k.endswith((".w_k", ".w_q", ".w_q2"))}
    scales = [k for k in calm if k.split(".")[-1] in ("scale", "scale2")]
    cases = {
        "zero-keys": (zeroed, ("GSS-BRT-3", "GSS-BRT-4"), "queries and keys are zeros"),
        "scale-zero": ({k: 0 * calm[k] for k in scales}, ("GSS-BRT-4",), "scales of 0: the mean"),
        "scale-negative": ({k: -calm[k] for k in scales}, ("GSS-BRT-4",), "|scale|"),
        "scale-large": (
            {k: 20 * calm[k] for k in scales if ".state." not in k}, ("GSS-BRT-4",), "scales of 30",
        ),
        "zero-x": ({"x": 0 * calm["x"]}, ("GSS-BRT-1",), "tokens that are zeros"),
    }  # fmt: skip
    for label, (change, ids, note) in cases.items():
        tensors = calm | {k: x.astype(F) for k, x in change.items()}
        yield Case(f"{LAYER}/{label}", LAYER, ids, tensors, o, (), note)
        if label in ("scale-zero", "scale-negative"):
            grad = with_cotangents(Draw(f"{LAYER}_vjp/{label}"), tensors, config)
            back = ("GSS-BRT-20", *ids)
            yield Case(f"{LAYER}_vjp/{label}", f"{LAYER}_vjp", back, grad, o, (), note)
    for label, length, t, b in (
        ("no-length", 0, [0, 3], 1), ("no-length-fresh", 0, [], 2), ("no-batch", 3, [], 0),
    ):  # fmt: skip
        tensors = given(Draw(f"{LAYER}/{label}"), config, length, t, b)
        edge = ("GSS-NFI-14",) + (("GSS-BRT-18", "GSS-STA-2") if not length else ())
        yield Case(f"{LAYER}/{label}", LAYER, edge, tensors, o)
        grad = with_cotangents(draw, tensors, config)
        yield Case(f"{LAYER}_vjp/{label}", f"{LAYER}_vjp", edge, grad, o)
    tensors = given(Draw(f"{LAYER}/nan"), config, 5, [], 2)
    note, ids = "NaN at b=1, t=1: other rows stay, and what is before", ("GSS-BRT-22",)
    args: Any = (f"{LAYER}/nan", LAYER, ids, tensors, o, ("nan",), note)
    yield replace(Case(*args), nan=(1, 1, 0), nan_in="x")
    for op, (why, n) in product((LAYER, STEP), (("negative", -1), ("two-windows", 4))):
        bad = calm | {"state.t": np.array([n], np.int32)}
        for gradient in ("", "_vjp"):
            full = with_cotangents(draw, bad, config) if gradient else bad
            alone = of_step(full) if op == STEP else full
            id, own = f"{op}{gradient}/refuse-{why}", of_refusal(op + gradient, "GSS-BRT-18")
            yield Case(id, op + gradient, own, alone, o, ("refusal",), error=True)


def of_step(tensors: Tensors) -> dict[str, np.ndarray]:
    """The first token of a call alone."""
    return {k: x[:, 0] if k in ("x", "dout") else x for k, x in tensors.items()}


def layer_steps() -> Iterator[Case]:
    """Single tokens at each place of a window, that which fills it among them."""
    bare = replace(
        BASE, heads=1, states=1, window=1, normalize_keys=False, position="none", eps=1e-3
    )
    for name in ("fixed-skip", "lstm-single", "full-dual", "bare"):
        config, clauses = LAYERS[name] if name in LAYERS else (bare, ())
        draw, ids = Draw(f"{STEP}/{name}"), once(*BLOCK, *clauses, "GSS-BRT-18")
        for label, t in (("begins", [0, 1]), ("fills", [3]), ("opens", [2])):
            if name == "bare" and label != "fills":
                continue
            tensors = of_step(given(draw, config, 1, t))
            flags = ("small",) if (name, label) == ("fixed-skip", "fills") else ()
            yield Case(f"{STEP}/{name}-{label}", STEP, ids, tensors, option(config), flags)
            if label == "fills" or name == "full-dual":
                grad = of_step(
                    with_cotangents(draw, {**tensors, "x": tensors["x"][:, None]}, config)
                )
                back = ("GSS-BRT-20", "GSS-BRT-18", *clauses)
                id = f"{STEP}_vjp/{name}-{label}"
                yield Case(id, f"{STEP}_vjp", back, grad, option(config), flags)


def layer_nan(output: str, case: Case) -> np.ndarray | None:
    """Where a NaN in x, from no state, may show in an output of a layer."""
    (b, s, _), x, config = case.nan, case.tensors["x"], case.options["config"]
    if output == "y":
        free = np.zeros(x.shape, bool)
        free[b, s:] = True
        return free
    if output == "state.t":
        return np.zeros(len(x), bool)
    W, H = config["window"], config["heads"]
    slots = (len(x), 2 * W, H, D) if output != "state.s" else (len(x), config["states"], E)
    free = np.zeros(slots, bool)
    free[b] = True
    return free


def window_nan(output: str, case: Case) -> np.ndarray | None:
    """Where a NaN in k or v, from no state, must show in an output of `window_attention`."""
    (b, s, h, d), W = case.nan, case.options["window"]
    x, part = case.tensors["k"], slice(None) if case.nan_in == "k" else d
    if output == "y":
        hit = np.zeros(x.shape, bool)
        hit[b, s + 1 : s + 1 + W, h, part] = True
        return hit
    hit = np.zeros((x.shape[0], W, *x.shape[2:]), bool)
    if output == f"state.{case.nan_in}" and s >= x.shape[1] - W:
        hit[b, s - (x.shape[1] - W), h, d] = True
    return hit
