"""The fitted temperature, proven: a bracket of balls about the root of the NLL's derivative."""

from __future__ import annotations

import numpy as np
from flint import arb

from refgss.conformance.vectors.format import Expected
from refgss.scores.calibration import HOTTEST, fit_temperature

SHARE = 2.0**-20  # of T: how far a fitted temperature may be from the exact one (GSS-CAL-4)
BRACKET = 2**60  # T is proven to one part in so many


def fitted_temperature(logits: np.ndarray, labels: np.ndarray) -> dict[str, Expected]:
    """The outputs of `fit_temperature`.  Raises ValueError where the op refuses the case."""
    guess, at_bound = fit_temperature(logits.astype(np.float64), labels)
    z = [[arb(float(v)) for v in row] for row in logits]
    beta, flat = 1 / arb(float(guess)), bool(np.all(logits == logits[:, :1]))
    if flat:
        beta = arb(1)
    elif at_bound:
        beta = arb(HOTTEST) if guess < 1 else 1 / arb(HOTTEST)
        assert outside(beta, z, labels, guess < 1)
    else:
        for _ in range(6):  # Newton, from sixteen digits to more than a hundred
            value, derivative = slope(beta, z, labels)
            beta = arb((beta - value / derivative).mid())
        below, above = beta * (1 - arb(1) / BRACKET), beta * (1 + arb(1) / BRACKET)
        assert slope(below, z, labels)[0] < 0 < slope(above, z, labels)[0]
    hi = float(1 / beta)
    lo = float(1 / beta - arb(hi))
    radius = np.array(hi * 2.0**-59 if not (flat or at_bound) else 0.0)
    budget = dict.fromkeys(("f32", "f64"), np.array(hi * SHARE))
    bound = Expected.exactly(np.array(at_bound, np.int64))
    return {"temperature": Expected(np.array(hi), np.array(lo), radius, budget), "at_bound": bound}


def outside(beta: arb, z: list[list[arb]], labels: np.ndarray, cold: bool) -> bool:
    """Whether the NLL still falls beyond this β, where it is cold, or already rises before it."""
    value = slope(beta, z, labels)[0]
    return bool(value < 0) if cold else bool(value > 0)


def slope(beta: arb, z: list[list[arb]], labels: np.ndarray) -> tuple[arb, arb]:
    """The sums over samples of Σ p z − z[y] and of the variance of z under p."""
    first = second = arb(0)
    for row, y in zip(z, labels, strict=True):
        weights = [((v - row[0]) * beta).exp() for v in row]
        p = [w / sum(weights) for w in weights]
        mean = sum(a * b for a, b in zip(p, row, strict=True))
        first += mean - row[int(y)]
        second += sum(a * (b - mean) ** 2 for a, b in zip(p, row, strict=True))
    return first, second
