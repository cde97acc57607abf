"""Chapter 20 in JAX: the reference's numbers in binary64, however a sequence is cut.

Row b of the batch goes on after b tokens, so that one program meets every phase.
"""

from functools import cache

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from refgss import reference, xla
from refgss.config import BlockRecurrentConfig, GSSConfig, LMConfig
from refgss.layers import block_recurrent
from refgss.layers.states import without_integers
from refgss.xla import Plan

from .examples import layer_parameters, worst

E, A, F, W, S, B, L = 6, 8, 10, 3, 2, 8, 10
LOOSE = 1e-12  # far above 2^-53, below 2^-24
COMBINATIONS = {
    "fixed, skip": {},
    "lstm, single, glu": {"gate": "lstm", "update": "single", "mlp": "glu"},
    "full, dual, plain keys": {
        "gate": "full", "update": "dual", "normalize_keys": False, "position": "none"
    },
    "no states": {"states": 0},
    "window of one": {"window": 1, "update": "dual"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_binary64():
    """Programs are small: what takes time is to compile them well."""
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def config_of(name="fixed, skip"):
    return BlockRecurrentConfig(**({"heads": 2, "window": W, "states": S} | COMBINATIONS[name]))


def parameters(config, seed=1):
    rng = np.random.default_rng(seed)
    shapes = block_recurrent.parameters(config, block_recurrent.Sizes(E, A, F))
    return {k: rng.standard_normal(t.shape) * 0.5 for k, t in shapes.items()}


def inputs(length=L, seed=0):
    return np.random.default_rng(seed).standard_normal((B, length, E))


@cache
def after(name):
    """A state whose row b has read b tokens."""
    config = config_of(name)
    p, x, state, states = parameters(config), inputs(B, 2), None, []
    for i in range(B):
        piece = x[:, :0] if i == 0 else x[:, i - 1 : i]
        _, state = reference.block_recurrent_layer(p, piece, state, config=config)
        states.append(state)
    return {part: np.stack([states[b][part][b] for b in range(B)]) for part in state}


def close(got, truth):
    assert jax.tree.structure(got) == jax.tree.structure(truth)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(truth), strict=True):
        assert x.shape == y.shape and worst(x, y) < LOOSE


@pytest.mark.parametrize(
    "name, length", [*((name, L) for name in COMBINATIONS), ("fixed, skip", 0), ("fixed, skip", 1)]
)
def test_the_reference_s_outputs_and_state_from_every_phase(name, length):
    config, state = config_of(name), after(name)
    p, x = parameters(config), inputs(length)
    truth = reference.block_recurrent_layer(p, x, state, config=config)
    close(xla.block_recurrent_layer(p, x, state, config=config), truth)


@pytest.mark.parametrize("name", list(COMBINATIONS)[:3])
def test_the_reference_s_gradients_from_every_phase(name):
    config, state = config_of(name), after(name)
    rng = np.random.default_rng(3)
    dstate = {n: rng.standard_normal(z.shape) for n, z in without_integers(state).items()}
    arguments = (parameters(config), inputs(), state, inputs(seed=4), dstate)
    truth = reference.block_recurrent_layer_vjp(*arguments, config=config)
    plan = Plan(cpu_kernels="xla", gate=7)
    close(xla.block_recurrent_layer_vjp(*arguments, config=config, plan=plan), truth)
    if name == "fixed, skip":
        x, dout = (z[:, 0] for z in arguments[1:4:2])
        step = (arguments[0], x, state, dout, dstate)
        truth = reference.block_recurrent_step_vjp(*step, config=config)
        close(xla.block_recurrent_step_vjp(*step, config=config), truth)


def test_pieces_give_the_whole():
    config = config_of()
    p, x = parameters(config), inputs()
    whole = reference.block_recurrent_layer(p, x, config=config)
    close(xla.block_recurrent_layer(p, x, config=config), whole)
    first, state = xla.block_recurrent_layer(p, x[:, :6], config=config)  # two windows: aligned
    rest, end = xla.block_recurrent_layer(p, x[:, 6:], state, config=config)
    close((np.concatenate([first, rest], 1), end), whole)
    step = xla.block_recurrent_step(p, x[:, 6], state, config=config)
    close(step, reference.block_recurrent_step(p, x[:, 6], state, config=config))


@pytest.mark.parametrize("of_scale", [True, False])
def test_the_ops(of_scale):
    rng = np.random.default_rng(0)
    q, k, v, dy = (rng.standard_normal((2, 7, 2, 4)) for _ in range(4))
    scale = np.array([-1.5, 0.0]) if of_scale else None
    bias = rng.standard_normal((2, 6)) if of_scale else None
    state, dstate = ({n: rng.standard_normal((2, 3, 2, 4)) for n in "kv"} for _ in range(2))
    for given in (state, None):
        own = (q, k, v, bias, scale, given)
        truth = reference.window_attention(*own, window=3)
        close(xla.window_attention(*own, window=3), truth)
        truth = reference.window_attention_vjp(*own, dy, dstate, window=3)
        close(xla.window_attention_vjp(*own, dy, dstate, window=3), truth)
    for M in (5, 0):
        own = (q, k[:, :M], v[:, :M], scale)
        close(xla.state_attention(*own), reference.state_attention(*own))
        close(xla.state_attention_vjp(*own, dy), reference.state_attention_vjp(*own, dy))


@pytest.mark.parametrize("kind", ["fixed", "full", "lstm"])
def test_gates_and_lengths(kind):
    rng = np.random.default_rng(0)
    s, z, f, i, dout = (rng.standard_normal((2, 3, 5)) for _ in range(5))
    own = (s, z, f[0, 0] if kind == "fixed" else f, i if kind == "lstm" else None)
    close(xla.gate(*own, kind=kind), reference.gate(*own, kind=kind))
    close(xla.gate_vjp(*own, dout, kind=kind), reference.gate_vjp(*own, dout, kind=kind))
    s[0, 0] = 0
    close(xla.l2_normalize(s, eps=1e-6), reference.l2_normalize(s, eps=1e-6))
    truth = reference.l2_normalize_vjp(s, dout, eps=1e-6)
    close(xla.l2_normalize_vjp(s, dout, eps=1e-6), truth)


def test_a_nan_and_what_is_not_read():
    """A NaN reaches its own row from its token on; what no slot holds reaches nothing."""
    name = "fixed, skip"
    config = config_of(name)
    p, x, state = parameters(config), inputs(), dict(after(name))
    dirty = {n: z.copy() for n, z in state.items()}
    for n in "kv":
        for b in range(B):
            dirty[n][b, W + b % W :] = np.nan
    dirty["s"][0] = dirty["k"][0] = dirty["v"][0] = np.nan  # the row begins
    wanted = xla.block_recurrent_layer(p, x, state, config=config)
    close(xla.block_recurrent_layer(p, x, dirty, config=config), wanted)
    nothing = jax.tree.map(np.zeros_like, without_integers(state))
    close(
        xla.block_recurrent_layer_vjp(p, x[:, :1], dirty, x[:, 1:2], nothing, config=config),
        reference.block_recurrent_layer_vjp(p, x[:, :1], state, x[:, 1:2], nothing, config=config),
    )
    x[1, 5] = np.nan
    y, _ = xla.block_recurrent_layer(p, x, state, config=config)
    bad = np.isnan(y).any(-1)
    assert bad[1, 5] and not bad[1, :5].any() and not bad[[0, *range(2, B)]].any()


def test_states_that_cannot_be():
    config = config_of()
    p, x = parameters(config), inputs()
    for t in (-1, 2 * W):
        bad = {**after("fixed, skip"), "t": np.full(B, t, np.int32)}
        bad["t"][0] = 0
        with pytest.raises(ValueError, match=r"block_recurrent_layer: .*state.t"):
            xla.block_recurrent_layer(p, x, bad, config=config)
        y, left = jax.jit(lambda s: xla.block_recurrent_layer(p, x, s, config=config))(bad)
        for z in (y, left["s"], left["k"], left["v"]):
            assert not np.isnan(z[0]).any() and np.isnan(z[1:]).all()


def shapes_of(jaxpr):
    """Of everything that a program computes, inner programs included."""
    for eqn in jaxpr.eqns:
        yield from (v.aval.shape for v in eqn.outvars)
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from shapes_of(inner)


def test_no_weights_outlive_their_window():
    """No array has the state's vectors for every token, nor the square of the length."""
    config = BlockRecurrentConfig(heads=2, window=16, states=24)
    p = parameters(config)
    gradient = jax.grad(lambda p, x: xla.block_recurrent_layer(p, x, config=config)[0].sum())

    def largest(length):
        program = jax.make_jaxpr(gradient)(p, inputs(length))
        return max(np.prod(shape) for shape in shapes_of(program.jaxpr))

    # attention to tokens takes blocks of 16 queries by 32 keys, as a batch
    assert largest(256) == 2 * largest(128) == B * 256 * 2 * 32


def test_a_model_of_mixed_layers_in_pieces():
    config = LMConfig((GSSConfig(), config_of()), depth=2)
    own = layer_parameters(GSSConfig(), 0, E=E)
    own = {k: x.astype(complex if np.iscomplexobj(x) else float) for k, x in own.items()}
    rng, V = np.random.default_rng(0), 7
    p = {"embedding.weight": rng.standard_normal((V, E)), "norm.weight": np.ones(E)}
    p |= {"norm.bias": np.zeros(E), "head.weight": rng.standard_normal((E, V))}
    p |= {f"layers.0.{k}": x for k, x in own.items()}
    p |= {f"layers.1.{k}": x for k, x in parameters(config.layers[1]).items()}
    tokens = np.arange(2 * L).reshape(2, L) % V
    whole, end = reference.lm_logits(p, tokens, config=config)
    first, state = xla.lm_logits(p, tokens[:, :4], config=config)
    rest, state = xla.lm_logits(p, tokens[:, 4:], state, config=config)
    close((np.concatenate([first, rest], 1), state), (whole, end))


def test_a_length_is_not_split_over_devices():
    mesh = jax.make_mesh((2, 2), ("batch", "length"), devices=jax.devices()[:4])
    config = config_of()
    p, x = parameters(config), jnp.asarray(inputs())
    f = xla.sequence_parallel(mesh, config=config, batch_axis="batch", length_axis="length")
    with pytest.raises(ValueError, match="a length cannot be split over devices: split the batch"):
        f(p, x)
    mesh = jax.make_mesh((2, 1), ("batch", "length"), devices=jax.devices()[:2])
    f = xla.sequence_parallel(mesh, config=config, batch_axis="batch", length_axis="length")
    close(f(p, x), xla.block_recurrent_layer(p, x, config=config))
