"""Loss by position, up to 16 times the length that a model was trained at.

    python benchmarks/length_generalization.py [MODEL.safetensors] [--plot FILE.png]

The text held out from the standard library is laid in a ring of pieces of the trained length T, and
read in windows of 16 T that begin at every piece: each piece is then read once at every distance
from a window's beginning, so that two positions differ in nothing but their context.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import refgss
from refgss import native
from refgss.model import load_checkpoint
from refgss.model.evaluation import negative_log_likelihood
from refgss.model.tokenizer import tokenizer
from refgss.training.data import DataConfig, prepare, spaced_windows

BUNDLED = Path(refgss.__file__).parent / "model" / "bundled.safetensors"
TIMES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=BUNDLED)
    parser.add_argument("--pieces", type=int, default=192, help="of the trained length")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    checkpoint = load_checkpoint(arguments.model)
    length = checkpoint.about["run"]["recipe"]["length"]
    with tempfile.TemporaryDirectory() as folder:
        text = prepare(DataConfig(), tokenizer(checkpoint.tokenizer), Path(folder))
        # the held-out text in `pieces` pieces; the token before each is its first input
        pieces = spaced_windows(text.held_out, length, arguments.pieces)
    losses = by_distance(checkpoint, pieces)  # (16, pieces)
    rise = losses - losses[0]
    print(f"{arguments.model.name}: trained at {length}, {len(pieces)} pieces of held-out text")
    print("positions         nats per token   difference from the first, standard error")
    for i, (at, difference) in enumerate(zip(losses, rise, strict=True)):
        error = difference.std(ddof=1) / np.sqrt(len(difference)) if i else 0.0
        print(
            f"{i * length:6} to {(i + 1) * length - 1:6}  {at.mean():9.4f}"
            f"        {difference.mean():+.4f} ± {error:.4f}"
        )
    if arguments.plot:
        plot(arguments.plot, losses, length)


def by_distance(checkpoint, pieces: np.ndarray) -> np.ndarray:
    """(16, pieces): the mean loss of each piece as the first, second, … of a window."""
    params, config = checkpoint.float_params(), checkpoint.config
    found = np.zeros((TIMES, len(pieces)))
    for start in range(len(pieces)):
        state = None
        for i in range(TIMES):
            piece = pieces[(start + i) % len(pieces)]
            logits, state = native.lm_logits(params, piece[None, :-1], state, config=config)
            found[i, (start + i) % len(pieces)] = negative_log_likelihood(
                np.asarray(logits)[0], piece[1:]
            ).mean()
    return found


def plot(file: Path, losses: np.ndarray, length: int) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    error = (losses - losses[0]).std(1, ddof=1) / np.sqrt(losses.shape[1])
    middle = (np.arange(TIMES) + 0.5) * length
    axes.errorbar(middle, losses.mean(1), error, marker=".", capsize=2)
    axes.axvline(length, color="grey", linestyle=":", label=f"trained length, {length}")
    axes.set(xlabel="position", ylabel="nats per token", xlim=(0, TIMES * length))
    axes.legend()
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    main()
