"""Chapter 15, for readers: written from what has been measured.

    python -m refgss.conformance.selftest.chapter

renews spec/15-mutants.md from spec/mutants.json (`kills`), spec/generated.json (`generated`) and
spec/diagnosis.json (`diagnosis_score`); each of these does so itself when it publishes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from refgss.conformance import PRECISIONS
from refgss.conformance.selftest import mutants
from refgss.files import atomic_write
from refgss.standard import spec_folder


def publish(name: str, value: Any) -> None:
    """Write a measurement as spec/NAME, and the chapter anew."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    atomic_write(spec_folder() / name, text.encode())
    renew()


def renew() -> None:
    atomic_write(spec_folder() / "15-mutants.md", text().encode())


def measured(name: str) -> Any:
    """A published measurement; None where there is none yet."""
    file = spec_folder() / name
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def text() -> str:
    """The chapter."""
    lines = measured("mutants.json")
    killed = sum(line["status"] == "killed" for line in lines)
    found = [
        "# 15 Mutants\n",
        "A mutant is the reference with one named error of meaning. The vectors are measured by",
        "the mutants that they reject, in every precision in which the error shows. This chapter",
        "is written by `python -m refgss.conformance.selftest.kills --write`.\n",
        f"**{killed} of {len(lines)} killed.**\n",
        *unchosen(),
        *diagnosed(),
        "What changes rounding alone is no mutant but an honest variant (chapter 16). No mutant is",
        "equivalent to the reference in both precisions; those that are in one say why:",
        f"{', '.join(f'`{name}`' for name in one_sided())}.\n",
        "| area | killed | declared |",
        "|---|---|---|",
        *areas(lines),
        "",
        "| clause | mutant | what it does | rejected first by |",
        "|---|---|---|---|",
    ]
    for line in sorted(lines, key=lambda line: clause_order(line["clause"])):
        by = sorted(set(line["killed_by"].values()))
        shown = ", ".join(f"`{id}`" for id in by) or "**survives**"
        note = line["note"].replace("|", "\\|")
        found.append(f"| {line['clause']} | `{line['name']}` | {note} | {shown} |")
    return "\n".join(found) + "\n"


def unchosen() -> list[str]:
    """The score of the mutants that no author chose, as measured by `generated`."""
    result = measured("generated.json")
    if result is None:
        return []
    files = result["files"]
    sums = {s: sum(counts.get(s, 0) for counts in files.values()) for s in STATUS}
    judged = sums["killed"] + sums["survived"]
    found = [
        f"Beside these, {result['generated']} mutants that no author chose: each operator,",
        "constant, index, comparison, sign, conjugation, reduction, argument and statement of the",
        "reference's functions changed (`python -m refgss.conformance.selftest.generated`). The",
        "equivalent ones stand, with the reason, in refgss/conformance/selftest/equivalent.toml.",
        f"{sum(sums.values())} are measured, {sums['equivalent']} of them equivalent.",
        f"**{sums['killed']} of the {judged} others killed ({sums['killed'] / judged:.1%}).**\n",
        "| file of the reference | killed | survived | equivalent |",
        "|---|---|---|---|",
    ]
    for file, counts in sorted(files.items()):
        found.append(f"| {file} | {' | '.join(str(counts.get(s, 0)) for s in STATUS)} |")
    if waiting := result.get("unmeasured"):
        told = ", ".join(f"{n} of {file}" for file, n in sorted(waiting.items()))
        found += ["", f"Not measured yet, which is no matter of chance: {told}."]
    if result["survivors"]:
        found += ["", "The survivors:\n", *(f"- `{name}`" for name in result["survivors"])]
    return [*found, ""]


STATUS = ("killed", "survived", "equivalent")


def diagnosed() -> list[str]:
    """How often the diagnosis names the clause, as measured by `diagnosis_score`."""
    scores = measured("diagnosis.json")
    if scores is None:
        return []
    found = [
        "`refgss check` names the clauses that a failing candidate most probably violates. Here",
        "mutants are taken for such candidates, and a clause is right that the changed function",
        "names, or of a named mutant the one in the table below",
        "(`python -m refgss.conformance.selftest.diagnosis_score`):\n",
        "| mutants | how many | a right clause first | among the first three |",
        "|---|---|---|---|",
    ]
    for score in scores:
        shares = f"{score['first']:.1%}", f"{score['first_three']:.1%}"
        cells = score["meaning"], str(score["mutants"]), *shares
        found.append(f"| {' | '.join(cells)} |")
    return [*found, ""]


def one_sided() -> list[str]:
    return [
        m.name
        for m in mutants.declared().values()
        if m.precisions != PRECISIONS and not m.of_scores
    ]


def areas(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Killed and declared mutants of the clauses of each area."""
    for area in AREAS:
        of_area = [line for line in lines if line["clause"].split("-")[1] == area]
        killed = sum(line["status"] == "killed" for line in of_area)
        yield f"| GSS-{area} {AREAS[area]} | {killed} | {len(of_area)} |"


AREAS = {  # in the order of the chapters
    "ARR": "arrays",
    "PAR": "parameters",
    "INI": "initialisation",
    "DIS": "discretisation",
    "KER": "kernel",
    "CNV": "convolution",
    "REC": "recurrence",
    "NRM": "norm, GELU, dense map",
    "LAY": "layers",
    "LM": "language model",
    "GRD": "gradients",
    "STA": "streaming",
    "ACC": "accuracy",
    "NFI": "bad and empty input",
    "ATT": "attention",
    "HYB": "hybrid models",
    "BRT": "block-recurrent layers",
    "TSK": "tasks",
    "ANS": "answers",
    "CAL": "calibration",
    "EST": "accuracy estimation",
}


def clause_order(id: str) -> tuple[int, int]:
    _, area, number = id.split("-")
    return list(AREAS).index(area), int(number)


if __name__ == "__main__":
    renew()
