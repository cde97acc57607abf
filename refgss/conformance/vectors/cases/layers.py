"""Chapter 7: layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refgss import config as cfg
from refgss.checks import layer_shapes
from refgss.conformance.vectors.cases.common import (
    Case,
    Draw,
    F,
)
from refgss.ops import encode_option


def layer_params(draw: Draw, config: Any, e: int, f: int, h: int, n: int) -> dict[str, np.ndarray]:
    """Parameters of a layer as an initialised network has them: dense weights ~ 1/√fan-in."""
    separate = isinstance(config, cfg.DSSConfig) and config.form.method.startswith("dss")
    some = {"norm.weight": (e,), "ssm.c": (h, n), "w_v": (e, f)}
    some["ssm.log_delta"] = (e, 2) if separate else (e,)
    shapes = layer_shapes({k: np.empty(s) for k, s in some.items()}, config)
    params = {}
    for name, shape in shapes.items():
        if name == "ssm.c":
            value = draw(*shape, 2, scale=n**-0.5)
        elif name.startswith("w_"):
            value = draw(*shape, scale=shape[0] ** -0.5)
        elif name.endswith("norm.weight"):
            value = (1 + draw(*shape, scale=0.2)).astype(F)
        elif name == "ssm.log_delta":
            value = (draw(*shape, scale=0.5) - 1).astype(F)
        elif name in ("ssm.a", "ssm.b", "ssm.d"):
            value = draw(*shape)
        else:
            value = draw(*shape, scale=0.2)
        params[name] = value
    return params


def named(params: dict[str, np.ndarray], prefix: str = "") -> dict[str, np.ndarray]:
    return {f"params.{prefix}{k}": v for k, v in params.items()}


GSS_CLAUSES = ("GSS-LAY-1", "GSS-LAY-2", "GSS-LAY-3", "GSS-LAY-5", "GSS-ACC-6")
LAYERS: dict[str, tuple[Any, str | None, tuple[str, ...]]] = {
    "paper": (cfg.PAPER, "paper", (*GSS_CLAUSES, "GSS-LAY-7")),
    "gss-pytorch": (cfg.GSS_PYTORCH, "gss-pytorch", (*GSS_CLAUSES, "GSS-LAY-4", "GSS-LAY-8")),
    "identity": (cfg.GSSConfig(imag="identity"), None, (*GSS_CLAUSES, "GSS-PAR-2")),
    "dss-exp": (cfg.DSSConfig(), None, ("GSS-LAY-6",)),
    "dss-softmax": (cfg.DSSConfig(form=cfg.dss_softmax(12)), None, ("GSS-LAY-6", "GSS-DIS-5")),
    "dss-zoh": (cfg.DSSConfig(imag="exp", form=cfg.S4D_ZOH, out_bias=False), None, ("GSS-LAY-6",)),
}


def layers() -> Iterator[Case]:
    for name, (config, profile, clauses) in LAYERS.items():
        op = "gss_layer" if isinstance(config, cfg.GSSConfig) else "dss_layer"
        o = {"config": encode_option(config)}
        for label in ("random", "slow", "one-token", "one-state", "small"):
            draw = Draw(f"{op}/{name}-{label}")
            e, f, h, n = 6, 10, 6 if op == "dss_layer" else 4, 1 if label == "one-state" else 5
            b, length = 2, 1 if label == "one-token" else 12
            if label == "small":  # to be read, and redrawn during a check at little cost
                e, f, h, n, b, length = 3, 4, 3 if op == "dss_layer" else 2, 2, 1, 4
            params = layer_params(draw, config, e, f, h, n)
            if label == "slow":
                params["ssm.a"][: n // 2] = -9  # Re Λ ≈ -1e-4
            tensors = named(params) | {"x": draw(b, length, e)}
            state = draw(b, h, n, 2)
            ids = (*clauses, "GSS-STA-3")
            yield Case(
                f"{op}/{name}-{label}",
                op,
                ids,
                tensors | {"state": state},
                o,
                (label,),
                "",
                profile,
            )
            fresh = f"{op}/{name}-{label}-fresh"
            note = "from no state, the output alone"
            yield Case(fresh, op, clauses, tensors, o, (label,), note, profile, outputs=("y",))
            grad = tensors | {"state": state, "dout": draw(b, length, e), "dstate": state}
            yield Case(
                f"{op}_vjp/{name}-{label}",
                f"{op}_vjp",
                ("GSS-GRD-10",),
                grad,
                o,
                (label,),
                "",
                profile,
            )
            if label == "random":
                whole = tensors | {"state": state}
                for splits in ([0], [1], [5], [11], [12], [1, 2, 6, 6, 7]):
                    cut = "-".join(map(str, splits))
                    yield Case(
                        f"{op}/{name}-split-{cut}", op, ("GSS-STA-4", "GSS-STA-2"), whole,
                        o | {"splits": splits}, ("chunks",), "", profile,
                    )  # fmt: skip
        for label, (b, length) in {"no-length": (2, 0), "no-batch": (0, 4)}.items():
            draw = Draw(f"{op}/{name}-{label}")
            params = layer_params(draw, config, 4, 6, 4 if op == "dss_layer" else 3, 2)
            h = params["ssm.d"].shape[0]
            tensors = named(params) | {"x": draw(b, length, 4), "state": draw(b, h, 2, 2)}
            yield Case(f"{op}/{name}-{label}", op, ("GSS-NFI-14",), tensors, o, (), "", profile)
        if op == "gss_layer":
            yield from parts_of_layer(name, config, profile)
        draw = Draw(f"{op}/{name}-nan")
        params = layer_params(draw, config, 4, 6, 4 if op == "dss_layer" else 3, 2)
        tensors, note = named(params) | {"x": draw(3, 5, 4)}, "NaN at b=1, t=2: other b stay"
        ids = ("GSS-NFI-12",)
        args = (f"{op}/{name}-nan", op, ids, tensors, o, ("nan",), note, profile)
        yield Case(*args, outputs=("y",), nan=(1, 2, 0))


def parts_of_layer(name: str, config: cfg.GSSConfig, profile: str | None) -> Iterator[Case]:
    """Layers most of whose parts are switched off, so that a failure says which part it is."""
    e, f, h, n = 6, 10, 4, 5
    draw = Draw(f"gss_layer/{name}-parts")
    params = layer_params(draw, config, e, f, h, n)
    given = {"x": draw(2, 6, e), "state": draw(2, h, n, 2)}
    silent = params | {"w_o": 0 * params["w_o"]}
    quiet = silent | ({"b_o": 0 * params["b_o"]} if config.out_bias else {})
    scan = {"ssm.c": 0 * params["ssm.c"]}
    inner = ("GSS-LAY-4",) if config.ssm_norm else ()
    ones = {"norm.weight": np.zeros(e, F), "norm.bias": np.ones(e, F)}  # h is 1 everywhere
    ones |= {k: (4 + np.abs(params[k])).astype(F) for k in ("w_v", "w_u")}  # where gelu(x) = x
    cases: dict[str, tuple[Any, tuple[str, ...], str]] = {
        "residual": (quiet, ("GSS-LAY-1",), "w_o = 0: x comes back"),
        "no-scan": (params | scan, ("GSS-LAY-1", "GSS-LAY-2", *inner, "GSS-LAY-5"), "C = 0"),
        "linear": (params | ones, ("GSS-LAY-3", *inner, "GSS-LAY-5"), "neither norm nor GELU acts"),
    }
    if config.out_bias:
        cases["bias"] = (silent, ("GSS-LAY-5",), "w_o = 0: x + b_o comes back")
    o = {"config": encode_option(config)}
    for label, (weights, ids, note) in cases.items():
        id = f"gss_layer/{name}-{label}"
        tensors = named(weights) | given
        yield Case(id, "gss_layer", ids, tensors, o, ("part",), note, profile, outputs=("y",))
