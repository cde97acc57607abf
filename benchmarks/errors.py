"""Errors in binary32 over 65536 steps of slow and fast modes: this backend and its rivals.

    python benchmarks/errors.py [LENGTH]

Largest error over the largest value, against binary64: of the kernel, of the convolution with one
and the same kernel, and of both in a row, as a layer does them.
"""

import sys
from importlib.util import find_spec

import numpy as np

from refgss.bench import native, works
from refgss.bench.rivals import RIVALS
from refgss.reference.kernel import kernel_at

LENGTH = int(sys.argv[1]) if len(sys.argv) > 1 else 65536
CHANNELS = 8


def exact_kernel(d):
    """(H,L) in binary64; at most 4096 steps at once."""
    lam, c = d["lam"].astype(complex), d["c"].astype(complex)
    steps = np.array_split(np.arange(LENGTH), -(-LENGTH // 4096))
    return np.concatenate([kernel_at(lam, c, some, np.float64(1), works.GSS) for some in steps], 1)


def exact_conv(u, k):
    spectra = [np.fft.rfft(x.astype(float), 2 * LENGTH, axis=1) for x in (u, k.T[None])]
    return np.fft.irfft(spectra[0] * spectra[1], 2 * LENGTH, axis=1)[:, :LENGTH]


def error(y, wanted):
    return np.abs(np.asarray(y) - wanted).max() / np.abs(wanted).max()


def main() -> None:
    data = works.kernel_data({"H": CHANNELS, "N": 128, "L": LENGTH, "modes": "slow"})
    u = works.normal(np.random.default_rng(1), 1, LENGTH, CHANNELS)
    k = exact_kernel(data)
    one = k.astype(np.float32)
    players = {"refgss": native} | {n: player() for n, player in RIVALS.items() if find_spec(n)}
    for player in players.values():
        player.start(1)
    pairs = {name: (player, player) for name, player in players.items() if name != "scipy"}
    pairs["numpy, scipy"] = pairs.pop("numpy")[0], players["scipy"]
    print(f"{LENGTH} steps, {'kernel':>20} {'convolution':>12} {'both':>9}")
    for name, (first, second) in pairs.items():
        made = np.asarray(first.kernel(data)())
        alone = second.conv({"u": u, "k": one})()
        both = second.conv({"u": u, "k": np.ascontiguousarray(made, np.float32)})()
        errors = error(made, k), error(alone, exact_conv(u, one)), error(both, exact_conv(u, k))
        print(f"{name:25} {errors[0]:10.1e} {errors[1]:12.1e} {errors[2]:9.1e}", flush=True)


if __name__ == "__main__":
    main()
