"""The loss as a picture."""

from __future__ import annotations

import json
from pathlib import Path

from refgss.files import replacing
from refgss.training.recipe import TrainingError


def plot_loss(metrics: Path, picture: Path, tokens_per_step: int) -> None:
    """Training and held-out loss by tokens seen, as PNG; nothing where matplotlib is missing.

    Raises TrainingError where the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for key, style in (("loss", {"linewidth": 0.6}), ("held_out", {"marker": ".", "zorder": 3})):
        points = [(line["step"] * tokens_per_step, line[key]) for line in lines if key in line]
        if points:
            axes.plot(*zip(*points, strict=True), label=key.replace("_", "-"), **style)
    axes.set(xlabel="tokens", ylabel="nats per token")
    axes.legend()
    try:
        with replacing(picture) as file:
            figure.savefig(file, format="png", dpi=100)
    except OSError as e:
        raise TrainingError(f"{picture} cannot be written: {e.strerror}") from e
