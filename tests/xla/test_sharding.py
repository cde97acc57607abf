"""A sequence over eight devices or two processes: the same function, and only states travel."""

import math
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from refgss import config, xla

from .examples import complex_normal, layer_parameters, model_parameters, normal, worst

COLLECTIVE = re.compile(
    r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|"
    r"collective-broadcast)(?:-start)?\("
)
B, L, E, H, N = 2, 88, 8, 6, 5

eight = pytest.mark.skipif(len(jax.devices()) < 8, reason="JAX was started without eight devices")


def mesh(batch=1, length=8):
    return jax.make_mesh((batch, length), ("batch", "length"))


def shapes_moved(compiled):
    """The shape of every array that a collective of the compiled program returns."""
    found = []
    for line in compiled.as_text().splitlines():
        if match := COLLECTIVE.search(line):
            for shape in re.findall(r"\w+\[([\d,]*)\]", match[1]):
                found.append(tuple(int(n) for n in shape.split(",") if n))
    return found


def loss(f):
    def value(p, x, s):
        y, state = f(p, x, s)
        return (y**2).sum() + (abs(state) ** 2).sum()

    return value


@eight
@pytest.mark.parametrize("batch, length", [(1, 8), (2, 4)])
@pytest.mark.parametrize("cfg", [config.PAPER, config.DSSConfig()])
def test_a_layer_over_devices_is_the_layer(cfg, batch, length):
    rng = np.random.default_rng(0)
    p, x = layer_parameters(cfg), normal(rng, B, L, E)
    state = complex_normal(rng, B, *p["ssm.c"].shape)
    layer = xla.gss_layer if cfg is config.PAPER else xla.dss_layer
    sharded = xla.sequence_parallel(
        mesh(batch, length), config=cfg, batch_axis="batch", length_axis="length"
    )
    for s in (None, state):
        y, end = jax.jit(sharded)(p, x, s)
        y1, end1 = layer(p, x, s, config=cfg)
        assert worst(y, y1) < 2.0**-19 and worst(end, end1) < 2.0**-19
    got = jax.jit(jax.grad(loss(sharded), argnums=(0, 1, 2)))(p, x, state)
    want = jax.grad(loss(lambda *a: layer(*a, config=cfg)), argnums=(0, 1, 2))(p, x, state)
    assert max(jax.tree.leaves(jax.tree.map(worst, got, want))) < 2.0**-17


@eight
def test_only_states_travel():
    p, x = layer_parameters(config.PAPER), np.zeros((B, L, E), np.float32)
    f = jax.jit(xla.sequence_parallel(mesh(), config=config.PAPER, length_axis="length"))
    moved = shapes_moved(f.lower(p, x).compile())
    assert moved and all(shape == (8, B, H, N) for shape in moved), moved


@eight
def test_only_states_and_gradients_of_parameters_travel_backwards():
    p, x = layer_parameters(config.PAPER), np.zeros((B, L, E), np.float32)
    f = xla.sequence_parallel(mesh(), config=config.PAPER, length_axis="length")
    g = jax.jit(jax.grad(lambda p: (f(p, x)[0] ** 2).sum()))
    moved = shapes_moved(g.lower(p).compile())
    states = {(8, B, H, N), (1, B, H, N), (B, H, N)}
    parameters = {v.shape for v in p.values()} | {(*v.shape, 2) for v in p.values()}
    assert moved and set(moved) <= states | parameters, moved
    assert max(math.prod(s) for s in moved) < B * L * E  # nothing as large as the sequence


@eight
def test_the_collectives_that_this_looks_for_exist():
    """A program that does move the sequence is caught."""
    spec = jax.sharding.PartitionSpec
    m = jax.sharding.Mesh(jax.devices(), ("length",))
    here, everywhere = (jax.sharding.NamedSharding(m, s) for s in (spec(None, "length"), spec()))
    f = jax.jit(lambda x: 2 * x, in_shardings=here, out_shardings=everywhere)
    assert (B, L, E) in shapes_moved(f.lower(np.zeros((B, L, E), np.float32)).compile())


@eight
def test_a_language_model_over_devices():
    cfg = config.LMConfig(config.PAPER, depth=2)
    p, tokens = model_parameters(cfg), np.arange(B * L).reshape(B, L) % 7
    f = xla.sequence_parallel(mesh(2, 4), config=cfg, batch_axis="batch", length_axis="length")
    logits, state = jax.jit(f)(p, tokens)
    logits1, state1 = xla.lm_logits(p, tokens, config=cfg)
    assert worst(logits, logits1) < 2.0**-18 and worst(state, state1) < 2.0**-18


@eight
def test_what_does_not_fit_the_mesh():
    p = layer_parameters(config.PAPER)
    f = xla.sequence_parallel(mesh(), config=config.PAPER, length_axis="length")
    with pytest.raises(ValueError, match="L = 90 is not divisible by the 8 devices along 'length'"):
        f(p, np.zeros((B, 90, E), np.float32))
    with pytest.raises(ValueError, match="and no 'time'"):
        xla.sequence_parallel(mesh(), config=config.PAPER, length_axis="time")


def test_two_processes():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    script = Path(__file__).with_name("two_processes.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(i), str(port)],
            cwd=script.parents[2],
            env={"PATH": "", "PYTHONPATH": str(script.parents[2]), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=150)
            assert process.returncode == 0 and "agrees" in output, output
    finally:
        for process in processes:
            process.kill()
