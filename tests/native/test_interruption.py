"""Interruptions and second threads: an object is left where it was, or says that it is not."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

native = pytest.importorskip("refgss.native")
from refgss.config import GSS, PAPER, LMConfig  # noqa: E402
from refgss.model import initialize  # noqa: E402
from refgss.model.session import Place, Read, Session  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child here")

# `run(call)` interrupts a call after 0.1 s and says how long it took to stop
INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np
from refgss import native
from refgss.config import GSS, PAPER, LMConfig
from refgss.model import initialize

native.set_num_threads(THREADS)

def run(call):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.perf_counter()
    try:
        call()
    except KeyboardInterrupt:
        return time.perf_counter() - began
    raise SystemExit("the call was not interrupted")

def model(V=300):
    config = LMConfig(PAPER, 4)
    sizes = dict(width=32, gate=64, channels=32, states=8)
    return initialize(config, sizes, vocabulary=V, seed=1), config

LONG = np.zeros((1, 3_000_000), np.int64)
"""


def child(code, threads=1):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.replace("THREADS", str(threads)) + code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupted_decoder_is_where_it_was(threads):
    child(
        """
params, config = model()
one, two = (native.Decoder(params, config) for _ in range(2))
start = np.arange(100)[None] % 300
for d in (one, two):
    d.prefill(start[:, :90])
    for t in range(10):
        d.step(start[:, 90 + t])
for call in (lambda: one.prefill(LONG), lambda: one.loss(LONG, LONG)):
    assert run(call) < 2
    assert one.position == two.position == 100
    assert np.array_equal(one.state, two.state)
for t in range(70):
    assert np.array_equal(one.step(start[:, t]), two.step(start[:, t]))
assert np.array_equal(one.prefill(start), two.prefill(start))
""",
        threads,
    )


def test_an_interrupted_session_agrees_with_its_decoder(tmp_path):
    child(
        f"""
from pathlib import Path
from types import SimpleNamespace
from refgss import reference
from refgss.model.checkpoint import load_checkpoint, save_checkpoint
from refgss.model.session import Session
params, config = model(V=257)
save_checkpoint(Path(r"{tmp_path}/m.safetensors"), params, config)
checkpoint = load_checkpoint(Path(r"{tmp_path}/m.safetensors"))
for backend in (native, SimpleNamespace(lm_logits=native.lm_logits)):
    one, two = (Session(checkpoint, backend=backend) for _ in range(2))
    for s in (one, two):
        s.prefill(np.arange(10)[None])
    assert run(lambda: one.prefill(LONG)) < 2
    assert one.tokens == 10 and np.array_equal(one.logits, two.logits)
    assert np.array_equal(one.recent, two.recent)
    assert np.array_equal(one.step(np.array([5])), two.step(np.array([5])))
    assert one.tokens == two.tokens == 11
"""
    )


def test_a_read_that_was_interrupted_at_its_end_is_whole():
    """A signal between the end of the C++ and the session's own book-keeping."""

    class Late:
        def __init__(self):
            self.at = (0, np.zeros((1, 5), np.float32))

        def prefill(self, tokens):
            self.at = (self.at[0] + tokens.shape[1], np.ones((1, 5), np.float32))
            raise KeyboardInterrupt

        def place(self):
            return Place(*self.at)

    session = object.__new__(Session)
    none = np.zeros(1, np.int64)
    read = Read(0, np.zeros((1, 0), np.int32), np.zeros((1, 5), np.float32), none, none)
    checkpoint = SimpleNamespace(config=LMConfig(PAPER, 1))
    session._begin(checkpoint, None, Late(), read)
    with pytest.raises(KeyboardInterrupt):
        session.prefill(np.array([[1, 2, 3]]))
    assert session.tokens == 3 and session.logits.all()
    np.testing.assert_array_equal(session.recent, [[1, 2, 3]])


def test_an_interrupted_stream_says_so_and_a_stepper_goes_on():
    child(
        """
k = np.ones((64, 4000), np.float32)
stream = native.ConvStream(k, 1)
u = np.ones((1, 500_000, 64), np.float32)
assert run(lambda: stream.push(u)) < 3
try:  # it had not begun, and is where it was
    assert np.array_equal(stream.push(u[:, :5]), native.ConvStream(k, 1).push(u[:, :5]))
except ValueError as e:
    assert "make a new one" in str(e), e
lam, c = np.full(64, -0.1 + 1j, np.complex64), np.ones((512, 64), np.complex64)
prepared = native.Prepared(lam, c, 100, delta=np.float32(1), form=GSS)
one, two = (native.Stepper(prepared, 64, block=4096) for _ in range(2))
u = np.ones((64, 512), np.float32)
def many():
    global steps
    for steps in range(10**6):
        one.step(u)
assert run(many) < 3
for _ in range(steps):
    two.step(u)
if not np.array_equal(one.state, two.state):  # the last step was whole
    two.step(u)
assert np.array_equal(one.state, two.state)
"""
    )


def test_a_state_in_place_is_whole_after_an_interruption():
    child(
        """
lam, c = np.full(32, -0.1 + 1j, np.complex64), np.ones((64, 32), np.complex64)
prepared = native.Prepared(lam, c, 4096, delta=np.float32(1), form=GSS)
u = np.ones((8, 200_000, 64), np.float32)
state = np.full((8, 64, 32), 3 - 2j, np.complex64)
assert run(lambda: prepared.advance(u, state)) < 3
assert (state == 3 - 2j).all()
"""
    )


# --- a second thread ----------------------------------------------------------------------------


def contested(call, threads=4, times=60):
    """What each thread's calls did: True, or the sentence of a refusal."""
    outcomes, start = [], threading.Barrier(threads)

    def work():
        start.wait()
        for _ in range(times):
            try:
                call()
                outcomes.append(True)
            except RuntimeError as e:
                outcomes.append(str(e))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    return outcomes


def test_a_handle_serves_one_thread_at_a_time():
    config = LMConfig(PAPER, 2)
    sizes = {"width": 32, "gate": 64, "channels": 32, "states": 8}
    params = initialize(config, sizes, vocabulary=50, seed=1)
    decoder = native.Decoder(params, config)
    tokens = np.zeros((1, 40), np.int64)
    outcomes = contested(lambda: decoder.prefill(tokens))
    assert {o for o in outcomes if o is not True} <= {
        "the handle is in use by another thread: wait for its call to return, or make a handle for "
        "each thread"
    }
    assert decoder.position == 40 * outcomes.count(True) > 0
    alone = native.Decoder(params, config)
    for _ in range(outcomes.count(True)):
        alone.prefill(tokens)
    np.testing.assert_array_equal(alone.state, decoder.state)


def test_steppers_and_streams_serve_one_thread_at_a_time():
    lam, c = np.full(16, -0.1 + 1j, np.complex64), np.ones((256, 16), np.complex64)
    prepared = native.Prepared(lam, c, 100, delta=np.float32(1), form=GSS)
    stepper, u = native.Stepper(prepared, 8, block=2), np.ones((8, 256), np.float32)
    done = contested(lambda: stepper.step(u)).count(True)
    alone = native.Stepper(prepared, 8, block=2)
    for _ in range(done):
        alone.step(u)
    np.testing.assert_array_equal(alone.state, stepper.state)

    k = np.ones((64, 200), np.float32)
    stream, u = native.ConvStream(k, 2), np.ones((2, 100, 64), np.float32)
    done = contested(lambda: stream.push(u)).count(True)
    alone = native.ConvStream(k, 2)
    for _ in range(done):
        alone.push(u)
    np.testing.assert_array_equal(alone.push(u), stream.push(u))
    assert done > 0


def test_a_busy_handle_is_refused():
    """From within its own call, by the interrupt check: the surest second call."""
    child(
        """
from refgss.native import abi
ffi, lib = abi.open_library()
k, u = np.ones((256, 4000), np.float32), np.ones((4, 20000, 256), np.float32)
y, little = np.empty_like(u), np.ones((4, 1, 256), np.float32)
handle = ffi.new("refgss_conv_stream **")
assert lib.refgss_conv_stream_new(abi.view(ffi, k), 4, handle) == lib.REFGSS_OK
seen = []

@ffi.callback("int32_t(void)")
def again():
    views = abi.view(ffi, little), abi.view(ffi, np.empty_like(little))
    seen.append(lib.refgss_conv_stream_push(handle[0], *views))
    return 1

lib.refgss_set_interrupt_check(again)
views = abi.view(ffi, u), abi.view(ffi, y)
assert lib.refgss_conv_stream_push(handle[0], *views) == lib.REFGSS_ERROR_INTERRUPTED
assert seen == [lib.REFGSS_ERROR_BUSY], seen
lib.refgss_conv_stream_free(handle[0])
"""
    )


def test_one_long_transform_is_interrupted_within_a_fraction_of_it():
    """By the interrupt check, which is asked all along: in seconds of CPU, whatever else runs."""
    child(
        """
import time
from refgss.native import abi
ffi, lib = abi.open_library()
n = 3 << 20
u, k = np.ones((1, n, 1), np.float32), np.ones((1, n), np.float32)
y, views = np.empty_like(u), []
for x in (u, k, y):
    views.append(abi.view(ffi, x))
times = []

@ffi.callback("int32_t(void)")
def ask():
    times.append(time.process_time())
    return 0

def longest_share():
    times[:] = [time.process_time()]
    assert lib.refgss_causal_conv(*views) == lib.REFGSS_OK
    gaps = np.diff([*times, time.process_time()])
    return gaps.max() / gaps.sum()

lib.refgss_set_interrupt_check(ask)
shares = [longest_share() for _ in range(4)]
lib.refgss_set_interrupt_check(ffi.NULL)
assert min(shares) < 0.4, shares
"""
    )
