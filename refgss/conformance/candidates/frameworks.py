"""Arrays of the framework that a candidate is written in."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np


def same(x: np.ndarray) -> np.ndarray:
    return x


def jax_array(x: np.ndarray) -> Any:
    return importlib.import_module("jax.numpy").asarray(x)


def torch_tensor(x: np.ndarray) -> Any:
    """A tensor on the same memory, so that strides and alignment are the array's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is meant
        return importlib.import_module("torch").from_numpy(np.asarray(x))


ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": same,
    "jax": jax_array,
    "torch": torch_tensor,
}
