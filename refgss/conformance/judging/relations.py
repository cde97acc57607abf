"""Simple relations between wrong numbers and proven ones: what a person would look for first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

from refgss.conformance.judging.compare import error_ratio
from refgss.conformance.vectors.format import Expected, Vector
from refgss.ops import is_complex

FEWEST = 3  # numbers that are not zero: two may have a ratio by chance
ROOM = 4  # budgets within which a relation holds: that of the proven number, and of its image
KERNELS = frozenset({"k", "dk"})  # time is their last axis
SEQUENCES = frozenset({"y", "logits", "du", "dx"})  # (B,L,·) where they have three axes

Close = Callable[[np.ndarray, np.ndarray], bool]


def relation(v: Vector, output: str, got: np.ndarray, precision: str) -> str | None:
    """How a wrong output is made from the proven one, in words; None where nothing simple holds."""
    want = v.expected[output]
    if got.shape != want.full_shape:
        return None
    values = (got if want.at is None else got.ravel()[want.at]).astype(np.float64)
    budget = want.budget[precision]
    judged = np.isfinite(budget) & np.isfinite(want.hi) & np.isfinite(values)
    if not judged.all() or not values.size:
        return where(v, output, values, want, precision)
    room = ROOM * float(budget.max())

    def close(x: np.ndarray, y: np.ndarray) -> bool:
        return x.shape == y.shape and bool(np.all(np.abs(x - y) <= room))

    found = elementwise(values, want.hi, budget, output)
    if found is None and want.at is None:
        found = moved(values, want.hi, output, close) or where(v, output, values, want, precision)
    return found


def elementwise(x: np.ndarray, e: np.ndarray, budget: np.ndarray, output: str) -> str | None:
    """Zeros, a factor, a constant offset; of complex numbers a conjugate or exchanged parts."""
    room = ROOM * budget
    telling = np.count_nonzero(np.abs(e) > room) >= FEWEST
    if not telling:
        return None
    if not np.any(x):
        return "zero everywhere"
    if is_complex(output) and e.shape[-1:] == (2,):
        if np.any(np.abs(e[..., 1]) > room[..., 1]):
            if within(x, e * [1, -1], room):
                return "conjugated"
            if within(x, e[..., ::-1], room):
                return "with Re and Im exchanged"
    c = factor(x, e)
    if c is not None and within(x, c * e, room * max(1.0, abs(c))):
        return named_factor(c)
    offset = float(np.median(x - e))
    if within(x, e + offset, room):
        return f"the proven number {'+' if offset > 0 else '−'} {abs(offset):.6g}"
    return None


def within(x: np.ndarray, y: np.ndarray, room: np.ndarray) -> bool:
    return bool(np.all(np.abs(x - y) <= room))


def factor(x: np.ndarray, e: np.ndarray) -> float | None:
    """The constant that fits best where x is a multiple of e; None where none does."""
    largest = np.unravel_index(int(np.argmax(np.abs(e))), e.shape)
    c = float(x[largest] / e[largest])
    return c if math.isfinite(c) and c != 0 else None


def named_factor(c: float) -> str:
    """A factor as people write it: −1, ½, 2π, or four digits."""
    if abs(c + 1) < 1e-4:
        return "the proven number with the other sign"
    for unit, word in ((1.0, ""), (math.pi, "π"), (math.sqrt(2), "√2"), (math.log(2), "ln 2")):
        ratio = Fraction(c / unit).limit_denominator(16)
        if ratio and abs(c / unit / float(ratio) - 1) < 1e-5:
            return f"the proven number × {word if word and ratio == 1 else f'{ratio}{word}'}"
    return f"the proven number × {c:.4g}"


def moved(x: np.ndarray, e: np.ndarray, output: str, close: Close) -> str | None:
    """Transposed, reversed in time, a step early or late."""
    if x.ndim == 2 and not is_complex(output) and x.shape[0] == x.shape[1] > 1 and close(x, e.T):
        return "transposed"
    axis = time_axis(x, output)
    if axis is None or x.shape[axis] < FEWEST:
        return None
    x, e = np.moveaxis(x, axis, 0), np.moveaxis(e, axis, 0)
    if close(x, e[::-1]):
        return "reversed in time"
    if np.any(e[:-1] != e[1:]):
        if close(x[1:], e[:-1]):
            return "one step late"
        if close(x[:-1], e[1:]):
            return "one step early"
    return None


def time_axis(x: np.ndarray, output: str) -> int | None:
    if output in KERNELS:
        return x.ndim - 1
    return 1 if output in SEQUENCES and x.ndim == 3 else None


def where(v: Vector, output: str, x: np.ndarray, want: Expected, precision: str) -> str | None:
    """Wrong in one batch row or channel only, or from a position on."""
    if want.at is not None:
        return None
    wrong = error_ratio(x, want, precision) > 1
    axis = time_axis(x, output)
    for name, i in axes(x, output):
        hit = np.flatnonzero(wrong.any(tuple(j for j in range(x.ndim) if j != i)))
        if not len(hit) or x.shape[i] < 2:
            continue
        if len(hit) == 1 and i != axis:
            return f"right but for {name} {hit[0]}"
        if i == axis and hit[0] > 0 and len(hit) == x.shape[i] - hit[0]:
            return f"right up to position {hit[0] - 1} and wrong from {hit[0]} on"
    return None


def axes(x: np.ndarray, output: str) -> Iterator[tuple[str, int]]:
    """The axes of an output that have a name."""
    axis = time_axis(x, output)
    if output in KERNELS:
        yield "channel", 0
    elif axis is not None or output in ("state", "dstate0"):
        yield "batch row", x.ndim - 4 if is_complex(output) else 0
        yield "channel", x.ndim - 3 if is_complex(output) else 2
    if axis is not None:
        yield "position", axis
