"""The C ABI through cffi: the header alone, without the extension module.

What pybind11 does for speed can be done with `include/refgss.h` and nothing else; the tests do it.

    >>> ffi, library = abi.open_library()
    >>> u = abi.view(ffi, numpy_array)
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import cffi
import numpy as np

HERE = Path(__file__).parent
LIBRARY = "librefgss.dylib" if sys.platform == "darwin" else "librefgss.so"
SCALARS = {"float32": 1, "float64": 2, "complex64": 1, "complex128": 2}  # enum refgss_dtype


def declarations(header: Path = HERE / "refgss.h") -> str:
    """What cffi reads of the header: no comments, no preprocessor, no macros."""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.DOTALL)
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.DOTALL)
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    return text.replace("REFGSS_API ", "")


def open_library(
    path: Path = HERE / LIBRARY, header: Path = HERE / "refgss.h"
) -> tuple[cffi.FFI, Any]:
    """The library and its types.

    Raises OSError where it is not built, or implements another version than the header declares.
    """
    ffi = cffi.FFI()
    ffi.cdef(declarations(header))
    library = ffi.dlopen(str(path))
    (wanted,) = re.findall(r"#define REFGSS_ABI_VERSION (\d+)", header.read_text())
    if (version := library.refgss_abi_version()) != int(wanted):
        raise OSError(
            f"{path} implements version {version} of refgss.h, and {header} declares version "
            f"{wanted}: compile the library with this header"
        )
    return ffi, library


def view(ffi: cffi.FFI, array: np.ndarray) -> Any:
    """A `refgss_array *` on the memory of `array`, which must outlive it.  Complex arrays gain an
    axis of two."""
    part = array.itemsize // (2 if array.dtype.kind == "c" else 1)
    shape, stride = list(array.shape), [s // part for s in array.strides]
    if array.dtype.kind == "c":
        shape, stride = [*shape, 2], [*stride, 1]
    pad = [0] * (4 - len(shape))
    pointer = ffi.cast("void *", array.ctypes.data)
    return ffi.new(
        "refgss_array *",
        (pointer, SCALARS[array.dtype.name], len(shape), shape + pad, stride + pad),
    )
