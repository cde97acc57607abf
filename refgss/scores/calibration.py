"""Chapter 23: calibration.  Logits z (n,K), labels y (n,), probabilities p (n,K)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from refgss.scores.arguments import (
    check_choice,
    check_confidence,
    check_correct,
    check_labels,
    check_logits,
    check_positive,
    check_probabilities,
    check_whole,
)
from refgss.scores.readings import beside, comparable, plain, wide

HOTTEST = 20  # temperatures are fitted between 1/20 and 20
MOST_BINS = 1000


def softmax(logits, *, temperature):
    """p (n,K) = exp(z/T) / Σ exp(z/T), of logits (n,K), a −∞ among them weighing 0.

    Clauses: GSS-CAL-1, GSS-CAL-10.
    """
    check_logits("logits", logits)
    check_positive("temperature", temperature)
    weights = exponentials(wide(logits), temperature)
    return weights / weights.sum(-1, keepdims=True)


def exponentials(z, temperature):
    """exp((z − max z)/T): the largest is 1, so that nothing overflows.  Clauses: GSS-CAL-1."""
    finite, top = z > -np.inf, largest(z)
    return np.where(finite, np.exp((np.where(finite, z, top) - top) / temperature), 0.0)


def largest(z):
    """The largest logit (n,1) of each row, which has a finite one."""
    return np.where(z > -np.inf, z, -np.finfo(np.float64).max).max(-1, keepdims=True)


def renormalize(p):
    """Probabilities (n,K) as they are used: divided by the sum of their row.

    Clauses: GSS-CAL-2, GSS-CAL-10.
    """
    check_probabilities("p", p)
    p = wide(p)
    total = p.sum(-1, keepdims=True)
    return np.where(plain(total) == 1, p, p / total)


def nll(logits, labels, *, temperature):
    """The mean of −ln p[y] with p = softmax(z/T), in nats.  Clauses: GSS-CAL-3, GSS-CAL-10."""
    check_logits("logits", logits)
    check_labels(labels, *plain(logits).shape)
    check_positive("temperature", temperature)
    if not len(labels):
        raise ValueError("there is no sample: give at least one")
    z = wide(logits)
    rows = np.arange(len(labels))
    if np.any(plain(z)[rows, labels] == -np.inf):
        return np.float64(np.inf)
    own = (z[rows, labels] - largest(z)[:, 0]) / temperature
    return (np.log(exponentials(z, temperature).sum(-1)) - own).mean(0, keepdims=False)


def fit_temperature(logits, labels):
    """T that minimises the mean NLL of z/T, and whether it is at a bound (1/20 or 20).

    Clauses: GSS-CAL-4, GSS-CAL-5, GSS-CAL-10.
    """
    check_logits("logits", logits)
    check_labels(labels, *logits.shape)
    if not len(labels) or logits.shape[1] < 2:
        raise ValueError("a temperature is fitted to at least one sample and two classes")
    z = np.asarray(logits, np.float64)
    if np.any(np.isinf(z)):
        raise ValueError("a temperature is fitted to finite logits only")
    if np.all(z == z[:, :1]):
        return np.float64(1), 0  # the NLL does not depend on T
    if slope(1 / HOTTEST, z, labels) >= 0:
        return np.float64(HOTTEST), 1
    if slope(HOTTEST, z, labels) <= 0:
        return np.float64(1 / HOTTEST), 1
    return np.float64(1 / brentq(slope, 1 / HOTTEST, HOTTEST, (z, labels), xtol=1e-14)), 0


def slope(beta, z, labels):
    """The derivative of the mean NLL of βz by β: the mean of Σ p z − z[y].  Clauses: GSS-CAL-4."""
    p = softmax(z, temperature=1 / beta)
    return np.mean((p * z).sum(-1) - z[np.arange(len(labels)), labels])


EDGES = ("right-open", "left-open", "phantom")
BINNINGS = ("width", "mass")


def calibration_error(confidence, correct, *, bins, edges, binning):
    """Confidences (n,) and whether the prediction is right (n,), in bins.

    Returns ece, mce, rmsce, and of each bin the number of samples, how many are right, and the mean
    confidence, 0 where there is none.  Clauses: GSS-CAL-6, GSS-CAL-7, GSS-CAL-8, GSS-CAL-10.
    """
    check_confidence("confidence", confidence)
    check_correct(correct, len(confidence))
    check_whole("bins", bins, 1, MOST_BINS)
    check_choice("edges", edges, EDGES)
    check_choice("binning", binning, BINNINGS)
    if binning == "width":
        place = bins_of_equal_width(confidence, bins, edges)
    else:
        place = bins_of_equal_mass(confidence, bins)
    many = bins + (edges == "phantom" and binning == "width")
    member = place == np.arange(many)[:, None]  # (M,n)
    counts, hits = member.sum(1), (member * correct).sum(1)
    total = np.where(member, wide(confidence), 0.0).sum(1)
    gap = np.maximum(total - hits, hits - total)  # |Σ confidence − Σ correct| of each bin
    some = np.maximum(counts, 1)
    n = len(confidence)
    ece = gap.sum(0) / n
    mce = (gap / some).max(0, keepdims=False)
    rmsce = np.sqrt((gap * gap / some).sum(0) / n)
    return ece, mce, rmsce, counts, hits, total / some


def bins_of_equal_width(confidence, bins, edges):
    """The bin (n,) of each confidence.  Clauses: GSS-CAL-6."""
    inner = np.arange(1, bins) / bins
    c = beside(confidence, np.append(inner, 1.0) if edges == "phantom" else inner)
    if edges == "left-open":
        return np.searchsorted(inner, c, side="left")
    place = np.searchsorted(inner, c, side="right")
    return np.where(c == 1, bins, place) if edges == "phantom" else place


def bins_of_equal_mass(confidence, bins):
    """⌊rank·M/n⌋, equal confidences having the rank of the first.  Clauses: GSS-CAL-7."""
    (c,) = comparable(confidence)
    rank = np.searchsorted(np.sort(c), c, side="left")
    return rank * bins // len(c)


def brier(p, labels, *, per):
    """The mean over samples of Σ_k (p_k − [k = y])², divided by K where it is `per` option.

    Clauses: GSS-CAL-9, GSS-CAL-10.
    """
    check_choice("per", per, ("sample", "option"))
    p = renormalize(p)
    n, classes = plain(p).shape
    check_labels(labels, n, classes)
    if not n:
        raise ValueError("there is no sample: give at least one")
    d = p - (np.arange(classes) == np.asarray(labels)[:, None])
    return (d * d).sum(None) / (n * classes if per == "option" else n)
