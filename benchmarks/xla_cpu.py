"""JAX on a CPU: a layer forward and backward, with the native kernels inside jit and without.

    python benchmarks/xla_cpu.py [--rounds 5] [--size small | paper] [--layer gss | attention]

Both programs are compiled first and then run in turn, so that the machine's moods meet both.
"""

import argparse
import itertools
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from refgss import native, xla
from refgss.config import PAPER, LayerConfig, TransformerConfig
from refgss.conformance.vectors.cases import Draw, layer_params
from refgss.layers import transformer

SIZES = {
    "small": {"e": 256, "f": 1024, "h": 64, "n": 64, "length": 1024, "batch": 8},
    "paper": {"e": 1024, "f": 4096, "h": 256, "n": 512, "length": 4096, "batch": 1},
}
PLANS = {kernels: xla.Plan(cpu_kernels=kernels) for kernels in ("native", "xla")}


LAYERS: dict[str, LayerConfig] = {"gss": PAPER, "attention": TransformerConfig()}  # chunks of 512


def parameters(layer, e, f, h, n):
    if layer == "attention":
        shapes = transformer.parameters(LAYERS[layer], transformer.Sizes(e, e, f))
        rng = np.random.default_rng(0)
        return {
            k: jnp.asarray(rng.standard_normal(t.shape) / t.shape[0] ** 0.5, jnp.float32)
            for k, t in shapes.items()
        }
    p = layer_params(Draw("benchmark"), PAPER, e, f, h, n)
    c = p["ssm.c"][..., 0] + 1j * p["ssm.c"][..., 1]
    return {k: jnp.asarray(x) for k, x in (p | {"ssm.c": c}).items()}


def steps(layer, params, x):
    """The forward pass, and it with the gradient of a loss, under each plan."""
    op = {"gss": xla.gss_layer, "attention": xla.transformer_layer}[layer]
    for name, plan in PLANS.items():
        forward = jax.jit(lambda p, x, plan=plan: op(p, x, config=LAYERS[layer], plan=plan)[0])
        both = jax.jit(jax.value_and_grad(lambda p, x, f=forward: (f(p, x) ** 2).sum(), (0, 1)))
        yield "forward", name, lambda f=forward: f(params, x)
        yield "forward + backward", name, lambda f=both: f(params, x)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", choices=SIZES, action="append")
    parser.add_argument("--layer", choices=LAYERS, action="append")
    options = parser.parse_args()
    print(f"jax {jax.__version__}, refgss.native {native.simd()}, {os.cpu_count()} processors, f32")
    for layer, size in itertools.product(options.layer or LAYERS, options.size or SIZES):
        dims = SIZES[size]
        e, f, h, n, length, batch = dims.values()
        x = np.random.default_rng(0).standard_normal((batch, length, e)).astype(np.float32)
        works = list(steps(layer, parameters(layer, e, f, h, n), jnp.asarray(x)))
        times: dict = {(work, name): [] for work, name, _ in works}
        for round in range(options.rounds + 1):
            for work, name, run in works:
                start = time.perf_counter()
                jax.block_until_ready(run())
                if round:  # the first compiles
                    times[work, name].append(time.perf_counter() - start)
        print(f"\n{layer}, {size}: " + " ".join(f"{k}={v}" for k, v in dims.items()))
        for work in dict.fromkeys(work for work, _, _ in works):
            ours, plain = (statistics.median(times[work, name]) * 1e3 for name in PLANS)
            print(f"  {work:20} native {ours:8.1f} ms   XLA {plain:8.1f} ms   {plain / ours:.2f}")


if __name__ == "__main__":
    main()
