"""Weights of 32, 16 or 8 bits: which tensors have them, and what number each one stands for.

Parameters are flat mappings as in a checkpoint: a matrix is float32, or uint16 holding BF16, or
int8 beside its `NAME.scale` in BF16.  Every such weight is a binary32 number, exactly (GSS-FMT-14).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from refgss.layers import KINDS, TABLES
from refgss.tensors import ModelError

Weights = Literal["f32", "bf16", "int8"]
Params = Mapping[str, np.ndarray]

BLOCK = 32  # weights that share a scale, along the axis that is summed over
SMALLEST, LARGEST = 2.0**-126, 2.0**120  # of a scale


def is_matrix(name: str) -> bool:
    """Whether the parameter may have fewer than 32 bits.  Clauses: GSS-FMT-13."""
    own = name.split(".", 2)[-1] if name.startswith("layers.") else name
    return own in TABLES or any(kind.ROLES.get(own) == "matrix" for kind in KINDS.values())


def block_axis(name: str) -> int:
    """The axis along which 32 weights share a scale: I of (I,O), E of the embedding (V,E)."""
    return 1 if name == "embedding.weight" else 0


def to_bf16(x: np.ndarray) -> np.ndarray:
    """float32 as BF16 in uint16, to nearest, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(x: np.ndarray) -> np.ndarray:
    """BF16 in uint16 as float32, exactly."""
    return (x.astype(np.uint32) << 16).view(np.float32)


def block_scale(w: np.ndarray, axis: int) -> np.ndarray:
    """The smallest BF16 from |w|/127 up, for every block along the axis; 1 for zeros."""
    peak = np.maximum.reduceat(np.abs(w), range(0, w.shape[axis], BLOCK), axis).astype(np.float64)
    wanted = np.where(peak == 0, 1, np.maximum(peak / 127, SMALLEST))
    near = wanted.astype(np.float32)
    above = np.where(near < wanted, np.nextafter(near, np.float32(np.inf)), near)
    return ((above.view(np.uint32) + np.uint32(0xFFFF)) >> 16).astype(np.uint16)


def spread(scale: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """One float32 scale for every weight."""
    return from_bf16(scale).repeat(BLOCK, axis).take(range(shape[axis]), axis)


def is_scale(name: str, params: Params) -> bool:
    """Whether a tensor holds the scales of another; a parameter may be named so too."""
    return name.endswith(".scale") and name.removesuffix(".scale") in params


def quantize(params: Params, weights: Weights) -> dict[str, np.ndarray]:
    """Float32 parameters with their matrices in this format.  Clauses: GSS-FMT-13..14.

    Raises ModelError where a matrix is too large in size for the format.
    """
    out: dict[str, np.ndarray] = {}
    for name, w in params.items():
        if weights == "f32" or not is_matrix(name):
            out[name] = w
        elif w.size and np.abs(w).max() >= LARGEST:
            raise ModelError(f"{name} has weights from 2^120 on, too large for {weights}")
        elif weights == "bf16":
            out[name] = to_bf16(w)
        else:
            axis = block_axis(name)
            scale = block_scale(w, axis)
            q = np.rint(w / spread(scale, w.shape, axis).astype(np.float64))
            out |= {name: q.astype(np.int8), f"{name}.scale": scale}
    return out


def dequantize(params: Params) -> dict[str, np.ndarray]:
    """The parameters in float32 (ssm.c in complex64), every weight the same number."""
    out: dict[str, np.ndarray] = {}
    for name, w in params.items():
        if is_scale(name, params):
            continue
        if w.dtype == np.uint16:
            out[name] = from_bf16(w)
        elif w.dtype == np.int8:
            scale = spread(params[f"{name}.scale"], w.shape, block_axis(name))
            out[name] = scale * w
        else:
            out[name] = w
    return out


def weights_of(params: Params) -> Weights:
    """The format of the parameters: that of the embedding."""
    formats: dict[str, Weights] = {"float32": "f32", "uint16": "bf16", "int8": "int8"}
    return formats[params["embedding.weight"].dtype.name]
