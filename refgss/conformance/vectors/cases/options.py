"""Every option of every op, at more than one value: one case for each change of one option.

The values stand here beside the dataclasses of `refgss.config`: an option without values has no
cases, and `coverage` complains about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from refgss import config as cfg
from refgss.conformance.vectors.cases.calls import options_of, tensors_of
from refgss.conformance.vectors.cases.common import Case
from refgss.ops import OPS

FORMS = {
    "zoh-pairs": cfg.S4D_ZOH,
    "bilinear": cfg.KernelForm("bilinear"),
    "bilinear-pairs": cfg.S4D_BILINEAR,
    "dss-exp": cfg.KernelForm("dss-exp", eps=0.5),
    "dss-exp-clamped": cfg.KernelForm("dss-exp", eps=4.0),
    "dss-exp-pairs": cfg.KernelForm("dss-exp", pairs=True, eps=1e-7),
    "dss-softmax": cfg.dss_softmax(7),
    "dss-softmax-longer": cfg.dss_softmax(40),
    "dss-softmax-pairs": cfg.KernelForm("dss-softmax", pairs=True, length=7),
    "dss-exp-shifted": cfg.KernelForm("dss-exp", eps=0.5, reciprocal="shifted"),
    "dss-softmax-shifted": cfg.KernelForm("dss-softmax", eps=0.5, length=7, reciprocal="shifted"),
    "dss-softmax-shifted-sum": cfg.KernelForm(
        "dss-softmax", eps=0.5, length=7, reciprocal="shifted-sum"
    ),
}
VALUES: dict[type, dict[str, dict[str, Any]]] = {  # config -> option -> label -> value
    cfg.GSSConfig: {
        "imag": {"identity": "identity"},
        "ssm_norm": {"on": True},
        "out_bias": {"on": True},
        "eps": {"large": 0.25, "small": 1e-6},
    },
    cfg.DSSConfig: {
        "imag": {"exp": "exp"},
        "form": FORMS,
        "out_bias": {"off": False},
        "eps": {"large": 0.25, "small": 1e-6},
    },
    cfg.LMConfig: {
        "depth": {"one": 1, "three": 3},
        "final_norm": {"off": False},
        "tied": {"on": True},
    },
}
FEW = {"B": 1, "L": 3, "F": 3}  # sizes: certifying a gradient of a model takes a second or more
CLAUSES = {"imag": "GSS-PAR-2", "ssm_norm": "GSS-LAY-4", "out_bias": "GSS-LAY-5"}
CLAUSES |= {"eps": "GSS-NRM-1", "form": "GSS-LAY-6", "depth": "GSS-LM-2", "final_norm": "GSS-LM-2"}
CLAUSES |= {"tied": "GSS-LM-3", "init": "GSS-INI-1"}
EPS = {"rms_norm": "GSS-ATT-12", "l2_normalize": "GSS-BRT-3"}
METHODS = tuple(f"GSS-DIS-{i}" for i in (2, 3, 4, 5, 9, 10, 11))  # by the number of the form
OF_CONFIG = {  # op, or what its name begins with -> the config that the others differ from
    "gss_layer": (cfg.PAPER,),
    "dss_layer": (cfg.DSSConfig(),),
    "transformer_layer": (),  # whose options are varied in cases.transformer
    "block_recurrent": (),  # and in cases.block_recurrent
    "lm": (cfg.LMConfig(cfg.PAPER, depth=2), cfg.LMConfig(cfg.DSSConfig(), depth=2)),
}


def variations(config: Any) -> Iterator[tuple[str, str, Any]]:
    """Label, clause and config for every change of one option."""
    for option in fields(config):
        if option.name == "layer":
            for label, clause, layer in variations(config.layer):
                kind = "dss" if isinstance(layer, cfg.DSSConfig) else "gss"
                yield f"{kind}-{label}", clause, replace(config, layer=layer)
            continue
        for label, value in VALUES[type(config)][option.name].items():
            clause = METHODS[value.number - 1] if option.name == "form" else CLAUSES[option.name]
            yield f"{option.name}-{label}", clause, replace(config, **{option.name: value})


def options() -> Iterator[Case]:
    """One case of each op for each value of each option."""
    for op in OPS:
        gradient = ("GSS-GRD-1",) if op.endswith("_vjp") else ()

        def case(
            label: str, clause: str, tensors: Any, op: str = op, ids: Any = gradient, **o: Any
        ):
            id = f"{op}/option-{label}"
            return Case(id, op, (clause, *ids), tensors, options_of(op, **o), ("option",))

        if "params" in OPS[op].axes:
            bases = next(c for name, c in OF_CONFIG.items() if op.startswith(name))
            seen = set()
            for base in bases:
                for label, clause, config in variations(base):
                    if label not in seen:  # those of a model itself come with either layer
                        seen.add(label)
                        tensors = tensors_of(op, config, **FEW)
                        yield case(label, clause, tensors, config=config)
        elif "form" in OPS[op].keywords:
            for label, form in FORMS.items():
                yield case(f"form-{label}", METHODS[form.number - 1], tensors_of(op), form=form)
        elif "eps" in OPS[op].keywords:
            for label, eps in VALUES[cfg.GSSConfig]["eps"].items():
                clause = EPS.get(op.removesuffix("_vjp"), CLAUSES["eps"])
                yield case(f"eps-{label}", clause, tensors_of(op), eps=eps)
