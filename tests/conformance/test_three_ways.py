"""The native backend asked in this process and through each kind of candidate: one verdict."""

import sys
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest

from refgss.conformance.candidates.claims import CandidateError
from refgss.conformance.candidates.targets import import_backend, open_candidate
from refgss.conformance.judging.runner import run, select
from refgss.conformance.vectors.format import moderate, read_vectors
from refgss.standard import spec_folder

try:
    NATIVE = import_backend("native")
    LIBRARIES = list(Path(NATIVE.__file__).parent.glob("librefgss.*"))
except CandidateError as e:
    pytest.skip(str(e), allow_module_level=True)
if not LIBRARIES:
    pytest.skip("the native backend is not built", allow_module_level=True)

PUBLISHED = moderate(read_vectors(spec_folder() / "vectors").vectors)
QUESTIONS = select(PUBLISHED, ["f32", "f64", "paper", "gss-pytorch"])[::3]
NUMBERS = ("outcome", "ratio", "index", "got", "expected", "budget")


@cache
def verdicts(spec):
    with closing(open_candidate(spec)) as candidate:
        records = run(candidate, QUESTIONS, seed=0)
        return {(r["id"], r["precision"]): [r.get(k) for k in NUMBERS] for r in records}


def test_in_this_process_and_in_a_child_the_numbers_are_the_same():
    assert verdicts("native") == verdicts("python:refgss.native")


def test_a_program_that_speaks_the_protocol_gives_the_same_numbers():
    program = f"cmd:{sys.executable} -m refgss.conformance.candidates.worker python refgss.native"
    assert verdicts("native") == verdicts(program)


def test_through_the_c_abi_the_outcomes_are_the_same_for_every_op_of_the_header():
    here, abi = verdicts("native"), verdicts(f"lib:{LIBRARIES[0]}")
    claimed = {key for key, (outcome, *_) in abi.items() if outcome != "not claimed"}
    assert len({id.split("/")[0] for id, _ in claimed}) > 10
    for key in claimed:
        assert abi[key][0] == here[key][0], (key, abi[key], here[key])
