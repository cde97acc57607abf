"""Chapter 24: the accuracy on a target without labels, estimated from a source with labels.

Scores and confidences s (n,) of the source and t (m,) of the target, larger where the model is
surer; `correct` (n,) is 1 where the source's prediction is right.
"""

from __future__ import annotations

import numpy as np

from refgss.scores.arguments import (
    check_choice,
    check_confidence,
    check_correct,
    check_logits,
    check_scores,
    check_whole,
)
from refgss.scores.calibration import MOST_BINS, bins_of_equal_width, renormalize
from refgss.scores.readings import comparable, plain, ratio, wide

LARGEST = 2**53 - 1  # that every reader of JSON keeps
RULES = ("exact", "public")
TIES = ("ge", "gt", "split")


def confidence(p, *, score):
    """How sure each row of probabilities (n,K) is: its maximum, or Σ p ln p ≤ 0.

    Clauses: GSS-EST-1, GSS-CAL-2.
    """
    check_choice("score", score, ("max", "negative_entropy"))
    p = renormalize(p)
    if score == "max":
        return p.max(-1, keepdims=False)
    return (p * np.log(np.where(p > 0, p, 1.0))).sum(-1)


def atc(source, correct, target, *, rule, ties):
    """The threshold of average thresholded confidence, and the accuracies that it predicts.

    Returns threshold, of the source, of the target.
    Clauses: GSS-EST-2, GSS-EST-3, GSS-EST-4, GSS-EST-10.
    """
    check_scores("source", source)
    check_scores("target", target)
    check_correct(correct, len(source))
    check_choice("rule", rule, RULES)
    check_choice("ties", ties, TIES)
    n, errors = len(source), int(len(source) - np.sum(correct))
    s, t = comparable(source, target)
    threshold = atc_threshold(wide(source)[np.argsort(s, kind="stable")], errors, rule)
    at = plain(threshold)
    equal, above = np.sum(s == at), np.sum(s > at)
    weight = ratio(source, 1 if ties == "ge" else 0, 1)
    if ties == "split":  # so that the source's own accuracy is met
        weight = ratio(source, n - errors - above, equal) if equal else ratio(source, 1, 1)
    shares = [(np.sum(x > at) + weight * np.sum(x == at)) / len(x) for x in (s, t)]
    return threshold, shares[0], shares[1]


def atc_threshold(rising, errors, rule):
    """Of source scores in rising order.  Clauses: GSS-EST-2, GSS-EST-3."""
    if rule == "public":
        return rising[errors - 1] if errors else np.float64(0)
    return rising[errors] if errors < len(rising) else np.float64(np.inf)


def average_confidence(target):
    """AC: the mean of the target's confidences (m,).  Clauses: GSS-EST-5, GSS-EST-10."""
    check_confidence("target", target)
    return wide(target).mean(0, keepdims=False)


def difference_of_confidences(source, correct, target, *, clip):
    """DOC: the source's accuracy plus AC of the target less AC of the source.

    Clauses: GSS-EST-6, GSS-EST-10.
    """
    check_confidence("source", source)
    check_confidence("target", target)
    check_correct(correct, len(source))
    accuracy = ratio(source, np.sum(correct), len(source))
    found = accuracy + average_confidence(target) - average_confidence(source)
    return clipped(found) if clip else found


def clipped(x):
    """x, or the nearer of 0 and 1 where it is outside.  Clauses: GSS-EST-6."""
    return np.maximum(0.0, -np.maximum(-1.0, -x))


def importance_reweighting(source, correct, target, *, bins):
    """IM: the source's accuracy in each bin of confidence, weighed by the target's samples there.

    Returns the estimate, NaN where no bin has samples of both, and how many target samples are in
    bins without source samples.  Clauses: GSS-EST-7, GSS-EST-10.
    """
    check_confidence("source", source)
    check_confidence("target", target)
    check_correct(correct, len(source))
    check_whole("bins", bins, 1, MOST_BINS)
    of_source, of_target = (bins_of_equal_width(x, bins, "left-open") for x in (source, target))
    counts = np.bincount(of_source, minlength=bins)
    hits = np.bincount(of_source, np.asarray(correct), minlength=bins).astype(int)
    wanted = np.bincount(of_target, minlength=bins)
    both = [b for b in range(bins) if counts[b] and wanted[b]]
    dropped = int(wanted[counts == 0].sum())
    if not both:
        return np.float64(np.nan), dropped
    found = np.stack([ratio(source, wanted[b] * hits[b], counts[b]) for b in both]).sum(0)
    return found / (len(target) - dropped), dropped


def agreement(first, second):
    """GDE: the share of samples of which two models, logits (m,K), have the same first maximum.

    Clauses: GSS-EST-8, GSS-EST-10.
    """
    check_logits("first", first)
    check_logits("second", second)
    if plain(first).shape != plain(second).shape or not len(first):
        raise ValueError("the two models must give logits of one shape, of at least one sample")
    a, b = (first_maxima(x) for x in (first, second))
    return ratio(first, np.sum(a == b), len(a))


def first_maxima(logits):
    """The class (n,) of the largest logit, the first among equals.  Clauses: GSS-EST-8."""
    return np.array([np.argmax(comparable(row)[0]) for row in logits], int)


def resample(group, *, seed, replicate):
    """Indices of the samples of one bootstrap replicate; group (n,) tells which belong together.

    Groups are 0 … G−1, each of at least one sample.  Clauses: GSS-EST-9, GSS-EST-10.
    """
    check_whole("seed", seed, 0, LARGEST)
    check_whole("replicate", replicate, 0, LARGEST)
    g = np.asarray(group)
    if g.ndim != 1 or not g.size or g.dtype.kind not in "iu":
        raise ValueError(f"group {g.shape} must be integers (n,), at least one")
    many = int(g.max()) + 1
    if g.min() < 0 or len(np.unique(g)) != many:
        raise ValueError("groups must be numbered 0, 1, … without a gap")
    words = np.random.Philox(key=[seed, replicate]).random_raw(4 * many)[::4]
    drawn = np.floor((words >> np.uint64(11)) * 2.0**-53 * many).astype(int)
    return members(g, drawn)


def members(group, drawn):
    """The indices of all samples of the groups drawn, one group after the other."""
    order, sizes = np.argsort(group, kind="stable"), np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    many = sizes[drawn]
    within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
    return order[np.repeat(starts[drawn], many) + within]


def percentile_interval(values, *, percent):
    """The interval (low, high) that holds so many percent of the values (B,), between its tails.

    Clauses: GSS-EST-11, GSS-EST-10.
    """
    check_scores("values", values)
    check_whole("percent", percent, 1, 99)
    (v,) = comparable(values)
    rising = wide(values)[np.argsort(v, kind="stable")]
    whole, rest = divmod((100 - percent) * (len(v) - 1), 200)
    share = ratio(values, rest, 200)
    after = min(whole + 1, len(v) - 1)
    low = rising[whole] + share * (rising[after] - rising[whole])
    high = rising[-1 - whole] - share * (rising[-1 - whole] - rising[-1 - after])
    return low, high
