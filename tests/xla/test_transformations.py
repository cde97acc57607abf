"""Ops under jit, vmap, grad and scan; second derivatives; JAX's gradient against the standard's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from refgss import config, reference, xla

from .examples import complex_normal, layer_parameters, model_parameters, normal, worst

LAYERS = [
    (xla.gss_layer, xla.gss_layer_vjp, config.PAPER),
    (xla.gss_layer, xla.gss_layer_vjp, config.GSS_PYTORCH),
    (xla.dss_layer, xla.dss_layer_vjp, config.DSSConfig()),
]


@pytest.mark.parametrize("layer, vjp, cfg", LAYERS)
def test_grad_is_the_conjugate_of_the_vjp(layer, vjp, cfg):
    p, x = layer_parameters(cfg), normal(np.random.default_rng(1), 2, 11, 8)
    y, state = layer(p, x, config=cfg)
    g = jax.jit(jax.grad(lambda p: (layer(p, x, config=cfg)[0] ** 2).sum()))(p)
    dparams, _, _ = vjp(p, x, None, 2 * y, jnp.zeros_like(state), config=cfg)
    assert g.keys() == dparams.keys()
    for name in p:
        assert worst(jnp.conj(dparams[name]), g[name]) < 1e-5, name  # the same program, reordered


@pytest.mark.parametrize("layer, vjp, cfg", LAYERS)
def test_vjp_is_the_reference_s_in_f64(layer, vjp, cfg):
    rng = np.random.default_rng(2)
    p, x = layer_parameters(cfg), normal(rng, 2, 11, 8)
    wide = {k: v.astype(complex if np.iscomplexobj(v) else float) for k, v in p.items()}
    state = complex_normal(rng, 2, *p["ssm.c"].shape).astype(complex)
    arguments = (wide, x.astype(float), state, normal(rng, 2, 11, 8).astype(float), state[::-1])
    truth = getattr(reference, vjp.__name__)(*arguments, config=cfg)
    with jax.enable_x64(True):
        got = vjp(*arguments, config=cfg)
        for name in p:
            assert worst(got[0][name], truth[0][name]) < 1e-12, name  # far above 2^-53, below 2^-24
        assert worst(got[1], truth[1]) < 1e-12 and worst(got[2], truth[2]) < 1e-12


def test_a_model_trains_under_scan_and_vmap():
    cfg = config.LMConfig(config.PAPER, depth=3)
    p = model_parameters(cfg)
    tokens = np.arange(24).reshape(2, 12) % 7

    def loss(p, tokens):
        return xla.lm_loss(p, tokens[:, :-1], tokens[:, 1:], config=cfg)

    @jax.jit
    def train(p):
        def step(p, _):
            value, g = jax.value_and_grad(loss)(p, tokens)
            return jax.tree.map(lambda p, g: p - 0.05 * jnp.conj(g), p, g), value

        return jax.lax.scan(step, p, length=8)

    _, losses = train(p)
    assert np.all(np.isfinite(losses)) and losses[-1] < 0.9 * losses[0]
    each = jax.vmap(lambda t: loss(p, t[None]))(tokens)
    assert worst(each.mean(), losses[0]) < 1e-5


def test_a_model_in_pieces():
    cfg = config.LMConfig(config.GSS_PYTORCH, depth=2, tied=True)
    p, tokens = model_parameters(cfg), np.arange(18).reshape(2, 9) % 7
    whole, state = xla.lm_logits(p, tokens, config=cfg)
    first, s = xla.lm_logits(p, tokens[:, :4], config=cfg)
    rest, s = xla.lm_logits(p, tokens[:, 4:], s, config=cfg)
    assert worst(np.concatenate([first, rest], 1), whole) < 1e-5 and worst(s, state) < 1e-5


def test_second_derivatives():
    """Of K in Λ: the custom rules differentiate too."""
    lam = np.array([-0.3 + 0.5j, -2.0 + 3.0j])
    c = np.array([[1.0 + 0.5j, 0.3 - 1.0j]])

    def energy(x):
        z = jax.lax.complex(x[:2], x[2:])
        return (xla.ssm_kernel(z, c, 9, delta=np.float64(1), form=config.GSS) ** 2).sum()

    with jax.enable_x64(True):
        x = jnp.concatenate([lam.real, lam.imag])
        h = 1e-5
        numeric = [
            (jax.grad(energy)(x + h * e) - jax.grad(energy)(x - h * e)) / (2 * h) for e in np.eye(4)
        ]
        # central differences: h² of truncation, 2^-53/h of rounding
        assert worst(jax.hessian(energy)(x), np.array(numeric)) < 1e-8
