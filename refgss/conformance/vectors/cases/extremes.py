"""Very small and very large numbers: no result that binary32 can hold is lost on the way.

An op that is linear in a tensor gives results of that tensor's scale, whatever it is; operands may
be subnormal (GSS-ACC-7 lets results be flushed, not operands and not what lies between).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refgss import config as cfg
from refgss.conformance.vectors.cases.calls import options_of, tensors_of
from refgss.conformance.vectors.cases.common import Case, Draw, F, lam_of
from refgss.ops import OPS, encode_option

# op -> label -> the scale of some tensors
SCALED: dict[str, dict[str, dict[str, float]]] = {
    "ssm_kernel": {"small": {"c": 1e-20}, "large": {"c": 1e20}},
    "ssm_kernel_vjp": {
        "small": {"dk": 1e-20},
        "large": {"dk": 1e20},
        "opposite": {"c": 1e20, "dk": 1e-20},
    },
    "causal_conv": {
        "small": {"u": 1e-20},
        "large": {"u": 1e20},
        "opposite": {"u": 1e-20, "k": 1e20},
    },
    "causal_conv_vjp": {
        "small": {"dy": 1e-20},
        "large": {"u": 1e20},
        "opposite": {"u": 1e-20, "k": 1e20, "dy": 1e-10},
    },
    "ssm_scan": {
        "small": {"u": 1e-20, "state": 1e-20},
        "large": {"u": 1e20, "state": 1e20},
        "small-state": {"u": 0.0, "state": 1e-8},
        "opposite": {"u": 1e-20, "state": 1e-20, "c": 1e20},
    },
    "ssm_step": {
        "small": {"u": 1e-20, "state": 1e-20},
        "large": {"u": 1e20, "state": 1e20},
        "small-state": {"u": 0.0, "state": 1e-8},
        "opposite": {"u": 1e-20, "state": 1e-20, "c": 1e20},
    },
    "ssm_scan_vjp": {
        "small": {"u": 1e-20, "state": 1e-20, "dy": 1e-10, "dstate": 1e-10},
        "large": {"dy": 1e20, "dstate": 1e20},
        "opposite": {"u": 1e20, "state": 1e20, "dy": 1e-20, "dstate": 1e-20},
    },
    "ssm_step_vjp": {
        "small": {"u": 1e-20, "state": 1e-20, "dy": 1.0, "dstate": 1.0},
        "large": {"dy": 1e20, "dstate": 1e20},
        "opposite": {"u": 1e20, "state": 1e20, "dy": 1e-20, "dstate": 1e-20},
    },
    "layer_norm": {"small": {"x": 1e-20}},
    "layer_norm_vjp": {"small": {"dy": 1e-20}, "large": {"dy": 1e20}},
    "gelu": {"small": {"x": 1e-20}, "subnormal": {"x": 1e-37}},
    "gelu_vjp": {"small": {"dy": 1e-20}, "large": {"dy": 1e20}},
    "dense": {
        "small": {"x": 1e-20, "bias": 1e-20},
        "large": {"x": 1e20, "bias": 1e20},
    },
    "dense_vjp": {
        "small": {"dy": 1e-20},
        "large": {"dy": 1e20},
    },
    "gss_layer": {"small": {"x": 1e-20, "state": 1e-20}},
    "gss_layer_vjp": {"small": {"dout": 1e-20, "dstate": 1e-20}},
    "dss_layer": {"small": {"x": 1e-20, "state": 1e-20}},
    "dss_layer_vjp": {"small": {"dout": 1e-20, "dstate": 1e-20}},
}
SUBNORMAL = {  # op -> operands below the smallest normal number, of products that are far above it
    "causal_conv": {"u": 1e-40, "k": 1e30},
    "dense": {"x": 1e-40, "weight": 1e30, "bias": 1e-10},
    "dense_vjp": {"x": 1e-40, "dy": 1e30, "weight": 1e-40},
}
MIXED = {  # op -> the tensors whose numbers are of all scales at once
    "ssm_kernel": ("c",),
    "ssm_kernel_vjp": ("c", "dk"),
    "ssm_scan": ("state", "c"),
    "ssm_step": ("u", "state", "c"),
    "ssm_step_vjp": ("u", "state", "dy", "dstate"),
    "ssm_scan_vjp": ("state", "dstate"),
    "gelu_vjp": ("x", "dy"),
    "dense": ("x", "weight"),
    "dense_vjp": ("x", "weight", "dy"),
}
FORMS = {"": cfg.GSS, "-bilinear": cfg.KernelForm("bilinear"), "-dss-exp": cfg.DSS_EXP}


def extremes() -> Iterator[Case]:
    """Every linear argument scaled up and down, and rows that overflow late."""
    for op, scales in SCALED.items():
        of_op = cfg.PAPER if op.startswith("gss_l") else cfg.DSSConfig()
        config = of_op if "params" in OPS[op].axes else None
        shape = {"...": 7, "E": 8, "H": 4} if config else {"...": 7}
        for label, scale in scales.items():
            tensors = tensors_of(op, config, **shape)
            tensors |= {k: (tensors[k] * np.float64(s)).astype(F) for k, s in scale.items()}
            for form, value in FORMS.items() if op.startswith("ssm") else {"": cfg.GSS}.items():
                o = options_of(op, config=config, form=value)
                note = ", ".join(f"{k} ~ {s:g}" for k, s in scale.items())
                ids = ("GSS-ACC-1", "GSS-ACC-7")
                id = f"{op}/scale-{label}{form}"
                yield Case(id, op, ids, tensors, o, ("extreme",), note)
    for op, names in MIXED.items():
        draw, tensors = Draw(f"{op}/mixed"), tensors_of(op, None, **{"...": 7})
        for name in names:
            sizes = draw.rng.choice([1e-20, 1e-10, 1.0, 1e10], tensors[name].shape)
            tensors[name] = (tensors[name] * sizes).astype(F)
        for form, value in FORMS.items() if op.startswith("ssm") else {"": cfg.GSS}.items():
            id, note = f"{op}/scale-mixed{form}", "each number of a scale of its own"
            o = options_of(op, form=value)
            yield Case(id, op, ("GSS-ACC-1", "GSS-ACC-7"), tensors, o, ("extreme",), note)
    yield from late_overflow()
    for op, scale in SUBNORMAL.items():
        tensors = tensors_of(op, None, **{"...": 7})
        tensors |= {k: (tensors[k] * np.float64(s)).astype(F) for k, s in scale.items()}
        note = ", ".join(f"{k} ~ {s:g}" for k, s in scale.items())
        args = (("GSS-ACC-10",), tensors, options_of(op), ("extreme",), note)
        yield Case(f"{op}/scale-subnormal-operand", op, *args)


def late_overflow() -> Iterator[Case]:
    """A signal that is huge at its end: nothing before it may become NaN."""
    draw, o = Draw("late overflow"), {"form": encode_option(cfg.GSS)}
    for label, length, size in (("13", 13, 3e38), ("40", 40, -3e38), ("66", 66, 3e38)):
        u = np.ones((2, length, 2), F)
        u[0, -1] = size  # of one row of the batch only
        tensors = {"lam": lam_of(-0.125), "c": draw(2, 1, 2), "delta": np.array(1, F), "u": u}
        tensors["c"] = np.abs(tensors["c"]) / 4 + F(0.1)
        note = "one number near the end of the range, at the end"
        ids = ("GSS-REC-4", "GSS-ACC-1")
        yield Case(f"ssm_scan/late-{label}", "ssm_scan", ids, tensors, o, ("extreme",), note)
