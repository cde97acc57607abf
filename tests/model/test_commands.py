"""The commands on models: what they print, and one sentence and exit code 2 for bad input."""

import json
import subprocess
import sys
from io import BytesIO, TextIOWrapper

import numpy as np
import pytest

from refgss.cli import models, run
from refgss.model import load_checkpoint, load_tokenizer, save_checkpoint
from refgss.model.generation import generate, start
from refgss.model.sampling import Sampling
from refgss.model.session import Session
from refgss.model.snapshot import save_snapshot

from .models import saved, small


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"))


@pytest.fixture
def refgss_(capsys, monkeypatch):
    """Runs the command line with text in the pipe; returns its exit code, output and errors."""

    def call(*arguments, pipe=b""):
        monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(pipe)))
        code = run([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return code, captured.out, captured.err

    return call


def text_of(checkpoint, prompt, count, **how):
    tokenizer = load_tokenizer("bytes")
    session = Session(checkpoint)
    start(session, tokenizer)
    session.prefill(tokenizer.encode(prompt)[None])
    made = b"".join(generate(session, tokenizer, count, sampling=Sampling(**how)))
    return made.decode("utf-8", "replace")


HOW = ["--temperature", "0.5", "--seed", "5"]


def test_generate_takes_a_prompt_from_argument_or_pipe(refgss_, model):
    path, checkpoint = model
    expected = text_of(checkpoint, b"hello", 40, temperature=0.5, seed=5) + "\n"
    for arguments, pipe in (((path, "hello"), b""), ((path,), b"hello")):
        code, out, err = refgss_("generate", *arguments, "--tokens", 40, *HOW, pipe=pipe)
        assert (code, out) == (0, expected), err
        assert "prefill: 6 tokens" in err and "tok/s" in err and "decode: " in err


def test_generate_continues_from_a_saved_state(refgss_, model, tmp_path):
    path, checkpoint = model
    whole = text_of(checkpoint, b"hello", 50, temperature=0.5, seed=5)
    state = tmp_path / "s"
    code, first, _ = refgss_("generate", path, "hello", "--tokens", 21, *HOW, "--save-state", state)
    assert code == 0
    code, rest, _ = refgss_("generate", path, "--tokens", 29, *HOW, "--load-state", state)
    assert code == 0
    if "\ufffd" not in whole:  # a character may have been cut in two
        assert first[:-1] + rest[:-1] == whole
    assert len(first) > 1 and len(rest) > 1


def test_generate_ends_before_a_stop_string(refgss_, model):
    path, checkpoint = model
    expected = text_of(checkpoint, b"hello", 60, temperature=0.5, seed=5)
    at = next(i for i, c in enumerate(expected) if i > 3 and c.isascii())
    stop = expected[at]
    _, out, _ = refgss_("generate", path, "hello", "--tokens", 60, *HOW, "--stop", stop)
    assert out == expected[: expected.index(stop)] + "\n"


def test_generate_shows_whole_characters(refgss_, model, monkeypatch):
    """Split between tokens, or no UTF-8 at all, as a model of bytes may write."""
    made = [b"\xc3", b"\xa9", b"\xff", b"\xe2\x88", b"\x9e", b"\xe2\x88"]
    command = sys.modules["refgss.cli.generate"]  # the name is the command's too
    monkeypatch.setattr(command, "generated", lambda *_, **__: iter(made))
    assert refgss_("generate", model[0], "x")[1] == "é\ufffd∞\ufffd\n"


def test_every_backend_writes_the_same_greedy_text(refgss_, model):
    texts = {
        refgss_("generate", model[0], "x", "--temperature", 0, "--tokens", 60, "--backend", b)[1]
        for b in ("reference", "native")
    }
    assert len(texts) == 1


def test_eval_prints_its_figures_beside_xz(refgss_, model, tmp_path):
    (tmp_path / "a.txt").write_text("the state of the space " * 30)
    (tmp_path / "b.txt").write_text("the gate of the state " * 30)
    code, out, err = refgss_("eval", model[0], tmp_path, "--compare", "xz", "--by-position")
    assert code == 0, err
    assert "2 files, 1350 bytes, f32 weights" in out
    for name in ("nats per token", "perplexity", "bits per byte", "xz -9", "512"):
        assert name in out
    code, out, _ = refgss_("eval", model[0], tmp_path, "--window", "100")
    assert code == 0 and "13 windows" in out


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_quantize_writes_a_smaller_model_of_nearly_the_same_loss(refgss_, model, tmp_path, weights):
    path, target = model[0], tmp_path / "small.safetensors"
    assert refgss_("quantize", path, target, "--weights", weights)[0] == 0
    assert target.stat().st_size < {"bf16": 0.56, "int8": 0.36}[weights] * path.stat().st_size
    code, out, _ = refgss_("info", target)
    assert code == 0 and f"weights {weights}" in out and load_checkpoint(target).digest in out


def test_info_says_what_a_model_is(refgss_, model):
    code, out, _ = refgss_("info", model[0])
    assert code == 0
    params = model[1].params.values()
    counted = sum(x.size * (1 + (x.dtype.kind == "c")) for x in params)
    for fact in ("2 × GSS", "vocabulary 260", "width 33, gate 48", f"{counted:,}", "2,240 bytes"):
        assert fact in out


# --- bad input: exit code 2, one line, the name of what is wrong ---------------------------------


@pytest.fixture
def bad(tmp_path, model):
    """Files of every kind of trouble."""
    path, _ = model
    params, config = small(seed=9)
    save_checkpoint(tmp_path / "other.safetensors", params, config)
    content = path.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    (tmp_path / "nothing.safetensors").write_bytes(b"")
    nan = np.full_like(params["layers.0.w_v"], np.nan)
    broken = content.replace(model[1].params["layers.0.w_v"].tobytes(), nan.tobytes())
    (tmp_path / "nan.safetensors").write_bytes(broken)
    (tmp_path / "binary").write_bytes(b"\0\1\2")
    (tmp_path / "empty").write_bytes(b"")
    other = Session(load_checkpoint(tmp_path / "other.safetensors"))
    save_snapshot(tmp_path / "state", other.snapshot(), other.checkpoint.digest)
    return tmp_path


BAD = {
    "no such model": (["generate", "{}/no.safetensors", "x"], "no.safetensors"),
    "cut": (["generate", "{}/cut.safetensors", "x"], "damaged"),
    "empty model": (["info", "{}/nothing.safetensors"], "nothing.safetensors"),
    "nan": (["eval", "{}/nan.safetensors", "{}"], "not finite"),
    "state of another": (["generate", "{m}", "--load-state", "{}/state"], "belongs to the model"),
    "state is text": (["generate", "{m}", "--load-state", "{}/binary"], "binary"),
    "no state": (["generate", "{m}", "--load-state", "{}/no"], "cannot be read"),
    "nowhere to save": (["generate", "{m}", "x", "--save-state", "{}/no/s"], "does not exist"),
    "temperature": (["generate", "{m}", "x", "--temperature", "-1"], "temperature"),
    "stop": (["generate", "{m}", "x", "--stop", ""], "stop string"),
    "threads of the reference": (
        ["generate", "{m}", "x", "--backend", "reference", "--threads", "2"],
        "native",
    ),
    "binary data": (["eval", "{m}", "{}/binary"], "is binary"),
    "empty data": (["eval", "{m}", "{}/empty"], "is empty"),
    "no data": (["eval", "{m}", "{}/missing"], "missing"),
    "nothing named": (["eval", "{m}"], "name text files"),
    "nowhere to quantize": (["quantize", "{m}", "{}/no/x", "--weights", "int8"], "does not exist"),
    "no weights": (["import", "{m}", "{}/x"], "gated-state-spaces-pytorch"),
    "tokenizer": (["import", "{m}", "{}/x", "--tokenizer", "{}/no"], "no"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(refgss_, model, bad, kind):
    arguments, says = BAD[kind]
    code, _, err = refgss_(*(a.format(bad, m=model[0]) for a in arguments))
    lines = [line for line in err.splitlines() if not line.startswith(("prefill", "decode"))]
    assert (code, len(lines)) == (2, 1), err
    assert says in lines[0]


def test_without_a_bundled_model_a_sentence_says_so(refgss_, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "BUNDLED", tmp_path / "none.safetensors")
    code, _, err = refgss_("generate", "hello")
    assert code == 2 and "refgss train" in err


def test_a_prompt_longer_than_memory_is_one_sentence(refgss_, model, monkeypatch):
    def no_room(session, tokens):
        raise MemoryError

    monkeypatch.setattr(Session, "prefill", no_room)
    code, _, err = refgss_("generate", model[0], "x")
    assert code == 2 and "not enough memory" in err and err.count("\n") == 1


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
runpy.run_module("refgss", run_name="__main__")
"""


def test_a_full_disk_loses_nothing(model, tmp_path):
    """Files may not grow beyond 1000 bytes: what was there stays, no rest is left behind."""
    target = tmp_path / "state"
    target.write_text("before")
    command = [sys.executable, "-c", LIMITED, "generate", model[0], "x", "--save-state", target]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2 and "cannot be written" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert target.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["state"]


def test_about_is_shown(refgss_, tmp_path):
    params, config = small()
    save_checkpoint(tmp_path / "m", params, config, about={"steps": 7})
    code, out, _ = refgss_("info", tmp_path / "m")
    assert code == 0 and json.loads(out.splitlines()[-1].split(maxsplit=1)[1]) == 7
