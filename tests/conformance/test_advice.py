"""What only SHOULD clauses ask for is advice; what a MUST clause asks for is a failure."""

import pytest

from refgss.conformance.clauses import Clause
from refgss.conformance.judging import advice
from refgss.conformance.reports.report import verdict

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
