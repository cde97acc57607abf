"""Every op beyond each size at which real kernels change their ways, one axis at a time.

The large tensors are drawn from a seed, not stored, and the results are certified at samples.  The
other axes stay small, so that certifying costs a second at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refgss import config as cfg
from refgss.conformance.vectors.cases.calls import is_dss, options_of, transformer_params
from refgss.conformance.vectors.cases.common import Case, Draw, F
from refgss.conformance.vectors.cases.language_model import model_params
from refgss.conformance.vectors.cases.layers import layer_params, named
from refgss.conformance.vectors.drawn import Law, Tensors
from refgss.layers import block_recurrent
from refgss.layers.transformer import Sizes
from refgss.ops import OPS, is_complex

SMALL = {"B": 2, "L": 3, "H": 2, "N": 2, "K": 3, "E": 3, "F": 2, "I": 3, "O": 2, "V": 5}
SMALL |= {"A": 2, "G": 1, "P": 2, "S": 2, "T": 32, "W": 4, "M": 3}
NORMED = {"E": 8, "H": 6, "F": 4}  # of layers: the norm of two or three numbers is ill-conditioned
TO_129, TO_257 = (33, 65, 129), (33, 65, 129, 257)
TO_1025, TO_4097 = (*TO_257, 1025), (*TO_257, 1025, 4097)
BATCH, BATCH_OF_LAYER = (5, *TO_257), (5, 33, 65)
MODEL = {"B": (5, 33, 65), "L": TO_129, "E": TO_129, "F": TO_129, "N": TO_129, "V": TO_257}
MODEL_VJP = {"B": (5, 33), "L": TO_129, "E": TO_129, "F": TO_129, "N": TO_129, "V": TO_257}
# op -> axis -> sizes
SWEEPS: dict[str, dict[str, tuple[int, ...]]] = {
    "gss_lambda": {"N": TO_4097},
    "gss_lambda_vjp": {"N": TO_4097},
    "discretize": {"N": TO_4097},
    "discretize_vjp": {"N": TO_4097},
    "ssm_kernel": {"H": TO_1025, "N": TO_1025, "L": (*TO_4097, 65537)},
    "ssm_kernel_vjp": {"H": TO_1025, "N": TO_1025, "L": TO_1025},
    "causal_conv": {"B": BATCH, "L": (*TO_4097, 65537), "H": TO_1025, "K": TO_1025},
    "causal_conv_vjp": {"B": BATCH, "L": (*TO_257, 513), "H": TO_1025, "K": TO_1025},
    "ssm_scan": {"B": BATCH, "L": (*TO_4097, 65537), "H": TO_1025, "N": TO_1025},
    "ssm_scan_vjp": {"B": BATCH, "L": TO_257, "H": TO_1025, "N": TO_1025},
    "ssm_step": {"B": (5, *TO_1025), "H": TO_1025, "N": TO_1025},
    "ssm_step_vjp": {"B": (5, *TO_1025), "H": TO_1025, "N": TO_1025},
    "layer_norm": {"B": TO_1025, "E": TO_4097},
    "layer_norm_vjp": {"B": TO_1025, "E": TO_4097},
    "rms_norm": {"B": TO_129, "E": TO_4097},
    "rms_norm_vjp": {"B": TO_129, "E": TO_1025},
    "rope": {"B": BATCH_OF_LAYER, "L": TO_129, "A": (33,), "P": (34, 66, 130)},
    "rope_vjp": {"L": TO_129, "P": (34, 66, 130)},
    "t5_bias": {"A": TO_129, "L": TO_1025},
    "t5_bias_vjp": {"A": TO_129, "L": TO_1025},
    "attention": {"B": BATCH_OF_LAYER, "L": TO_129, "A": (33,), "P": TO_257},
    "attention_vjp": {"B": (5, 33), "L": (33, 65), "A": (33,), "P": (33, 65, 129)},
    "attention_step": {"B": BATCH_OF_LAYER, "S": TO_257, "P": TO_257},
    "attention_step_vjp": {"B": (5, 33), "S": TO_129, "P": TO_129},
    "transformer_layer": {"B": (5,), "L": (33, 65), "E": TO_129, "F": TO_129},
    "transformer_layer_vjp": {"B": (5,), "L": (33,), "E": (33, 65), "F": TO_129},
    "l2_normalize": {"B": TO_129, "E": TO_4097},
    "l2_normalize_vjp": {"B": TO_129, "E": TO_1025},
    "window_attention": {"B": (5, 33), "L": TO_129, "H": (33,), "P": TO_129, "W": TO_129},
    "window_attention_vjp": {"B": (5, 33), "L": (33, 65), "H": (33,), "P": (33, 65), "W": (33,)},
    "state_attention": {"B": (5, 33), "T": TO_129, "M": TO_257, "H": (33,), "P": TO_257},
    "state_attention_vjp": {"B": (5,), "T": (33, 65), "M": TO_129, "P": TO_129},
    "gate": {"B": TO_129, "E": TO_1025},
    "gate_vjp": {"B": TO_129, "E": TO_1025},
    "block_recurrent_layer": {"B": (5,), "L": (65,), "E": (33, 65), "F": (65,), "S": (33,)},
    "block_recurrent_layer_vjp": {"L": (33,), "E": (33,)},
    "block_recurrent_step": {"B": (33,), "E": (65,), "S": (65,)},
    "block_recurrent_step_vjp": {"E": (33,)},
    "gelu": {"B": TO_4097},
    "gelu_vjp": {"B": TO_4097},
    "dense": {"B": TO_1025, "I": TO_4097, "O": TO_4097},
    "dense_vjp": {"B": TO_1025, "I": TO_4097, "O": TO_4097},
    "gss_layer": dict.fromkeys("EFN", TO_1025) | {"B": BATCH_OF_LAYER, "L": TO_257, "H": TO_257},
    "gss_layer_vjp": dict.fromkeys("EFHN", TO_257) | {"B": BATCH_OF_LAYER, "L": TO_129},
    "dss_layer": {"B": BATCH_OF_LAYER, "L": TO_257, "E": TO_129, "N": TO_1025},
    "dss_layer_vjp": {"B": BATCH_OF_LAYER, "L": TO_129, "E": TO_129, "N": TO_257},
    "lm_logits": MODEL,
    "lm_logits_vjp": MODEL_VJP,
    "lm_loss": MODEL,
    "lm_loss_vjp": MODEL_VJP,
}
TOGETHER: dict[str, tuple[dict[str, int], ...]] = {  # where several axes are large at once
    "causal_conv": (
        {"B": 3, "L": 65, "H": 33, "K": 65},
        {"B": 1, "L": 4099, "H": 2, "K": 4099},
        {"B": 1, "L": 65537, "H": 1, "K": 65537},
    ),
    "ssm_scan": ({"B": 5, "L": 65, "H": 9, "N": 17}, {"B": 1, "L": 37, "H": 67, "N": 33}),
    "ssm_step": ({"B": 5, "H": 67, "N": 65},),
    "attention": (
        {"L": 37, "S": 17},
        {"L": 67, "S": 33},
        {"L": 131, "S": 64, "A": 1},
        {"L": 70, "S": 70, "A": 1},
        {"B": 3, "L": 19, "S": 8, "A": 6, "G": 3, "P": 17},
    ),
    "attention_vjp": ({"L": 37, "S": 17}, {"L": 67, "S": 33, "A": 1}, {"L": 20, "S": 8, "P": 33}),
    "window_attention": ({"L": 37, "W": 17}, {"L": 67, "W": 64}, {"L": 70, "W": 33, "H": 1}),
    "window_attention_vjp": ({"L": 37, "W": 17}, {"L": 20, "W": 8, "P": 33}),
    "block_recurrent_layer": ({"L": 19, "W": 34, "S": 5},),
    "block_recurrent_step": ({"W": 66, "S": 9},),
    "ssm_kernel": ({"H": 33, "N": 17, "L": 65},),
    "dense": ({"B": 33, "I": 65, "O": 129}, {"B": 5, "I": 129, "O": 67}),
    "dense_vjp": ({"B": 33, "I": 65, "O": 35},),
    "layer_norm": ({"B": 33, "E": 129},),
    "gss_layer": ({"B": 5, "L": 13, "E": 17, "F": 33, "H": 9, "N": 9},),
    "dss_layer": ({"B": 5, "L": 13, "E": 17, "N": 9},),
    "gss_layer_vjp": ({"B": 4, "L": 13, "E": 9, "F": 17, "H": 5, "N": 6},),
    "lm_logits": ({"B": 4, "L": 13, "E": 9, "F": 17, "H": 5, "N": 6, "V": 37},),
}
DEEP = (3, 5)  # layers of a model
AT_ANY_TIME = 257  # a case with a larger axis belongs to the thorough selection

CLAUSES: dict[str, tuple[str, ...]] = {
    "gss_lambda": ("GSS-PAR-1",),
    "discretize": ("GSS-DIS-2",),
    "ssm_kernel": ("GSS-KER-1",),
    "causal_conv": ("GSS-CNV-1",),
    "ssm_scan": ("GSS-REC-4",),
    "ssm_step": ("GSS-REC-1", "GSS-REC-2"),
    "layer_norm": ("GSS-NRM-1",),
    "gelu": ("GSS-NRM-3",),
    "rms_norm": ("GSS-ATT-12",),
    "rms_norm_vjp": ("GSS-ATT-20",),
    "rope": ("GSS-ATT-13",),
    "rope_vjp": ("GSS-ATT-21",),
    "t5_bias": ("GSS-ATT-5",),
    "t5_bias_vjp": ("GSS-ATT-22",),
    "attention": ("GSS-ATT-2", "GSS-ATT-3", "GSS-ATT-18"),
    "attention_vjp": ("GSS-ATT-9", "GSS-ATT-19"),
    "attention_step": ("GSS-ATT-3", "GSS-ATT-23"),
    "attention_step_vjp": ("GSS-ATT-9", "GSS-ATT-23"),
    "transformer_layer": ("GSS-HYB-2", "GSS-HYB-3"),
    "transformer_layer_vjp": ("GSS-HYB-7",),
    "l2_normalize": ("GSS-BRT-3",),
    "l2_normalize_vjp": ("GSS-BRT-20", "GSS-BRT-3"),
    "window_attention": ("GSS-BRT-4", "GSS-BRT-7", "GSS-BRT-24"),
    "window_attention_vjp": ("GSS-BRT-20", "GSS-BRT-24"),
    "state_attention": ("GSS-BRT-9", "GSS-BRT-4", "GSS-BRT-24"),
    "state_attention_vjp": ("GSS-BRT-20", "GSS-BRT-24"),
    "gate": ("GSS-BRT-13",),
    "gate_vjp": ("GSS-BRT-20", "GSS-BRT-13"),
    "block_recurrent_layer": ("GSS-BRT-11", "GSS-BRT-12", "GSS-BRT-21"),
    "block_recurrent_layer_vjp": ("GSS-BRT-20",),
    "block_recurrent_step": ("GSS-BRT-18", "GSS-BRT-11"),
    "block_recurrent_step_vjp": ("GSS-BRT-20", "GSS-BRT-18"),
    "dense": ("GSS-NRM-4",),
    "gss_layer": ("GSS-LAY-1", "GSS-LAY-2", "GSS-LAY-3", "GSS-LAY-5", "GSS-STA-3"),
    "dss_layer": ("GSS-LAY-6", "GSS-STA-3"),
    "lm_logits": ("GSS-LM-1", "GSS-LM-2", "GSS-LM-3", "GSS-STA-3"),
    "lm_loss": ("GSS-LM-4",),
    "gss_lambda_vjp": ("GSS-GRD-2",),
    "discretize_vjp": ("GSS-GRD-3",),
    "ssm_kernel_vjp": ("GSS-GRD-4",),
    "causal_conv_vjp": ("GSS-GRD-5",),
    "ssm_scan_vjp": ("GSS-GRD-6",),
    "ssm_step_vjp": ("GSS-GRD-6",),
    "layer_norm_vjp": ("GSS-GRD-7",),
    "gelu_vjp": ("GSS-GRD-8",),
    "dense_vjp": ("GSS-GRD-9",),
    "gss_layer_vjp": ("GSS-GRD-10",),
    "dss_layer_vjp": ("GSS-GRD-10",),
    "lm_logits_vjp": ("GSS-GRD-11",),
    "lm_loss_vjp": ("GSS-GRD-12",),
}


def sizes() -> Iterator[Case]:
    """One case for each size of each axis of each op, and some where several are large."""
    for op, sweeps in SWEEPS.items():
        for axis, lengths in sweeps.items():
            for n in lengths:
                yield case(op, f"{axis.lower()}-{n}", {axis: n})
        for shape in TOGETHER.get(op, ()):
            yield case(op, "-".join(f"{a.lower()}{n}" for a, n in shape.items()), shape)
        for depth in DEEP if op.startswith("lm") else ():
            yield case(op, f"depth-{depth}", {}, depth)


def case(op: str, label: str, large: Mapping[str, int], depth: int = 2) -> Case:
    """A case of these sizes, the other axes as small as SMALL has them."""
    id, config = f"{op}/size-{label}", config_of(op, depth)
    shape = SMALL | {"D": depth} | (NORMED if config else {}) | dict(large)
    if shape["L"] > AT_ANY_TIME:
        shape |= {"B": 1, "H": 1} | dict(large)
    if is_dss(config):
        shape["H"] = shape["E"]
    if op.startswith(("attention", "transformer")):
        config = replace(config, chunk=shape["S"]) if config else None
        shape["M"] = shape["S"]
    if op.startswith("window"):
        shape["M"] = shape["W"] + 1
    if op.startswith("block"):
        shape["W"] = max(shape["W"], 2 * shape["L"])  # errors grow from window to window
        shape["H"] = config.heads
        config = replace(config, window=shape["W"] // 2, states=shape["S"])
    window = shape["W"] if op.startswith("window") else cfg.AttentionForm(shape["S"])
    options = options_of(op, config=config, form=form_of(op), length=shape["L"], window=window)
    flags = ("size", *(["large"] if max(shape.values()) > AT_ANY_TIME else []))
    tensors = tensors_of(op, config, shape, id)
    return Case(id, op, CLAUSES[op], tensors, options, flags, sampled=True)


def form_of(op: str) -> cfg.KernelForm:
    return cfg.S4D_ZOH if op.startswith("ssm_kernel") else cfg.GSS


def config_of(op: str, depth: int) -> Any:
    if op.startswith("lm"):
        return cfg.LMConfig(cfg.PAPER, depth=depth)
    if op.startswith("gss_layer"):
        return cfg.GSS_PYTORCH
    if op.startswith("transformer"):
        return cfg.TransformerConfig(heads=SMALL["A"], kv_heads=SMALL["G"])
    if op.startswith("block"):
        return cfg.BlockRecurrentConfig(heads=SMALL["H"], gate="full", update="single", mlp="gelu")
    return cfg.DSSConfig() if op.startswith("dss") else None


def tensors_of(
    op: str, config: Any, shape: Mapping[str, int], seed: str
) -> Mapping[str, np.ndarray]:
    """What is large is drawn by a law; Λ and Δ are stored."""
    stored: dict[str, np.ndarray] = {}
    laws: dict[str, Law] = {}
    for name, axes in OPS[op].axes.items():
        dims = tuple(shape["B" if a == "..." else a] for a in axes.split())
        if name == "lam":
            stored[name] = Draw(seed).modes(*dims) * np.array([0.1, 1], F)
        elif name == "delta":
            stored[name] = np.array(1, F)
        elif name in ("tokens", "targets"):
            laws[name] = Law(dims, below=shape["V"])
        elif name == "r" or (name == "state.t" and not op.startswith("block")):
            laws[name] = Law(dims, below=2**20 if name == "r" else shape["S"])
        elif name == "state.t" and op.startswith("block"):
            stored[name] = places(op, shape)
        elif name in ("f", "i"):  # of a gate of the kind "full"
            laws |= {name: Law((shape["B"], shape["E"]))} if name == "f" else {}
        elif name != "params":
            dims = (*dims, 2) if is_complex(name) else dims
            laws[name] = Law(dims, exponent=of_sum(dims[0]) if name == "weight" else 0)
    laws |= parameter_laws(config, shape)
    return Tensors(stored, laws, seed) if laws else stored


def places(op: str, shape: Mapping[str, int]) -> np.ndarray:
    """state.t of a block-recurrent layer: the last token fills a window, or the row begins."""
    window, length = shape["W"] // 2, 1 if "_step" in op else shape["L"]
    filled = window + (window - length) % window
    return np.where(np.arange(shape["B"]) % 2 == 0, filled, 0).astype(np.int32)


def of_sum(terms: int) -> int:
    """The exponent of weights with which a sum of so many terms is of order 1."""
    return 1 - math.ceil(math.log2(terms) / 2)


def parameter_laws(config: Any, shape: Mapping[str, int]) -> dict[str, Law]:
    """Laws of parameters such as an initialised network has, of the shapes that the config asks."""
    e, f, h, n, v = (shape[a] for a in "EFHNV")
    draw = Draw("shapes")  # for the shapes alone
    if isinstance(config, cfg.LMConfig):
        params = model_params(draw, config, v, e, f, h, n)
    elif isinstance(config, cfg.BlockRecurrentConfig):
        own = block_recurrent.parameters(
            config, block_recurrent.Sizes(e, config.heads * shape["P"], f)
        )
        params = {name: np.empty(t.shape) for name, t in own.items()}
    elif isinstance(config, cfg.TransformerConfig):
        params = transformer_params(draw, config, Sizes(e, config.heads * shape["P"], f))
    else:
        params = {} if config is None else layer_params(draw, config, e, f, h, n)
    return {name: law(name, x.shape) for name, x in named(params).items()}


def law(name: str, shape: tuple[int, ...]) -> Law:
    last = name.rsplit(".", 1)[-1]
    if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
        return Law(shape, center=1.0, exponent=-2)
    if last in ("scale", "scale2"):
        return Law(shape, center=1.0, exponent=-1)
    if last in ("initial", "ids"):
        return Law(shape, center=2.0)
    if name.endswith("ssm.a"):
        return Law(shape, center=-2.0)
    if last == "log_delta":
        return Law(shape, center=-1.0, exponent=-1)
    if last == "w_o" and name.startswith("params.layers."):  # what each layer adds is small
        return Law(shape, exponent=of_sum(shape[0]) - 3)
    if last.startswith("w_") or name.endswith("head.weight"):
        return Law(shape, exponent=of_sum(shape[0]))
    return Law(shape, exponent=of_sum(shape[1]) if last == "c" else 0)
