"""A sample of the shipped vectors for every op, judged as `refgss check --candidate torch` does."""

import pytest
from torch_cases import vectors_of

from refgss import torch as refgss_torch
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging.runner import Question, ask
from refgss.torch import kernels

BACKENDS = {"native": refgss_torch, "plain": refgss_torch.plain}
SAMPLE = 8  # of an op


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", refgss_torch.OPS)
def test_vectors(op, backend):
    if backend == "native" and (why := kernels.obstacle()):
        pytest.skip(why)
    mine = vectors_of(op)
    assert mine
    candidate = ModuleCandidate(BACKENDS[backend])
    for i, v in enumerate(mine[:: -(-len(mine) // SAMPLE)]):
        line = ask(candidate, Question(v, ("f32", "f64")[i % 2]))
        assert line["outcome"] == "pass", line
