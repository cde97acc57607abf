"""A GSS layer forward and backward on a CPU: refgss.torch beside plain PyTorch.

    python benchmarks/torch_layer.py [--threads N ...]

Plain PyTorch is the layer as one writes it with torch.fft, its kernel computed as in
gated-state-spaces-pytorch; and the same under torch.compile.  The sides take turns, and each
figure is the median of its turns.
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional

from refgss.config import PAPER
from refgss.torch import GSS

SIZES = {"width": 512, "gate": 2048, "channels": 128, "states": 256}
BATCH, LENGTH = 2, 1024


def plain(p, x):
    """(B,L,E) -> (B,L,E)."""
    length = x.shape[1]
    h = functional.layer_norm(x, x.shape[-1:], p["norm.weight"], p["norm.bias"], PAPER.eps)
    v, u = functional.gelu(h @ p["w_v"]), functional.gelu(h @ p["w_u"])
    lam = torch.complex(-p["ssm.a"].exp(), p["ssm.b"].exp())
    powers = (lam[:, None] * torch.arange(length)).exp()
    k = ((p["ssm.c"] * (lam.exp() - 1) / lam) @ powers).real  # (H,L)
    spectrum = torch.fft.rfft(u.mT, 2 * length) * torch.fft.rfft(k, 2 * length)
    s = torch.fft.irfft(spectrum, 2 * length)[..., :length].mT
    return (((s + p["ssm.d"] * u) @ p["w_uc"]) * v) @ p["w_o"] + x


def seconds(step, turns, budget):
    """The times of calls that take turns with others."""
    began = time.perf_counter()
    step()
    turns.append(time.perf_counter() - began)
    return budget - turns[-1]


def measured(sides, budget):
    turns = {name: [] for name in sides}
    for step in sides.values():
        step()
    left = budget * len(sides)
    while left > 0 or min(map(len, turns.values())) < 5:
        for name, step in sides.items():
            left = seconds(step, turns[name], left)
    return {name: statistics.median(times) for name, times in turns.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=10.0, help="a side")
    options = parser.parse_args()
    torch.manual_seed(0)
    layer, x = GSS(**SIZES, memory=1000), torch.randn(BATCH, LENGTH, SIZES["width"])
    x.requires_grad_()
    compiled = torch.compile(plain)  # of complex numbers Inductor makes calls, not code

    def backward(y):
        y.square().mean().backward()
        layer.zero_grad()

    sides = {
        "refgss.torch": lambda: backward(layer(x)[0]),
        "PyTorch": lambda: backward(plain(layer.params(), x)),
        "PyTorch, compiled": lambda: backward(compiled(layer.params(), x)),
    }
    difference = (layer(x)[0] - plain(layer.params(), x)).abs().max().item()
    print(f"PyTorch {torch.__version__}; batch {BATCH}, length {LENGTH}, {SIZES}")
    print(f"largest difference of an output: {difference:.1e}")
    for threads in options.threads:
        torch.set_num_threads(threads)
        from refgss import native

        native.set_num_threads(threads)
        times = measured(sides, options.seconds)
        ours = times["refgss.torch"]
        for name, t in times.items():
            print(f"{threads} threads  {name:18} {t * 1000:8.1f} ms  {t / ours:5.2f} times", flush=True)


if __name__ == "__main__":
    main()
