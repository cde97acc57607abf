"""Calibration of a model on samples with labels, and its accuracy on samples without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from refgss import scores
from refgss.scores.profiles import PROFILES
from refgss.studies.samples import Samples, SamplesError

BINS = 10  # of importance reweighting, over all confidences
METHODS = ("ATC-MC", "ATC-NE", "AC", "DOC", "IM")
PERCENT = 95


def calibration(source: Samples, temperature: float, **binning: Any) -> dict[str, Any]:
    """The scores of chapter 23 at a temperature, with the bins of the reliability diagram."""
    labels = with_labels(source)
    p = source.probabilities(temperature)
    sure = np.asarray(scores.confidence(p, score="max"))
    ece, mce, rmsce, counts, hits, mean = scores.calibration_error(
        np.minimum(sure, 1), source.correct, **binning
    )
    bins = [
        {"samples": int(n), "accuracy": float(h / n), "confidence": float(c)}
        for n, h, c in zip(counts, hits, mean, strict=True)
        if n
    ]
    return {
        "temperature": temperature,
        "nll": number(scores.nll(source.logits, labels, temperature=temperature)),
        "ece": float(ece),
        "mce": float(mce),
        "rmsce": float(rmsce),
        "brier": float(scores.brier(p, labels, per="sample")),
        "bins": bins,
    }


def with_labels(samples: Samples) -> np.ndarray:
    if samples.labels is None:
        raise SamplesError(f"{samples.name} has no labels: they are needed of the source")
    return samples.labels


def number(x: Any) -> float | None:
    """A number as JSON has it; None where it is none."""
    return float(x) if np.isfinite(x) else None


def fitted(source: Samples) -> tuple[float, bool]:
    """The temperature of the source, and whether it is at a bound.  Raises SamplesError."""
    try:
        temperature, at_bound = scores.fit_temperature(source.logits, with_labels(source))
    except ValueError as e:
        raise SamplesError(f"{source.name}: {e}; give --temperature") from e
    return float(temperature), bool(at_bound)


def confidences(samples: Samples, temperature: float) -> dict[str, np.ndarray]:
    p = samples.probabilities(temperature)
    found = {k: scores.confidence(p, score=k) for k in ("max", "negative_entropy")}
    return found | {"max": np.minimum(found["max"], 1)}


def estimates(
    source: Mapping[str, np.ndarray],
    correct: np.ndarray,
    target: Mapping[str, np.ndarray],
    profile: str,
) -> dict[str, float]:
    """The accuracy of the target by each of METHODS; NaN where a method says nothing."""
    options = PROFILES[profile]["atc"]
    by_score = {
        name: scores.atc(source[key], correct, target[key], **options)[2]
        for name, key in (("ATC-MC", "max"), ("ATC-NE", "negative_entropy"))
    }
    s, t = source["max"], target["max"]
    others = {
        "AC": scores.average_confidence(t),
        "DOC": scores.difference_of_confidences(s, correct, t, clip=False),
        "IM": scores.importance_reweighting(s, correct, t, bins=BINS)[0],
    }
    return {name: float(x) for name, x in (by_score | others).items()}


def intervals(
    source: Samples,
    target: Samples,
    temperature: float,
    profile: str,
    replicates: int,
    seed: int,
    progress: Callable[[], None],
) -> dict[str, list[float] | None]:
    """Of each method the interval of 95 % of bootstrap replicates, at the same temperature."""
    s, t = confidences(source, temperature), confidences(target, temperature)
    drawn: dict[str, list[float]] = {name: [] for name in METHODS}
    for b in range(replicates):
        i = scores.resample(source.group, seed=seed, replicate=b)
        j = scores.resample(target.group, seed=seed + 1, replicate=b)
        of_source, of_target = ({k: x[at] for k, x in y.items()} for y, at in ((s, i), (t, j)))
        for name, x in estimates(of_source, source.correct[i], of_target, profile).items():
            drawn[name].append(x)
        progress()
    return {
        name: None
        if not np.all(np.isfinite(x))
        else [float(v) for v in scores.percentile_interval(np.array(x), percent=PERCENT)]
        for name, x in drawn.items()
    }


def estimate(
    source: Samples,
    target: Samples,
    second: Samples | None,
    temperature: float,
    profile: str,
) -> dict[str, Any]:
    """One target: what each method says, what was dropped, and the truth where it is known."""
    if target.logits.shape[1] != source.logits.shape[1]:
        classes = source.logits.shape[1], target.logits.shape[1]
        raise SamplesError(f"{source.name} has {classes[0]} classes and {target.name} {classes[1]}")
    with_labels(source)
    s, t = confidences(source, temperature), confidences(target, temperature)
    found = estimates(s, source.correct, t, profile)
    dropped = scores.importance_reweighting(s["max"], source.correct, t["max"], bins=BINS)[1]
    line: dict[str, Any] = {"target": target.name, "samples": len(target.logits)}
    line["estimates"] = {name: number(x) for name, x in found.items()}
    line["dropped"] = dropped
    if second is not None:
        try:
            line["estimates"]["GDE"] = float(scores.agreement(target.logits, second.logits))
        except ValueError as e:
            raise SamplesError(f"{target.name} and {second.name}: {e}") from e
    if target.labels is not None:
        line["accuracy"] = float(target.correct.mean())
    return line


def mean_absolute_errors(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of each method over the targets whose accuracy is known and of which it says something."""
    errors: dict[str, list[float]] = {}
    for line in lines:
        for name, x in line["estimates"].items():
            if x is not None and "accuracy" in line:
                errors.setdefault(name, []).append(abs(x - line["accuracy"]))
    return {name: float(np.mean(x)) for name, x in errors.items()}
