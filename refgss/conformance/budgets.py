"""How much of their budgets honest implementations use, op by op.

    python -m refgss.conformance.budgets [--write]

runs every honest variant, and every backend that is usable here, on all vectors; --write renews
spec/16-budgets.md.  A ratio above 1 anywhere is a failure, and the exit code is 1.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from refgss.conformance import PRECISIONS, spec_folder, variants
from refgss.conformance.candidates import (
    ALIASES,
    Candidate,
    CandidateError,
    ModuleCandidate,
    import_backend,
)
from refgss.conformance.compare import Failure, Outcome, error_ratio, judge
from refgss.conformance.ops import OPS
from refgss.conformance.runner import answer_to
from refgss.conformance.vectors import Vector, read_vectors

Ratios = dict[tuple[str, str], list[np.ndarray]]  # by op and precision


def honest() -> Iterator[tuple[str, Candidate, tuple[str, ...]]]:
    """Name, candidate and precisions of all honest implementations at hand."""
    for alias in ALIASES:
        try:
            yield alias, ModuleCandidate(import_backend(alias)), PRECISIONS
        except CandidateError:
            continue  # not built, or not installed
    for name, variant in variants.VARIANTS.items():
        yield name, ModuleCandidate(variants.load(variant)), variant.precisions


def ratios(candidate: Candidate, vector: Vector, precision: str) -> tuple[bool, np.ndarray]:
    """Whether the vector passes, and error/budget of every element that has a finite budget."""
    answer = answer_to(candidate, vector, precision)
    finding = judge(vector, answer, precision)
    if finding.outcome is Outcome.UNCLAIMED or isinstance(answer, Failure) or finding.failed:
        return not finding.failed, np.empty(0)
    found = []
    for name, want in vector.expected.items():
        got = answer.arrays[name]
        values = (got if want.at is None else got.ravel()[want.at]).astype(np.float64)
        judged = np.isfinite(want.budget[precision]) & np.isfinite(want.hi)
        found.append(error_ratio(values, want, precision)[judged])
    return True, np.concatenate(found) if found else np.empty(0)


def survey(vectors: Sequence[Vector]) -> tuple[Ratios, list[str], list[str]]:
    """All ratios, what was rejected, and the names of the implementations."""
    found: Ratios = defaultdict(list)
    rejected, names = [], []
    for name, candidate, precisions in honest():
        names.append(name)
        for v in vectors:
            for p in precisions:
                with np.errstate(all="ignore"):
                    passed, ratio = ratios(candidate, v, p)
                found[v.op, p].append(ratio)
                if not passed:
                    rejected.append(f"{name}: {v.id} at {p}")
    return found, rejected, names


def table(found: Ratios, names: Sequence[str]) -> str:
    text = [
        "# 16 Budgets in use\n",
        f"Error/budget of {len(names)} honest implementations: backends of this project, and",
        "variants of the reference (other orders of summation, transforms, recurrences, elementary",
        "functions). A budget holds for every honest order of operations, so that each of them",
        "uses a small part of it. Elements that are exact are not counted.\n",
        "This chapter is written by `python -m refgss.conformance.budgets --write`.\n",
        "Implementations: " + ", ".join(names) + ".\n",
        "| op | f32 median | f32 99 % | f32 largest | f64 median | f64 99 % | f64 largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for op in OPS:
        cells = [cell for p in PRECISIONS for cell in quantiles(np.concatenate(found[op, p]))]
        text.append(f"| `{op}` | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def quantiles(x: np.ndarray) -> list[str]:
    """Of the elements that are not exact."""
    x = x[x > 0]
    return [f"{v:.2g}" for v in np.quantile(x, [0.5, 0.99, 1.0])] if x.size else ["exact"] * 3


def main(arguments: Sequence[str]) -> Any:
    folder = spec_folder()
    found, rejected, names = survey(read_vectors(folder / "vectors").vectors)
    for line in rejected:
        print(f"rejected: {line}")
    print(f"{len(names)} honest implementations, {len(rejected)} rejections")
    if "--write" in arguments:
        (folder / "16-budgets.md").write_text(table(found, names), "utf-8")
    return int(bool(rejected))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
