"""The example candidates, each run as its first lines say."""

import shutil
import subprocess
from contextlib import closing
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest

import refgss
from refgss.conformance.candidates.targets import open_candidate
from refgss.conformance.clauses import read_clauses
from refgss.conformance.judging.compare import NEUTRAL
from refgss.conformance.judging.diagnosis import diagnose
from refgss.conformance.judging.likeness import published
from refgss.conformance.judging.runner import profiles_to_check, run, select
from refgss.conformance.reports.report import by_clause
from refgss.conformance.vectors.format import read_vectors
from refgss.standard import spec_folder

EXAMPLES = Path(__file__).parents[2] / "examples"
TEMPLATES = files("refgss.conformance.candidates").joinpath("templates")
VECTORS = read_vectors(spec_folder() / "vectors").vectors
STATELESS = [v for v in VECTORS if "state" not in v.expected]  # gated-state-spaces-pytorch has none

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
needs_torch = pytest.mark.skipif(
    find_spec("gated_state_spaces_pytorch") is None, reason="needs gated-state-spaces-pytorch"
)
needs_rust = pytest.mark.skipif(shutil.which("rustc") is None, reason="needs rustc")
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

ADAPTER = f"python:{EXAMPLES / 'gated_state_spaces_pytorch_adapter.py'}"


def check(spec, *requested, vectors=VECTORS):
    """The records of the ops that the candidate claims."""
    with closing(open_candidate(spec)) as candidate:
        profiles = profiles_to_check(requested, candidate.about.profiles)
        return run(candidate, select(vectors, profiles, candidate.about.ops), seed=0)


def failures(records):
    return [(r["id"], r["precision"], r["outcome"]) for r in records if r["outcome"] not in NEUTRAL]


def passed_ops(records):
    return {r["op"] for r in records if r["outcome"] == "pass"}


def test_the_template_conforms():
    records = check("python:refgss.conformance.candidates.templates.numpy_gss")
    assert failures(records) == []
    assert passed_ops(records) == {"causal_conv", "ssm_kernel", "layer_norm"}


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_the_templates_of_frameworks_conform(framework):
    """On small vectors: JAX compiles for each shape."""
    pytest.importorskip(framework)
    few = [v for v in VECTORS if sum(x.size for x in v.tensors.values()) < 40]
    must = {clause.id for clause in read_clauses(spec_folder()).values() if clause.level == "MUST"}
    few = [v for v in few if must & {*v.clauses}]
    chosen = [v for v in few if v.op in ("causal_conv", "layer_norm") or "kernel/zoh" in v.id]
    records = check(
        f"python:refgss.conformance.candidates.templates.{framework}_gss",
        vectors=chosen[::4],
    )
    assert failures(records) == []
    assert passed_ops(records) == {"causal_conv", "ssm_kernel", "layer_norm"}


@needs_node
def test_javascript_conforms():
    records = check(f"cmd:node {TEMPLATES / 'gss.mjs'}")
    assert failures(records) == []
    assert passed_ops(records) == {"causal_conv", "gelu", "layer_norm", "ssm_kernel", "ssm_step"}


@needs_node
def test_a_scorer_in_javascript_conforms():
    records = check(f"cmd:node {EXAMPLES / 'scores.mjs'}", "scores")
    assert failures(records) == []
    assert passed_ops(records) == {"softmax", "calibration_error", "average_confidence", "atc"}


@needs_torch
def test_gated_state_spaces_pytorch_conforms_to_its_profile():
    records = check(ADAPTER, vectors=STATELESS)
    assert failures(records) == []
    assert passed_ops(records) == {"gss_layer", "lm_logits", "lm_loss"}


@needs_torch
def test_gated_state_spaces_pytorch_is_not_the_papers_layer():
    """Only layers of the profile paper fail, its clause is in every failure and comes first."""
    with closing(open_candidate(ADAPTER)) as candidate:
        records = run(
            candidate, select(STATELESS, ["f32", "paper", "gss-pytorch"], ["gss_layer"]), seed=0
        )
        suspect = diagnose(candidate, STATELESS, records, published())[0]
    assert suspect.clause == "GSS-LAY-7" and "paper_with_inner_norm" in suspect.reason
    failed = [r for r in records if r["outcome"] not in NEUTRAL]
    assert failed and all(r["layer_profile"] == "paper" for r in failed)
    summary = by_clause(records)["GSS-LAY-7"]
    assert summary.failed == summary.judged != []


@needs_cc
def test_c_conforms(tmp_path):
    library = tmp_path / "libgss.so"
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC"]
    command += [f"-I{refgss.get_include()}", str(TEMPLATES / "gss.c"), "-o", str(library), "-lm"]
    subprocess.run(command, check=True)
    records = check(f"lib:{library}")
    assert failures(records) == []
    ops = {"causal_conv", "discretize", "gss_lambda", "ssm_kernel", "ssm_scan", "ssm_step"}
    assert passed_ops(records) == ops
    deep = {r["id"] for r in records if r["outcome"] == "not claimed"}
    ops = ("ssm_scan", "ssm_step")  # their c and state, each with five axes
    assert deep == {f"{op}/refuse-{name}-deep" for op in ops for name in ("c", "state")}


@needs_rust
def test_rust_conforms(tmp_path):
    library = tmp_path / "libgss_rust.so"
    command = ["rustc", "--edition", "2021", "-O", "-D", "warnings", "--crate-type", "cdylib"]
    subprocess.run([*command, str(TEMPLATES / "gss.rs"), "-o", str(library)], check=True)
    records = check(f"lib:{library}")
    assert failures(records) == []
    assert passed_ops(records) == {"causal_conv", "dense", "gelu", "gss_lambda", "layer_norm"}
    assert not any(r["outcome"] == "not claimed" for r in records)
