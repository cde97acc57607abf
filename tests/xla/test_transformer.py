"""Chapter 19 in JAX: the reference's numbers in binary64; models of mixed layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from refgss import reference, xla
from refgss.config import PAPER, LMConfig, TransformerConfig
from refgss.layers import transformer
from refgss.layers.states import named
from refgss.xla import Plan

from .examples import layer_parameters, worst

E, A, M, B, L, V = 8, 16, 12, 2, 11, 7
LOOSE = 1e-12  # far above 2^-53, below 2^-24
OPTIONS = {
    "plain": {},
    "rope, gated, rms, few keys and values": {
        "position": "rope-half", "mlp": "glu", "norm": "rms", "kv_heads": 2
    },
    "rope, tanh, look1": {"position": "rope-interleaved", "mlp": "gelu-tanh", "visible": "look1"},
    "t5, relu, strict": {"position": "t5", "mlp": "relu", "norm": "rms", "visible": "strict"},
    "alibi, biases, sliding": {"position": "alibi", "mlp": "glu", "bias": True,
                               "visible": "sliding"},
    "learned": {"position": "learned", "scale": "one"},
    "learned, of a stream that ends": {"position": "learned", "positions": 20,
                                       "visible": "sliding"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_binary64():
    """Programs are small: what takes time is to compile them well."""
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def config_of(name="plain"):
    return TransformerConfig(heads=4, chunk=4, **OPTIONS[name])


def parameters(config, seed=1):
    rng = np.random.default_rng(seed)
    shapes = transformer.parameters(config, transformer.Sizes(E, A, M))
    return {k: rng.standard_normal(t.shape) * 0.5 for k, t in shapes.items()}


def inputs(seed=0):
    return np.random.default_rng(seed).standard_normal((B, L, E))


def rows_of_two_phases(p, config):
    """The state of a row that has read 3 tokens beside one that has read 9."""
    x = inputs(2)
    states = [reference.transformer_layer(p, x[:, :n], config=config)[1] for n in (3, 9)]
    return {part: np.stack([states[i][part][i] for i in range(2)]) for part in states[0]}


def close(got, truth):
    assert jax.tree.structure(got) == jax.tree.structure(truth)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(truth), strict=True):
        assert worst(x, y) < LOOSE


@pytest.mark.parametrize("name", OPTIONS)
def test_the_reference_s_layer_and_gradients(name):
    config = config_of(name)
    p, x = parameters(config), inputs()
    state = rows_of_two_phases(p, config)
    truth = reference.transformer_layer(p, x, state, config=config)
    found = xla.transformer_layer(p, x, state, config=config, plan=Plan(cpu_kernels="xla"))
    close(found, truth)
    rng = np.random.default_rng(3)
    dstate = {n: rng.standard_normal(state[n].shape) for n in "kv"}
    arguments = (p, x, state, inputs(4), dstate)
    truth = reference.transformer_layer_vjp(*arguments, config=config)
    plan = Plan(cpu_kernels="xla", gate=5)  # the MLP 5 tokens at a time
    close(xla.transformer_layer_vjp(*arguments, config=config, plan=plan), truth)


def mixed():
    return LMConfig((PAPER, config_of("rope, tanh, look1")), depth=2)


def model(config, seed=0):
    rng = np.random.default_rng(seed)
    p = {"embedding.weight": rng.standard_normal((V, E)), "norm.weight": np.ones(E)}
    p |= {"norm.bias": np.zeros(E), "head.weight": rng.standard_normal((E, V))}
    for i, layer in enumerate(config.layers):
        if isinstance(layer, TransformerConfig):
            own = parameters(layer, seed + i)
        else:
            own = layer_parameters(layer, seed + i, E=E)
        wide = {k: x.astype(complex if np.iscomplexobj(x) else float) for k, x in own.items()}
        p |= {f"layers.{i}.{k}": x for k, x in wide.items()}
    return p


TOKENS = np.arange(B * L).reshape(B, L) % V


def test_a_model_of_mixed_layers_in_pieces_and_its_gradient():
    config = mixed()
    p = model(config)
    whole, end = reference.lm_logits(p, TOKENS, config=config)
    first, state = xla.lm_logits(p, TOKENS[:, :6], config=config)
    rest, state = xla.lm_logits(p, TOKENS[:, 6:], state, config=config)
    assert worst(np.concatenate([first, rest], 1), whole) < LOOSE
    assert named(state).keys() == named(end).keys()
    close(state, end)
    _, half = reference.lm_logits(p, TOKENS[:, :6], config=config)
    rng = np.random.default_rng(1)
    dlogits = rng.standard_normal((B, L - 6, V))
    dstate = tuple(
        {n: rng.standard_normal(s[n].shape) for n in "kv"} if isinstance(s, dict) else s[::-1]
        for s in end
    )
    arguments = (p, TOKENS[:, 6:], half, dlogits, dstate)
    truth = reference.lm_logits_vjp(*arguments, config=config)
    close(xla.lm_logits_vjp(*arguments, config=config), truth)
    arguments = (p, TOKENS[:, :-1], TOKENS[:, 1:], None, 1.0)
    truth = reference.lm_loss_vjp(*arguments, config=config)
    close(xla.lm_loss_vjp(*arguments, config=config), truth)


def test_a_model_of_mixed_layers_learns():
    config = mixed()
    p = model(config)

    def step(p, _):
        loss, g = jax.value_and_grad(
            lambda p: xla.lm_loss(p, TOKENS[:, :-1], TOKENS[:, 1:], config=config)
        )(p)
        return jax.tree.map(lambda p, g: p - 0.02 * jnp.conj(g), p, g), loss

    _, losses = jax.jit(lambda p: jax.lax.scan(step, p, length=8))(p)
    assert np.all(np.isfinite(losses)) and losses[-1] < 0.9 * losses[0]


def test_tokens_beyond_the_learned_positions():
    """Refused before anything is computed; compiled, where nothing is known, they give NaN."""
    layer = config_of("learned, of a stream that ends")
    p, x = parameters(layer), inputs()
    _, state = xla.transformer_layer(p, x, config=layer)
    with pytest.raises(ValueError, match="transformer_layer: there are 20 learned positions"):
        xla.transformer_layer(p, x, state, config=layer)
    y, _ = jax.jit(lambda s: xla.transformer_layer(p, x, s, config=layer))(state)
    assert np.isnan(y[:, 20 - L :]).all() and not np.isnan(y[:, : 20 - L]).any()
    config = LMConfig((PAPER, layer), depth=2)
    p = model(config)
    _, state = xla.lm_logits(p, TOKENS, config=config)
    for backend in (reference, xla):
        with pytest.raises(ValueError, match="lm_logits: there are 20 learned positions"):
            backend.lm_logits(p, TOKENS, state, config=config)
