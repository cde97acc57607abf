"""Chapter 21, metrics of multiple choice: of the log-probabilities of options, sample by sample.

log_probs and target_scores (N,) hold the options of all samples one after the other, sizes (n,)
how many each sample has.
"""

from __future__ import annotations

import hashlib

import numpy as np

from refgss.scores.arguments import check_choice
from refgss.scores.calibration import bins_of_equal_width, exponentials
from refgss.scores.readings import comparable, plain, wide

TIES = ("first", "sha256-f64", "expected")
BINS = 15


def multiple_choice(log_probs, target_scores, sizes, *, ties):
    """Returns grade, random, brier, calibration, weighted_log and weighted.

    Clauses: GSS-TSK-8, GSS-TSK-9, GSS-TSK-10, GSS-TSK-11, GSS-TSK-16, GSS-TSK-18.
    """
    check_choice("ties", ties, TIES)
    check_options(log_probs, target_scores, sizes)
    samples = split(wide(log_probs), wide(target_scores), sizes)
    n = len(samples)
    parts = [measured(z, y, ties) for z, y in samples]
    grade, chance, brier, weighted_log, weighted = (
        np.stack([part[i] for part in parts]).sum(0) for i in range(5)
    )
    sure, right = np.stack([part[5] for part in parts]), np.array([part[6] for part in parts])
    calibration = binned_error(sure, right)
    options = int(np.sum(sizes))
    return grade / n, chance / n, brier / options, calibration, weighted_log / n, weighted / n


def measured(z, y, ties):
    """Of one sample what the metrics sum, its confidence, and whether that is in the right option.

    Clauses: GSS-TSK-8, GSS-TSK-9, GSS-TSK-10, GSS-TSK-11, GSS-TSK-16.
    """
    grade = worth(z, y, ties)
    p = probabilities(z)
    total = y.sum(0)
    t = 0.0 * y if plain(total) == 0 else y / total  # nothing is right where the scores cancel
    brier = (p * p - 2.0 * p * t + t).sum(0)
    finite = z > -np.inf
    weighted_log = (y * np.where(plain(y) == 0, 0.0, z)).sum(0)
    weighted = (y * np.where(finite, np.exp(np.where(finite, z, 0.0)), 0.0)).sum(0)
    best = int(np.argmax(comparable(z)[0]))
    right = int(np.argmax(plain(y) if plain(total) > 0 else -plain(y) * (plain(total) < 0)))
    return grade, y.sum(0) / len(z), brier, weighted_log, weighted, p[best], int(best == right)


def worth(z, y, ties):
    """The score of the option of the largest log-probability.  Clauses: GSS-TSK-8."""
    (numbers,) = comparable(z)
    best = np.flatnonzero(numbers == numbers.max())
    if ties == "expected":
        return y[best].sum(0) / len(best)
    if ties == "first":
        return y[best[0]]
    digest = hashlib.sha256(np.asarray(numbers, "<f8").tobytes()).hexdigest()
    return y[best[int(digest, 16) % len(best)]]


def probabilities(z):
    """The log-probabilities (K,) made to sum to 1.  Clauses: GSS-TSK-9."""
    weights = exponentials(z.reshape(1, len(z)), 1.0)[0]
    return weights / weights.sum(0)


def binned_error(sure, right):
    """The expected calibration error in 15 bins, closed on the left.  Clauses: GSS-TSK-10."""
    place = bins_of_equal_width(sure, BINS, "right-open")
    gaps = []
    for b in sorted(set(place.tolist())):
        gap = sure[place == b].sum(0) - np.sum(right[place == b])
        gaps.append(np.maximum(gap, -gap))
    return np.stack(gaps).sum(0) / len(right)


def log_likelihood(log_probs, sizes):
    """The mean over samples of the log of the summed probabilities of their targets.

    Clauses: GSS-TSK-15, GSS-TSK-18.
    """
    check_options(log_probs, log_probs, sizes)
    found = []
    for z, _ in split(wide(log_probs), wide(log_probs), sizes):
        top = z[int(np.argmax(comparable(z)[0]))]
        found.append(
            z[0] if len(z) == 1 else top + np.log(exponentials(z.reshape(1, -1), 1.0).sum())
        )
    return np.stack(found).sum(0) / len(found)


def split(log_probs, target_scores, sizes):
    """The options of each sample."""
    ends = np.cumsum(sizes)
    return [
        (log_probs[int(end - n) : int(end)], target_scores[int(end - n) : int(end)])
        for end, n in zip(ends, sizes, strict=True)
    ]


def check_options(log_probs, target_scores, sizes):
    """Clauses: GSS-TSK-18."""
    z, y, n = plain(log_probs), plain(target_scores), plain(sizes)
    if n.ndim != 1 or not n.size or n.dtype.kind not in "iu" or np.any(n < 1):
        raise ValueError("sizes must be positive integers (n,), at least one")
    if z.shape != (n.sum(),) or y.shape != z.shape:
        raise ValueError(f"log_probs {z.shape} and target_scores {y.shape} must be ({n.sum()},)")
    if y is not z and not np.all(np.isfinite(y)):
        raise ValueError("target_scores must be finite")
    for i, (own, _) in enumerate(split(z, y, n)):
        if np.any(np.isnan(own)) or np.any(own == np.inf):
            raise ValueError(f"sample {i} has a log-probability that is NaN or +infinity")
        if np.all(own == -np.inf):
            raise ValueError(f"sample {i} has no option that is possible")


def normalized_aggregate(scores, low, high):
    """The mean of the scores of tasks, each between its low and its high, in percent.

    Clauses: GSS-TSK-16, GSS-TSK-18.
    """
    shapes = {plain(x).shape for x in (scores, low, high)}
    if len(shapes) > 1 or len(min(shapes)) != 1 or not len(scores):
        raise ValueError("scores, low and high must be (n,), at least one")
    if not np.all(plain(high) > plain(low)) or not np.all(np.isfinite(plain(scores))):
        raise ValueError("each high must be above its low, and scores finite")
    share = (wide(scores) - wide(low)) / (wide(high) - wide(low))
    return 100.0 * share.sum(0) / len(scores)


def scaling(sizes, scores, *, count):
    """How scores (n,) grow with the sizes (n,) of models: improvement, linearity, breakthroughness.

    NaN where they are undefined.  Clauses: GSS-TSK-17, GSS-TSK-18.
    """
    check_choice("count", count, ("points", "steps"))
    s, y = plain(sizes), plain(scores)
    if s.ndim != 1 or s.shape != y.shape or len(s) < 3 or len(set(s.tolist())) < len(s):
        raise ValueError("sizes and scores must be (n,), three at least, sizes different")
    if not (np.all(np.isfinite(s)) and np.all(np.isfinite(y))):
        raise ValueError("sizes and scores must be finite")
    y = wide(scores)[np.argsort(s)]
    (numbers,) = comparable(y)
    high, low = int(np.argmax(numbers)), int(np.argmin(numbers))
    improvement = (y[high] - y[low]) * float(np.sign(high - low))
    steps = y[1:] - y[:-1]
    squares = steps * steps
    if not np.any(plain(squares)):
        return improvement, np.float64(np.nan), np.float64(np.nan)
    n = len(s) if count == "points" else len(s) - 1
    linearity = improvement / (n * np.sqrt(squares.sum(0) / (len(s) - 1)))
    middle = median(squares)
    if not plain(middle):
        return improvement, linearity, np.float64(np.nan)
    return improvement, linearity, improvement / np.sqrt(middle)


def median(x):
    """The middle number, or the mean of the two; it moves by no more than the largest error."""
    rising = x[np.argsort(plain(x), kind="stable")]
    n = len(plain(x))
    return (rising[(n - 1) // 2] + rising[n // 2]) / 2
