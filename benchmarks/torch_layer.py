"""A GSS layer forward and backward on a CPU: refgss.torch beside plain PyTorch.

    python benchmarks/torch_layer.py [--threads N ...]

Plain PyTorch is the layer as one writes it with torch.fft, its kernel computed as in
gated-state-spaces-pytorch.  The sides take turns, and each figure is the median of its turns: of
the wall clock, and of the processor time, which other programs disturb less.
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional

from refgss import native
from refgss.config import PAPER
from refgss.torch import GSS

SIZES = {  # name: (length, sizes)
    "small": (4096, {"width": 128, "gate": 512, "channels": 128, "states": 64}),
    "middle": (2048, {"width": 256, "gate": 512, "channels": 256, "states": 256}),
    "paper": (4096, {"width": 1024, "gate": 4096, "channels": 256, "states": 512}),
}


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


def medians(sides, seconds):
    """Of each side, (wall clock, processor time)."""
    turns = {name: [] for name in sides}
    for side in sides.values():
        side()
    began = time.perf_counter()
    while time.perf_counter() - began < seconds * len(sides) or len(turns[next(iter(sides))]) < 3:
        for name, side in sides.items():
            start = time.perf_counter(), time.process_time()
            side()
            turns[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return {
        name: [statistics.median(t) for t in zip(*own, strict=True)] for name, own in turns.items()
    }


def sides_of(length, sizes):
    torch.manual_seed(0)
    layer, x = GSS(**sizes, memory=1000), torch.randn(1, length, sizes["width"])
    x.requires_grad_()

    def backward(y):
        y.square().mean().backward()
        layer.zero_grad()

    return {
        "refgss.torch": lambda: backward(layer(x)[0]),
        "PyTorch": lambda: backward(plain(layer.params(), x)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=5.0, help="a side")
    options = parser.parse_args()
    print(f"PyTorch {torch.__version__}, refgss with {native.simd()}")
    for threads in options.threads:
        torch.set_num_threads(threads)
        native.set_num_threads(threads)
        for name, (length, sizes) in SIZES.items():
            found = medians(sides_of(length, sizes), options.seconds)
            wall, busy = (
                p / r for p, r in zip(found["PyTorch"], found["refgss.torch"], strict=True)
            )
            times = ", ".join(f"{side} {t[0] * 1000:.0f} ms" for side, t in found.items())
            print(f"{threads} threads, {name}: {times}: {wall:.2f} times faster, ", end="")
            print(f"{busy:.2f} by processor time", flush=True)


if __name__ == "__main__":
    main()
