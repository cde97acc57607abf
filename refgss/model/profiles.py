"""Models whose sizes are known by a name, and what a model takes before it is made.

The paper's models are those of arXiv 2206.13947 by their numbers of parameters; what the numbers
do not tell is assumed, as spec/19-hybrid.md says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from refgss.config import PAPER, BlockRecurrentConfig, LayerConfig, LMConfig, TransformerConfig
from refgss.layers import kind_of
from refgss.layers.tensor import Tensor
from refgss.model.initialization import sizes_for


@dataclass(frozen=True)
class Profile:
    """A language model without its numbers; sizes by the names of those of its layers."""

    config: LMConfig
    sizes: Mapping[str, int]
    vocabulary: int


def hybrid(attention: TransformerConfig) -> tuple[LayerConfig, ...]:
    """Three GSS layers to one of attention.  Clauses: GSS-HYB-6."""
    return (PAPER, PAPER, PAPER, attention)


def block_recurrent(depth: int, heads: int, window: int, states: int) -> tuple[LayerConfig, ...]:
    """Attention to windows, and the third layer from the end block-recurrent.

    Clauses: GSS-BRT-17.
    """
    attention = TransformerConfig(
        heads, chunk=window, visible="strict", position="t5", mlp="relu", norm="rms", eps=1e-6
    )
    recurrent = BlockRecurrentConfig(heads, window, states)
    return (*[attention] * (depth - 3), recurrent, attention, attention)


SIZES = {"width": 1024, "gate": 4096, "channels": 256, "states": 512}
SMALL = {"width": 64, "gate": 128, "channels": 32, "states": 16}
PROFILES = {
    "gss-192m": Profile(LMConfig(PAPER, 16, tied=True), SIZES, 32000),
    "gss-352m": Profile(LMConfig(PAPER, 32, tied=True), SIZES, 32000),
    "hybrid-373m": Profile(LMConfig(hybrid(TransformerConfig()), 32, tied=True), SIZES, 32000),
    "hybrid-small": Profile(
        LMConfig(hybrid(TransformerConfig(heads=4, chunk=16)), 4, tied=True), SMALL, 256
    ),
    "block-recurrent-151m": Profile(
        LMConfig(block_recurrent(12, heads=8, window=512, states=512), 12, tied=True),
        {"width": 1024},
        32000,
    ),
    "block-recurrent-small": Profile(
        LMConfig(block_recurrent(4, heads=4, window=16, states=16), 4, tied=True),
        {"width": 64},
        256,
    ),
}


def layers_of(profile: Profile) -> list[tuple[LayerConfig, Any]]:
    """The options and the Sizes of each layer, the usual ones filled in."""
    found = []
    for layer in profile.config.layers:
        kind = kind_of(layer)
        shapes = kind.parameters(layer, sizes_for(layer, profile.sizes))
        found.append((layer, kind.sizes(shapes)))
    return found


def parameters(profile: Profile) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of the model, by name.  Clauses: GSS-LM-1..3."""
    config, E, V = profile.config, profile.sizes["width"], profile.vocabulary
    yield "embedding.weight", Tensor((V, E))
    for i, (layer, sizes) in enumerate(layers_of(profile)):
        own = kind_of(layer).parameters(layer, sizes)
        yield from ((f"layers.{i}.{name}", tensor) for name, tensor in own.items())
    if config.final_norm:
        yield from (("norm.weight", Tensor((E,))), ("norm.bias", Tensor((E,))))
    if not config.tied:
        yield "head.weight", Tensor((E, V))


def parameter_count(profile: Profile) -> int:
    """Real numbers; a complex one is two."""
    return sum(
        math.prod(t.shape) * (2 if t.numbers == "complex" else 1) for _, t in parameters(profile)
    )


BYTES = {"real": 4, "integer": 4, "complex": 8}  # of a number of a state


def state_bytes(layers: Iterable[tuple[LayerConfig, Any]]) -> int:
    """Of one stream, from the options and the Sizes of each layer."""
    return sum(
        math.prod(part.shape) * BYTES[part.numbers]
        for layer, sizes in layers
        for part in kind_of(layer).state(layer, sizes, 1).values()
    )
