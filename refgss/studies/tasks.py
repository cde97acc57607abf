"""Tasks of BIG-bench asked of a model, and logs of what it said turned into scores (spec/21).

A log is JSON lines: for each task and number of shots a line of type "task", then one line for each
query and what was asked: "choice" (options, log_probs, target_scores), "text" (response, targets),
"likelihood" (targets, log_probs).  A log-probability of −∞ is null.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from refgss import scores
from refgss.files import bounded_read
from refgss.schemas import parse
from refgss.scores.profiles import PROFILES
from refgss.studies.mathematics import lines_of
from refgss.studies.samples import SamplesError
from refgss.studies.scoring import Scorer

SEED = 42
OUTPUT = r"[^\.\?\!\;\n]+"  # of a response what counts, where the task says nothing
OF_CHOICE = {
    "multiple_choice_grade": "grade",
    "calibration_multiple_choice_brier_score": "brier",
    "expected_calibration_error": "calibration",
    "weighted_log_probabilities": "weighted_log",
    "weighted_probabilities": "weighted",
}
OF_TEXT = {
    "exact_str_match": "exact",
    "case_insensitive_str_match": "case-insensitive",
    "numeric_match_with_0_1_relative_error": "numeric",
    "sequence_f1": "sequence",
}
LIBRARIES = ("bleu", "rouge1", "rouge2", "rougeLsum")
LOWEST = {"log_likelihood": -10.0, "weighted_log_probabilities": -10.0}
LOWEST |= {"weighted_probabilities": -1.0}
HIGHEST = {"log_likelihood": 0.0, "weighted_log_probabilities": 0.0}


@dataclass(frozen=True)
class Task:
    """A task file, or the part of it that has examples; `content` is its JSON object."""

    name: str
    content: Mapping[str, Any]

    @property
    def kinds(self) -> list[str]:
        """What has to be asked for its metrics."""
        metrics = set(self.content["metrics"])
        asked = {
            "choice": metrics & {*OF_CHOICE, "macro_f1"},
            "text": metrics & {*OF_TEXT, "bleu", "rouge"},
            "likelihood": metrics & {"log_likelihood"},
        }
        return [kind for kind, found in asked.items() if found]


# --- task files ----------------------------------------------------------------------------------


def read_tasks(path: Path) -> list[Task]:
    """The tasks of a file: itself, or its subtasks.  Raises SamplesError."""
    content = read_object(path)
    if "examples" in content:
        return [checked(path, content, "")]
    inner = content.get("subtasks")
    if inner is None:
        files = sorted(path.parent.glob("*/task.json"))
        found = [task for file in files for task in read_tasks(file)]
    elif isinstance(inner, list) and all(isinstance(x, dict) for x in inner):
        found = [checked(path, x, "") for x in inner]
    else:
        raise SamplesError(f"{path} has subtasks that are no list of tasks")
    if not found:
        raise SamplesError(f"{path} has neither examples nor subtasks")
    names = [task.name for task in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SamplesError(f"{path} has two subtasks of the name {twice[0]}")
    return [Task(f"{content.get('name', path.parent.name)}:{t.name}", t.content) for t in found]


def read_object(path: Path) -> dict[str, Any]:
    try:
        content = parse(bounded_read(path))
    except ValueError as e:
        raise SamplesError(f"{path} is not JSON: {e}") from e
    if not isinstance(content, dict):
        raise SamplesError(f"{path} is no task: a JSON object is due")
    return content


def checked(path: Path, content: dict[str, Any], prefix: str) -> Task:
    try:
        scores.task_options(content, index=0)
    except ValueError as e:
        raise SamplesError(f"{path}: {e}") from e
    task = Task(str(content["name"]), content)
    if not isinstance(content["metrics"], list) or not task.kinds:
        raise SamplesError(f"{path}: it has no metric that can be measured")
    return task


# --- asking --------------------------------------------------------------------------------------


def asked(
    task: Task, scorer: Scorer, shots: int, most: int, tokens: int, progress: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """The lines of the log of one task.  Raises SamplesError."""
    try:
        prompts, queries = scores.task_prompts(
            task.content, shots=shots, max_examples=most, seed=SEED
        )
    except ValueError as e:
        raise SamplesError(f"{task.name}: {e}") from e
    keep = ("metrics", "preferred_score")
    head = {"type": "task", "task": task.name, "shots": shots}
    head |= {"parameters": scorer.parameters}
    yield head | {key: task.content[key] for key in keep}
    for prompt, index in zip(prompts, queries, strict=True):
        options, worth, targets = scores.task_options(task.content, index=int(index))
        about = {"example": int(index), "prompt": prompt}
        for kind in task.kinds:
            line = {"type": kind, **about}
            if kind == "choice":
                line |= {"options": options, "log_probs": scorer.log_probs(prompt, options)}
                line |= {"target_scores": [float(x) for x in worth]}
            elif kind == "text":
                said = scorer.continuation(prompt, tokens)
                line |= {"response": cut(said, task.content), "targets": targets}
            else:
                line |= {"targets": targets, "log_probs": scorer.log_probs(prompt, targets)}
            yield line
        progress()


def cut(response: str, task: Mapping[str, Any]) -> str:
    """What counts of a response: up to the stop string, then the first match of the pattern."""
    if stop := task.get("stop_string"):
        response = response.split(stop)[0]
    pattern = task.get("output_regex", None if stop else OUTPUT)
    if pattern is None:
        return response
    found = re.search(pattern, response)
    return found[0].strip() if found else ""


# --- scoring -------------------------------------------------------------------------------------


@dataclass
class Asked:
    """One task of a log, with as many shots: its head, and its lines by type."""

    head: Mapping[str, Any]
    choice: list[Mapping[str, Any]] = field(default_factory=list)
    text: list[Mapping[str, Any]] = field(default_factory=list)
    likelihood: list[Mapping[str, Any]] = field(default_factory=list)


def read_log(path: Path) -> list[Asked]:
    """The tasks of a log.  Raises SamplesError."""
    lines: list[dict[str, Any]] = []
    for number, line in lines_of(path):
        kind = line.get("type")
        if kind == "task":
            if not isinstance(line.get("task"), str) or not isinstance(line.get("metrics"), list):
                raise SamplesError(f"{path}, line {number}: a task has a name and metrics")
        elif kind not in ("choice", "text", "likelihood") or not lines:
            raise SamplesError(f"{path}, line {number} is no task, nor a query after one")
        lines.append(line)
    if not lines:
        raise SamplesError(f"{path} has no task")
    return grouped(lines)


def scored(task: Asked, profile: str) -> dict[str, Any]:
    """The metrics of a task: fractions, with the score of chance for the grade."""
    found: dict[str, Any] = {}
    metrics = set(task.head["metrics"])
    if "multiple_choice_grade" in metrics:  # these come with it
        metrics |= {"calibration_multiple_choice_brier_score", "expected_calibration_error"}
    try:
        if task.choice:
            found |= of_choices(task.choice, metrics, profile)
        if task.text:
            found |= of_texts(task.text, metrics, profile)
        if task.likelihood:
            z, sizes = flat([line["log_probs"] for line in task.likelihood])
            found["log_likelihood"] = float(scores.log_likelihood(z, sizes))
    except (KeyError, TypeError, ValueError) as e:
        missing = f"a query has no {e.args[0]}" if isinstance(e, KeyError) else str(e)
        raise SamplesError(f"{task.head['task']}: {missing}") from e
    line = {"task": task.head["task"], "shots": task.head.get("shots", 0)}
    line |= {"queries": max(len(x) for x in (task.choice, task.text, task.likelihood))}
    chosen = task.head.get("preferred_score")
    return line | {"preferred": chosen if chosen in found else None, "scores": found}


def of_choices(
    lines: Sequence[Mapping[str, Any]], metrics: set[str], profile: str
) -> dict[str, float]:
    """Raises ValueError, or KeyError where a line lacks something."""
    for i, line in enumerate(lines):
        if not len(line["log_probs"]) == len(line["target_scores"]) == len(line["options"]):
            raise ValueError(f"query {i} has not as many log_probs and scores as options")
    z, sizes = flat([line["log_probs"] for line in lines])
    y, _ = flat([line["target_scores"] for line in lines])
    ties = PROFILES[profile]["tasks"]["ties"]
    names = ("grade", "random", "brier", "calibration", "weighted_log", "weighted")
    values = scores.multiple_choice(z, y, sizes, ties=ties)
    by_name = dict(zip(names, map(float, values), strict=True))
    found = {metric: by_name[name] for metric, name in OF_CHOICE.items() if metric in metrics}
    if "multiple_choice_grade" in metrics:
        found["random"] = by_name["random"]
    if "macro_f1" in metrics:
        best = [line["options"][int(np.argmax(numbers(line["log_probs"])))] for line in lines]
        right = [line["options"][int(np.argmax(line["target_scores"]))] for line in lines]
        found["macro_f1"] = float(scores.macro_f1(best, right))
    return found


def of_texts(
    lines: Sequence[Mapping[str, Any]], metrics: set[str], profile: str
) -> dict[str, float]:
    responses, targets = ([line[key] for line in lines] for key in ("response", "targets"))
    found = {}
    for metric in sorted(metrics & OF_TEXT.keys()):
        rule = OF_TEXT[metric]
        rule = PROFILES[profile]["tasks"]["numeric"] if rule == "numeric" else rule
        found[metric] = float(scores.text_match(responses, targets, rule=rule))
    if "bleu" in metrics:
        found["bleu"] = bleu(responses, targets)
    if "rouge" in metrics:
        found |= rouge(responses, targets)
    return found


def numbers(values: Sequence[Any]) -> np.ndarray:
    return np.array([-np.inf if x is None else x for x in values], float)


def flat(values: Sequence[Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of all samples one after the other, and how many each has."""
    return np.concatenate([numbers(x) for x in values]), np.array([len(x) for x in values])


def bleu(responses: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    """Of the corpus, by sacrebleu, as BIG-bench sets it; missing references are the first again."""
    from refgss.studies.libraries import sacrebleu

    most = max(map(len, targets))
    padded = [[*each, *[each[0]] * (most - len(each))] for each in targets]
    references = [list(column) for column in zip(*padded, strict=True)]
    options = {"tokenize": "intl", "smooth_method": "exp", "use_effective_order": False}
    return float(sacrebleu().corpus_bleu(list(responses), references, **options).score) / 100


def rouge(responses: Sequence[str], targets: Sequence[Sequence[str]]) -> dict[str, float]:
    """The mean over samples of the best F of a target, by rouge_score, without a bootstrap."""
    from refgss.studies.libraries import rouge_score

    names = ["rouge1", "rouge2", "rougeLsum"]
    scorer = rouge_score().RougeScorer(names)
    each = [
        [scorer.score(target, response) for target in own]
        for response, own in zip(responses, targets, strict=True)
    ]
    return {
        name: float(np.mean([max(x[name].fmeasure for x in own) for own in each])) for name in names
    }


def aggregate(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean of the preferred scores in percent between chance and the best; None without any."""
    known = [line for line in lines if line["preferred"]]
    if not known:
        return None
    own, low, high = np.array([bounds(line) for line in known]).T
    return float(scores.normalized_aggregate(own, low, high))


def bounds(line: Mapping[str, Any]) -> tuple[float, float, float]:
    """The preferred score, its low and its high."""
    name = line["preferred"]
    own = line["scores"][name]
    low = line["scores"]["random"] if name == "multiple_choice_grade" else LOWEST.get(name, 0.0)
    return own, low, HIGHEST.get(name, 1.0)


def as_line(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n"


def grouped(lines: Sequence[Mapping[str, Any]]) -> list[Asked]:
    """The lines of a log, task by task."""
    found: list[Asked] = []
    for line in lines:
        if line["type"] == "task":
            found.append(Asked(line))
        else:
            getattr(found[-1], line["type"]).append(line)
    return found


def curve_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """The aggregate of a model by shots."""
    shots = sorted({line["shots"] for line in model["tasks"]})
    each = {n: aggregate([x for x in model["tasks"] if x["shots"] == n]) for n in shots}
    return {"log": model["log"], "parameters": model["parameters"], "by_shots": each}


def growth(models: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Of each task and number of shots how its preferred score grows with the size of the model."""
    sizes = [model["parameters"] for model in models]
    if len(models) < 3 or None in sizes or len(set(sizes)) < len(sizes):
        return {}
    by_name: dict[str, list[float]] = {}
    for model in models:
        for line in model["tasks"]:
            if line["preferred"]:
                name = f"{line['task']}, {line['shots']} shots"
                by_name.setdefault(name, []).append(line["scores"][line["preferred"]])
    found = {}
    for name, values in by_name.items():
        if len(values) == len(models):
            measured = scores.scaling(np.array(sizes, float), np.array(values), count="steps")
            known = [float(x) if np.isfinite(x) else None for x in measured]
            found[name] = dict(
                zip(("improvement", "linearity", "breakthroughness"), known, strict=True)
            )
    return found
