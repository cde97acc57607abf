"""A call in order of every op, small, made from the table of what it asks (`ops.OPS`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from refgss import config as cfg
from refgss.conformance.vectors.cases import block_recurrent
from refgss.conformance.vectors.cases.common import Draw, F
from refgss.conformance.vectors.cases.language_model import model_params
from refgss.conformance.vectors.cases.layers import layer_params, named
from refgss.layers.transformer import Sizes, parameters
from refgss.ops import OPS, SCALARS, encode_option, is_complex

SIZES = {
    "B": 2,
    "L": 4,
    "H": 3,
    "N": 2,
    "K": 5,
    "E": 3,
    "F": 4,
    "I": 4,
    "O": 3,
    "V": 5,
    "D": 2,
    "A": 4,
    "G": 2,
    "P": 2,
    "S": 3,
    "M": 3,
    "T": 32,
    "W": 3,
    "...": 2,
}


def tensors_of(op: str, config: Any = None, **sizes: int) -> dict[str, np.ndarray]:
    """Tensors of the op that are in order, of SIZES but for those given."""
    draw = Draw(f"asked/{op}")
    shape = SIZES | sizes
    shape |= {"D": config.depth} if isinstance(config, cfg.LMConfig) else {}
    if isinstance(config, cfg.BlockRecurrentConfig):
        return block_recurrent_call(draw, op, config)
    shape |= {"M": shape["W"] + 1} if op.startswith("window") else {}
    shape |= {"H": shape["E"]} if op.startswith("dss") or is_dss(config) else {}
    own = {n: axes for n, axes in OPS[op].axes.items() if n != "params" and n != "i"}  # of "full"
    tensors = {n: tensor(draw, n, axes, shape) for n, axes in own.items()}
    if config is None:
        return tensors
    e, f, h, n, v = (shape[a] for a in "EFHNV")
    if isinstance(config, cfg.LMConfig):
        return named(model_params(draw, config, v, e, f, h, n)) | tensors
    if isinstance(config, cfg.TransformerConfig):
        of_heads = config.heads * shape["P"]
        return named(transformer_params(draw, config, Sizes(e, of_heads, f))) | tensors
    return named(layer_params(draw, config, e, f, h, n)) | tensors


def block_recurrent_call(
    draw: Draw, op: str, config: cfg.BlockRecurrentConfig
) -> dict[str, np.ndarray]:
    """A row that begins and one within its second window."""
    tensors = block_recurrent.given(draw, config, 2, [0, config.window + 1])
    if op.endswith("_vjp"):
        tensors = block_recurrent.with_cotangents(draw, tensors, config)
    return block_recurrent.of_step(tensors) if "_step" in op else tensors


def transformer_params(draw: Draw, config: Any, sizes: Sizes) -> dict[str, np.ndarray]:
    """Parameters of a transformer layer as an initialised network has them."""
    params = {}
    for name, tensor in parameters(config, sizes).items():
        scale = tensor.shape[0] ** -0.5 if name.startswith("w_") else 0.2
        value = draw(*tensor.shape, scale=scale)
        is_norm = name.startswith("norm") and name.endswith("weight")
        params[name] = (1 + value).astype(F) if is_norm else value
    return params


def is_dss(config: Any) -> bool:
    return isinstance(getattr(config, "layer", config), cfg.DSSConfig)


def tensor(draw: Draw, name: str, axes: str, sizes: Mapping[str, int]) -> np.ndarray:
    shape = tuple(sizes[a] for a in axes.split())
    if name == "lam":
        return draw.modes(*shape)
    if name == "delta":
        return np.array(1, F)
    if name in ("tokens", "targets"):
        return draw.tokens(sizes["V"], *shape)
    if name in ("r", "state.t"):
        return draw.tokens(sizes["S"], *shape)
    if name == "f":  # of a gate of the kind "full"
        return draw(sizes["..."], sizes["E"])
    return draw(*shape, *((2,) if is_complex(name) else ()))


def options_of(op: str, **chosen: Any) -> dict[str, Any]:
    """The options of the op, encoded: the ones given, and otherwise the plainest."""
    plain = {"init": "lin", "n": 3, "imag": "exp", "eps": 1e-5, "length": SIZES["L"]}
    plain |= {"base": 10000.0, "pairing": "half", "window": cfg.AttentionForm(SIZES["S"])}
    plain |= {"kind": "full"} | ({"window": SIZES["W"]} if op.startswith("window") else {})
    wanted = SCALARS & {*OPS[op].arguments, *OPS[op].keywords}
    every = {**plain, "form": cfg.GSS, **chosen}
    return {k: encode_option(x) for k, x in every.items() if k in wanted}
