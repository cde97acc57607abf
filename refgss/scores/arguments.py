"""What is asked of arguments before anything is computed; each refusal is one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refgss.scores.readings import plain

OFF_BY = 1e-4  # a sum of probabilities that is farther from 1 is no rounding


def first_row(bad: np.ndarray) -> int:
    """The first row of (n,...) with a true element."""
    return int(np.argmax(bad.reshape(len(bad), -1).any(1)))


def check_logits(name: str, logits: Any) -> None:
    """Clauses: GSS-CAL-10."""
    z = plain(logits)
    if z.ndim != 2 or z.shape[1] == 0:
        raise ValueError(f"{name} {z.shape} must be (n,K) with at least one class")
    bad = np.isnan(z) | (z == np.inf)
    if bad.any():
        raise ValueError(f"{name}: row {first_row(bad)} has a NaN or +infinity")
    none = np.all(z == -np.inf, 1, keepdims=True)
    if none.any():
        raise ValueError(f"{name}: row {first_row(none)} has no finite logit")


def check_probabilities(name: str, p: Any) -> None:
    """Clauses: GSS-CAL-2, GSS-CAL-10."""
    q = plain(p)
    if q.ndim != 2 or q.shape[1] == 0:
        raise ValueError(f"{name} {q.shape} must be (n,K) with at least one class")
    bad = ~(q >= 0)
    if bad.any():
        raise ValueError(f"{name}: row {first_row(bad)} has a negative number or NaN")
    off = ~(np.abs(q.sum(1, keepdims=True) - 1) <= OFF_BY)
    if off.any():
        raise ValueError(f"{name}: row {first_row(off)} does not sum to 1: give probabilities")


def check_labels(labels: Any, n: int, classes: int) -> None:
    """Clauses: GSS-CAL-10."""
    y = plain(labels)
    if y.shape != (n,) or y.dtype.kind not in "iu":
        raise ValueError(f"labels {y.shape} must be integers ({n},), one for each row")
    bad = (y < 0) | (y >= classes)
    if bad.any():
        raise ValueError(f"labels: row {first_row(bad)} has {y[first_row(bad)]}, of {classes}")


def check_scores(name: str, scores: Any) -> None:
    """Clauses: GSS-EST-10."""
    s = plain(scores)
    if s.ndim != 1 or not s.size:
        raise ValueError(f"{name} {s.shape} must be (n,) with at least one sample")
    bad = np.isnan(s)
    if bad.any():
        raise ValueError(f"{name}: sample {first_row(bad)} is NaN")


def check_confidence(name: str, confidence: Any) -> None:
    """Clauses: GSS-CAL-10."""
    check_scores(name, confidence)
    c = plain(confidence)
    bad = (c < 0) | (c > 1)
    if bad.any():
        raise ValueError(f"{name}: sample {first_row(bad)} is outside 0 to 1")


def check_correct(correct: Any, n: int) -> None:
    """Clauses: GSS-CAL-10, GSS-EST-10."""
    c = plain(correct)
    if c.shape != (n,) or c.dtype.kind not in "biu" or np.any((c != 0) & (c != 1)):
        raise ValueError(f"correct {c.shape} must be ({n},), 1 where the prediction is right, or 0")


def check_choice(name: str, value: Any, among: Sequence[str]) -> None:
    if value not in among:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(among)}")


def check_whole(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be an integer, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}: choose {least} to {most}")


def check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ValueError(f"{name} must be a number, not {value!r}")
    if not (0 < value < np.inf):
        raise ValueError(f"{name} is {value}: it must be positive and finite")


MOST_CHARACTERS = 100_000


def check_text(name: str, text: Any) -> None:
    """Clauses: GSS-ANS-12."""
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a text, not {text!r:.60}")
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{name} has {len(text)} characters, more than {MOST_CHARACTERS}")


def check_texts(name: str, texts: Any) -> None:
    """Clauses: GSS-ANS-12."""
    if not isinstance(texts, list | tuple) or not texts:
        raise ValueError(f"{name} must be a list of texts, at least one")
    for i, text in enumerate(texts):
        check_text(f"{name}[{i}]", text)
