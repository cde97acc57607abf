"""Large tensors that are drawn from a seed, not stored: the index names the seed and the law.

Number i of a tensor, in row-major order from 0, comes from SplitMix64.  The state s is the first
eight bytes, little-endian, of the SHA-256 of "SEED|NAME"; the i-th output is that after i + 1
steps of s := s + 0x9e3779b97f4a7c15, and k is its upper 24 bits.  A real number is
center + 2^exponent (2k + 1 - 2^24)/2^24, rounded once to binary32; a token is ⌊k below / 2^24⌋.
Clauses: GSS-FMT-8.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

STEP = np.uint64(0x9E3779B97F4A7C15)
BITS = 24  # of each number


@dataclass(frozen=True)
class Law:
    """How the numbers of a tensor are drawn: reals about a center, or tokens below a number."""

    shape: tuple[int, ...]
    center: float = 0.0
    exponent: int = 0
    below: int | None = None

    def to_json(self) -> dict[str, Any]:
        kind = {"center": self.center, "exponent": self.exponent}
        kind = kind if self.below is None else {"below": self.below}
        return {"shape": list(self.shape), **kind}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Law:
        return cls(**{**value, "shape": tuple(value["shape"])})

    def draw(self, seed: str, name: str) -> np.ndarray:
        """The tensor of this name: float32, or int32 for tokens."""
        k = splitmix(f"{seed}|{name}", math.prod(self.shape))
        if self.below is not None:
            return ((k * self.below) >> BITS).astype(np.int32).reshape(self.shape)
        odd = 2 * k + 1 - 2**BITS  # fits binary32, and is never 0
        values = self.center + odd * 2.0 ** (self.exponent - BITS)
        return values.astype(np.float32).reshape(self.shape)


def splitmix(key: str, n: int) -> np.ndarray:
    """The upper 24 bits of the first n outputs of SplitMix64, as int64."""
    first = np.frombuffer(hashlib.sha256(key.encode()).digest()[:8], "<u8")[0]
    z = first + np.arange(1, n + 1, dtype=np.uint64) * STEP
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(64 - BITS)).astype(np.int64)


class Tensors(Mapping[str, np.ndarray]):
    """Tensors by name, some stored and some drawn whenever they are looked at."""

    def __init__(self, stored: Mapping[str, np.ndarray], laws: Mapping[str, Law], seed: str):
        self.stored, self.laws, self.seed = dict(stored), dict(laws), seed

    def __getitem__(self, name: str) -> np.ndarray:
        return self.laws[name].draw(self.seed, name) if name in self.laws else self.stored[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self.stored, *self.laws))

    def __contains__(self, name: object) -> bool:
        return name in self.stored or name in self.laws

    def __len__(self) -> int:
        return len(self.stored) + len(self.laws)


def stored(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Those that a file must hold."""
    return tensors.stored if isinstance(tensors, Tensors) else tensors


def laws(tensors: Mapping[str, np.ndarray]) -> Mapping[str, Law]:
    """Those that are drawn."""
    return tensors.laws if isinstance(tensors, Tensors) else {}
