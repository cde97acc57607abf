"""The paper's headline in miniature: a train step of GSS against DSS with as many parameters.

    python benchmarks/xla_headline.py [--on cpu|tpu] [--size small|paper] [--repeats 5]

DSS runs over the full width E, so it takes several DSS layers to have the parameters of one GSS
layer.  One layer of each kind is measured, in turns, or compiled for a TPU (xla_tpu.py), and DSS is
scaled to equal parameters.  The paper says that GSS trains 2-3 times faster on TPUs.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from xla_tpu import Compiler, gss, gss_parameters, header, train_step

from refgss import xla
from refgss.config import DSSConfig
from refgss.xla import Plan

SIZES = {
    "small": {"B": 2, "L": 1024, "E": 256, "F": 1024, "H": 64, "N": 128},
    "paper": {"B": 2, "L": 4096, "E": 1024, "F": 4096, "H": 256, "N": 512},
}


def dss_parameters(E: int, N: int) -> dict[str, tuple]:
    return {
        "norm.weight": (E,), "norm.bias": (E,), "ssm.a": (N,), "ssm.b": (N,), "ssm.c": (E, N),
        "ssm.d": (E,), "ssm.log_delta": (E, 2), "w_o": (E, E), "b_o": (E,),
    }  # fmt: skip


def dss(plan: Plan) -> Callable:
    return lambda p, x: xla.dss_layer(p, x, config=DSSConfig(), plan=plan)[0]


def count(shapes: dict[str, tuple]) -> int:
    """Real numbers."""
    return sum(math.prod(s) * (2 if k == "ssm.c" else 1) for k, s in shapes.items())


def drawn(shapes: dict[str, tuple]) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    p = {k: rng.standard_normal(s) / math.sqrt(s[0]) for k, s in shapes.items()}
    p["ssm.c"] = p["ssm.c"] * (1 + 1j)
    if "ssm.log_delta" in p:
        p["ssm.log_delta"] = p["ssm.log_delta"] - 5
    return {k: jnp.asarray(v, "complex64" if k == "ssm.c" else "float32") for k, v in p.items()}


def seconds(steps: list[Callable], repeats: int) -> list[float]:
    """The median of each, in turns."""
    times: list[list[float]] = [[] for _ in steps]
    for i in range(repeats + 1):
        for step, taken in zip(steps, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(step())
            if i:  # the first call compiles
                taken.append(time.perf_counter() - start)
    return [statistics.median(t) for t in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", choices=["cpu", "tpu"], default="cpu")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    size = SIZES[options.size]
    B, L, E, F, H, N = size.values()
    shapes = gss_parameters(E, F, H, N), dss_parameters(E, N)
    depth = count(shapes[0]) / count(shapes[1])
    print(", ".join(f"{k}={v}" for k, v in size.items()), "f32, JAX", jax.__version__)
    print(f"{depth:.2f} DSS layers have the parameters of one GSS layer, and send")
    print(f"{depth * E / H:.0f} times as many channels through kernel and convolution.")

    if options.on == "tpu":
        tpu = Compiler("v5e:2x2")
        plan = xla.plan_for("tpu")
        header()
        p, q = (tpu.parameters(s) for s in shapes)
        x = tpu.array((B, L, E))
        ours = tpu.report("GSS train step, one layer", train_step(gss(plan)), p, x)
        theirs = tpu.report("DSS train step, one layer", train_step(dss(plan)), q, x)
        scaled = (f"{depth * theirs[k] / ours[k]:13.2f}" for k in list(ours)[:3])
        print(f"{'  ratio at equal parameters':42}" + "".join(scaled))
        return
    p, q = map(drawn, shapes)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((B, L, E)), "float32")
    print(f"{'':42}{'GSS, ms':>13}{'DSS, ms':>13}{'ratio':>13}")
    kernels = ["xla"] + (["native"] if xla.ffi.obstacle() is None else [])
    for name in kernels:
        plan = Plan(cpu_kernels=name)
        ours, theirs = (jax.jit(train_step(layer(plan))) for layer in (gss, dss))
        a, b = seconds([lambda f=ours: f(p, x), lambda f=theirs: f(q, x)], options.repeats)
        print(
            f"{'train step, cpu_kernels=' + name:42}{a * 1e3:13.1f}{depth * b * 1e3:13.1f}"
            f"{depth * b / a:13.2f}"
        )


if __name__ == "__main__":
    main()
