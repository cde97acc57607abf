"""Chapter 22, votes: the answer given most often, and what a vote of k samples is worth."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np

from refgss.scores.answers import INVALID
from refgss.scores.arguments import check_choice, check_text, check_texts, check_whole

MOST_SAMPLES = 100_000
LARGEST = 2**1000  # well inside binary64


def vote(answers, *, invalid, ties):
    """The answer that is given most often, and how often; INVALID and 0 where there is none.

    Clauses: GSS-ANS-8, GSS-ANS-12.
    """
    check_texts("answers", answers)
    check_choice("ties", ties, ("first", "last"))
    counts = tally(answers, invalid)
    if not counts:
        return INVALID, 0
    most = max(counts.values())
    tied = [answer for answer, n in counts.items() if n == most]
    return tied[0 if ties == "first" else -1], most


def tally(answers, invalid):
    """How often each answer is given, in the order in which they come first.

    Clauses: GSS-ANS-8.
    """
    check_choice("invalid", invalid, ("drop", "keep"))
    kept = [x for x in answers if invalid == "keep" or x != INVALID]
    return {answer: kept.count(answer) for answer in dict.fromkeys(kept)}


def vote_score(answers, gold, *, invalid):
    """1 where the gold answer alone is given most often, 1/t where it is tied with t − 1 others.

    Clauses: GSS-ANS-9, GSS-ANS-12.
    """
    return np.float64(float(share_of_vote(answers, gold, invalid=invalid)))


def share_of_vote(answers, gold, *, invalid):
    """The exact number.  Clauses: GSS-ANS-9, GSS-ANS-12."""
    check_text("gold", gold)
    check_texts("answers", answers)
    counts = tally(answers, invalid)
    if gold not in counts or counts[gold] < max(counts.values()):
        return Fraction(0)
    return Fraction(1, sum(n == counts[gold] for n in counts.values()))


def majority_at_k(counts, *, gold, invalid, k):
    """What `vote_score` of k of the samples is on average, over all choices of k.

    counts (G,) tells how often each answer was given, `gold` which of them is right, or −1, and
    `invalid` how many samples gave none.  Clauses: GSS-ANS-10, GSS-ANS-12.
    """
    c = check_counts(counts, gold, invalid, k)
    small = comb(sum(c) + invalid, k) < LARGEST  # then no product below overflows
    return np.float64(mean_share(c, gold, invalid, k, float if small else int))


def mean_share(counts, gold, invalid, k, number=int):
    """Choices of k in which gold has m votes, each other answer at most m and t of them m, count
    1/(t + 1).  Exact where `number` is int, else all terms are positive.  Clauses: GSS-ANS-10.
    """
    if gold < 0:
        return number(0)
    others = [c for i, c in enumerate(counts) if i != gold]
    total = Fraction(0)
    for m in range(1, min(k, counts[gold]) + 1):
        low = invalid + sum(c for c in others if c < m)  # whose number needs no limit
        high = [c for c in others if c >= m]
        for t, ways in enumerate(ways_to_choose(k - m, m, low, high, number)):
            total += Fraction(ways) * comb(counts[gold], m) / (t + 1)
    return number(0) + total / comb(sum(counts) + invalid, k)


def ways_to_choose(k, m, low, high, number):
    """In how many ways k samples have at most m of each of `high`, by how many of these have m.

    The samples `low` have no limit.  Clauses: GSS-ANS-10.
    """
    table = np.zeros((k + 1, k // m + 1), float if number is float else object)  # samples, ties
    table[:, 0] = [number(comb(low, s)) for s in range(k + 1)]
    for c in high:
        ways = [number(comb(c, j)) for j in range(min(m, k) + 1)]
        more = np.zeros_like(table)
        for j in range(min(m, k + 1)):
            more[j:] += ways[j] * table[: k + 1 - j]
        if m <= k:
            more[m:, 1:] += ways[m] * table[: k + 1 - m, :-1]
        table = more
    return table[k]


def pass_at_k(*, n, c, k):
    """The share of the choices of k of n samples that have one of the c right ones.

    Clauses: GSS-ANS-11, GSS-ANS-12.
    """
    return np.float64(float(share_with_one(n=n, c=c, k=k)))


def share_with_one(*, n, c, k):
    """The exact number.  Clauses: GSS-ANS-11, GSS-ANS-12."""
    check_whole("n", n, 1, MOST_SAMPLES)
    check_whole("c", c, 0, n)
    check_whole("k", k, 1, n)
    return 1 - Fraction(comb(n - c, k), comb(n, k))


def check_counts(counts, gold, invalid, k):
    """The counts as a list.  Clauses: GSS-ANS-12."""
    x = np.asarray(counts)
    if x.ndim != 1 or x.dtype.kind not in "iu" or np.any(x < 1):
        raise ValueError(f"counts {x.shape} must be positive integers (G,)")
    check_whole("invalid", invalid, 0, MOST_SAMPLES)
    check_whole("gold", gold, -1, len(x) - 1)
    check_whole("k", k, 1, int(x.sum()) + invalid)
    return [int(c) for c in x]
