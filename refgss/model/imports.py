"""Weights of the package gated-state-spaces-pytorch 0.1.0, by the names of chapter 7."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from refgss.config import GSS_PYTORCH, GSSConfig, Imag, LMConfig
from refgss.layers import of_layer
from refgss.model.weights import from_bf16
from refgss.tensors import ModelError, read_tensors

# theirs -> ours; matrices of theirs are (out,in)
MODEL = {"token_emb.weight": "embedding.weight"}
MODEL_TRANSPOSED = {"to_logits.weight": "head.weight"}
LAYER = {
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
    "dss.norm.weight": "ssm.norm.weight",
    "dss.norm.bias": "ssm.norm.bias",
    "dss.Lambda_real": "ssm.a",
    "dss.Lambda_imag": "ssm.b",
    "dss.param_D": "ssm.d",
    "to_out.bias": "b_o",
}
LAYER_TRANSPOSED = {  # what the package calls u is the gate
    "to_u.0.weight": "w_v",
    "to_v.0.weight": "w_u",
    "to_gate.weight": "w_uc",
    "to_out.weight": "w_o",
}
COMPLEX = ("dss.C_real", "dss.C_imag")  # -> ssm.c


WRAPPERS = ("net.", "module.", "model.", "_orig_mod.")  # of modules that hold the model
HOLDERS = ("model", "state_dict", "model_state_dict", "net", "module")  # of files with more in them
THEIRS = "gated-state-spaces-pytorch 0.1.0"

Weights = Mapping[str, np.ndarray]


def is_layer(weights: Weights) -> bool:
    """Whether they are those of a single GSS module, and no language model."""
    return "dss.Lambda_real" in unwrapped(weights)


def from_gated_state_spaces_pytorch(
    weights: Weights, *, imag: Imag = "exp"
) -> tuple[dict[str, np.ndarray], LMConfig]:
    """A state dict of its GatedStateSpacesLM -> parameters and config.  Clauses: GSS-LAY-8.

    Names may begin as in a module that holds the model (net., module., …).
    imag: "identity" for modules made with dss_kernel_lambda_imag_exp=False.
    Raises ModelError where a name is missing or not known.
    """
    known = {**MODEL, **MODEL_TRANSPOSED}
    layers: dict[int, dict[str, np.ndarray]] = {}
    params: dict[str, np.ndarray] = {}
    for name, x in unwrapped(weights).items():
        if match := re.fullmatch(r"layers\.(\d{1,4})\.(.+)", name):
            layers.setdefault(int(match[1]), {})[match[2]] = x
        elif name not in known:
            raise ModelError(f"{name} is no tensor of {THEIRS}")
        else:
            params[known[name]] = x.T if name in MODEL_TRANSPOSED else x
    for i, layer in layers.items():
        prefix = f"layers.{i}."
        params |= {prefix + k: x for k, x in layer_params(layer, prefix).items()}
    if missing := {*known.values()} - params.keys():
        raise ModelError(f"{min(missing)} is missing: is this a whole GatedStateSpacesLM?")
    if missing_layers := {*range(len(layers) or 1)} - layers.keys():
        raise ModelError(f"layer {min(missing_layers)} is missing: is this a whole model?")
    layer_config = replace(GSS_PYTORCH, imag=imag)
    return in_float32(params), LMConfig(layer_config, len(layers), final_norm=False)


def to_gated_state_spaces_pytorch(params: Weights, config: LMConfig) -> dict[str, np.ndarray]:
    """The inverse: a state dict of its GatedStateSpacesLM.  Clauses: GSS-LAY-8.

    Raises ModelError for a model that the package has not.
    """
    theirs = all(
        isinstance(layer, GSSConfig) and replace(layer, imag=GSS_PYTORCH.imag) == GSS_PYTORCH
        for layer in config.layers
    )
    if not theirs or config.final_norm or config.tied:
        raise ModelError(
            f"{THEIRS} has GSS layers with a norm in the SSM and a bias of the output alone, no "
            "final norm, and a head of its own"
        )
    found = {name: params[ours] for name, ours in MODEL.items()}
    found |= {name: params[ours].T for name, ours in MODEL_TRANSPOSED.items()}
    for i in range(config.depth):
        own = of_layer(params, i)
        layer = {name: own[ours] for name, ours in LAYER.items()}
        layer |= {name: own[ours].T for name, ours in LAYER_TRANSPOSED.items()}
        layer |= dict(zip(COMPLEX, (own["ssm.c"].real, own["ssm.c"].imag), strict=True))
        found |= {f"layers.{i}.{name}": x for name, x in layer.items()}
    return {name: np.ascontiguousarray(x) for name, x in found.items()}


def from_gss_module(
    weights: Weights, *, imag: Imag = "exp"
) -> tuple[dict[str, np.ndarray], GSSConfig]:
    """A state dict of a single GSS module -> parameters and config.  Clauses: GSS-LAY-8."""
    return in_float32(layer_params(unwrapped(weights))), replace(GSS_PYTORCH, imag=imag)


def layer_params(layer: Weights, prefix: str = "") -> dict[str, np.ndarray]:
    """Of one layer, by the names of chapter 7."""
    expected = {*LAYER, *LAYER_TRANSPOSED, *COMPLEX}
    if odd := sorted(layer.keys() ^ expected):
        raise ModelError(f"{prefix}{odd[0]} is missing, or no tensor of {THEIRS}")
    real, imaginary = (layer[name] for name in COMPLEX)
    if real.shape != imaginary.shape:
        raise ModelError(f"{prefix}{COMPLEX[0]} and {COMPLEX[1]} must have one shape")
    named = {LAYER[k]: layer[k] for k in LAYER}
    named |= {LAYER_TRANSPOSED[k]: layer[k].T for k in LAYER_TRANSPOSED}
    return named | {"ssm.c": real + np.complex64(1j) * imaginary}


def unwrapped(weights: Weights) -> Weights:
    """Without what all names begin with where the model was part of another module."""
    for prefix in WRAPPERS:
        if weights and all(name.startswith(prefix) for name in weights):
            return unwrapped({name.removeprefix(prefix): x for name, x in weights.items()})
    return weights


def in_float32(params: Weights) -> dict[str, np.ndarray]:
    single = {"f": np.float32, "c": np.complex64}
    for name, x in params.items():
        if x.dtype.kind not in single:
            raise ModelError(f"{name} must be of floating-point numbers, not {x.dtype}")
    return {k: np.ascontiguousarray(x, single[x.dtype.kind]) for k, x in params.items()}


def read_weights(path: Path) -> Weights:
    """A state dict in a safetensors file, or in a file of torch.save, of which nothing is executed.

    Alone, or under one of HOLDERS beside other things.  Raises ModelError where it cannot be read.
    """
    if path.suffix == ".safetensors":
        found = read_tensors(path).tensors
        return {k: from_bf16(x) if x.dtype == np.uint16 else x for k, x in found.items()}
    try:
        import torch
    except ImportError as e:
        raise ModelError(
            f"{path} needs PyTorch to be read: install torch, or save it as .safetensors"
        ) from e
    try:
        tensors = state_dict_of(torch.load(path, map_location="cpu", weights_only=True))
        return {name: in_binary32(name, x, torch.float32) for name, x in tensors.items()}
    except OSError as e:
        raise ModelError(f"{path} cannot be read: {e.strerror or e}") from e
    except pickle.UnpicklingError as e:
        raise ModelError(
            f"{path} holds a pickled module or other objects, which would run code when loaded: "
            "save its weights alone, torch.save(model.state_dict(), …)"
        ) from e
    except Exception as e:  # whatever a damaged or hostile file makes torch raise
        what = str(e).splitlines()[0][:200] if str(e) else type(e).__name__
        raise ModelError(f"{path} is no state dict of tensors: {what}") from e


def in_binary32(name: str, tensor: Any, float32: Any) -> np.ndarray:
    """Raises ValueError for what is not of floating-point numbers."""
    if not tensor.is_floating_point():
        raise ValueError(f"{name} is of {tensor.dtype}")
    return tensor.to(float32).numpy()


def state_dict_of(found: Any) -> Mapping[str, Any]:
    """The names and tensors, where they are alone or beside an optimizer's and others.

    Raises ValueError where there are none.
    """
    if not isinstance(found, Mapping):
        raise ValueError(f"it holds a {type(found).__name__}")
    if found and all(hasattr(x, "numpy") for x in found.values()):
        return found
    for name in HOLDERS:
        if isinstance(found.get(name), Mapping):
            return state_dict_of(found[name])
    raise ValueError(f"it has {', '.join(map(str, found))[:100] or 'nothing'}")
