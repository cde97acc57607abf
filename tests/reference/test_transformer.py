"""The transformer layer beside PyTorch, for every option; its pieces beside the whole."""

import numpy as np
import pytest
import torch

from refgss import reference
from refgss.config import TransformerConfig
from refgss.layers import transformer

E, A, M, B, L = 6, 8, 10, 2, 11
OPTIONS = {
    "plain": {},
    "few keys and values": {"kv_heads": 2, "bias": True},
    "rope-half": {"position": "rope-half", "mlp": "glu", "norm": "rms"},
    "rope-interleaved": {"position": "rope-interleaved", "mlp": "gelu-tanh", "visible": "look1"},
    "t5": {"position": "t5", "mlp": "relu", "norm": "rms", "visible": "strict"},
    "alibi": {"position": "alibi", "mlp": "glu", "bias": True, "visible": "sliding"},
    "learned": {"position": "learned", "scale": "one"},
    "learned, of a stream that ends": {
        "position": "learned", "positions": 20, "visible": "sliding", "kv_heads": 1
    },
}  # fmt: skip


def layer(name):
    config = TransformerConfig(heads=4, chunk=4, **OPTIONS[name])
    rng = np.random.default_rng(1)
    shapes = transformer.parameters(config, transformer.Sizes(E, A, M))
    params = {k: rng.standard_normal(t.shape) * 0.5 for k, t in shapes.items()}
    return config, params, rng.standard_normal((B, L, E)), rng


def seen(config):
    t, s, C = np.arange(L)[:, None], np.arange(L), config.chunk
    after, c = t - s, t // C - s // C
    return torch.tensor(
        {
            "chunk": (after >= 0) & (c == 0),
            "sliding": (after >= 0) & (after < C),
            "look1": (after >= 0) & (c <= 1),
            "strict": (after > 0) & (after <= C),
        }[config.visible]
    )


def turned(x, config):
    """Each pair as a complex number, times e^{iα}."""
    half = x.shape[-1] // 2
    pairs = x.unflatten(-1, (2, half)).transpose(-1, -2) if config.position == "rope-half" else (
        x.unflatten(-1, (half, 2))
    )  # fmt: skip
    r = torch.arange(L, dtype=x.dtype)
    angle = r[:, None] * config.rope_base ** (-torch.arange(half, dtype=x.dtype) / half)
    z = torch.view_as_complex(pairs.contiguous()) * torch.exp(1j * angle)[None, :, None]
    z = torch.view_as_real(z)
    return (z.transpose(-1, -2) if config.position == "rope-half" else z).flatten(-2)


def witness(p, x, config):
    """From no state, in PyTorch."""
    F = torch.nn.functional

    def norm(name, z):
        if config.norm == "rms":
            return F.rms_norm(z, (E,), p[f"{name}.weight"], config.eps)
        return F.layer_norm(z, (E,), p[f"{name}.weight"], p[f"{name}.bias"], config.eps)

    def dense(name, z):
        return F.linear(z, p[f"w_{name}"].T, p.get(f"b_{name}"))

    h = norm("norm1", x)
    if config.position == "learned":
        period = config.chunk if config.visible == "chunk" else L
        h = h + p["position.weight"][torch.arange(L) % period]
    q = dense("q", h).unflatten(-1, (config.heads, -1))
    k, v = (dense(n, h).unflatten(-1, (config.kv_heads, -1)) for n in "kv")
    if config.position.startswith("rope"):
        q, k = turned(q, config), turned(k, config)
    distance = (torch.arange(L)[:, None] - torch.arange(L)).clamp(0)
    bias = torch.zeros(config.heads, L, L, dtype=x.dtype)
    if config.position == "t5":
        bias = p["position.table"][:, distance]  # distances below 16 are their own buckets
    elif config.position == "alibi":
        bias = -torch.tensor([2.0 ** (-2 * h) for h in (1, 2, 3, 4)])[:, None, None] * distance
    visible = seen(config)
    some = visible.any(1)[:, None]
    bias = torch.where(visible | ~some, bias, -torch.inf)
    a = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), bias.to(x.dtype),
        scale=1.0 if config.scale == "one" else None, enable_gqa=True,
    )  # fmt: skip
    a = torch.where(some, a, 0).transpose(1, 2).flatten(-2)
    x1 = x + dense("o", a)
    h2 = norm("norm2", x1)
    act = {"relu": F.relu, "gelu-tanh": lambda z: F.gelu(z, approximate="tanh")}
    m = act.get(config.mlp, F.gelu)(dense("1", h2))
    return x1 + dense("2", m * dense("3", h2) if config.mlp == "glu" else m)


def no_cotangent(state):
    return {part: np.zeros_like(state[part]) for part in "kv"}


@pytest.mark.parametrize("name", OPTIONS)
def test_values_and_gradients_are_pytorchs(name):
    config, params, x, rng = layer(name)
    theirs = {k: torch.tensor(z, requires_grad=True) for k, z in params.items()}
    x_ = torch.tensor(x, requires_grad=True)
    out = witness(theirs, x_, config)
    y, state = reference.transformer_layer(params, x, config=config)
    np.testing.assert_allclose(y, out.detach(), rtol=0, atol=1e-12)
    dout = rng.standard_normal(y.shape)
    out.backward(torch.tensor(dout))
    dstate = no_cotangent(state)
    g, dx, _ = reference.transformer_layer_vjp(params, x, None, dout, dstate, config=config)
    assert g.keys() == params.keys()
    np.testing.assert_allclose(dx, x_.grad, rtol=0, atol=1e-11)
    for k, z in theirs.items():
        np.testing.assert_allclose(g[k], z.grad, rtol=0, atol=1e-10, err_msg=k)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_cut_gives_the_whole_and_its_gradients(name):
    config, params, x, rng = layer(name)
    whole, end = reference.transformer_layer(params, x, config=config)
    dout = rng.standard_normal(whole.shape)
    dend = {part: rng.standard_normal(end[part].shape) for part in "kv"}
    wanted = reference.transformer_layer_vjp(params, x, None, dout, dend, config=config)
    for cut in range(L + 1):
        a, between = reference.transformer_layer(params, x[:, :cut], None, config=config)
        b, after = reference.transformer_layer(params, x[:, cut:], between, config=config)
        np.testing.assert_allclose(np.concatenate([a, b], 1), whole, rtol=0, atol=1e-12)
        for part in "kvt":
            np.testing.assert_allclose(after[part], end[part], rtol=0, atol=1e-14)
        gb, dxb, dbetween = reference.transformer_layer_vjp(
            params, x[:, cut:], between, dout[:, cut:], dend, config=config
        )
        ga, dxa, _ = reference.transformer_layer_vjp(
            params, x[:, :cut], None, dout[:, :cut], dbetween, config=config
        )
        np.testing.assert_allclose(np.concatenate([dxa, dxb], 1), wanted[1], rtol=0, atol=1e-11)
        for k, z in wanted[0].items():
            np.testing.assert_allclose(ga[k] + gb[k], z, rtol=0, atol=1e-10, err_msg=k)


@pytest.mark.parametrize("name", OPTIONS)
def test_rows_of_other_phases_are_read_as_if_alone(name):
    config, params, x, _ = layer(name)
    reads = [
        reference.transformer_layer(params, x[i : i + 1, :n], None, config=config)[1]
        for i, n in ((0, 3), (1, 6))
    ]
    state = {part: np.concatenate([s[part] for s in reads]) for part in "kvt"}
    piece = np.stack([x[0, 3:8], x[1, 6:11]])
    y, _ = reference.transformer_layer(params, piece, state, config=config)
    whole, _ = reference.transformer_layer(params, x, None, config=config)
    expected = np.stack([whole[0, 3:8], whole[1, 6:11]])
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)


def test_the_default_widths_have_12_width_squared_parameters():
    for mlp, most in (("gelu", 0), ("glu", 0.01)):
        config = TransformerConfig(mlp=mlp, norm="rms")
        shapes = transformer.parameters(config, transformer.Sizes(1024)).values()
        total = sum(np.prod(t.shape) for t in shapes) - 2 * 1024
        assert 12 * 1024**2 <= total <= (12 + most * 12) * 1024**2
