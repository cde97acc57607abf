"""Safetensors files: written whole or not at all, mapped instead of read, nothing executed.

Arrays of uint16 hold BF16, which NumPy lacks; no file of this package has a U16 tensor.
The safetensors library judges the layout of a file; `header_of` asks besides what chapter 13 asks
of every JSON text, so that no two readers see different tensors in one file.  This module writes
headers itself, so that equal content has equal bytes.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from refgss.files import replacing
from refgss.schemas import parse

CODES = {"float32": "F32", "uint16": "BF16", "int8": "I8", "int32": "I32", "int64": "I64"}
CODES |= {"float64": "F64", "float16": "F16", "uint8": "U8"}
DTYPES = {code: np.dtype(f"<{np.dtype(name).str[1:]}") for name, code in CODES.items()}
Content = bytes | bytearray | mmap.mmap
DAMAGED = (SafetensorError, ValueError, KeyError, TypeError, RecursionError)


class ModelError(ValueError):
    """What the user of a model can put right, in one sentence."""


class TensorFileError(ModelError):
    """A file that cannot be used or written."""


@dataclass(frozen=True)
class Stamp:
    """A file as it was when it was mapped.

    Whoever writes into a mapped file changes the tensors of those who use it, and whoever shortens
    it ends their processes: what can be seen of this is the file's size, time and number.
    """

    path: Path
    seen: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, descriptor: int) -> Stamp:
        return cls(Path(os.path.abspath(path)), identity(os.stat(descriptor)))

    def check(self) -> None:
        """Raises TensorFileError where the file is no longer that; one removed is still mapped."""
        try:
            now = identity(os.stat(self.path))
        except OSError:
            return
        if now != self.seen:
            raise TensorFileError(
                f"{self.path} has changed since it was loaded: load it again, and replace a file "
                "that is in use by renaming another to its name instead of writing into it"
            )


def identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


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


@dataclass(frozen=True)
class TensorFile:
    """tensors (read-only views of the mapped file), metadata, the file's bytes, and its stamp."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    content: mmap.mmap
    stamp: Stamp


def read_tensors(path: Path) -> TensorFile:
    """A file, mapped.  Raises TensorFileError unless the whole file is in order."""
    try:
        with open(path, "rb") as file, safe_open(path, "np"):  # the library judges the layout
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            stamp = Stamp.of(path, file.fileno())
        entries, metadata, start = header_of(content)
        tensors = {name: mapped(content, start, **entry) for name, entry in entries.items()}
    except OSError as e:
        raise TensorFileError(f"{path} cannot be read: {e.strerror or e}") from e
    except DAMAGED as e:
        raise TensorFileError(f"{path} is damaged, or no safetensors file: {e}") from e
    return TensorFile(tensors, metadata, content, stamp)


def header_of(content: Content) -> tuple[dict[str, Any], dict[str, str], int]:
    """Entries by the names of tensors, metadata, and where the data begins.

    The library, which has judged the layout, takes the last of two equal keys, and null for no
    metadata.  Raises ValueError for both (chapter 13).
    """
    start = 8 + int.from_bytes(content[:8], "little")
    entries = parse(bytes(content[8:start]))
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError("its __metadata__ is no object of texts")
    return entries, metadata, start


def mapped(
    content: Content, start: int, dtype: str, shape: list[int], data_offsets: list[int]
) -> np.ndarray:
    """One tensor as a view of the file."""
    if dtype not in DTYPES:
        raise ValueError(f"it has a tensor of type {dtype}, where {', '.join(DTYPES)} are known")
    count = (data_offsets[1] - data_offsets[0]) // DTYPES[dtype].itemsize
    flat = np.frombuffer(content, DTYPES[dtype], count, start + data_offsets[0])
    x = flat.reshape(shape)
    return x if x.flags.aligned else x.copy()
