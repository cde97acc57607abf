"""Chapter 21: tasks, their prompts and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refgss.conformance.vectors.cases.calibration import case, f32, i32, refuse
from refgss.conformance.vectors.cases.common import Case, Draw


def tasks() -> Iterator[Case]:
    yield from orders()
    yield from prompts()
    yield from choices()
    yield from texts()
    yield from aggregates()
    yield from refused_tasks()


def orders() -> Iterator[Case]:
    letters = [chr(ord("a") + i) for i in range(26)] + [f"z{i}" for i in range(6)]
    for n in (1, 2, 3, 4, 5, 8, 17, 32):
        for seed in (42, 0) if n > 1 else (42,):
            name = f"shown_choices/{n}-{seed}"
            yield case(name, "TSK-2", {}, choices=letters[:n][::-1], seed=seed)
    for name, given in (("numbers", ["5", "4", "6", "3"]), ("letters", ["é", "Z", "a", "z", "10"])):
        yield case(f"shown_choices/{name}", "TSK-2", {}, choices=given, seed=42)


def task(*examples: Any, **options: Any) -> dict[str, Any]:
    head = {"name": "t", "description": "d", "keywords": [], "preferred_score": "s", "metrics": []}
    return {**head, "examples": list(examples), **options}


def chosen(text: str, **scores: float) -> dict[str, Any]:
    return {"input": text, "target_scores": scores}


CHOICES = task(
    chosen("2+2", a=0, b=1, c=0),
    chosen("3+3", x=1, y=1, z=0),
    chosen("2+2", a=0, b=1, c=0),
    chosen("1+1", b=0.5, a=0.25, c=0),
    {"input": "given", "target": "a", "target_scores": {"b": 1, "a": 1}},
)
GENERATED = task(
    {"input": "one", "target": "1"},
    {"input": "two", "target": ["2", "II", "zwei"]},
    {"input": "three", "target": ["3", "III"]},
    {"input": "one", "target": ["1"]},
    {"input": "größe", "target": ""},
)
STYLED = CHOICES | {
    "example_input_prefix": "In: ",
    "example_output_prefix": " Out:",
    "choice_prefix": " | ",
    "few_shot_example_separator": "\n--\n",
    "task_prefix": "Choose.\n",
}
TASKS = {
    "choices": CHOICES,
    "generated": GENERATED,
    "styled": STYLED,
    "noted": task(
        {"input": "one", "target": "1", "note": "a"},
        {"input": "one", "target": ["1"], "note": "b"},
        {"input": "one", "target": ["1"], "note": "a"},
        {"input": "two", "target": ["2"]},
    ),
    "bare": CHOICES | {"append_choices_to_input": False},
}


def prompts() -> Iterator[Case]:
    for name, given in TASKS.items():
        for shots, most in ((0, 0), (0, 2), (1, 0), (2, 0), (3, 2)):
            if name == "noted" and shots > 2:  # the first equals the third
                continue
            yield case(
                f"task_prompts/{name}-{shots}-{most}",
                "TSK-1 TSK-3 TSK-5 TSK-6",
                {},
                task=given,
                shots=shots,
                max_examples=most,
                seed=42,
            )
    options: dict[str, Any] = {"shots": 2, "max_examples": 0, "seed": 7}
    yield case("task_prompts/seed", "TSK-5", {}, task=GENERATED, **options)
    for i in range(4):
        yield case(f"task_options/choices-{i}", "TSK-3 TSK-4 TSK-7", {}, task=CHOICES, index=i)
        yield case(f"task_options/generated-{i}", "TSK-4 TSK-7", {}, task=GENERATED, index=i)


def choices() -> Iterator[Case]:
    draw = Draw("tasks/choices")
    sets: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, str]] = {
        "random": (
            draw(14, scale=2),
            f32(0, 1, 0, 1, 0, 0, 0, 1, 0, 0.5, 0.5, 0, 1, 0),
            i32(3, 4, 2, 5),
            "",
        ),
        "soft": (f32(-2, -1, -1.5, -0.25, -3), f32(0.25, 0.75, 0, 1, 1), i32(3, 2), "soft, double"),
        "cancels": (
            f32(-1, -2, -1, -2, -0.5),
            f32(0, 0, 1, -1, -2),
            i32(2, 2, 1),
            "Σy = 0, and < 0",
        ),
        "ties": (
            f32(-0.5, -0.5, -0.5, -0.5, -2, -1, -1),
            f32(0, 1, 0, 0.5, 0, 0, 1),
            i32(4, 3),
            "",
        ),
        "many-ties": (f32(*[-1] * 9), f32(0, 1, 2, 3, 4, 5, 6, 7, 8), i32(2, 7), ""),
        "bins": (
            f32(-0.5, 0, -0.7, 0, -3, -0.25),
            f32(0, 1, 1, 0, 1, 1),
            i32(2, 2, 2),
            "two of fifteen bins that are one of ten; the second of two right options",
        ),
        "one": (f32(-3, -4), f32(1, 0), i32(1, 1), "single options: p = 1"),
        "sure": (f32(-0.001, -30, -40, -0.002), f32(1, 0, 1, 0), i32(2, 2), "in the last bin"),
        "impossible": (f32(-np.inf, -1, -2, -np.inf), f32(0, 1, 1, 0), i32(2, 2), "0·(−∞) = 0"),
    }
    for name, (z, y, n, note) in sets.items():
        tensors = {"log_probs": z, "target_scores": y, "sizes": n}
        for ties in ("first", "sha256-f64", "expected"):
            ids = "TSK-8 TSK-9 TSK-10 TSK-11 TSK-16"
            yield case(f"multiple_choice/{name}-{ties}", ids, tensors, note, ties=ties)
        if "ties" not in name:
            both = {"log_probs": z, "sizes": n}
            yield case(f"log_likelihood/{name}", "TSK-15", both, note)


RESPONSES = {
    "words": (["a", "B ", "c", ""], [["a"], ["b"], ["x", "c"], ["", "d"]]),
    "wrong": (["a", "b"], [["b"], ["a"]]),
    "numbers": (
        ["110", "111", "-110", "5", "-99999", ".1", "10", "1e2", "nan", "inf", "x", " 90 "],
        [[x] for x in "100 100 -100 -100 -100 0 0 100 nan 5 5 100".split()],
    ),
    "sequences": (
        ["O O B", "O", "B O O O O", "x  y", "O O"],
        [["O O O"], ["O B O"], ["B B O"], ["x y", "z"], ["O"]],
    ),
    "case": (["Straße", "É"], [["STRASSE", "strasse"], ["é"]]),
}


def texts() -> Iterator[Case]:
    for name, (responses, targets) in RESPONSES.items():
        options: dict[str, Any] = {"responses": responses, "targets": targets}
        for rule, clause in (
            ("exact", "TSK-12"),
            ("case-insensitive", "TSK-12"),
            ("numeric", "TSK-13"),
            ("numeric-public", "TSK-13"),
            ("sequence", "TSK-14"),
        ):
            yield case(f"text_match/{name}-{rule}", clause, {}, rule=rule, **options)
    for name, predicted, expected in (
        ("three", ["a", "b", "c", "a", "a"], ["a", "b", "b", "c", "a"]),
        ("unseen", ["a", "a"], ["b", "b"]),
        ("perfect", ["a"], ["a"]),
        ("only-predicted", ["a", "c"], ["a", "a"]),
    ):
        yield case(f"macro_f1/{name}", "TSK-19", {}, predicted=predicted, expected=expected)


def aggregates() -> Iterator[Case]:
    for name, scores, low, high in (
        ("three", (0.75, 0.125, -3), (0.25, 0.25, -10), (1, 1, 0)),
        ("one", (0.5,), (0,), (1,)),
        ("above", (2, -1), (0, 0), (1, 1)),
    ):
        tensors = {"scores": f32(*scores), "low": f32(*low), "high": f32(*high)}
        yield case(f"normalized_aggregate/{name}", "TSK-16", tensors)
    for name, sizes, given in (
        ("line", (1, 2, 3, 4, 5), (0, 0.25, 0.5, 0.75, 1)),
        ("jump", (1, 2, 4, 8, 16), (0, 0, 0, 0, 1)),
        ("late", (1, 2, 3, 4, 5), (0, 0.02, -0.01, 0.01, 0.9)),
        ("constant", (1, 2, 3), (0.5, 0.5, 0.5)),
        ("falling", (1, 2, 3, 4), (1, 0.5, 0.2, 0)),
        ("unsorted", (8, 1, 64), (0.5, 0.25, 1)),
        ("hump", (1, 2, 3, 4), (0.25, 1, 0.5, 0.75)),
    ):
        for count in ("points", "steps"):
            tensors = {"sizes": f32(*sizes), "scores": f32(*given)}
            yield case(f"scaling/{name}-{count}", "TSK-17", tensors, count=count)


def refused_tasks() -> Iterator[Case]:
    good = {"shots": 0, "max_examples": 0, "seed": 42}
    one = {"input": "a", "target": "b"}
    bad: dict[str, Any] = {
        "list": [],
        "no-name": {k: x for k, x in task(one).items() if k != "name"},
        "no-metrics": {k: x for k, x in task(one).items() if k != "metrics"},
        "no-examples": task(),
        "example": task("a"),
        "no-input": task({"target": "b"}),
        "no-target": task({"input": "a"}),
        "target-number": task({"input": "a", "target": 4}),
        "target-empty": task({"input": "a", "target": []}),
        "scores-text": task({"input": "a", "target_scores": {"a": "1", "b": 0}}),
        "scores-none": task({"input": "a", "target_scores": {}}),
        "prefix": task(one, task_prefix=3),
    }
    for why, given in bad.items():
        yield refuse(f"task_prompts/{why}", "TSK-18", {}, task=given, **good)
        if why != "prefix":  # which options have none of
            yield refuse(f"task_options/{why}", "TSK-18", {}, task=given, index=0)
    for why, given in (
        ("equal", task(chosen("a", b=1, c=1))),
        ("worthless", task(chosen("a", b=0))),
    ):
        yield refuse(f"task_prompts/{why}", "TSK-4", {}, task=given, **good)
        yield refuse(f"task_options/{why}", "TSK-4", {}, task=given, index=0)
    for why, given, shots in (
        ("shots", GENERATED, 5),
        ("duplicates", task(one, one), 1),
        ("negative", GENERATED, -1),
    ):
        yield refuse(f"task_prompts/{why}", "TSK-18", {}, task=given, **good | {"shots": shots})
    yield refuse("task_options/index", "TSK-18", {}, task=GENERATED, index=5)
    yield refuse("shown_choices/twice", "TSK-18", {}, choices=["a", "a"], seed=42)
    yield refuse("shown_choices/seed", "TSK-18", {}, choices=["a"], seed=-1)
    yield refuse("shown_choices/numbers", "TSK-18", {}, choices=[1], seed=42)
    for why, z, y, n in (
        ("nan", f32(np.nan, -1), f32(0, 1), i32(2)),
        ("infinite", f32(np.inf, -1), f32(0, 1), i32(2)),
        ("impossible", f32(-np.inf, -np.inf, -1), f32(0, 1, 1), i32(2, 1)),
        ("no-option", f32(-1), f32(1), i32(1, 0)),
        ("no-sample", f32(), f32(), i32()),
        ("lengths", f32(-1, -2), f32(1, 0), i32(3)),
    ):
        both = {"log_probs": z, "sizes": n}
        yield refuse(f"log_likelihood/{why}", "TSK-18", both)
        yield refuse(f"multiple_choice/{why}", "TSK-18", both | {"target_scores": y}, ties="first")
    for why, y in (("score", f32(0, np.nan)), ("scores", f32(0, 1, 1))):
        tensors = {"log_probs": f32(-1, -2), "target_scores": y, "sizes": i32(2)}
        yield refuse(f"multiple_choice/{why}", "TSK-18", tensors, ties="first")
    tensors = {"log_probs": f32(-1, -2), "target_scores": f32(0, 1), "sizes": i32(2)}
    yield refuse("multiple_choice/ties", "TSK-8", tensors, ties="last")
    for why, responses, targets in (
        ("lengths", ["a"], [["a"], ["b"]]),
        ("none", [], []),
        ("no-target", ["a"], [[]]),
        ("number", [1], [["a"]]),
    ):
        options: dict[str, Any] = {"responses": responses, "targets": targets, "rule": "exact"}
        yield refuse(f"text_match/{why}", "TSK-18", {}, **options)
    options = {"responses": ["a"], "targets": [["a"]], "rule": "fuzzy"}
    yield refuse("text_match/rule", "TSK-12", {}, **options)
    yield refuse("macro_f1/lengths", "TSK-18", {}, predicted=["a"], expected=["a", "b"])
    yield refuse("macro_f1/none", "TSK-18", {}, predicted=[], expected=[])
    for why, scores, low, high in (
        ("low", f32(1), f32(1), f32(1)),
        ("nan", f32(np.nan), f32(0), f32(1)),
        ("none", f32(), f32(), f32()),
        ("lengths", f32(1, 1), f32(0), f32(1)),
    ):
        tensors = {"scores": scores, "low": low, "high": high}
        yield refuse(f"normalized_aggregate/{why}", "TSK-18", tensors)
    for why, sizes, given in (
        ("two", f32(1, 2), f32(0, 1)),
        ("equal", f32(1, 2, 2), f32(0, 1, 1)),
        ("nan", f32(1, 2, 3), f32(0, np.nan, 1)),
        ("lengths", f32(1, 2, 3), f32(0, 1)),
    ):
        tensors = {"sizes": sizes, "scores": given}
        yield refuse(f"scaling/{why}", "TSK-18", tensors, count="points")
