"""Fresh cases: drawn and certified while the check runs, so that a table of answers is not enough.

A fresh case has the options and shapes of a shipped vector and other numbers: every floating-point
input is multiplied by a factor of its own between 1/2 and 1, which keeps signs, zeros and orders of
magnitude, hence validity; integers are shuffled.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

import numpy as np

from refgss.conformance.vectors import Vector

MOST_NUMBERS = 200  # of a template's inputs: certifying costs milliseconds per thousand operations


def available() -> bool:
    """Whether python-flint is installed, which certifies fresh cases."""
    return find_spec("flint") is not None


def draw(vectors: Iterable[Vector], per_op: int, seed: int) -> list[Vector]:
    """Up to `per_op` fresh vectors for each op that has small, valid and finite templates."""
    from refgss.conformance.build import vector
    from refgss.conformance.cases import Case

    rng = np.random.default_rng(seed)
    templates: dict[str, list[Vector]] = {}
    for v in sorted(vectors, key=lambda v: v.id):
        if suits(v):
            templates.setdefault(v.op, []).append(v)
    fresh = []
    for op, choices in templates.items():
        for i in rng.permutation(len(choices))[:per_op]:
            v = choices[i]
            case = Case(
                id=f"{v.id}.fresh-{seed}",
                op=op,
                clauses=v.clauses,
                tensors={name: redraw(x, rng) for name, x in v.tensors.items()},
                options=dict(v.options),
                layer_profile=v.layer_profile,
                outputs=tuple(v.expected),
            )
            with np.errstate(all="ignore"):
                fresh.append(vector(case))
    return fresh


def suits(v: Vector) -> bool:
    """Whether a vector can be redrawn: it has inputs, few and finite, and a finite whole answer."""
    return (
        bool(v.expected)
        and 0 < sum(x.size for x in v.tensors.values()) <= MOST_NUMBERS
        and all(np.all(np.isfinite(x)) for x in v.tensors.values())
        and all(e.at is None and np.all(np.isfinite(e.hi)) for e in v.expected.values())
    )


def redraw(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if x.dtype.kind in "iu":
        return rng.permuted(x)
    return np.asarray(x * rng.uniform(0.5, 1.0, x.shape), x.dtype)
