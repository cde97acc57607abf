"""`refgss eval tasks` and `refgss score`: a model's answers to tasks, and what logs are worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from refgss.cli import terminal
from refgss.cli.accuracy import output_option, picture_option, save, shown, table
from refgss.cli.arguments import REPORT, Target
from refgss.cli.mathematics import Numbers
from refgss.cli.models import backend_options, model_and_rest, usable_backend
from refgss.files import replacing
from refgss.scores.profiles import PROFILES
from refgss.studies import pictures
from refgss.studies import tasks as study
from refgss.studies.samples import SamplesError
from refgss.studies.scoring import Scorer

profile_option = click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default="refgss",
    show_default=True,
    help="Ties and relative errors: ours, or those of the paper's code.",
)


@click.command("tasks", short_help="Ask tasks in the format of BIG-bench.")
@click.argument("arguments", nargs=-1, required=True, metavar="[MODEL.safetensors] TASK.json...")
@click.option("--shots", type=Numbers(0), default="0", show_default=True)
@click.option("--max-examples", type=click.IntRange(0), default=0, help="Of each task; 0 is all.")
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="Generated.")
@click.option("--log", type=Target(), help="Write prompts, options, log-probabilities (JSONL).")
@profile_option
@backend_options
def tasks(
    arguments: tuple[str, ...],
    shots: Sequence[int],
    max_examples: int,
    tokens: int,
    log: Path | None,
    profile: str,
    backend: str | None,
    threads: int | None,
) -> None:
    """Ask the tasks of the files, and score the answers (spec/21).

    The options of a question are scored from one reading of its prompt. `refgss score` makes the
    same figures of the log.
    """
    checkpoint, rest = model_and_rest(arguments)
    if not rest:
        raise click.UsageError("name a task.json")
    found = [task for name in rest for task in study.read_tasks(Path(name))]
    scorer = Scorer(checkpoint, usable_backend(backend, threads))
    queries = sum(len(task.content["examples"]) for task in found) * len(shots)
    lines: list[dict[str, Any]] = []
    with terminal.progress("asking", queries) as step:
        for task in found:
            for number in shots:
                lines += study.asked(task, scorer, number, max_examples, tokens, step)
    if log:
        with replacing(log) as file:
            file.writelines(map(study.as_line, lines))
    asked = study.grouped(lines)
    show([study.scored(task, profile) for task in asked], profile)


@click.command(short_help="Score logs of tasks, whoever made them.")
@click.argument("logs", type=REPORT, nargs=-1, required=True)
@profile_option
@output_option
@picture_option
def score(
    logs: Sequence[Path],
    profile: str,
    output: Path | None,
    plot: Path | None,
) -> None:
    """Score JSON lines as `refgss eval tasks --log` writes them, without a model.

    Several files are models of different sizes: where three or more say how many parameters they
    have, their growth is measured too.
    """
    models = []
    for path in logs:
        asked = study.read_log(path)
        lines = [study.scored(task, profile) for task in asked]
        if len(logs) > 1:
            terminal.say(str(path), bold=True)
        show(lines, profile)
        parameters = asked[0].head.get("parameters")
        models.append({"log": path.name, "parameters": parameters, "tasks": lines})
    growth = study.growth(models)
    for name, values in growth.items():
        told = ", ".join(f"{what} {shown(x)}" for what, x in values.items())
        terminal.say(f"{name}: {told}")
    save(output, {"profile": profile, "models": models, "growth": growth})
    if plot:
        pictures.by_size_or_shots(plot, [study.curve_of(model) for model in models])


def show(lines: Sequence[dict[str, Any]], profile: str) -> None:
    """A row for each metric of each task, and the aggregate of each number of shots."""
    if not lines:
        raise SamplesError("nothing was asked")
    rows = table(("task", "shots", "queries", "metric", "score", "chance"))
    for line in lines:
        chance = line["scores"].get("random")
        for name, x in line["scores"].items():
            if name != "random":
                mark = f"{name} *" if name == line["preferred"] else name
                of_grade = shown(chance) if name == "multiple_choice_grade" else ""
                head = (line["task"], str(line["shots"]), str(line["queries"]))
                rows.add_row(*head, mark, shown(x), of_grade)
    terminal.console().print(rows)
    for number in sorted({line["shots"] for line in lines}):
        total = study.aggregate([line for line in lines if line["shots"] == number])
        if total is not None:
            terminal.say(
                f"profile {profile}, {number} shots: the preferred scores (*) are {total:.2f} % of "
                "the way from chance to the best"
            )
