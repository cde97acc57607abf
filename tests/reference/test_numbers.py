"""GSS-ARR-5: a number given for Δ, ε or dloss is one thing, whatever its type, in every backend."""

import numpy as np
import pytest

pytest.importorskip("jax")
import jax.numpy as jnp

from refgss import config as cfg
from refgss import native, ops, reference, xla
from refgss.conformance.vectors.cases.calls import options_of, tensors_of

NUMBERS = {"delta": 0.3, "eps": 1e-3, "dloss": 0.7}  # none of them is a number of binary32
TYPES = (np.float32, np.float64, lambda v: np.array(v, np.float64), lambda v: jnp.array(v))
TAKING = [
    (op, name)
    for op, row in ops.OPS.items()
    for name in NUMBERS
    if name in (*row.arguments, *row.keywords)
]


def call(backend, op, name, number):
    config = cfg.LMConfig(cfg.PAPER, depth=1) if op.startswith("lm") else None
    given = ops.at_precision(tensors_of(op, config), "f32")
    tensors = {k: ops.from_real(k, x) for k, x in given.items()} | {name: number}
    options = options_of(op, **({"config": config} if config else {}))
    if name == "eps":
        options = options | {"eps": tensors.pop("eps")}
    return ops.call(backend, op, tensors, options)


@pytest.mark.parametrize("backend", [reference, native, xla], ids=lambda m: m.__name__)
@pytest.mark.parametrize(("op", "name"), TAKING)
def test_the_type_of_a_number_changes_nothing(backend, op, name):
    if not hasattr(backend, op):
        return
    value = NUMBERS[name]
    want = call(backend, op, name, value)
    for kind in TYPES:
        for output, y in call(backend, op, name, kind(value)).items():
            assert str(y.dtype) in ("float32", "complex64"), (output, kind)
            assert np.array_equal(np.asarray(y), np.asarray(want[output])), (output, kind)


@pytest.mark.parametrize("number", [np.float32(1e-7), np.float64(1e-7), np.array(1e-7)])
def test_options_hold_numbers_of_python(number):
    for made in (
        cfg.KernelForm("dss-exp", eps=number),
        cfg.GSSConfig(eps=number),
        cfg.DSSConfig(eps=number),
    ):
        assert type(made.eps) is float and made.eps == float(number)
