"""How much of their budgets honest implementations use, op by op.

    python -m refgss.conformance.selftest.budgets [--write] [--without NAME]

runs every honest variant, and every backend that is usable here, on all vectors; --write renews
spec/16-budgets.md.  A rejection that no clause announces, or one that is announced and does not
occur, is a failure, and the exit code is 1.
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
from refgss.conformance.judging.compare import Failure, Finding, Outcome, error_ratio, judge
from refgss.conformance.judging.runner import answer_to
from refgss.conformance.selftest import variants
from refgss.conformance.selftest.kills import Reach, reach_of
from refgss.conformance.vectors.format import Vector, moderate, read_vectors
from refgss.ops import OPS
from refgss.standard import spec_folder

Ratios = dict[tuple[str, str], np.ndarray]  # by op and precision


@dataclass(frozen=True)
class Rejected:
    """A vector that an honest implementation fails."""

    op: str
    precision: str
    id: str
    ratio: float  # the worst error/budget; infinite where there is none


@dataclass(frozen=True)
class Use:
    """What an implementation used of the budgets, and what of it was rejected."""

    ratios: Ratios
    rejected: list[Rejected]


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
    variant = variants.VARIANTS.get(name)
    if variant is None:
        precisions: tuple[str, ...] = PRECISIONS
        candidate = ModuleCandidate(import_backend(name))
    else:
        candidate, precisions = ModuleCandidate(variants.load(variant)), variant.precisions
        if variant.functions:
            ids = set[str]().union(*(reach[place] for place in variant.functions))
            vectors = [v for v in vectors if v.id in ids]
    found, rejected = defaultdict(list), []
    for v in vectors:
        for p in precisions:
            with np.errstate(all="ignore"):
                finding, ratio = ratios(candidate, v, p)
            found[v.op, p].append(ratio[ratio > 0])
            if finding.failed:
                worst = np.inf if finding.ratio is None else finding.ratio
                rejected.append(Rejected(v.op, p, v.id, worst))
    return Use({key: np.concatenate(x) for key, x in found.items()}, rejected)


def ratios(candidate: Candidate, vector: Vector, precision: str) -> tuple[Finding, np.ndarray]:
    """The judgement, and if it passes error/budget of every element that has a finite budget."""
    answer = answer_to(candidate, vector, precision)
    finding = judge(vector, answer, precision)
    if finding.outcome is Outcome.UNCLAIMED or isinstance(answer, Failure) or finding.failed:
        return finding, np.empty(0)
    found = []
    for name, want in vector.expected.items():
        got = answer.arrays[name]
        values = (got if want.at is None else got.ravel()[want.at]).astype(np.float64)
        judged = np.isfinite(want.budget[precision]) & np.isfinite(want.hi)
        found.append(error_ratio(values, want, precision)[judged])
    return finding, np.concatenate(found) if found else np.empty(0)


def survey(vectors: Sequence[Vector], without: str | None = None) -> dict[str, Use]:
    """What every honest implementation uses, by name; `without` one that takes long to compile."""
    names = [name for name in implementations() if name != without]
    work = partial(use, vectors=vectors, reach=reach_of(vectors))
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        return dict(zip(names, pool.map(work, names), strict=True))


def table(found: Mapping[str, Use]) -> str:
    text = [
        "# 16 Budgets in use\n",
        f"Error/budget of {len(found)} honest implementations: backends of this project, variants",
        "of the reference (other orders of summation, transforms, recurrences, elementary",
        "functions), each of these on the vectors that reach what it replaces, and PyTorch with",
        "autograd. A budget holds for every honest order of operations of the definition: most",
        "elements of one implementation use a small part of it, and the largest ratio shows how",
        "near to 1 the worst of them comes. Elements that are exact are not counted. What",
        "well-known algorithms are not granted, and by which clause, stands under Rejected.\n",
        "This chapter is written by `python -m refgss.conformance.selftest.budgets --write`.\n",
        "| op | f32 median | f32 99 % | f32 largest | f64 median | f64 99 % | f64 largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for op in OPS:
        cells = []
        for p in PRECISIONS:
            used = [u.ratios[op, p] for u in found.values() if (op, p) in u.ratios]
            cells += quantiles(np.concatenate(used), (0.5, 0.99, 1.0))
        text.append(f"| `{op}` | {' | '.join(cells)} |")
    return "\n".join(text + accepted(found) + refused(found) + methods(found)) + "\n"


def accepted(found: Mapping[str, Use]) -> list[str]:
    """What each implementation does, and the largest part of a budget that it uses where it passes.

    Vectors on which it is rejected are not counted.
    """
    text = [
        "\n## Implementations\n",
        "The largest error/budget of all vectors that each passes:\n",
        "| implementation | what it does | f32 | f64 |",
        "|---|---|---|---|",
    ]
    for name, used in found.items():
        variant = variants.VARIANTS.get(name)
        note = "a backend of this project" if variant is None else variant.note.rstrip(".")
        cells = []
        for p in PRECISIONS:
            all_ops = [x for (_, precision), x in used.ratios.items() if precision == p]
            largest = np.concatenate(all_ops) if all_ops else np.empty(0)
            cells += quantiles(largest, (1.0,), "exact" if all_ops else "–")
        text.append(f"| `{name}` | {note} | {' | '.join(cells)} |")
    return text


def refused(found: Mapping[str, Use]) -> list[str]:
    """What well-known algorithms are not granted: where, by how much, and by which clause."""
    text = [
        "\n## Rejected\n",
        "Algorithms that are in use and not good enough. The note of the clause says why; the",
        "figures are the largest error/budget, and all other vectors pass.\n",
        "| implementation | clause | why | where |",
        "|---|---|---|---|",
    ]
    for name, used in found.items():
        for rejection in variants.VARIANTS[name].rejections if name in variants.VARIANTS else ():
            worst: dict[tuple[str, str], float] = defaultdict(float)
            for r in used.rejected:
                if variants.VARIANTS[name].rejected(r.op, r.precision) is rejection:
                    worst[r.op, r.precision] = max(worst[r.op, r.precision], r.ratio)
            where = ", ".join(f"`{op}` {p} {x:.2g}" for (op, p), x in sorted(worst.items()))
            text.append(f"| `{name}` | {rejection.clause} | {rejection.reason} | {where} |")
    return text


def unexplained(found: Mapping[str, Use]) -> list[str]:
    """Rejections that no clause announces, and those announced that do not occur."""
    told = []
    for name, used in found.items():
        variant = variants.VARIANTS.get(name)
        met = set()
        for r in used.rejected:
            if variant is None or (rejection := variant.rejected(r.op, r.precision)) is None:
                told.append(f"{name}: {r.id} at {r.precision} is rejected: {r.ratio:.3g} budgets")
            else:
                met.add(rejection)
        for rejection in set(variant.rejections if variant else ()) - met:
            told.append(f"{name}: {rejection.clause} is said to reject it, and does not")
    return told


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
        files = {file for file, _ in variant.functions} if variant else set()
        if variant is None or files & {"convolution", "recurrence"}:
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
    found = survey(moderate(read_vectors(folder / "vectors").vectors), without)
    troubles = unexplained(found)
    for line in troubles:
        print(line)
    rejected = sum(bool(used.rejected) for used in found.values())
    print(f"{len(found)} honest implementations, {rejected} rejected, {len(troubles)} unexplained")
    if "--write" in arguments:
        (folder / "16-budgets.md").write_text(table(found), "utf-8")
    return int(bool(troubles))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
