"""The kit inside a test suite: assert_conforms, and the tests that the pytest plugin makes."""

import json
import types
from importlib.metadata import entry_points

import numpy as np
import pytest

from refgss import reference
from refgss.conformance.check import TooFewCasesError
from refgss.testing import assert_conforms

pytest_plugins = ["pytester"]
USES = """
def test_conforms(refgss_case):
    refgss_case.check()
"""


def of_reference(**ops):
    """A candidate with some ops of the reference."""
    return types.SimpleNamespace(__name__="mine", **ops)


def wrong_gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_what_conforms_gives_its_report():
    report = assert_conforms(of_reference(gelu=reference.gelu), ops=["gelu"], profiles=["f64"])
    assert report.verdict == "conforms"
    assert {case["op"] for case in report.cases} == {"gelu"}


def test_what_does_not_is_told_the_clause_and_the_first_failures():
    with pytest.raises(AssertionError) as failed:
        assert_conforms(of_reference(gelu=wrong_gelu), ops=["gelu"], profiles=["f64"])
    said = str(failed.value)
    assert said.startswith("mine does not conform for gelu alone")
    assert "GSS-NRM-3" in said and "gelu_tanh" in said
    assert "gelu/" in said and "error/budget" in said


def test_a_string_names_a_candidate_as_on_the_command_line(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from refgss.reference import gelu\n")
    assert_conforms(f"python:{file}", ops=["gelu"], profiles=["f32"], again=0)
    with pytest.raises(ValueError, match="unknown candidate"):
        assert_conforms("nothing")
    with pytest.raises(TooFewCasesError):
        assert_conforms(reference, ops=["gelu"], clauses=["GSS-KER-1"])
    with pytest.raises(ValueError, match="is a class"):
        assert_conforms(types.SimpleNamespace)


@pytest.fixture
def suite(pytester):
    """A test suite of somebody else, with a candidate whose gelu is the one by tanh."""
    pytester.makepyfile(test_mine=USES)
    pytester.makepyfile(
        mine="from refgss.reference import layer_norm\nfrom numpy import pi, sqrt, tanh\n"
        "def gelu(x):\n    return x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))\n"
    )
    known = {point.name for point in entry_points(group="pytest11")}  # where refgss is installed
    options = ["-p", "no:cacheprovider"]
    options += [] if "refgss" in known else ["-p", "refgss.pytest_plugin"]
    return lambda *more: pytester.runpytest_subprocess(*options, *more)


def test_each_vector_is_a_test(suite, pytester):
    found = suite("--refgss-candidate", "python:mine.py", "--refgss-op", "gelu", "-v")
    counts = found.parseoutcomes()
    assert found.ret == 1 and counts["failed"] > 3 and counts["passed"]
    found.stdout.fnmatch_lines(["*test_conforms?gelu/*-f32? FAILED*", "*GSS-NRM-3*"])


def test_the_configuration_says_the_same(suite, pytester):
    pytester.makeini(
        "[pytest]\nrefgss_candidate = python:mine.py\nrefgss_op = layer_norm\nrefgss_profile = f64"
    )
    found = suite()
    assert found.ret == 0 and found.parseoutcomes()["passed"] > 20


def test_a_waiver_makes_a_failure_expected_until_its_day(suite, pytester):
    waiver = {"reason": "tanh", "link": "none", "expires": "2100-01-01"}
    waivers = [{"id": f"gelu/{name}", **waiver} for name in ("random", "nan")]
    waivers[1]["expires"] = "2020-01-01"
    pytester.path.joinpath("w.json").write_text(json.dumps({"waivers": waivers}))
    options = ["--refgss-candidate", "python:mine.py", "--refgss-waivers", "w.json"]
    found = suite(*options, "--refgss-profile", "f64", "--refgss-op", "gelu", "-v")
    assert found.parseoutcomes()["xfailed"] == 1
    found.stdout.fnmatch_lines_random(["*gelu/random-f64? XFAIL*", "*gelu/nan-f64? FAILED*"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "say what to judge"),
        (["--refgss-candidate", "python:mine.py", "--refgss-op", "gelo"], "there is no gelo"),
    ],
)
def test_what_cannot_be_is_a_sentence(suite, options, sentence):
    found = suite(*options)
    assert found.ret != 0 and "Traceback" not in found.stdout.str()
    assert sentence in found.stdout.str() + found.stderr.str()


def test_vectors_show_tells_inputs_values_and_budgets(capsys):
    from refgss.cli import run

    assert run(["vectors", "show", "layer_norm/small"]) == 0
    said = capsys.readouterr().out
    assert "layer_norm/small: layer_norm, GSS-NRM-1" in said and "eps = 1e-05" in said
    assert "[0, 0] " in said and "f32 ± " in said and "f64 ± " in said
    assert run(["vectors", "show", "layer_norm/smal"]) == 2
    assert "did you mean layer_norm/small?" in capsys.readouterr().err
