"""A sample of the shipped vectors for every op, judged as `refgss check --candidate jax` does."""

import jax
import pytest

from refgss import xla
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging.runner import Question, ask
from refgss.conformance.vectors.format import read_vectors
from refgss.standard import spec_folder
from refgss.xla import Plan, ffi

VECTORS = sorted(read_vectors(spec_folder() / "vectors").vectors, key=lambda v: v.id)
SAMPLE = {"native": 4, "xla": 2}  # of an op


@pytest.mark.parametrize("kernels", SAMPLE)
@pytest.mark.parametrize("op", xla.OPS)
def test_vectors(op, kernels):
    if kernels == "native" and (why := ffi.obstacle()):
        pytest.skip(why)
    mine = [v for v in VECTORS if v.op == op]
    assert mine
    with jax.enable_x64(True):
        candidate = ModuleCandidate(xla.with_plan(Plan(cpu_kernels=kernels)))
        for i, v in enumerate(mine[:: -(-len(mine) // SAMPLE[kernels])]):
            line = ask(candidate, Question(v, ("f32", "f64")[i % 2]))
            assert line["outcome"] == "pass", line
