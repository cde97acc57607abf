"""A vector in words: what it asks, and what is proven of the answer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refgss.conformance.vectors.format import Expected, Vector

MOST = 64  # elements of an input or output that are shown


def told(v: Vector) -> Iterator[str]:
    """Lines: op, clauses, note, options, every input, and each output with its budgets."""
    yield f"{v.id}: {v.op}, {', '.join(v.clauses)}"
    about = [*v.flags, *([f"profile {v.layer_profile}"] if v.layer_profile else [])]
    if text := "; ".join(filter(None, [", ".join(about), v.note])):
        yield f"  {text}"
    for name, value in v.options.items():
        yield f"{name} = {value}"
    for name, x in v.tensors.items():
        yield f"{name} {shown(x.shape)} {x.dtype} = {numbers(x)}"
    if v.error:
        yield "must be refused"
    for name, expected in v.expected.items():
        yield from output(name, expected)


def output(name: str, e: Expected) -> Iterator[str]:
    """A proven output; a complex one has a last axis of two."""
    where = f", certified at {e.hi.size} elements" if e.at is not None else ""
    yield f"{name} {shown(e.full_shape)}{where}:"
    places = e.at if e.at is not None else np.arange(e.hi.size)
    budgets = [np.broadcast_to(e.budget[p], e.hi.shape).ravel() for p in ("f32", "f64")]
    for i, (place, value) in enumerate(zip(places, e.hi.ravel(), strict=True)):
        if i == MOST:
            yield f"  and {e.hi.size - MOST} more"
            return
        index = ", ".join(map(str, np.unravel_index(int(place), e.full_shape)))
        granted = ", ".join(
            f"{p} ± {b[i]:.2g}" for p, b in zip(("f32", "f64"), budgets, strict=True)
        )
        yield f"  [{index}] {value:.17g}  {granted}"


def shown(shape: tuple[int, ...]) -> str:
    return f"({','.join(map(str, shape))})"


def numbers(x: np.ndarray) -> str:
    """All numbers of a small tensor, the first of a large one."""
    if x.size <= MOST:
        return str(x.tolist())
    first = ", ".join(f"{value:.9g}" for value in x.ravel()[:8])
    return f"{first} … ({x.size} numbers)"
