"""The GSS layer as a kind (GSS-LAY-1..5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refgss.config import GSSConfig
from refgss.layers.tensor import Role, Tensor

NAME = "gss"
OP = "gss_layer"
Config = GSSConfig
SIZED_BY = {"norm.weight": "E", "w_v": "E,F", "ssm.c": "H,N"}
ROLES: dict[str, Role] = {
    **dict.fromkeys(("w_v", "w_u", "w_uc", "w_o"), "matrix"),
    **dict.fromkeys(("ssm.a", "ssm.b"), "modes"),
}


@dataclass(frozen=True)
class Sizes:
    """E, F, H and N."""

    width: int
    gate: int
    channels: int
    states: int


def sizes(params: Mapping[str, Any]) -> Sizes:
    return Sizes(params["norm.weight"].shape[0], params["w_v"].shape[1], *params["ssm.c"].shape)


def parameters(config: GSSConfig, sizes: Sizes) -> dict[str, Tensor]:
    """Clauses: GSS-LAY-1, GSS-LAY-4, GSS-LAY-5."""
    E, F, H, N = sizes.width, sizes.gate, sizes.channels, sizes.states
    found = {
        "norm.weight": Tensor((E,)),
        "norm.bias": Tensor((E,)),
        "ssm.a": Tensor((N,)),
        "ssm.b": Tensor((N,)),
        "ssm.c": Tensor((H, N), "complex"),
        "ssm.d": Tensor((H,)),
        "w_v": Tensor((E, F)),
        "w_u": Tensor((E, H)),
        "w_uc": Tensor((H, F)),
        "w_o": Tensor((F, E)),
    }
    if config.ssm_norm:
        found |= {"ssm.norm.weight": Tensor((H,)), "ssm.norm.bias": Tensor((H,))}
    return found | ({"b_o": Tensor((E,))} if config.out_bias else {})


def state(config: GSSConfig, sizes: Sizes, batch: int) -> dict[str, Tensor]:
    """x (B,H,N) of the state-space model.  Clauses: GSS-STA-3."""
    return {"x": Tensor((batch, sizes.channels, sizes.states), "complex")}


def config_of(fields: Mapping[str, Any]) -> GSSConfig:
    return GSSConfig(**fields)


def check_values(params: Mapping[str, np.ndarray], config: GSSConfig) -> None:
    """Raises ValueError unless Λ is finite with Re Λ < 0.  Clauses: GSS-FMT-5."""
    check_modes(params["ssm.a"], params["ssm.b"], config.imag)


def check_modes(a: np.ndarray, b: np.ndarray, imag: str) -> None:
    with np.errstate(over="ignore", under="ignore"):
        decay, frequency = np.exp(a), np.exp(b) if imag == "exp" else b
    if not np.all((decay > 0) & np.isfinite(decay) & np.isfinite(frequency)):
        raise ValueError("ssm.a and ssm.b must give finite Λ with Re Λ < 0")


def check_state(state: Any, config: GSSConfig, tokens: int) -> None:
    """Any numbers are a state."""


def length_limit(config: GSSConfig) -> int | None:
    """A stream never ends."""
    return None
