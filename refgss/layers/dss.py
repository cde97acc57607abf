"""The DSS layer as a kind (GSS-LAY-6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refgss.config import DSSConfig, KernelForm
from refgss.layers.gss import check_modes
from refgss.layers.tensor import Role, Tensor

NAME = "dss"
OP = "dss_layer"
Config = DSSConfig
SIZED_BY = {"norm.weight": "E", "ssm.c": "E,N"}
ROLES: dict[str, Role] = {
    "w_o": "matrix",
    **dict.fromkeys(("ssm.a", "ssm.b", "ssm.log_delta"), "modes"),
}


@dataclass(frozen=True)
class Sizes:
    """E and N; `separate` steps Δ of Re Λ and of Im Λ."""

    width: int
    states: int
    separate: bool = True


def sizes(params: Mapping[str, Any]) -> Sizes:
    E, N = params["norm.weight"].shape[0], params["ssm.c"].shape[1]
    steps = getattr(params.get("ssm.log_delta"), "shape", ())  # (E,) or (E,2)
    return Sizes(E, N, len(steps) == 2)


def parameters(config: DSSConfig, sizes: Sizes) -> dict[str, Tensor]:
    """Clauses: GSS-LAY-6."""
    E, N = sizes.width, sizes.states
    found = {
        "norm.weight": Tensor((E,)),
        "norm.bias": Tensor((E,)),
        "ssm.a": Tensor((N,)),
        "ssm.b": Tensor((N,)),
        "ssm.c": Tensor((E, N), "complex"),
        "ssm.d": Tensor((E,)),
        "w_o": Tensor((E, E)),
        "ssm.log_delta": Tensor((E, 2) if sizes.separate else (E,)),
    }
    return found | ({"b_o": Tensor((E,))} if config.out_bias else {})


def state(config: DSSConfig, sizes: Sizes, batch: int) -> dict[str, Tensor]:
    """x (B,E,N) of the state-space model.  Clauses: GSS-STA-3."""
    return {"x": Tensor((batch, sizes.width, sizes.states), "complex")}


def config_of(fields: Mapping[str, Any]) -> DSSConfig:
    return DSSConfig(**{**fields, "form": KernelForm(**fields["form"])})


def check_values(params: Mapping[str, np.ndarray], config: DSSConfig) -> None:
    """Raises ValueError unless Λ and Δ are finite, Re Λ < 0 and Δ > 0.  Clauses: GSS-FMT-5."""
    check_modes(params["ssm.a"], params["ssm.b"], config.imag)
    with np.errstate(over="ignore", under="ignore"):
        delta = np.exp(params["ssm.log_delta"])
    if not np.all((delta > 0) & np.isfinite(delta)):
        raise ValueError("ssm.log_delta must give steps that are positive and finite")


def check_state(state: Any, config: DSSConfig, tokens: int) -> None:
    """Any numbers are a state."""


def length_limit(config: DSSConfig) -> int | None:
    """The declared length of dss-softmax.  Clauses: GSS-STA-8."""
    return config.form.length
