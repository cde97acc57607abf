"""How these tests judge: by proven enclosures where they can, else by the standard's budgets."""

import numpy as np
from flint import acb, arb

from refgss import ops, reference
from refgss.conformance.judging.compare import error_ratio
from refgss.conformance.vectors.certify import certify, lift
from refgss.conformance.vectors.enclosure import Enclosure, as_enclosure


def assert_within_budget(case, got, precision):
    """Outputs `got` (by name, complex or real) are what the case asks for, within its budgets."""
    assert_close(certify(case.op, case.tensors, case.options), got, precision)


def assert_close(wanted, got, precision):
    """`got` has the outputs `wanted`, by name, and no others; these are proven sharply enough."""
    assert got.keys() == wanted.keys()
    for name, want in wanted.items():
        assert all(np.all(want.radius <= 2.0**-10 * b) for b in want.budget.values()), name
        y = ops.to_real(got[name])
        assert y.shape == want.full_shape, name
        ratio = error_ratio(y.astype(np.float64), want, precision)
        assert ratio.max(initial=0) <= 1, f"{name} is {ratio.max():.3g} budgets off"


# --- the exact reading: call these inside `certifying()` ---------------------------------------


def read(op, tensors, options):
    """The reference on Enclosures: {output: Enclosure}."""
    return ops.call(reference, op, tensors, options)


def lifted(case):
    return {name: lift(name, x) for name, x in case.tensors.items()}


def balls(x):
    """The numbers of an Enclosure (or array) as complex balls."""
    return np.asarray(np.frompyfunc(acb, 1, 1)(as_enclosure(x).value), object)


def exactly(values, like):
    """Balls as an Enclosure of the kind of `like`."""
    return Enclosure(values if like.is_complex else real_parts(values), cplx=like.is_complex)


def real_parts(x):
    return np.asarray(np.frompyfunc(lambda v: acb(v).real, 1, 1)(x), object)


def assert_overlap(x, y):
    """Two routes to the same numbers enclose a common point, and each is narrow enough to tell."""
    x, y = balls(x), balls(y)
    assert x.shape == y.shape
    for v, w in zip(x.ravel(), y.ravel(), strict=True):
        assert v.overlaps(w), f"{v} and {w} have no point in common"
        assert (v - w).abs_upper() <= arb(2) ** -100 * (1 + v.abs_upper()), f"{v} or {w} is wide"
