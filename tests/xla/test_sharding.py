"""A sequence over eight devices or two processes: within the budgets, and only states travel."""

import math
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from refgss import config, xla
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging.runner import Question, ask
from refgss.conformance.vectors.format import read_vectors
from refgss.standard import spec_folder

from .collectives import shapes_moved
from .examples import certified_layer, layer_parameters, normal

B, L, E, H, N = 2, 88, 8, 6, 5

pytestmark = pytest.mark.skipif(
    len(jax.devices()) < 8, reason="JAX was started without eight devices"
)


def mesh(batch, length):
    devices = np.array(jax.devices()[: batch * length]).reshape(batch, length)
    return jax.sharding.Mesh(devices, ("batch", "length"))


class OverDevices:
    """Layers, models and a layer's gradient over a mesh: a candidate for the vectors."""

    def __init__(self, mesh):
        self.mesh = mesh

    def of(self, config):
        return xla.sequence_parallel(
            self.mesh, config=config, batch_axis="batch", length_axis="length"
        )

    def gss_layer(self, params, x, state=None, *, config):
        return jax.jit(self.of(config))(params, x, state)

    dss_layer = lm_logits = gss_layer

    def gss_layer_vjp(self, params, x, state, dout, dstate, *, config):
        @jax.jit
        def gradients(primals, cotangents):
            return jax.vjp(self.of(config), *primals)[1](cotangents)

        found = gradients((params, x, state), (dout, np.conj(dstate)))
        return jax.tree.map(np.conj, found)  # JAX's cotangents are conjugates (GSS-GRD-1)


def judge(vector, batch, length):
    line = ask(ModuleCandidate(OverDevices(mesh(batch, length))), Question(vector, "f32"))
    assert line["outcome"] == "pass", line


@pytest.mark.parametrize(
    "id, batch, length",
    [
        ("gss_layer/paper-random", 2, 4),
        ("gss_layer/gss-pytorch-random", 2, 1),  # data parallel
        ("gss_layer_vjp/paper-slow", 2, 4),
        ("gss_layer_vjp/paper-random", 2, 1),
        ("dss_layer/dss-exp-slow", 2, 4),
        ("lm_logits/paper", 2, 3),
    ],
)
def test_over_devices_within_the_budget(id, batch, length):
    shipped = {v.id: v for v in read_vectors(spec_folder() / "vectors").vectors}
    judge(shipped[id], batch, length)


@pytest.mark.parametrize("op", ["gss_layer", "gss_layer_vjp"])
def test_one_sequence_over_all_eight_devices_within_the_budget(op):
    judge(certified_layer(op, 16), 1, 8)


def shapes_moved_by(f, *arguments):
    return shapes_moved(jax.jit(f).lower(*arguments).compile())


def layer_over(batch, length):
    return xla.sequence_parallel(
        mesh(batch, length), config=config.PAPER, batch_axis="batch", length_axis="length"
    )


def test_only_states_travel():
    p, x = layer_parameters(config.PAPER), np.zeros((B, L, E), np.float32)
    moved = shapes_moved_by(layer_over(1, 8), p, x)
    assert moved and all(shape == (8, B, H, N) for shape in moved), moved


def test_only_states_and_gradients_of_parameters_travel_backwards():
    p, x = layer_parameters(config.PAPER), np.zeros((B, L, E), np.float32)
    f = layer_over(1, 8)
    moved = shapes_moved_by(jax.grad(lambda p, x: (f(p, x)[0] ** 2).sum(), (0, 1)), p, x)
    states = {(8, B, H, N), (1, B, H, N), (B, H, N)}
    parameters = {v.shape for v in p.values()} | {(*v.shape, 2) for v in p.values()}
    assert moved and set(moved) <= states | parameters, moved
    assert max(math.prod(s) for s in moved) < B * L * E  # nothing as large as the sequence


def test_data_parallelism_moves_gradients_of_parameters_alone():
    p, x = layer_parameters(config.PAPER), np.zeros((8, L, E), np.float32)
    f = layer_over(8, 1)
    assert not shapes_moved_by(f, p, x)
    moved = shapes_moved_by(jax.grad(lambda p, x: (f(p, x)[0] ** 2).sum()), p, x)
    parameters = {v.shape for v in p.values()} | {(*v.shape, 2) for v in p.values()}
    assert moved and set(moved) <= parameters, moved


def test_the_collectives_that_this_looks_for_exist():
    """A program that does move the sequence is caught."""
    spec = jax.sharding.PartitionSpec
    m = jax.sharding.Mesh(jax.devices(), ("length",))
    here, everywhere = (jax.sharding.NamedSharding(m, s) for s in (spec(None, "length"), spec()))
    f = jax.jit(lambda x: 2 * x, in_shardings=here, out_shardings=everywhere)
    assert (B, L, E) in shapes_moved(f.lower(np.zeros((B, L, E), np.float32)).compile())


def test_what_does_not_fit_the_mesh():
    p, f = layer_parameters(config.PAPER), layer_over(2, 4)
    with pytest.raises(ValueError, match="L = 90 is not divisible by the 4 devices along 'length'"):
        f(p, np.zeros((B, 90, E), np.float32))
    with pytest.raises(ValueError, match="B = 3 is not divisible by the 2 devices along 'batch'"):
        f(p, normal(np.random.default_rng(0), 3, L, E))
    with pytest.raises(ValueError, match="and no 'time'"):
        xla.sequence_parallel(mesh(2, 4), config=config.PAPER, length_axis="time")


def test_two_processes():
    """Each holds half of the sequence; the program of each moves states alone."""
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
            assert process.returncode == 0 and "within the budget" in output, output
    finally:
        for process in processes:
            process.kill()
            process.wait()
