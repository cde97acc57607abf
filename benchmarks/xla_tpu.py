"""What the TPU compiler says, without a TPU: cost and memory of this backend and of pseudocode.

    python benchmarks/xla_tpu.py [--only kernel|layer|plans|depth|attention|rounding] [--quick]

Needs libtpu.  Each program is compiled ahead of time for one chip.  The compiler reports
operations, bytes moved and temporary memory beyond what fits on the chip, and estimates the cycles
of each instruction, summed here over the program, loops as often as they run.  Operations and bytes
are the compiler's, which counts a loop once: no ratios of them where a program loops (gate, chunk).
The pseudocode is in xla_pseudocode.py; all programs multiply matrices at full precision
(GSS-ACC-6), but for the dense maps of the plans that say precision=high.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from xla_pseudocode import gss_layer as transcribed_layer
from xla_pseudocode import kernel_and_convolution as transcribed

from refgss import xla
from refgss.config import GSS, PAPER, LMConfig, TransformerConfig
from refgss.layers import transformer
from refgss.xla import Plan

PLAN = xla.plan_for("tpu")
PARTS = ["kernel", "layer", "plans", "depth", "attention", "rounding"]


def kernel_and_convolution(plan: Plan) -> Callable:
    def f(lam, c, u):
        k = xla.ssm_kernel(lam, c, u.shape[1], delta=jnp.float32(1), form=GSS, plan=plan)
        return xla.causal_conv(u, k, plan=plan)

    return f


def gss(plan: Plan) -> Callable:
    return lambda p, x: xla.gss_layer(p, x, config=PAPER, plan=plan)[0]


def descended(p, g):
    return jax.tree.map(lambda p, g: p - 1e-3 * jnp.conj(g), p, g)


def train_step(layer: Callable) -> Callable:
    """Forward, backward and update."""

    def loss(p, x):
        y = layer(p, x)
        return (y * y).mean()

    return lambda p, x: descended(p, jax.grad(loss)(p, x))


def gss_parameters(E: int, F: int, H: int, N: int) -> dict[str, tuple]:
    return {
        "norm.weight": (E,), "norm.bias": (E,), "w_v": (E, F), "w_u": (E, H), "w_uc": (H, F),
        "w_o": (F, E), "ssm.a": (N,), "ssm.b": (N,), "ssm.c": (H, N), "ssm.d": (H,),
    }  # fmt: skip


def estimated_cycles(program: str) -> int:
    """The compiler's own estimates in the text of a compiled program, loops times their trips."""
    total: dict[str, int] = {}  # computations stand before those that call them
    bound: dict[str, int] = {}  # the constant in a loop's condition: counters begin at 0
    here = ""
    for line in program.splitlines():
        if start := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            here = start[1]
            total[here] = 0
        elif cycles := re.search(r'"estimated_cycles":"(\d+)"', line):
            total[here] += int(cycles[1])
        if constant := re.search(r" = s32\[\]\S* constant\((\d+)\)", line):
            bound[here] = int(constant[1])
        if loop := re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line):
            total[here] += bound[loop[1]] * total[loop[2]]
    return total[here]  # the entry is last


class Compiler:
    def __init__(self, topology: str):
        for name, value in {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": "v5litepod-4",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is used: there is none to quarrel about
        }.items():
            os.environ.setdefault(name, value)
        jax.config.update("jax_platforms", "cpu")
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
        self.on = SingleDeviceSharding(devices[0])

    def array(self, shape: tuple, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.on)

    def parameters(self, shapes: dict[str, tuple]) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            k: self.array(s, jnp.complex64 if k.endswith("ssm.c") else jnp.float32)
            for k, s in shapes.items()
        }

    def report(self, name: str, f: Callable, *arguments: Any) -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        with jax.default_matmul_precision("highest"):
            compiled = jax.jit(f).lower(*arguments).compile()
        cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
        row = {
            "M cycles": estimated_cycles(compiled.as_text()) / 1e6,
            "GFLOP": cost["flops"] / 1e9,
            "GB moved": cost["bytes accessed"] / 1e9,
            "MB temporary": memory.temp_size_in_bytes / 1e6,
            "s to compile": time.perf_counter() - wall,
            "CPU s": time.process_time() - cpu,
        }
        print(f"{name:42}" + "".join(f"{v:13.2f}" for v in row.values()), flush=True)
        return row


def header(first: str = "") -> None:
    columns = ["M cycles", "GFLOP", "GB moved", "MB temporary", "s to compile", "CPU s"]
    print(f"{first:42}" + "".join(f"{c:>13}" for c in columns))


def ratios(ours: dict[str, float], theirs: dict[str, float]) -> None:
    values = (f"{theirs[k] / ours[k]:13.2f}" if ours[k] else f"{'-':>13}" for k in ours)
    print(f"{'  ratio':42}" + "".join(values))


def rounding(rows: int = 512, width: int = 1024) -> None:
    """What precision=high costs a dense map: its three products of bfloat16, on this machine."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, max(rows, width), width), np.float32)
    x = x[:rows]

    def two(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """v = head + tail, both in bfloat16, up to what the tail drops."""
        head = v.astype(jnp.bfloat16).astype("f4")
        return head, (v - head).astype(jnp.bfloat16).astype("f4")

    (x0, x1), (w0, w1) = two(x), two(w)
    print(f"a dense map, {width} -> {width}, normal data: error, of the output's norm")
    for name, y, weight in (
        ("binary32", x @ w, w),
        ("precision=high", x0 @ w0 + (x0 @ w1 + x1 @ w0), w),
        ("precision=high, weights=bf16", x0 @ w0 + x1 @ w0, w0),
    ):
        truth = x.astype("f8") @ weight
        print(f"{name:42}{np.linalg.norm(y - truth) / np.linalg.norm(truth):13.1e}")


def attention(tpu: Compiler, B: int, L: int, E: int, F: int) -> None:
    """A transformer layer, and whether any array of its program has the square of the length."""
    for visible in ("chunk", "strict"):
        config = TransformerConfig(chunk=512, visible=visible)
        shapes = transformer.parameters(config, transformer.Sizes(E, E, F))
        p = tpu.parameters({k: t.shape for k, t in shapes.items()})
        layer = lambda p, x: xla.transformer_layer(p, x, config=config, plan=PLAN)[0]  # noqa: B023, E731
        tpu.report(f"transformer layer, {visible}", layer, p, tpu.array((B, L, E)))
        name = f"transformer train step, {visible}"
        tpu.report(name, train_step(layer), p, tpu.array((B, L, E)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument(
        "--only", choices=["kernel", "layer", "plans", "depth", "attention", "rounding"]
    )
    parser.add_argument("--quick", action="store_true", help="lengths divided by 8")
    options = parser.parse_args()
    if options.only in (None, "rounding"):
        rounding()
    if options.only == "rounding":
        return
    tpu = Compiler(options.topology)
    B, L, E, F, H, N = 2, 4096, 1024, 4096, 256, 512
    L //= 8 if options.quick else 1
    print(
        f"B={B} L={L} E={E} F={F} H={H} N={N}, one chip of {options.topology}, JAX", jax.__version__
    )
    header()

    x, u, c = tpu.array((B, L, E)), tpu.array((B, L, H)), tpu.array((H, N, 2))
    modes = tpu.array((N,), jnp.complex64), tpu.array((H, N), jnp.complex64)
    p = tpu.parameters(gss_parameters(E, F, H, N))
    if options.only in (None, "kernel"):
        ours = tpu.report("kernel + convolution", kernel_and_convolution(PLAN), *modes, u)
        real = tpu.array((N,))
        ratios(ours, tpu.report("  pseudocode", transcribed, real, real, c, u))
    if options.only in (None, "layer"):
        ours = tpu.report("GSS train step", train_step(gss(PLAN)), p, x)
        pseudo = train_step(transcribed_layer)
        theirs = tpu.report("  pseudocode", pseudo, p | {"ssm.c": c}, x)
        ratios(ours, theirs)
        thrifty = replace(PLAN, gate=1024)
        row = tpu.report("GSS train step, gate=1024", train_step(gss(thrifty)), p, x)
        ratios({k: 0 if k in ("GFLOP", "GB moved") else v for k, v in row.items()}, theirs)
    if options.only in (None, "plans"):
        plan = replace(PLAN, convolution="fft")
        tpu.report("kernel + convolution by FFT", kernel_and_convolution(plan), *modes, u)
        short = {"precision": "high", "weights": "bf16"}
        for change in (
            {"chunk": 512},
            {"weights": "bf16"},
            {"precision": "high"},
            short,
            {**short, "gate": 1024},
        ):
            name = ", ".join(f"{k}={v}" for k, v in change.items())
            tpu.report(f"GSS, {name}", train_step(gss(replace(PLAN, **change))), p, x)
    if options.only in (None, "attention"):
        attention(tpu, B, L, E, F)
    if options.only in (None, "depth"):
        config = LMConfig(PAPER, depth=16)
        layers = {
            f"layers.{i}.{k}": s
            for i in range(config.depth)
            for k, s in gss_parameters(E, F, H, N).items()
        }
        ends = {"embedding.weight": (256, E), "head.weight": (E, 256)}
        norm = {"norm.weight": (E,), "norm.bias": (E,)}
        model = tpu.parameters(layers | ends | norm)
        tokens = tpu.array((B, L), jnp.int32)

        def step(p, tokens, targets):
            loss = lambda p: xla.lm_loss(p, tokens, targets, config=config, plan=PLAN)  # noqa: E731
            return descended(p, jax.grad(loss)(p))

        tpu.report("16-layer language model, train step", step, model, tokens, tokens)


if __name__ == "__main__":
    main()
