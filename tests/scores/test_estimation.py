"""Accuracy estimation: known examples, what must hold always, and the bootstrap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refgss import scores
from refgss.scores.estimation import RULES, TIES

# 12 source and 9 target samples: logits, labels, and what the paper's code says of them
SOURCE = np.array(
    """
    -0.537 -0.333 0.79  2.665 -2.197 -0.362  -0.167 -1.322 0.214  2.332 -0.111 0.536
    -0.765 0.754 -2.391  2.92 2.378 -0.419  -0.862 3.129 0.475  0.854 3.529 -0.865
    -2.105 -2.824 4.055  -0.617 2.94 -2.758  0.948 4.146 0.876  -1.692 1.26 2.552
    """.split(),
    float,
).reshape(12, 3)
LABELS = np.array([2, 0, 1, 0, 0, 0, 1, 1, 2, 1, 1, 2])
TARGET = np.array(
    """
    0.024 2.764 0.395  -3.375 2.846 -0.283  1.32 0.094 4.572  -1.22 0.129 2.752
    0.147 -1.18 -0.886  1.506 0.777 -0.62  0.008 0.107 -0.278  1.331 1.607 1.228
    -1.855 2.603 0.626
    """.split(),
    float,
).reshape(9, 3)
CORRECT = (SOURCE.argmax(1) == LABELS).astype(int)
T = 0.9853002810011007
PUBLISHED = {  # threshold, source, target
    ("max", "public"): (0.6208678186042287, 11 / 12, 7 / 9),
    ("max", "exact"): (0.6329236170807532, 10 / 12, 5 / 9),
    ("negative_entropy", "public"): (-0.9098628443681953, 11 / 12, 6 / 9),
    ("negative_entropy", "exact"): (-0.7446735917067354, 10 / 12, 5 / 9),
}


def sure(logits, score):
    return scores.confidence(scores.softmax(logits, temperature=T), score=score)


@pytest.mark.parametrize(("score", "rule"), PUBLISHED)
def test_atc_of_the_example(score, rule):
    threshold, source, target = scores.atc(
        sure(SOURCE, score), CORRECT, sure(TARGET, score), rule=rule, ties="ge"
    )
    found = float(threshold), float(source), float(target)
    assert found == pytest.approx(PUBLISHED[score, rule], rel=1e-12)


def test_the_others_of_the_example():
    s, t = sure(SOURCE, "max"), sure(TARGET, "max")
    assert scores.average_confidence(t) == pytest.approx(0.7355556899652701, rel=1e-13)
    doc = scores.difference_of_confidences(s, CORRECT, t, clip=False)
    assert doc == pytest.approx(0.7473199289669606, rel=1e-13)
    assert scores.importance_reweighting(s, CORRECT, t, bins=10) == (1.0, 2)


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 30), ties=st.sampled_from(TIES))
def test_the_exact_rule_meets_its_own_source(seed, n, ties):
    rng = np.random.default_rng(seed)
    r = rng.integers(0, 2, n)
    for s, tied in ((rng.permutation(n) / n, False), (rng.integers(0, 4, n) / 4, True)):
        _, source, target = scores.atc(s, r, s, rule="exact", ties=ties)
        assert source == target
        if ties == "split" or (ties == "ge" and not tied):
            assert source == pytest.approx(r.mean())
        if ties == "ge":
            assert source >= r.mean() - 1e-12


@pytest.mark.parametrize("rule", RULES)
def test_a_source_without_errors(rule):
    s, r = np.array([-0.1, -0.2, -0.3, -0.6]), np.ones(4, int)
    threshold, source, _ = scores.atc(s, r, s, rule=rule, ties="ge")
    assert (threshold, source) == ((-0.6, 1) if rule == "exact" else (0, 0))


def test_a_source_that_is_all_wrong_predicts_nothing_right():
    s = np.array([0.9, 0.8])
    assert scores.atc(s, np.zeros(2, int), s, rule="exact", ties="ge") == (np.inf, 0, 0)


def test_importance_reweighting_without_an_overlap_says_nothing():
    found, dropped = scores.importance_reweighting(
        np.array([0.95]), np.array([1]), np.array([0.2, 0.3]), bins=10
    )
    assert np.isnan(found) and dropped == 2


def test_agreement_takes_the_first_of_equals():
    a, b = np.array([[1.0, 1], [0, 2]]), np.array([[3.0, 0], [0, 0]])
    assert scores.agreement(a, b) == 0.5


def test_groups_are_drawn_whole():
    group = np.array([0, 0, 1, 2, 2, 2])
    for b in range(20):
        found = scores.resample(group, seed=3, replicate=b).tolist()
        while found:  # one group after the other, from its first sample on
            members = np.flatnonzero(group == group[found[0]]).tolist()
            assert found[: len(members)] == members
            del found[: len(members)]


def test_draws_are_uniform_and_differ_between_replicates():
    n, replicates = 7, 2000
    drawn = [scores.resample(np.arange(n), seed=0, replicate=b) for b in range(replicates)]
    counts = np.bincount(np.concatenate(drawn), minlength=n)
    expected = replicates  # of each: n draws of n samples
    assert np.sum((counts - expected) ** 2 / expected) < 27.9  # χ² of 6 degrees, one in 10⁴
    assert len({tuple(x) for x in drawn}) > 0.99 * replicates


def test_an_interval_is_numpys_percentiles():
    x = np.random.default_rng(0).standard_normal(101)
    for percent in (50, 90, 95):
        tail = (100 - percent) / 2
        theirs = np.percentile(x, [tail, 100 - tail])
        assert scores.percentile_interval(x, percent=percent) == pytest.approx(tuple(theirs))


def test_a_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(60):
        x = rng.standard_normal(30)
        means = [x[scores.resample(np.arange(30), seed=0, replicate=b)].mean() for b in range(100)]
        low, high = scores.percentile_interval(np.array(means), percent=95)
        hits += low <= 0 <= high
    assert hits >= 48  # of 60: fewer has a probability below 10⁻⁴ at 95 % and even at 92 %


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: scores.average_confidence(np.array([])), "at least one sample"),
        (
            lambda: scores.atc(
                np.array([0.5]), np.array([2]), np.array([0.5]), rule="exact", ties="ge"
            ),
            "1 where the prediction is right, or 0",
        ),
        (lambda: scores.agreement(np.ones((1, 2)), np.ones((2, 2))), "one shape"),
        (lambda: scores.resample(np.array([0, 2]), seed=0, replicate=0), "without a gap"),
        (lambda: scores.percentile_interval(np.array([1.0]), percent=100), "choose 1 to 99"),
    ],
)
def test_what_is_refused_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
