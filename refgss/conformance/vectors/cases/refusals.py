"""Chapter 12: what must be refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refgss import config as cfg
from refgss.conformance.vectors.cases.common import (
    Case,
    Draw,
    F,
    lam_of,
)
from refgss.conformance.vectors.cases.language_model import MODELS, model_params
from refgss.conformance.vectors.cases.layers import named
from refgss.ops import encode_option


def refusals() -> Iterator[Case]:
    draw = Draw("refusals")
    gss, softmax = ({"form": encode_option(f)} for f in (cfg.GSS, cfg.dss_softmax(4)))
    one = np.array(1, F)
    good = {"lam": draw.modes(2), "c": draw(2, 2, 2), "delta": one}
    growing, unset = lam_of(0.1 + 1j, -1), lam_of(np.nan, -1)
    scan = good | {"u": draw(1, 3, 2)}

    def refuse(op: str, why: str, clause: str, tensors: Any, options: Any) -> Case:
        return Case(
            f"{op}/refuse-{why}", op, (clause,), tensors, options, ("refusal",), "", error=True
        )

    for op, base, o in (
        ("discretize", {"delta": one}, gss),
        ("ssm_kernel", good, gss | {"length": 4}),
        ("ssm_scan", scan, gss),
        ("ssm_step", good | {"u": draw(1, 2)}, gss),
    ):
        yield refuse(op, "growing", "GSS-DIS-6", base | {"lam": growing}, o)
        yield refuse(op, "nan-lambda", "GSS-NFI-2", base | {"lam": unset}, o)
        for why, value in (("nan-frequency", complex(-1, np.nan)), ("infinite-decay", -np.inf)):
            yield refuse(op, why, "GSS-NFI-2", base | {"lam": lam_of(value, -1)}, o)
        yield refuse(op, "negative-step", "GSS-NFI-3", good | base | {"delta": -one}, o)
    zero = good | {"lam": lam_of(0, -1)}
    yield refuse("ssm_kernel", "softmax-zero", "GSS-DIS-8", zero, softmax | {"length": 4})
    yield refuse("ssm_kernel", "softmax-too-long", "GSS-KER-6", good, softmax | {"length": 5})
    yield refuse("ssm_kernel", "negative-length", "GSS-KER-6", good, gss | {"length": -1})
    channels = {"u": draw(1, 4, 3), "k": draw(2, 4)}
    yield refuse("causal_conv", "channels", "GSS-NFI-1", channels, {})
    wrong = scan | {"state": draw(1, 2, 3, 2)}
    yield refuse("ssm_scan", "state-shape", "GSS-NFI-1", wrong, gss)
    config, _ = MODELS["paper"]
    params = named(model_params(draw, config, 5, 4, 6, 3, 2))
    tokens = params | {"tokens": np.array([[0, 5]], np.int32)}
    o = {"config": encode_option(config)}
    yield refuse("lm_logits", "token-range", "GSS-LM-6", tokens, o)
    targets = params | {"tokens": np.array([[0]], np.int32), "targets": np.array([[-1]], np.int32)}
    yield refuse("lm_loss", "target-range", "GSS-LM-6", targets, o)
    none = params | {"tokens": np.zeros((1, 0), np.int32), "targets": np.zeros((1, 0), np.int32)}
    yield refuse("lm_loss", "no-tokens", "GSS-NFI-4", none, o)
    missing = {k: x for k, x in params.items() if not k.endswith("ssm.d")}
    good_tokens = {"tokens": np.array([[0, 4]], np.int32)}
    yield refuse("lm_logits", "missing-parameter", "GSS-NFI-1", missing | good_tokens, o)
    unused = params | good_tokens | {"params.layers.0.b_o": draw(4)}
    yield refuse("lm_logits", "unused-parameter", "GSS-NFI-1", unused, o)
    for why, n, init in (("no-mode", 0, "lin"), ("fewer", -2, "legs"), ("init", 3, "hippo")):
        yield refuse("s4d_lambda", why, "GSS-NFI-17", {}, {"n": n, "init": init})
