"""Chapters 23 and 24: calibration and accuracy estimation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refgss.conformance.vectors.cases.common import Case, Draw, F

INF, NAN = np.inf, np.nan
Tensors = dict[str, np.ndarray]


def i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def f32(*values: Any) -> np.ndarray:
    return np.array(values, F)


def case(id: str, clauses: str, tensors: Tensors, note: str = "", **options: Any) -> Case:
    """A case that has an answer; the op stands before the stroke, clauses without GSS-."""
    ids = tuple(f"GSS-{c}" for c in clauses.split())
    return Case(id, id.split("/")[0], ids, tensors, options, (), note)


def refuse(id: str, clause: str, tensors: Tensors, **options: Any) -> Case:
    op, why = id.split("/")
    return Case(
        f"{op}/refuse-{why}", op, (f"GSS-{clause}",), tensors, options, ("refusal",), error=True
    )


def calibrations() -> Iterator[Case]:
    yield from probabilities()
    yield from temperatures()
    yield from bins()
    yield from briers()
    yield from refused_calibrations()


def probabilities() -> Iterator[Case]:
    draw = Draw("calibration/probabilities")
    z, y = draw(5, 4), i32(2, 0, 3, 1, 1)
    for name, logits, note in (
        ("random", z, ""),
        ("far", f32([1000, 999, -1000], [-3e38, -3e38, -3e38]), "exp overflows without a shift"),
        ("masked", f32([0.5, -INF, 1], [-INF, -INF, 3]), "−∞ weighs nothing"),
        ("one-class", f32([3], [-7]), ""),
        ("none", np.zeros((0, 3), F), "no sample"),
    ):
        for t in (1.0, 0.25, 3.0):
            yield case(f"softmax/{name}-{t:g}", "CAL-1", {"logits": logits}, note, temperature=t)
    for t in (1.0, 0.5, 4.0):
        both = {"logits": z, "labels": y}
        yield case(f"nll/random-{t:g}", "CAL-3", both, temperature=t)
    far = {"logits": f32([1000, 990, 0], [0, -1000, 5]), "labels": i32(1, 0)}
    yield case("nll/far", "CAL-3", far, temperature=1.0)
    masked = {"logits": f32([0.5, -INF, 1], [0, 1, 2])}
    yield case("nll/masked", "CAL-3", masked | {"labels": i32(2, 1)}, temperature=2.0)
    note = "what is impossible has happened"
    yield case("nll/impossible", "CAL-3", masked | {"labels": i32(1, 1)}, note, temperature=1.0)
    for name, p, note in (
        ("exact", f32([0.5, 0.25, 0.25], [1, 0, 0]), "rows that sum to 1 stay as they are"),
        ("near", f32([0.5, 0.25, 0.25005], [0.33333, 0.33333, 0.3333]), "off by less than 10⁻⁴"),
        ("rounded", f32([0.1, 0.2, 0.7], [0.3, 0.3, 0.4]), ""),
    ):
        yield case(f"renormalize/{name}", "CAL-2", {"p": p}, note)
    for name, p in (
        ("sum", f32([0.5, 0.25, 0.2502])),
        ("small-sum", f32([0.5, 0.5], [0.5, 0.4998])),
        ("negative", f32([1.125, -0.125])),
        ("nan", f32([NAN, 1])),
        ("no-class", np.zeros((2, 0), F)),
    ):
        yield refuse(f"renormalize/{name}", "CAL-2", {"p": p})


def temperatures() -> Iterator[Case]:
    draw = Draw("calibration/temperatures")
    z = draw(12, 3, scale=2)
    y = z.argmax(1).astype(np.int32)
    y[[1, 4, 8]] = (y[[1, 4, 8]] + 1) % 3
    for name, clauses, logits, labels, note in (
        ("sharp", "CAL-4", z, y, ""),
        ("scaled", "CAL-4", 4 * z, y, "four times as hot"),
        ("flatter", "CAL-4", z / 4, y, "at a quarter of it"),
        ("two-classes", "CAL-4", f32([1, 0], [1, 0], [2, 0], [0, 1]), i32(0, 1, 0, 1), ""),
        ("separable", "CAL-5", z, z.argmax(1).astype(np.int32), "T → 0"),
        ("worse-than-chance", "CAL-5", z, z.argmin(1).astype(np.int32), "T → ∞"),
        ("uniform", "CAL-5", f32([1, 1, 1], [-2, -2, -2]), i32(0, 2), "NLL knows no T"),
        (
            "cold",
            "CAL-4",
            f32(*[[0.0625, 0]] * 4, [0, 0.0625]),
            i32(0, 0, 0, 0, 0),
            "inside, near the lower bound",
        ),
    ):
        yield case(f"fit_temperature/{name}", clauses, {"logits": logits, "labels": labels}, note)


NINE = f32(0.25, 0.5, 0.75, 1, 0.8, 0.9, 1, 0, 0.95), i32(0, 1, 1, 1, 0, 1, 0, 0, 1)


def bins() -> Iterator[Case]:
    draw = Draw("calibration/bins")
    random = draw.rng.random(20).astype(F), draw.rng.integers(0, 2, 20, np.int32)
    sets = {
        "nine": (*NINE, "on edges of four bins, with 0 and 1"),
        "random": (*random, ""),
        "certain": (f32(1, 1, 1), i32(1, 0, 1), "all in the last bin"),
        "doubtful": (f32(0, 0, 0.125), i32(1, 0, 1), "0 belongs to the first bin"),
        "equal": (f32(0.75, 0.75, 0.75, 0.75, 0.5), i32(1, 0, 1, 1, 0), "ties"),
        "one": (f32(0.625), i32(1), ""),
    }
    for name, (c, r, note) in sets.items():
        for m in (4, 15):
            for edges in ("right-open", "left-open", "phantom"):
                yield case(
                    f"calibration_error/{name}-{m}-{edges}",
                    "CAL-6 CAL-8",
                    {"confidence": c, "correct": r},
                    note,
                    bins=m,
                    edges=edges,
                    binning="width",
                )
        for m in (3,) if name == "random" else (10,):
            yield case(
                f"calibration_error/{name}-{m}-mass",
                "CAL-7 CAL-8",
                {"confidence": c, "correct": r},
                note,
                bins=m,
                edges="right-open",
                binning="mass",
            )


def briers() -> Iterator[Case]:
    draw = Draw("calibration/brier")
    e = np.exp(draw(6, 4).astype(float))
    p, y = (e / e.sum(1, keepdims=True)).astype(F), i32(0, 3, 2, 1, 1, 0)
    for per in ("sample", "option"):
        yield case(f"brier/random-{per}", "CAL-9", {"p": p, "labels": y}, per=per)
        sure = {"p": f32([1, 0, 0], [0, 1, 0]), "labels": i32(0, 2)}
        yield case(f"brier/sure-{per}", "CAL-9", sure, per=per)
        yield case(f"brier/one-class-{per}", "CAL-9", {"p": f32([1]), "labels": i32(0)}, per=per)
    off = {"p": f32([0.5, 0.50005], [0.25, 0.75]), "labels": i32(0, 1)}
    yield case("brier/renormalized", "CAL-9 CAL-2", off, per="sample")


def refused_calibrations() -> Iterator[Case]:
    z, y = f32([1, 2, 3], [0, 1, 0]), i32(0, 2)
    logits = {
        "nan": f32([1, NAN]),
        "infinite": f32([1, INF]),
        "impossible": f32([-INF, -INF]),
        "flat": f32(1, 2),
        "no-class": np.zeros((1, 0), F),
    }
    for why, bad in logits.items():
        yield refuse(f"softmax/{why}", "CAL-10", {"logits": bad}, temperature=1.0)
    for why, bad in logits.items():
        both = {"logits": bad, "labels": i32(0)}
        yield refuse(f"nll/{why}", "CAL-10", both, temperature=1.0)
        yield refuse(f"fit_temperature/{why}", "CAL-10", both)
    for why, t in (("zero", 0.0), ("negative", -1.0)):
        yield refuse(f"softmax/temperature-{why}", "CAL-10", {"logits": z}, temperature=t)
        both = {"logits": z, "labels": y}
        yield refuse(f"nll/temperature-{why}", "CAL-10", both, temperature=t)
    labels = {"high": i32(0, 3), "negative": i32(-1, 0), "few": i32(0), "real": f32(0, 1)}
    p = f32([0.5, 0.25, 0.25], [1, 0, 0])
    for why, bad in labels.items():
        yield refuse(f"nll/label-{why}", "CAL-10", {"logits": z, "labels": bad}, temperature=1.0)
        yield refuse(f"fit_temperature/label-{why}", "CAL-10", {"logits": z, "labels": bad})
        yield refuse(f"brier/label-{why}", "CAL-10", {"p": p, "labels": bad}, per="sample")
    none = {"logits": np.zeros((0, 3), F), "labels": i32()}
    yield refuse("nll/no-sample", "CAL-10", none, temperature=1.0)
    yield refuse("fit_temperature/no-sample", "CAL-10", none)
    yield refuse(
        "fit_temperature/one-class", "CAL-10", {"logits": f32([1], [2]), "labels": i32(0, 0)}
    )
    masked = {"logits": f32([1, -INF]), "labels": i32(0)}
    yield refuse("fit_temperature/masked", "CAL-10", masked)
    none = {"p": np.zeros((0, 3), F), "labels": i32()}
    yield refuse("brier/no-sample", "CAL-10", none, per="sample")
    yield refuse("brier/sum", "CAL-2", {"p": f32([0.5, 0.25]), "labels": i32(0)}, per="sample")
    yield refuse("brier/per", "CAL-9", {"p": p, "labels": y}, per="class")
    c, r = NINE
    binned: dict[str, Any] = {"bins": 4, "edges": "right-open", "binning": "width"}
    for why, confidence, correct in (
        ("above", f32(1.5), i32(1)),
        ("below", f32(-0.125), i32(1)),
        ("nan", f32(NAN, 0.5), i32(1, 0)),
        ("lengths", f32(0.5, 0.5), i32(1)),
        ("no-sample", f32(), i32()),
        ("matrix", f32([0.5]), i32(1)),
        ("correct-two", f32(0.5), i32(2)),
        ("correct-real", f32(0.5), f32(1)),
    ):
        tensors = {"confidence": confidence, "correct": correct}
        yield refuse(f"calibration_error/{why}", "CAL-10", tensors, **binned)
    for why, change in (
        ("no-bin", {"bins": 0}),
        ("many-bins", {"bins": 1001}),
        ("edges", {"edges": "open"}),
        ("binning", {"binning": "depth"}),
    ):
        tensors = {"confidence": c, "correct": r}
        yield refuse(f"calibration_error/{why}", "CAL-6", tensors, **{**binned, **change})


# --- chapter 24 ----------------------------------------------------------------------------------


def estimations() -> Iterator[Case]:
    yield from confidences()
    yield from thresholds()
    yield from comparisons()
    yield from replicates()
    yield from refused_estimations()


def confidences() -> Iterator[Case]:
    draw = Draw("estimation/confidences")
    e = np.exp(draw(6, 4).astype(float))
    sets = {
        "random": (e / e.sum(1, keepdims=True)).astype(F),
        "sure": f32([1, 0, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]),
        "near": f32([0.5, 0.50005], [0.25, 0.75]),
    }
    for name, p in sets.items():
        for score in ("max", "negative_entropy"):
            yield case(f"confidence/{name}-{score}", "EST-1 CAL-2", {"p": p}, score=score)


def thresholds() -> Iterator[Case]:
    draw = Draw("estimation/thresholds")
    s, t = (draw.rng.random(n).astype(F) for n in (15, 11))
    few = f32(0.75, 0.5, 0.625, 0.875), f32(0.9375, 0.75, 0.625, 0.5, 0.25)
    tied = f32(0.75, 0.75, 0.75, 0.875), f32(0.9375, 0.75, 0.625, 0.5)
    entropies = f32(-0.125, -0.25, -0.375, -0.625), f32(-0.0625, -0.25, -0.5, -1)
    sets = {
        "random": (s, draw.rng.integers(0, 2, 15, np.int32), t, ""),
        "one-error": (few[0], i32(1, 0, 1, 1), few[1], ""),
        "sure-error": (
            few[0],
            i32(1, 1, 1, 0),
            few[1],
            "the surest is wrong: only how many counts",
        ),
        "no-error": (few[0], i32(1, 1, 1, 1), few[1], ""),
        "all-wrong": (few[0], i32(0, 0, 0, 0), few[1], ""),
        "ties": (tied[0], i32(0, 1, 1, 1), tied[1], "the threshold is tied"),
        "two-ties": (tied[0], i32(0, 1, 0, 1), tied[1], "two errors among three that are tied"),
        "entropies": (entropies[0], i32(1, 1, 0, 1), entropies[1], "scores below 0"),
        "entropies-no-error": (entropies[0], i32(1, 1, 1, 1), entropies[1], "and no error"),
        "one": (f32(0.5), i32(1), f32(0.5), ""),
    }
    for name, (source, correct, target, note) in sets.items():
        for rule in ("exact", "public"):
            for ties in ("ge", "gt", "split"):
                tensors = {"source": source, "correct": correct, "target": target}
                clause = "EST-2" if rule == "exact" else "EST-3"
                id = f"atc/{name}-{rule}-{ties}"
                yield case(id, f"{clause} EST-4", tensors, note, rule=rule, ties=ties)


def comparisons() -> Iterator[Case]:
    draw = Draw("estimation/comparisons")
    s, t = (draw.rng.random(n).astype(F) for n in (15, 11))
    r = draw.rng.integers(0, 2, 15, np.int32)
    low = f32(0.125, 0.25)
    sets = {
        "random": (s, r, t, ""),
        "edges": (f32(0, 0.5, 1, 0.25), i32(1, 0, 1, 1), f32(0, 0.5, 1), "on the edges of bins"),
        "between": (f32(0.375, 0.625), i32(1, 0), f32(0.5), "the edge of two bins"),
        "above-one": (low, i32(1, 1), f32(1, 0.75), "more than 1"),
        "below-zero": (f32(1, 0.875), i32(0, 0), low, "less than 0"),
        "apart": (f32(0.9375, 1), i32(1, 0), low, "no bin has both"),
        "dropped": (f32(0.9375, 1, 0.96875), i32(1, 0, 1), f32(0.125, 0.9375), "one is dropped"),
    }
    for name, (source, correct, target, note) in sets.items():
        tensors = {"source": source, "correct": correct, "target": target}
        yield case(f"average_confidence/{name}", "EST-5", {"target": target}, note)
        for clip in (False, True):
            id = f"difference_of_confidences/{name}{'-clipped' if clip else ''}"
            yield case(id, "EST-6", tensors, note, clip=clip)
        for m in (4, 10):
            yield case(f"importance_reweighting/{name}-{m}", "EST-7", tensors, note, bins=m)
    first, second = draw(9, 3), draw(9, 3)
    second[:4] = first[:4] + 0.125
    ties = f32([1, 1, 0], [0, 2, 2], [3, 0, 3]), f32([1, 0, 0], [0, 2, 1], [0, 0, 1])
    for name, a, b in (("random", first, second), ("ties", *ties)):
        yield case(f"agreement/{name}", "EST-8", {"first": a, "second": b})


def replicates() -> Iterator[Case]:
    for name, group in (
        ("samples", np.arange(12, dtype=np.int32)),
        ("documents", i32(0, 0, 1, 2, 2, 2, 3)),
        ("mixed", i32(2, 0, 1, 0, 2, 1)),
        ("one", i32(0, 0, 0)),
    ):
        for seed, replicate in ((0, 0), (0, 1), (1, 0), (2**53 - 1, 999)):
            yield case(
                f"resample/{name}-{seed}-{replicate}",
                "EST-9",
                {"group": group},
                seed=seed,
                replicate=replicate,
            )
    values = Draw("estimation/values")(41)
    for name, x in (("random", values), ("three", f32(3, 1, 2)), ("one", f32(0.5))):
        for percent in (95, 50, 33):
            id = f"percentile_interval/{name}-{percent}"
            yield case(id, "EST-11", {"values": x}, percent=percent)


def refused_estimations() -> Iterator[Case]:
    s, r, t = f32(0.5, 0.75), i32(1, 0), f32(0.25)
    good = {"source": s, "correct": r, "target": t}
    ways: dict[str, dict[str, Any]] = {
        "atc": {"rule": "exact", "ties": "ge"},
        "difference_of_confidences": {"clip": False},
        "importance_reweighting": {"bins": 10},
    }
    for op, options in ways.items():
        for why, change in (
            ("nan-source", {"source": f32(NAN, 0.5)}),
            ("nan-target", {"target": f32(0.5, NAN)}),
            ("no-target", {"target": f32()}),
            ("no-source", {"source": f32(), "correct": i32()}),
            ("lengths", {"correct": i32(1)}),
            ("correct", {"correct": i32(1, 2)}),
        ):
            yield refuse(f"{op}/{why}", "EST-10", good | change, **options)
    for op in ("difference_of_confidences", "importance_reweighting"):
        for name in ("source", "target"):
            change = {name: np.array(good[name]) + F(1)}
            yield refuse(f"{op}/outside-{name}", "EST-10", good | change, **ways[op])
    for why, target in (("nan", f32(NAN)), ("outside", f32(-0.5)), ("no-target", f32())):
        yield refuse(f"average_confidence/{why}", "EST-10", {"target": target})
    yield refuse("atc/rule", "EST-2", good, rule="best", ties="ge")
    yield refuse("atc/ties", "EST-4", good, rule="exact", ties="eq")
    yield refuse("confidence/sum", "CAL-2", {"p": f32([0.5, 0.25])}, score="max")
    yield refuse("confidence/score", "EST-1", {"p": f32([0.5, 0.5])}, score="entropy")
    z = f32([1, 2], [3, 4])
    for why, second in (("shape", z[:1]), ("nan", z * F(NAN)), ("vector", z[0])):
        yield refuse(f"agreement/{why}", "EST-10", {"first": z, "second": second})
    none = np.zeros((0, 2), F)
    yield refuse("agreement/no-sample", "EST-10", {"first": none, "second": none})
    yield refuse("agreement/nan-first", "EST-10", {"first": z * F(NAN), "second": z})
    for why, group in (("gap", i32(0, 2)), ("negative", i32(-1, 0)), ("none", i32())):
        yield refuse(f"resample/{why}", "EST-10", {"group": group}, seed=0, replicate=0)
    for why, wrong in (("seed", {"seed": -1}), ("replicate", {"replicate": -1})):
        draws = {"seed": 0, "replicate": 0} | wrong
        yield refuse(f"resample/{why}", "EST-10", {"group": i32(0, 1)}, **draws)
    for why, values, percent in (
        ("nan", f32(0, NAN), 95),
        ("none", f32(), 95),
        ("zero", f32(1), 0),
        ("all", f32(1), 100),
    ):
        tensors = {"values": values}
        yield refuse(f"percentile_interval/{why}", "EST-10", tensors, percent=percent)
