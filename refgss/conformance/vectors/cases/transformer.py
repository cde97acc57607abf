"""Chapter 19: the transformer layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refgss.config import TransformerConfig
from refgss.conformance.vectors.cases.attention import phases, state_of
from refgss.conformance.vectors.cases.common import Case, Draw, F
from refgss.conformance.vectors.cases.layers import named
from refgss.conformance.vectors.visible import sees
from refgss.layers import kind_of
from refgss.layers.transformer import Sizes
from refgss.ops import encode_option

BASE = TransformerConfig(heads=2, chunk=3)
BLOCK = ("GSS-HYB-2", "GSS-HYB-3", "GSS-HYB-4", "GSS-HYB-11")
LAYERS: dict[str, tuple[TransformerConfig, tuple[str, ...]]] = {
    "plain": (BASE, ("GSS-HYB-5",)),
    "rope-half": (replace(BASE, position="rope-half", kv_heads=1), ("GSS-ATT-4", "GSS-ATT-6")),
    "rope-interleaved": (
        replace(BASE, position="rope-interleaved", rope_base=100.0, visible="sliding"),
        ("GSS-ATT-4",),
    ),
    "t5": (replace(BASE, position="t5", visible="look1", chunk=4), ("GSS-ATT-4", "GSS-ATT-5")),
    "alibi": (
        replace(BASE, position="alibi", visible="strict", heads=3, kv_heads=3),
        ("GSS-ATT-4",),
    ),
    "learned": (replace(BASE, position="learned"), ("GSS-ATT-4",)),
    "learned-long": (
        replace(BASE, position="learned", visible="sliding", positions=7, norm="rms"),
        ("GSS-ATT-4",),
    ),
    "learned-look1": (
        replace(BASE, position="learned", visible="look1", positions=8),
        ("GSS-ATT-4",),
    ),
    "glu": (replace(BASE, mlp="glu", bias=True), ("GSS-HYB-5",)),
    "gelu-tanh": (replace(BASE, mlp="gelu-tanh", scale="one"), ("GSS-ATT-3",)),
    "relu": (replace(BASE, mlp="relu", norm="rms", bias=True, eps=1e-3), ("GSS-HYB-5",)),
}


SMALL = ("plain", "rope-half", "t5", "glu")  # to be read, and redrawn during a check


def transformer_params(
    draw: Draw, config: TransformerConfig, e: int, d: int, hidden: int
) -> dict[str, np.ndarray]:
    """Parameters as an initialised network has them, heads of width d."""
    sizes = Sizes(e, config.heads * d, hidden)
    params = {}
    for name, tensor in kind_of(config).parameters(config, sizes).items():
        if name.startswith("w_"):
            value = draw(*tensor.shape, scale=tensor.shape[0] ** -0.5)
        elif name.endswith("norm1.weight") or name.endswith("norm2.weight"):
            value = (1 + draw(*tensor.shape, scale=0.2)).astype(F)
        elif name == "position.table":
            value = draw(*tensor.shape)
        else:
            value = draw(*tensor.shape, scale=0.2)
        params[name] = value
    return params


def given(
    draw: Draw, config: TransformerConfig, b: int, length: int, e: int, d: int, t: Sequence[int]
) -> dict[str, np.ndarray]:
    """Parameters, x, and a state after t tokens of each row; none for no t."""
    params = named(transformer_params(draw, config, e, d, 5))
    state = state_of(draw, config.form, t, config.groups, d) if t else {}
    return params | {"x": draw(b, length, e)} | state


def with_cotangents(draw: Draw, tensors: dict[str, Any], config: TransformerConfig, d: int) -> Any:
    x = tensors["x"]
    shape = (x.shape[0], config.form.slots, config.groups, d)
    return tensors | {
        "dout": draw(*x.shape),
        "dstate.k": draw(*shape),
        "dstate.v": draw(*shape),
    }


def transformers() -> Iterator[Case]:
    """Every option of the layer, its parts, its cuts and its gradient."""
    for name, (config, clauses) in LAYERS.items():
        o: dict[str, Any] = {"config": encode_option(config)}
        ids = (*BLOCK, *clauses, "GSS-ATT-7")
        for label, b, length, e in (("random", 1, 5, 4), ("small", 1, 3, 2)):
            if label == "small" and name not in SMALL:
                continue
            draw, d = Draw(f"transformer_layer/{name}-{label}"), 2
            t = phases(config.form, *range(2, 2 + b))
            tensors = given(draw, config, b, length, e, d, t)
            args: Any = (o, ("small",) if label == "small" else ())
            id = f"transformer_layer/{name}-{label}"
            yield Case(id, "transformer_layer", ids, tensors, *args)
            grad = with_cotangents(draw, tensors, config, d)
            id, back = f"transformer_layer_vjp/{name}-{label}", ("GSS-HYB-7", *clauses)
            yield Case(id, "transformer_layer_vjp", back, grad, *args)
        yield from in_pieces(name, config)
    yield from layer_parts()
    yield from far_positions()
    yield from layer_edges()


def in_pieces(name: str, config: TransformerConfig) -> Iterator[Case]:
    """A layer over pieces, from no state."""
    draw = Draw(f"transformer_layer/{name}-pieces")
    whole = given(draw, config, 1, 7, 2, 2, ())
    for splits in ([2], [1, 2, 3, 4, 5, 6]) if config.position != "none" else ([1, 2, 3, 5],):
        cut, o = "-".join(map(str, splits)), {"config": encode_option(config), "splits": splits}
        id, ids = f"transformer_layer/{name}-split-{cut}", ("GSS-STA-4", "GSS-ATT-8", "GSS-ATT-1")
        yield Case(id, "transformer_layer", ids, whole, o, ("chunks",))


def layer_parts() -> Iterator[Case]:
    """Layers most of whose parts are switched off, so that a failure says which part it is."""
    for name in ("plain", "glu", "gelu-tanh", "relu", "learned", "t5", "alibi"):
        config, _ = LAYERS[name]
        draw = Draw(f"transformer_layer/{name}-parts")
        tensors = given(draw, config, 1, 4, 4, 2, ())
        no_attention = {k: 0 * x for k, x in tensors.items() if k.endswith((".w_o", ".b_o"))}
        no_mlp = {k: 0 * x for k, x in tensors.items() if k.endswith((".w_2", ".b_2"))}
        cases: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
            "no-attention": (no_attention, ("GSS-HYB-2", "GSS-HYB-3"), "w_o = 0"),
            "no-mlp": (no_mlp, ("GSS-HYB-2", "GSS-ATT-4", "GSS-HYB-11"), "w_2 = 0"),
            "residual": (no_attention | no_mlp, ("GSS-HYB-2",), "x comes back"),
        }
        o = {"config": encode_option(config)}
        for label, (change, ids, note) in cases.items():
            if label == "residual" and name != "plain":
                continue
            id = f"transformer_layer/{name}-{label}"
            yield Case(id, "transformer_layer", ids, tensors | change, o, ("part",), note)


def far_positions() -> Iterator[Case]:
    """Relative positions far out: the same layer at another t."""
    for position in ("rope-half", "rope-interleaved", "t5", "alibi"):
        config = replace(BASE, position=position, visible="sliding", chunk=4)
        draw = Draw(f"transformer_layer/{position}-far")
        near = given(draw, config, 1, 3, 4, 4, [4])
        ids, o = ("GSS-ATT-4", "GSS-ATT-1"), {"config": encode_option(config)}
        far = near | {"state.t": np.array([1_000_004], np.int32)}
        for label, tensors in (("near", near), ("far", far)):
            note = "token number a million" if label == "far" else "as far, four tokens on"
            id = f"transformer_layer/{position}-{label}"
            yield Case(id, "transformer_layer", ids, tensors, o, (), note)

    other = replace(BASE, position="rope-half", rope_base=100.0)
    tensors = given(draw, other, 1, 4, 4, 4, [1])
    note, o = "another base, heads of two pairs", {"config": encode_option(other)}
    yield Case("transformer_layer/rope-base", "transformer_layer", ids, tensors, o, (), note)
    grad, back = with_cotangents(draw, tensors, other, 4), ("GSS-HYB-7", *ids)
    yield Case("transformer_layer_vjp/rope-base", "transformer_layer_vjp", back, grad, o, (), note)


def layer_edges() -> Iterator[Case]:
    """No token, no row, a NaN, the last row of a table, and positions beyond it."""
    draw = Draw("transformer_layer/edges")
    o = {"config": encode_option(BASE)}
    for label, b, length in (("no-length", 2, 0), ("no-batch", 0, 3)):
        tensors = given(draw, BASE, b, length, 4, 2, phases(BASE.form, 1, 2)[:b] or [])
        ids: tuple[str, ...] = ("GSS-NFI-14",) + (("GSS-STA-2",) if not length else ())
        yield Case(f"transformer_layer/{label}", "transformer_layer", ids, tensors, o)
    for visible in ("chunk", "sliding", "look1", "strict"):
        config = replace(BASE, visible=visible, chunk=2)
        tensors = given(draw, config, 2, 5, 4, 2, ())
        note = "NaN at b=1, t=1: other rows stay, and who does not see it"
        options, ids = {"config": encode_option(config)}, ("GSS-HYB-9",)
        id = f"transformer_layer/{visible}-nan"
        args = (id, "transformer_layer", ids, tensors, options, ("nan",), note)
        yield Case(*args, nan=(1, 1, 0), nan_in="x")
    config, _ = LAYERS["learned-long"]  # whose table has 7 rows
    options, flags = {"config": encode_option(config)}, ("refusal",)
    last = given(Draw("transformer_layer/learned-last"), config, 1, 2, 4, 2, [5])
    ids = ("GSS-HYB-10", "GSS-ATT-4")
    yield Case("transformer_layer/learned-last", "transformer_layer", ids, last, options)
    beyond = given(draw, config, 2, 4, 4, 2, [3, 4])  # the last token has no row
    id, ids = "transformer_layer/refuse-beyond-table", ("GSS-HYB-10",)
    yield Case(id, "transformer_layer", ids, beyond, options, flags, error=True)
    grad = with_cotangents(draw, beyond, config, 2)
    id, ids = "transformer_layer_vjp/refuse-beyond-table", ("GSS-HYB-10", "GSS-NFI-16")
    yield Case(id, "transformer_layer_vjp", ids, grad, options, flags, error=True)


def layer_reach(output: str, case: Case) -> np.ndarray:
    """Where a NaN in x, from no state, may show in an output of `transformer_layer`."""
    config = TransformerConfig(**case.options["config"])
    form = config.form
    (b, s, _), x = case.nan, case.tensors["x"]
    if output == "y":
        free = np.zeros(x.shape, bool)
        for t in range(x.shape[1]):
            free[b, t] = t == s or sees(t, s, form)
        return free
    if output == "state.t":
        return np.zeros(len(x), bool)
    heads = config.groups
    free = np.zeros((len(x), form.slots, heads, case.tensors["params.w_k"].shape[1] // heads), bool)
    free[b, s % form.slots] = sees(x.shape[1], s, form)
    return free
