"""The comparator: what is within the budget passes, everything else fails as what it is."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refgss.conformance.judging.compare import Failure, Outcome, Outputs, error_ratio, judge
from refgss.conformance.vectors.format import Expected, Vector

finite = st.floats(-1e30, 1e30)


def vector(hi, budget, lo=0.0, at=None, shape=None, **changes):
    hi = np.asarray(hi, np.float64)
    full = np.broadcast_to(np.asarray(budget, np.float64), hi.shape)
    lows = np.broadcast_to(np.asarray(lo, np.float64), hi.shape)
    e = Expected(hi, lows, np.zeros_like(full), {"f32": full, "f64": full}, at, shape)
    parts = dict(id="gelu/x", op="gelu", clauses=("GSS-NRM-3",), options={}, expected={"y": e})
    return Vector(**(parts | dict(tensors={"x": np.ones(1, np.float32)}) | changes))


def outcome(got, *args, precision="f64", **kwargs):
    return judge(vector(*args, **kwargs), Outputs({"y": np.asarray(got)}), precision).outcome


@given(finite, st.floats(1e-20, 1e20), st.floats(-4, 4))
def test_the_budget_is_the_border(truth, budget, share):
    got = truth + share * budget
    error = abs(got - truth)  # as rounded
    assume(error / budget != 1)
    wanted = Outcome.PASS if error / budget < 1 else Outcome.WRONG_VALUE
    assert outcome([got], [truth], [budget]) is wanted


@given(finite, st.floats(-1, 1))
def test_the_low_part_counts(hi, share):
    lo = share * np.spacing(hi) / 2
    finding = judge(vector([hi], [1.0], lo=[lo]), Outputs({"y": np.array([hi])}), "f64")
    assert finding.ratio == abs(lo)


def test_the_worst_element_is_the_one_reported():
    got = np.array([[1.0, 2.0, 3.0], [4.0, 5.5, 6.0]])
    finding = judge(vector(np.arange(1.0, 7).reshape(2, 3), 0.25), Outputs({"y": got}), "f64")
    assert (finding.index, finding.got, finding.expected) == ((1, 1), 5.5, 5.0)
    assert finding.ratio == 2 and finding.budget == 0.25


def test_samples_are_taken_from_the_whole_output():
    at = np.array([5, 1])
    good = np.array([[9, 2.0, 9], [9, 9, 6.0]])
    assert outcome(good, [6.0, 2.0], 0.1, at=at, shape=(2, 3)) is Outcome.PASS
    finding = judge(vector([6.0, 2.0], 0.1, at=at, shape=(2, 3)), Outputs({"y": good + 1}), "f64")
    assert finding.outcome is Outcome.WRONG_VALUE and finding.index in [(1, 2), (0, 1)]
    assert outcome(good[0], [6.0, 2.0], 0.1, at=at, shape=(2, 3)) is Outcome.WRONG_SHAPE


@pytest.mark.parametrize(
    ("got", "hi", "budget", "wanted"),
    [
        (np.nan, np.nan, 1.0, Outcome.PASS),
        (0.0, np.nan, 1.0, Outcome.WRONG_VALUE),
        (np.nan, 0.0, 1.0, Outcome.NON_FINITE),
        (np.inf, 0.0, 1e300, Outcome.NON_FINITE),
        (np.nan, 0.0, np.inf, Outcome.PASS),
        (np.inf, np.inf, 1.0, Outcome.PASS),
        (-np.inf, np.inf, 1.0, Outcome.WRONG_VALUE),
        (0.0, 0.0, 0.0, Outcome.PASS),
        (-0.0, 0.0, 0.0, Outcome.PASS),
        (5e-324, 0.0, 0.0, Outcome.WRONG_VALUE),
        (-3.0, 3.0, 1e-3, Outcome.WRONG_VALUE),
    ],
)
def test_special_values(got, hi, budget, wanted):
    assert outcome([got], [hi], [budget]) is wanted


def test_the_precision_is_that_of_the_check():
    assert outcome(np.float32([1]), [1.0], 1.0, precision="f32") is Outcome.PASS
    assert outcome(np.float64([1]), [1.0], 1.0, precision="f32") is Outcome.WRONG_DTYPE
    assert outcome(np.float32([1]), [1.0], 1.0) is Outcome.WRONG_DTYPE
    assert outcome(np.array([1]), [1.0], 1.0) is Outcome.WRONG_DTYPE
    assert outcome(np.array([1], object), [1.0], 1.0) is Outcome.WRONG_DTYPE
    # an op without tensors is told no precision
    assert outcome(np.float64([1]), [1.0], 1.0, precision="f32", tensors={}) is Outcome.PASS
    assert outcome(np.float32([1]), [1.0], 1.0, tensors={}) is Outcome.WRONG_DTYPE


def test_shapes_are_exact_and_empty_outputs_pass():
    assert outcome(np.zeros((1, 1)), [0.0], 1.0) is Outcome.WRONG_SHAPE
    assert outcome(np.zeros(()), [0.0], 1.0) is Outcome.WRONG_SHAPE
    assert outcome(np.zeros((0, 3)), np.zeros((0, 3)), 1.0) is Outcome.PASS
    assert outcome(np.zeros((3, 0)), np.zeros((0, 3)), 1.0) is Outcome.WRONG_SHAPE


def test_outputs_by_name():
    v = vector([0.0], 1.0)
    assert judge(v, Outputs({}), "f64").outcome is Outcome.WRONG_SHAPE
    extra = {"y": np.zeros(1), "z": np.zeros(1)}
    assert judge(v, Outputs(extra), "f64").outcome is Outcome.WRONG_SHAPE


def test_a_refusal_passes_only_where_it_is_due():
    refused = Failure(Outcome.RAISED, "no")
    assert judge(vector([0.0], 1.0), refused, "f64").outcome is Outcome.RAISED
    bad = vector([0.0], 1.0, error=True, expected={})
    assert judge(bad, refused, "f64").outcome is Outcome.PASS
    assert judge(bad, Outputs({"y": np.zeros(1)}), "f64").outcome is Outcome.ACCEPTED
    assert judge(bad, Failure(Outcome.CRASHED, ""), "f64").outcome is Outcome.CRASHED
    assert judge(bad, Failure(Outcome.TIMED_OUT, ""), "f64").outcome is Outcome.TIMED_OUT


def test_the_worse_outcome_of_several_outputs_speaks():
    e = vector([0.0], 1.0).expected["y"]
    v = vector([0.0], 1.0, op="discretize", expected={"abar": e, "bbar": e})
    finding = judge(v, Outputs({"abar": np.array([5.0]), "bbar": np.array([9.0])}), "f64")
    assert (finding.output, finding.ratio) == ("bbar", 9)
    finding = judge(v, Outputs({"abar": np.array([np.nan]), "bbar": np.array([9.0])}), "f64")
    assert (finding.output, finding.outcome) == ("abar", Outcome.NON_FINITE)


@pytest.mark.parametrize(("name", "precision"), [("float16", "f32"), ("float32", "f64")])
def test_narrow_values_are_recognised(name, precision):
    truth = np.random.default_rng(0).standard_normal(20)
    dtype = {"f32": np.float32, "f64": np.float64}[precision]
    got = truth.astype(name).astype(dtype)
    finding = judge(vector(truth, 1e-15), Outputs({"y": got}), precision)
    assert finding.outcome is Outcome.WRONG_VALUE and name in finding.detail
    full = judge(vector(truth, 1e-15), Outputs({"y": (truth + 0.1).astype(dtype)}), precision)
    assert "representable" not in full.detail


def test_bfloat16_is_recognised():
    truth = np.random.default_rng(0).standard_normal(20)
    got = (truth.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    assert "bfloat16" in judge(vector(truth, 1e-9), Outputs({"y": got}), "f32").detail


@given(st.lists(st.tuples(*[st.floats(allow_nan=True)] * 3, st.floats(0, allow_nan=False))))
def test_a_ratio_is_never_negative_or_nan(rows):
    got, hi, lo, budget = np.array(rows, float).reshape(-1, 4).T
    e = Expected(hi, np.nan_to_num(lo), np.zeros_like(budget), {"f64": budget})
    ratio = error_ratio(got, e, "f64")
    assert np.all(ratio >= 0)
