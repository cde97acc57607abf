"""Attention over eight devices: the unsharded numbers; keys and values travel, and only where a
window goes over the end of a piece."""

import math

import jax
import numpy as np
import pytest

from refgss import reference, xla
from refgss.config import PAPER, LMConfig, TransformerConfig

from .collectives import shapes_moved
from .test_sharding import mesh
from .test_transformer import LOOSE, TOKENS, in_binary64, model, parameters, worst  # noqa: F401

B, E, D = 2, 8, 4

pytestmark = pytest.mark.skipif(
    len(jax.devices()) < 8, reason="JAX was started without eight devices"
)


def layer(visible, chunk=4, **options):
    return TransformerConfig(heads=4, chunk=chunk, visible=visible, **options)


def over_devices(config, pieces=8):
    return xla.sequence_parallel(
        mesh(1, pieces), config=config, batch_axis="batch", length_axis="length"
    )


def given(config, length):
    x = np.random.default_rng(0).standard_normal((B, length, E))
    p = parameters(config)
    states = [reference.transformer_layer(p, x[:, :n], config=config)[1] for n in (3, 9)]
    return p, x, {n: np.stack([s[n][i] for i, s in enumerate(states)]) for n in states[0]}


CASES = [
    (layer("chunk"), 16),  # pieces of two tokens: a chunk lies on three of them
    (layer("sliding", position="rope-half"), 24),
    (layer("look1", position="learned", positions=40), 24),
    (layer("strict", chunk=5, kv_heads=2), 16),
]


@pytest.mark.parametrize("config, length", CASES)
def test_the_unsharded_layer_and_its_gradient(config, length):
    p, x, state = given(config, length)
    dout = np.random.default_rng(1).standard_normal(x.shape)
    dstate = {n: np.random.default_rng(2).standard_normal(state[n].shape) for n in "kv"}

    @jax.jit
    def both(p, x, moving):
        def f(p, x, moving):
            y, after = over_devices(config)(p, x, {**moving, "t": state["t"]})
            return (y, {n: after[n] for n in "kv"}), after["t"]

        out, back, t = jax.vjp(f, p, x, moving, has_aux=True)
        return out, t, back((dout, dstate))

    (y, left), t, gradients = both(p, x, {n: state[n] for n in "kv"})
    truth, after = reference.transformer_layer(p, x, state, config=config)
    assert worst(y, truth) < LOOSE and np.array_equal(t, after["t"])
    assert all(worst(left[n], after[n]) < LOOSE for n in "kv")
    truth = reference.transformer_layer_vjp(p, x, state, dout, dstate, config=config)
    for got, d in zip(jax.tree.leaves(gradients), jax.tree.leaves(truth), strict=True):
        assert worst(got, d) < LOOSE


def moved(config, length, state=False):
    p, x, held = given(config, length)
    arguments = (p, x, held) if state else (p, x)
    f = over_devices(config)
    return shapes_moved(jax.jit(lambda *a: f(*a)[0]).lower(*arguments).compile())


def test_chunks_within_devices_need_no_communication():
    assert moved(layer("chunk"), 8 * 4) == []
    assert moved(layer("chunk"), 8 * 8) == []


@pytest.mark.parametrize(
    "config, length, tokens",
    [
        (layer("chunk"), 8 * 6, [2]),  # where pieces begin in the middle of a chunk
        (layer("sliding"), 8 * 6, [3]),
        (layer("strict"), 8 * 6, [4]),
        (layer("look1"), 8 * 8, [4]),
        (layer("sliding"), 8 * 2, [1, 2]),  # of two neighbours
    ],
)
def test_only_keys_and_values_that_are_seen_travel(config, length, tokens):
    shapes = moved(config, length)
    assert {math.prod(s) for s in shapes} == {B * n * 4 * 4 for n in tokens}, shapes


def test_a_hybrid_model():
    config = LMConfig((PAPER, layer("sliding", position="alibi")), depth=2)
    p, tokens = model(config), np.resize(TOKENS, (B, 16))
    y, state = jax.jit(over_devices(config))(p, tokens)
    truth, after = reference.lm_logits(p, tokens, config=config)
    assert worst(y, truth) < LOOSE
    assert jax.tree.structure(state) == jax.tree.structure(after)
    y, _ = jax.jit(over_devices(config))(p, tokens, state)
    assert worst(y, reference.lm_logits(p, tokens, after, config=config)[0]) < LOOSE
