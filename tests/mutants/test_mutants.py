"""The mutants: a sound table, every clause of an op covered, and every one of them rejected."""

import json

import numpy as np
import pytest

from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.clauses import read_clauses
from refgss.conformance.judging.runner import Question, ask
from refgss.conformance.selftest import mutants
from refgss.conformance.vectors.format import read_vectors
from refgss.standard import spec_folder

DECLARED = mutants.declared()
PUBLISHED = {m["name"]: m for m in json.loads((spec_folder() / "mutants.json").read_text("utf-8"))}
VECTORS = {v.id: v for v in read_vectors(spec_folder() / "vectors").vectors}


@pytest.mark.parametrize("mutant", DECLARED.values(), ids=lambda m: m.name)
def test_a_mutant_is_rejected_by_the_vectors_published_for_it(mutant):
    candidate = ModuleCandidate(mutants.load(mutant))
    by = PUBLISHED[mutant.name]["killed_by"]
    assert by.keys() == set(mutant.precisions)
    for precision, id in by.items():
        with np.errstate(all="ignore"):
            assert ask(candidate, Question(VECTORS[id], precision))["outcome"] != "pass"


@pytest.mark.parametrize(
    "id", sorted({by for m in PUBLISHED.values() for by in m["killed_by"].values()})
)
def test_what_rejects_mutants_accepts_the_reference(id):
    candidate = ModuleCandidate(mutants.copy("unmutated", mutants.sources()))
    for precision in ("f32", "f64"):
        assert ask(candidate, Question(VECTORS[id], precision))["outcome"] == "pass"


def test_every_clause_that_vectors_judge_has_a_mutant():
    clauses = read_clauses(spec_folder()).values()
    wanted = {c.id for c in clauses if c.level == "MUST" and c.judged_by_vectors}
    assert {m.clause for m in DECLARED.values()} == wanted


def test_the_published_table_is_that_of_the_declared_mutants():
    assert list(PUBLISHED) == list(DECLARED)
    for name, m in DECLARED.items():
        assert (PUBLISHED[name]["clause"], PUBLISHED[name]["note"]) == (m.clause, m.note)
        assert PUBLISHED[name]["status"] == "killed"


def test_a_mutant_is_found_by_its_name_and_claims_to_be_itself():
    assert mutants.gelu_tanh.capabilities()["name"] == "mutant_gelu_tanh"
    with pytest.raises(AttributeError):
        mutants.no_such_mutant  # noqa: B018


def test_a_mutant_shares_no_function_with_the_reference():
    from refgss import reference

    mutant = mutants.gelu_tanh
    assert not any(getattr(mutant, op) is getattr(reference, op) for op in reference.OPS)


def test_a_substitution_that_does_not_fit_is_refused():
    stale = mutants.Mutant("stale", "GSS-NRM-3", "pointwise", "no such text", "", "")
    with pytest.raises(ValueError, match="occurs 0 times"):
        mutants.load(stale)
