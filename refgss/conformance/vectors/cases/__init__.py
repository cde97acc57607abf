"""The cases of spec/vectors: what is asked, clause by clause, before anything is certified.

A case is a vector without its expected values.  Inputs are float32 numbers, exactly, so that one
vector serves every precision; random ones are drawn from a generator seeded by the case's id, so
that adding a case changes no other.  Hard cases that random data never reaches are spelled out.
One module for each chapter of the spec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from refgss.conformance.vectors.cases.common import FORMS, HARD_MODES, Case, Draw, F, lam_of
from refgss.conformance.vectors.cases.convolution import convolutions
from refgss.conformance.vectors.cases.discretization import discretization, parameters
from refgss.conformance.vectors.cases.kernel import kernels
from refgss.conformance.vectors.cases.language_model import MODELS, model_params, models
from refgss.conformance.vectors.cases.layers import LAYERS, layer_params, layers, named
from refgss.conformance.vectors.cases.pointwise import pointwise
from refgss.conformance.vectors.cases.recurrence import recurrences
from refgss.conformance.vectors.cases.refusals import refusals

__all__ = [
    "CHAPTERS",
    "Case",
    "Draw",
    "F",
    "FORMS",
    "HARD_MODES",
    "LAYERS",
    "MODELS",
    "all_cases",
    "lam_of",
    "layer_params",
    "model_params",
    "named",
]

CHAPTERS: tuple[Callable[[], Iterator[Case]], ...] = (
    parameters,
    discretization,
    kernels,
    convolutions,
    recurrences,
    pointwise,
    layers,
    models,
    refusals,
)


def all_cases() -> list[Case]:
    """Every case, in the order of the chapters; ids are unique."""
    cases = [case for chapter in CHAPTERS for case in chapter()]
    assert len({case.id for case in cases}) == len(cases), "two cases share an id"
    return cases
