"""Diagnosis names the clause that a mutant violates, with the mutant in its table and without."""

import numpy as np
import pytest

from refgss import reference
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging import diagnosis
from refgss.conformance.judging.runner import Question, ask
from refgss.conformance.selftest import mutants
from refgss.conformance.vectors.format import read_vectors
from refgss.standard import spec_folder

VECTORS = read_vectors(spec_folder() / "vectors").vectors
SIGNATURES = diagnosis.published()
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
    mutant, candidate = mutants.declared()[name], diagnosis.mutant(name)
    records = check(candidate, CASES[name])
    first = diagnosis.diagnose(candidate, VECTORS, records, SIGNATURES)[0]
    assert (first.clause, name in first.reason) == (mutant.clause, True)


def test_most_errors_that_no_mutant_has_are_diagnosed_too():
    found = 0
    for name, ops in CASES.items():
        mutant = mutants.declared()[name]
        candidate = diagnosis.mutant(name)
        others = {m: fails for m, fails in SIGNATURES.items() if m != name}
        suspects = diagnosis.diagnose(candidate, VECTORS, check(candidate, ops), others)
        found += mutant.clause in [s.clause for s in suspects[:3]]
    assert found > len(CASES) / 2  # of all mutants nine in ten: selftest.diagnosis_score


def test_nothing_is_suspected_where_nothing_fails():
    candidate = ModuleCandidate(reference)
    assert diagnosis.diagnose(candidate, VECTORS, check(candidate, ("gelu",)), SIGNATURES) == []


def test_signatures_are_those_of_the_declared_mutants():
    assert list(SIGNATURES) == list(mutants.declared())
    assert all(SIGNATURES.values())


def test_parts_of_an_op_are_known_at_any_depth():
    assert {"gelu", "causal_conv", "discretize"} <= diagnosis.parts("lm_loss")
    assert {"lm_logits", "gss_layer_vjp", "gelu_vjp"} <= diagnosis.parts("lm_logits_vjp")
