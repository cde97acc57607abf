"""A single layer as one safetensors file: parameters by the names of chapter 7, and its config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from refgss import checks, ops
from refgss.config import LayerConfig
from refgss.layers import kind_of, layer_from_json, layer_to_json
from refgss.model.checkpoint import CheckpointError, check_finite, compact, from_real, parsed
from refgss.tensors import TensorFileError, read_tensors, write_tensors

KEY = "refgss.layer"
Params = Mapping[str, np.ndarray]


def save_layer(path: Path | str, params: Params, config: LayerConfig) -> None:
    """Write a layer, whole or not at all: float32, and complex64 as a trailing axis of two.

    Raises CheckpointError where the parameters are no such layer or the file cannot be written.
    """
    try:
        check(params, config)
        tensors = {name: ops.to_real(x) for name, x in params.items()}
        write_tensors(Path(path), tensors, {KEY: compact(layer_to_json(config))})
    except ValueError as e:
        raise CheckpointError(str(e) if isinstance(e, TensorFileError) else f"{path}: {e}") from e


def load_layer(path: Path | str) -> tuple[Params, LayerConfig]:
    """Parameters and config, as the layer ops take them.

    Raises CheckpointError unless all of the file is in order.  Clauses: GSS-FMT-3.
    """
    try:
        file = read_tensors(Path(path))
        if KEY not in file.metadata:
            raise ValueError(f"its metadata has no {KEY}")
        config = layer_from_json(parsed(KEY, file.metadata[KEY]))
        params = {name: from_real(name, x) for name, x in file.tensors.items()}
        check(params, config)
    except TensorFileError as e:
        raise CheckpointError(str(e)) from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{path} is no usable layer: {e}") from e
    return params, config


def check(params: Params, config: LayerConfig) -> None:
    width = params["norm.weight"].shape[-1:] if "norm.weight" in params else (0,)
    x = np.zeros((0, 0, *width), np.float32)
    checks.check_layer("a layer", params, x, None, config)
    for name, value in params.items():
        check_finite(name, value)
    kind_of(config).check_values(params, config)
