"""What bounds the native backend: memory for a million tokens, bandwidth of a step, odd lengths.

python benchmarks/limits.py
"""

import resource
import subprocess
import sys
import time

import numpy as np

from refgss import native
from refgss.children import python
from refgss.config import GSS

TOKENS, CHANNELS, STATES = 1 << 20, 16, 64
KIND = {"delta": np.float32(1), "form": GSS}


def mebibytes() -> float:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def parameters(rng: np.random.Generator, h: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = rng.standard_normal((2, n), np.float32)
    c = rng.standard_normal((h, n), np.float32) + 1j * rng.standard_normal((h, n), np.float32)
    return native.gss_lambda(a, b, imag="exp"), c


def convolution() -> None:
    rng = np.random.default_rng(0)
    u = rng.standard_normal((1, TOKENS, CHANNELS), np.float32)
    k = rng.standard_normal((CHANNELS, TOKENS), np.float32)
    before = mebibytes()
    y = native.causal_conv(u, k)
    print(f"convolution of {TOKENS} tokens, H={CHANNELS}: {mebibytes() - before:.0f} MiB")
    print(f"  of which the output is {y.nbytes / (1 << 20):.0f}, and inputs are as large each")


def scan() -> None:
    rng = np.random.default_rng(0)
    u = rng.standard_normal((1, TOKENS, CHANNELS), np.float32)
    lam, c = parameters(rng, CHANNELS, STATES)
    before = mebibytes()
    y, _ = native.ssm_scan(u, lam, c, None, **KIND)
    print(f"scan of {TOKENS} tokens in one call, H={CHANNELS}: {mebibytes() - before:.0f} MiB")
    print(f"  of which the output is {y.nbytes / (1 << 20):.0f}")


def stream() -> None:
    rng = np.random.default_rng(0)
    lam, c = parameters(rng, CHANNELS, STATES)
    before, state = mebibytes(), None
    prepared = native.Prepared(lam, c, 4096, **KIND)
    for _ in range(TOKENS // 4096):
        _, state = prepared.scan(rng.standard_normal((1, 4096, CHANNELS), np.float32), state)
    print(f"scan of {TOKENS} tokens in pieces of 4096: {mebibytes() - before:.1f} MiB")


def bandwidth() -> None:
    """24 H N bytes: the state read and written, C̃ read."""
    rng, h, n = np.random.default_rng(0), 256, 512
    for batch in (1, 64):
        lam, c = parameters(rng, h, n)
        state, u = np.repeat(c[None], batch, 0), rng.standard_normal((batch, h), np.float32)
        prepared = native.Prepared(lam, c, 0, **KIND)
        large = np.ones(1 << 26, np.float32)
        other = np.empty_like(large)
        step, copy = [], []
        for _ in range(30):
            t0 = time.perf_counter()
            prepared.advance(u[:, None], state)
            t1 = time.perf_counter()
            np.copyto(other, large)
            step.append(t1 - t0)
            copy.append(time.perf_counter() - t1)
        moved = (16 * batch + 8) * h * n / np.median(step) / 1e9
        memory = 2 * large.nbytes / np.median(copy) / 1e9
        print(f"step, B={batch} H={h} N={n}: {moved:.0f} GB/s; a copy in memory {memory:.0f} GB/s")


def lengths() -> None:
    """Odd and prime lengths beside the next power of two."""
    rng, h = np.random.default_rng(0), 256
    for odd, even in ((4093, 4096), (65521, 65536)):
        u = rng.standard_normal((1, even, h), np.float32)
        k = rng.standard_normal((h, even), np.float32)
        times: dict[int, list[float]] = {odd: [], even: []}
        for _ in range(9):
            for length, taken in times.items():
                ul, kl = u[:, :length], k[:, :length]
                start = time.perf_counter()
                native.causal_conv(ul, kl)
                taken.append(time.perf_counter() - start)
        ratio = np.median(times[odd]) / np.median(times[even])
        print(f"convolution of {odd} steps: {ratio:.2f} times that of {even}")


TASKS = {f.__name__: f for f in (convolution, scan, stream, bandwidth, lengths)}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        TASKS[sys.argv[1]]()
    else:  # a process each: a peak never falls
        for name in TASKS:
            subprocess.run(python(__file__, name), check=True)
