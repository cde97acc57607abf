"""`refgss calibrate` and `refgss estimate`: probabilities held against labels, and without them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table

from refgss.cli import terminal
from refgss.cli.arguments import REPORT, Amount, Target
from refgss.files import atomic_write
from refgss.scores.calibration import BINNINGS, EDGES, MOST_BINS
from refgss.scores.profiles import PROFILES
from refgss.studies import accuracy, pictures
from refgss.studies.samples import Samples, read_samples

temperature_option = click.option(
    "--temperature", type=Amount(), metavar="T", help="Use this temperature instead of fitting one."
)
output_option = click.option("-o", "--output", type=Target(), help="Write the figures as JSON.")
picture_option = click.option("--plot", type=Target(), help="Draw a picture (PNG, refgss[plot]).")


def save(path: Path | None, value: Any) -> None:
    if path:
        atomic_write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def table(headings: Sequence[str]) -> Table:
    """A table whose first column is text and all others numbers."""
    found = Table(box=box.SIMPLE_HEAD)
    for i, name in enumerate(headings):
        found.add_column(name, justify="right" if i else "left")
    return found


def shown(x: float | None) -> str:
    return "-" if x is None else f"{x:.4f}"


def temperature_of(source: Samples, given: float | None) -> float:
    """The temperature to use, with a note where its fit says little."""
    if given is not None:
        return given
    found, at_bound = accuracy.fitted(source)
    if at_bound:
        terminal.note(
            f"the temperature is at its bound {found:g}: the labels of {source.name} are all "
            "predicted, or no better than by chance"
        )
    return found


@click.command(short_help="Fit a temperature and measure calibration.")
@click.argument("source", type=REPORT)
@temperature_option
@click.option("--bins", type=click.IntRange(1, MOST_BINS), default=15, show_default=True)
@click.option("--edges", type=click.Choice(EDGES), default=EDGES[0], show_default=True)
@click.option("--binning", type=click.Choice(BINNINGS), default=BINNINGS[0], show_default=True)
@output_option
@picture_option
def calibrate(
    source: Path,
    temperature: float | None,
    bins: int,
    edges: str,
    binning: str,
    output: Path | None,
    plot: Path | None,
) -> None:
    """Fit the temperature of SOURCE and measure how far its probabilities can be believed.

    SOURCE is an npz or safetensors file with the arrays logits or probs (n,K), and labels (n,).
    Prints NLL, ECE, MCE, RMSCE and Brier score (spec/23) before and after.
    """
    samples = read_samples(source)
    chosen = temperature_of(samples, temperature)
    binned = {"bins": bins, "edges": edges, "binning": binning}
    found = [accuracy.calibration(samples, t, **binned) for t in dict.fromkeys((1.0, chosen))]
    n, classes = samples.logits.shape
    hits = int(samples.correct.sum())
    terminal.say(f"{n} samples, {classes} classes, accuracy {hits / n:.4f}, bins {edges}")
    names = ("nll", "ece", "mce", "rmsce", "brier")
    rows = table(("temperature", *names))
    for line in found:
        rows.add_row(f"{line['temperature']:.6f}", *(shown(line[name]) for name in names))
    terminal.console().print(rows)
    save(output, {"temperature": chosen, "accuracy": hits / n, "binning": binned, "at": found})
    if plot:
        pictures.reliability(plot, found)


@click.command(short_help="Estimate accuracy on samples without labels.")
@click.argument("source", type=REPORT)
@click.argument("targets", type=REPORT, nargs=-1, required=True)
@temperature_option
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default="refgss",
    show_default=True,
    help="Rules of thresholds and ties: ours, or those of the paper's code.",
)
@click.option(
    "--second",
    type=REPORT,
    multiple=True,
    help="Logits of a second model, one file for each TARGET: adds GDE.",
)
@click.option("--bootstrap", type=click.IntRange(0), default=200, show_default=True, metavar="B")
@click.option("--seed", type=click.IntRange(0, 2**53 - 2), default=0, show_default=True)
@output_option
@picture_option
def estimate(
    source: Path,
    targets: Sequence[Path],
    temperature: float | None,
    profile: str,
    second: Sequence[Path],
    bootstrap: int,
    seed: int,
    output: Path | None,
    plot: Path | None,
) -> None:
    """Estimate the accuracy on each TARGET from a SOURCE with labels (spec/24).

    Files are those of `refgss calibrate`. Where a TARGET has labels, errors are printed too; an
    array group (n,) says what belongs together. Intervals hold 95 % of the replicates of a
    bootstrap over source and target.
    """
    if second and len(second) != len(targets):
        raise click.UsageError("give --second once for each TARGET, in their order")
    samples = read_samples(source)
    chosen = temperature_of(samples, temperature)
    if samples.correct.all():
        terminal.note(f"{samples.name} has no errors: thresholds are weak evidence then")
    lines = []
    with terminal.progress("resampling", bootstrap * len(targets)) as step:
        for i, path in enumerate(targets):
            target = read_samples(path)
            other = read_samples(second[i]) if second else None
            line = accuracy.estimate(samples, target, other, chosen, profile)
            if bootstrap:
                line["intervals"] = accuracy.intervals(
                    samples, target, chosen, profile, bootstrap, seed, step
                )
            lines.append(line)
    errors = accuracy.mean_absolute_errors(lines)
    terminal.say(
        f"profile {profile}, temperature {chosen:.6f}, source accuracy {samples.correct.mean():.4f}"
    )
    terminal.console().print(estimates_table(lines, errors))
    for line in lines:
        if line["dropped"]:
            terminal.note(
                f"IM leaves out {line['dropped']} of {line['samples']} samples of "
                f"{line['target']}: the source has none of their confidence"
            )
    head = {"profile": profile, "temperature": chosen, "bootstrap": bootstrap, "seed": seed}
    save(output, head | {"targets": lines, "mean_absolute_errors": errors})
    if plot:
        pictures.predicted_against_true(plot, lines)


def estimates_table(lines: Sequence[Mapping[str, Any]], errors: Mapping[str, float]) -> Table:
    """A row for each target, and one of mean absolute errors where accuracies are known."""
    names = list(lines[0]["estimates"])
    known = any("accuracy" in line for line in lines)
    rows = table(("target", "samples", *names, *(["accuracy"] if known else [])))
    for line in lines:
        cells = [shown(line["estimates"][name]) for name in names]
        cells += [shown(line.get("accuracy"))] if known else []
        rows.add_row(line["target"], str(line["samples"]), *cells)
        if "intervals" in line:
            rows.add_row("", "", *(half_width(line["intervals"].get(name)) for name in names))
    if errors:
        rows.add_section()
        rows.add_row("mean absolute error", "", *(shown(errors.get(name)) for name in names), "")
    return rows


def half_width(interval: Sequence[float] | None) -> str:
    return f"±{(interval[1] - interval[0]) / 2:.3f}" if interval else ""
