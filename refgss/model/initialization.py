"""Where a model starts: state-space parameters by chapter 2, dense weights scaled by variance."""

from __future__ import annotations

import numpy as np

from refgss.config import GSSConfig, LMConfig
from refgss.reference.initialization import dss_parameters, gss_parameters


def initialize(
    config: LMConfig,
    *,
    vocabulary: int,
    width: int,
    gate: int | None = None,
    channels: int | None = None,
    states: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """The parameters of chapter 8 (float32, complex64), drawn.  Clauses: GSS-INI-5..6, GSS-INI-8.

    vocabulary V, width E, states N; gate F and channels H for GSS layers, which alone have them.
    Equal arguments give equal numbers.  Raises ValueError where a size is missing or below 1.
    """
    kind = config.layer
    is_gss = isinstance(kind, GSSConfig)
    if is_gss != (gate is not None) or is_gss != (channels is not None):
        raise ValueError("gate and channels belong to GSS layers, and only to them")
    V, E, N, F, H = vocabulary, width, states, gate or width, channels or width
    if min(V, E, N, F, H) < 1:
        raise ValueError("vocabulary, width, gate, channels and states must be at least 1")
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, variance: float) -> np.ndarray:
        return rng.standard_normal((rows, columns)) * np.sqrt(variance)

    params = {"embedding.weight": matrix(V, E, 1 / E if config.tied else 1)}
    for i in range(config.depth):
        layer = {"norm.weight": np.ones(E), "norm.bias": np.zeros(E)}
        if isinstance(kind, GSSConfig):
            layer |= gss_parameters(N, H, rng)
            layer |= {"w_v": matrix(E, F, 1 / E), "w_u": matrix(E, H, 1 / E)}
            layer |= {"w_uc": matrix(H, F, 1 / (H * N))}
            if kind.ssm_norm:
                layer |= {"ssm.norm.weight": np.ones(H), "ssm.norm.bias": np.zeros(H)}
        else:
            layer |= dss_parameters(N, E, rng)
        layer |= {"w_o": matrix(F, E, 1 / (F * config.depth))}
        if config.layer.out_bias:
            layer |= {"b_o": np.zeros(E)}
        params |= {f"layers.{i}.{name}": x for name, x in layer.items()}
    if config.final_norm:
        params |= {"norm.weight": np.ones(E), "norm.bias": np.zeros(E)}
    if not config.tied:
        params |= {"head.weight": matrix(E, V, 1 / E)}
    single = {"f": np.float32, "c": np.complex64}
    return {name: x.astype(single[x.dtype.kind]) for name, x in params.items()}
