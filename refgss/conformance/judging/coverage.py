"""Which clauses, and which functions of the reference, the failing tests have in common."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cache

import numpy as np

from refgss.conformance.clauses import cited, docstrings
from refgss.conformance.judging.likeness import Test
from refgss.conformance.judging.slices import Result, Slices, outputs_of
from refgss.conformance.selftest import mutants
from refgss.conformance.vectors.format import Vector
from refgss.ops import OPS

PART = "part"  # the flag of vectors most of whose parts are switched off

PARTS = {  # what an op is made of; a gradient is made of its op besides
    "ssm_kernel": ("discretize",),
    "ssm_scan": ("ssm_kernel", "causal_conv"),
    "ssm_step": ("discretize",),
    "gss_layer": ("layer_norm", "gelu", "dense", "gss_lambda", "ssm_scan"),
    "dss_layer": ("layer_norm", "gelu", "dense", "gss_lambda", "ssm_scan"),
    "attention_step": ("attention",),
    "transformer_layer": (
        "layer_norm",
        "rms_norm",
        "gelu",
        "dense",
        "rope",
        "t5_bias",
        "attention",
    ),
    "block_recurrent_layer": (
        *("rms_norm", "l2_normalize", "gelu", "dense", "t5_bias", "gate"),
        *("window_attention", "state_attention"),
    ),
    "block_recurrent_step": ("block_recurrent_layer",),
    "lm_logits": ("gss_layer", "dss_layer", "transformer_layer", "block_recurrent_layer"),
    "lm_loss": ("lm_logits",),
}


@cache
def parts(op: str) -> frozenset[str]:
    """All ops that an op is made of, at any depth."""
    base = op.removesuffix("_vjp")
    own = set(PARTS.get(base, ()))
    if op != base:
        own |= {f"{part}_vjp" for part in own} & OPS.keys() | {base}
    return frozenset(own.union(*(parts(part) for part in own)))


def first_ops(broken: Set[str]) -> set[str]:
    """Of the ops that fail those of which no part fails."""
    return {op for op in broken if not parts(op) & broken}


@cache
def clauses_of_functions() -> Mapping[str, tuple[str, ...]]:
    """The clauses that each function of the reference names, by `file.function`."""
    return {
        f"{stem}.{name}": tuple(cited(docstring))
        for stem, tree in mutants.trees().items()
        for name, docstring in docstrings(tree)
    }


@cache
def clauses_of(function: str) -> frozenset[str]:
    """What a function `file.function` names, or where it names nothing, what its callers name."""
    own = clauses_of_functions().get(function, ())
    if own:
        return frozenset(own)
    name = function.split(".")[1]
    return frozenset(c for caller in callers(name) for c in clauses_of_functions()[caller])


@cache
def callers(function: str) -> tuple[str, ...]:
    return tuple(
        f"{stem}.{node.name}"
        for stem, tree in mutants.trees().items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any(called(n) == function for n in ast.walk(node))
    )


def called(node: ast.AST) -> str:
    """The name of the function that a node calls; empty where it calls none."""
    function = getattr(node, "func", None)
    return str(getattr(function, "id", getattr(function, "attr", "")))


@dataclass(frozen=True)
class Coverage:
    """Ochiai's measure of a clause, failing/√(naming · all failing), among several sets of tests.

    overall    all tests that were asked.
    first      those of the first ops that fail.
    part       of these those of which most parts are switched off.
    function   of the results of the first ops, taking for `naming` those that a statement of a
               function moves that names the clause; of the statement for which it is largest.
    anywhere   so of all results.
    """

    overall: float = 0.0
    first: float = 0.0
    part: float = 0.0
    function: float = 0.0
    anywhere: float = 0.0
    failing: int = 0  # tests of the first ops that name the clause and fail
    naming: int = 0


def covered(
    by_id: Mapping[str, Vector],
    asked: Set[Test],
    failed: Set[Test],
    first: Set[str],
    spectra: Slices,
    wrong: Set[Result],
) -> dict[str, Coverage]:
    """The coverage of each clause that a failing test of the first ops names.

    wrong  the results that are wrong, of all that were asked.
    """

    def clauses(test: Test) -> Iterable[str]:
        return by_id[test[0]].clauses

    of_first = {t for t in asked if by_id[t[0]].op in first}
    single = {t for t in of_first if PART in by_id[t[0]].flags}
    overall = ochiai(clauses, asked, failed)
    part = ochiai(clauses, single, failed & single)
    function = by_function(by_id, of_first, spectra, wrong)
    anywhere = by_function(by_id, asked, spectra, wrong)
    return {
        c: Coverage(
            overall[c][0], score, part.get(c, (0.0,))[0], function[c], anywhere[c], n, named
        )
        for c, (score, n, named) in ochiai(clauses, of_first, failed & of_first).items()
    }


def by_function(
    by_id: Mapping[str, Vector], asked: Set[Test], spectra: Slices, wrong: Set[Result]
) -> Mapping[str, float]:
    """By clause the measure of the function that names it and is most like the failures."""
    results = {(id, output) for id, _ in asked for output in outputs_of(by_id[id])}
    found = spectra.likeness(spectra.bits(wrong & results), spectra.bits(results))
    best: dict[str, float] = defaultdict(float)
    for function, score in found.items():
        for clause in clauses_of(function):
            best[clause] = max(best[clause], score)
    return best


def ochiai(
    names: Callable[[Test], Iterable[str]], asked: Set[Test], failed: Set[Test]
) -> dict[str, tuple[float, int, int]]:
    """By name failing/√(naming · all failing), how many name it and fail, and how many name it."""
    named = Counter(name for t in asked for name in names(t))
    failing = Counter(name for t in failed for name in names(t))
    return {
        name: (float(n / np.sqrt(named[name] * len(failed))), n, named[name])
        for name, n in failing.items()
    }
