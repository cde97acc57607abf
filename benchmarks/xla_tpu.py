"""What the TPU compiler says, without a TPU: cost and memory of this backend and of pseudocode.

    python benchmarks/xla_tpu.py [--only kernel|layer|headline] [--topology v5e:2x2] [--quick]

Needs libtpu.  Each program is compiled ahead of time for one chip; the compiler reports operations,
bytes moved and temporary memory (it estimates no time ahead of time).  The pseudocode is in
xla_pseudocode.py; the paper's headline is GSS against DSS at equal parameter counts, DSS over the
full width.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from xla_pseudocode import gss_layer as transcribed_layer
from xla_pseudocode import kernel_and_convolution as transcribed

from refgss import xla
from refgss.config import GSS, PAPER, DSSConfig

PLAN = xla.plan_for("tpu")


def ours(lam, c, u):
    k = xla.ssm_kernel(lam, c, u.shape[1], delta=jnp.float32(1), form=GSS)
    return xla.causal_conv(u, k, plan=PLAN)


def train_step(layer: Callable) -> Callable:
    def loss(p, x):
        y = layer(p, x)
        return (y * y).mean()

    def step(p, x):
        g = jax.grad(loss)(p, x)
        return jax.tree.map(lambda p, g: p - 1e-3 * jnp.conj(g), p, g)

    return step


def gss_parameters(E: int, F: int, H: int, N: int) -> dict[str, tuple]:
    return {
        "norm.weight": (E,), "norm.bias": (E,), "w_v": (E, F), "w_u": (E, H), "w_uc": (H, F),
        "w_o": (F, E), "ssm.a": (N,), "ssm.b": (N,), "ssm.c": (H, N), "ssm.d": (H,),
    }  # fmt: skip


def dss_parameters(E: int, N: int) -> dict[str, tuple]:
    return {
        "norm.weight": (E,), "norm.bias": (E,), "ssm.a": (N,), "ssm.b": (N,), "ssm.c": (E, N),
        "ssm.d": (E,), "ssm.log_delta": (E, 2), "w_o": (E, E), "b_o": (E,),
    }  # fmt: skip


def shapes(E: int, F: int, H: int, N: int) -> dict[str, dict[str, tuple]]:
    return {"gss": gss_parameters(E, F, H, N), "dss": dss_parameters(E, N)}


class Compiler:
    def __init__(self, topology: str):
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
        self.on = SingleDeviceSharding(devices[0])

    def array(self, shape: tuple, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.on)

    def parameters(self, shapes: dict[str, tuple]) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            k: self.array(s, jnp.complex64 if k == "ssm.c" else jnp.float32)
            for k, s in shapes.items()
        }

    def report(self, name: str, f: Callable, *arguments: Any) -> dict[str, float]:
        start = time.perf_counter()
        compiled = jax.jit(f).lower(*arguments).compile()
        seconds = time.perf_counter() - start
        cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
        row = {
            "GFLOP": cost["flops"] / 1e9,
            "GB moved": cost["bytes accessed"] / 1e9,
            "MB temporary": memory.temp_size_in_bytes / 1e6,
            "s to compile": seconds,
        }
        print(f"{name:38}" + "".join(f"{v:14.2f}" for v in row.values()), flush=True)
        return row


def ratios(rows: list[dict[str, float]]) -> None:
    print(
        f"{'  ratio':38}" + "".join(f"{rows[1][k] / max(rows[0][k], 1e-9):14.2f}" for k in rows[0])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--only", choices=["kernel", "layer", "headline"])
    parser.add_argument("--quick", action="store_true", help="lengths divided by 8")
    options = parser.parse_args()
    tpu = Compiler(options.topology)
    B, L, E, F, H, N = 2, 4096, 1024, 4096, 256, 512
    L //= 8 if options.quick else 1
    columns = ["GFLOP", "GB moved", "MB temporary", "s to compile"]
    print(
        f"B={B} L={L} E={E} F={F} H={H} N={N}, one chip of {options.topology}, JAX", jax.__version__
    )
    print(f"{'':38}" + "".join(f"{c:>14}" for c in columns))

    x = tpu.array((B, L, E))
    gss = tpu.parameters(gss_parameters(E, F, H, N))
    step = train_step(lambda p, x: xla.gss_layer(p, x, config=PAPER, plan=PLAN)[0])
    if options.only in (None, "kernel"):
        modes = tpu.array((N,), jnp.complex64), tpu.array((H, N), jnp.complex64)
        u, real = tpu.array((B, L, H)), tpu.array((N,))
        rows = [
            tpu.report("kernel + convolution, this backend", ours, *modes, u),
            tpu.report(
                "kernel + convolution, pseudocode",
                transcribed,
                real,
                real,
                tpu.array((H, N, 2)),
                u,
            ),
        ]
        ratios(rows)
    if options.only in (None, "layer"):
        pseudo = {k: v for k, v in gss.items() if k != "ssm.c"} | {"ssm.c": tpu.array((H, N, 2))}
        rows = [
            tpu.report("GSS train step, this backend", step, gss, x),
            tpu.report("GSS train step, pseudocode", train_step(transcribed_layer), pseudo, x),
        ]
        ratios(rows)
    if options.only in (None, "headline"):
        # as many DSS layers as have one GSS layer's parameters: each is E² + 2EN and a little
        count = {k: sum(map(math.prod, f.values())) for k, f in shapes(E, F, H, N).items()}
        depth = round(count["gss"] / count["dss"])
        dss = [tpu.parameters(dss_parameters(E, N)) for _ in range(depth)]

        def stack(p, x):
            for layer in p:
                x, _ = xla.dss_layer(layer, x, config=DSSConfig(), plan=PLAN)
            return x

        rows = [
            tpu.report("GSS train step", step, gss, x),
            tpu.report(f"DSS train step, {depth} layers", train_step(stack), dss, x),
        ]
        ratios(rows)


if __name__ == "__main__":
    main()
