"""Chapter 6: layer norm, GELU and the dense map."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refgss.conformance.vectors.cases.common import (
    Case,
    Draw,
    F,
)


def pointwise() -> Iterator[Case]:
    draw = Draw("layer_norm")
    x = {
        "random": (draw(2, 5, 8), 1e-5, ("GSS-NRM-1",), ""),
        "large-mean": (draw(4, 16) + F(1000), 1e-5, ("GSS-NRM-2",), "E[x²] - E[x]² cancels"),
        "small": (draw(4, 16, scale=3e-3), 1e-5, ("GSS-NRM-1",), "var ≈ ε: shows the wrong ε"),
        "constant": (np.full((2, 8), 3, F), 1e-5, ("GSS-NRM-1",), "var = 0"),
        "eps-1e-6": (draw(4, 16, scale=3e-3), 1e-6, ("GSS-NRM-1",), "ε is an argument"),
        "one": (draw(3, 1), 1e-5, ("GSS-NRM-1",), "E = 1"),
        "no-rows": (draw(0, 4), 1e-5, ("GSS-NFI-14",), ""),
    }
    for label, (v, eps, clauses, note) in x.items():
        tensors = {"x": v, "weight": draw(v.shape[-1]), "bias": draw(v.shape[-1])}
        o = {"eps": eps}
        yield Case(f"layer_norm/{label}", "layer_norm", clauses, tensors, o, (), note)
        grad = tensors | {"dy": draw(*v.shape)}
        yield Case(f"layer_norm_vjp/{label}", "layer_norm_vjp", ("GSS-GRD-7",), grad, o, (), note)
    draw = Draw("gelu")
    special = np.array([0, -0.0, 1e-30, 12, -12, 30, -30, 100, -100, 1e30, -1e30], F)
    x_gelu = {
        "grid": (np.linspace(-6, 6, 49).astype(F), "where tanh and erf differ most: |x| ≈ 2"),
        "random": (draw(2, 9, 3), ""),
        "special": (special, "zero, tails and large numbers"),
    }
    for label, (v, note) in x_gelu.items():
        yield Case(f"gelu/{label}", "gelu", ("GSS-NRM-3",), {"x": v}, {}, (), note)
        grad = {"x": v, "dy": draw(*v.shape)}
        yield Case(f"gelu_vjp/{label}", "gelu_vjp", ("GSS-GRD-8",), grad, {}, (), note)
    draw = Draw("dense")
    for label, (shape, i, o_, bias) in {
        "rows": ((7,), 5, 3, True),
        "no-bias": ((2, 4), 6, 6, False),
        "deep": ((1,), 300, 2, True),
        "vector": ((), 4, 3, True),
        "no-rows": ((0,), 4, 3, True),
    }.items():
        tensors = {"x": draw(*shape, i), "weight": draw(i, o_)} | (
            {"bias": draw(o_)} if bias else {}
        )
        rows = ("GSS-NFI-14",) if label == "no-rows" else ()
        ids = ("GSS-NRM-4", "GSS-ARR-1", "GSS-ACC-1", *rows)
        yield Case(f"dense/{label}", "dense", ids, tensors)
        grad = tensors | {"dy": draw(*shape, o_)}
        yield Case(f"dense_vjp/{label}", "dense_vjp", ("GSS-GRD-9",), grad)
    draw = Draw("pointwise/nan")
    nan: tuple[tuple[str, ...], ...] = (("GSS-NFI-11",), ("nan",))
    tensors = {"x": draw(2, 3, 4), "weight": draw(4), "bias": draw(4)}
    o = {"eps": 1e-5}
    yield Case("layer_norm/nan", "layer_norm", nan[0], tensors, o, nan[1], nan=(1, 2, 0))
    tensors = {"x": draw(2, 3, 4), "weight": draw(4, 5)}
    yield Case("dense/nan", "dense", nan[0], tensors, {}, nan[1], nan=(0, 1, 3))
    yield Case("gelu/nan", "gelu", nan[0], {"x": draw(9)}, {}, nan[1], nan=(4,))
