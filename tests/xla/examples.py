"""Parameters and inputs drawn from a seed, float32 numbers that float64 holds too."""

import numpy as np
import pytest

from refgss.config import PAPER, DSSConfig, GSSConfig
from refgss.ops import encode_option


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def complex_normal(rng, *shape):
    return (normal(rng, *shape) + 1j * normal(rng, *shape)).astype(np.complex64)


def layer_parameters(config, seed=0, E=8, F=12, H=6, N=5):
    """Slow modes included, so that states matter over the whole length."""
    rng = np.random.default_rng(seed)
    H = H if isinstance(config, GSSConfig) else E
    p = {
        "norm.weight": 1 + normal(rng, E) / 4,
        "norm.bias": normal(rng, E) / 4,
        "ssm.a": normal(rng, N) - 3,
        "ssm.b": normal(rng, N),
        "ssm.c": complex_normal(rng, H, N),
        "ssm.d": normal(rng, H),
    }
    if isinstance(config, DSSConfig):
        p |= {"ssm.log_delta": normal(rng, E, 2) / 4 - 2, "w_o": normal(rng, E, E)}
    else:
        p |= {"w_v": normal(rng, E, F), "w_u": normal(rng, E, H)}
        p |= {"w_uc": normal(rng, H, F), "w_o": normal(rng, F, E)}
        if config.ssm_norm:
            p |= {"ssm.norm.weight": 1 + normal(rng, H) / 4, "ssm.norm.bias": normal(rng, H) / 4}
    if config.out_bias:
        p["b_o"] = normal(rng, E)
    return p


def model_parameters(config, seed=0, V=7, E=8):
    rng = np.random.default_rng(seed)
    p = {"embedding.weight": normal(rng, V, E)}
    for i in range(config.depth):
        layer = layer_parameters(config.layer, seed + i, E=E)
        p |= {f"layers.{i}.{name}": x for name, x in layer.items()}
    if config.final_norm:
        p |= {"norm.weight": np.ones(E, np.float32), "norm.bias": np.zeros(E, np.float32)}
    if not config.tied:
        p["head.weight"] = normal(rng, E, V)
    return p


def worst(x, y):
    """The largest difference, relative to the largest value."""
    x, y = np.asarray(x), np.asarray(y)
    return np.abs(x - y).max(initial=0) / max(np.abs(y).max(initial=0), np.finfo(np.float32).tiny)


def certified_layer(op, length, weights=lambda w: w):
    """A vector of gss_layer or gss_layer_vjp, its values proven and its budgets derived here."""
    pytest.importorskip("flint")
    from refgss.conformance.vectors.build import vector
    from refgss.conformance.vectors.cases import Case, Draw, layer_params, named

    draw = Draw(f"{op}/{length}")
    params = layer_params(draw, PAPER, 4, 6, 3, 3)
    params["ssm.a"][:2] = -9  # Re Λ ≈ -1e-4: the first position is felt at the last
    params = {k: weights(x) if k.startswith("w_") else x for k, x in params.items()}
    tensors = named(params) | {"x": draw(1, length, 4), "state": draw(1, 3, 3, 2)}
    if op == "gss_layer_vjp":
        tensors |= {"dout": draw(1, length, 4), "dstate": draw(1, 3, 3, 2)}
    return vector(Case(f"{op}/here", op, (), tensors, {"config": encode_option(PAPER)}))
