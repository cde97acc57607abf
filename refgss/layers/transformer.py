"""The transformer layer as a kind (GSS-HYB-2..5, GSS-HYB-11): attention, MLP, norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refgss.config import TransformerConfig
from refgss.layers.tensor import Role, Tensor

NAME = "attention"
OP = "transformer_layer"
Config = TransformerConfig
SIZED_BY = {"norm1.weight": "E", "w_q": "E,A", "w_1": "E,M"}
ROLES: dict[str, Role] = dict.fromkeys(("w_q", "w_k", "w_v", "w_o", "w_1", "w_2", "w_3"), "matrix")
BUCKETS = 32  # of distances, under "t5" (GSS-ATT-5)


@dataclass(frozen=True)
class Sizes:
    """E; `inner`, the heads together, E if None; `hidden`, of the MLP: 4E if None.

    A gated MLP has three matrices, and its hidden width is 8E/3 if None, rounded up to a multiple
    of 8, so that a layer has 12E² parameters either way.
    """

    width: int
    inner: int | None = None
    hidden: int | None = None


def sizes(params: Mapping[str, Any]) -> Sizes:
    E, A = params["w_q"].shape
    return Sizes(E, A, params["w_1"].shape[1])


def widths(config: TransformerConfig, sizes: Sizes) -> tuple[int, int, int, int]:
    """E, A, D and M.  Raises ValueError where the heads do not divide A, or rope meets an odd D."""
    E, A = sizes.width, sizes.width if sizes.inner is None else sizes.inner
    if A % config.heads or not A:
        raise ValueError(f"{config.heads} heads do not divide the width {A} of the attention")
    D = A // config.heads
    if D % 2 and config.position.startswith("rope"):
        raise ValueError(f"{config.position} turns pairs, and {D} numbers a head are odd")
    usual = -(-E // 3) * 8 if config.mlp == "glu" else 4 * E
    return E, A, D, usual if sizes.hidden is None else sizes.hidden


def parameters(config: TransformerConfig, sizes: Sizes) -> dict[str, Tensor]:
    """Clauses: GSS-HYB-2..5."""
    E, A, D, M = widths(config, sizes)
    K = config.groups * D
    shapes: dict[str, tuple[int, ...]] = {"norm1.weight": (E,)}
    shapes |= {"w_q": (E, A), "w_k": (E, K), "w_v": (E, K), "w_o": (A, E)}
    if config.position == "t5":
        shapes["position.table"] = (config.heads, BUCKETS)
    elif config.position == "learned":
        shapes["position.weight"] = (config.rows, E)
    shapes |= {"norm2.weight": (E,), "w_1": (E, M), "w_2": (M, E)}
    gated = config.mlp == "glu"
    if gated:
        shapes["w_3"] = (E, M)
    if config.norm == "layer":
        shapes |= {"norm1.bias": (E,), "norm2.bias": (E,)}
    if config.bias:
        shapes |= {"b_q": (A,), "b_k": (K,), "b_v": (K,), "b_o": (E,), "b_1": (M,), "b_2": (E,)}
        shapes |= {"b_3": (M,)} if gated else {}
    return {name: Tensor(shape) for name, shape in shapes.items()}


def state(config: TransformerConfig, sizes: Sizes, batch: int) -> dict[str, Tensor]:
    """k, v (B,S,G,D), keys and values; t (B,), the tokens that were seen.  Clauses: GSS-ATT-7."""
    D = widths(config, sizes)[2]
    slots = Tensor((batch, config.form.slots, config.groups, D))
    return {"k": slots, "v": slots, "t": Tensor((batch,), "integer")}


def config_of(fields: Mapping[str, Any]) -> TransformerConfig:
    return TransformerConfig(**fields)


def check_values(params: Mapping[str, np.ndarray], config: TransformerConfig) -> None:
    """Any numbers are a layer of this kind."""


def check_state(state: Mapping[str, Any], config: TransformerConfig, tokens: int) -> None:
    """Raises ValueError unless t is where so many tokens lead.  Clauses: GSS-ATT-7."""
    t = tokens % config.chunk if config.visible == "chunk" else tokens
    if np.any(state["t"] != t):
        raise ValueError(f"its t is not {t}, as it is after {tokens} tokens")


def length_limit(config: TransformerConfig) -> int | None:
    """The rows of a learned table, where positions are not counted from the start of a chunk."""
    return None if config.visible == "chunk" else config.positions
