"""Where a model starts: state-space parameters by chapter 2, dense weights scaled by variance."""

from __future__ import annotations

import numpy as np

from refgss.config import GSSConfig, Imag, LMConfig
from refgss.reference.initialization import dss_parameters, gss_parameters


def initialize(
    config: LMConfig,
    *,
    vocabulary: int,
    width: int,
    gate: int | None = None,
    channels: int | None = None,
    states: int,
    memory: float | None = None,
    seed: int,
) -> dict[str, np.ndarray]:
    """The parameters of chapter 8 (float32, complex64), drawn.  Clauses: GSS-INI-5..6, GSS-INI-8.

    vocabulary V, width E, states N; gate F and channels H for GSS layers, which alone have them.
    memory spreads the modes of GSS layers over time constants from 1 to so many tokens (GSS-INI-9).
    Equal arguments give equal numbers.  Raises ValueError where a size is missing or below 1.
    """
    kind = config.layer
    is_gss = isinstance(kind, GSSConfig)
    if is_gss != (gate is not None) or is_gss != (channels is not None):
        raise ValueError("gate and channels belong to GSS layers, and only to them")
    V, E, N, F, H = vocabulary, width, states, gate or width, channels or width
    if min(V, E, N, F, H) < 1:
        raise ValueError("vocabulary, width, gate, channels and states must be at least 1")
    if memory is not None and not (is_gss and 1 <= memory < np.inf):
        raise ValueError("memory belongs to GSS layers, and must be at least 1 token and finite")
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, variance: float) -> np.ndarray:
        return rng.standard_normal((rows, columns)) * np.sqrt(variance)

    params = {"embedding.weight": matrix(V, E, 1 / E if config.tied else 1)}
    for i in range(config.depth):
        layer = {"norm.weight": np.ones(E), "norm.bias": np.zeros(E)}
        if isinstance(kind, GSSConfig):
            layer |= gss_parameters(N, H, rng)
            if memory is not None:
                layer |= spread(layer["ssm.c"], memory, kind.imag, rng)
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
