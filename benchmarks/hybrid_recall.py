"""What attention adds to GSS layers, and where it stops: recall within a chunk and across chunks.

    python benchmarks/hybrid_recall.py [--seeds 3] [--steps 500] [--plot FILE.png]

A sequence is eight pairs of a key and a value, a separator, and the eight keys again in another
order, each followed by its value, which is what has to be said: 33 tokens, all drawn anew in every
step.  Who only knows which values there were is right in one of eight.  The three models have
three layers of width 48 and differ in the last one: GSS; attention whose chunk holds the whole
sequence; attention with chunks of 16, so that pairs and questions lie in different chunks.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from refgss import xla
from refgss.config import GSSConfig, LMConfig, TransformerConfig
from refgss.model import initialize
from refgss.training.optimizers import to_complex, to_real

PAIRS, KEYS, VALUES = 8, 16, 16
SEPARATOR = KEYS + VALUES
SIZES = {"width": 48, "gate": 96, "channels": 24, "states": 32}
BATCH, TESTED = 64, 512  # sequences of a step, and of the test
GSS = GSSConfig()
MODELS: dict[str, tuple[Any, ...]] = {
    "three GSS layers": (GSS, GSS, GSS),
    "attention, all in one chunk": (GSS, GSS, TransformerConfig(heads=4, chunk=64)),
    "attention, chunks of 16": (GSS, GSS, TransformerConfig(heads=4, chunk=16)),
}


def sequences(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count,33) tokens."""
    keys = rng.permuted(np.tile(np.arange(KEYS), (count, 1)), axis=1)[:, :PAIRS]
    values = KEYS + rng.integers(0, VALUES, (count, PAIRS))
    order = rng.permuted(np.tile(np.arange(PAIRS), (count, 1)), axis=1)
    asked = (np.take_along_axis(x, order, 1) for x in (keys, values))
    pairs, questions = (
        np.stack(list(both), -1).reshape(count, 2 * PAIRS) for both in ((keys, values), asked)
    )
    between = np.full((count, 1), SEPARATOR)
    return np.concatenate([pairs, between, questions], 1).astype(np.int32)


ASKED = slice(2 * PAIRS + 1, None, 2)  # the keys whose values have to be said


class Learner:
    """A model of these layers, compiled once for all seeds; another task has a class of its own."""

    batch, sizes, memory, vocabulary, asked = BATCH, SIZES, 64, SEPARATOR + 1, ASKED
    sequences = staticmethod(sequences)

    def __init__(self, layers: tuple[Any, ...], steps: int, every: int):
        self.config, self.steps, self.every = LMConfig(layers, depth=len(layers)), steps, every
        schedule = optax.warmup_cosine_decay_schedule(0.0, 4e-3, 50, steps)
        self.rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
        self.step = jax.jit(self.stepped)
        self.right = jax.jit(self.share_right)
        self.test = jnp.asarray(self.sequences(np.random.default_rng(10**6), TESTED))

    def initial(self, seed: int) -> dict[str, np.ndarray]:
        return initialize(
            self.config, self.sizes, vocabulary=self.vocabulary, memory=self.memory, seed=seed
        )

    def parameters(self) -> int:
        return sum(x.size * (2 if x.dtype.kind == "c" else 1) for x in self.initial(0).values())

    def logits(self, p: Any, tokens: jax.Array) -> jax.Array:
        return xla.lm_logits(to_complex(p), tokens[:, :-1], config=self.config)[0][:, self.asked]

    def loss(self, p: Any, tokens: jax.Array) -> jax.Array:
        logits, wanted = self.logits(p, tokens), tokens[:, 1:][:, self.asked]
        return optax.softmax_cross_entropy_with_integer_labels(logits, wanted).mean()

    def stepped(self, p: Any, memory: Any, tokens: jax.Array) -> tuple[Any, Any]:
        update, memory = self.rule.update(jax.grad(self.loss)(p, tokens), memory)
        return optax.apply_updates(p, update), memory

    def share_right(self, p: Any, tokens: jax.Array) -> jax.Array:
        return (self.logits(p, tokens).argmax(-1) == tokens[:, 1:][:, self.asked]).mean()

    def learn(self, seed: int) -> list[float]:
        """Shares of values that are said right, after every so many steps."""
        rng, p = np.random.default_rng(seed), to_real(self.initial(seed))
        memory, found = self.rule.init(p), []
        for i in range(1, self.steps + 1):
            p, memory = self.step(p, memory, jnp.asarray(self.sequences(rng, self.batch)))
            if i % self.every == 0:
                found.append(float(self.right(p, self.test)))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    every = max(arguments.steps // 20, 1)
    learners = {n: Learner(layers, arguments.steps, every) for n, layers in MODELS.items()}
    curves = learned(learners, arguments.seeds)
    if arguments.plot:
        plot(arguments.plot, curves, every, PAIRS)


def learned(learners: dict[str, Learner], seeds: int) -> dict[str, np.ndarray]:
    """Shares of values recalled (seeds, measurements), by model; the last are printed."""
    curves = {}
    first = next(iter(learners.values()))
    print(f"{first.steps} steps of {first.batch} sequences; values recalled, by seed")
    for name, learner in learners.items():
        began = time.monotonic()
        runs = [learner.learn(seed) for seed in range(seeds)]
        curves[name] = np.array(runs)
        shares = "  ".join(f"{found[-1]:6.1%}" for found in runs)
        seconds = (time.monotonic() - began) / seeds
        count = learner.parameters()
        print(f"{name:28}{count:8,} parameters  {shares}  {seconds:.0f} s a run", flush=True)
    return curves


def plot(file: Path, curves: dict[str, np.ndarray], every: int, values: int) -> None:
    """`values`: of how many one is right by chance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, runs) in enumerate(curves.items()):
        steps = np.arange(1, runs.shape[1] + 1) * every
        for seed, run in enumerate(runs):
            axes.plot(steps, run, color=f"C{i}", label=None if seed else name)
    axes.axhline(1 / values, color="grey", linestyle=":", label=f"one of {values} values")
    axes.set(xlabel="steps", ylabel="values recalled", ylim=(0, 1.02))
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    main()
