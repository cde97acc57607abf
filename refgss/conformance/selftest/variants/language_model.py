"""Variants of the logarithm of the softmax."""

from __future__ import annotations

import numpy as np
import scipy.special

from refgss.conformance.selftest.variants.declare import instead_of

Array = np.ndarray


@instead_of("language_model.log_softmax")
def log_softmax_scipy(logits: Array) -> Array:
    """SciPy's log_softmax."""
    return scipy.special.log_softmax(logits, -1).astype(logits.dtype)


@instead_of("language_model.log_softmax")
def log_sum_exp(logits: Array) -> Array:
    """The logits minus SciPy's logsumexp."""
    return (logits - scipy.special.logsumexp(logits, -1, keepdims=True)).astype(logits.dtype)


@instead_of("language_model.log_softmax")
def online_softmax(logits: Array) -> Array:
    """Blocks of 3, the sum rescaled where the maximum grows, as FlashAttention has it."""
    largest = np.full_like(logits[..., :1], -np.inf)
    total = np.zeros_like(largest)
    for i in range(0, logits.shape[-1], 3):
        block = logits[..., i : i + 3]
        larger = np.maximum(largest, block.max(-1, keepdims=True))
        total = total * np.exp(largest - larger) + np.exp(block - larger).sum(-1, keepdims=True)
        largest = larger
    return (logits - largest) - np.log(total)


@instead_of("language_model.log_softmax")
def log_of_one_plus(logits: Array) -> Array:
    """log(1 + Σ of the others): log1p keeps what a certain answer leaves."""
    first = logits.argmax(-1)[..., None]
    shifted = logits - np.take_along_axis(logits, first, -1)
    others = np.exp(shifted)
    np.put_along_axis(others, first, 0, -1)
    return shifted - np.log1p(others.sum(-1, keepdims=True))


@instead_of("language_model.log_softmax")
def powers_of_two(logits: Array) -> Array:
    """Exponentials and logarithm to the base 2, as GPUs have them."""
    shifted = logits - logits.max(-1, keepdims=True)
    two = np.exp2(shifted * logits.dtype.type(1 / np.log(2)))
    return shifted - np.log2(two.sum(-1, keepdims=True)) * logits.dtype.type(np.log(2))
