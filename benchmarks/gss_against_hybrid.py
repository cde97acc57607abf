"""GSS against hybrid: equal parameters to a thousandth, the same source code, windows and steps.

    python benchmarks/gss_against_hybrid.py [--steps 600] [--length 512] [--plot FILE.png]

The hybrid has attention in two of its six layers, in chunks of a quarter of a window.  Both train
on the Python standard library with one recipe, in turns, as in gss_against_dss.py; then both read
held-out text up to 16 times as long as a window of the training, as in length_generalization.py.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from gss_against_dss import Trained, table, trained_in_turns
from length_generalization import TIMES, losses_by_distance

from refgss.config import GSSConfig, LMConfig, TransformerConfig
from refgss.training.recipe import Recipe, Sizes

WIDTHS = {"width": 128, "gate": 384, "channels": 64, "states": 64}
HIDDEN = 288  # of the MLP: a transformer layer then has the parameters of a GSS layer


def models(length: int) -> dict[str, tuple[LMConfig, Sizes]]:
    gss, attention = GSSConfig(), TransformerConfig(heads=4, chunk=max(length // 4, 1))
    hybrid = LMConfig((gss, gss, attention) * 2, depth=6)
    return {
        "GSS": (LMConfig(gss, depth=6), Sizes(**WIDTHS)),
        "hybrid": (hybrid, Sizes(**WIDTHS, hidden=HIDDEN)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--stretches", type=int, default=2, help="of text, read at all lengths")
    parser.add_argument("--pieces", type=int, default=32, help="that count in a stretch")
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
        found = trained_in_turns(models(arguments.length), recipe, Path(folder))
        tokens = arguments.steps * recipe.batch * recipe.length
        print(f"{arguments.steps} steps, {tokens} tokens of the Python standard library")
        table(found)
        losses = {
            name: losses_by_distance(model.file, arguments.stretches, arguments.pieces)[0]
            for name, model in found.items()
        }
    by_position(losses, arguments.length)
    if arguments.plot:
        plot(arguments.plot, found, losses, arguments.length)


def by_position(losses: dict[str, np.ndarray], length: int) -> None:
    gss, hybrid = losses.values()
    print(f"\nnats per byte by position, {gss.shape[1]} pieces of held-out text")
    print("positions             GSS    hybrid   hybrid - GSS, standard error")
    for i, (ours, theirs) in enumerate(zip(gss, hybrid, strict=True)):
        less = theirs - ours
        error = less.std(ddof=1) / np.sqrt(len(less))
        print(
            f"{i * length:6} to {(i + 1) * length - 1:6}  {ours.mean():7.4f}  {theirs.mean():7.4f}"
            f"   {less.mean():+.4f} ± {error:.4f}"
        )


def plot(file: Path, found: dict[str, Trained], losses: dict[str, np.ndarray], length: int) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, model in found.items():
        left.plot(*np.array(model.curves["held_out"]).T, marker=".", label=name)
        right.plot((np.arange(TIMES) + 0.5) * length, losses[name].mean(1), marker=".", label=name)
    left.set(xlabel="steps", ylabel="held-out nats per byte")
    right.axvline(length, color="grey", linestyle=":", label=f"trained length, {length}")
    right.set(xlabel="position", xlim=(0, TIMES * length))
    right.legend()
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    main()
