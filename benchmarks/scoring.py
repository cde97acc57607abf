"""Multiple choice by the bundled model: its prompt read once, and once for each option.

    python benchmarks/scoring.py [--examples 10000] [--from-start 300]

The questions are short sums with four options, with three more as shots; the second way is timed
on some of them and extrapolated.
"""

from __future__ import annotations

import argparse
import random
import time

import numpy as np

from refgss.model import load_checkpoint
from refgss.model.text import BUNDLED
from refgss.scores import multiple_choice, task_options, task_prompts
from refgss.studies.scoring import Scorer


def sums(n: int) -> dict:
    """n questions, no two alike."""
    draw, examples = random.Random(0), []
    for i in range(n):
        a, b = i, draw.randrange(1000)
        options = {a + b, a + b + 1, a + b - 2, a + b + 10}
        scores = {str(x): int(x == a + b) for x in sorted(options)}
        examples.append({"input": f"{a} + {b} = ?", "target_scores": scores})
    head = {"name": "sums", "description": "", "keywords": [], "preferred_score": ""}
    return {**head, "metrics": ["multiple_choice_grade"], "examples": examples}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--examples", type=int, default=10_000)
    arguments.add_argument("--from-start", type=int, default=300)
    given = arguments.parse_args()
    scorer, task = Scorer(load_checkpoint(BUNDLED)), sums(given.examples)
    prompts, queries = task_prompts(task, shots=0, max_examples=0, seed=42)
    asked = [task_options(dict(task, examples=[task["examples"][i]]), index=0) for i in queries]

    start, found = time.perf_counter(), []
    for prompt, (options, _, _) in zip(prompts, asked, strict=True):
        found.append(scorer.log_probs(prompt, options))
    forked = time.perf_counter() - start

    start = time.perf_counter()
    for i, (prompt, (options, _, _)) in enumerate(zip(prompts, asked, strict=True)):
        if i == given.from_start:
            break
        alone = [scorer.log_probs(prompt, [option])[0] for option in options]
        assert alone == found[i]
    alone_seconds = (
        (time.perf_counter() - start) * len(prompts) / min(given.from_start, len(prompts))
    )

    scores = np.concatenate([x[1] for x in asked])
    sizes = np.array([len(x) for x in found])
    grade, chance, *_ = multiple_choice(np.concatenate(found), scores, sizes, ties="expected")
    length = np.mean([len(prompt) for prompt in prompts])
    print(f"{len(prompts)} questions of {length:.0f} bytes, {sizes.mean():.1f} options each")
    times = alone_seconds / forked
    print(f"the prompt read once:            {forked:8.1f} s")
    print(f"the prompt read for each option: {alone_seconds:8.1f} s, {times:.1f} times")
    print(f"grade {grade:.4f}, by chance {chance:.4f}")


if __name__ == "__main__":
    main()
