"""Honest variants are accepted; a table of the published answers is not."""

import numpy as np
import pytest

from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.candidates.claims import Capabilities
from refgss.conformance.judging.compare import Failure, Outcome, Outputs
from refgss.conformance.judging.runner import Question, ask
from refgss.conformance.selftest import variants
from refgss.conformance.selftest.kills import reached
from refgss.conformance.vectors import fresh
from refgss.conformance.vectors.format import read_vectors
from refgss.ops import FLOATS, OPS
from refgss.standard import spec_folder

VECTORS = read_vectors(spec_folder() / "vectors").vectors
MOST = 60  # vectors of each variant; all of them are run by refgss.conformance.selftest.budgets


@pytest.fixture(scope="module")
def reach():
    return reached(VECTORS)


@pytest.mark.parametrize("variant", variants.VARIANTS.values(), ids=lambda v: v.name)
def test_an_honest_variant_is_accepted(variant, reach):
    candidate = ModuleCandidate(variants.load(variant))
    able = [v for v in VECTORS if v.id in reach[variant.file, variant.function]]
    assert able
    for v in able[:: -(-len(able) // MOST)]:
        for precision in variant.precisions:
            with np.errstate(all="ignore"):
                record = ask(candidate, Question(v, precision))
            assert record["outcome"] == "pass", record


def test_there_are_enough_variants():
    assert len(variants.VARIANTS) >= 20


class Table:
    """Knows the published answers and computes nothing."""

    about = Capabilities("table", "", tuple(OPS), ("f32", "f64"))

    def __init__(self, vectors):
        self.answers = {self.key(v.op, v.tensors, v.options): v for v in vectors}

    def key(self, op, tensors, options):
        return op, str(options), *(tensors[k].astype(float).tobytes() for k in sorted(tensors))

    def ask(self, op, tensors, options, precision):
        v = self.answers.get(self.key(op, tensors, options))
        if v is None:
            return Failure(Outcome.RAISED, "never heard of it")
        return Outputs({k: e.hi.astype(FLOATS[precision]) for k, e in v.expected.items()})


@pytest.mark.parametrize("op", OPS)
def test_a_table_of_answers_is_found_out_by_fresh_vectors(op):
    published = [v for v in VECTORS if v.op == op and fresh.suits(v) and "splits" not in v.options]
    table = Table(published)
    assert all(ask(table, Question(v, "f32"))["outcome"] == "pass" for v in published)
    drawn = fresh.draw(published, 1, seed=1)
    assert drawn and all(np.any(e.hi) for v in drawn for e in v.expected.values())
    for v in drawn:
        assert ask(table, Question(v, "f32", fresh=True))["outcome"] != "pass"
