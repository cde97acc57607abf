"""The fuzzer of the C ABI (abi_fuzz.py), a short run of it and a long one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("refgss.native")


def fuzz(folder, calls, seed):
    """Its last line; what it says where a call crashed, hung or broke a rule."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "abi_fuzz.py", str(calls), str(seed)],
        env=os.environ
        | {"ABI_FUZZ_FOLDER": str(folder), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=False,
        timeout=calls / 20 + 60,
    )
    last = (folder / "abi_fuzz.last").read_text().strip()
    assert done.returncode == 0, f"call {last} of seed {seed}: {done.stdout}{done.stderr}"
    return done.stdout


def test_some_thousand_calls(tmp_path):
    said = fuzz(tmp_path, 3000, 0)
    calls, refused = (int(word) for word in said.split("\n")[-2].split()[::2][:2])
    assert (
        calls >= 3000 and 0.1 < refused / calls < 0.7
    )  # most are right, or the rules are not tried


@pytest.mark.long
def test_a_million_calls(tmp_path, capsys):
    """Under the sanitizers: tests/native/sanitize.sh address,undefined -m long -s"""
    for seed in range(1, 11):
        said = fuzz(tmp_path, 100_000, seed)
        with capsys.disabled():
            print(f"\nseed {seed}: {said.splitlines()[-1]}")


# what an earlier run found, and what was reported: entry by entry
EXTREMES = """
import numpy as np
from refgss.native import abi
ffi, lib = abi.open_library()
f, kept = np.ones(4, np.float32), []

def view(x):
    kept.append(x)
    return abi.view(ffi, x)

def broadcast(*shape):
    a = abi.view(ffi, f[:1].reshape((1,) * len(shape)))
    for i, n in enumerate(shape):
        a.shape[i], a.stride[i] = n, 0
    return a

def empty(*shape):
    a = broadcast(*shape)
    a.data = ffi.NULL
    return a

VALUE, y = lib.REFGSS_ERROR_VALUE, abi.view(ffi, f.reshape(2, 2))
w = abi.view(ffi, f[:2])
"""


def run_extreme(code):
    done = subprocess.run(
        [sys.executable, "-c", EXTREMES + code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_products_of_sizes_that_overflow():
    run_extreme("""
x = broadcast(2**33, 2**31)
assert lib.refgss_gelu(x, y) == VALUE
assert lib.refgss_gelu_vjp(x, x, y) == VALUE
assert lib.refgss_layer_norm(x, w, w, 1e-5, y) == VALUE
assert lib.refgss_layer_norm_vjp(x, w, x, 1e-5, y, w, w) == VALUE
assert b"more elements than can be counted" in ffi.string(lib.refgss_last_error())
""")


def test_null_in_every_place():
    run_extreme("""
N, form = ffi.NULL, ffi.new("refgss_form *", (1, 0, 0.0, 0))
lam, c = view(np.array([-1], np.complex64)), view(np.ones((2, 1), np.complex64))
one = view(np.array(1, np.float32))
u, z = (view(np.ones((1, 3, 2), np.float32)) for _ in range(2))
ssm, stepper = ffi.new("refgss_ssm **"), ffi.new("refgss_stepper **")
assert lib.refgss_ssm_apply(N, u, N, z, N) == VALUE
assert lib.refgss_ssm_new(lam, c, one, form, 3, N) == VALUE
assert lib.refgss_ssm_new(lam, c, one, form, 3, ssm) == 0
assert lib.refgss_stepper_new(N, 1, 4, N, stepper) == VALUE
assert lib.refgss_stepper_new(ssm[0], 1, 4, N, N) == VALUE
assert lib.refgss_stepper_new(ssm[0], 1, 4, N, stepper) == 0
row = view(np.ones((1, 2), np.float32))
for step in ((N, row, row), (stepper[0], N, row), (stepper[0], row, N)):
    assert lib.refgss_stepper_step(*step) == VALUE
assert lib.refgss_stepper_state(N, c) == VALUE and lib.refgss_stepper_state(stepper[0], N) == VALUE
given = [u, lam, c, N, z, N, one, form]
outputs = [u, lam, c, N, one]
for i in (0, 1, 2, 4):
    some = [x if j != i else N for j, x in enumerate(outputs)]
    assert lib.refgss_ssm_scan_vjp(*given, *some) == VALUE, i
for entry in (lib.refgss_gss_layer, lib.refgss_dss_layer):
    assert entry(N, N, u, N, z, N) == VALUE
lib.refgss_stepper_free(stepper[0]), lib.refgss_ssm_free(ssm[0])
""")


def test_loops_over_nothing_end_and_long_ones_can_be_interrupted():
    run_extreme("""
import time
began = time.perf_counter()
nothing, n = empty(2**40, 0), np.float32(1)
assert lib.refgss_gelu(nothing, empty(2**40, 0)) == 0
assert lib.refgss_dense(nothing, empty(0, 0), ffi.NULL, empty(2**40, 0)) == 0
k = empty(2**40, 0)
u = [empty(0, 3, 2**40) for _ in range(3)]
assert lib.refgss_causal_conv_vjp(u[0], k, u[1], u[2], k) == 0
form = ffi.new("refgss_form *", (1, 0, 0.0, 0))
lam, c = empty(0, 2), empty(2**40, 0, 2)
one, one_more = view(np.array(1, np.float32)), np.array(1, np.float32)
u = empty(0, 5, 2**40)
assert lib.refgss_ssm_scan(u, lam, c, ffi.NULL, one, form, u, ffi.NULL) == 0
assert lib.refgss_ssm_scan(empty(2**40, 0, 2), lam, empty(2, 0, 2), ffi.NULL, one, form,
                           empty(2**40, 0, 2), ffi.NULL) == 0
assert lib.refgss_ssm_kernel(lam, c, one, form, empty(2**40, 0)) == 0
assert time.perf_counter() - began < 5
asked = []
@ffi.callback("int32_t(void)")
def stop():
    asked.append(1)
    return len(asked) > 3
lib.refgss_set_interrupt_check(stop)
bias, weight = view(np.ones(2, np.float32)), empty(0, 2)
began = time.perf_counter()
dense = lib.refgss_dense_vjp(broadcast(2**36, 0), weight, broadcast(2**36, 2), broadcast(2**36, 0),
                             weight, bias)
assert dense == lib.REFGSS_ERROR_INTERRUPTED and time.perf_counter() - began < 10
asked.clear()
lam, c, dc = (view(np.full((2, 1), -1, np.complex64)) for _ in range(3))
lam, dlam = (view(np.full(1, -1, np.complex64)) for _ in range(2))
kernel = lib.refgss_ssm_kernel_vjp(lam, c, broadcast(2, 2**46), one, form, dlam, dc, view(one_more))
assert kernel == lib.REFGSS_ERROR_INTERRUPTED and time.perf_counter() - began < 20
""")


def test_a_library_has_a_name_and_a_version():
    from refgss import __version__
    from refgss.conformance.candidates.library import Library
    from refgss.native import abi

    about = Library(str(abi.HERE / abi.LIBRARY)).capabilities()
    assert (about["name"], about["version"]) == ("librefgss", __version__)
