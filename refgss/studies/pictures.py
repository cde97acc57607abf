"""Pictures of measurements, as PNG; matplotlib is in refgss[plot]."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from refgss.files import replacing
from refgss.studies.samples import SamplesError


def picture(path: Path, draw: Callable[[Any], None], size: tuple[float, float] = (5, 4)) -> None:
    """A file with what `draw` puts on the axes.  Raises SamplesError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise SamplesError("pictures need matplotlib: install refgss[plot]") from e
    figure = Figure(figsize=size, layout="constrained")
    draw(figure.add_subplot())
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)


def reliability(path: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy against confidence, a point for each bin, its area the number of samples."""

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        for line in found:
            most = max(b["samples"] for b in line["bins"])
            axes.scatter(
                [b["confidence"] for b in line["bins"]],
                [b["accuracy"] for b in line["bins"]],
                [8 + 120 * b["samples"] / most for b in line["bins"]],
                alpha=0.7,
                label=f"T = {line['temperature']:.3g}, ECE {line['ece']:.3f}",
            )
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        axes.legend()

    picture(path, draw)


def votes(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy against k: of all problems, and where the most frequent answer is right or wrong."""
    names = {"majority": "maj@k", "pass": "pass@k"}
    names |= {"mode_right": "maj@k, mode right", "mode_wrong": "maj@k, mode wrong"}

    def draw(axes: Any) -> None:
        for key, name in names.items():
            points = [(line["k"], line[key]) for line in lines if line[key] is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=name)
        axes.set(xlabel="k", ylabel="accuracy", xscale="log", ylim=(0, 1))
        axes.legend()

    picture(path, draw)


def by_size_or_shots(path: Path, models: Sequence[Mapping[str, Any]]) -> None:
    """Aggregates against the size of models, or of one model against shots; chance is 0."""

    def draw(axes: Any) -> None:
        axes.axhline(0, color="grey", linewidth=0.8, label="chance")
        known = [m for m in models if m["parameters"]]
        if len(known) > 1:
            for shots in sorted({n for m in known for n in m["by_shots"]}):
                points = [(m["parameters"], m["by_shots"].get(shots)) for m in known]
                points = sorted((x, y) for x, y in points if y is not None)
                axes.plot(*zip(*points, strict=True), marker="o", label=f"{shots} shots")
            axes.set(xlabel="parameters", xscale="log")
        else:
            for m in models:
                points = [(n, y) for n, y in m["by_shots"].items() if y is not None]
                axes.plot(
                    *zip(*points, strict=True), marker="o", label=m["log"]
                ) if points else None
            axes.set(xlabel="shots")
        axes.set(ylabel="% of the way from chance to the best")
        axes.legend()

    picture(path, draw)


def predicted_against_true(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """A point for each target and method, beside the diagonal."""

    def draw(axes: Any) -> None:
        known = [line for line in lines if "accuracy" in line]
        axes.axline((0, 0), slope=1, color="grey", linewidth=0.8)
        for name in known[0]["estimates"] if known else ():
            points = [(x["accuracy"], x["estimates"].get(name)) for x in known]
            points = [(a, b) for a, b in points if b is not None]
            axes.plot(*zip(*points, strict=True), "o", label=name) if points else None
        axes.set(xlabel="accuracy", ylabel="predicted")
        axes.legend()

    picture(path, draw)
