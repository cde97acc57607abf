"""Every way of going wrong has its own outcome, and none of them ends the check."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refgss.cli.check import note_claims
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.candidates.claims import CandidateError
from refgss.conformance.candidates.processes import IN_A_ROW, read_stages
from refgss.conformance.candidates.targets import open_candidate
from refgss.conformance.judging.compare import Failure, Outputs
from refgss.conformance.judging.runner import Question, run, select
from refgss.conformance.vectors import fresh
from refgss.conformance.vectors.format import read_vectors
from refgss.standard import spec_folder

HERE = Path(__file__).parent
VECTORS = read_vectors(spec_folder() / "vectors").vectors
GELU = select(VECTORS, ["f32", "f64"], ["gelu"])


def outcomes(spec, questions=GELU, **limits):
    with closing(open_candidate(spec, **limits)) as candidate:
        return run(candidate, questions, seed=0)


def wrong(name):
    return f"python:{HERE / 'wrong.py'}:{name}"


def rude(manner):
    return f'cmd:{sys.executable} {HERE / "rude.py"} "{manner}"'


@pytest.mark.parametrize(
    ("name", "outcome", "detail"),
    [
        ("Tanh", "wrong value", ""),
        ("Half", "wrong value", "float16"),
        ("Shape", "wrong shape", "shape (1"),
        ("Nothing", "wrong shape", "missing"),
        ("Two", "wrong shape", "shape (2"),
        ("Dtype", "wrong dtype", "float"),
        ("Nan", "non-finite", "NaN"),
        ("Raises", "raised", "no kernel image"),
        ("Segfault", "crashed", "SIGSEGV"),
        ("Partial", "not claimed", "tomorrow"),
        ("Chatty", "pass", ""),
        ("Inquisitive", "raised", "EOF"),
        ("Quad", "wrong dtype", "float128"),
        ("Objects", "wrong dtype", "object"),
        ("Detached", "wrong dtype", "detach()"),
    ],
)
def test_a_wrong_module_gets_its_outcome(name, outcome, detail):
    records = outcomes(wrong(name), [q for q in GELU if q.vector.id == "gelu/grid"])
    assert [r["outcome"] for r in records] == [outcome] * 2
    assert all(detail in r.get("detail", "") for r in records)


@pytest.mark.parametrize(
    ("manner", "outcome", "detail"),
    [
        ("prints garbage", "garbage", "warming up"),
        ("prints without end", "garbage", "bytes"),
        ("sends an unknown message", "garbage", "progress"),
        ("sends a case back", "garbage", "no answer"),
        ("writes no file", "garbage", "safetensors"),
        ("writes a damaged file", "garbage", "safetensors"),
        ("answers out of order", "out of order", "case 1"),
        ("leaves", "crashed", "exited with status 1: out of ideas"),
        ("leaves a child behind", "crashed", "exited with status 1: out of ideas"),
        ("closes its output", "crashed", "closed its output"),
        ("fills stderr", "timed out", "0.5 s"),
        ("talks on stderr", "wrong value", ""),
        ("says NaN", "garbage", "NaN"),
        ("colours its words", "raised", "[0m not at all"),
        ("makes a pipe of the file", "garbage", "no safetensors file"),
        ("links its file to zero", "garbage", "no safetensors file"),
        ("makes folders of its files", "garbage", "no safetensors file"),
        ("removes the folder of its files", "garbage", "no safetensors file"),
        ("removes every folder of its files", "garbage", "no safetensors file"),
        ("never reads", "timed out", "0.5 s"),
        ("kills its parent", "crashed", "SIGKILL"),
        ("stops its parent and itself", "timed out", "0.5 s"),
        ("ends its group", "crashed", "SIGTERM"),
        ("ends by a signal without a name", "crashed", "signal 40"),
        ("writes a name twice", "garbage", "key twice"),
        ("writes metadata twice", "garbage", "safetensors"),
        ("writes a key of the metadata twice", "garbage", "key twice"),
        ("writes no metadata", "garbage", "__metadata__"),
        ("writes bfloat16", "wrong dtype", "BF16"),
        ("is killed", "crashed", "SIGSEGV"),
        ("holds too much", "crashed", "MemoryError"),
        ("hangs", "timed out", "0.5 s"),
        ("is honest but wrong", "wrong value", ""),
    ],
)
def test_a_rude_program_gets_its_outcome(manner, outcome, detail):
    question = [q for q in GELU if q.vector.id == "gelu/grid" and q.precision == "f32"]
    seconds = 0.5 if outcome == "timed out" else 30  # patience with a busy machine
    (record,) = outcomes(rude(manner), question, timeout=seconds, memory=4 << 30)
    assert record["outcome"] == outcome
    assert detail.lower() in record.get("detail", "").lower()
    assert record.get("detail", "").isprintable()


def processes_that_name(path):
    """The command lines of processes that have this path among their arguments."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            found.append(Path("/proc", pid, "cmdline").read_bytes())
    return [line for line in found if str(path).encode() in line]


@pytest.mark.skipif(sys.platform != "linux", reason="daemons are found through /proc")
@pytest.mark.parametrize("manner", ["leaves a daemon behind", "kills its parent", "is honest"])
def test_nothing_that_a_program_started_survives_it_and_no_file(manner, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pid = tmp_path / "pid"
    with closing(open_candidate(f"{rude(manner)} {pid}")) as candidate:
        assert processes_that_name(pid)
        candidate.ask("gelu", {"x": np.ones(1, np.float32)}, {}, "f32")
    assert not processes_that_name(pid)
    assert [file for file in tmp_path.iterdir() if file != pid] == []


def test_a_check_that_is_killed_takes_its_candidate_along(tmp_path):
    code = f"""
import os
from refgss.conformance.candidates.targets import open_candidate
candidate = open_candidate({f"{rude('never reads')} {tmp_path}"!r})
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)})
    deadline = time.monotonic() + 20
    while processes_that_name(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_that_name(tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, partial(os.symlink, "/dev/zero"), os.mkdir])
def test_stages_are_read_as_carefully_as_outputs(make, tmp_path):
    make(tmp_path / "stages")
    assert read_stages({}, tmp_path, time.monotonic() + 10) == {}


def test_answers_in_advance_are_no_answers():
    """One that comes while the case is sent is taken for an answer, without the file it owes."""
    questions = [q for q in GELU if q.precision == "f32"][:4]
    for record in outcomes(rude("answers everything in advance"), questions, timeout=30):
        assert record["outcome"] in ("out of order", "garbage")


def test_60_000_claims_cost_no_time(capsys):
    started = time.monotonic()
    with closing(open_candidate(rude("claims 60,000 ops"))) as candidate:
        note_claims([], candidate.about)
        assert not any(VECTORS[0].op in candidate.about.offered for _ in range(100_000))
    assert time.monotonic() - started < 10
    assert len(capsys.readouterr().err.splitlines()) < 10


HELLO = (
    b'{"type":"capabilities","protocol":1,"name":"x","version":"","ops":["gelu"],"profiles":[]}\n'
)
fragments = st.sampled_from(
    [
        HELLO,
        b'{"type":"done","case":1}\n',
        b'{"type":"done","case":2}\n',
        b'{"type":"unclaimed","case":1}\n',
        b'{"type":"error","message":"no"}\n',
        b'{"type":"bye"}\n',
        b"[" * 5000,
        b"\n",
    ]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(fragments | st.binary(max_size=40), max_size=4).map(b"".join))
def test_whatever_a_program_says_is_an_outcome(tmp_path_factory, said):
    file = tmp_path_factory.getbasetemp() / "said"
    file.write_bytes(said)
    with suppress(CandidateError):
        open_candidate(f"cmd:sh -c 'read hello; cat {file}'").close()
    file.write_bytes(HELLO + said)
    with closing(open_candidate(f"cmd:sh -c 'read hello; cat {file}; read case'")) as candidate:
        answer = candidate.ask("gelu", {"x": np.ones(1, np.float32)}, {}, "f32")
    assert isinstance(answer, Failure) and answer.message.isprintable()
    assert answer.outcome in {"crashed", "garbage", "out of order", "not claimed"}


def test_an_answer_too_many_is_out_of_order():
    case = "gelu", {"x": np.ones(1, np.float32)}, {}, "f32"
    with closing(open_candidate(rude("answers twice"))) as candidate:
        first, second = candidate.ask(*case), candidate.ask(*case)
    assert isinstance(first, Outputs)
    assert isinstance(second, Failure) and second.outcome == "out of order"


def test_nothing_that_is_sent_tells_the_answer(tmp_path):
    """GSS-FMT-12: the op, its options and arguments; no id, no expected value, no budget."""
    outcomes(f"{rude('listens')} {tmp_path / 'heard'}")
    heard = [json.loads(line) for line in (tmp_path / "heard").read_text().splitlines()]
    assert len(heard) == len(GELU)
    for message, tensors in heard:
        keys = {"type", "case", "op", "precision", "options", "inputs", "outputs"}
        assert message.keys() == keys and tensors == ["x"]
        ids = [q.vector.id.partition("/")[2] for q in GELU]
        assert not any(id in json.dumps(message) for id in ids)
    numbers = [message["case"] for message, _ in heard]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (rude("dies at once"), "no such device"),
        (rude("greets with garbage"), "Hello, world"),
        (rude("speaks another protocol"), "protocol 1"),
        (wrong("Boastful"), "protocol"),
        (wrong("no_such_object"), "no_such_object"),
        ("python:no_such_module", "no_such_module"),
        ("python:no_such_file.py", "there is no file"),
        ("cmd:no-such-program", "No such file"),
    ],
)
def test_a_candidate_that_cannot_start_says_why_in_one_sentence(spec, sentence):
    with pytest.raises(CandidateError, match=sentence) as caught:
        open_candidate(spec)
    assert "\n" not in str(caught.value)


def test_a_file_may_import_what_is_beside_it(tmp_path):
    (tmp_path / "beside.py").write_text("from refgss.reference import gelu\n")
    (tmp_path / "mine.py").write_text("from beside import gelu\n")
    with closing(open_candidate(f"python:{tmp_path / 'mine.py'}")) as candidate:
        assert candidate.about.ops == ("gelu",)


def test_a_mute_program_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("refgss.conformance.candidates.processes.START_SECONDS", 0.5)
    with pytest.raises(CandidateError, match="did not answer hello"):
        open_candidate(rude("mute"))


@pytest.mark.parametrize("spec", ["", "c++", "python:", "lib:", "reference:x", "cmd:"])
def test_an_unknown_kind_of_candidate_is_a_usage_error(spec):
    with pytest.raises(ValueError, match="unknown candidate"):
        open_candidate(spec)


def test_an_op_that_keeps_crashing_is_not_asked_for_ever():
    records = outcomes(wrong("Segfault"), GELU)
    assert all(r["outcome"] == "crashed" for r in records)
    asked = [r for r in records if "not asked" not in r["detail"]]
    assert len(asked) == 3 < len(records)


def test_a_candidate_that_never_answers_is_soon_given_up():
    questions = select(VECTORS, ["f32"])
    program = f"cmd:{sys.executable} {HERE / 'rude.py'} 'claims everything'"
    records = outcomes(program, questions, timeout=0.1)
    assert {r["outcome"] for r in records} == {"timed out"}
    assert sum("not asked" not in r["detail"] for r in records) == IN_A_ROW


def test_limits_never_exceed_those_of_the_system():
    """A candidate is started all the same where the system allows less memory than it may have."""
    code = f"""
import resource, sys
from contextlib import closing
resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))
from refgss.conformance.candidates.targets import open_candidate
with closing(open_candidate({wrong("Gelu")!r}, memory=8 << 30)) as candidate:
    print(candidate.about.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "Gelu\n", done.stderr


def test_bad_input_that_is_accepted_is_told_from_a_wrong_value():
    questions = select(VECTORS, ["f32"], ["ssm_kernel"])
    count = Counter((r["outcome"]) for r in outcomes(wrong("Trusting"), questions))
    bad = sum(q.vector.error for q in questions)
    assert bad > 0 and count == {"accepted bad input": bad, "pass": len(questions) - bad}


def test_a_table_of_answers_is_caught_by_fresh_cases():
    pytest.importorskip("flint")
    drawn = fresh.draw([q.vector for q in GELU], 3, seed=1)
    assert drawn
    shipped = outcomes(wrong("Table"), GELU)
    assert {r["outcome"] for r in shipped} == {"pass"}
    records = outcomes(wrong("Table"), [Question(v, "f64", fresh=True) for v in drawn])
    assert {r["outcome"] for r in records} == {"wrong on fresh input"}


def test_here_in_a_child_and_in_another_process_the_verdicts_agree():
    """The reference in each kind of process gives the same numbers, bit for bit."""
    from refgss import reference

    ops = ["gelu", "discretize", "ssm_step", "lm_loss", "s4d_lambda"]
    questions = select(VECTORS, ["f32", "f64", "paper"], ops)
    with closing(ModuleCandidate(reference)) as candidate:
        here = run(candidate, questions, seed=0)
    child = outcomes("python:refgss.reference", questions)
    worker = "refgss.conformance.candidates.worker"
    command = f"cmd:{sys.executable} -m {worker} python refgss.reference"
    program = outcomes(command, questions)
    for a, b, c in zip(here, child, program, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0} == {**c, "seconds": 0}


def test_cases_come_in_an_order_that_the_seed_draws():
    class Listening(ModuleCandidate):
        def ask(self, op, tensors, options, precision):
            heard.append((tensors["x"].tobytes(), precision))
            return super().ask(op, tensors, options, precision)

    from refgss import reference

    orders = []
    for seed in (1, 1, 2):
        heard = []
        run(Listening(reference), GELU, seed)
        orders.append(heard)
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
