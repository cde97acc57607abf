"""Scores in the kit: their profile, exact outputs, texts, and comparisons that are proven."""

from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from refgss import ops, scores
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.candidates.targets import open_candidate
from refgss.conformance.judging import runner
from refgss.conformance.judging.compare import Outcome, Outputs, judge
from refgss.conformance.judging.runner import Question, ask, profiles_to_check, select
from refgss.conformance.vectors.format import Expected, Vector, lint, read_vectors, write_vectors
from refgss.standard import spec_folder

VECTORS = [v for v in read_vectors(spec_folder() / "vectors").vectors if v.op in ops.SCORES]
QUESTIONS = select(VECTORS, ["scores"])


@pytest.mark.parametrize("op", ops.SCORES)
def test_the_scores_conform_to_their_vectors(op):
    candidate = ModuleCandidate(scores)
    mine = [q for q in QUESTIONS if q.vector.op == op]
    assert len(mine) >= 5 and any(q.vector.error for q in mine)
    with np.errstate(all="ignore"):
        records = [ask(candidate, q) for q in mine]
    assert [r["id"] for r in records if r["outcome"] != "pass"] == []


def test_a_scorer_is_opened_by_its_name_and_is_no_backend():
    with closing(open_candidate("scores")) as candidate:
        assert set(candidate.about.ops) == set(ops.SCORES)
    assert not set(ops.SCORES) & set(ops.OPS)


@pytest.mark.parametrize(
    ("requested", "claimed", "checked"),
    [
        ((), ("f32", "scores"), ["f32", "scores"]),
        ((), ("f64", "paper"), ["f64", "paper"]),
        ((), (), []),
        (("scores",), ("f32", "paper"), ["scores"]),
        (("f32",), ("f32", "f64", "scores"), ["f32"]),
        (("paper", "scores"), ("f64",), ["f64", "paper", "scores"]),
    ],
)
def test_the_profile_of_scores_stands_alone(requested, claimed, checked):
    assert profiles_to_check(requested, claimed) == checked


def test_scores_are_asked_in_binary64_and_only_under_their_profile():
    assert {q.precision for q in QUESTIONS} == {"f64"}
    assert select(VECTORS, ["f32", "f64", "paper"]) == []
    assert runner.precisions("gelu", ["scores"]) == []


def vector(**expected):
    return Vector("x/y", "calibration_error", ("GSS-CAL-8",), {}, {}, expected)


def of_text(monkeypatch, want):
    """A vector of an op whose one output is a text."""
    row = ops.Op(("text",), (), ("answer",), {}, {"answer": ops.TEXT})
    monkeypatch.setitem(ops.SCORES, "extract", row)
    monkeypatch.setitem(ops.CONTRACT, "extract", row)
    want = np.frombuffer(want.encode(), np.uint8)
    return Vector(
        "extract/a",
        "extract",
        ("GSS-CAL-8",),
        {"text": "a"},
        {},
        {"answer": Expected.exactly(want)},
    )


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("größe", Outcome.PASS),
        ("Größe", Outcome.WRONG_VALUE),
        ("größe ", Outcome.WRONG_VALUE),
        ("", Outcome.WRONG_VALUE),
        (3, Outcome.WRONG_SHAPE),
        (None, Outcome.WRONG_SHAPE),
    ],
)
def test_a_text_is_right_byte_for_byte(monkeypatch, answer, outcome):
    v = of_text(monkeypatch, "größe")
    module = SimpleNamespace(extract=lambda text: answer, __name__="one")
    module.capabilities = lambda: {"name": "one", "ops": ["extract"], "profiles": ["scores"]}
    record = ask(ModuleCandidate(module), Question(v, "f64"))
    assert record["outcome"] == outcome, record
    if outcome is Outcome.WRONG_VALUE:
        assert record["ratio"] == "inf" and "not 'größe'" in record["detail"]


def test_numbers_are_no_text(monkeypatch):
    v = of_text(monkeypatch, "abc")
    found = judge(v, Outputs({"answer": np.array([97.0, 98, 99])}), "f64")
    assert found.outcome is Outcome.WRONG_DTYPE


def test_exact_outputs_are_written_and_read_whole(monkeypatch, tmp_path):
    v = of_text(monkeypatch, "größe")
    counts = vector(counts=Expected.exactly(np.array([3, 0, 2**40])))
    write_vectors(tmp_path, [v, counts], "2026-11-28")
    read = {w.id: w for w in read_vectors(tmp_path).vectors}
    assert read["extract/a"].expected["answer"].exact.tobytes().decode() == "größe"
    assert read["x/y"].expected["counts"].exact.tolist() == [3, 0, 2**40]
    assert not [x for x in lint([read["extract/a"]], {"GSS-CAL-8": "MUST"})]
    off_by_one = {"counts": np.array([3, 0, 2**40 + 1])}
    assert judge(read["x/y"], Outputs(off_by_one), "f64").outcome is Outcome.WRONG_VALUE


def test_numbers_that_no_rounding_may_order_are_not_compared():
    pytest.importorskip("flint")
    from refgss.conformance.vectors.enclosure import Enclosure, UndecidedError, certifying

    with certifying():
        third = Enclosure(np.array([1.0])) / 3
        x, apart = third.comparable(np.array([0.25]))
        assert x < 0.34 and apart == 0.25
        exact = Enclosure(np.array([0.25, 0.25]))
        assert np.all(exact.comparable()[0] == 0.25)  # equal by themselves
        with pytest.raises(UndecidedError):
            third.comparable(np.array([1 / 3]))
