"""Fresh cases: drawn and certified while the check runs, so that a table of answers is not enough.

A fresh case has the options and shapes of a small shipped vector and other numbers: every
floating-point input is multiplied by a factor of its own between 1/2 and 1, which keeps signs,
zeros and orders of magnitude, hence validity; integers are shuffled.  `s4d_lambda`, which takes no
tensor, is asked for another number of modes.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

import numpy as np

from refgss.conformance.vectors.format import Vector

MOST_NUMBERS = 250  # of a template's inputs: certifying costs milliseconds per thousand operations
MOST_MODES = 12  # of a fresh s4d_lambda


def available() -> bool:
    """Whether python-flint is installed, which certifies fresh cases."""
    return find_spec("flint") is not None


def draw(vectors: Iterable[Vector], per_op: int, seed: int) -> list[Vector]:
    """Up to `per_op` fresh vectors for each op that has small, valid and finite templates."""
    from refgss.conformance.vectors.build import vector
    from refgss.conformance.vectors.cases import Case

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
                options=dict(v.options)
                | ({"n": fresh_size(v, choices, rng)} if "n" in v.options else {}),
                layer_profile=v.layer_profile,
            )
            with np.errstate(all="ignore"):
                fresh.append(vector(case))
    return fresh


def suits(v: Vector) -> bool:
    """Whether a vector can be redrawn: its inputs few and finite, its answer finite and whole.

    Of several outputs none is empty: that would be known by heart.
    """
    return (
        bool(v.expected)
        and sum(x.size for x in v.tensors.values()) <= MOST_NUMBERS
        and all(np.all(np.isfinite(x)) for x in v.tensors.values())
        and all(e.at is None and np.all(np.isfinite(e.hi)) for e in v.expected.values())
        and all(e.hi.size for e in v.expected.values())
    )


def fresh_size(v: Vector, shipped: Iterable[Vector], rng: np.random.Generator) -> int:
    """A number of modes that no shipped vector of the same init asks for."""
    used = {w.options["n"] for w in shipped if w.options["init"] == v.options["init"]}
    return int(rng.choice([n for n in range(1, MOST_MODES + 1) if n not in used]))


def redraw(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if x.dtype.kind in "iu":
        return rng.permuted(x)
    return np.asarray(x * rng.uniform(0.5, 1.0, x.shape), x.dtype)
