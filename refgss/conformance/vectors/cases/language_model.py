"""Chapter 8: the language model and its loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refgss import config as cfg
from refgss.conformance.vectors.cases.common import (
    Case,
    Draw,
    F,
)
from refgss.conformance.vectors.cases.layers import layer_params, named
from refgss.ops import encode_option

MODELS: dict[str, tuple[cfg.LMConfig, str | None]] = {
    "paper": (cfg.LMConfig(cfg.PAPER, depth=2), "paper"),
    "gss-pytorch": (cfg.LMConfig(cfg.GSS_PYTORCH, depth=2, final_norm=False), "gss-pytorch"),
    "tied": (cfg.LMConfig(cfg.PAPER, depth=1, tied=True), None),
    "dss": (cfg.LMConfig(cfg.DSSConfig(), depth=2), None),
}


def model_params(draw: Draw, config: cfg.LMConfig, v: int, e: int, f: int, h: int, n: int) -> Any:
    params = {"embedding.weight": draw(v, e)}
    for i in range(config.depth):
        layer = layer_params(draw, config.layer, e, f, h, n)
        params |= {f"layers.{i}.{k}": x for k, x in layer.items()}
    if config.final_norm:
        params |= {
            "norm.weight": (1 + draw(e, scale=0.2)).astype(F),
            "norm.bias": draw(e, scale=0.2),
        }
    return params if config.tied else params | {"head.weight": draw(e, v, scale=e**-0.5)}


def models() -> Iterator[Case]:
    v, e, f, n, b, length = 11, 6, 10, 4, 2, 6
    for name, (config, profile) in MODELS.items():
        h = e if isinstance(config.layer, cfg.DSSConfig) else 4
        draw = Draw(f"lm/{name}")
        params = named(model_params(draw, config, v, e, f, h, n))
        o = {"config": encode_option(config)}
        tokens, targets = draw.tokens(v, b, length), draw.tokens(v, b, length)
        state = draw(config.depth, b, h, n, 2)
        run = params | {"tokens": tokens}
        ids = ("GSS-LM-1", "GSS-LM-2", "GSS-LM-3")
        args: Any = (o, (), "", profile)
        stateful = run | {"state": state}
        yield Case(f"lm_logits/{name}", "lm_logits", (*ids, "GSS-STA-3"), stateful, *args)
        alone = ("logits",)
        yield Case(
            f"lm_logits/{name}-fresh", "lm_logits", ids, run, o, (), "", profile, outputs=alone
        )
        for splits in ([3], [1, 2, 3, 4, 5]):
            cut = "-".join(map(str, splits))
            yield Case(
                f"lm_logits/{name}-split-{cut}", "lm_logits", ("GSS-STA-4",), stateful,
                o | {"splits": splits}, ("chunks",), "", profile,
            )  # fmt: skip
        no_layers = {k: 0 * x for k, x in params.items() if k.endswith((".w_o", ".b_o"))}
        embedding = "params.embedding.weight"
        one_word = {embedding: np.tile(params[embedding][:1], (v, 1))}
        for label, changed, clauses, note in (
            ("no-layers", no_layers, ("GSS-LM-1", "GSS-LM-3"), "w_o = 0: head of embedding"),
            ("one-word", one_word, ("GSS-LM-2", "GSS-LM-3"), "all tokens have the same embedding"),
        ):
            yield Case(
                f"lm_logits/{name}-{label}", "lm_logits", clauses, run | changed, o, ("part",),
                note, profile, outputs=alone,
            )  # fmt: skip
        loss = run | {"targets": targets}
        yield Case(f"lm_loss/{name}-fresh", "lm_loss", ("GSS-LM-4",), loss, *args)
        yield Case(f"lm_loss/{name}", "lm_loss", ("GSS-LM-4",), loss | {"state": state}, *args)
        grad = loss | {"dloss": np.array(1, F)}
        yield Case(f"lm_loss_vjp/{name}", "lm_loss_vjp", ("GSS-GRD-12",), grad, *args)
        grad = loss | {"dloss": np.array(-2.5, F)}
        yield Case(f"lm_loss_vjp/{name}-scaled", "lm_loss_vjp", ("GSS-GRD-12",), grad, *args)
        grad = stateful | {"dlogits": draw(b, length, v), "dstate": draw(*state.shape)}
        yield Case(f"lm_logits_vjp/{name}", "lm_logits_vjp", ("GSS-GRD-11",), grad, *args)
        yield from small_model(name, config, profile)
    config = cfg.LMConfig(cfg.PAPER, depth=1, final_norm=False)
    draw = Draw("lm_loss/confident")
    params = model_params(draw, config, v, e, f, 4, n)
    params["head.weight"] *= F(300)
    tensors = named(params) | {"tokens": draw.tokens(v, 1, 5), "targets": draw.tokens(v, 1, 5)}
    note = "logits in the hundreds: e^logit overflows in binary32"
    o = {"config": encode_option(config)}
    yield Case("lm_loss/confident", "lm_loss", ("GSS-LM-5",), tensors, o, (), note)


def small_model(name: str, config: cfg.LMConfig, profile: str | None) -> Iterator[Case]:
    """The ops of a model on few numbers: to be read, and redrawn during a check at little cost."""
    v, e, f, n, length = 4, 3, 3, 2, 3
    h = e if isinstance(config.layer, cfg.DSSConfig) else 2
    draw = Draw(f"lm/{name}-small")
    run = named(model_params(draw, config, v, e, f, h, n)) | {"tokens": draw.tokens(v, 1, length)}
    loss = run | {"targets": draw.tokens(v, 1, length)}
    state = draw(config.depth, 1, h, n, 2)
    given = {"state": state}
    cotangents = given | {"dlogits": draw(1, length, v), "dstate": draw(*state.shape)}
    for op, clauses, tensors in (
        ("lm_logits", ("GSS-LM-1", "GSS-LM-2", "GSS-LM-3", "GSS-STA-3"), run | given),
        ("lm_logits_vjp", ("GSS-GRD-11",), run | cotangents),
        ("lm_loss", ("GSS-LM-4",), loss | given),
        ("lm_loss_vjp", ("GSS-GRD-12",), loss | given | {"dloss": np.array(0.75, F)}),
    ):
        o = {"config": encode_option(config)}
        yield Case(f"{op}/{name}-small", op, clauses, tensors, o, ("small",), "", profile)
