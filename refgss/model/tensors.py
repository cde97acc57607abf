"""Safetensors files: written whole or not at all, mapped instead of read, nothing executed.

Arrays of uint16 hold BF16, which NumPy lacks; no file of this package has a U16 tensor.
The safetensors library judges the header; this module writes it, so that equal content has equal
bytes, and maps what it describes.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from refgss.files import replacing

CODES = {"float32": "F32", "uint16": "BF16", "int8": "I8", "int32": "I32", "int64": "I64"}
CODES |= {"float64": "F64"}
DTYPES = {code: np.dtype(f"<{np.dtype(name).str[1:]}") for name, code in CODES.items()}


class ModelError(ValueError):
    """What the user of a model can put right, in one sentence."""


class TensorFileError(ModelError):
    """A file that cannot be used or written."""


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """One safetensors file; a crash at any moment leaves the old file or the new one.

    Tensors have the dtypes of CODES.  Raises TensorFileError where the file cannot be written.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in order:
        x = tensors[name]
        begin, end = end, end + x.nbytes
        code = CODES[x.dtype.name]
        header[name] = {"dtype": code, "shape": x.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    try:
        with replacing(path) as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                x = np.ascontiguousarray(tensors[name], tensors[name].dtype.newbyteorder("<"))
                file.write(x.ravel().view(np.uint8).data)
    except OSError as e:
        raise TensorFileError(
            f"{path} cannot be written ({e.strerror}): free some space or choose another place; "
            "a file that was there before is as it was"
        ) from e


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str], mmap.mmap]:
    """Tensors (read-only views of the mapped file), metadata, and the map: the file's bytes.

    Raises TensorFileError unless the whole file is in order.
    """
    try:
        with open(path, "rb") as file, safe_open(path, "np"):  # the library judges the header
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        tensors = {name: mapped(content, 8 + length, **entry) for name, entry in header.items()}
    except OSError as e:
        raise TensorFileError(f"{path} cannot be read: {e.strerror or e}") from e
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise TensorFileError(f"{path} is damaged, or no safetensors file: {e}") from e
    return tensors, metadata, content


def mapped(
    content: mmap.mmap, start: int, dtype: str, shape: list[int], data_offsets: list[int]
) -> np.ndarray:
    """One tensor as a view of the file."""
    if dtype not in DTYPES:
        raise ValueError(f"it has a tensor of type {dtype}, where {', '.join(DTYPES)} are known")
    count = (data_offsets[1] - data_offsets[0]) // DTYPES[dtype].itemsize
    flat = np.frombuffer(content, DTYPES[dtype], count, start + data_offsets[0])
    return np.require(flat.reshape(shape), requirements="A")  # a copy where it is not aligned
