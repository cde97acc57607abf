"""The mutants: a sound table, every clause of an op covered, and every one of them rejected."""

import ast
import json

import numpy as np
import pytest

from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.clauses import read_clauses
from refgss.conformance.judging.runner import Question, ask
from refgss.conformance.selftest import mutants
from refgss.conformance.vectors.format import moderate, read_vectors
from refgss.ops import SCORES
from refgss.standard import spec_folder

DECLARED = mutants.declared()
PUBLISHED = {m["name"]: m for m in json.loads((spec_folder() / "mutants.json").read_text("utf-8"))}
VECTORS = {v.id: v for v in moderate(read_vectors(spec_folder() / "vectors").vectors)}


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
    of_scores = VECTORS[id].op in SCORES
    candidate = ModuleCandidate(mutants.copy("unmutated", mutants.sources(), of_scores))
    for precision in ("f64",) if of_scores else ("f32", "f64"):
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


def stale(function="gelu", before="x * normal_cdf(x)", after="x"):
    return mutants.Mutant("stale", "GSS-NRM-3", function, before, after, "")


def test_a_substitution_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="stale: `x \\* y` occurs 0 times in gelu"):
        mutants.load(stale(before="x * y"))
    with pytest.raises(ValueError, match="stale: `x` occurs 3 times in gelu"):
        mutants.load(stale(before="x"))
    with pytest.raises(ValueError, match="functions named gloo do not exist"):
        mutants.load(stale(function="gloo"))


def rewritten(monkeypatch, texts):
    """Load mutants from other texts of the reference."""
    monkeypatch.setattr(mutants, "sources", lambda: texts)
    trees = {stem: ast.parse(text) for stem, text in texts.items()}
    monkeypatch.setattr(mutants, "trees", lambda: trees)


def test_layout_and_comments_of_the_reference_stale_no_mutant(monkeypatch):
    texts = {stem: ast.unparse(ast.parse(text)) for stem, text in mutants.sources().items()}
    rewritten(monkeypatch, texts)
    for mutant in DECLARED.values():
        mutants.load(mutant)


def test_a_function_that_moves_takes_its_mutants_along(monkeypatch):
    texts = dict(mutants.sources())
    texts["curves"] = texts.pop("pointwise")
    texts = {k: t.replace("reference.pointwise", "reference.curves") for k, t in texts.items()}
    rewritten(monkeypatch, texts)
    assert stale().place == ("curves", "gelu")
    x = np.linspace(-1, 1, 5)
    assert np.array_equal(mutants.load(stale()).gelu(x), x)


def test_statements_are_substituted_too():
    before = "y = x @ weight\nreturn y if bias is None else y + bias"
    x = np.eye(2)
    assert mutants.load(stale("dense", before, "return x + 1")).dense(x, 7 * x)[0, 1] == 1
