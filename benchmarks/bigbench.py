"""Every task file of the package bigbench 1.0.0: read, its prompts built and held against its own.

    pip download bigbench==1.0.0 --no-deps --no-binary :all: --no-build-isolation
    python benchmarks/bigbench.py bigbench-1.0.0.tar.gz [--shots 1] [--queries 20]

The package needs TensorFlow; of its text two functions are run, which make examples and prompts.
Prints how many files are read, refused (with the reason) or differ.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from refgss.schemas import parse
from refgss.scores import task_prompts
from refgss.scores.tasks import TEXTS

WITNESS = ("default_format_fn", "make_nshot_dataset")
SEED = 42


def witness(text: str) -> dict[str, Callable[..., Any]]:
    """The two functions of bigbench/api/json_task.py, without what the file imports."""
    functions = [
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name in WITNESS
    ]
    for function in functions:
        for node in ast.walk(function):  # annotations name modules that are not here
            if isinstance(node, ast.FunctionDef):
                node.returns = None
                for argument in (*node.args.args, *node.args.kwonlyargs):
                    argument.annotation = None
    space: dict[str, Any] = {"np": np, "copy": copy}
    exec(compile(ast.Module(functions, []), "json_task.py", "exec"), space)
    return {name: space[name] for name in WITNESS}


def theirs(make: dict[str, Callable[..., Any]], task: dict[str, Any], shots: int, n: int) -> Any:
    """The prompts that the package builds."""
    distinct = list({json.dumps(x): x for x in copy.deepcopy(task["examples"])}.values())
    options = {name: task.get(name, default) for name, default in TEXTS.items()}
    formatted = [
        make["default_format_fn"](
            x,
            input_prefix=options["example_input_prefix"],
            output_prefix=options["example_output_prefix"],
            choice_prefix=options["choice_prefix"],
            random_seed=SEED,
            append_choices_to_input=task.get("append_choices_to_input", True),
        )
        for x in distinct
    ]
    most = min(n or len(formatted), len(formatted))
    separator = options["few_shot_example_separator"]
    found = make["make_nshot_dataset"](
        formatted, shots, random_seed=SEED, separator=separator, max_examples=most
    )
    return [options["task_prefix"] + x["input"] for x in found]


def judged(
    make: dict[str, Callable[..., Any]], content: bytes, shots: int, queries: int
) -> tuple[str, int]:
    """What becomes of a task file, and how many prompts were built."""
    try:
        task = parse(content)
    except ValueError as e:
        return f"refused: {e}", 0
    if "examples" not in task:
        return "has subtasks in other files", 0
    try:
        ours, _ = task_prompts(task, shots=shots, max_examples=queries, seed=SEED)
    except ValueError as e:
        return f"refused: {e}", 0
    same = ours == theirs(make, task, shots, queries)
    return ("the package's prompts" if same else "other prompts"), len(ours)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("package")
    arguments.add_argument("--shots", type=int, default=1)
    arguments.add_argument("--queries", type=int, default=20, help="of each task; 0 is all")
    given = arguments.parse_args()
    start, counts, prompts, files = time.time(), Counter[str](), 0, {}
    with tarfile.open(given.package) as archive:
        for member in archive:
            if member.name.endswith(("/task.json", "/api/json_task.py")):
                file = archive.extractfile(member)
                assert file is not None
                files[member.name] = file.read()
    (source,) = (name for name in files if name.endswith("json_task.py"))
    make = witness(files.pop(source).decode())
    for name, content in sorted(files.items()):
        what, n = judged(make, content, given.shots, given.queries)
        counts[what] += 1
        prompts += n
        if what.startswith(("refused", "other")):
            print(f"{name.removeprefix('bigbench-1.0.0/')}: {what}")
    print(f"{len(files)} task files, {prompts} prompts in {time.time() - start:.0f} s:")
    for what, number in counts.most_common():
        print(f"  {number:5} {what}")


if __name__ == "__main__":
    main()
