"""From cases to vectors, and from shipped vectors to the same ones, certified anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refgss.conformance.vectors.cases import Case
from refgss.conformance.vectors.cases.attention import nan_reach
from refgss.conformance.vectors.cases.block_recurrent import layer_nan, window_nan
from refgss.conformance.vectors.cases.transformer import layer_reach
from refgss.conformance.vectors.certify import certify, certify_at, certify_samples
from refgss.conformance.vectors.format import Expected, Vector
from refgss.ops import WHOLES


def to_certify(
    published: Iterable[Vector], cases: Iterable[Case], only_new: bool = False
) -> list[Case]:
    """The cases of a set, those that are published already on their published inputs.

    The inputs are not drawn again: a vector, once published, keeps them for good (GSS-FMT-9).
    `only_new` leaves the published ones out.  Raises ValueError where a published vector has no
    case any more.
    """
    shipped, cases = {v.id: v.tensors for v in published}, list(cases)
    if lost := sorted(shipped.keys() - {case.id for case in cases}):
        raise ValueError(f"{lost[0]} is published and has no case: restore it (GSS-FMT-9)")
    if only_new:
        return [case for case in cases if case.id not in shipped]
    return [
        replace(case, tensors=shipped[case.id]) if case.id in shipped else case for case in cases
    ]


def vector(case: Case) -> Vector:
    """The vector of a case: its expected values proven, its budgets derived."""
    tensors, expected = case.tensors, {}
    if case.nan:
        name, index = case.nan_in or POISONED[case.op], case.nan
        tensors = dict(tensors)
        tensors[name] = replaced(tensors[name], index, 0)  # what the rest must not depend on
    if not case.error:
        expected = answers(case, tensors)
    if case.nan:
        expected = {k: judged(e, *REACH[case.op](k, case, e)) for k, e in expected.items()}
        tensors = dict(tensors)
        tensors[name] = replaced(tensors[name], index, np.nan)
    if case.outputs:
        expected = {k: e for k, e in expected.items() if k in case.outputs}
    return Vector(
        id=case.id,
        op=case.op,
        clauses=case.clauses,
        options=case.options,
        tensors=tensors,
        expected=expected,
        layer_profile=case.layer_profile,
        error=case.error,
        flags=case.flags,
        note=case.note,
    )


def answers(case: Case, tensors: Mapping[str, np.ndarray]) -> dict[str, Expected]:
    if case.sampled:
        return certify_samples(case.op, tensors, case.options, case.id)
    if case.positions:
        return certify_at(case.op, tensors, case.options, list(case.positions))
    # steps are certified as the whole that they make up
    op = WHOLES.get(case.op, case.op) if "splits" in case.options else case.op
    return certify(op, tensors, case.options)


# --- NaN: the tensor of each op that receives one, and what it reaches --------------------------

POISONED = dict.fromkeys(("causal_conv", "ssm_scan", "ssm_step"), "u") | dict.fromkeys(
    ("layer_norm", "rms_norm", "l2_normalize", "dense", "gelu", "gss_layer", "dss_layer"), "x"
)


def _convolution(output: str, case: Case, e: Expected) -> tuple[Any, Any]:
    b, t, h = case.nan
    return np.s_[b, t : t + case.tensors["k"].shape[1], h], np.s_[b, :, h]  # GSS-NFI-6, NFI-8


def _recurrence(output: str, case: Case, e: Expected) -> tuple[Any, Any]:
    b, *t, h = case.nan
    y = np.s_[b, t[0] :, h] if t else np.s_[b, h]
    if output == "y":
        return y, None  # GSS-NFI-9, GSS-NFI-10
    return np.s_[b, h, ..., 0], np.s_[b, h]  # u is real: one step leaves Im x finite


def _layer(output: str, case: Case, e: Expected) -> tuple[Any, Any]:
    return None, np.s_[case.nan[0]]  # GSS-NFI-12


def _attention(output: str, case: Case, e: Expected) -> tuple[Any, Any]:
    return nan_reach(output, case), None  # GSS-ATT-10, GSS-ATT-25


def _transformer(output: str, case: Case, e: Expected) -> tuple[Any, Any]:
    return None, layer_reach(output, case)  # GSS-HYB-9


# op -> (output, case, expected) -> what must be NaN, what is free besides
REACH: dict[str, Callable[[str, Case, Expected], tuple[Any, Any]]] = {
    "causal_conv": _convolution,
    "ssm_scan": _recurrence,
    "ssm_step": _recurrence,
    "attention": _attention,
    "attention_step": _attention,
    "transformer_layer": _transformer,
    "window_attention": lambda output, case, e: (window_nan(output, case), None),  # GSS-BRT-7
    "block_recurrent_layer": lambda output, case, e: (None, layer_nan(output, case)),  # GSS-BRT-22
    "l2_normalize": lambda _, case, e: (case.nan[:-1], None),
    "layer_norm": lambda _, case, e: (case.nan[:-1], None),  # GSS-NFI-11
    "rms_norm": lambda _, case, e: (case.nan[:-1], None),
    "dense": lambda _, case, e: (case.nan[:-1], None),
    "gelu": lambda _, case, e: (case.nan, None),
    "gss_layer": _layer,
    "dss_layer": _layer,
}


def replaced(x: np.ndarray, index: tuple[int, ...], value: float) -> np.ndarray:
    x = x.copy()
    x[index] = value
    return x


def judged(e: Expected, must_be_nan: Any, free: Any) -> Expected:
    """`e` with NaN expected in one part and anything admitted in another."""
    hi, budgets = e.hi.copy(), {p: b.copy() for p, b in e.budget.items()}
    if free is not None:
        for budget in budgets.values():
            budget[free] = np.inf
    if must_be_nan is not None:
        hi[must_be_nan] = np.nan
        for p, budget in budgets.items():
            budget[must_be_nan] = e.budget[p][must_be_nan]
    return replace(e, hi=hi, budget=budgets)
