"""A trained model as one safetensors file (chapter 13): parameters, config and tokenizer.

`load_checkpoint` maps the file and judges all of it before any of it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from refgss import checks, ops
from refgss.config import LayerConfig, LMConfig
from refgss.layers import kind_named, kind_of, model_from_json, model_to_json, of_layer
from refgss.model.tokenizer import load_tokenizer
from refgss.model.weights import (
    BLOCK,
    LARGEST,
    SMALLEST,
    Weights,
    block_axis,
    dequantize,
    from_bf16,
    is_matrix,
    is_scale,
    weights_of,
)
from refgss.schemas import parse, problem
from refgss.tensors import Stamp, TensorFileError, read_tensors, write_tensors

Params = Mapping[str, np.ndarray]


class CheckpointError(TensorFileError):
    """A file that is no usable checkpoint, in one sentence."""


@dataclass(frozen=True)
class Checkpoint:
    """A model as loaded.

    params     by the names of chapter 8, ssm.c complex64; matrices as the file has them: float32,
               uint16 holding BF16, or int8 beside NAME.scale (`float_params` for float32).
    config     the LMConfig.
    tokenizer  its description (`refgss.model.tokenizer`).
    digest     SHA-256 of the file, to which states are bound.
    about      how it was made, as its maker wrote it: a JSON object.
    stamp      the file that is mapped, as it was then.
    """

    params: Params
    config: LMConfig
    tokenizer: str
    digest: str
    about: Mapping[str, Any] = field(default_factory=dict)
    stamp: Stamp | None = None

    @property
    def weights(self) -> Weights:
        """The format of its matrices."""
        return weights_of(self.params)

    def check_unchanged(self) -> None:
        """Raises CheckpointError where it can be seen that the mapped file is no longer the same.

        Who uses a model asks at the beginning.  What is written into the file later is not seen:
        models are replaced by renaming, as `save_checkpoint` does.
        """
        try:
            if self.stamp:
                self.stamp.check()
        except TensorFileError as e:
            raise CheckpointError(str(e)) from e

    def float_params(self) -> Params:
        """All of it in float32 and complex64, every weight the same number (GSS-FMT-14)."""
        return self.params if self.weights == "f32" else dequantize(self.params)


def save_checkpoint(
    path: Path | str,
    params: Params,
    config: LMConfig,
    *,
    tokenizer: str = "bytes",
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint, whole or not at all; equal arguments give equal bytes.

    params as in `Checkpoint`.  Raises CheckpointError where they are no model or the file cannot be
    written; a file that was there before is then as it was.  Clauses: GSS-FMT-1..2, GSS-FMT-4.
    """
    metadata = {"refgss.config": compact(model_to_json(config)), "refgss.tokenizer": tokenizer}
    if about:
        metadata["refgss.about"] = compact(about)
    try:
        check_model(params, config)
        check_tokenizer(tokenizer, params)
        tensors = {name: ops.to_real(x) for name, x in params.items()}
        write_tensors(Path(path), tensors, metadata)
    except ValueError as e:
        raise CheckpointError(str(e) if isinstance(e, TensorFileError) else f"{path}: {e}") from e


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """A checkpoint, mapped.  Raises CheckpointError unless all of it is in order.

    Clauses: GSS-FMT-3..5, GSS-FMT-13.
    """
    try:
        file = read_tensors(Path(path))
    except TensorFileError as e:
        raise CheckpointError(str(e)) from e
    try:
        config, about = read_metadata(file.metadata)
        params = {name: from_real(name, x) for name, x in file.tensors.items()}
        check_model(params, config)
        description = file.metadata["refgss.tokenizer"]
        check_tokenizer(description, params)
    except ValueError as e:
        raise CheckpointError(f"{path} is no usable checkpoint: {e}") from e
    digest = hashlib.sha256(file.content).hexdigest()
    return Checkpoint(params, config, description, digest, about, file.stamp)


def read_metadata(metadata: Mapping[str, str]) -> tuple[LMConfig, dict[str, Any]]:
    """Config and whatever the maker wrote.  Raises ValueError for what the schema does not name."""
    if "refgss.config" not in metadata:
        raise ValueError(
            "its metadata has no refgss.config; to convert weights of gated-state-spaces-pytorch "
            "use `refgss import`"
        )
    ours = {k: v for k, v in metadata.items() if k.startswith("refgss.")}
    values: dict[str, Any] = {
        k: v if k == "refgss.tokenizer" else parsed(k, v) for k, v in ours.items()
    }
    refuse_unknown_kinds(values.get("refgss.config"))
    if wrong := problem("checkpoint", values):
        raise ValueError(f"its metadata is not that of a checkpoint, {wrong}")
    config = model_from_json(values["refgss.config"])
    return config, values.get("refgss.about", {})


def refuse_unknown_kinds(config: Any) -> None:
    """Raises ValueError for a layer of a later version, which the schema would only call wrong."""
    layer = config.get("layer") if isinstance(config, dict) else None
    for one in layer if isinstance(layer, list) else [layer]:
        if isinstance(one, dict) and isinstance(one.get("kind"), str):
            kind_named(one["kind"])


def parsed(key: str, text: str) -> Any:
    try:
        return parse(text)
    except ValueError as e:
        raise ValueError(f"its metadata key {key} is not JSON: {e}") from e


def from_real(name: str, x: np.ndarray) -> np.ndarray:
    """A tensor of the file as a parameter: ssm.c complex."""
    if not ops.is_complex(name):
        return x
    if not x.ndim or x.shape[-1] != 2 or x.dtype != np.float32:
        raise ValueError(f"{name} must be F32 with a last axis of two, not {x.dtype} {x.shape}")
    return ops.from_real(name, x)


def check_tokenizer(description: str, params: Params) -> None:
    size, vocabulary = load_tokenizer(description).size, params["embedding.weight"].shape[0]
    if not size:
        raise ValueError("its tokenizer has no tokens")
    if size > vocabulary and description != "raw-bytes":  # of which a model may know the first
        raise ValueError(f"its tokenizer has {size} tokens where the model knows {vocabulary}")


# --- the parameters against the config -----------------------------------------------------------


def check_model(params: Params, config: LMConfig) -> None:
    """Raises ValueError unless the parameters are those of the config, with finite values.

    Clauses: GSS-FMT-5, GSS-FMT-13.
    """
    scales = {name for name in params if is_scale(name, params)}
    matrices = {name: x for name, x in params.items() if name not in scales}
    check_shapes({name: stand_in(name, x) for name, x in matrices.items()}, config)
    if len({x.dtype for name, x in matrices.items() if is_matrix(name)}) > 1:
        raise ValueError("its matrices are not all of one type: use F32, BF16 or I8 throughout")
    wanted = {f"{name}.scale" for name, x in matrices.items() if x.dtype == np.int8}
    if wanted != scales:
        raise ValueError(f"the scale {min(wanted ^ scales)} is missing or belongs to no I8 tensor")
    for name in wanted:
        check_scale(name, params[name], params[name.removesuffix(".scale")])
    for name, x in params.items():
        check_finite(name, x)
    for i, layer in enumerate(config.layers):
        try:
            kind_of(layer).check_values(of_layer(params, i), layer)
        except ValueError as e:
            raise ValueError(f"layer {i}: {e}") from e


def stand_in(name: str, x: np.ndarray) -> np.ndarray:
    """An array of the same shape without memory, and of the type that the ops compute with."""
    dtype = x.dtype
    if is_matrix(name) and dtype in (np.uint16, np.int8):
        dtype = np.dtype(np.float32)
    if dtype not in (np.float32, np.complex64):
        raise ValueError(f"{name} must be F32, or BF16 or I8 where it is a matrix, not {dtype}")
    return np.broadcast_to(np.zeros((), dtype), x.shape)


def check_shapes(params: Params, config: LMConfig) -> None:
    """Every tensor that the config asks for, none besides, and shapes that agree."""
    if config.depth > len(params):
        raise ValueError(f"its config has {config.depth} layers where it has {len(params)} tensors")
    tokens = np.zeros((0, 0), np.int32)
    checks.check_language_model("a model", params, tokens, None, config)
    x = np.zeros((0, 0, params["embedding.weight"].shape[1]), np.float32)
    if not min(params["embedding.weight"].shape):
        raise ValueError("embedding.weight is empty")
    seen: dict[LayerConfig, Any] = {}
    for i, layer in enumerate(config.layers):
        own = of_layer(params, i)
        try:
            checks.check_layer(f"layer {i}", own, x, None, layer)
        except IndexError as e:
            raise ValueError(f"layer {i} has a tensor with too few axes") from e
        sizes = kind_of(layer).sizes(own)
        if seen.setdefault(layer, sizes) != sizes:
            raise ValueError(f"layer {i} and one before it have equal options and other sizes")


def check_scale(name: str, scale: np.ndarray, values: np.ndarray) -> None:
    axis = block_axis(name.removesuffix(".scale"))
    shape = list(values.shape)
    shape[axis] = -(-shape[axis] // BLOCK)
    if scale.dtype != np.uint16 or list(scale.shape) != shape:
        raise ValueError(f"{name} must be BF16 {shape}, not {scale.dtype} {scale.shape}")
    x = from_bf16(scale)
    if not np.all((x >= SMALLEST) & (x <= LARGEST)):
        raise ValueError(f"{name} must lie between 2^-126 and 2^120")


def check_finite(name: str, x: np.ndarray) -> None:
    if x.dtype == np.int8:
        if (x == -128).any():
            raise ValueError(f"{name} has the value -128, where 127 is the largest in size")
    elif x.dtype == np.uint16:
        if ((x & 0x7F80) == 0x7F80).any():
            raise ValueError(f"{name} has a value that is not finite")
    elif not np.isfinite(x).all():
        raise ValueError(f"{name} has a value that is not finite")
