"""The ops that are written in plain PyTorch, for any device; gradients are autograd's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from refgss.torch import attention, discretization, pointwise, recurrence

FORMULAS: dict[str, Callable[..., Any]] = {
    op: getattr(module, op)
    for module, names in (
        (discretization, "gss_lambda discretize"),
        (recurrence, "ssm_kernel causal_conv ssm_scan ssm_step"),
        (pointwise, "layer_norm rms_norm gelu dense"),
        (attention, "rope t5_bias attention attention_step"),
    )
    for op in names.split()
}
