"""What scores ask of numbers beside arithmetic: an array type of another reading brings its own.

`refgss.conformance.vectors.enclosure` reads the same text in proven balls, as it does with the
reference: it refuses to compare what an honest rounding could order otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refgss.reference.elementary import readable, wide

__all__ = ["beside", "comparable", "plain", "ratio", "wide"]


@readable
def comparable(x, *others):
    """x and the others as plain numbers that may be compared with each other."""
    return tuple(np.asarray(v, np.float64) for v in (x, *others))


@readable
def beside(x, edges):
    """x as plain numbers that may be compared with each of the edges."""
    return np.asarray(x, np.float64)


@readable
def ratio(like, numerator, denominator):
    """The quotient of two integers, as a number like `like`."""
    return np.float64(numerator) / denominator


def plain(x: Any) -> np.ndarray:
    """The numbers of an argument, to ask whether it is valid."""
    return np.asarray(getattr(x, "numbers", x))
