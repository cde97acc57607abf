"""A third kind of layer, as somebody would add it: x + mean of the last w normed inputs · w_o."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from refgss import reference, xla
from refgss.layers.tensor import Tensor


@dataclass(frozen=True)
class MovingAverage:
    """The mean is over `taps` inputs."""

    taps: int = 3
    eps: float = 1e-5


@dataclass(frozen=True)
class Sizes:
    width: int


NAME = "moving-average"
Config = MovingAverage
SIZED_BY = {"norm.weight": "E"}
ROLES = {"w_o": "matrix"}


def sizes(params: Mapping[str, Any]) -> Sizes:
    return Sizes(params["norm.weight"].shape[0])


def parameters(config, sizes):
    E = sizes.width
    return {"norm.weight": Tensor((E,)), "norm.bias": Tensor((E,)), "w_o": Tensor((E, E))}


def state(config, sizes, batch):
    """The last normed inputs."""
    return {"inputs": Tensor((batch, config.taps, sizes.width))}


def config_of(fields):
    return MovingAverage(**fields)


def check_values(params, config):
    pass


def check_state(state, config, tokens):
    pass


def length_limit(config):
    return None


# --- what each backend is handed ------------------------------------------------------------------


def reference_layer(params, x, state=None, *, config):
    w, L = config.taps, x.shape[1]
    h = reference.layer_norm(x, params["norm.weight"], params["norm.bias"], eps=config.eps)
    before = np.zeros((len(x), w, x.shape[2]), x.dtype) if state is None else state
    seen = np.concatenate([before, h], 1)  # (B,w+L,E)
    mean = sum(seen[:, w - i : w - i + L] for i in range(w)) / w
    return reference.dense(mean, params["w_o"]) + x, seen[:, L:]


def reference_layer_vjp(params, x, state, dout, dstate, *, config):
    w, (B, L, E) = config.taps, x.shape
    norm = params["norm.weight"], params["norm.bias"]
    h = reference.layer_norm(x, *norm, eps=config.eps)
    before = np.zeros((B, w, E), x.dtype) if state is None else state
    seen, dseen = np.concatenate([before, h], 1), np.zeros((B, w + L, E), x.dtype)
    mean = sum(seen[:, w - i : w - i + L] for i in range(w)) / w
    dmean, dw_o, _ = reference.dense_vjp(mean, params["w_o"], None, dout)
    dseen[:, L:] += dstate
    for i in range(w):
        dseen[:, w - i : w - i + L] += dmean / w
    dx, dweight, dbias = reference.layer_norm_vjp(x, *norm, dseen[:, w:], eps=config.eps)
    g = {"norm.weight": dweight, "norm.bias": dbias, "w_o": dw_o}
    return g, dx + dout, dseen[:, :w]


def jax_layer(params, x, state=None, *, config, plan=None):
    w, L = config.taps, x.shape[1]
    h = xla.layer_norm(x, params["norm.weight"], params["norm.bias"], eps=config.eps)
    before = jnp.zeros((len(x), w, x.shape[2]), x.dtype) if state is None else state
    seen = jnp.concatenate([before, h], 1)  # (B,w+L,E)
    mean = sum(seen[:, w - i : w - i + L] for i in range(w)) / w
    return xla.dense(mean, params["w_o"]) + x, seen[:, L:]


def initial(config, sizes, depth, memory, rng):
    E = sizes.width
    w_o = rng.standard_normal((E, E)) / np.sqrt(E * depth)
    return {"norm.weight": np.ones(E), "norm.bias": np.zeros(E), "w_o": w_o}
