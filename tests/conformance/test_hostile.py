"""Whatever a program does, the check ends with a verdict, and nothing of the program is left."""

import json
import os
import random
import shlex
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hostile import draw

from refgss.cli import run
from refgss.conformance.vectors.format import Expected, Vector, write_vectors

PROGRAM = Path(__file__).parent / "hostile.py"
SECONDS = 90.0  # that a check of CASES cases may take on a busy machine
CASES = 3
DRAWN = 200

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")

PLANS = [
    [["greeted", "answers in advance"], ["asked", "sleeps"]],
    [["start", "closes its input"], ["greeted", "leaves a daemon with its streams"]],
    [["greeted", "leaves ever new processes"], ["answered", "crashes"]],
    [["asked", "leaves a daemon"], ["answered", "kills its parent"]],
    [["asked", "stops its parent"], ["answered", "stops itself"]],
    [["asked", "fills stderr"], ["answered", "ends its group"]],
    [["outputs", "links the folder elsewhere"], ["answered", "says half a line"]],
    [["outputs", "locks the folder"], ["answered", "says a huge line"]],
    [["outputs", "makes a folder of the inputs"], ["greeting", "has a name of markup"]],
    [["outputs", "writes a huge file"], ["answered", "takes all memory"]],
    [["greeting", "claims 60,000 names"], ["outputs", "links to zero"]],
    [["start", "says a deep line"]],
]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """So few vectors that a check takes no time."""
    zero = np.zeros(1)
    answer = {"y": Expected(zero, zero, zero, {"f32": zero + 1, "f64": zero + 1})}
    tensors = {"x": np.zeros(1, np.float32)}
    folder = tmp_path_factory.mktemp("few")
    some = [Vector(f"gelu/{i}", "gelu", ("GSS-NRM-3",), {}, tensors, answer) for i in range(CASES)]
    write_vectors(folder, some, "2026-11-23")
    return folder


def with_token(token):
    """The processes in whose environment the token is."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if token.encode() in Path("/proc", pid, "environ").read_bytes():
                found.append(Path("/proc", pid, "cmdline").read_bytes())
    return found


def judged(plan, few, folder, monkeypatch, capsys):
    """Check the program of this plan, and all that must hold; the exit code and the seconds."""
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr("refgss.conformance.candidates.processes.START_SECONDS", 5.0)
    monkeypatch.setenv("HOSTILE", token := str(folder))
    command = f"cmd:{sys.executable} -S {PROGRAM} {shlex.quote(json.dumps(dict(plan)))}"
    options = ["--fresh", "0", "--again", "0", "--timeout", "0.5", "--memory", "2"]
    began = time.monotonic()
    code = run(["check", "--candidate", command, "--vectors", str(few), *options])
    seconds = time.monotonic() - began
    out, err = capsys.readouterr()
    assert code in (0, 1, 3, 4), (plan, out, err)
    assert ("conform" in out or "broke" in out) if code in (0, 1) else out + err, plan
    assert "defect" not in err and "\x1b" not in out + err, (plan, out, err)
    assert seconds < SECONDS, plan
    assert with_token(token) == [], plan
    assert [*folder.iterdir()] == [], plan
    return code, seconds


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: ", ".join(act for _, act in plan))
def test_a_hostile_program_gets_a_verdict_and_leaves_nothing(
    plan, few, tmp_path, monkeypatch, capsys
):
    judged(plan, few, tmp_path / "t", monkeypatch, capsys)


@pytest.mark.long
def test_programs_drawn_from_the_grammar(few, tmp_path, monkeypatch, capsys):
    rng, codes, acts, slowest = random.Random(11), Counter(), Counter(), 0.0
    for i in range(DRAWN):
        plan = draw(rng)
        code, seconds = judged(plan, few, tmp_path / str(i), monkeypatch, capsys)
        codes[code] += 1
        acts.update(act for _, act in plan)
        slowest = max(slowest, seconds)
    with capsys.disabled():
        print(f"\n{DRAWN} hostile programs of {len(acts)} acts: exit codes {dict(codes)}, ", end="")
        print(f"the slowest {slowest:.1f} s, nothing left")
