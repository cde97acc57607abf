"""Stages of a layer: offered, carried by the protocol, and the first wrong one is found."""

import numpy as np
import pytest

from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.candidates.targets import open_candidate
from refgss.conformance.judging import diagnosis, likeness, probes
from refgss.conformance.selftest import mutants
from refgss.conformance.vectors.format import read_vectors
from refgss.standard import spec_folder

VECTORS = {v.id: v for v in read_vectors(spec_folder() / "vectors").vectors}
SMALL = "gss_layer/gss-pytorch-small"
WRONG = {  # mutants of a layer, and their first wrong stage
    "input_not_normalised": "h",
    "gate_linear": "v",
    "branch_linear": "u",
    "inner_norm_missing": "u",
    "half_step": "s",
    "skip_missing": "y",
    "gate_missing": "output",
    "residual_missing": "output",
}


def found(candidate, id, precision="f32"):
    v = VECTORS[id]
    stages = candidate.probe(v.op, v.tensors, v.options, precision)
    y = candidate.ask(v.op, v.tensors, v.options, precision).arrays["y"]
    return probes.first_wrong(v, stages, y, precision)


@pytest.mark.parametrize("name", WRONG)
def test_the_first_wrong_stage_is_where_the_error_is(name):
    stage, clauses, ratio = found(likeness.mutant(name), SMALL)
    assert stage == WRONG[name] and ratio > 1
    assert mutants.declared()[name].clause in clauses


@pytest.mark.parametrize("id", ["gss_layer/paper-small", SMALL, "dss_layer/dss-exp-small"])
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_no_stage_of_the_reference_is_wrong(id, precision):
    from refgss import reference

    assert found(ModuleCandidate(reference), id, precision) is None


def test_every_stage_of_the_table_is_offered_by_the_reference():
    from refgss.reference.stages import STAGES

    for op, (_, names) in STAGES.items():
        assert [s.name for s in probes.STAGES[op][:-1]] == list(names)
    table = (spec_folder() / "14-conformance.md").read_text("utf-8")
    for op, (_, names) in STAGES.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| `{op}`"))
        assert all(f" {name}" in row for name in names)


def test_a_stage_that_is_left_out_is_taken_from_those_before():
    v = VECTORS[SMALL]
    candidate = likeness.mutant("half_step")
    stages = dict(candidate.probe(v.op, v.tensors, v.options, "f64"))
    del stages["s"], stages["u"]
    y = candidate.ask(v.op, v.tensors, v.options, "f64").arrays["y"]
    assert probes.first_wrong(v, stages, y, "f64")[0] == "y"


def test_stages_travel_through_the_protocol_and_decide_no_outcome():
    spec = "python:refgss.conformance.selftest.mutants:skip_missing"
    candidate = open_candidate(spec)
    try:
        assert sorted(candidate.about.probes) == sorted(probes.STAGES)
        assert found(candidate, SMALL)[0] == "y"
        assert candidate.probe("gelu", {"x": np.ones(1, np.float32)}, {}, "f32") == {}
    finally:
        candidate.close()


def test_the_diagnosis_names_the_stage():
    v = VECTORS[SMALL]
    candidate = likeness.mutant("gate_linear")
    record = {"id": v.id, "precision": "f32", "outcome": "wrong value"}
    first = diagnosis.diagnose(candidate, [v], [record], {})[0]
    assert first.clause == "GSS-LAY-2" and "first that is wrong is v" in first.reason
