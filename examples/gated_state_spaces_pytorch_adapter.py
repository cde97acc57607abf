"""gated-state-spaces-pytorch 0.1.0 as a candidate: its GSS layer and language model.

    pip install gated-state-spaces-pytorch==0.1.0
    refgss check --candidate python:examples/gated_state_spaces_pytorch_adapter.py

The library has one layer, that of the profile gss-pytorch, and it runs whole sequences from no
state.  Asked for the paper's layer it gives its own: `--profile paper` shows where they differ.
"""

import torch
from gated_state_spaces_pytorch import GSS, GatedStateSpacesLM

from refgss.config import GSS_PYTORCH, PAPER


def capabilities():
    return {
        "name": "gated-state-spaces-pytorch",
        "version": "0.1.0",
        "ops": ["gss_layer", "lm_logits", "lm_loss"],
        "profiles": ["f32", "f64", "gss-pytorch"],
    }


def gss_layer(params, x, state, *, config):
    """(B,L,E) -> (B,L,E) and no state."""
    refuse_what_it_lacks(state, config, GSS_PYTORCH, PAPER)
    E, F = params["w_v"].shape
    H, N = params["ssm.c"].shape
    layer = GSS(dim=E, dim_expansion_factor=F / E, dss_kernel_N=N, dss_kernel_H=H)
    return run(layer, layer_weights(params), tensor(x)), None


def lm_logits(params, tokens, state, *, config):
    """(B,L) -> (B,L,V) and no state."""
    refuse_what_it_lacks(state, config.layer, GSS_PYTORCH)
    return run(*language_model(params, config), tensor(tokens).long()), None


def lm_loss(params, tokens, targets, state, *, config):
    """(B,L), (B,L) -> a scalar."""
    refuse_what_it_lacks(state, config.layer, GSS_PYTORCH)
    model, weights = language_model(params, config)
    return run(model, weights, tensor(tokens).long(), labels=tensor(targets).long())


def refuse_what_it_lacks(state, layer, *offered):
    if state is not None:
        raise NotImplementedError("the library does not carry a state")
    if layer not in offered:
        raise NotImplementedError("the library has no such layer")


def language_model(params, config):
    if config.tied or config.final_norm:
        raise NotImplementedError("the library ties nothing and has no final norm")
    first = {k: v for k, v in params.items() if k.startswith("layers.0.")}
    E, F = first["layers.0.w_v"].shape
    H, N = first["layers.0.ssm.c"].shape
    V = len(params["embedding.weight"])
    model = GatedStateSpacesLM(
        num_tokens=V,
        dim=E,
        depth=config.depth,
        dim_expansion_factor=F / E,
        dss_kernel_N=N,
        dss_kernel_H=H,
    )
    weights = {
        "token_emb.weight": params["embedding.weight"],
        "to_logits.weight": params["head.weight"].T,
    }
    for i in range(config.depth):
        prefix = f"layers.{i}."
        layer = {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}
        weights |= {prefix + k: v for k, v in layer_weights(layer).items()}
    return model, weights


def layer_weights(params):
    """The parameters of a layer under the library's names; its u and v are the other way round."""
    weights = {
        "norm.weight": params["norm.weight"],
        "norm.bias": params["norm.bias"],
        "to_u.0.weight": params["w_v"].T,
        "to_v.0.weight": params["w_u"].T,
        "dss.Lambda_real": params["ssm.a"],
        "dss.Lambda_imag": params["ssm.b"],
        "dss.C_real": params["ssm.c"].real,
        "dss.C_imag": params["ssm.c"].imag,
        "dss.param_D": params["ssm.d"],
        "to_gate.weight": params["w_uc"].T,
        "to_out.weight": params["w_o"].T,
    }
    zeros = 0 * params["ssm.d"]
    weights["dss.norm.weight"] = params.get("ssm.norm.weight", zeros + 1)
    weights["dss.norm.bias"] = params.get("ssm.norm.bias", zeros)
    weights["to_out.bias"] = params.get("b_o", 0 * params["norm.bias"])
    return weights


def run(model, weights, *inputs, **keywords):
    weights = {name: tensor(x) for name, x in weights.items()}
    precision = next(x.dtype for x in weights.values())
    model.to(precision).load_state_dict(weights)
    with torch.no_grad():
        return model(*inputs, **keywords).numpy()


def tensor(x):
    return torch.from_numpy(x.copy())
