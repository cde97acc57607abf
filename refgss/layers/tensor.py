"""What a layer kind says of a tensor: its shape and its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["matrix", "modes"]  # of a parameter; see refgss.layers


@dataclass(frozen=True)
class Tensor:
    """A tensor of a layer, without its values."""

    shape: tuple[int, ...]
    numbers: Literal["real", "complex", "integer"] = "real"
