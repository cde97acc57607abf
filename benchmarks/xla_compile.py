"""Compile time of a language model's train step: loss, gradient, AdamW; layers under one scan.

python benchmarks/xla_compile.py [--depth 16] [--kernels native xla]
"""

import argparse
import os
import time

import jax
import jax.numpy as jnp
import optax

from refgss import xla
from refgss.config import PAPER, LMConfig
from refgss.conformance.vectors.cases import Draw, model_params


def parameters(config, v, e, f, h, n):
    p = model_params(Draw("compile"), config, v, e, f, h, n)
    return {
        k: jnp.asarray(x[..., 0] + 1j * x[..., 1] if k.endswith("ssm.c") else x)
        for k, x in p.items()
    }


def train_step(config, plan, optimizer):
    def loss(params, tokens):
        return xla.lm_loss(params, tokens[:, :-1], tokens[:, 1:], config=config, plan=plan)

    def step(params, state, tokens):
        value, g = jax.value_and_grad(loss)(params, tokens)
        g = jax.tree.map(jnp.conj, g)  # JAX's gradient of a complex parameter is the conjugate
        updates, state = optimizer.update(g, state, params)
        return optax.apply_updates(params, updates), state, value

    return jax.jit(step, donate_argnums=(0, 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument(
        "--kernels", nargs="+", choices=("native", "xla"), default=["native", "xla"]
    )
    options = parser.parse_args()
    config = LMConfig(PAPER, depth=options.depth)
    params = parameters(config, 256, 256, 1024, 64, 64)
    optimizer = optax.adamw(1e-3)
    state = optimizer.init(params)
    tokens = jnp.zeros((4, 513), jnp.int32)
    count = sum(x.size for x in params.values())
    print(
        f"jax {jax.__version__}, {os.cpu_count()} processors; {options.depth} layers, E=256 F=1024"
    )
    print(f"H=64 N=64, {count / 1e6:.1f} M parameters in {len(params)} arrays, tokens (4,512)")
    for kernels in options.kernels:
        step = train_step(config, xla.Plan(cpu_kernels=kernels), optimizer)
        start = time.perf_counter()
        lowered = step.lower(params, state, tokens)
        traced = time.perf_counter()
        lowered.compile()
        done = time.perf_counter()
        print(f"  {kernels:8} trace {traced - start:5.1f} s   compile {done - traced:5.1f} s")


if __name__ == "__main__":
    main()
