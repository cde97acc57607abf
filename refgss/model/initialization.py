"""Where a model starts: state-space parameters by chapter 2, dense weights scaled by variance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

import numpy as np

from refgss.config import (
    BlockRecurrentConfig,
    DSSConfig,
    GSSConfig,
    Imag,
    LayerConfig,
    LMConfig,
    TransformerConfig,
)
from refgss.layers import block_recurrent, kind_of, transformer
from refgss.reference.initialization import dss_parameters, gss_parameters

Params = dict[str, np.ndarray]
Sizes = Any  # of the layer's kind


def initialize(
    config: LMConfig,
    sizes: Mapping[str, Any],
    *,
    vocabulary: int,
    memory: float | None = None,
    seed: int,
) -> Params:
    """The parameters of chapter 8 (float32, complex64), drawn.  Clauses: GSS-INI-5..6, GSS-INI-8.

    sizes by the names of the Sizes of each kind of layer, as far as it has them: width E; gate F,
    channels H and states N of a GSS layer; inner (the heads together) and hidden (of the MLP) of a
    transformer layer or a block-recurrent one, which have usual values.
    memory spreads the modes of GSS layers over time constants from 1 to so many tokens (GSS-INI-9).
    Equal arguments give equal numbers.  Raises ValueError where a size is missing, below 1, or of
    no layer of the model.
    """
    of_layers = [sizes_for(layer, sizes) for layer in config.layers]
    known = {f.name for own in of_layers for f in fields(own)}
    if foreign := sorted(sizes.keys() - known):
        raise ValueError(f"no layer of this model has the size {foreign[0]}")
    if vocabulary < 1 or min(sizes.values()) < 1:
        raise ValueError("the vocabulary and all sizes must be at least 1")
    if memory is not None:
        if not any(isinstance(layer, GSSConfig) for layer in config.layers):
            raise ValueError("memory belongs to GSS layers, and this model has none")
        if not 1 <= memory < np.inf:
            raise ValueError("memory must be at least 1 token and finite")
    rng, V, E = np.random.default_rng(seed), vocabulary, sizes["width"]
    params = {"embedding.weight": matrix(rng, V, E, 1 / E if config.tied else 1)}
    for i, (layer, own) in enumerate(zip(config.layers, of_layers, strict=True)):
        drawn = INITIAL[type(layer)](layer, own, config.depth, memory, rng)
        params |= {f"layers.{i}.{name}": x for name, x in drawn.items()}
    if config.final_norm:
        params |= {"norm.weight": np.ones(E), "norm.bias": np.zeros(E)}
    if not config.tied:
        params |= {"head.weight": matrix(rng, E, V, 1 / E)}
    single = {"f": np.float32, "c": np.complex64}
    return {name: x.astype(single[x.dtype.kind]) for name, x in params.items()}


def sizes_for(layer: LayerConfig, sizes: Mapping[str, Any]) -> Sizes:
    """The Sizes of a layer's kind, from those of a model; ValueError where one is missing."""
    kind = kind_of(layer)
    own = fields(kind.Sizes)
    for f in own:
        if f.name not in sizes and f.default is MISSING:
            raise ValueError(f"a layer of the kind {kind.NAME} needs the size {f.name}")
    return kind.Sizes(**{f.name: sizes[f.name] for f in own if f.name in sizes})


def matrix(rng: np.random.Generator, rows: int, columns: int, variance: float) -> np.ndarray:
    return rng.standard_normal((rows, columns)) * np.sqrt(variance)


def gss_initial(
    config: GSSConfig, sizes: Sizes, depth: int, memory: float | None, rng: np.random.Generator
) -> Params:
    E, F, H, N = sizes.width, sizes.gate, sizes.channels, sizes.states
    layer = {"norm.weight": np.ones(E), "norm.bias": np.zeros(E)} | gss_parameters(N, H, rng)
    if memory is not None:
        layer |= spread(layer["ssm.c"], memory, config.imag, rng)
    layer |= {"w_v": matrix(rng, E, F, 1 / E), "w_u": matrix(rng, E, H, 1 / E)}
    layer |= {"w_uc": matrix(rng, H, F, 1 / (H * N))}
    if config.ssm_norm:
        layer |= {"ssm.norm.weight": np.ones(H), "ssm.norm.bias": np.zeros(H)}
    return layer | output(F, E, depth, config.out_bias, rng)


def dss_initial(
    config: DSSConfig, sizes: Sizes, depth: int, memory: float | None, rng: np.random.Generator
) -> Params:
    E = sizes.width
    layer = {"norm.weight": np.ones(E), "norm.bias": np.zeros(E)}
    layer |= dss_parameters(sizes.states, E, rng)
    return layer | output(E, E, depth, config.out_bias, rng)


def transformer_initial(
    config: TransformerConfig,
    sizes: Sizes,
    depth: int,
    memory: float | None,
    rng: np.random.Generator,
) -> Params:
    """As GSS-INI-8 has it of dense weights; of both maps that end a branch, half the variance.

    A T5 table starts from zeros, and learned positions from N(0, 0.02²).  Clauses: GSS-HYB-12.
    """
    layer = {}
    for name, tensor in transformer.parameters(config, sizes).items():
        if name == "position.weight" or name.startswith("w_"):
            rows, columns = tensor.shape
            terms = 2 * depth if name in ("w_o", "w_2") else 1
            variance = 0.02**2 if name == "position.weight" else 1 / (rows * terms)
            layer[name] = matrix(rng, rows, columns, variance)
        else:
            layer[name] = np.full(tensor.shape, float(name in ("norm1.weight", "norm2.weight")))
    return layer


def block_recurrent_initial(
    config: BlockRecurrentConfig,
    sizes: Sizes,
    depth: int,
    memory: float | None,
    rng: np.random.Generator,
) -> Params:
    """As its authors have it; of both maps that end a branch of tokens, half the variance / depth.

    Clauses: GSS-BRT-2.
    """
    layer = {}
    for name, tensor in block_recurrent.parameters(config, sizes).items():
        rows, terms = tensor.shape[0], 2 * depth if name in ("w_o", "w_2") else 1
        variance = {"initial": 0.01, "ids": 1, "table": 1 / 32, "b_f": 0.01, "b_i": 0.01}.get(
            name.split(".")[-1]
        )
        if len(tensor.shape) == 2 and variance is None:
            variance = (0.1 if "gate" in name else 1) / (rows * terms)
        if variance is None:  # norms and scales
            layer[name] = np.ones(tensor.shape)
        else:
            layer[name] = rng.standard_normal(tensor.shape) * np.sqrt(variance)
    return layer


def output(rows: int, E: int, depth: int, bias: bool, rng: np.random.Generator) -> Params:
    """The map that ends a layer, the smaller the more of them are added up."""
    w_o = {"w_o": matrix(rng, rows, E, 1 / (rows * depth))}
    return w_o | ({"b_o": np.zeros(E)} if bias else {})


# by the type of a layer's options: (config, sizes, depth, memory, rng) -> its parameters
INITIAL: dict[type, Callable[..., Params]] = {
    GSSConfig: gss_initial,
    DSSConfig: dss_initial,
    TransformerConfig: transformer_initial,
    BlockRecurrentConfig: block_recurrent_initial,
}


def spread(
    c: np.ndarray, memory: float, imag: Imag, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """ssm.a, ssm.b (N,) and ssm.c (H,N) of modes that are slow and fast alike.  Clauses: GSS-INI-9.

    The modes are divided by what each makes of white noise, so that none drowns the others.
    """
    N = c.shape[1]
    a = np.linspace(-np.log(memory), 0, N)
    log_omega = a + rng.random(N) * (np.log(np.pi) - a)
    lam = -np.exp(a) + 1j * np.exp(log_omega)
    gain = np.abs(np.expm1(lam) / lam) / np.sqrt(-np.expm1(-2 * np.exp(a)))
    b = log_omega if imag == "exp" else np.exp(log_omega)
    return {"ssm.a": a, "ssm.b": b, "ssm.c": c / gain}
