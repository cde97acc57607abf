"""How much of their budgets honest implementations use, op by op.

    python -m refgss.conformance.selftest.budgets [--write] [--without NAME]

runs every honest variant, and every backend that is usable here, on all vectors; --write renews
spec/16-budgets.md.  A ratio above 1 anywhere is a failure, and the exit code is 1.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np

from refgss.conformance import PRECISIONS
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.candidates.claims import Candidate, CandidateError, claimed
from refgss.conformance.candidates.targets import ALIASES, import_backend
from refgss.conformance.judging.compare import Failure, Outcome, error_ratio, judge
from refgss.conformance.judging.runner import answer_to
from refgss.conformance.selftest import variants
from refgss.conformance.selftest.kills import Reach, reached
from refgss.conformance.vectors.format import Vector, read_vectors
from refgss.ops import OPS
from refgss.standard import spec_folder

Ratios = dict[tuple[str, str], np.ndarray]  # by op and precision


@dataclass(frozen=True)
class Use:
    """What an implementation used of the budgets, and what of it was rejected."""

    ratios: Ratios
    rejected: list[str]


def implementations() -> list[str]:
    """All honest implementations at hand: usable backends of this project, and variants."""
    usable = []
    for alias in ALIASES:
        try:
            usable += [alias] if claimed(import_backend(alias)).ops else []
        except CandidateError:
            continue  # not built, or not installed
    return [*usable, *variants.VARIANTS]


def use(name: str, vectors: Sequence[Vector], reach: Reach) -> Use:
    """Of a variant only where it differs from the reference: what calls the replaced function."""
    if name in variants.VARIANTS:
        variant = variants.VARIANTS[name]
        candidate, precisions = ModuleCandidate(variants.load(variant)), variant.precisions
        vectors = [v for v in vectors if v.id in reach[variant.file, variant.function]]
    else:
        candidate, precisions = ModuleCandidate(import_backend(name)), PRECISIONS
    found, rejected = defaultdict(list), []
    for v in vectors:
        for p in precisions:
            with np.errstate(all="ignore"):
                passed, ratio = ratios(candidate, v, p)
            found[v.op, p].append(ratio[ratio > 0])
            if not passed:
                rejected.append(f"{name}: {v.id} at {p}")
    return Use({key: np.concatenate(x) for key, x in found.items()}, rejected)


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


def survey(vectors: Sequence[Vector], without: str | None = None) -> dict[str, Use]:
    """What every honest implementation uses, by name; `without` one that takes long to compile."""
    names = [name for name in implementations() if name != without]
    work = partial(use, vectors=vectors, reach=dict(reached(vectors)))
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        return dict(zip(names, pool.map(work, names), strict=True))


def table(found: Mapping[str, Use]) -> str:
    text = [
        "# 16 Budgets in use\n",
        f"Error/budget of {len(found)} honest implementations: backends of this project, and",
        "variants of the reference (other orders of summation, transforms, recurrences, elementary",
        "functions), each of these on the vectors that reach what it replaces. A budget holds for",
        "every honest order of operations: most elements of one implementation use a small part of",
        "it, and the largest ratio shows how near to 1 the worst of them comes. Elements that are",
        "exact are not counted.\n",
        "This chapter is written by `python -m refgss.conformance.selftest.budgets --write`.\n",
        "Implementations: " + ", ".join(found) + ".\n",
        "| op | f32 median | f32 99 % | f32 largest | f64 median | f64 99 % | f64 largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for op in OPS:
        cells = []
        for p in PRECISIONS:
            used = [u.ratios[op, p] for u in found.values() if (op, p) in u.ratios]
            cells += quantiles(np.concatenate(used), (0.5, 0.99, 1.0))
        text.append(f"| `{op}` | {' | '.join(cells)} |")
    return "\n".join(text + methods(found)) + "\n"


METHODS = ("causal_conv", "causal_conv_vjp", "ssm_scan", "ssm_scan_vjp")


def methods(found: Mapping[str, Use]) -> list[str]:
    """Where one budget has to admit unlike methods, the median of each of them."""
    text = [
        "\n## One budget for unlike methods\n",
        "A convolution may be done by transforms, by a Toeplitz matrix or tap by tap, and a scan",
        "by these or by the recurrence. Each makes an error that the others do not: transforms one",
        "that goes with the norms (GSS-ACC-5), recurrences one that grows with the length",
        "(GSS-ACC-4). The budget holds both: each method leaves free what the others need.",
        "Medians of error/budget in binary32:\n",
        f"| implementation | {' | '.join(f'`{op}`' for op in METHODS)} |",
        "|---|" + "---|" * len(METHODS),
    ]
    for name, used in found.items():
        variant = variants.VARIANTS.get(name)
        if variant is None or variant.file in ("convolution", "recurrence"):
            cells = [
                quantiles(used.ratios.get((op, "f32"), np.empty(0)), (0.5,), "–")[0]
                for op in METHODS
            ]
            text.append(f"| {name} | {' | '.join(cells)} |")
    return text


def quantiles(x: np.ndarray, at: Sequence[float], none: str = "exact") -> list[str]:
    return [f"{v:.2g}" for v in np.quantile(x, at)] if x.size else [none] * len(at)


def main(arguments: Sequence[str]) -> Any:
    folder = spec_folder()
    without = arguments[-1] if "--without" in arguments else None
    found = survey(read_vectors(folder / "vectors").vectors, without)
    rejected = [line for used in found.values() for line in used.rejected]
    for line in rejected:
        print(f"rejected: {line}")
    print(f"{len(found)} honest implementations, {len(rejected)} rejections")
    if "--write" in arguments:
        (folder / "16-budgets.md").write_text(table(found), "utf-8")
    return int(bool(rejected))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
