"""What a recurrent state adds to windows of attention: recall from beyond the reach of the windows.

    python benchmarks/block_recurrent_recall.py [--seeds 3] [--steps 400] [--plot FILE.png]

A sequence is two pairs of a key and a value, 56 times the same token, and the two keys again in
another order, each followed by its value, which is what has to be said: 64 tokens, drawn anew in
every step.  Two layers with windows of 8 tokens see no further than 16 tokens back.  The three
models have width 32: two layers of attention; attention and a recurrent layer whose state is
cleared at the end of every window; the same with a state that goes on.  Chance is one of eight.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hybrid_recall import Learner, learned, plot
from jax import lax

from refgss import xla
from refgss.config import BlockRecurrentConfig, TransformerConfig
from refgss.layers.states import zero_states
from refgss.xla import Plan

PAIRS, KEYS, VALUES, BETWEEN, WINDOW = 2, 8, 8, 56, 8
SIZES = {"width": 32, "hidden": 64}
SCALE = 6.0  # where the scales of keys of length 1 begin: from 1 a small model learns slowly
ATTENTION = TransformerConfig(
    heads=2, chunk=WINDOW, visible="strict", position="t5", mlp="relu", norm="rms"
)
RECURRENT = BlockRecurrentConfig(heads=2, window=WINDOW, states=8)
PLAN = Plan(cpu_kernels="xla")  # calls into the library cost more than such small products


def sequences(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count,65) tokens; the last is only there to be left out."""
    keys = rng.permuted(np.tile(np.arange(KEYS), (count, 1)), axis=1)[:, :PAIRS]
    values = KEYS + rng.integers(0, VALUES, (count, PAIRS))
    order = rng.permuted(np.tile(np.arange(PAIRS), (count, 1)), axis=1)
    pairs = np.stack([keys, values], -1)
    questions = np.take_along_axis(pairs, order[..., None], 1)
    between = np.full((count, BETWEEN), KEYS + VALUES)
    rows = [pairs.reshape(count, -1), between, questions.reshape(count, -1), between[:, :1]]
    return np.concatenate(rows, 1).astype(np.int32)


class WindowLearner(Learner):
    batch, sizes, memory, vocabulary = 32, SIZES, None, KEYS + VALUES + 1
    asked = slice(2 * PAIRS + BETWEEN, None, 2)  # the keys whose values have to be said
    sequences = staticmethod(sequences)

    def initial(self, seed: int) -> dict[str, np.ndarray]:
        params = super().initial(seed)
        return params | {k: SCALE * x for k, x in params.items() if "scale" in k}

    def logits(self, p: Any, tokens: jax.Array) -> jax.Array:
        return xla.lm_logits(p, tokens[:, :-1], config=self.config, plan=PLAN)[0][:, self.asked]


class ClearedLearner(WindowLearner):
    """After every window the state is again the one with which a text begins."""

    def logits(self, p: Any, tokens: jax.Array) -> jax.Array:
        B = len(tokens)
        windows = tokens[:, :-1].reshape(B, -1, WINDOW)

        def window(state: Any, tokens: jax.Array) -> tuple[Any, jax.Array]:
            logits, (first, own) = xla.lm_logits(p, tokens, state, config=self.config, plan=PLAN)
            fresh = jnp.broadcast_to(p["layers.1.state.initial"], own["s"].shape)
            return (first, {**own, "s": fresh}), logits

        start = zero_states(p, self.config, B)
        _, logits = lax.scan(window, start, jnp.moveaxis(windows, 1, 0))
        return jnp.moveaxis(logits, 0, 1).reshape(B, -1, self.vocabulary)[:, self.asked]


MODELS = {
    "two layers of attention": (WindowLearner, (ATTENTION, ATTENTION)),
    "recurrent, cleared every window": (ClearedLearner, (ATTENTION, RECURRENT)),
    "recurrent": (WindowLearner, (ATTENTION, RECURRENT)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--only", choices=MODELS, action="append")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    every = max(arguments.steps // 10, 1)
    learners = {
        name: kind(layers, arguments.steps, every)
        for name, (kind, layers) in MODELS.items()
        if name in (arguments.only or MODELS)
    }
    curves = learned(learners, arguments.seeds)
    if arguments.plot:
        plot(arguments.plot, curves, every, VALUES)


if __name__ == "__main__":
    main()
