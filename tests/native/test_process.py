"""The backend as a guest in its process: threads, forks, signals, the processor's mode, plain C."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

native = pytest.importorskip("refgss.native")
from refgss.native import abi  # noqa: E402

HEADER = Path(abi.__file__).parent / "refgss.h"


def draw(length=2000, channels=64):
    rng = np.random.default_rng(0)
    u = rng.standard_normal((1, length, channels)).astype(np.float32)
    return u, rng.standard_normal((channels, length)).astype(np.float32)


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_many_callers_at_once():
    u, k = draw()
    wanted = native.causal_conv(u, k)
    with ThreadPoolExecutor(8) as callers:
        results = list(callers.map(lambda _: native.causal_conv(u, k), range(64)))
    assert all(np.array_equal(y, wanted) for y in results)


def test_the_number_of_threads_may_change_under_callers():
    u, k = draw()
    wanted, before = native.causal_conv(u, k), native.get_num_threads()
    try:
        with ThreadPoolExecutor(4) as callers:
            results = [callers.submit(native.causal_conv, u, k) for _ in range(40)]
            for threads in (1, 4, 2, 3):
                native.set_num_threads(threads)
            assert all(np.array_equal(y.result(), wanted) for y in results)
    finally:
        native.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own():
    code = """
import os, numpy as np
from refgss import native
native.set_num_threads(2)
u, k = np.ones((1, 2000, 64), np.float32), np.ones((64, 2000), np.float32)
wanted = native.causal_conv(u, k)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(native.causal_conv(u, k), wanted) else 3)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(native.causal_conv(u, k), wanted)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child here")
def test_control_c_stops_a_long_call():
    code = """
import numpy as np
from refgss import native
native.set_num_threads(2)
u, k = np.ones((64, 4096, 256), np.float32), np.ones((256, 4096), np.float32)
print("ready", flush=True)
try:
    while True:
        native.causal_conv(u, k)
except KeyboardInterrupt:
    y = native.causal_conv(u[:1], k)  # and the pool still works
    print("stopped", y.shape, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(1)
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=60)
    finally:
        child.kill()
    assert out == "stopped (1, 4096, 256)\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_nothing_leaks():
    """A thousand calls, refused ones among them, hold no more memory than a hundred."""
    code = """
import sys, numpy as np
from refgss import native
from refgss.config import GSS
def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
lam, c = np.array([-1 + 1j] * 70, np.complex64), np.ones((40, 70), np.complex64)
u, kind = np.ones((1, 600, 40), np.float32), dict(delta=np.float32(1), form=GSS)
def calls(count):
    for _ in range(count):
        k = native.ssm_kernel(lam, c, 600, **kind)
        y, x = native.Prepared(lam, c, 600, **kind).scan(u, None)
        native.ssm_scan_vjp(u, lam, c, x, y, x, **kind)
        native.ConvStream(k, 1).push(u)
        try:
            native._core.causal_conv(u, k[:3])
        except ValueError:
            pass
calls(100)
before, references = held(), sys.getrefcount(u)
calls(1000)
assert sys.getrefcount(u) == references
assert held() - before < 2 << 20, held() - before
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_subnormals_count_inside_and_outside():
    one = np.ones((1, 1), np.float32)
    assert native.dense(one * np.float32(1e-40), one * np.float32(1e30), None)[0, 0] > 9e-11
    u, k = draw(10, 16)
    u[:], k[:] = 0, 0
    u[0, 0], k[:, 0] = 1e-30, 1e-12  # the product is subnormal
    assert native.causal_conv(u, k)[0, 0].all()
    assert tiny_after_a_call(u, k) > 0
    with ThreadPoolExecutor(1) as caller:
        assert caller.submit(tiny_after_a_call, u, k).result() > 0


def tiny_after_a_call(u, k):
    native.causal_conv(u, k)
    return np.float32(1e-45) * np.float32(1)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("REFGSS_SIMD", "sse9", "use baseline, avx2, avx512 or amx"),
        ("REFGSS_NUM_THREADS", "many", "use 1 to 1024"),
        ("REFGSS_NUM_THREADS", "0", "use 1 to 1024"),
    ],
)
def test_a_wrong_variable_is_named(name, value, sentence):
    done = run("import refgss.native", **{name: value})
    assert done.returncode != 0
    assert name in done.stderr and sentence in done.stderr


def test_threads_come_from_the_environment():
    done = run("from refgss import native; print(native.get_num_threads())", REFGSS_NUM_THREADS="3")
    assert done.stdout == "3\n"
    with pytest.raises(ValueError, match="between 1 and 1024"):
        native.set_num_threads(0)


# --- the ABI ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library():
    return abi.open_library()


def test_outputs_may_not_overlap(library):
    ffi, lib = library
    u, k = draw(8, 4)
    view, kernel = abi.view(ffi, u), abi.view(ffi, k)
    assert lib.refgss_causal_conv(view, kernel, view) == lib.REFGSS_ERROR_VALUE
    assert b"shares memory" in ffi.string(lib.refgss_last_error())
    y = abi.view(ffi, np.empty_like(u))
    y.stride[1] = 0
    assert lib.refgss_causal_conv(view, kernel, y) == lib.REFGSS_ERROR_VALUE
    assert b"overlap" in ffi.string(lib.refgss_last_error())


@pytest.mark.parametrize("length", [2**62, 2**31, -1])
def test_absurd_lengths_are_refused(library, length):
    ffi, lib = library
    zero = np.zeros(1, np.float32)
    k = abi.view(ffi, zero.reshape(1, 1))
    k.shape[1], k.stride[1] = length, 0  # one number, read again and again
    handle = ffi.new("refgss_conv_stream **")
    assert lib.refgss_conv_stream_new(k, 1, handle) == lib.REFGSS_ERROR_VALUE
    assert handle[0] == ffi.NULL


def test_null_is_refused(library):
    ffi, lib = library
    assert lib.refgss_causal_conv(ffi.NULL, ffi.NULL, ffi.NULL) == lib.REFGSS_ERROR_VALUE
    assert lib.refgss_spectrum_conv(ffi.NULL, ffi.NULL, ffi.NULL) == lib.REFGSS_ERROR_VALUE
    lib.refgss_spectrum_free(ffi.NULL)
    lib.refgss_conv_stream_free(ffi.NULL)


def stub(tmp_path, version):
    """A library with every function of the header, none of which does anything, of this version."""
    compiler = shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0])
    if compiler is None:
        pytest.skip("no C compiler here")
    names = re.findall(r"\b(refgss_\w+)\(", abi.declarations(HEADER))
    code = "".join(
        f"long {n}(void) {{ return {version * n.endswith('version')}; }}\n" for n in names
    )
    source, made = tmp_path / "stub.c", tmp_path / abi.LIBRARY
    source.write_text(code)
    subprocess.run([compiler, "-w", "-shared", "-fPIC", source, "-o", made], check=True)
    return made


def test_a_library_of_another_version_is_refused(tmp_path):
    """By the extension module, by cffi: one sentence with both versions."""
    made = stub(tmp_path, 1)
    (core,) = HEADER.parent.glob("_core.*")
    shutil.copy(core, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "import _core"], cwd=tmp_path, capture_output=True, text=True
    )
    said = done.stderr.splitlines()[-1]
    assert "version 1 of refgss.h, and refgss.native calls version 2" in said, done.stderr
    with pytest.raises(OSError, match=r"version 1 of refgss.h, and .* version 2: compile"):
        abi.open_library(made)


PROGRAM = r"""
#include <stdio.h>
#include "refgss.h"

int main(void) {
    float u[] = {1, 2, 3}, k[] = {1, 10, 100}, y[3];
    refgss_array signal = {u, REFGSS_F32, 3, {1, 3, 1}, {3, 1, 1}};
    refgss_array kernel = {k, REFGSS_F32, 2, {1, 3}, {3, 1}};
    refgss_array output = {y, REFGSS_F32, 3, {1, 3, 1}, {3, 1, 1}};
    if (refgss_abi_version() != REFGSS_ABI_VERSION) return 2;
    if (refgss_causal_conv(&signal, &kernel, &output) != REFGSS_OK) return 3;
    printf("%g %g %g\n", y[0], y[1], y[2]);
    return refgss_causal_conv(&signal, &kernel, &signal) == REFGSS_ERROR_VALUE ? 0 : 4;
}
"""


def test_plain_c(tmp_path):
    compiler = shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0])
    if compiler is None:
        pytest.skip("no C compiler here")
    source, program = tmp_path / "main.c", tmp_path / "main"
    source.write_text(PROGRAM)
    folder = HEADER.parent
    subprocess.run(
        [
            compiler,
            "-std=c99",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
            f"-I{folder}",
            source,
            folder / abi.LIBRARY,
            f"-Wl,-rpath,{folder}",
            "-o",
            program,
        ],
        check=True,
    )
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"1 12 123\n"


# --- sub-interpreters ---------------------------------------------------------------------------

IN_A_SUB_INTERPRETER = """
try:
    import _interpreters as sub
    made = sub.create("isolated" if {isolated} else "legacy")
except ImportError:
    import _xxsubinterpreters as sub
    made = sub.create(isolated={isolated})
if {before}:
    import refgss.native
sub.run_string(made, '''
try:
    import {module}
    print("works", flush=True)
except ImportError as e:
    print("refused:", e, flush=True)
''')
"""


@pytest.mark.skipif(sys.version_info < (3, 10), reason="no module for it")
@pytest.mark.parametrize("module", ["refgss.native", "refgss.native._core"])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("isolated", [False, True])
def test_a_sub_interpreter_is_refused_in_a_sentence(isolated, before, module):
    """Whether or not the main interpreter has the module; pybind11 would wait for ever."""
    done = run(IN_A_SUB_INTERPRETER.format(isolated=isolated, before=before, module=module))
    assert done.stdout.startswith("refused: "), done.stdout + done.stderr
