"""Calibration: known examples, properties, and what other packages compute of the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from refgss import scores
from refgss.scores.calibration import BINNINGS, EDGES, HOTTEST

NINE = (
    np.array([0.2, 0.4, 0.6, 1.0, 0.8, 0.9, 1.0, 0.0, 0.95]),
    np.array([0, 1, 1, 1, 0, 1, 0, 0, 1]),
)
# ECE, MCE and RMSCE of the nine points in five bins, from an independent writing
OF_NINE = {
    "right-open": (0.3166666666666667, 0.6, 0.3503173164749671),
    "left-open": (0.3166666666666667, 0.8, 0.38881943824294013),
    "phantom": (0.3166666666666667, 0.6, 0.3652751372950614),
}


def drawn(seed, n=40, classes=4, scale=2.0):
    rng = np.random.default_rng(seed)
    z = scale * rng.standard_normal((n, classes))
    y = np.where(rng.random(n) < 0.7, z.argmax(1), rng.integers(0, classes, n))
    return z, y


@pytest.mark.parametrize("edges", EDGES)
def test_nine_points_on_edges(edges):
    found = scores.calibration_error(*NINE, bins=5, edges=edges, binning="width")
    assert np.allclose(found[:3], OF_NINE[edges], rtol=1e-14)


def test_torchmetrics_has_a_bin_for_certainty_alone():
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    p = np.append(rng.random(200), [0.0, 1.0, 1.0, 0.5])
    r = np.append(rng.integers(0, 2, 200), [0, 1, 0, 1])
    p = np.where(p < 0.5, 1 - p, p)  # of two classes the larger one, whose label is right
    ours = scores.calibration_error(p, r, bins=15, edges="phantom", binning="width")
    for norm, x in zip(("l1", "max", "l2"), ours, strict=False):
        theirs = torchmetrics.binary_calibration_error(
            torch.tensor(p), torch.tensor(r), n_bins=15, norm=norm
        )
        assert x == pytest.approx(float(theirs), rel=1e-6), norm


@pytest.mark.parametrize("seed", range(4))
def test_scikit_learns_brier_score(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    z, y = drawn(seed)
    p = scores.softmax(z, temperature=1.0)
    theirs = metrics.brier_score_loss(y, p, scale_by_half=False, labels=range(4))
    assert scores.brier(p, y, per="sample") == pytest.approx(theirs, rel=1e-12)
    assert scores.brier(p, y, per="option") == pytest.approx(theirs / 4, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_scipy_finds_the_same_temperature_and_nll(seed):
    z, y = drawn(seed, scale=0.5 + seed)

    def of(t):
        return -np.mean(special.log_softmax(z / t, axis=1)[np.arange(len(y)), y])

    t, at_bound = scores.fit_temperature(z, y)
    theirs = optimize.minimize_scalar(of, bounds=(1 / HOTTEST, HOTTEST), method="bounded")
    assert not at_bound
    assert scores.nll(z, y, temperature=t) == pytest.approx(of(t), rel=1e-13)
    assert of(t) <= theirs.fun + 1e-14  # a minimum is flat: values are compared, not places


def test_a_temperature_at_its_bound_is_told():
    z, _ = drawn(1)
    assert scores.fit_temperature(z, z.argmax(1)) == (1 / HOTTEST, 1)
    assert scores.fit_temperature(z, z.argmin(1)) == (HOTTEST, 1)
    assert scores.fit_temperature(np.ones((3, 2)), np.array([0, 1, 1])) == (1, 0)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 40),
    bins=st.integers(1, 20),
    edges=st.sampled_from(EDGES),
    binning=st.sampled_from(BINNINGS),
)
def test_bins_hold_every_sample_once_and_order_does_not_matter(seed, n, bins, edges, binning):
    rng = np.random.default_rng(seed)
    c = np.round(rng.random(n), 2)  # some are equal, some are 0 or 1
    r = rng.integers(0, 2, n)
    options = {"bins": bins, "edges": edges, "binning": binning}
    ece, mce, rmsce, counts, hits, confidence = scores.calibration_error(c, r, **options)
    assert counts.sum() == n and hits.sum() == r.sum()
    assert np.sum(counts * confidence) == pytest.approx(c.sum())
    assert abs(r.mean() - c.mean()) - 1e-12 <= ece <= rmsce + 1e-12 and rmsce <= mce + 1e-12
    order = rng.permutation(n)
    again = scores.calibration_error(c[order], r[order], **options)
    assert np.array_equal(again[3], counts) and again[0] == pytest.approx(ece)


def test_equal_confidences_are_in_one_bin_of_equal_mass():
    found = scores.calibration_error(
        np.full(9, 0.5), np.ones(9, int), bins=4, edges="right-open", binning="mass"
    )
    assert found[3].tolist() == [9, 0, 0, 0]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), shift=st.floats(-1e300, 1e300), t=st.floats(0.05, 20))
def test_a_softmax_does_not_know_a_shift(seed, shift, t):
    z, _ = drawn(seed, 3)
    z = np.round(z * 8) / 8
    at = np.float64(np.round(shift) if abs(shift) < 2**40 else 0)  # so that z + at is exact
    p = scores.softmax(z, temperature=t)
    assert np.allclose(p.sum(1), 1) and np.array_equal(scores.softmax(z + at, temperature=t), p)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: scores.softmax(np.array([[1, np.nan]]), temperature=1.0), "row 0 has a NaN"),
        (lambda: scores.softmax(np.ones((1, 2)), temperature=True), "must be a number"),
        (lambda: scores.renormalize(np.array([[1.0, 0], [0.5, 0.4]])), "row 1 does not sum to 1"),
        (lambda: scores.nll(np.ones((1, 2)), np.array([2]), temperature=1.0), "row 0 has 2, of 2"),
        (
            lambda: scores.fit_temperature(np.ones((2, 1)), np.array([0, 0])),
            "two classes",
        ),
        (
            lambda: scores.calibration_error(
                np.array([1.5]), np.array([1]), bins=5, edges="phantom", binning="width"
            ),
            "outside 0 to 1",
        ),
        (
            lambda: scores.calibration_error(*NINE, bins=5, edges="none", binning="width"),
            "choose one of right-open",
        ),
    ],
)
def test_what_is_refused_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
