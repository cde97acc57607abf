"""Chapters 8, 19 and 20: models whose layers are of several kinds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from refgss import config as cfg
from refgss.config import TransformerConfig
from refgss.conformance.vectors.cases import block_recurrent, transformer
from refgss.conformance.vectors.cases.attention import phases, state_of
from refgss.conformance.vectors.cases.common import Case, Draw, F
from refgss.conformance.vectors.cases.layers import layer_params, named
from refgss.ops import encode_option

GSS, ATTENTION = cfg.PAPER, replace(transformer.BASE, heads=2, chunk=2)
MODELS: dict[str, tuple[cfg.LMConfig, tuple[str, ...]]] = {
    "hybrid": (cfg.LMConfig((GSS, GSS, GSS, ATTENTION), 4, tied=True), ("GSS-HYB-1", "GSS-HYB-6")),
    "hybrid-first": (cfg.LMConfig((ATTENTION, GSS), 3), ("GSS-HYB-1",)),
    "transformer": (
        cfg.LMConfig(replace(ATTENTION, position="rope-half", norm="rms"), 2),
        ("GSS-HYB-1",),
    ),
}
MODELS["transformer-other"] = (
    cfg.LMConfig(
        TransformerConfig(
            heads=1, chunk=3, visible="sliding", scale="one", position="rope-interleaved",
            rope_base=100.0, mlp="glu", bias=True, eps=1e-3,
        ),
        2,
    ),
    ("GSS-HYB-1",),
)  # fmt: skip
V, E, FF, H, N, D = 4, 4, 3, 2, 2, 2


def hybrid_params(draw: Draw, config: cfg.LMConfig) -> dict[str, np.ndarray]:
    """Parameters of a model of any kinds of layers."""
    params = {"embedding.weight": draw(V, E)}
    for i, layer in enumerate(config.layers):
        if isinstance(layer, TransformerConfig):
            own = transformer.transformer_params(draw, layer, E, D, 5)
        elif isinstance(layer, cfg.BlockRecurrentConfig):
            own = block_recurrent.layer_params(draw, layer, E)
        else:
            own = layer_params(draw, layer, E, FF, H, N)
        params |= {f"layers.{i}.{k}": x for k, x in own.items()}
    if config.final_norm:
        params["norm.weight"] = (1 + draw(E, scale=0.2)).astype(F)
        params["norm.bias"] = draw(E, scale=0.2)
    return params if config.tied else params | {"head.weight": draw(E, V, scale=E**-0.5)}


def hybrid_state(draw: Draw, config: cfg.LMConfig, b: int, t: int) -> dict[str, np.ndarray]:
    """`state.I`, or `state.I.PART`, for each layer."""
    state: dict[str, np.ndarray] = {}
    for i, layer in enumerate(config.layers):
        if isinstance(layer, TransformerConfig):
            own = state_of(draw, layer.form, phases(layer.form, *[t] * b), layer.groups, D)
            state |= {f"state.{i}{name.removeprefix('state')}": x for name, x in own.items()}
        elif isinstance(layer, cfg.BlockRecurrentConfig):
            own = block_recurrent.memory(draw, layer, [t] * b, E)
            state |= {f"state.{i}{name.removeprefix('state')}": x for name, x in own.items()}
        else:
            state[f"state.{i}"] = draw(b, H, N, 2)
    return state


def hybrids() -> Iterator[Case]:
    """Models whose layers are of several kinds, their states handed on, their gradients."""
    for name, (config, clauses) in MODELS.items():
        draw, b, length = Draw(f"lm/{name}"), 1, 3
        o: dict[str, Any] = {"config": encode_option(config)}
        run = named(hybrid_params(draw, config)) | {"tokens": draw.tokens(V, b, length)}
        state = hybrid_state(draw, config, b, 3)
        d = {f"d{k}": draw(*x.shape) for k, x in state.items() if not k.endswith(".t")}
        dlogits = {"dlogits": draw(b, length, V)}
        loss = {"targets": draw.tokens(V, b, length)}
        ids = (*clauses, "GSS-HYB-8", "GSS-LM-2")
        args: Any = (o, ("small",) if name == "hybrid-first" else ())
        for op, own, tensors in (
            ("lm_logits", ids, run | state),
            ("lm_logits_vjp", ("GSS-HYB-8", "GSS-GRD-11"), run | state | dlogits | d),
            ("lm_loss", ids, run | loss | state),
            (
                "lm_loss_vjp",
                ("GSS-HYB-8", "GSS-GRD-12"),
                run | loss | state | {"dloss": np.array(0.75, F)},
            ),
        ):
            yield Case(f"{op}/{name}", op, own, tensors, *args)
        for splits in ([1], [1, 2, 3, 4]) if name.startswith("hybrid") else ([2],):
            cut = "-".join(map(str, splits))
            longer = run | {"tokens": draw.tokens(V, 2, 5)}
            cut_o = o | {"splits": splits}
            id, own = f"lm_logits/{name}-split-{cut}", ("GSS-STA-4", "GSS-HYB-8")
            yield Case(id, "lm_logits", own, longer, cut_o, ("chunks",))


WINDOWED = cfg.TransformerConfig(
    heads=1, chunk=2, visible="strict", position="t5", mlp="relu", norm="rms", eps=1e-6
)
RECURRENT = replace(block_recurrent.BASE, heads=1)
RECURRENT_MODELS = {
    "recurrent": cfg.LMConfig((WINDOWED, RECURRENT), 2, tied=True),
    "recurrent-gss": cfg.LMConfig(
        (replace(RECURRENT, gate="lstm", update="single", normalize_keys=False), cfg.PAPER), 3
    ),
}


def recurrent_models() -> Iterator[Case]:
    """Models with block-recurrent layers, their states handed on, their gradients."""
    for name, config in RECURRENT_MODELS.items():
        draw, length, V = Draw(f"lm/{name}"), 3, 4
        o: dict[str, Any] = {"config": encode_option(config)}
        run = named(hybrid_params(draw, config)) | {"tokens": draw.tokens(V, 1, length)}
        state = hybrid_state(draw, config, 1, 3)
        d = {f"d{k}": draw(*x.shape) for k, x in state.items() if not k.endswith(".t")}
        loss = {"targets": draw.tokens(V, 1, length)}
        ids = ("GSS-BRT-17", "GSS-HYB-1", "GSS-HYB-8")
        dlogits = {"dlogits": draw(1, length, V)}
        for op, own, tensors in (
            ("lm_logits", ids, run | state),
            ("lm_logits_vjp", ("GSS-BRT-17", "GSS-GRD-11"), run | state | dlogits | d),
            ("lm_loss", ids, run | loss),
            (
                "lm_loss_vjp",
                ("GSS-BRT-17", "GSS-GRD-12"),
                run | loss | {"dloss": np.array(0.75, F)},
            ),
        ):
            yield Case(f"{op}/{name}", op, own, tensors, o)
        longer, own = run | {"tokens": draw.tokens(V, 2, 5)}, ("GSS-BRT-17", "GSS-STA-4")
        cut = o | {"splits": [1, 4]}
        yield Case(f"lm_logits/{name}-split-1-4", "lm_logits", own, longer, cut, ("chunks",))
    other = {"state.1.t": np.array([4], np.int32)}
    run = named(hybrid_params(Draw("lm/refused"), RECURRENT_MODELS["recurrent"]))
    run |= {"tokens": np.array([[0, 1]], np.int32)}
    run |= hybrid_state(Draw("lm/refused-state"), RECURRENT_MODELS["recurrent"], 1, 3) | other
    o = {"config": encode_option(RECURRENT_MODELS["recurrent"])}
    id = "lm_logits/refuse-two-windows"
    yield Case(id, "lm_logits", ("GSS-BRT-18",), run, o, ("refusal",), error=True)
