"""`refgss eval math`: votes on the answers to problems of mathematics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from refgss.cli import terminal
from refgss.cli.accuracy import output_option, picture_option, save, shown, table
from refgss.cli.arguments import REPORT
from refgss.scores.answers import METHODS
from refgss.scores.profiles import PROFILES
from refgss.studies import mathematics as study
from refgss.studies import pictures
from refgss.studies.algebra import SECONDS, Algebra


class Numbers(click.ParamType):
    """Whole numbers with commas between them, such as 1,4,16."""

    name = "N,N,…"

    def __init__(self, least: int = 1):
        self.least = least

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> list[int]:
        parts = str(value).split(",")
        if not all(part.isascii() and part.isdigit() and int(part) >= self.least for part in parts):
            self.fail(
                f"{value} is no list of numbers from {self.least} on, such as 1,4,16",
                param,
                context,
            )
        return sorted({int(part) for part in parts})


@click.command("math", short_help="Vote on answers to mathematics.")
@click.option("--samples", type=REPORT, required=True, help="JSON lines: id, response(s).")
@click.option("--gold", type=REPORT, required=True, help="JSON lines: id, answer or solution.")
@click.option("--k", "ks", type=Numbers(), default="1", show_default=True, help="Votes of k.")
@click.option(
    "--extract",
    type=click.Choice(list(study.EXTRACT)),
    default="sentence",
    show_default=True,
    help="Where the answer of a response stands.",
)
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default="refgss",
    show_default=True,
    help="Rules, and votes over all choices of k or over the first k.",
)
@click.option(
    "--equivalence",
    type=click.Choice([*METHODS, "sympy"]),
    default="rational",
    show_default=True,
    help="When two answers are one.",
)
@output_option
@picture_option
def math(
    samples: Path,
    gold: Path,
    ks: Sequence[int],
    extract: str,
    profile: str,
    equivalence: str,
    output: Path | None,
    plot: Path | None,
) -> None:
    """Accuracy of a vote of k samples (maj@k), and of the best of k (pass@k).

    Prints both for each k, with the standard error over problems, and the votes of the problems
    whose most frequent answer is right and of those where it is wrong (spec/22).
    """
    problems = study.read_problems(samples, gold)
    study.refuse_k(problems, ks)
    rules = PROFILES[profile]["math"]["rules"]
    algebra = Algebra()
    same = study.same_by("rational" if equivalence == "sympy" else equivalence, rules)
    if equivalence == "sympy":
        by_value = same
        same = lambda a, b: by_value(a, b) or algebra.equal(a, b)  # noqa: E731
    try:
        with terminal.progress("comparing answers", len(problems)) as step:
            counted = []
            for problem in problems:
                counted.append(study.counted(problem, extract, rules, same))
                step()
    finally:
        algebra.close()
    lines = study.curve(counted, ks, profile)
    n = sum(len(p.group) for p in counted)
    invalid = sum(p.invalid for p in counted) / n
    modes = Counter(p.mode_is_right for p in counted)
    terminal.say(
        f"profile {profile}, equivalence {equivalence}: {len(counted)} problems, {n} responses, "
        f"{invalid:.1%} without an answer; the most frequent answer is right for {modes[True]}"
    )
    rows = table(("k", "maj@k", "error", "pass@k", "mode right", "mode wrong"))
    keys = ("majority", "error", "pass", "mode_right", "mode_wrong")
    for line in lines:
        rows.add_row(str(line["k"]), *(shown(line[key]) for key in keys))
    terminal.console().print(rows)
    if equivalence == "sympy":
        told = ", ".join(f"{count} {what}" for what, count in algebra.compared.items())
        terminal.note(f"pairs put to sympy, {SECONDS:g} s each at most: {told}")
    head: dict[str, Any] = {"profile": profile, "equivalence": equivalence, "extract": extract}
    head |= {"problems": len(counted), "responses": n, "invalid": invalid}
    save(output, head | {"compared": algebra.compared, "curve": lines})
    if plot:
        pictures.votes(plot, lines)
