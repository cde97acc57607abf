"""Refusals made from the table of what each op asks (`ops.OPS`): no op can lack them.

Every tensor of an op is offered with an axis more, an axis less, a longer axis, and an axis of
size 1 where it would broadcast; every Λ, Δ, token and length outside its domain; every parameter
missing, misshapen, and one too many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refgss import config as cfg
from refgss.conformance.vectors.cases.calls import SIZES, is_dss, options_of, tensors_of
from refgss.conformance.vectors.cases.common import Case, F, lam_of
from refgss.ops import OPS, encode_option, is_complex

FORMS = {
    "zoh": cfg.GSS,
    "bilinear": cfg.S4D_BILINEAR,
    "dss-exp": cfg.DSS_EXP,
    "dss-softmax": cfg.dss_softmax(SIZES["L"]),
}
LAYERS = {
    "paper": cfg.PAPER,
    "gss-pytorch": cfg.GSS_PYTORCH,
    "dss-exp": cfg.DSSConfig(),
    "dss-zoh": cfg.DSSConfig(form=cfg.S4D_ZOH, out_bias=False),
}
TRANSFORMERS = {
    "attention": cfg.TransformerConfig(heads=SIZES["A"], kv_heads=SIZES["G"], chunk=SIZES["S"]),
}
BLOCK_RECURRENTS = {  # with every parameter that there is
    "recurrent": cfg.BlockRecurrentConfig(2, 1, 2, gate="lstm", update="dual", mlp="glu"),
}
MODELS = {
    "paper-model": cfg.LMConfig(cfg.PAPER, depth=SIZES["D"]),
    "tied": cfg.LMConfig(cfg.PAPER, depth=SIZES["D"], tied=True, final_norm=False),
}
ALL_ASKED = (
    "",
    "gss-pytorch",
    "dss-exp",
    "attention",
    "recurrent",
    "paper-model",
)  # of the others, what they do not use
# what checks its arguments as another op does is asked less
AS_THE_LAYER = ("block_recurrent_layer_vjp", "block_recurrent_step", "block_recurrent_step_vjp")
FEWER = (
    *("attention_step", "attention_step_vjp", "attention_vjp", "transformer_layer_vjp"),
    *("window_attention_vjp", "state_attention_vjp", *AS_THE_LAYER),
)
Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Good:
    """A call that is in order, which every refusal of its op changes in one place."""

    op: str
    tensors: Tensors
    options: Mapping[str, Any]
    label: str = ""  # where an op has several, which of them this is

    def refuse(self, why: str, clause: str, changes: Tensors, **options: Any) -> Case:
        id = "-".join(filter(None, (f"{self.op}/refuse", self.label, why)))
        ids = (clause, "GSS-NFI-16") if self.op.endswith("_vjp") else (clause,)
        tensors, o = {**self.tensors, **changes}, {**self.options, **options}
        return Case(id, self.op, ids, tensors, o, ("refusal",), error=True)

    def lacking(self, name: str, why: str) -> Case:
        case = self.refuse(why, "GSS-NFI-1", {})
        return replace(case, tensors={k: x for k, x in self.tensors.items() if k != name})


def good_calls() -> Iterator[Good]:
    """One call in order for each op, or for each of its configs."""
    for op, row in OPS.items():
        if "params" not in row.axes:
            yield Good(op, tensors_of(op), options_of(op))
            continue
        for label, config in configs_of(op).items():
            if not op.startswith(("gss", "dss")) or op.startswith("dss") == is_dss(config):
                yield Good(op, tensors_of(op, config), options_of(op, config=config), label)


def configs_of(op: str) -> Mapping[str, Any]:
    if op.startswith("lm"):
        return MODELS
    if op.startswith("block_recurrent"):
        return BLOCK_RECURRENTS
    return TRANSFORMERS if op.startswith("transformer") else LAYERS


def refusals_by_table() -> Iterator[Case]:
    """Every refusal that the table demands, of every op."""
    for good in good_calls():
        if good.label in ALL_ASKED:
            yield from of_shapes(good)
            yield from of_domains(good)
            yield from of_parameters(good) if good.op not in AS_THE_LAYER else ()
        yield from of_unused(good) if good.op not in AS_THE_LAYER else ()


def of_shapes(good: Good) -> Iterator[Case]:
    """Each tensor with an axis more, an axis less, a longer axis, and one that would broadcast."""
    asks = OPS[good.op].axes
    for name, axes in asks.items():
        if name in ("params", "delta", "i"):
            continue
        x, letters = good.tensors[name], axes.split()
        if "..." not in letters:
            yield good.refuse(f"{name}-deep", "GSS-NFI-1", {name: x[None]})
        few = good.op in FEWER
        if letters and "..." not in letters and not few:
            yield good.refuse(f"{name}-flat", "GSS-NFI-1", {name: x[0]})
        for i, letter in enumerate(letters):
            if not tied(good, name, letter):
                continue
            if good.op in AS_THE_LAYER and letter != "B":
                continue
            longer = np.concatenate([x, np.take(x, [0], i)], i)
            yield good.refuse(f"{name}-long-{i}", "GSS-NFI-1", {name: longer})
            if few:
                continue
            yield good.refuse(f"{name}-one-{i}", "GSS-NFI-1", {name: np.take(x, [0], i)})


def tied(good: Good, name: str, letter: str) -> bool:
    """Whether an axis must be as long as one of another argument."""
    others = [axes.split() for other, axes in OPS[good.op].axes.items() if other != name]
    # of parameters come the sizes of a layer, of a model its depth; of the option, the length
    sizes = {"gss_l": "EHN", "dss_l": "EHN", "trans": "EGPS", "block": "ESWHP"}
    given = {sizes.get(good.op[:5], "HNDV")} if good.label else set()
    given |= {"L"} if "length" in good.options else set()
    return letter != "..." and (any(letter in o for o in others) or letter in "".join(given))


GROWING = {"growing": 0.1 + 1j, "barely-growing": 5e-4 + 1j}
UNSET = {"nan-decay": complex(np.nan, 1), "infinite-frequency": complex(-1, np.inf)}
BAD_STEPS = {"zero": 0, "negative": -0.5, "infinite": np.inf, "nan": np.nan}


def of_domains(good: Good) -> Iterator[Case]:
    """Values that have the right shape and may not be."""
    if "lam" in good.tensors:
        yield from of_modes(good)
    if "delta" in good.tensors:
        yield from of_steps(good)
    for name in ("tokens", "targets"):
        if name in good.tensors:
            for why, value in (("below", -1), ("above", SIZES["V"])):
                x = good.tensors[name].copy()
                x[-1, -1] = value
                yield good.refuse(f"{name}-{why}", "GSS-LM-6", {name: x})
    if "targets" in good.tensors:
        none = {k: good.tensors[k][:, :0] for k in ("tokens", "targets")}
        yield good.refuse("no-token", "GSS-NFI-4", none)
    if "length" in good.options:
        none = {k: x[:, :0] for k, x in good.tensors.items() if k in ("dk", "dbias")}
        kernel = good.op.startswith("ssm_kernel")
        clause = "GSS-KER-6" if kernel else "GSS-NFI-1"
        yield good.refuse("length-below-0", clause, none, length=-1)
    if "length" in good.options and kernel:
        form, longer = cfg.dss_softmax(SIZES["L"] - 1), "length-beyond-softmax"
        yield good.refuse(longer, "GSS-KER-6", {}, form=encode_option(form))


def of_modes(good: Good) -> Iterator[Case]:
    for method, form in FORMS.items():
        o = {"form": encode_option(form)}
        free = method == "dss-softmax" and good.op.startswith("ssm_kernel")
        for why, value in {} if free else GROWING.items():
            bad = {"lam": lam_of(value, -1)}
            yield good.refuse(f"{why}-{method}", "GSS-DIS-6", bad, **o)
        for why, value in UNSET.items():
            yield good.refuse(f"{why}-{method}", "GSS-NFI-2", {"lam": lam_of(-1, value)}, **o)
    zero, o = {"lam": lam_of(-1, 0)}, {"form": encode_option(FORMS["dss-softmax"])}
    yield good.refuse("zero-dss-softmax", "GSS-DIS-8", zero, **o)


def of_steps(good: Good) -> Iterator[Case]:
    h = SIZES["H"]
    cotangents = {
        k: np.stack([good.tensors[k]] * h) for k in ("dabar", "dbbar") if k in good.tensors
    }
    for why, value in BAD_STEPS.items():
        yield good.refuse(f"step-{why}", "GSS-NFI-3", {"delta": np.array(value, F)})
        one = np.ones(h, F)
        one[-1] = value
        yield good.refuse(f"one-step-{why}", "GSS-NFI-3", cotangents | {"delta": one})
        pair = np.ones((h, 2), F)
        pair[1, 1] = value
        o = {"form": encode_option(cfg.DSS_EXP)}
        yield good.refuse(f"one-of-two-steps-{why}", "GSS-NFI-3", cotangents | {"delta": pair}, **o)
    shapes = {"triple": (h, 3), "single": (h, 1), "deep": (h, 2, 1)}
    if "c" in good.tensors:
        shapes |= {"one": (1,), "longer": (h + 1,)}
    for why, shape in shapes.items():
        o = {"form": encode_option(cfg.DSS_EXP)}
        yield good.refuse(
            f"steps-{why}", "GSS-NFI-1", cotangents | {"delta": np.ones(shape, F)}, **o
        )
    for method in ("zoh", "bilinear"):
        o = {"form": encode_option(FORMS[method])}
        pair = np.ones((h, 2), F)
        yield good.refuse(f"two-steps-{method}", "GSS-NFI-1", cotangents | {"delta": pair}, **o)


def of_parameters(good: Good) -> Iterator[Case]:
    """Each parameter missing, longer, of size 1; and parameters that the config does not use."""
    prefix = "params."
    names = [k.removeprefix(prefix) for k in good.tensors if k.startswith(prefix)]
    for name in names:
        if name.startswith("layers.") and not name.endswith("0.ssm.c"):
            continue  # the ops of layers have their own refusals
        x, i = good.tensors[prefix + name], -2 if is_complex(name) else -1
        yield good.lacking(prefix + name, f"no-{name}")
        yield good.refuse(f"one-{name}", "GSS-NFI-1", {prefix + name: np.take(x, [0], i)})


def of_unused(good: Good) -> Iterator[Case]:
    """Parameters that the config does not use."""
    e, v, prefix = SIZES["E"], SIZES["V"], "params."
    every = {"b_o": (e,), "ssm.norm.weight": (e,), "w_v": (e, e), "norm.weight": (e,)}
    every |= {"head.weight": (e, v), "layers.0.b_o": (e,), f"layers.{SIZES['D']}.b_o": (e,)}
    for name, shape in every.items() if good.label else ():
        if prefix + name not in good.tensors:
            unused = {prefix + name: np.ones(shape, F)}
            yield good.refuse(f"unused-{name}", "GSS-NFI-1", unused)
