"""What a check says of single failures, and of what gave no numbers."""

import pytest

from refgss.cli import terminal
from refgss.conformance.judging.compare import Finding, Outcome
from refgss.conformance.judging.runner import Question, inputs_of, record
from refgss.conformance.reports import failures
from refgss.conformance.reports.badge import badge
from refgss.conformance.reports.report import Report
from refgss.conformance.vectors.format import read_vectors
from refgss.standard import spec_folder

VECTORS = {v.id: v for v in read_vectors(spec_folder() / "vectors").vectors}


def case(id, outcome, precision="f64", **more):
    op = id.split("/")[0]
    line = {"type": "case", "id": id, "op": op, "precision": precision, "clauses": ["GSS-NRM-3"]}
    return line | {"outcome": outcome, "seconds": 0.0, **more}


def report(*cases, profiles=("f32", "f64", "paper", "gss-pytorch")):
    header = {"profiles": list(profiles), "spec": "1", "vectors": "", "manifest": "0" * 64}
    header |= {"seed": 1, "candidate": {"name": "x", "version": "1"}}
    return Report(header, cases, {"verdict": "conforms"})


def test_numbers_of_binary64_that_differ_are_shown_to_differ():
    one, other = 0.1, 0.1 + 2**-56
    line = failures.describe(
        case("gelu/one", "wrong value", index=[0], got=other, expected=one, budget=1e-18, ratio=14)
    )
    assert "0.10000000000000002, proven 0.10000000000000001 (off by 1.39e-17)" in line


def test_shapes_and_options_stand_in_the_record_of_a_failure_and_in_its_line():
    v = (
        VECTORS["ssm_scan/dss-exp-random"]
        if "ssm_scan/dss-exp-random" in VECTORS
        else next(
            v
            for v in VECTORS.values()
            if v.op == "ssm_scan" and v.options["form"]["method"] == "dss-exp"
        )
    )
    told = inputs_of(v)
    B, L, H = v.tensors["u"].shape
    assert f"u ({B},{L},{H})" in told and "method:dss-exp" in told
    assert f"lam ({v.tensors['lam'].shape[0]})" in told  # complex numbers, not pairs
    line = record(Question(v, "f32"), Finding(Outcome.RAISED, "TypeError: no"), 0.0)
    assert told in failures.describe(line)
    assert "inputs" not in record(Question(v, "f32"), Finding(Outcome.PASS), 0.0)


def test_each_exception_is_told_once_with_its_first_case_and_how_often():
    cases = [case(f"gelu/{i}", "raised", detail="TypeError: takes 1", inputs="x (3)") for i in "ab"]
    cases += [case("dense/a", "crashed", detail="signal 11"), case("dense/b", "wrong value")]
    text = failures.without_numbers(cases).plain.splitlines()
    assert text[0] == "raised in 2 cases: TypeError: takes 1"
    assert text[1].strip() == "first: gelu/a (f64) with x (3)"
    assert text[2] == "crashed in 1 case: signal 11"
    assert len(text) == 4


def test_no_clause_is_said_to_fail_where_nothing_was_computed():
    broken = report(case("gelu/a", "raised", detail="TypeError"))
    assert terminal.failing_clauses(broken) == []
    wrong = report(case("gelu/a", "wrong value"), case("gelu/b", "raised"))
    assert [s.name for group in terminal.failing_clauses(wrong) for s in group] == ["GSS-NRM-3"]


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        (
            [case("gelu/a", "pass"), case("gss_layer/a", "not claimed", layer_profile="paper")],
            "(f64)",
        ),
        (
            [case("gelu/a", "pass"), case("gss_layer/a", "pass", layer_profile="paper")],
            "(f64, paper)",
        ),
    ],
)
def test_a_layer_profile_is_named_only_where_its_layers_were_judged(cases, said):
    assert said in terminal.closing_line(report(*cases), {}).plain
    assert ("paper" in badge(report(*cases), {})) == ("paper" in said)


def test_a_verdict_on_a_small_part_says_so():
    cases = [
        case("gelu/a", "pass"),
        *(case(f"{op}/a", "not claimed") for op in ("dense", "dense_vjp")),
    ]
    assert "conforms in part, 1 of 3 ops" in terminal.closing_line(report(*cases), {}).plain
    assert "partial" in badge(report(*cases), {})
    assert "in part" not in terminal.closing_line(report(cases[0]), {}).plain
