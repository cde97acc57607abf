"""Shrinking keeps the failure, certifies what it keeps, and makes it small."""

import numpy as np
import pytest

from refgss import reference
from refgss.cli import run
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging.runner import Question, ask, select
from refgss.conformance.judging.runner import run as run_questions
from refgss.conformance.judging.shrink import can_shrink, counterexamples, rounded, shrink
from refgss.conformance.vectors.format import lint, moderate, read_vectors
from refgss.standard import spec_folder

pytest.importorskip("flint")
VECTORS = moderate(read_vectors(spec_folder() / "vectors").vectors)


class Broken:
    """The reference with one op replaced."""

    def __init__(self, op, function):
        setattr(self, op, function)

    def __getattr__(self, name):
        return getattr(reference, name)


def late_convolution(u, k):
    """Forgets every tap from the third on."""
    return reference.causal_conv(u, k[:, :2])


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))).astype(x.dtype)


def failing(candidate, id):
    questions = select([v for v in VECTORS if v.id == id], ["f64"])
    return questions, run_questions(candidate, questions, seed=0)


@pytest.mark.parametrize(
    ("id", "function", "numbers"),
    [
        ("gelu/random", tanh_gelu, 1),
        ("causal_conv/even", late_convolution, 3 + 3),  # a third tap needs three positions
        ("causal_conv/long", late_convolution, 3 + 3),  # judged at samples
    ],
)
def test_the_smallest_counterexample_is_found_and_is_certified(id, function, numbers):
    op = id.split("/")[0]
    candidate = ModuleCandidate(Broken(op, function))
    small, record = counterexamples(candidate, *failing(candidate, id))[op]
    assert record["outcome"] == "wrong value"
    assert sum(x.size for x in small.tensors.values()) == numbers
    assert lint([small], {clause: "MAY" for clause in small.clauses}) == []
    for precision in ("f32", "f64"):
        assert ask(ModuleCandidate(reference), Question(small, precision))["outcome"] == "pass"


def test_every_step_still_fails():
    seen = []

    def fails(v):
        outcome = ask(candidate, Question(v, "f64"))["outcome"]
        seen.append((v, outcome == "wrong value"))
        return seen[-1][1]

    candidate = ModuleCandidate(Broken("gelu", tanh_gelu))
    start = next(v for v in VECTORS if v.id == "gelu/random")
    small = shrink(start, fails)
    assert dict((id(v), ok) for v, ok in seen)[id(small)]


def test_nothing_is_shrunk_where_nothing_fails():
    candidate = ModuleCandidate(reference)
    assert counterexamples(candidate, *failing(candidate, "gelu/random")) == {}


def test_refusals_and_nan_are_left_alone():
    assert not any(can_shrink(v) for v in VECTORS if v.error or "nan" in v.flags)


def test_rounded_numbers_have_fewer_bits_and_no_negative_zero():
    x = np.float32([0.7, -1.3, 1e-30, 0, 3])
    assert rounded(x, 1).tolist() == [0.5, -1.0, 2.0**-100, 0, 2]
    assert not np.signbit(rounded(x, 0)).any()


def test_a_saved_counterexample_replays(tmp_path, capsys):
    mutant = "python:refgss.conformance.selftest.mutants:gelu_tanh"
    check = ["check", "--fresh", "0", "--op", "gelu", "--candidate"]
    assert run([*check, mutant, "--shrink", str(tmp_path / "v")]) == 1
    assert "x = [" in capsys.readouterr().out
    assert run([*check, mutant, "--vectors", str(tmp_path / "v")]) == 1
    assert run([*check, "reference", "--vectors", str(tmp_path / "v")]) == 0


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        ("reference", "nothing fails"),
        ("python:refgss.conformance.selftest.mutants:growing_accepted", "no failure is one of"),
    ],
)
def test_shrinking_says_when_it_finds_nothing(tmp_path, capsys, candidate, why):
    check = ["check", "--fresh", "0", "--op", "discretize", "--profile", "f64"]
    run([*check, "--candidate", candidate, "--shrink", str(tmp_path / "v")])
    assert f"--shrink found nothing to make small and wrote nothing: {why}" in (
        " ".join(capsys.readouterr().err.split())
    )
    assert not (tmp_path / "v").exists()
