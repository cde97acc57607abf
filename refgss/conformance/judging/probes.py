"""Stages of a failing layer, each certified anew from what the candidate gave for those before it.

The first stage outside its budget is where the error is: what comes before it is right, and what
comes after is judged on the candidate's own numbers, so that one error shows once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refgss import checks, ops, reference
from refgss.config import GSS, BlockRecurrentConfig, GSSConfig, TransformerConfig
from refgss.conformance.judging.compare import error_ratio
from refgss.conformance.vectors.format import Vector
from refgss.reference import block_recurrent, transformer

Given = Mapping[str, Any]  # parameters, x, state, and stages, all as Enclosures


@dataclass(frozen=True)
class Stage:
    """A step of a layer: the clauses that it may violate, the likeliest first, and what it does."""

    name: str
    clauses: Callable[[Any], tuple[str, ...]]
    of: Callable[[Given, Any], Any]


def scan(g: Given, delta: Any, form: Any) -> Any:
    return reference.ssm_scan(g["u"], g["lam"], g["ssm.c"], g.get("state"), delta=delta, form=form)[
        0
    ]


def norm(g: Given, x: Any, name: str, config: Any) -> Any:
    return reference.layer_norm(x, g[f"{name}.weight"], g[f"{name}.bias"], eps=config.eps)


def branch(g: Given, config: GSSConfig) -> Any:
    """u: the input of the scan."""
    u = reference.gelu(reference.dense(g["h"], g["w_u"]))
    return norm(g, u, "ssm.norm", config) if config.ssm_norm else u


def modes(g: Given, config: Any) -> Any:
    return reference.gss_lambda(g["ssm.a"], g["ssm.b"], imag=config.imag)


def profile(config: Any) -> str:
    """The clause of the layer profile that a config of a GSS layer belongs to or is nearest to."""
    return "GSS-LAY-8" if config.ssm_norm else "GSS-LAY-7"


def of_layer(clause: str, part: str) -> Callable[[Any], tuple[str, ...]]:
    """That the layer does the right thing, with the right options, by a part that is right."""
    return lambda config: (
        (clause, profile(config), part) if isinstance(config, GSSConfig) else (clause, part)
    )


def of_branch(config: Any) -> tuple[str, ...]:
    return ("GSS-LAY-4", "GSS-LAY-2") if config.ssm_norm else ("GSS-LAY-2", "GSS-LAY-7")


def always(*clauses: str) -> Callable[[Any], tuple[str, ...]]:
    return lambda config: clauses


def of_state(config: BlockRecurrentConfig) -> tuple[str, ...]:
    """Of a block-recurrent layer, all that its tokens take from elsewhere."""
    update = "GSS-BRT-15" if config.update == "single" else "GSS-BRT-14"
    return "GSS-BRT-10", "GSS-BRT-12", update, "GSS-BRT-5", "GSS-BRT-7", "GSS-BRT-11", "GSS-BRT-16"


def block_input(g: Given, config: TransformerConfig) -> Any:
    """h of a transformer layer: the norm, and a learned position."""
    h = transformer.norm("norm1", g, g["x"], config)
    return h + g["position.weight"][positions(g, config)] if config.position == "learned" else h


def positions(g: Given, config: TransformerConfig) -> np.ndarray:
    batch, length = g["x"].shape[:2]
    return transformer.positions(batch, length, window_state(g), config)


def window_state(g: Given) -> dict[str, Any] | None:
    return {part: g[f"state.{part}"] for part in "kvt"} if "state.t" in g else None


def projected(name: str) -> Callable[[Given, Any], Any]:
    """q, k or v of a transformer layer."""

    def of(g: Given, config: TransformerConfig) -> Any:
        heads = config.heads if name == "q" else config.groups
        z = reference.dense(g["h"], g[f"w_{name}"], g.get(f"b_{name}"))
        z = z.reshape(*z.shape[:2], heads, z.shape[2] // heads)
        if name == "v" or not config.position.startswith("rope"):
            return z
        pairing = transformer.pairing(config)
        return reference.rope(z, positions(g, config), base=config.rope_base, pairing=pairing)

    return of


def attended(g: Given, config: TransformerConfig) -> Any:
    bias = transformer.distance_bias(g, g["x"], config)
    state = window_state(g)
    y, _ = reference.attention(g["q"], g["k"], g["v"], bias, state, window=config.form)
    return y.reshape(*y.shape[:2], y.shape[2] * y.shape[3])


def inside_mlp(g: Given, config: TransformerConfig) -> Any:
    m = transformer.activation(reference.dense(g["h2"], g["w_1"], g.get("b_1")), config)
    gated = config.mlp == "glu"
    return m * reference.dense(g["h2"], g["w_3"], g.get("b_3")) if gated else m


def heads_of_tokens(name: str) -> Callable[[Given, Any], Any]:
    """q, k, v or q2 of a block-recurrent layer."""
    return lambda g, config: getattr(block_recurrent.heads(g, g["h"], config), name)


def attended_twice(g: Given, config: BlockRecurrentConfig) -> Any:
    """Attention to tokens, and to the state with all that renews it."""
    given = {part: g[f"state.{part}"] for part in "skvt"} if "state.t" in g else None
    start = block_recurrent.begun(g, given or checks.no_state(g, g["x"], config))
    of = block_recurrent.Heads(g["q"], g["k"], g["v"], g["q2"], made={})
    return block_recurrent.attended(g, of, start, config).a


STAGES: Mapping[str, tuple[Stage, ...]] = {
    "gss_layer": (
        Stage("h", of_layer("GSS-LAY-1", "GSS-NRM-1"), lambda g, c: norm(g, g["x"], "norm", c)),
        Stage(
            "v",
            always("GSS-LAY-2", "GSS-NRM-3"),
            lambda g, c: reference.gelu(reference.dense(g["h"], g["w_v"])),
        ),
        Stage("u", of_branch, branch),
        Stage("lam", of_layer("GSS-LAY-3", "GSS-PAR-1"), modes),
        Stage("s", always("GSS-LAY-3", "GSS-REC-4"), lambda g, c: scan(g, 1.0, GSS)),
        Stage("y", always("GSS-LAY-3"), lambda g, c: g["s"] + g["ssm.d"] * g["u"]),
        Stage("uc", always("GSS-LAY-5"), lambda g, c: reference.dense(g["y"], g["w_uc"])),
        Stage(
            "output",
            always("GSS-LAY-5", "GSS-LAY-1"),
            lambda g, c: reference.dense(g["uc"] * g["v"], g["w_o"], g.get("b_o")) + g["x"],
        ),
    ),
    "transformer_layer": (
        Stage("h", always("GSS-HYB-4", "GSS-HYB-2", "GSS-ATT-4"), block_input),
        *(
            Stage(name, always("GSS-HYB-11", "GSS-ATT-4", "GSS-HYB-5"), projected(name))
            for name in "qkv"
        ),
        Stage("a", always("GSS-ATT-2", "GSS-ATT-3", "GSS-ATT-4"), attended),
        Stage(
            "x1",
            always("GSS-HYB-2", "GSS-HYB-5"),
            lambda g, c: reference.dense(g["a"], g["w_o"], g.get("b_o")) + g["x"],
        ),
        Stage(
            "h2",
            always("GSS-HYB-2", "GSS-HYB-4"),
            lambda g, c: transformer.norm("norm2", g, g["x1"], c),
        ),
        Stage("m", always("GSS-HYB-3", "GSS-HYB-5"), inside_mlp),
        Stage(
            "output",
            always("GSS-HYB-2", "GSS-HYB-5"),
            lambda g, c: reference.dense(g["m"], g["w_2"], g.get("b_2")) + g["x1"],
        ),
    ),
    "block_recurrent_layer": (
        Stage(
            "h",
            always("GSS-BRT-1"),
            lambda g, c: reference.rms_norm(g["x"], g["norm1.weight"], eps=c.eps),
        ),
        *(
            Stage(name, always("GSS-BRT-3", "GSS-BRT-10"), heads_of_tokens(name))
            for name in ("q", "k", "v", "q2")
        ),
        Stage("a", of_state, attended_twice),
        Stage("x1", always("GSS-BRT-11"), lambda g, c: g["x"] + reference.dense(g["a"], g["w_o"])),
        Stage(
            "h2",
            always("GSS-BRT-11", "GSS-BRT-1"),
            lambda g, c: reference.rms_norm(g["x1"], g["norm2.weight"], eps=c.eps),
        ),
        Stage("m", always("GSS-BRT-11"), lambda g, c: block_recurrent.mlp(g, g["h2"], c).m),
        Stage(
            "output",
            always("GSS-BRT-11"),
            lambda g, c: g["x1"] + reference.dense(g["m"], g["w_2"]),
        ),
    ),
    "dss_layer": (
        Stage("u", always("GSS-LAY-6", "GSS-NRM-1"), lambda g, c: norm(g, g["x"], "norm", c)),
        Stage("lam", of_layer("GSS-LAY-6", "GSS-PAR-1"), modes),
        Stage("delta", always("GSS-LAY-6"), lambda g, c: np.exp(g["ssm.log_delta"])),
        Stage("s", always("GSS-LAY-6", "GSS-REC-4"), lambda g, c: scan(g, g["delta"], c.form)),
        Stage(
            "y",
            always("GSS-LAY-6", "GSS-NRM-3"),
            lambda g, c: reference.gelu(g["s"] + g["ssm.d"] * g["u"]),
        ),
        Stage(
            "output",
            always("GSS-LAY-6"),
            lambda g, c: reference.dense(g["y"], g["w_o"], g.get("b_o")) + g["x"],
        ),
    ),
}


def first_wrong(
    v: Vector, stages: Mapping[str, np.ndarray], output: np.ndarray, precision: str
) -> tuple[str, tuple[str, ...], float] | None:
    """The first stage of a layer that is wrong, its clauses, and error/budget; None if none is.

    `stages` are what the candidate gave on the inputs of `v`, in real layout, and `output` its y.
    A stage that it did not give is certified from those before.
    """
    from refgss.conformance.vectors.certify import expected, lift
    from refgss.conformance.vectors.enclosure import certifying

    config = ops.decode_option(v.op, "config", v.options["config"])
    got = {**stages, "output": output}
    with certifying(), np.errstate(all="ignore"):
        given = {name.removeprefix("params."): lift(name, x) for name, x in v.tensors.items()}
        for stage in STAGES[v.op]:
            certified = stage.of(given, config)
            if stage.name in got:
                want, x = expected(certified), np.asarray(got[stage.name], float)
                fits = x.shape == want.full_shape
                ratio = float(error_ratio(x, want, precision).max(initial=0)) if fits else np.inf
                if not ratio <= 1:
                    return stage.name, stage.clauses(config), ratio
                certified = lift(stage.name, x)
            given[stage.name] = certified
    return None
