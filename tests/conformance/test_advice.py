"""What only SHOULD clauses ask for is advice; what a MUST clause asks for is a failure."""

from collections import Counter

import numpy as np
import pytest

from refgss import reference
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.clauses import Clause, read_clauses
from refgss.conformance.judging import advice
from refgss.conformance.judging.runner import Question, ask
from refgss.conformance.reports.report import verdict
from refgss.conformance.vectors.format import read_vectors
from refgss.standard import spec_folder

CLAUSES = {
    "GSS-ARR-3": Clause("GSS-ARR-3", "SHOULD", "", ""),
    "GSS-NFI-8": Clause("GSS-NFI-8", "MAY", "", ""),
    "GSS-NRM-3": Clause("GSS-NRM-3", "MUST", "", ""),
}


@pytest.mark.parametrize(
    ("named", "outcome", "becomes"),
    [
        (["GSS-ARR-3"], "wrong value", "advice"),
        (["GSS-ARR-3", "GSS-NFI-8"], "raised", "advice"),
        (["GSS-ARR-3", "GSS-NRM-3"], "wrong value", "wrong value"),
        (["GSS-ARR-3"], "crashed", "crashed"),
        (["GSS-ARR-3"], "garbage", "garbage"),
        (["GSS-ARR-3"], "pass", "pass"),
        (["GSS-ARR-3"], "not claimed", "not claimed"),
    ],
)
def test_only_should_clauses_make_advice(named, outcome, becomes):
    record = {"id": "x", "clauses": named, "outcome": outcome, "detail": "why"}
    (found,) = advice.apply([record], CLAUSES)
    assert found["outcome"] == becomes
    if becomes == "advice":
        assert found["detail"] == f"{outcome}; why"


def test_advice_does_not_fail_and_does_not_suffice():
    assert verdict({"pass": 1, "advice": 2}) == "conforms"
    assert verdict({"advice": 2}) == "does not conform"


class Flushing:
    """The reference, which takes subnormal operands of `dense` for zero, as some processors do."""

    def __getattr__(self, name):
        return getattr(reference, name)

    def dense(self, x, weight, bias=None):
        tiny = np.finfo(x.dtype).tiny
        x, weight = (np.where(np.abs(a) < tiny, 0, a).astype(a.dtype) for a in (x, weight))
        return reference.dense(x, weight, bias)


def test_what_flushes_subnormal_operands_is_advised_by_the_clause_on_them():
    vectors = read_vectors(spec_folder() / "vectors").vectors
    asked = [Question(v, "f32") for v in vectors if v.op == "dense" and "large" not in v.flags]
    records = [ask(ModuleCandidate(Flushing()), q) for q in asked]
    found = advice.apply(records, read_clauses(spec_folder()))
    counts = Counter(r["outcome"] for r in found)
    assert counts.keys() == {"pass", "advice"}
    assert {c for r in found if r["outcome"] == "advice" for c in r["clauses"]} == {"GSS-ACC-10"}
    assert verdict(counts) == "conforms"
