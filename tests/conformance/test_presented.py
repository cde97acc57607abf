"""Cases asked again in other ways: what depends on memory, order or threads is found and named."""

import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from refgss import ops, reference
from refgss.conformance.candidates import calling, presentation
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.candidates.claims import CandidateError
from refgss.conformance.candidates.targets import open_candidate
from refgss.conformance.judging import presented
from refgss.conformance.judging.compare import NEUTRAL, Outputs
from refgss.conformance.judging.runner import run, select
from refgss.conformance.vectors.format import read_vectors
from refgss.standard import header_file, spec_folder

HERE = Path(__file__).parent
VECTORS = read_vectors(spec_folder() / "vectors").vectors
LAYOUTS = set(presentation.LAYOUTS) - {"in read-only memory"}
ROWS = {"with negative strides", "with gaps between elements"}  # what shows in a single row
STRIDES = ROWS | {"in Fortran order", "with padded rows"}
ARRAYS = {
    "a number": np.array(2.5, np.float32),
    "empty": np.zeros((3, 0, 2)),
    "complex": (np.arange(6) * (1 - 2j)).reshape(1, 3, 2).astype(np.complex64),
    "tokens": np.arange(6, dtype=np.int32).reshape(2, 3),
    "constant": np.ones((2, 4, 3), np.float32),
    "not a number": np.array([[np.nan, np.inf], [-0.0, 1e-45]], np.float32),
}


def asked(spec, op, again=2):
    """The ways in which a candidate that passes the plain cases fails, with its failures."""
    with closing(open_candidate(spec)) as candidate:
        questions = select(VECTORS, ["f32"], [op])
        records = run(candidate, questions, seed=0)
        plain = [r for r in records if r["outcome"] not in NEUTRAL]
        more = presented.again(questions, records, candidate.about.ways, again, seed=0)
        records = presented.ask_again(candidate, more, 0, lambda: None)
    return plain, [r for r in records if r["outcome"] not in NEUTRAL]


def wrong(name):
    """A candidate of wrong.py."""
    return f"python:{HERE / 'wrong.py'}:{name}"


@pytest.mark.parametrize("layout", presentation.LAYOUTS)
@pytest.mark.parametrize("name", ARRAYS)
def test_a_layout_changes_no_number_and_is_what_it_says(layout, name):
    x = ARRAYS[name]
    y = presentation.LAYOUTS[layout]("x", x)
    assert isinstance(y, np.ndarray) and (y.dtype, y.shape) == (x.dtype, x.shape)
    assert y.tobytes() == x.tobytes()
    if name == "tokens":
        assert (y.strides != x.strides) == (layout in STRIDES)
        assert y.flags.writeable == (
            layout != "in read-only memory" and layout != "with strides of zero"
        )
    if name == "constant" and layout == "with strides of zero":
        assert y.strides == (0, 0, 0)
    if layout == "at an odd address" and x.size:
        assert y.ctypes.data % 64 == x.dtype.itemsize


@pytest.mark.parametrize(
    ("name", "ways", "clause"),
    [
        ("Flat", ROWS, "GSS-CNF-11"),
        ("Particular", ROWS, "GSS-CNF-11"),
        ("Borrowing", {"in read-only memory"}, "GSS-CNF-12"),
        ("Caching", {"in memory that held other arguments"}, "GSS-CNF-13"),
        ("Buffering", {"with the result read after the next call"}, "GSS-CNF-13"),
        ("Racing", {"from two threads at once"}, "GSS-CNF-13"),
        ("Tired", {"asked a second time"}, "GSS-CNF-13"),
    ],
)
def test_what_passes_plainly_fails_in_the_way_that_shows_it(name, ways, clause):
    plain, failures = asked(wrong(name), "gelu")
    assert not plain
    assert {r["way"] for r in failures if r["clauses"][0] == clause} >= ways
    assert all(r["detail"].startswith(r["way"]) for r in failures)
    suspects = {s["clause"]: s["reason"] for s in presented.suspects(failures)}
    assert all(way in suspects[clause] for way in ways)


def test_a_cache_that_knows_a_call_by_some_of_its_arguments_is_found_out():
    _, failures = asked(wrong("Remembering"), "causal_conv")
    stale = [r for r in failures if r["way"] == "with one argument changed"]
    assert stale and all("though k is another" in r["detail"] for r in stale)


def test_a_sum_that_cancels_may_be_what_it_was():
    """The gradient of b_k is 0 where no state is given: the reference has rounding there."""

    def gradient(*given, **options):
        dparams, *others = reference.transformer_layer_vjp(*given, **options)
        return {**dparams, "b_k": np.zeros_like(dparams["b_k"])}, *others

    (v,) = (v for v in VECTORS if v.id == "transformer_layer_vjp/glu-small-fresh")
    module = SimpleNamespace(transformer_layer_vjp=gradient)
    tensors = ops.at_precision(v.tensors, "f64")
    answer = calling.presented("with one argument changed", module, v.op, tensors, v.options)
    assert isinstance(answer, Outputs), answer


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_a_candidate_gets_arrays_of_its_own_framework(framework):
    pytest.importorskip(framework)
    assert asked(wrong(f"{framework.title()}Gelu"), "gelu") == ([], [])


def test_an_unknown_framework_is_refused():
    with pytest.raises(CandidateError, match="arrays"):
        open_candidate(wrong("Cupy"))


def test_a_module_that_writes_to_its_argument_fails_every_case():
    plain, _ = asked(wrong("InPlace"), "gelu")
    judged = [q for q in select(VECTORS, ["f32"], ["gelu"]) if q.vector.tensors["x"].size]
    assert len(plain) >= len(judged) - 2 and {r["outcome"] for r in plain} == {"wrote elsewhere"}
    assert {r["detail"] for r in plain} == {"the argument x was changed"}
    assert presented.suspects(plain)[0]["clause"] == "GSS-CNF-12"


@pytest.mark.parametrize("name", ["Quiet", "Chatty"])
def test_an_honest_module_passes_in_every_way(name):
    assert asked(wrong(name.replace("Quiet", "Gelu")), "gelu") == ([], [])


def test_a_program_can_only_be_asked_a_second_time():
    with closing(
        open_candidate(f'cmd:{sys.executable} {HERE / "rude.py"} "is honest"')
    ) as candidate:
        questions = select(VECTORS, ["f32"], ["gelu"])
        records = [{"outcome": "pass", "seconds": 0.0} for _ in questions]
        more = presented.again(questions, records, candidate.about.ways, 2, seed=0)
    assert [q.way for q in more] == ["asked a second time"] * 2


def test_which_cases_are_asked_again_depends_on_the_seed_alone():
    candidate = ModuleCandidate(__import__("refgss.reference").reference)
    questions = select(VECTORS, ["f32"], ["gelu", "dense"])
    records = run(candidate, questions, seed=0)
    chosen = [
        [
            (q.vector.id, q.way)
            for q in presented.again(questions, records, ["in Fortran order"], 3, s)
        ]
        for s in (1, 1, 2)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == len(set(chosen[0])) == 2 * 2 * 3


# --- libraries behind refgss.h -------------------------------------------------------------------

HEAD = """#include <stdlib.h>
#include <string.h>
#include "refgss.h"
int32_t refgss_abi_version(void) { return REFGSS_ABI_VERSION; }
const char *refgss_last_error(void) { return "refused"; }
#define STEP(a, axis, i) ((i) * (a)->stride[axis])
#define AT(a, i, j, k) ((float *)(a)->data)[STEP(a, 0, i) + STEP(a, 1, j) + STEP(a, 2, k)]
#define FLAT(a, i, j, k) ((float *)(a)->data)[((i) * (a)->shape[1] + (j)) * (a)->shape[2] + (k)]
#define TAP(a, i, j) ((float *)(a)->data)[STEP(a, 0, i) + STEP(a, 1, j)]
static double sum[1 << 20];
int32_t refgss_causal_conv(const refgss_array *u, const refgss_array *k, const refgss_array *y) {
    int64_t B = u->shape[0], L = u->shape[1], H = u->shape[2], taps = k->shape[1];
    if (u->rank != 3 || k->rank != 2 || k->shape[0] != H) return REFGSS_ERROR_VALUE;
    double *total = GLOBAL ? sum : malloc(sizeof(double) * (L + 1));
    for (int64_t b = 0; b < B; b++)
        for (int64_t h = 0; h < H; h++) {
            memset(total, 0, sizeof(double) * L);
            for (int64_t j = 0; j < taps && j < L; j++)
                for (int64_t l = j; l < L; l++)
                    total[l] += (double)TAP(k, h, j) * IN(u, b, l - j, h);
            for (volatile int i = 0; i < PAUSE; i++) {}
            for (int64_t l = 0; l < L; l++) OUT(y, b, l, h) = (float)total[l];
        }
    AFTER;
    return REFGSS_OK;
}
"""
HONEST = {"GLOBAL": "0", "IN": "AT", "OUT": "AT", "AFTER": "(void)0", "PAUSE": "0"}


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize(
    ("wrong", "ways", "outcome"),
    [
        ({}, set(), ""),
        ({"IN": "FLAT"}, STRIDES, ""),
        ({"OUT": "FLAT"}, STRIDES, "wrote elsewhere"),
        ({"GLOBAL": "1", "PAUSE": "5000"}, {"from two threads at once"}, "wrong value"),
        (
            {"AFTER": "if (y->stride[2] == 1 && y->stride[1] > H) AT(y, 0, 0, H) = 1"},
            {"with padded rows"},
            "wrote elsewhere",
        ),
        (
            {"AFTER": "for (int i = 0; i < 2 && B * L * H; i++) AT(u, 0, 0, 0) = -AT(u, 0, 0, 0)"},
            {"in read-only memory"},
            "crashed",
        ),
    ],
    ids=["honest", "strides of inputs", "strides of outputs", "a race", "beyond", "there and back"],
)
def test_a_library_fails_in_the_way_that_shows_its_error(tmp_path, wrong, ways, outcome):
    source, library = tmp_path / "lib.c", tmp_path / "lib.so"
    source.write_text(HEAD)
    defines = [f"-D{name}={text}" for name, text in (HONEST | wrong).items()]
    command = ["cc", "-O1", "-shared", "-fPIC", f"-I{header_file().parent}", *defines]
    subprocess.run([*command, str(source), "-o", str(library)], check=True)
    plain, failures = asked(f"lib:{library}", "causal_conv")
    assert not plain
    assert {r["way"] for r in failures} >= ways and bool(failures) == bool(ways)
    assert outcome in {r["outcome"] for r in failures} or not outcome
