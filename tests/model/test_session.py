"""Sessions: pieces, steps, forks and files agree, bit by bit where that is promised."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from refgss import native, reference, xla
from refgss.model.sampling import GREEDY, choose
from refgss.model.session import Session
from refgss.model.snapshot import StateError, load_snapshot, save_snapshot
from refgss.tensors import ModelError

from .models import LAYERS, saved

OPS_ONLY = SimpleNamespace(lm_logits=native.lm_logits)  # a user's backend
BACKENDS = {"reference": reference, "native": native, "ops": OPS_ONLY}
WITH_JAX = BACKENDS | {"jax": xla}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        (name, weights): saved(folder, name, weights=weights)[1]
        for name in LAYERS
        for weights in ("f32", "bf16", "int8")
    }


def tokens_of(seed, *shape):
    return np.random.default_rng(seed).integers(0, 257, shape).astype(np.int32)


def whole(checkpoint, tokens):
    """Logits (B,V) after all tokens, by the reference on the float32 weights, in one piece."""
    logits, _ = reference.lm_logits(checkpoint.float_params(), tokens, config=checkpoint.config)
    return logits[:, -1]


@pytest.mark.parametrize("weights", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_pieces_and_steps_are_the_whole(models, backend, layer, weights):
    checkpoint, tokens = models[layer, weights], tokens_of(0, 2, 60)
    session = Session(checkpoint, backend=BACKENDS[backend], batch=2)
    session.prefill(tokens[:, :17])
    session.prefill(tokens[:, 17:17])
    session.prefill(tokens[:, 17:40])
    for t in range(40, 60):
        logits = session.step(tokens[:, t])
    assert session.tokens == 60
    np.testing.assert_allclose(logits, whole(checkpoint, tokens), rtol=0, atol=2e-4)


def assert_the_same_from_here(one, two, rest):
    """Sessions that give the same bits: now, in steps, and in a piece after them."""
    np.testing.assert_array_equal(one.logits, two.logits)
    for t in range(len(rest[0])):
        np.testing.assert_array_equal(one.step(rest[:, t]), two.step(rest[:, t]))
    np.testing.assert_array_equal(one.prefill(rest), two.prefill(rest))
    np.testing.assert_array_equal(one.recent, two.recent)


@pytest.mark.parametrize("layer", ["gss-pytorch", "dss"])
@pytest.mark.parametrize(
    ("backend", "at"),
    [
        ("reference", 3),
        ("ops", 3),
        *(
            ("native", at)
            for at in (0, 1, 40, 63, 64, 65)  # around an advance of the decoder's state
        ),
    ],
)
def test_saved_and_loaded_is_bit_by_bit_the_same(models, tmp_path, backend, at, layer):
    checkpoint, module = models[layer, "f32"], BACKENDS[backend]
    session = Session(checkpoint, backend=module, batch=2)
    session.prefill(tokens_of(1, 2, 21))
    for token in tokens_of(2, 2, at).T:
        session.step(token)
    save_snapshot(tmp_path / "s", session.snapshot(), checkpoint.digest)
    snapshot = load_snapshot(tmp_path / "s", checkpoint)
    loaded = Session(checkpoint, backend=module, snapshot=snapshot)
    rest = tokens_of(3, 2, 140 if backend == "native" else 5)
    assert_the_same_from_here(session.fork(), loaded, rest)
    assert_the_same_from_here(session.fork(), session, rest)


@pytest.mark.parametrize("source", BACKENDS)
@pytest.mark.parametrize("target", BACKENDS)
def test_a_state_goes_from_one_backend_to_another(models, tmp_path, source, target):
    checkpoint, tokens = models["dss", "f32"], tokens_of(3, 1, 90)
    session = Session(checkpoint, backend=BACKENDS[source])
    session.prefill(tokens[:, :30])
    for t in range(30, 50):
        session.step(tokens[:, t])
    save_snapshot(tmp_path / "s", session.snapshot(), checkpoint.digest)
    at = load_snapshot(tmp_path / "s", checkpoint)
    logits = Session(checkpoint, backend=BACKENDS[target], snapshot=at).prefill(tokens[:, 50:])
    np.testing.assert_allclose(logits, whole(checkpoint, tokens), rtol=0, atol=2e-4)


def test_three_backends_write_the_same_200_tokens(models):
    checkpoint, prompt = models["paper", "f32"], tokens_of(4, 1, 3)
    texts = []
    for module in WITH_JAX.values():
        session, text = Session(checkpoint, backend=module), []
        session.prefill(prompt)
        for _ in range(200):
            text.append(choose(session.logits, session.recent, session.tokens, GREEDY)[0])
            session.step(text[-1:])
        texts.append(text)
    assert all(text == texts[0] for text in texts)


def test_streams_of_a_batch_are_independent(models):
    checkpoint, tokens = models["paper", "f32"], tokens_of(5, 3, 20)
    together = Session(checkpoint, batch=3).prefill(tokens)
    for b in range(3):
        alone = Session(checkpoint).prefill(tokens[b : b + 1])
        np.testing.assert_allclose(alone[0], together[b], rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_softmax_stream_ends(models, backend):
    session = Session(models["softmax", "f32"], backend=BACKENDS[backend])
    session.prefill(tokens_of(6, 1, 60))
    with pytest.raises(ModelError, match="ends after 64 tokens"):
        session.prefill(tokens_of(6, 1, 5))
    session.prefill(tokens_of(6, 1, 4))
    with pytest.raises(ModelError, match="ends after 64 tokens"):
        session.step(np.array([1]))


@pytest.mark.parametrize("bad", [np.array([[260]]), np.array([[-1]]), [[1.0]], [1], [[1], [2]]])
def test_bad_tokens_are_refused_and_nothing_is_read(models, bad):
    session = Session(models["paper", "f32"])
    with pytest.raises(ModelError, match="tokens must be"):
        session.prefill(np.asarray(bad))
    assert session.tokens == 0


# --- files of states -----------------------------------------------------------------------------


def a_state(checkpoint, path):
    session = Session(checkpoint)
    session.prefill(tokens_of(7, 1, 9))
    session.step(np.array([3]))
    save_snapshot(path, session.snapshot(), checkpoint.digest)
    return session


def test_the_state_of_another_model_is_refused(models, tmp_path):
    a_state(models["paper", "f32"], tmp_path / "s")
    for other in (models["paper", "bf16"], models["gss-pytorch", "f32"]):
        with pytest.raises(StateError, match="belongs to the model"):
            load_snapshot(tmp_path / "s", other)


def test_a_checkpoint_is_no_state(models, tmp_path):
    path, checkpoint = saved(tmp_path)
    with pytest.raises(StateError, match=r"no refgss\.state"):
        load_snapshot(path, checkpoint)


@cache
def model_and_state():
    with tempfile.TemporaryDirectory() as folder:
        _, checkpoint = saved(Path(folder))
        path = Path(folder) / "s"
        a_state(checkpoint, path)
        return checkpoint, path.read_bytes()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(0), st.integers(0), st.binary(min_size=1, max_size=8))
def test_any_damage_to_a_state_is_refused_or_gives_a_state(at, keep, patch):
    checkpoint, content = model_and_state()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        at %= 500 if at % 2 else len(content)
        content = content[:at] + patch + content[at + len(patch) :]
        path.write_bytes(content[: keep % (2 * len(content))])
        try:
            session = Session(checkpoint, snapshot=load_snapshot(path, checkpoint))
        except StateError as e:
            assert str(path) in str(e)
        else:
            assert np.isfinite(session.step(np.array([1]))).all()


NURSERY = """
import os, sys
import numpy as np
from refgss.model import load_checkpoint
from refgss.model.session import Session
from refgss.model.snapshot import load_snapshot, save_snapshot
from refgss.tensors import TensorFileError
model, path = sys.argv[1:]
checkpoint = load_checkpoint(model)
for line in sys.stdin:  # a child for each, which saves without end
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    at = load_snapshot(path, checkpoint) if os.path.exists(path) else None
    session, told = Session(checkpoint, snapshot=at), False
    while True:
        session.step(np.array([session.tokens % 257]))
        save_snapshot(path, session.snapshot(), checkpoint.digest)
        if not told:
            print(os.getpid(), flush=True)
            told = True
"""


def test_killed_while_saving_the_file_is_whole(tmp_path):
    """20 times at random moments: the old state or the new one, and one that continues."""
    path, checkpoint = saved(tmp_path)
    rng, state, before = np.random.default_rng(0), tmp_path / "s", 0
    command = [sys.executable, "-c", NURSERY, str(path), str(state)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, bufsize=1, **pipes) as nursery:
        for _ in range(20):
            nursery.stdin.write("next\n")
            child = int(nursery.stdout.readline())
            time.sleep(rng.uniform(0.01, 0.1))
            os.kill(child, signal.SIGKILL)
            at = load_snapshot(state, checkpoint)
            assert at.tokens > before
            before = at.tokens
        nursery.stdin.close()
    Session(checkpoint, snapshot=at).step(np.array([1]))


class Streams(RuleBasedStateMachine):
    """Any order of prefill, step, fork, save and load: each session is its tokens, read at once."""

    folder = tempfile.TemporaryDirectory()
    made = None

    @initialize(
        backend=st.sampled_from(["native", "ops"]), weights=st.sampled_from(["f32", "int8"])
    )
    def begin(self, backend, weights):
        if Streams.made is None:
            Streams.made = {w: saved(Path(self.folder.name), weights=w)[1] for w in ("f32", "int8")}
        self.checkpoint, self.module = self.made[weights], BACKENDS[backend]
        self.sessions = [(Session(self.checkpoint, backend=self.module), [])]

    def pick(self, data):
        return data.draw(st.integers(0, len(self.sessions) - 1))

    @rule(data=st.data(), tokens=st.lists(st.integers(0, 259), max_size=100))
    def prefill(self, data, tokens):
        session, read = self.sessions[self.pick(data)]
        session.prefill(np.array(tokens, np.int64)[None])
        read += tokens

    @rule(data=st.data(), tokens=st.lists(st.integers(0, 259), max_size=70))
    def steps(self, data, tokens):
        session, read = self.sessions[self.pick(data)]
        for token in tokens:
            session.step(np.array([token]))
        read += tokens

    @precondition(lambda self: len(self.sessions) < 4)
    @rule(data=st.data())
    def fork(self, data):
        session, read = self.sessions[self.pick(data)]
        self.sessions.append((session.fork(), list(read)))

    @rule(data=st.data())
    def save_and_load(self, data):
        i = self.pick(data)
        session, read = self.sessions[i]
        path = Path(self.folder.name) / "s"
        save_snapshot(path, session.snapshot(), self.checkpoint.digest)
        at = load_snapshot(path, self.checkpoint)
        loaded = Session(self.checkpoint, backend=self.module, snapshot=at)
        np.testing.assert_array_equal(loaded.fork().step([7]), session.fork().step([7]))
        self.sessions[i] = loaded, read

    def teardown(self):
        for session, read in getattr(self, "sessions", []):
            assert session.tokens == len(read)
            np.testing.assert_array_equal(session.recent[0], read[-256:])
            if read:
                expected = whole(self.checkpoint, np.array([read[-2000:]]))
                np.testing.assert_allclose(session.logits, expected, rtol=0, atol=3e-4)


TestStreams = Streams.TestCase
TestStreams.settings = settings(
    max_examples=12,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_models_need_neither_jax_nor_torch():
    code = "import sys, refgss.model, refgss.cli; sys.exit(bool({'jax', 'torch'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
