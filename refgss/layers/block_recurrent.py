"""The layer of the Block-Recurrent Transformer as a kind (GSS-BRT-1..21)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refgss.config import BlockRecurrentConfig
from refgss.layers.tensor import Role, Tensor
from refgss.layers.transformer import BUCKETS

NAME = "recurrent"
OP = "block_recurrent_layer"
Config = BlockRecurrentConfig
SIZED_BY = {"norm1.weight": "E", "w_q": "E,A", "w_1": "E,F"}
MATRICES = ("w_q", "w_k", "w_v", "w_q2", "w_o", "w_1", "w_2", "w_3")
GATES = tuple(f"gate{n}.w_{x}" for n in (1, 2) for x in "fi")
ROLES: dict[str, Role] = dict.fromkeys(
    (*MATRICES, *(f"state.{name}" for name in (*MATRICES, *GATES))), "matrix"
)


@dataclass(frozen=True)
class Sizes:
    """E; `inner`, the heads together, E if None; `hidden`, of both MLPs: 4E, or 8E/3 if gated."""

    width: int
    inner: int | None = None
    hidden: int | None = None


def sizes(params: Mapping[str, Any]) -> Sizes:
    E, A = params["w_q"].shape
    return Sizes(E, A, params["w_1"].shape[1])


def widths(config: BlockRecurrentConfig, sizes: Sizes) -> tuple[int, int, int]:
    """E, A and F.  Raises ValueError where the heads do not divide A."""
    E, A = sizes.width, sizes.width if sizes.inner is None else sizes.inner
    if A % config.heads or not A:
        raise ValueError(f"{config.heads} heads do not divide the width {A} of the attention")
    usual = -(-E // 3) * 8 if config.mlp == "glu" else 4 * E
    return E, A, usual if sizes.hidden is None else sizes.hidden


def parameters(config: BlockRecurrentConfig, sizes: Sizes) -> dict[str, Tensor]:
    """Clauses: GSS-BRT-3, GSS-BRT-5, GSS-BRT-8, GSS-BRT-10..15."""
    E, A, F = widths(config, sizes)
    shapes = attention(config, E, A)
    if config.position == "t5":
        shapes["position.table"] = (config.heads, BUCKETS)
    shapes |= {"w_o": (2 * A, E), "norm2.weight": (E,), **mlp(config, E, F, E)}
    own = {"initial": (config.states, E), "ids": (config.states, E), **attention(config, E, A)}
    if config.update != "single":
        own |= {"w_o": (2 * A, E), **gate("gate1", config, 2 * A, E)}
    if config.update == "dual":
        own["norm2.weight"] = (E,)
    if config.update != "skip":
        wide = 2 * A if config.update == "single" else E
        own |= {**mlp(config, wide, F, E), **gate("gate2", config, F, E)}
    shapes |= {f"state.{name}": shape for name, shape in own.items()}
    return {name: Tensor(shape) for name, shape in shapes.items()}


Shapes = dict[str, tuple[int, ...]]


def attention(config: BlockRecurrentConfig, E: int, A: int) -> Shapes:
    """The norm and the maps before attention, of tokens as of the state."""
    shapes: Shapes = {"norm1.weight": (E,)}
    shapes |= dict.fromkeys(("w_q", "w_k", "w_v", "w_q2"), (E, A))
    if config.normalize_keys:
        shapes |= dict.fromkeys(("scale", "scale2"), (config.heads,))
    return shapes


def mlp(config: BlockRecurrentConfig, I: int, F: int, E: int) -> Shapes:
    shapes: Shapes = {"w_1": (I, F), "w_2": (F, E)}
    return shapes | ({"w_3": (I, F)} if config.mlp == "glu" else {})


def gate(name: str, config: BlockRecurrentConfig, I: int, E: int) -> Shapes:
    """Of a gate whose input has the width I.  Clauses: GSS-BRT-13."""
    shapes: Shapes = {f"{name}.b_f": (E,)}
    if config.gate != "fixed":
        shapes[f"{name}.w_f"] = (I, E)
    if config.gate == "lstm":
        shapes |= {f"{name}.w_i": (I, E), f"{name}.b_i": (E,)}
    return shapes


def state(config: BlockRecurrentConfig, sizes: Sizes, batch: int) -> dict[str, Tensor]:
    """s (B,S,E); k, v (B,2W,H,D); t (B,).  Clauses: GSS-BRT-18."""
    E, A, _ = widths(config, sizes)
    slots = Tensor((batch, 2 * config.window, config.heads, A // config.heads))
    own = Tensor((batch, config.states, E))
    return {"s": own, "k": slots, "v": slots, "t": Tensor((batch,), "integer")}


def config_of(fields: Mapping[str, Any]) -> BlockRecurrentConfig:
    return BlockRecurrentConfig(**fields)


def check_values(params: Mapping[str, np.ndarray], config: BlockRecurrentConfig) -> None:
    """Any numbers are a layer of this kind."""


def check_state(state: Mapping[str, Any], config: BlockRecurrentConfig, tokens: int) -> None:
    """Raises ValueError unless t is where so many tokens lead.  Clauses: GSS-BRT-18."""
    W = config.window
    t = tokens if tokens < W else W + tokens % W
    if np.any(state["t"] != t):
        raise ValueError(f"its t is not {t}, as it is after {tokens} tokens")


def length_limit(config: BlockRecurrentConfig) -> int | None:
    """A stream never ends."""
    return None
