"""The block-recurrent layer: the reference's own text, run over the ops of this backend.

As with the transformer layer, there is no second copy that could drift.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from refgss.native.attention import t5_bias, t5_bias_vjp
from refgss.native.pointwise import (
    dense,
    dense_vjp,
    gate,
    gate_vjp,
    l2_normalize,
    l2_normalize_vjp,
    rms_norm,
    rms_norm_vjp,
)
from refgss.native.transformer import activation, activation_vjp, over
from refgss.native.window_attention import (
    state_attention,
    state_attention_vjp,
    window_attention,
    window_attention_vjp,
)

OPS: tuple[Callable[..., Any], ...] = (
    *(t5_bias, t5_bias_vjp, dense, dense_vjp, gate, gate_vjp, l2_normalize, l2_normalize_vjp),
    *(rms_norm, rms_norm_vjp, activation, activation_vjp),
    *(state_attention, state_attention_vjp, window_attention, window_attention_vjp),
)

_here = over("refgss.reference.block_recurrent", OPS)
block_recurrent_layer: Callable[..., Any] = _here.block_recurrent_layer
block_recurrent_layer_vjp: Callable[..., Any] = _here.block_recurrent_layer_vjp
block_recurrent_step: Callable[..., Any] = _here.block_recurrent_step
block_recurrent_step_vjp: Callable[..., Any] = _here.block_recurrent_step_vjp
