"""The cases of spec/vectors: what is asked, clause by clause, before anything is certified.

A case is a vector without its expected values.  Inputs are float32 numbers, exactly, so that one
vector serves every precision; random ones are drawn from a generator seeded by the case's id, so
that adding a case changes no other.  Hard cases that random data never reaches are spelled out.
One module for each chapter of the spec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from refgss.conformance.vectors.cases.answers import answers
from refgss.conformance.vectors.cases.asked import refusals_by_table
from refgss.conformance.vectors.cases.attention import attentions, positions, rms_norms
from refgss.conformance.vectors.cases.block_recurrent import (
    block_recurrents,
    gates,
    lengths,
    states,
    windows,
)
from refgss.conformance.vectors.cases.calibration import calibrations, estimations
from refgss.conformance.vectors.cases.common import FORMS, HARD_MODES, Case, Draw, F, lam_of
from refgss.conformance.vectors.cases.convolution import convolutions
from refgss.conformance.vectors.cases.discretization import discretization, parameters
from refgss.conformance.vectors.cases.extremes import extremes
from refgss.conformance.vectors.cases.kernel import kernels
from refgss.conformance.vectors.cases.language_model import MODELS, model_params, models
from refgss.conformance.vectors.cases.layers import LAYERS, layer_params, layers, named
from refgss.conformance.vectors.cases.mixed_models import hybrids, recurrent_models
from refgss.conformance.vectors.cases.options import options
from refgss.conformance.vectors.cases.pointwise import pointwise
from refgss.conformance.vectors.cases.reciprocals import reciprocals
from refgss.conformance.vectors.cases.recurrence import recurrences
from refgss.conformance.vectors.cases.refusals import refusals
from refgss.conformance.vectors.cases.sizes import sizes
from refgss.conformance.vectors.cases.tasks import tasks
from refgss.conformance.vectors.cases.transformer import transformers

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
    refusals_by_table,
    options,
    reciprocals,
    sizes,
    extremes,
    attentions,
    positions,
    rms_norms,
    transformers,
    hybrids,
    tasks,
    answers,
    calibrations,
    estimations,
    lengths,
    gates,
    windows,
    states,
    block_recurrents,
    recurrent_models,
)


def all_cases() -> list[Case]:
    """Every case, in the order of the chapters, then what follows from them; ids are unique."""
    cases = [case for chapter in CHAPTERS for case in chapter()]
    cases += [judged_whole(case) for case in cases if case.outputs]
    cases += [without_state(case) for case in cases if hands_on_nothing(case)]
    assert len({case.id for case in cases}) == len(cases), "two cases share an id"
    return cases


def judged_whole(case: Case) -> Case:
    """The same case, everything judged that the op returns, the outgoing state included."""
    ids = dict.fromkeys((*case.clauses, "GSS-ARR-2", "GSS-STA-2"))
    return replace(case, id=f"{case.id}-whole", clauses=tuple(ids), outputs=())


def is_state(name: str) -> bool:
    return name.split(".")[0] == "state"


def hands_on_nothing(case: Case) -> bool:
    """Whether a case of a gradient is to be asked without its incoming state too."""
    return (
        case.op.endswith("_vjp")
        and any(is_state(name) for name in case.tensors)
        and bool({"random", "small"} & set(case.flags))
    )


def without_state(case: Case) -> Case:
    """The same case from no state: its gradient is due all the same."""
    tensors = {k: x for k, x in case.tensors.items() if not is_state(k)}
    ids = dict.fromkeys((*case.clauses, "GSS-STA-2"))
    note = "no state means zeros"
    return replace(case, id=f"{case.id}-fresh", clauses=tuple(ids), tensors=tensors, note=note)
