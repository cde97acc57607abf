"""Shipped vectors as calls with tensors."""

import numpy as np
import torch

from refgss import ops
from refgss.conformance.vectors.format import read_vectors
from refgss.standard import spec_folder

VECTORS = sorted(read_vectors(spec_folder() / "vectors").vectors, key=lambda v: v.id)


def vectors_of(op):
    return [v for v in VECTORS if v.op == op]


def usual(op):
    """A vector of an op that is neither empty nor refused, and has numbers only."""

    def plain(vector):
        given = vector.tensors.values()
        return vector.expected and all(x.size and np.isfinite(x).all() for x in given)

    return next(filter(plain, vectors_of(op)))


def tensors_of(vector, precision="f64", leaves=False):
    """Its tensors by name; as leaves of autograd where they are asked for."""
    given = ops.at_precision(vector.tensors, precision)
    found = {n: torch.from_numpy(np.array(ops.from_real(n, x))) for n, x in given.items()}
    if leaves:
        moving = [x for x in found.values() if x.is_floating_point() or x.is_complex()]
        [x.requires_grad_() for x in moving]
    return found
