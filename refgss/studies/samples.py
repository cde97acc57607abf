"""Files of samples: logits or probabilities, and labels where they are known.

NumPy's npz or safetensors, with the arrays `logits` (n,K) or `probs` (n,K), `labels` (n,), and
`group` (n,), which tells which samples belong together; nothing else is looked at.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refgss import scores
from refgss.files import bounded_read
from refgss.model.weights import from_bf16
from refgss.scores import arguments
from refgss.tensors import ModelError, read_tensors

MOST_BYTES = 8 << 30


class SamplesError(ModelError):
    """A file of samples that cannot be used, in one sentence."""


@dataclass(frozen=True, eq=False)
class Samples:
    """What a model made of n samples.  Clauses: GSS-CAL-2."""

    name: str
    logits: np.ndarray  # (n,K) float64, ln p where probabilities were given
    labels: np.ndarray | None  # (n,)
    group: np.ndarray  # (n,) 0 … G−1

    @property
    def correct(self) -> np.ndarray:
        """1 where the largest logit, the first among equals, is that of the label."""
        assert self.labels is not None
        return (self.logits.argmax(1) == self.labels).astype(np.int64)

    def probabilities(self, temperature: float) -> np.ndarray:
        return np.asarray(scores.softmax(self.logits, temperature=temperature))


def read_samples(path: Path) -> Samples:
    """The samples of a file.  Raises SamplesError."""
    arrays = read_arrays(path)
    try:
        return samples_of(path.name, arrays)
    except (ValueError, TypeError) as e:
        raise SamplesError(f"{path}: {e}") from e


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        found = read_tensors(path).tensors
        return {k: from_bf16(x) if x.dtype == np.uint16 else x for k, x in found.items()}
    try:
        bounded_read(path, MOST_BYTES)
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise SamplesError(f"{path} is a single array: save it with np.savez, as logits=…")
        with file:
            return {name: file[name] for name in file.files}
    except OSError as e:
        raise SamplesError(f"{path} cannot be read: {e.strerror or 'it is damaged'}") from e
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as e:
        raise SamplesError(f"{path} is no npz file of numbers, nor .safetensors: {e}") from e


def samples_of(name: str, arrays: dict[str, np.ndarray]) -> Samples:
    """Raises ValueError with a sentence."""
    if ("logits" in arrays) == ("probs" in arrays):
        raise ValueError("give either the array logits (n,K) or the array probs (n,K)")
    if "logits" in arrays:
        logits = real(arrays["logits"])
        arguments.check_logits("logits", logits)
    else:
        p = real(arrays["probs"])
        arguments.check_probabilities("probs", p)
        with np.errstate(divide="ignore"):
            logits = np.log(scores.renormalize(p))
    n, classes = logits.shape
    if not n:
        raise ValueError("it has no sample")
    labels = arrays.get("labels")
    if labels is not None:
        arguments.check_labels(labels, n, classes)
    return Samples(name, logits, labels, grouped(arrays.get("group"), n))


def real(x: Any) -> np.ndarray:
    if x.dtype.kind not in "fiu":
        raise ValueError(f"numbers are due, not {x.dtype}")
    return np.asarray(x, np.float64)


def grouped(group: Any, n: int) -> np.ndarray:
    """Groups numbered without a gap; each sample is one where nothing else is said."""
    if group is None:
        return np.arange(n)
    if group.shape != (n,):
        raise ValueError(f"group {group.shape} must be ({n},), one for each sample")
    return np.unique(group, return_inverse=True)[1]
