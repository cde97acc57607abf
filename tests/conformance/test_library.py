"""Libraries behind refgss.h: what is read from the header, and libraries that misbehave."""

import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from refgss.conformance.candidates.claims import CandidateError
from refgss.conformance.candidates.library import (
    declarations,
    header_file,
    meaning,
    parameters,
)
from refgss.conformance.candidates.targets import open_candidate
from refgss.conformance.judging.runner import run, select
from refgss.conformance.vectors.format import read_vectors
from refgss.ops import OPS
from refgss.standard import spec_folder

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

HEAD = """#include <stdlib.h>
#include "refgss.h"
const char *refgss_last_error(void) { return "so it is"; }
"""
ABI = "int32_t refgss_abi_version(void) { return REFGSS_ABI_VERSION; }\n"
CONV = """int32_t refgss_causal_conv(const refgss_array *u, const refgss_array *k,
                           const refgss_array *y) {
    (void)u, (void)k, (void)y;
    %s
}
"""


def build(tmp_path, code):
    source, library = tmp_path / "lib.c", tmp_path / "lib.so"
    source.write_text(HEAD + code)
    command = ["cc", "-shared", "-fPIC", f"-I{header_file().parent}", source, "-o", library]
    subprocess.run([str(x) for x in command], check=True)
    return f"lib:{library}"


def test_every_function_of_the_header_that_is_an_op_fits_its_contract():
    declared = parameters(declarations(header_file().read_text("utf-8")))
    assert declared.keys() >= {"causal_conv", "ssm_kernel", "ssm_scan", "ssm_step", "gelu", "dense"}
    for op, names in declared.items():
        assert set(OPS[op].outputs) <= {meaning(name) for name in names}, op


@pytest.mark.parametrize(
    ("body", "outcome", "detail"),
    [
        ("return REFGSS_OK;", "non-finite", "NaN"),
        ("return REFGSS_ERROR_VALUE;", "raised", "so it is"),
        ("return 99;", "raised", "so it is"),
        ("return *(volatile int32_t *)8;", "crashed", "SIGSEGV"),
        ("abort();", "crashed", "SIGABRT"),
        ("for (;;) {}", "timed out", "0.5 s"),
    ],
)
def test_a_bad_library_gets_its_outcome(tmp_path, body, outcome, detail):
    spec = build(tmp_path, ABI + CONV % body)
    vectors = read_vectors(spec_folder() / "vectors").vectors
    with closing(open_candidate(spec, timeout=0.5 if outcome == "timed out" else 30)) as candidate:
        assert candidate.about.ops == ("causal_conv",)
        questions = [q for q in select(vectors, ["f32"], ["causal_conv"]) if not q.vector.error]
        (record,) = run(candidate, questions[:1], seed=0)
    assert record["outcome"] == outcome and detail in record["detail"]


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (
            "int32_t refgss_abi_version(void) { return 1; }",
            "implements version 1 of refgss.h, and this refgss calls version 2: compile",
        ),
        ("", "refgss_abi_version"),
    ],
)
def test_a_library_of_another_kind_is_refused(tmp_path, code, sentence):
    with pytest.raises(CandidateError, match=sentence):
        open_candidate(build(tmp_path, code))


def test_a_file_that_is_no_library_is_refused():
    with pytest.raises(CandidateError, match="cannot be used"):
        open_candidate(f"lib:{Path(__file__)}")
