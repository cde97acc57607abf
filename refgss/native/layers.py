"""The layers and the language model: layers and their gradients in C++.

The language model, the transformer and the block-recurrent layer are the reference's own text, run
over the native ops: there is no second copy that could drift.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, update_wrapper
from typing import Any

import numpy as np

from refgss import checks
from refgss.config import GSS, BlockRecurrentConfig, DSSConfig, GSSConfig, TransformerConfig
from refgss.native import _core
from refgss.native.block_recurrent import block_recurrent_layer, block_recurrent_layer_vjp
from refgss.native.pointwise import dense, dense_vjp, layer_norm, layer_norm_vjp
from refgss.native.state_space import Prepared, form_tuple, gss_lambda
from refgss.native.transformer import transformer_layer, transformer_layer_vjp
from refgss.reference import language_model
from refgss.reference.language_model import ModelOps
from refgss.reference.layers import LayerOps

Params = Mapping[str, np.ndarray]


def gss_layer(
    params: Params, x: np.ndarray, state: np.ndarray | None = None, *, config: GSSConfig
) -> tuple[np.ndarray, np.ndarray]:
    """x (B,L,E), state (B,H,N) or None -> (B,L,E), state.  Clauses: GSS-LAY-1..GSS-LAY-5."""
    checks.check_layer("gss_layer", params, x, state, config)
    return _core.gss_layer(dict(params), None, x, state, config.imag == "exp", config.eps)


def dss_layer(
    params: Params, x: np.ndarray, state: np.ndarray | None = None, *, config: DSSConfig
) -> tuple[np.ndarray, np.ndarray]:
    """x (B,L,E), state (B,E,N) or None -> (B,L,E), state.  Clauses: GSS-LAY-6."""
    checks.check_layer("dss_layer", params, x, state, config)
    form = form_tuple(config.form)
    return _core.dss_layer(dict(params), None, x, state, config.imag == "exp", config.eps, form)


def gss_layer_vjp(
    params: Params,
    x: np.ndarray,
    state: np.ndarray | None,
    dout: np.ndarray,
    dstate: np.ndarray,
    *,
    config: GSSConfig,
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """dout (B,L,E), dstate (B,H,N) -> dparams, dx (B,L,E), dstate_0.  Clauses: GSS-GRD-10."""
    checks.check_layer("gss_layer_vjp", params, x, state, config)
    checks.check_layer_cotangents("gss_layer_vjp", params, x, dout, dstate, config)
    return gss_layer_back(params, x, state, None, dout, dstate, config=config)


Kept = tuple[np.ndarray, ...]  # v, u, y, uc of a forward pass: refgss_gss_layer_kept


def gss_layer_keeping(
    params: Params, x: np.ndarray, state: np.ndarray | None, *, config: GSSConfig
) -> tuple[np.ndarray, np.ndarray, Kept]:
    """`gss_layer`, and what its gradient would otherwise compute again."""
    checks.check_layer("gss_layer", params, x, state, config)
    return _core.gss_layer_keeping(dict(params), x, state, config.imag == "exp", config.eps)


def gss_layer_back(
    params: Params,
    x: np.ndarray,
    state: np.ndarray | None,
    kept: Kept | None,
    dout: np.ndarray,
    dstate: np.ndarray | None,
    *,
    config: GSSConfig,
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """`gss_layer_vjp` of arguments that were checked, with what was kept; no dstate means zeros."""
    options = config.imag == "exp", config.eps
    return _core.gss_layer_vjp(dict(params), x, state, kept, dout, dstate, *options)


def dss_layer_vjp(
    params: Params,
    x: np.ndarray,
    state: np.ndarray | None,
    dout: np.ndarray,
    dstate: np.ndarray,
    *,
    config: DSSConfig,
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """dout (B,L,E), dstate (B,E,N) -> dparams, dx (B,L,E), dstate_0.  Clauses: GSS-GRD-10."""
    checks.check_layer("dss_layer_vjp", params, x, state, config)
    checks.check_layer_cotangents("dss_layer_vjp", params, x, dout, dstate, config)
    options = config.imag == "exp", config.eps, form_tuple(config.form)
    return _core.dss_layer_vjp(dict(params), x, state, dout, dstate, *options)


class PreparedLayer:
    """A GSS or DSS layer whose parameters stay: discretised and transformed once.

    layer(x, state) is gss_layer(params, x, state, config=config), or dss_layer's.
    """

    def __init__(self, params: Params, length: int, *, config: GSSConfig | DSSConfig):
        empty = np.empty((0, 0, params["norm.weight"].shape[0]), params["norm.weight"].dtype)
        checks.check_layer("PreparedLayer", params, empty, None, config)
        lam = gss_lambda(params["ssm.a"], params["ssm.b"], imag=config.imag)
        is_gss = isinstance(config, GSSConfig)
        delta: Any = 1.0 if is_gss else np.exp(params["ssm.log_delta"])
        form = GSS if isinstance(config, GSSConfig) else config.form
        self.params, self.config = dict(params), config
        self._map = Prepared(lam, params["ssm.c"], length, delta=delta, form=form)
        self._layer = _core.gss_layer if is_gss else _core.dss_layer
        self._options: tuple[Any, ...] = (config.imag == "exp", config.eps)
        if isinstance(config, DSSConfig):
            self._options += (form_tuple(config.form),)

    def __call__(self, x: np.ndarray, state: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        checks.check_layer("PreparedLayer", self.params, x, state, self.config)
        return self._layer(self.params, self._map._core, x, state, *self._options)


LAYERS = {
    GSSConfig: LayerOps(gss_layer, gss_layer_vjp),
    DSSConfig: LayerOps(dss_layer, dss_layer_vjp),
    TransformerConfig: LayerOps(transformer_layer, transformer_layer_vjp),
    BlockRecurrentConfig: LayerOps(block_recurrent_layer, block_recurrent_layer_vjp),
}
OPS = ModelOps(LAYERS, dense, dense_vjp, layer_norm, layer_norm_vjp)


def composed(op: Callable[..., Any]) -> Callable[..., Any]:
    """An op of the reference's language model over the ops of this backend."""
    return update_wrapper(partial(op, ops=OPS), op)


lm_logits = composed(language_model.lm_logits)
lm_logits_vjp = composed(language_model.lm_logits_vjp)
lm_loss = composed(language_model.lm_loss)
lm_loss_vjp = composed(language_model.lm_loss_vjp)
