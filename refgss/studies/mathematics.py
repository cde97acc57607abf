"""Answers to problems of mathematics: extracted, compared, and voted on (spec/22)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refgss import scores
from refgss.files import bounded_read
from refgss.schemas import parse
from refgss.scores.answers import INVALID
from refgss.scores.profiles import PROFILES
from refgss.studies.samples import SamplesError

Same = Callable[[str, str], bool]
EXTRACT: dict[str, Callable[[str], str]] = {
    "sentence": lambda text: scores.extract_answer(text, which="first", across_lines=False),
    "boxed": lambda text: boxed(text),
    "none": lambda text: text,
}


def boxed(text: str) -> str:
    answer, found = scores.boxed_answer(text)
    return answer if found else INVALID


@dataclass(frozen=True)
class Problem:
    """The responses to a problem in the order in which they were sampled, and its answer."""

    id: str
    responses: Sequence[str]
    gold: str


@dataclass(frozen=True)
class Counted:
    """The answers to a problem: groups of equivalent ones, by their first.

    group  of each response, −1 where it has no answer.
    gold   the group that is right, −1 where none is.
    """

    id: str
    group: np.ndarray
    counts: np.ndarray
    gold: int

    @property
    def invalid(self) -> int:
        return int(np.sum(self.group < 0))

    @property
    def mode_is_right(self) -> bool:
        """Whether the group that is largest, the first among equals, is the right one."""
        return bool(len(self.counts)) and int(np.argmax(self.counts)) == self.gold


# --- files ---------------------------------------------------------------------------------------


def read_problems(samples: Path, gold: Path) -> list[Problem]:
    """Problems from two files of JSON lines.  Raises SamplesError.

    A line of samples has an id and a response, or responses; one of gold an id and an answer, or a
    solution whose last box holds it.
    """
    answers: dict[str, str] = {}
    for number, line in lines_of(gold):
        id, where = id_of(line, gold, number), f"{gold}, line {number}"
        if id in answers:
            raise SamplesError(f"{where}: the problem {id} is there twice")
        answers[id] = gold_of(line, where)
    responses: dict[str, list[str]] = {}
    for number, line in lines_of(samples):
        id, where = id_of(line, samples, number), f"{samples}, line {number}"
        if id not in answers:
            raise SamplesError(f"{where}: the problem {id} has no answer in {gold}")
        responses.setdefault(id, []).extend(responses_of(line, where))
    if lost := answers.keys() - responses.keys():
        raise SamplesError(f"{samples} has no response to the problem {min(lost)}")
    if not answers:
        raise SamplesError(f"{gold} has no problem")
    return [Problem(id, responses[id], answer) for id, answer in answers.items()]


def lines_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in enumerate(bounded_read(path).splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = parse(text)
        except ValueError as e:
            raise SamplesError(f"{path}, line {number} is not JSON: {e}") from e
        if not isinstance(line, dict):
            raise SamplesError(f"{path}, line {number} is no JSON object")
        yield number, line


def id_of(line: Mapping[str, Any], path: Path, number: int) -> str:
    id = line.get("id")
    if not isinstance(id, str | int) or isinstance(id, bool):
        raise SamplesError(f"{path}, line {number} has no id")
    return str(id)


def gold_of(line: Mapping[str, Any], where: str) -> str:
    if isinstance(line.get("answer"), str):
        return str(line["answer"])
    if isinstance(line.get("solution"), str):
        if (answer := boxed(line["solution"])) != INVALID:
            return answer
        raise SamplesError(f"{where}: the solution has no \\boxed answer")
    raise SamplesError(f"{where} has neither an answer nor a solution")


def responses_of(line: Mapping[str, Any], where: str) -> list[str]:
    found = line.get("responses", [line["response"]] if "response" in line else None)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise SamplesError(f"{where} has neither a response nor a list of responses")
    return found


# --- counting ------------------------------------------------------------------------------------


def counted(problem: Problem, extract: str, rules: str, same: Same) -> Counted:
    """Groups of the answers to a problem, each compared with the first of every group.

    Raises SamplesError where a text is too long.
    """
    first: list[str] = []  # of each group
    group = []
    try:
        for text in problem.responses:
            answer = EXTRACT[extract](text)
            if answer == INVALID:
                group.append(-1)
                continue
            answer = scores.normalize_answer(answer, rules=rules)
            at = next((i for i, x in enumerate(first) if same(x, answer)), len(first))
            first += [answer] if at == len(first) else []
            group.append(at)
        gold = scores.normalize_answer(problem.gold, rules=rules)
    except ValueError as e:
        raise SamplesError(f"problem {problem.id}: {e}") from e
    right = next((i for i, x in enumerate(first) if same(x, gold)), -1)
    counts = np.bincount([g for g in group if g >= 0], minlength=len(first))
    return Counted(problem.id, np.array(group, int), counts, right)


def same_by(method: str, rules: str) -> Same:
    """Equality of answers that are in their form already, as `equivalent` has it."""

    def same(a: str, b: str) -> bool:
        return bool(scores.equivalent(a, b, rules=rules, method=method))

    return lambda a, b: a == b or (method != "identity" and same(a, b))


def majority(problem: Counted, k: int, profile: str) -> float:
    """The score of a vote of k: over all choices of k, or of the first k with ties to the first."""
    if PROFILES[profile]["math"]["samples"] == "all":
        if not len(problem.counts):
            return 0.0
        options = {"gold": problem.gold, "invalid": problem.invalid, "k": k}
        return float(scores.majority_at_k(problem.counts, **options))
    names = [INVALID if g < 0 else str(g) for g in problem.group[:k]]
    winner, votes = scores.vote(names, invalid="drop", ties="first")
    return float(votes > 0 and winner == str(problem.gold))


def curve(problems: Sequence[Counted], ks: Sequence[int], profile: str) -> list[dict[str, Any]]:
    """For each k the mean of votes and of pass@k over problems, with standard errors."""
    found = []
    for k in ks:
        votes = [majority(p, k, profile) for p in problems]
        passed = [
            float(scores.pass_at_k(n=len(p.group), c=int(np.sum(p.group == p.gold)), k=k))
            if p.gold >= 0
            else 0.0
            for p in problems
        ]
        split = {
            name: mean(
                [v for v, p in zip(votes, problems, strict=True) if p.mode_is_right == is_so]
            )
            for name, is_so in (("mode_right", True), ("mode_wrong", False))
        }
        line = {"k": k, "majority": mean(votes), "error": standard_error(votes)}
        found.append(line | {"pass": mean(passed), **split})
    return found


def mean(x: Sequence[float]) -> float | None:
    return float(np.mean(x)) if x else None


def standard_error(x: Sequence[float]) -> float | None:
    """Of a mean over problems; None of a single one."""
    return float(np.std(x, ddof=1) / np.sqrt(len(x))) if len(x) > 1 else None


def refuse_k(problems: Sequence[Problem], ks: Sequence[int]) -> None:
    """Raises SamplesError for a k beyond the samples of a problem."""
    fewest = min(problems, key=lambda p: len(p.responses))
    if not fewest.responses:
        raise SamplesError(f"the problem {fewest.id} has no response")
    if (k := max(ks)) > (n := len(fewest.responses)):
        raise SamplesError(f"the problem {fewest.id} has {n} responses: k = {k} needs {k}")


def to_json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
