"""Weights of the package gated-state-spaces-pytorch 0.1.0, by the names of chapter 7."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from refgss.config import GSS_PYTORCH, Imag, LMConfig
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


def from_gated_state_spaces_pytorch(
    weights: Mapping[str, np.ndarray], *, imag: Imag = "exp"
) -> tuple[dict[str, np.ndarray], LMConfig]:
    """A state dict of its GatedStateSpacesLM -> parameters and config.  Clauses: GSS-LAY-8.

    imag: "identity" for modules made with dss_kernel_lambda_imag_exp=False.
    Raises ModelError where a name is missing or not known.
    """
    known = {**MODEL, **MODEL_TRANSPOSED}
    layers: dict[int, dict[str, np.ndarray]] = {}
    params: dict[str, np.ndarray] = {}
    for name, x in weights.items():
        if match := re.fullmatch(r"layers\.(\d{1,4})\.(.+)", name):
            layers.setdefault(int(match[1]), {})[match[2]] = x
        elif name not in known:
            raise ModelError(f"{name} is no tensor of gated-state-spaces-pytorch 0.1.0")
        else:
            params[known[name]] = x.T if name in MODEL_TRANSPOSED else x
    for i, layer in layers.items():
        expected = {*LAYER, *LAYER_TRANSPOSED, *COMPLEX}
        if odd := sorted(layer.keys() ^ expected):
            raise ModelError(
                f"layers.{i}.{odd[0]} is missing, or no tensor of gated-state-spaces-pytorch 0.1.0"
            )
        named = {LAYER[k]: layer[k] for k in LAYER}
        named |= {LAYER_TRANSPOSED[k]: layer[k].T for k in LAYER_TRANSPOSED}
        named |= {"ssm.c": layer["dss.C_real"] + 1j * layer["dss.C_imag"]}
        params |= {f"layers.{i}.{k}": x for k, x in named.items()}
    if missing := {*known.values()} - params.keys() or {*range(len(layers) or 1)} - layers.keys():
        raise ModelError(f"{min(missing)} is missing: is this a whole GatedStateSpacesLM?")
    config = LMConfig(replace(GSS_PYTORCH, imag=imag), len(layers), final_norm=False)
    single = {"f": np.float32, "c": np.complex64}
    return {k: np.ascontiguousarray(x, single[x.dtype.kind]) for k, x in params.items()}, config


def read_weights(path: Path) -> Mapping[str, np.ndarray]:
    """A state dict in a safetensors file, or in a file of torch.save, of which nothing is executed.

    Raises ModelError where it cannot be read.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path).tensors
    try:
        import torch
    except ImportError as e:
        raise ModelError(
            f"{path} needs PyTorch to be read: install torch, or save it as .safetensors"
        ) from e
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in found.items()}
    except OSError as e:
        raise ModelError(f"{path} cannot be read: {e.strerror}") from e
    except Exception as e:  # whatever a damaged or hostile pickle makes torch raise
        what = str(e).splitlines()[0][:200] if str(e) else type(e).__name__
        raise ModelError(f"{path} is no state dict of tensors: {what}") from e
