"""A sample of the shipped vectors for every op, judged as `refgss check --candidate jax` does."""

import jax
import pytest

from refgss import xla
from refgss.conformance import spec_folder
from refgss.conformance.candidates import ModuleCandidate
from refgss.conformance.runner import Question, ask
from refgss.conformance.vectors import read_vectors
from refgss.xla import Plan, ffi

VECTORS = sorted(read_vectors(spec_folder() / "vectors").vectors, key=lambda v: v.id)
SAMPLE = {"native": 12, "xla": 3}  # of an op: plain JAX compiles each for a second


@pytest.mark.parametrize("kernels", SAMPLE)
@pytest.mark.parametrize("op", xla.OPS)
def test_vectors(op, kernels):
    if kernels == "native" and (why := ffi.obstacle()):
        pytest.skip(why)
    mine = [v for v in VECTORS if v.op == op]
    assert mine
    with jax.enable_x64(True):
        candidate = ModuleCandidate(xla.with_plan(Plan(cpu_kernels=kernels)))
        for v in mine[:: -(-len(mine) // SAMPLE[kernels])]:
            for precision in ("f32", "f64"):
                line = ask(candidate, Question(v, precision))
                assert line["outcome"] == "pass", line
