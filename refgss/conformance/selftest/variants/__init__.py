"""Honest variants: other ways to compute the same, none of which a check may reject unsaid.

A budget that is too narrow shows here, as one that is too wide shows in a mutant that survives.
What a well-known algorithm does and the standard does not grant is declared with the clause whose
note says so.  A variant runs as a candidate:
`--candidate python:refgss.conformance.selftest.variants:variant_fft`.
"""

from __future__ import annotations

from typing import Any

from refgss.conformance.selftest.variants import (
    attention,
    autograd,
    block_recurrent,
    convolution,
    kernel,
    language_model,
    pointwise,
    products,
    recurrence,
)
from refgss.conformance.selftest.variants.declare import VARIANTS, Rejection, Variant, load

__all__ = ["VARIANTS", "Rejection", "Variant", "load"]
FILES = (
    *(attention, autograd, block_recurrent, convolution, kernel, language_model),
    *(pointwise, products, recurrence),
)


def __getattr__(name: str) -> Any:
    if name.startswith("variant_") and name.removeprefix("variant_") in VARIANTS:
        return load(VARIANTS[name.removeprefix("variant_")])
    raise AttributeError(f"there is no variant {name!r}")
