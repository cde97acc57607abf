"""Honest variants are accepted; a table of the published answers is not."""

import numpy as np
import pytest

from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.candidates.claims import Capabilities, claimed
from refgss.conformance.clauses import read_clauses
from refgss.conformance.judging.compare import Failure, Outcome, Outputs
from refgss.conformance.judging.runner import Question, ask
from refgss.conformance.selftest import budgets, variants
from refgss.conformance.selftest.kills import reach_of
from refgss.conformance.vectors import fresh
from refgss.conformance.vectors.format import moderate, read_vectors
from refgss.ops import FLOATS, OPS, is_integer
from refgss.standard import spec_folder

VECTORS = moderate(read_vectors(spec_folder() / "vectors").vectors)
CLAUSES = read_clauses(spec_folder())
MOST = 30  # vectors of each variant; all of them are run by refgss.conformance.selftest.budgets


@pytest.fixture(scope="module")
def reach():
    return reach_of(VECTORS)


def able(variant, reach):
    """The vectors that reach what a variant replaces, or that ask the ops that it has."""
    if variant.module is not None:
        ops = claimed(variants.load(variant)).ops
        return [v for v in VECTORS if v.op in ops]
    ids = set().union(*(reach[place] for place in variant.functions))
    return [v for v in VECTORS if v.id in ids]


@pytest.mark.parametrize("variant", variants.VARIANTS.values(), ids=lambda v: v.name)
def test_an_honest_variant_is_accepted_unless_a_clause_says_otherwise(variant, reach):
    candidate = ModuleCandidate(variants.load(variant))
    vectors = able(variant, reach)
    assert vectors
    for v in vectors[:: -(-len(vectors) // MOST)]:
        for precision in variant.precisions:
            with np.errstate(all="ignore"):
                record = ask(candidate, Question(v, precision))
            assert record["outcome"] == "pass" or variant.rejected(v.op, precision), record


REJECTIONS = [(v, r) for v in variants.VARIANTS.values() for r in v.rejections]


@pytest.mark.parametrize(
    ("variant", "rejection"), REJECTIONS, ids=[f"{v.name} {r.clause}" for v, r in REJECTIONS]
)
def test_what_a_clause_does_not_grant_is_rejected(variant, rejection, reach):
    """The clause exists, its chapter has a note, and some vector of the ops named fails."""
    assert rejection.clause in CLAUSES
    candidate = ModuleCandidate(variants.load(variant))
    asked = (
        ask(candidate, Question(v, precision))
        for v in sorted(able(variant, reach), key=lambda v: rejection.clause not in v.clauses)
        for precision in set(variant.precisions) & set(rejection.precisions)
        if v.op in rejection.ops
    )
    with np.errstate(all="ignore"):
        assert any(record["outcome"] not in ("pass", "not claimed") for record in asked)


def test_there_are_enough_variants():
    assert len(variants.VARIANTS) >= 45
    assert all(v.note and len(v.note) < 110 for v in variants.VARIANTS.values())


def test_a_rejection_that_is_not_announced_or_does_not_occur_is_a_failure():
    none = budgets.Use({}, [])
    welford, fails = variants.VARIANTS["welford"], budgets.Rejected("layer_norm", "f32", "x", 3.0)
    assert budgets.unexplained({"fft": none}) == []
    assert len(budgets.unexplained({"welford": none})) == len(welford.rejections)
    assert budgets.unexplained({"welford": budgets.Use({}, [fails])}) == []
    assert "x at f32" in budgets.unexplained({"fft": budgets.Use({}, [fails])})[0]
    assert "x at f32" in budgets.unexplained({"native": budgets.Use({}, [fails])})[0]


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
        dtypes = {k: np.int32 if is_integer(k) else FLOATS[precision] for k in v.expected}
        return Outputs({k: e.hi.astype(dtypes[k]) for k, e in v.expected.items()})


@pytest.mark.parametrize("op", OPS)
def test_a_table_of_answers_is_found_out_by_fresh_vectors(op):
    published = [v for v in VECTORS if v.op == op and fresh.suits(v) and "splits" not in v.options]
    table = Table(published)
    assert all(ask(table, Question(v, "f32"))["outcome"] == "pass" for v in published)
    drawn = fresh.draw(published, 1, seed=1)
    assert drawn and all(any(np.any(e.hi) for e in v.expected.values()) for v in drawn)
    for v in drawn:
        assert ask(table, Question(v, "f32", fresh=True))["outcome"] != "pass"
