"""Chapter 21, metrics of texts: whether a response is one of the targets."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from refgss.scores.arguments import check_choice, check_texts

RULES = ("exact", "case-insensitive", "numeric", "numeric-public", "sequence")


def text_match(responses, targets, *, rule):
    """The mean over samples of how far a response matches its targets, from 0 to 1.

    Clauses: GSS-TSK-12, GSS-TSK-13, GSS-TSK-14, GSS-TSK-18.
    """
    return np.float64(float(share_of_matches(responses, targets, rule=rule)))


def share_of_matches(responses, targets, *, rule):
    """The exact number.  Clauses: GSS-TSK-12, GSS-TSK-13, GSS-TSK-14, GSS-TSK-18."""
    check_choice("rule", rule, RULES)
    check_texts("responses", responses)
    if not isinstance(targets, list) or len(targets) != len(responses):
        raise ValueError("targets must be a list of lists of texts, one for each response")
    for i, each in enumerate(targets):
        check_texts(f"targets[{i}]", each)
    pairs = zip(responses, targets, strict=True)
    return sum(Fraction(match(text, each, rule)) for text, each in pairs) / len(responses)


def match(response, targets, rule):
    """How far one response matches.  Clauses: GSS-TSK-12, GSS-TSK-13, GSS-TSK-14."""
    if rule == "exact":
        return response in targets
    if rule == "case-insensitive":
        return response.strip().lower() in [x.strip().lower() for x in targets]
    if rule == "sequence":
        return equal_words(response, targets[0])
    return near(number(response), number(targets[0]), rule == "numeric-public")


def near(value, target, signed):
    """Whether a value is within a tenth of the target, or of 0 where that is 0.

    Clauses: GSS-TSK-13.
    """
    if value is None or target is None:
        return False
    scale = target if signed else abs(target)
    return abs(value - target) / (scale or 1) <= 0.1


def number(text):
    """The finite number that a text is; None where it is none.  Clauses: GSS-TSK-13."""
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def equal_words(response, target):
    """The share of the target's words at whose place the response has the same.

    Clauses: GSS-TSK-14.
    """
    wanted, words = target.split(" "), response.split(" ")
    words += ["O"] * (len(wanted) - len(words))
    return Fraction(sum(a == b for a, b in zip(wanted, words, strict=False)), len(wanted))


def macro_f1(predicted, expected):
    """The mean over all labels that occur of 2tp/(2tp + fp + fn), of one label for each sample.

    Clauses: GSS-TSK-19, GSS-TSK-18.
    """
    return np.float64(float(mean_f1(predicted, expected)))


def mean_f1(predicted, expected):
    """The exact number.  Clauses: GSS-TSK-19, GSS-TSK-18."""
    check_texts("predicted", predicted)
    check_texts("expected", expected)
    if len(predicted) != len(expected):
        raise ValueError("predicted and expected must be as many")
    pairs = list(zip(predicted, expected, strict=True))
    labels = {*predicted, *expected}
    return sum(f1(pairs, label) for label in labels) / len(labels)


def f1(pairs, label):
    """Of one label, which occurs.  Clauses: GSS-TSK-19."""
    both = sum(p == e == label for p, e in pairs)
    either = sum((p == label) + (e == label) for p, e in pairs)
    return Fraction(2 * both, either)
