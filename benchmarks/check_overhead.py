"""What a check costs: the native backend asked in this process and through each kind of candidate.

    python benchmarks/check_overhead.py [--rounds 3]

Every line is a whole `refgss check --profile f32`, fresh cases included, from the start of the
interpreter to the exit code.  The overhead per case is what a case takes beyond the same case in
this process.  The verdicts of all kinds are compared case by case; leaves with 1 if one differs.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from refgss import native
from refgss.children import python
from refgss.conformance.reports.report import Report, read

WORKER = shlex.join(python("-m", "refgss.conformance.candidates.worker", "python", "refgss.native"))


def candidates() -> dict[str, str]:
    """What to check, by the kind of candidate."""
    library = next(Path(native.__file__).parent.glob("librefgss.*"))
    return {
        "in this process": "native",
        "child process": "python:refgss.native",
        "program on stdio": f"cmd:{WORKER}",
        "C ABI": f"lib:{library}",
    }


def check(spec: str, folder: Path) -> tuple[float, Report]:
    """Seconds of the whole command, and its report."""
    file = folder / "report.jsonl"
    command = python("-m", "refgss", "check", "--candidate", spec, "--profile", "f32")
    start = time.perf_counter()
    done = subprocess.run(
        [*command, "--seed", "1", "--report", str(file)], capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode not in (0, 1):
        sys.exit(f"{spec}: exit code {done.returncode}: {done.stderr}")
    return seconds, read(file)


def outcomes(report: Report) -> dict[str, str]:
    """Outcomes of what was claimed, by case."""
    return {c["id"]: c["outcome"] for c in report.cases if c["outcome"] != "not claimed"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="Interleaved; medians are printed.")
    rounds = parser.parse_args().rounds
    walls: dict[str, list[float]] = {kind: [] for kind in candidates()}
    reports: dict[str, Report] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for kind, spec in candidates().items():
                seconds, reports[kind] = check(spec, Path(folder))
                walls[kind].append(seconds)
    here = reports["in this process"]
    base = {c["id"]: c["seconds"] for c in here.cases}
    different = 0
    print(f"{'native, f32':18}{'s in all':>10}{'cases':>8}{'overhead, ms a case':>21}  verdict")
    for kind, report in reports.items():
        claimed = {id: x for id, x in outcomes(report).items() if id in base}  # fresh ones differ
        different += sum(outcomes(here)[id] != outcome for id, outcome in claimed.items())
        beyond = [c["seconds"] - base[c["id"]] for c in report.cases if c["id"] in claimed]
        print(
            f"{kind:18}{statistics.median(walls[kind]):10.2f}{len(claimed):8}"
            f"{1e3 * statistics.mean(beyond):21.2f}  {report.verdict}"
        )
    print(f"{different} cases have another outcome than in this process")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
