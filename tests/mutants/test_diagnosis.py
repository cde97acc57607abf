"""Diagnosis names the clause that a mutant violates, with the mutant in its table and without."""

import numpy as np
import pytest

from refgss import reference
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging import coverage, diagnosis, likeness
from refgss.conformance.judging.runner import Question, ask
from refgss.conformance.selftest import mutants
from refgss.conformance.vectors.format import moderate, read_vectors
from refgss.standard import spec_folder

VECTORS = moderate(read_vectors(spec_folder() / "vectors").vectors)
SIGNATURES = likeness.published()
CASES = {  # mutants, and the ops that are checked
    "gelu_tanh": ("gelu", "gelu_vjp"),
    "norm_unbiased": ("layer_norm", "dense"),
    "circular": ("causal_conv", "causal_conv_vjp"),
    "scan_forgets_state": ("ssm_scan", "causal_conv"),
    "real_from_zero": ("s4d_lambda", "gss_lambda"),
    "tokens_clamped": ("lm_logits", "dense"),
    "result_half": ("layer_norm",),
    "paper_with_inner_norm": ("gss_layer",),
}


def check(candidate, ops):
    asked = [Question(v, p) for v in VECTORS if v.op in ops for p in ("f32", "f64")]
    with np.errstate(all="ignore"):
        return [ask(candidate, q) for q in asked]


@pytest.mark.parametrize("name", CASES)
def test_the_violated_clause_comes_first(name):
    mutant, candidate = mutants.declared()[name], likeness.mutant(name)
    records = check(candidate, CASES[name])
    first = diagnosis.diagnose(candidate, VECTORS, records, SIGNATURES)[0]
    assert (first.clause, name in first.reason) == (mutant.clause, True)


def test_most_errors_that_no_mutant_has_are_diagnosed_too():
    found = 0
    for name, ops in CASES.items():
        mutant = mutants.declared()[name]
        candidate = likeness.mutant(name)
        others = {m: fails for m, fails in SIGNATURES.items() if m != name}
        suspects = diagnosis.diagnose(candidate, VECTORS, check(candidate, ops), others)
        found += mutant.clause in [s.clause for s in suspects[:3]]
    assert found > len(CASES) / 2  # of all mutants nine in ten: selftest.diagnosis_score


def records(op, precision, outcome, detail="", where=lambda v: True):
    """Records of an op whose vectors pass but for those that `where` chooses."""
    return [
        {
            "id": v.id,
            "op": v.op,
            "precision": precision,
            "clauses": list(v.clauses),
            "outcome": outcome if where(v) else "pass",
            "detail": detail,
        }
        for v in VECTORS
        if v.op == op and not v.error
    ]


def suspected(op, *args, **kwargs):
    candidate = ModuleCandidate(reference)  # its numbers are right: the records alone speak
    found = diagnosis.diagnose(candidate, VECTORS, records(op, *args, **kwargs), SIGNATURES)
    return [s.clause for s in found]


@pytest.mark.parametrize("outcome", ["crashed", "timed out", "garbage", "out of order"])
def test_what_gave_no_numbers_gets_no_mathematics(outcome):
    assert suspected("ssm_scan", "f32", outcome) == []


def test_an_exception_of_programming_gets_no_mathematics():
    assert suspected("gelu", "f32", "raised", "TypeError: gelu() takes 0 arguments") == []
    assert suspected("gelu", "f32", "raised", "not supported") == []  # all of its cases
    some = suspected("gelu", "f32", "raised", "ValueError: odd", where=lambda v: "nan" in v.flags)
    assert some


def test_a_clause_on_binary32_is_not_suspected_in_binary64():
    wrong = records("dense", "f32", "wrong value") + records("dense", "f64", "wrong value")
    found = diagnosis.diagnose(ModuleCandidate(reference), VECTORS, wrong, SIGNATURES)
    assert "GSS-ACC-6" not in [s.clause for s in found]
    assert "GSS-ACC-6" not in suspected("dense", "f64", "wrong value")
    assert "GSS-ACC-6" in suspected("dense", "f32", "wrong value")


def test_clauses_on_shapes_and_empty_arrays_are_not_suspected_of_wrong_numbers():
    found = suspected("causal_conv", "f32", "wrong value")
    assert found and not {"GSS-ARR-1", "GSS-ARR-2", "GSS-NFI-14"} & set(found)


def test_a_wrong_shape_gets_no_clause_on_numbers():
    assert suspected("lm_loss", "f32", "wrong shape") == ["GSS-ARR-2"]


class TanhInside:
    """The reference with another GELU in its layers alone."""

    def __init__(self):
        self.layer = likeness.mutant("gelu_tanh").module.gss_layer

    def __getattr__(self, name):
        return self.layer if name == "gss_layer" else getattr(reference, name)


def test_exact_agreement_of_numbers_comes_first():
    candidate = ModuleCandidate(TanhInside())
    checked = check(candidate, ("gelu", "dense", "gss_layer"))
    first = diagnosis.diagnose(candidate, VECTORS, checked, SIGNATURES)[0]
    assert (first.clause, first.exact) == ("GSS-NRM-3", True)
    assert "the results are those of the mutant gelu_tanh" in first.reason


def test_no_suspect_has_no_evidence():
    candidate = likeness.mutant("norm_unbiased")
    found = diagnosis.diagnose(candidate, VECTORS, check(candidate, ("layer_norm",)), SIGNATURES)
    assert not any(" 0 of the" in s.reason for s in found)


def test_a_simple_relation_is_said():
    class Halved:
        def __getattr__(self, name):
            return getattr(reference, name)

        def causal_conv(self, u, k):
            return reference.causal_conv(u, k) / 2

    candidate = ModuleCandidate(Halved())
    first = diagnosis.diagnose(candidate, VECTORS, check(candidate, ("causal_conv",)), SIGNATURES)
    assert "y is the proven number × 1/2" in first[0].reason


def test_nothing_is_suspected_where_nothing_fails():
    candidate = ModuleCandidate(reference)
    assert diagnosis.diagnose(candidate, VECTORS, check(candidate, ("gelu",)), SIGNATURES) == []


def test_signatures_are_those_of_the_declared_mutants():
    assert list(SIGNATURES) == list(mutants.declared())
    assert all(SIGNATURES.values())


def test_parts_of_an_op_are_known_at_any_depth():
    assert {"gelu", "causal_conv", "discretize"} <= coverage.parts("lm_loss")
    assert {"lm_logits", "gss_layer_vjp", "gelu_vjp"} <= coverage.parts("lm_logits_vjp")


def test_errors_far_larger_than_rounding_are_none_of_a_narrow_type():
    class Scaled:
        def __getattr__(self, name):
            return getattr(reference, name)

        def gss_layer(self, params, x, state=None, *, config):
            y, s = reference.gss_layer(params, x, state, config=config)
            return (1.7 * y + 0.3).astype(x.dtype), s

    candidate = ModuleCandidate(Scaled())
    paper = [v for v in VECTORS if v.op == "gss_layer" and v.layer_profile == "paper"]
    found = [ask(candidate, Question(v, "f32")) for v in paper]
    suspects = [s.clause for s in diagnosis.diagnose(candidate, VECTORS, found, SIGNATURES)]
    assert suspects[0].startswith("GSS-LAY-")
    assert "GSS-ACC-6" not in suspects
