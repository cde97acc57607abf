"""optax's optimisers over the parameters of chapter 8, each kind of parameter at its own rate.

Complex parameters are trained as real ones with a trailing axis of two (GSS-FMT-1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from optax import contrib

from refgss.training.recipe import Recipe

Params = Mapping[str, Any]


def to_real(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ssm.c (H,N) complex as (H,N,2)."""
    parts = {k: np.stack([v.real, v.imag], -1) for k, v in params.items() if np.iscomplexobj(v)}
    return {**params, **parts}


def to_complex(params: Params) -> dict[str, Any]:
    return {k: jax.lax.complex(v[..., 0], v[..., 1]) if is_c(k) else v for k, v in params.items()}


def is_c(name: str) -> bool:
    return name.endswith("ssm.c")


def optimizer(recipe: Recipe, roles: Mapping[str, str]) -> optax.GradientTransformation:
    """Clipping, then the optimiser of each role, at peak rates: a step scales by the schedule.

    roles by the name of the parameter (`refgss.layers.role_of`): modes, the exponents of Λ and Δ,
    want a lower rate.
    """
    adam = optax.scale_by_adam(b1=0.9, b2=0.98)
    main = optax.scale_by_factored_rms() if recipe.optimizer == "adafactor" else adam
    decay = optax.add_decayed_weights(recipe.weight_decay)
    rate = optax.scale(-recipe.rate)
    if recipe.optimizer == "muon":
        matrix = contrib.muon(recipe.matrix_rate, weight_decay=recipe.weight_decay)
    else:
        matrix = optax.chain(main, decay, rate)
    rules = {
        "modes": optax.chain(adam, optax.scale(-recipe.modes_rate)),
        "other": optax.chain(main, rate),
        "table": optax.chain(main, rate),
        "matrix": matrix,
    }
    by_role = optax.partition(rules, dict(roles))
    return optax.chain(optax.clip_by_global_norm(recipe.clip), by_role)
