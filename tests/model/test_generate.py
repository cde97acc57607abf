"""`refgss generate` where it is cut: by a closed pipe, a full disk, Ctrl-C, within a character."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from refgss import cli
from refgss.model import Session, load_checkpoint, load_snapshot, load_tokenizer, save_checkpoint
from refgss.model.generation import generate, held_back, start
from refgss.model.sampling import Sampling

from .models import saved, small

HOW = ["--temperature", "0.7", "--seed", "3"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"))


def command(*arguments):
    return [sys.executable, "-m", "refgss", "generate", *map(str, arguments), *HOW]


def run(*arguments, **options):
    pipes = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE} | options
    return subprocess.run(command(*arguments), **({"stdout": subprocess.PIPE} | pipes))


def tokens_read(model, state):
    return load_snapshot(state, model[1]).tokens


def test_a_closed_pipe_saves_the_state_and_is_no_error(model, tmp_path):
    """`generate … | head -c 5`"""
    call = command(model[0], "x", "--tokens", "100000", "--save-state", tmp_path / "s")
    with subprocess.Popen(
        call, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.read(5)
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors and "Exception" not in errors
    assert 7 <= tokens_read(model, tmp_path / "s") < 100_000


def test_a_full_standard_output_saves_the_state_and_is_one_sentence(model, tmp_path):
    with open("/dev/full", "wb") as full:
        done = run(model[0], "x", "--save-state", tmp_path / "s", stdout=full)
    assert done.returncode == 2, done.stderr
    lines = [x for x in done.stderr.decode().splitlines() if not x.startswith("prefill")]
    assert len(lines) == 1 and "Traceback" not in lines[0]
    assert tokens_read(model, tmp_path / "s") == 3


def test_control_c_saves_the_state_after_the_last_token_that_is_shown(model, tmp_path):
    state, whole = tmp_path / "s", tmp_path / "whole"
    call = command(model[0], "x", "--tokens", "1000000", "--save-state", state)
    with subprocess.Popen(
        call, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        shown = process.stdout.read(40)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and b"interrupted" in errors, errors
    count = tokens_read(model, state) - 2  # the separator and the prompt
    done = run(model[0], "x", "--tokens", count, "--save-state", whole)
    assert (shown + rest).rstrip(b"\n") == done.stdout.rstrip(b"\n")
    rest_of = [run(model[0], "--tokens", "30", "--load-state", s).stdout for s in (state, whole)]
    assert rest_of[0] == rest_of[1]


def test_a_stop_string_may_be_any_bytes(model):
    done = run(model[0], "x", "--stop", b"\xff".decode("utf-8", "surrogateescape"))
    assert done.returncode == 0, done.stderr


# --- characters that are cut ---------------------------------------------------------------------


def writes(text, tmp_path):
    """A model of bytes and its checkpoint that, greedily, writes this text again and again.

    Each byte of it stands there once, and is followed by the next.
    """
    params, config = small(vocabulary=257, width=257, tied=False, depth=1)
    params["embedding.weight"] = np.eye(257, dtype=np.float32) * 8
    params["layers.0.w_o"] = np.zeros_like(params["layers.0.w_o"])
    params["norm.weight"], params["norm.bias"] = np.ones(257, "f4"), np.zeros(257, "f4")
    head = np.zeros((257, 257), np.float32)
    assert len(set(text)) == len(text)
    for a, b in zip(text, text[1:] + text[:1], strict=True):
        head[a, b] = 1
    params["head.weight"] = head
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, params, config)
    return path, load_checkpoint(path)


TEXT = "a∞é".encode()


@pytest.fixture
def text_of(capsys, monkeypatch):
    """What the command shows, less the line's end."""

    def call(*arguments):
        monkeypatch.setattr("sys.stdin", None)
        assert cli.run([*map(str, ["generate", *arguments, "--temperature", 0])]) == 0
        return capsys.readouterr().out[:-1]

    return call


@pytest.mark.parametrize("cuts", [[1, 1, 1, 1, 1, 1, 1], [2, 5], [3, 1, 3], [4, 3], [6, 1]])
def test_a_character_that_is_cut_between_runs_is_shown_once(text_of, tmp_path, cuts):
    path, _ = writes(TEXT, tmp_path)
    state, shown = tmp_path / "s", ""
    for i, count in enumerate(cuts):
        begin = ["--load-state", state] if i else ["é"]
        end = ["--save-state", state] if i < len(cuts) - 1 else []
        shown += text_of(path, *begin, "--tokens", count, *end)
    assert shown == "a∞éa"


def test_a_character_that_the_last_run_cuts_is_shown_as_it_stands(text_of, tmp_path):
    path, _ = writes(TEXT, tmp_path)
    assert text_of(path, "é", "--tokens", 2) == "a\ufffd"


def test_what_is_held_back_is_shown_before_a_prompt_that_follows(text_of, tmp_path):
    path, _ = writes(TEXT, tmp_path)
    text_of(path, "é", "--tokens", 2, "--save-state", tmp_path / "s")
    assert text_of(path, "é", "--tokens", 1, "--load-state", tmp_path / "s") == "\ufffda"


def test_calls_of_generate_are_together_the_text(tmp_path):
    _, checkpoint = writes(TEXT, tmp_path)
    tokenizer, sampling = load_tokenizer("bytes"), Sampling(temperature=0)
    for hold in (False, True):
        session, text = Session(checkpoint), b""
        start(session, tokenizer)
        session.prefill(np.array([list("é".encode())]))
        for count in (2, 0, 1, 1, 7, 3):
            text += b"".join(generate(session, tokenizer, count, sampling=sampling, hold=hold))
        assert text + held_back(session, tokenizer) == (3 * TEXT)[:14]
