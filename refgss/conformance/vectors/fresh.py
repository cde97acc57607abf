"""Fresh cases: drawn and certified while the check runs, so that a table of answers is not enough.

A fresh case has the options and shapes of a small shipped vector and other numbers: every
floating-point input is multiplied by a factor of its own between 1/2 and 1, which keeps signs,
zeros and orders of magnitude, hence validity; integers are shuffled, but those that count the
tokens of a state, which say what stands in its slots.  `s4d_lambda`, which takes no
tensor, is asked for another number of modes.  Scores have no fresh cases: most of their arguments
are texts and probabilities, of which other numbers make nonsense.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from refgss.conformance.vectors.drawn import Tensors, stored
from refgss.conformance.vectors.format import Vector
from refgss.ops import SCORES, is_integer

if TYPE_CHECKING:
    from refgss.conformance.vectors.cases import Case

MOST_NUMBERS = 330  # of a template's inputs: certifying costs milliseconds per thousand operations
MOST_DRAWN, LONGEST = 5000, 129  # of a large template
MOST_MODES = 12  # of a fresh s4d_lambda


def available() -> bool:
    """Whether python-flint is installed, which certifies fresh cases."""
    return find_spec("flint") is not None


def draw(vectors: Iterable[Vector], per_op: int, seed: int, large: bool = False) -> list[Vector]:
    """Up to `per_op` fresh vectors for each op that has small, valid and finite templates.

    `large` adds one for each op whose large tensors are drawn from a seed (GSS-FMT-8).
    """
    from refgss.conformance.vectors.build import vector

    rng = np.random.default_rng(seed)
    templates: dict[str, list[Vector]] = {}
    of_size: dict[str, list[Vector]] = {}
    for v in sorted(vectors, key=lambda v: v.id):
        if suits(v):
            templates.setdefault(v.op, []).append(v)
        elif large and isinstance(v.tensors, Tensors) and cheap(v.tensors):
            of_size.setdefault(v.op, []).append(v)
    fresh = []
    with np.errstate(all="ignore"):
        for choices in templates.values():
            for i in rng.permutation(len(choices))[:per_op]:
                fresh.append(vector(like(choices[i], choices, rng, seed)))
        for choices in of_size.values():
            fresh.append(vector(like(choices[rng.integers(len(choices))], choices, rng, seed)))
    return fresh


def like(v: Vector, shipped: Iterable[Vector], rng: np.random.Generator, seed: int) -> Case:
    """A case with the options and shapes of v and other numbers."""
    from refgss.conformance.vectors.cases import Case

    id = f"{v.id}.fresh-{seed}"
    options = dict(v.options) | ({"n": fresh_size(v, shipped, rng)} if "n" in v.options else {})
    tensors: Mapping[str, np.ndarray] = {
        name: x if is_integer(name) else redraw(x, rng) for name, x in stored(v.tensors).items()
    }
    if isinstance(v.tensors, Tensors):
        tensors = Tensors(tensors, v.tensors.laws, f"{v.tensors.seed}.fresh-{seed}")
    return Case(
        id=id,
        op=v.op,
        clauses=v.clauses,
        tensors=tensors,
        options=options,
        layer_profile=v.layer_profile,
        sampled=isinstance(v.tensors, Tensors),
    )


def cheap(tensors: Tensors) -> bool:
    """Whether a large case is certified in a fraction of a second."""
    numbers = sum(math.prod(law.shape) for law in tensors.laws.values())
    longest = max((n for law in tensors.laws.values() for n in law.shape), default=0)
    return numbers <= MOST_DRAWN and longest <= LONGEST


def suits(v: Vector) -> bool:
    """Whether a vector can be redrawn: its inputs few and finite, its answer finite and whole.

    Of several outputs none is empty: that would be known by heart.
    """
    return (
        bool(v.expected)
        and v.op not in SCORES
        and not isinstance(v.tensors, Tensors)
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
