"""Loss by position, up to 16 times the length that a model was trained at.

    python benchmarks/length_generalization.py [MODEL.safetensors] [--plot FILE.png]

Stretches of the held-out text are cut into pieces of the trained length T and read in windows of
16 T that begin at every piece.  Each piece that counts is read once at every distance from the
beginning of a window, so that positions differ in nothing but their context.
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
from refgss.model.tokenizer import load_tokenizer
from refgss.training.data import DataConfig, prepare, spaced_windows

BUNDLED = Path(refgss.__file__).parent / "model" / "bundled.safetensors"
TIMES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=BUNDLED)
    parser.add_argument("--stretches", type=int, default=2, help="of the text")
    parser.add_argument("--pieces", type=int, default=32, help="that count in a stretch")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    losses, length = losses_by_distance(arguments.model, arguments.stretches, arguments.pieces)
    rise = losses - losses[0]
    print(f"{arguments.model.name}: trained at {length}, {losses.shape[1]} pieces of held-out text")
    print("positions         nats per token   difference from the first, standard error")
    for i, (at, difference) in enumerate(zip(losses, rise, strict=True)):
        error = difference.std(ddof=1) / np.sqrt(len(difference)) if i else 0.0
        print(
            f"{i * length:6} to {(i + 1) * length - 1:6}  {at.mean():9.4f}"
            f"        {difference.mean():+.4f} ± {error:.4f}"
        )
    if arguments.plot:
        plot(arguments.plot, losses, length)


def losses_by_distance(model: Path, stretches: int, pieces: int) -> tuple[np.ndarray, int]:
    """(16, stretches · pieces): the mean loss of each piece; the length of a piece."""
    checkpoint = load_checkpoint(model)
    length = checkpoint.about["run"]["recipe"]["length"]
    with tempfile.TemporaryDirectory() as folder:
        text = prepare(DataConfig(), load_tokenizer(checkpoint.tokenizer), Path(folder))
        tokens = length * (pieces + 2 * (TIMES - 1))
        read = spaced_windows(text.held_out, tokens, stretches)
    return np.hstack([by_distance(checkpoint, stretch, length) for stretch in read]), length


def by_distance(checkpoint, stretch: np.ndarray, length: int) -> np.ndarray:
    """(16, pieces): the mean loss of each piece as the first, second, … of a window."""
    params, config = checkpoint.float_params(), checkpoint.config
    starts = len(stretch) // length - TIMES + 1
    found = np.zeros((TIMES, starts + TIMES - 1))
    for start in range(starts):
        state = None
        for i in range(TIMES):
            at = (start + i) * length
            piece = stretch[at : at + length + 1]
            logits, state = native.lm_logits(params, piece[None, :-1], state, config=config)
            losses = negative_log_likelihood(np.asarray(logits)[0], piece[1:])
            found[i, start + i] = losses.mean()
    return found[:, TIMES - 1 : starts]  # those that were read at every distance


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
