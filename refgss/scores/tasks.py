"""Chapter 21, tasks: what is asked of a model by a task file of BIG-bench.

A task is the JSON object of its file, with examples (not subtasks).  Everything that is drawn is
drawn as NumPy's RandomState does, whose streams are frozen.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any

import numpy as np

from refgss.scores.arguments import check_whole

REQUIRED = ("name", "description", "keywords", "metrics", "examples", "preferred_score")
TEXTS = {  # options of a task file, and what they are where they are missing
    "example_input_prefix": "\nQ: ",
    "example_output_prefix": "\nA: ",
    "choice_prefix": "\n  choice: ",
    "few_shot_example_separator": "\n",
    "task_prefix": "",
}
SEED = 42
MOST_SEED = 2**32 - 1


def shown_choices(choices, *, seed):
    """The options in the order in which they stand in the prompt.  Clauses: GSS-TSK-2."""
    check_whole("seed", seed, 0, MOST_SEED)
    if not isinstance(choices, list) or not all(isinstance(x, str) for x in choices):
        raise ValueError("choices must be a list of texts")
    if len(set(choices)) < len(choices):
        raise ValueError("choices must differ from each other")
    rising = sorted(choices)
    return [rising[i] for i in order_of(len(choices), seed)]


@lru_cache(maxsize=1024)  # a generator takes a tenth of a millisecond to begin
def order_of(n, seed):
    """A permutation of 0 … n − 1 from a generator of its own.  Clauses: GSS-TSK-2."""
    return tuple(np.random.RandomState(seed).permutation(n).tolist())


def task_prompts(task, *, shots, max_examples, seed):
    """The prompt of each query, and which of the distinct examples it asks.

    max_examples 0 asks all.  Clauses: GSS-TSK-1, GSS-TSK-3, GSS-TSK-5, GSS-TSK-6, GSS-TSK-18.
    """
    examples = distinct(task)
    check_whole("shots", shots, 0, 1000)
    check_whole("max_examples", max_examples, 0, 2**31)
    check_whole("seed", seed, 0, MOST_SEED)
    if len(examples) < shots + 1:
        raise ValueError(f"{len(examples)} distinct examples are too few for {shots} shots")
    formatted = [as_asked(task, x, seed) for x in examples]
    n, rng = len(examples), np.random.RandomState(seed)
    wanted = min(max_examples or n, n)
    queries = rng.permutation(n)[:wanted] if shots or wanted < n else np.arange(n)
    prefix, separator = option(task, "task_prefix"), option(task, "few_shot_example_separator")
    prompts = []
    for i in queries:
        parts = shots_for(examples, formatted, int(i), shots, rng)
        prompts.append(prefix + separator.join([*parts, formatted[i][0]]))
    return prompts, np.asarray(queries, np.int64)


def shots_for(examples, formatted, query, shots, rng):
    """Other examples with their answers, drawn; those that equal the query are none of them.

    Clauses: GSS-TSK-5.
    """
    if not shots:
        return []
    same = formatted[query]
    others = [i for i in range(len(examples)) if formatted[i] != same]
    if len(others) < shots:
        raise ValueError(f"example {query} has {len(others)} others that differ: too few shots")
    parts = []
    for j in rng.permutation(len(others))[:shots]:
        text, targets, _ = formatted[others[j]]
        parts.append(text + targets[rng.randint(len(targets))])
    return parts


def as_asked(task, example, seed):
    """The text of an example, its targets, and what else it has.  Clauses: GSS-TSK-5."""
    more = {key: x for key, x in example.items() if key not in ("input", "target")}
    return question(task, example, seed), targets_of(example), more


def task_options(task, *, index):
    """Of a distinct example the options in the order of the file, their scores, and its targets.

    Clauses: GSS-TSK-4, GSS-TSK-7, GSS-TSK-18.
    """
    examples = distinct(task)
    check_whole("index", index, 0, len(examples) - 1)
    scores = examples[index].get("target_scores", {})
    return list(scores), np.array(list(scores.values()), float), targets_of(examples[index])


def distinct(task):
    """The examples of a task, valid, each once.  Clauses: GSS-TSK-3, GSS-TSK-18."""
    if not isinstance(task, dict):
        raise ValueError("a task must be a JSON object")
    if missing := [key for key in REQUIRED if key not in task]:
        raise ValueError(f"the task has no {missing[0]}")
    if not isinstance(task["examples"], list) or not task["examples"]:
        raise ValueError("the task has no list of examples, or an empty one")
    for i, example in enumerate(task["examples"]):
        check_example(i, example)
    return list({json.dumps(x): x for x in task["examples"]}.values())  # each at its first place


def check_example(i, example):
    """Clauses: GSS-TSK-4, GSS-TSK-18."""
    if not isinstance(example, dict) or not isinstance(example.get("input"), str):
        raise ValueError(f"example {i} has no input that is a text")
    scores = example.get("target_scores")
    if scores is not None:
        valid = isinstance(scores, dict) and scores and all(map(is_number, scores.values()))
        if not valid:
            raise ValueError(f"example {i} has target_scores that are no numbers by option")
        if "target" not in example and not has_answer(list(scores.values())):
            raise ValueError(f"example {i} has no correct choice")
    elif "target" not in example:
        raise ValueError(f"example {i} has neither target nor target_scores")
    target = example.get("target", "")
    each = target if isinstance(target, list) else [target]
    if not each or not all(isinstance(x, str) for x in each):
        raise ValueError(f"example {i} has a target that is neither a text nor a list of texts")


def is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def has_answer(scores):
    """Whether an option is better than another, or the only one is not worth 0.

    Clauses: GSS-TSK-4.
    """
    return max(scores) > min(scores) if len(scores) > 1 else scores[0] != 0


def targets_of(example):
    """The target texts; without any, the first option with the largest score.

    Clauses: GSS-TSK-4.
    """
    if "target" not in example:
        scores = example["target_scores"]
        return [max(scores, key=lambda option: scores[option])]
    target = example["target"]
    return target if isinstance(target, list) else [target]


def question(task, example, seed):
    """The text of an example, up to where its answer begins.  Clauses: GSS-TSK-1."""
    text = example["input"]
    if example.get("target_scores") and task.get("append_choices_to_input", True):
        prefix = option(task, "choice_prefix")
        text += "".join(
            prefix + x for x in shown_choices(list(example["target_scores"]), seed=seed)
        )
    return option(task, "example_input_prefix") + text + option(task, "example_output_prefix")


def option(task, name):
    """An option of the task file that is a text.  Clauses: GSS-TSK-1, GSS-TSK-18."""
    value = task.get(name, TEXTS[name])
    if not isinstance(value, str):
        raise ValueError(f"the task's {name} is no text")
    return value
