"""Chapter 18: attention, its state, its gradient; positions and RMS norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from refgss.config import AttentionForm, Visible
from refgss.conformance.vectors.cases.common import Case, Draw, F
from refgss.conformance.vectors.visible import sees, shown
from refgss.ops import encode_option

VISIBLE = get_args(Visible)
FORWARD = ("GSS-ATT-1", "GSS-ATT-2", "GSS-ATT-3", "GSS-ATT-7")
BACKWARD = ("GSS-ATT-9", "GSS-ATT-16")
Tensors = Mapping[str, np.ndarray]


def attentions() -> Iterator[Case]:
    """Every visibility, every cut, and what random numbers do not reach."""
    for visible in VISIBLE:
        yield from of_form(visible)
        yield from cuts(visible)
        yield from of_states(visible)
        yield from of_nan(visible)
    yield from of_logits()
    yield from of_scales()
    yield from empty()
    yield from refused()


# --- what a call is made of ----------------------------------------------------------------------


def inputs(draw: Draw, b: int, length: int, heads: int, groups: int, d: int) -> dict[str, Any]:
    """q, k, v."""
    return {
        "q": draw(b, length, heads, d),
        "k": draw(b, length, groups, d),
        "v": draw(b, length, groups, d),
    }


def state_of(
    draw: Draw, form: AttentionForm, t: Sequence[int], groups: int, d: int
) -> dict[str, Any]:
    """A state after t tokens of each row: zeros in the slots that the next token does not see."""
    full = np.array([shown(n, form) for n in t], bool)[:, :, None, None]
    k, v = (np.where(full, draw(len(t), form.slots, groups, d), F(0)) for _ in range(2))
    return {"state.k": k, "state.v": v, "state.t": np.array(t, np.int32)}


def phases(form: AttentionForm, *t: int) -> list[int]:
    """Numbers of tokens read, as the state holds them."""
    return [n % form.chunk if form.visible == "chunk" else n for n in t]


def cotangents(draw: Draw, tensors: Tensors, form: AttentionForm) -> dict[str, np.ndarray]:
    """dy and dstate, of every slot, those that no token sees among them."""
    k = tensors["k"]
    shape = (k.shape[0], form.slots, *k.shape[-2:])
    return {"dy": draw(*tensors["q"].shape), "dstate.k": draw(*shape), "dstate.v": draw(*shape)}


def option(form: AttentionForm) -> dict[str, Any]:
    return {"window": encode_option(form)}


def both(
    label: str, ids: tuple[str, ...], tensors: Tensors, form: AttentionForm, *flags: str,
    note: str = "", back: tuple[str, ...] = BACKWARD,
) -> Iterator[Case]:  # fmt: skip
    """`attention` and its gradient on the same tensors; without `back` no gradient."""
    o = option(form)
    yield Case(f"attention/{label}", "attention", ids, tensors, o, flags, note)
    if not back:
        return
    grad = {**tensors, **cotangents(Draw(f"attention_vjp/{label}"), tensors, form)}
    yield Case(f"attention_vjp/{label}", "attention_vjp", back, grad, o, flags, note)


def of_step(tensors: Tensors) -> dict[str, np.ndarray]:
    """The first token of a call alone."""
    alone = ("q", "k", "v", "dy")
    return {name: x[:, 0] if name in alone else x for name, x in tensors.items()}


# --- the formula ---------------------------------------------------------------------------------


def of_form(visible: Visible) -> Iterator[Case]:
    """Without and with bias, groups and state; chunks of 1, and chunks beyond the sequence."""
    draw, form = Draw(f"attention/{visible}"), AttentionForm(4, visible)
    plain = inputs(draw, 1, 9, 2, 2, 3)
    yield from both(f"{visible}-plain", FORWARD, plain, form)
    form = AttentionForm(3, visible, "one")
    grouped = inputs(draw, 2, 5, 4, 2, 2) | {"bias": draw(4, form.distances + 2)}
    grouped |= state_of(draw, form, phases(form, 2, 7), 2, 2)
    ids: tuple[str, ...] = (*FORWARD, "GSS-ATT-6", "GSS-ATT-15")
    note = "two rows of different phase, two heads of keys for four of queries, a longer bias"
    yield from both(f"{visible}-grouped", ids, grouped, form, note=note)
    small = AttentionForm(2, visible)
    few = inputs(draw, 1, 4, 2, 1, 2) | {"bias": draw(2, small.distances)}
    few |= state_of(draw, small, [1], 1, 2)
    yield from both(f"{visible}-small", ids, few, small, "small")
    for label, tensors, of in (("grouped", grouped, form), ("small", few, small)):
        op, flags = "attention_step", ("small",) if label == "small" else ()
        ids = ("GSS-ATT-23", *FORWARD)
        args: Any = (option(of), flags)
        yield Case(f"{op}/{visible}-{label}", op, ids, of_step(tensors), *args)
        grad = of_step({**tensors, **cotangents(Draw(f"{op}_vjp/{visible}-{label}"), tensors, of)})
        ids = ("GSS-ATT-23", *BACKWARD)
        yield Case(f"{op}_vjp/{visible}-{label}", f"{op}_vjp", ids, grad, *args)
    one = AttentionForm(1, visible)
    alone = inputs(draw, 1, 4, 1, 1, 2) | state_of(draw, one, phases(one, 3), 1, 2)
    note = "chunks of one token"
    yield from both(f"{visible}-chunk-1", (*FORWARD, "GSS-ATT-8"), alone, one, note=note)
    long = AttentionForm(7, visible)
    short = inputs(draw, 1, 4, 1, 1, 2)
    note = "a chunk longer than the sequence: full causal attention"
    yield from both(f"{visible}-chunk-7", FORWARD, short, long, note=note, back=())


def cuts(visible: Visible) -> Iterator[Case]:
    """A short sequence, cut everywhere; and token by token."""
    form = AttentionForm(2, visible)
    draw = Draw(f"attention/{visible}-cuts")
    whole = inputs(draw, 1, 6, 1, 1, 2)
    chunks = (("chunks",), "the sequence cut here, the candidate's own state handed over")
    for m in range(7):
        ids = ("GSS-ATT-8",) + (("GSS-STA-2",) if m in (0, 6) else ())
        o = option(form) | {"splits": [m]}
        yield Case(f"attention/{visible}-split-{m}", "attention", ids, whole, o, *chunks)
    rows = inputs(draw, 2, 6, 2, 1, 2) | {"bias": draw(2, form.distances)}
    rows |= state_of(draw, form, phases(form, 1, 4), 1, 2)
    for splits in ([1, 4], [0, 3, 3, 5]):
        cut, o = "-".join(map(str, splits)), option(form) | {"splits": splits}
        ids = ("GSS-ATT-8", "GSS-ATT-1", "GSS-STA-2")
        yield Case(f"attention/{visible}-rows-{cut}", "attention", ids, rows, o, *chunks)
    ids, o = ("GSS-ATT-8", "GSS-ATT-23"), option(form) | {"splits": [1, 2, 3, 4, 5]}
    note = "token by token"
    yield Case(f"attention_step/{visible}-steps", "attention_step", ids, rows, o, chunks[0], note)


def of_states(visible: Visible) -> Iterator[Case]:
    """Rows at every phase, a stream that is long, and slots that nothing may read."""
    form = AttentionForm(3, visible)
    draw = Draw(f"attention/{visible}-states")
    t = phases(form, 0, 1, 2) if visible == "chunk" else [0, 2, 5]
    tensors = inputs(draw, len(t), 2, 1, 1, 2) | state_of(draw, form, t, 1, 2)
    ids: tuple[str, ...] = (*FORWARD, "GSS-ATT-16")
    yield from both(f"{visible}-phases", ids, tensors, form, note="a row at each phase")
    if visible != "chunk":
        far = inputs(draw, 2, 4, 1, 1, 2)
        far |= state_of(draw, form, [1_000_000_000, 1_000_000_001], 1, 2)
        note = "a thousand million tokens"
        yield from both(f"{visible}-far", FORWARD, far, form, note=note, back=())
    hidden = ~np.array([shown(n, form) for n in t], bool)[:, :, None, None]
    garbage = {k: np.where(hidden, F(1e30), tensors[k]) for k in ("state.k", "state.v")}
    note = "what stands in slots that the next token does not see is never read"
    yield from both(f"{visible}-hidden", ids, {**tensors, **garbage}, form, note=note)
    nan = {k: np.where(hidden, F(np.nan), tensors[k]) for k in ("state.k", "state.v")}
    note = "NaN in slots that the next token does not see"
    ids, o = ("GSS-ATT-10", "GSS-ATT-7"), option(form)
    id = f"attention/{visible}-nan-hidden"
    yield Case(id, "attention", ids, {**tensors, **nan}, o, ("nan",), note)
    one = draw(len(t), 2, 1, 2)
    one[:, 0] = 0
    grad = {**tensors, **cotangents(draw, tensors, form), "dy": one}
    quiet = {k: 0 * x for k, x in grad.items() if k.startswith("dstate")}
    for label, changed, note in (
        (
            "last-query",
            quiet,
            "a cotangent of the last token alone: exact zeros where it sees none",
        ),
        ("state-alone", {"dy": 0 * one}, "a cotangent of the state alone"),
    ):
        id = f"attention_vjp/{visible}-{label}"
        yield Case(id, "attention_vjp", BACKWARD, {**grad, **changed}, o, (), note)


# --- numbers -------------------------------------------------------------------------------------


def of_logits() -> Iterator[Case]:
    """Large, equal and rising logits; keys that dwarf those that are seen."""
    draw, form = Draw("attention/logits"), AttentionForm(4)
    calm = inputs(draw, 1, 6, 1, 1, 2)
    huge = calm | {k: (100 * calm[k]).astype(F) for k in ("q", "k")}
    ids: tuple[str, ...] = ("GSS-ATT-17", "GSS-ATT-18")
    back = ("GSS-ATT-9", "GSS-ATT-19")
    yield from both("huge", ids, huge, form, note="logits of ten thousand", back=back)
    equal = calm | {"q": 0 * calm["q"]}
    ids = ("GSS-ATT-3", "GSS-ATT-18")
    yield from both("equal", ids, equal, form, note="equal logits: the mean", back=back)
    rising = inputs(draw, 1, 12, 1, 1, 2)
    rising["q"], wide = 0 * rising["q"], AttentionForm(12)
    rising["bias"] = -(np.arange(12, dtype=F) / F(64))[None]
    note = "each logit a little above the one before: an online softmax rescales at each key"
    yield from both("rising", ids, rising, wide, note=note, back=back)
    ones = {k: np.ones_like(x) for k, x in calm.items()} | {"v": calm["v"]}
    for visible in VISIBLE:
        for label, s in (("before", 0), ("after", 5)):
            keys = -ones["k"]
            keys[0, s] = 200  # times q: beside it every other weight underflows
            if visible == "strict" and label == "after":
                keys[0, 5] = 3e4
            tensors = {"q": ones["q"], "k": keys, "v": ones["v"]}
            note = f"the key at {s} has a huge logit, also for queries that do not see it"
            of = AttentionForm(2, visible, "one")
            ids = ("GSS-ATT-17", "GSS-ATT-2")
            ours = back if visible == "chunk" else ()
            yield from both(f"{visible}-dwarf-{label}", ids, tensors, of, note=note, back=ours)
    strict = AttentionForm(3, "strict")
    first = inputs(draw, 2, 3, 2, 1, 2)
    note = "the first token sees nothing: exactly 0"
    ids = ("GSS-ATT-11", "GSS-ATT-2")
    yield from both("strict-first", ids, first, strict, note=note, back=("GSS-ATT-16",))
    one = of_step(first)
    yield Case("attention_step/strict-first", "attention_step", ids, one, option(strict), (), note)
    for heads, groups in ((3, 1), (6, 3), (4, 4)):
        tensors = inputs(draw, 1, 3, heads, groups, 2)
        ids = ("GSS-ATT-6",)
        yield from both(f"heads-{heads}-{groups}", ids, tensors, form, note="grouped heads")
    for d in (1, 5, 16):
        tensors = inputs(draw, 1, 3, 1, 1, d)
        ids = ("GSS-ATT-3",)
        note = "1/√D, of the width of a head"
        yield from both(f"width-{d}", ids, tensors, form, note=note, back=())


SCALES: dict[str, dict[str, dict[str, float]]] = {
    "attention": {
        "small": {"v": 1e-20},
        "large": {"v": 1e20},
        "small-query": {"q": 1e-20},
        "opposite": {"q": 1e-20, "k": 1e20},
    },
    "attention_vjp": {
        "small": {"dy": 1e-20, "dstate.k": 1e-20, "dstate.v": 1e-20},
        "large": {"dy": 1e20, "dstate.k": 1e20, "dstate.v": 1e20},
        "opposite": {"v": 1e20, "dy": 1e-20},
        "opposite-keys": {"q": 1e-20, "k": 1e20, "dstate.k": 1e-20},
    },
}


def of_scales() -> Iterator[Case]:
    """Very small and very large numbers."""
    form = AttentionForm(3, "sliding")
    draw = Draw("attention/scales")
    calm = inputs(draw, 1, 5, 2, 1, 2)
    given = {"attention": calm, "attention_vjp": {**calm, **cotangents(draw, calm, form)}}
    for op, scales in SCALES.items():
        for label, scale in scales.items():
            changed = {k: (given[op][k] * np.float64(s)).astype(F) for k, s in scale.items()}
            note = ", ".join(f"{k} ~ {s:g}" for k, s in scale.items())
            ids = ("GSS-ACC-1", "GSS-ACC-7")
            tensors = {**given[op], **changed}
            yield Case(f"{op}/scale-{label}", op, ids, tensors, option(form), ("extreme",), note)


def of_nan(visible: Visible) -> Iterator[Case]:
    """A NaN in one token: in whom it stands, and whom it must not reach."""
    form = AttentionForm(2, visible)
    draw = Draw(f"attention/{visible}-nan")
    tensors = inputs(draw, 2, 5, 2, 2, 2)
    ids = ("GSS-ATT-10", "GSS-ATT-25")
    note = "NaN in row 1, token 2: what sees it is NaN, and nothing else"
    for name, index in (("k", (1, 2, 1, 0)), ("v", (1, 2, 1, 1)), ("q", (1, 2, 1, 0))):
        id = f"attention/{visible}-nan-{name}"
        args: Any = (id, "attention", ids, tensors, option(form), ("nan",), note)
        yield replace(Case(*args), nan=index, nan_in=name)
        if name == "k":
            o = option(form) | {"splits": [3, 5]}
            cut = replace(Case(*args), id=f"{id}-split", options=o, nan=index, nan_in=name)
            yield replace(cut, clauses=(*ids, "GSS-ATT-8"))
    step = of_step(tensors) | state_of(draw, form, phases(form, 1, 1), 2, 2)
    id = f"attention_step/{visible}-nan"
    args = (id, "attention_step", ids, step, option(form), ("nan",), "NaN in a key of row 1")
    yield replace(Case(*args), nan=(1, 1, 0), nan_in="k")


def empty() -> Iterator[Case]:
    """No token, no row."""
    draw = Draw("attention/empty")
    for visible in VISIBLE:
        form = AttentionForm(2, visible)
        state = state_of(draw, form, phases(form, 1, 3), 1, 2)
        none = inputs(draw, 2, 0, 2, 1, 2)
        ids = ("GSS-STA-2", "GSS-NFI-14")
        note = "no token: the state is returned unchanged"
        yield from both(f"{visible}-no-length", ids, none | state, form, note=note, back=ids)
    no_rows = inputs(draw, 0, 3, 2, 1, 2)
    yield from both("no-batch", ("GSS-NFI-14",), no_rows, form, back=("GSS-NFI-14",))
    yield from both("no-length-fresh", ids, none, form, note="no token and no state", back=ids)


def refused() -> Iterator[Case]:
    """States that no stream has, and a bias that is too short."""
    draw = Draw("attention/refused")
    for visible in VISIBLE:
        form = AttentionForm(2, visible)
        good = inputs(draw, 2, 1, 2, 2, 2) | state_of(draw, form, phases(form, 1, 1), 2, 2)
        good["bias"] = draw(2, form.distances)
        bad: dict[str, tuple[str, dict[str, Any]]] = {
            "negative": ("GSS-ATT-26", {"state.t": np.array([1, -1], np.int32)}),
            "short-bias": ("GSS-ATT-15", {"bias": draw(2, form.distances - 1)}),
        }
        slots = {k: np.repeat(good[k], 2, 1) for k in ("state.k", "state.v")}
        bad["more-slots"] = ("GSS-ATT-26", slots)
        fewer = {k: good[k][:, :-1] for k in ("state.k", "state.v")}
        bad["fewer-slots"] = ("GSS-ATT-26", fewer)
        if visible == "chunk":
            bad["beyond-chunk"] = ("GSS-ATT-26", {"state.t": np.array([1, 2], np.int32)})
        for op in ("attention", "attention_vjp", "attention_step", "attention_step_vjp"):
            whole = good | (cotangents(draw, good, form) if op.endswith("_vjp") else {})
            for why, (clause, change) in bad.items():
                tensors = {**whole, **change}
                tensors = of_step(tensors) if "step" in op else tensors
                ids = (clause, "GSS-NFI-16") if op.endswith("_vjp") else (clause,)
                id = f"{op}/refuse-{visible}-{why}"
                yield Case(id, op, ids, tensors, option(form), ("refusal",), error=True)


# --- positions and RMS norm ----------------------------------------------------------------------


def positions() -> Iterator[Case]:
    """`rope` and `t5_bias`."""
    draw = Draw("rope")
    near = np.stack([np.arange(5), np.arange(5) + 3]).astype(np.int32)
    rows = {
        "near": (near, 4, 10000.0, "small"),
        "two": (near, 2, 10000.0, "a single pair"),
        "wide": (near[:, :2], 16, 500.0, "another base"),
        "far": (
            np.array([[999_999, 1_000_000, 123_456_789]], np.int32),
            8,
            10000.0,
            "angles of 10⁶",
        ),
        "negative": (np.array([[-3, 0, 7]], np.int32), 6, 100.0, "any integer"),
        "no-length": (near[:, :0], 4, 10000.0, "no token"),
    }
    for pairing in ("half", "interleaved"):
        for label, (r, d, base, note) in rows.items():
            x, dy = draw(*r.shape, 2, d), draw(*r.shape, 2, d)
            o = {"base": base, "pairing": pairing}
            id, flags = f"{pairing}-{label}", ("small",) if label == "near" else ()
            extra = ("GSS-NFI-14",) if label == "no-length" else ()
            ids = ("GSS-ATT-13", "GSS-ATT-14", *extra)
            yield Case(f"rope/{id}", "rope", ids, {"x": x, "r": r}, o, flags, note)
            ids = ("GSS-ATT-21", "GSS-ATT-14", *extra)
            yield Case(f"rope_vjp/{id}", "rope_vjp", ids, {"r": r, "dy": dy}, o, flags, note)
    o = {"base": 10000.0, "pairing": "half"}
    odd = {"x": draw(2, 5, 2, 3), "r": near}
    yield Case("rope/refuse-odd", "rope", ("GSS-ATT-13",), odd, o, ("refusal",), error=True)
    odd = {"r": near, "dy": odd["x"]}
    ids = ("GSS-ATT-13", "GSS-NFI-16")
    yield Case("rope_vjp/refuse-odd", "rope_vjp", ids, odd, o, ("refusal",), error=True)
    draw = Draw("t5_bias")
    for length in (0, 1, 5, 17, 40, 115, 140):
        table, o = draw(2 if length < 100 else 1, 32), {"length": length}
        edge = ("GSS-NFI-14",) if not length else ()
        note = "a length beyond the last bucket's start" if length > 113 else ""
        tensors = {"table": table}
        ids = ("GSS-ATT-5", *edge)
        yield Case(f"t5_bias/{length}", "t5_bias", ids, tensors, o, (), note)
        grad = tensors | {"dbias": draw(len(table), length)}
        ids = ("GSS-ATT-22", *edge)
        yield Case(f"t5_bias_vjp/{length}", "t5_bias_vjp", ids, grad, o, (), note)


def rms_norms() -> Iterator[Case]:
    draw = Draw("rms_norm")
    x = {
        "random": (draw(2, 3, 8), 1e-5, "GSS-ATT-12", ""),
        "mean": (draw(3, 6) + F(20), 1e-5, "GSS-ATT-12", "no mean is subtracted"),
        "small": (draw(3, 6, scale=3e-3), 1e-5, "GSS-ATT-12", "μ₂ ≈ ε: shows the wrong ε"),
        "eps-1e-6": (draw(3, 6, scale=3e-3), 1e-6, "GSS-ATT-12", "ε is an argument"),
        "zero": (np.zeros((2, 4), F), 1e-5, "GSS-ATT-12", "μ₂ = 0"),
        "one": (draw(3, 1), 1e-5, "GSS-ATT-12", "E = 1"),
        "no-rows": (draw(0, 4), 1e-5, "GSS-NFI-14", ""),
    }
    for label, (v, eps, clause, note) in x.items():
        tensors, o = {"x": v, "weight": draw(v.shape[-1])}, {"eps": eps}
        flags = ("small",) if label == "random" else ()
        yield Case(f"rms_norm/{label}", "rms_norm", (clause,), tensors, o, flags, note)
        grad = tensors | {"dy": draw(*v.shape)}
        ids: tuple[str, ...] = ("GSS-ATT-20",) if clause == "GSS-ATT-12" else (clause,)
        yield Case(f"rms_norm_vjp/{label}", "rms_norm_vjp", ids, grad, o, flags, note)
    tensors = {"x": draw(2, 3, 4), "weight": draw(4)}
    note, row = "NaN in one row", ("GSS-NFI-11",)
    args: Any = ("rms_norm/nan", "rms_norm", row, tensors, {"eps": 1e-5}, ("nan",), note)
    yield replace(Case(*args), nan=(1, 2, 0))
    for op, name in (("rms_norm", "x"), ("rms_norm_vjp", "dy")):
        given = tensors | ({"dy": draw(2, 3, 4)} if op.endswith("_vjp") else {})
        for label, s in (("small", 1e-20),) + ((("large", 1e20),) if name == "dy" else ()):
            scaled = given | {name: (given[name] * np.float64(s)).astype(F)}
            exact, note = ("GSS-ACC-1", "GSS-ACC-7"), f"{name} ~ {s:g}"
            id = f"{op}/scale-{label}"
            yield Case(id, op, exact, scaled, {"eps": 1e-5}, ("extreme",), note)


def nan_reach(output: str, case: Case) -> np.ndarray | None:
    """Where a NaN in `nan_in` must be seen in an output of `attention` or of one step of it."""
    form = AttentionForm(**case.options["window"])
    steps = case.op == "attention_step" and "splits" not in case.options
    b, s, of, *d = (case.nan[0], 0, *case.nan[1:]) if steps else case.nan
    start = int(case.tensors["state.t"][b]) if "state.t" in case.tensors else 0
    q, k = (case.tensors[n][:, None] if steps else case.tensors[n] for n in ("q", "k"))
    share = q.shape[2] // k.shape[2]
    heads = [of] if case.nan_in == "q" else range(of * share, (of + 1) * share)
    part: Any = d[0] if case.nan_in == "v" else slice(None)
    if output == "y":
        hit = np.zeros(q.shape, bool)
        for i in range(q.shape[1]):
            seen = sees(start + i, start + s, form) if case.nan_in != "q" else i == s
            hit[b, i, list(heads), part] = seen
        return hit[:, 0] if steps else hit
    hit = np.zeros((k.shape[0], form.slots, *k.shape[2:]), bool)
    if output == f"state.{case.nan_in}":
        hit[b, (start + s) % form.slots, of, d[0]] = sees(start + q.shape[1], start + s, form)
    return hit if output in ("state.k", "state.v") else None
