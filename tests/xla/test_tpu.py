"""Programs for TPUs by the real TPU compiler, ahead of time: no chip needed, only libtpu."""

import importlib.util
import os
import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from refgss import config, xla
from refgss.layers import transformer

from .examples import layer_parameters
from .test_sharding import shapes_moved

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
PLAN = xla.plan_for("tpu")
B, L, E, N = 4, 256, 8, 5


@pytest.fixture(scope="module")
def chips():
    """Four chips of a 2×2 mesh, as a description."""
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        os.environ.setdefault(name, value)
    return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices


def step(layer):
    """Forward, backward and update."""

    def loss(p, x):
        y, state = layer(p, x)
        return (y * y).mean() + (abs(state) ** 2).mean()

    return lambda p, x: jax.tree.map(lambda p, g: p - jnp.conj(g), p, jax.grad(loss)(p, x))


def lowered(f, devices, p, shape, across=None):
    """f(p, x) for one chip, or with x (shape) split over a mesh as `across` says."""
    mesh = Mesh(np.array(devices[: 4 if across else 1]).reshape(-1, 2 if across else 1), ("b", "l"))

    def like(shape, dtype, *axes):
        return jax.ShapeDtypeStruct(
            shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes))
        )

    p = {k: like(v.shape, v.dtype) for k, v in p.items()}
    return jax.jit(f).lower(p, like(shape, jnp.float32, *(across or ())))


def imprecise(program):
    """Matrix products of a compiled or lowered program whose precision is not the highest."""
    return [
        line.strip()
        for line in program.splitlines()
        if re.search(r" (convolution|dot)\(|stablehlo\.dot_general", line)
        and "operand_precision={highest,highest}" not in line
        and "precision = [HIGHEST, HIGHEST]" not in line
    ]


def wide(program):
    """Types that a TPU has not: the compiler takes 64-bit numbers apart, and no trace is left."""
    return re.findall(r"\b(?:f64|c128)\[", program)


@pytest.mark.parametrize("plan", [PLAN, xla.Plan("fft", chunk=64, gate=128, cpu_kernels="xla")])
@pytest.mark.parametrize("training", [False, True])
def test_a_layer_for_one_chip(chips, plan, training):
    p = layer_parameters(config.PAPER)
    layer = lambda p, x: xla.gss_layer(p, x, config=config.PAPER, plan=plan)  # noqa: E731
    program = lowered(step(layer) if training else layer, chips, p, (B, L, E))
    assert "dot_general" in program.as_text() and not imprecise(program.as_text())
    compiled = program.compile()
    assert not imprecise(compiled.as_text()) and not wide(compiled.as_text())
    assert compiled.cost_analysis()["flops"] > 2 * B * L * sum(
        v.size for k, v in p.items() if k.startswith("w_")
    )


def test_a_product_of_the_default_precision_is_seen(chips):
    f = lambda p, x: jnp.einsum("ble,ef->blf", x, p["w_v"])  # noqa: E731
    program = lowered(f, chips, layer_parameters(config.PAPER), (B, L, E))
    assert imprecise(program.as_text()) and imprecise(program.compile().as_text())


def test_high_precision_is_of_the_dense_maps_only(chips):
    p = layer_parameters(config.PAPER)
    layer = partial(xla.gss_layer, config=config.PAPER, plan=replace(PLAN, precision="high"))
    products = imprecise(lowered(layer, chips, p, (B, L, E)).compile().as_text())
    assert len(products) == 4 and all("operand_precision={high,high}" in x for x in products)


@pytest.mark.parametrize("form", [config.S4D_BILINEAR, config.DSS_EXP, config.dss_softmax(64)])
def test_kernels_for_one_chip(chips, form):
    on = jax.sharding.SingleDeviceSharding(chips[0])
    shapes = {"lam": ((N,), "c8"), "c": ((6, N), "c8"), "delta": ((6,), "f4")}
    a = {k: jax.ShapeDtypeStruct(s, d, sharding=on) for k, (s, d) in shapes.items()}
    f = lambda lam, c, delta: xla.ssm_kernel(lam, c, 64, delta=delta, form=form, plan=PLAN)  # noqa: E731
    compiled = jax.jit(f).lower(**a).compile()
    assert not imprecise(compiled.as_text()) and not wide(compiled.as_text())


@pytest.mark.parametrize("visible", ["chunk", "strict"])
def test_attention_for_one_chip(chips, visible):
    """Forward, backward and update: no array has the square of the length."""
    cfg = config.TransformerConfig(heads=2, chunk=32, visible=visible)
    shapes = transformer.parameters(cfg, transformer.Sizes(E, E, 2 * E))
    p = {k: np.ones(t.shape, np.float32) for k, t in shapes.items()}
    layer = lambda p, x: xla.transformer_layer(p, x, config=cfg, plan=PLAN)[0].mean()  # noqa: E731
    f = lambda p, x: jax.tree.map(lambda p, g: p - g, p, jax.grad(layer)(p, x))  # noqa: E731
    compiled = lowered(f, chips, p, (B, L, E)).compile()
    assert not imprecise(compiled.as_text()) and not wide(compiled.as_text())
    arrays = re.findall(r"\b(?:f32|pred)\[([\d,]+)\]", compiled.as_text())
    sizes = [np.prod([int(n) for n in shape.split(",")]) for shape in arrays]
    assert B * L * 32 <= max(sizes) < B * L * L


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("cfg", [config.PAPER, config.DSSConfig()])
def test_a_layer_for_a_mesh(chips, cfg, training):
    """Batch over two, length over two: all that travels is smaller than a piece of the sequence."""
    p = layer_parameters(cfg)
    mesh = Mesh(np.array(chips).reshape(2, 2), ("b", "l"))
    layer = xla.sequence_parallel(mesh, config=cfg, batch_axis="b", length_axis="l", plan=PLAN)
    program = lowered(step(layer) if training else layer, chips, p, (B, L, E), ("b", "l"))
    compiled = program.compile()
    moved = shapes_moved(compiled)
    H = p["ssm.c"].shape[0]
    assert moved and all(np.prod(s) <= 2 * (B // 2) * H * N for s in moved), moved
    assert 2 * (B // 2) * H * N < (B // 2) * (L // 2)  # one channel of a piece is larger already
    assert not imprecise(compiled.as_text()) and not wide(compiled.as_text())
