"""What a model reaches on tinyshakespeare in three minutes, from the start of the process.

    python benchmarks/tinyshakespeare.py PATH/tinyshakespeare.txt [--minutes 3]

The last tenth of the text is held out.  nanoGPT publishes 1.88 nats per character for three minutes
on a CPU.  The schedule follows the clock, so the figure depends on the machine and its load.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from refgss.model import load_checkpoint
from refgss.model.evaluation import evaluate
from refgss.model.tokenizer import load_tokenizer
from refgss.training.data import DataConfig, prepare
from refgss.training.loop import Habits, train
from refgss.training.recipe import Recipe, Run, Sizes

BEGAN = time.monotonic()
RECIPE = Recipe(steps=10**6, batch=8, length=256)
SIZES = Sizes(width=128, gate=384, channels=64, states=64, memory=500.0)
IMPORTS = 5.0  # seconds, about, that Python took before BEGAN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--minutes", type=float, default=3.0)
    arguments = parser.parse_args()
    left = arguments.minutes - (time.monotonic() - BEGAN + IMPORTS) / 60
    data = DataConfig((arguments.path,), held_out_tail=0.1)
    run = Run(sizes=SIZES, data=data, recipe=replace(RECIPE, minutes=left))
    with tempfile.TemporaryDirectory() as name:
        folder, steps = Path(name), []
        file = train(run, folder, Habits(10, 10**6, 10**6), lambda p: steps.append(p.step))
        checkpoint = load_checkpoint(file)
        tokenizer = load_tokenizer(checkpoint.tokenizer)
        held_out = prepare(data, tokenizer, folder).held_out
        trained = time.monotonic() - BEGAN + IMPORTS
        found = evaluate(checkpoint, [[held_out]])
    tokens = len(steps) * run.recipe.batch * run.recipe.length
    print(f"{len(steps)} steps, {tokens} tokens, {trained:.0f} s with compilation")
    print(f"held out, {len(held_out)} characters: {found.loss:.4f} nats per character")
    print("nanoGPT, 3 minutes on a CPU (published): 1.88")


if __name__ == "__main__":
    main()
