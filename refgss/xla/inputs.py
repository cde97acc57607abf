"""What every op does with its tensors first: arrays of this backend, at their precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

Array = Any


def x64() -> bool:
    """Whether JAX keeps 64-bit floats."""
    return jax.dtypes.canonicalize_dtype("float64") == "float64"


def arrays(op: str, *tensors: Any) -> list[Array]:
    """NumPy or JAX arrays, or trees of them, as JAX arrays, never at a lower precision.

    Raises ValueError for 64-bit floats where x64 is disabled: JAX would round them silently.
    """
    leaves = jax.tree.leaves(tensors)
    wide = [x for x in leaves if str(x.dtype) in ("float64", "complex128")]
    if wide and not x64():
        raise ValueError(
            f"{op}: {wide[0].dtype} needs JAX's x64 mode: set JAX_ENABLE_X64=1 or give float32"
        )
    return [jax.tree.map(jnp.asarray, x) for x in tensors]


def parameters(op: str, params: Mapping[str, Any]) -> dict[str, Array]:
    return dict(zip(params, arrays(op, *params.values()), strict=True))
