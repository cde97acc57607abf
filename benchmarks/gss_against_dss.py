"""GSS against DSS: equal parameters to half a percent, the same text, windows and steps.

    python benchmarks/gss_against_dss.py [--steps 600] [--length 512] [--plot FILE.png]

Both train on the Python standard library with one recipe, in turns of a tenth of the steps, so that
whatever else the machine does falls on both.  The table has wall and processor time of the steps;
a complex parameter counts as two.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refgss.config import DSSConfig, GSSConfig, LMConfig
from refgss.model import load_checkpoint
from refgss.training.loop import Habits, train
from refgss.training.recipe import Recipe, Run, Sizes

SIZES = {
    "GSS": (LMConfig(GSSConfig(), 6), Sizes(width=128, gate=384, channels=64, states=64)),
    "DSS": (LMConfig(DSSConfig(), 6), Sizes(294, None, None, 64, None)),
}
TURNS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    recipe = Recipe(
        steps=arguments.steps,
        length=arguments.length,
        optimizer="adamw",
        rate=4e-3,
        warmup=20,
        weight_decay=0.1,
    )
    with tempfile.TemporaryDirectory() as folder:
        found = trained_in_turns(SIZES, recipe, Path(folder))
    tokens = arguments.steps * recipe.batch * recipe.length
    print(f"{arguments.steps} steps, {tokens} tokens of the Python standard library")
    table(found)
    if arguments.plot:
        plot(arguments.plot, found, arguments.steps)


@dataclass(frozen=True)
class Trained:
    """A model at the end of its run: its folder, seconds of wall and processor time, curves."""

    folder: Path
    spent: np.ndarray
    curves: dict[str, list[tuple[int, float]]]

    @property
    def file(self) -> Path:
        return self.folder / "model.safetensors"

    def parameters(self) -> int:
        params = load_checkpoint(self.file).params.values()
        return sum(x.size * (1 + np.iscomplexobj(x)) for x in params)


def trained_in_turns(
    models: dict[str, tuple[LMConfig, Sizes]], recipe: Recipe, folder: Path
) -> dict[str, Trained]:
    """All of them by one recipe, in turns of a tenth of the steps."""
    runs = {name: Run(model, sizes, recipe=recipe) for name, (model, sizes) in models.items()}
    spent = {name: np.zeros(2) for name in runs}
    for turn in range(1, TURNS + 1):
        for name, run in runs.items():
            spent[name] += turn_of(run, folder / name, round(recipe.steps * turn / TURNS))
    return {n: Trained(folder / n, spent[n], metrics(folder / n)) for n in runs}


def table(found: dict[str, Trained]) -> None:
    print("model   parameters  held-out nats per byte  bits per byte  wall s  processor s")
    for name, model in found.items():
        nats = model.curves["held_out"][-1][1]
        wall, cpu = model.spent
        print(
            f"{name:6}  {model.parameters():10}  {nats:22.4f}  {nats / np.log(2):13.4f}"
            f"  {wall:6.0f}  {cpu:11.0f}"
        )


def turn_of(run: Run, folder: Path, stop: int) -> np.ndarray:
    """Seconds of wall and processor time from the first step's end to the last's, scaled to all."""
    times: list[tuple[int, float, float]] = []

    def watch(progress) -> None:
        times.append((progress.step, time.perf_counter(), time.process_time()))

    train(run, folder, Habits(10, run.recipe.steps // TURNS, run.recipe.steps, stop), watch)
    first, last = times[0], times[-1]
    share = len(times) / max(len(times) - 1, 1)
    return np.array([last[1] - first[1], last[2] - first[2]]) * share


def metrics(folder: Path) -> dict[str, list[tuple[int, float]]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {k: [(x["step"], x[k]) for x in lines if k in x] for k in ("loss", "held_out")}


def plot(file: Path, found: dict[str, Trained], steps: int) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, model in found.items():
        step, nats = np.array(model.curves["held_out"]).T
        left.plot(step, nats, marker=".", label=name)
        right.plot(step / steps * model.spent[1], nats, marker=".", label=name)
    left.set(xlabel="steps", ylabel="held-out nats per byte")
    right.set(xlabel="processor seconds")
    left.legend()
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    main()
