"""Code from outside: gated-state-spaces-pytorch 0.1.0 is the profile gss-pytorch (GSS-LAY-8).

Its modules keep their own random weights; the reference is certified on the same numbers.  Outputs,
loss and every gradient must be within the budget of binary32, in binary64 as in binary32.
"""

from copy import deepcopy
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
import torch
from gated_state_spaces_pytorch import GSS, GatedStateSpacesLM
from gated_state_spaces_pytorch.gss import DSS

from refgss import config as cfg
from refgss import ops, reference
from refgss.conformance.vectors import cases
from refgss.conformance.vectors.certify import certify, expected, lift
from refgss.conformance.vectors.enclosure import Enclosure, certifying

from .judging import assert_close

DTYPES = [torch.float32, torch.float64]
IMAG = ["exp", "identity"]

# --- their names, our names (GSS-LAY-8) ----------------------------------------------------------


def array(tensor):
    return tensor.detach().numpy()


def layer(read, module):
    """`read` of every parameter of a GSS module, by our names: its values, or its gradients."""
    transposed = {
        "w_v": module.to_u[0],  # what the package calls u is the gate
        "w_u": module.to_v[0],
        "w_uc": module.to_gate,
        "w_o": module.to_out,
    }
    return {
        "norm.weight": read(module.norm.weight),
        "norm.bias": read(module.norm.bias),
        "b_o": read(module.to_out.bias),
        **{name: read(linear.weight).T for name, linear in transposed.items()},
        **ssm(read, module.dss),
    }


def ssm(read, module):
    return {
        "ssm.norm.weight": read(module.norm.weight),
        "ssm.norm.bias": read(module.norm.bias),
        "ssm.a": read(module.Lambda_real),
        "ssm.b": read(module.Lambda_imag),
        "ssm.c": np.stack([read(module.C_real), read(module.C_imag)], -1),
        "ssm.d": read(module.param_D),
    }


def model(read, module):
    params = {"embedding.weight": read(module.token_emb.weight)}
    params |= {"head.weight": read(module.to_logits.weight).T}
    for i, gss in enumerate(module.layers):
        params |= {f"layers.{i}.{k}": v for k, v in layer(read, gss).items()}
    return params


def gradient(parameter):
    return array(parameter.grad)


def named(grads):
    return {f"dparams.{k}": g for k, g in grads.items()}


@pytest.fixture(autouse=True)
def repeatable():
    torch.manual_seed(0)


def test_the_version_is_the_one_that_the_spec_names():
    assert version("gated-state-spaces-pytorch") == "0.1.0"


# --- values and gradients ------------------------------------------------------------------------


def proven(op, given, config, stateless=None):
    """The certified outputs but the one about states, of which the package knows nothing."""
    wanted = certify(op, given, {"config": ops.encode_option(config)})
    return {name: want for name, want in wanted.items() if name != stateless}


@pytest.mark.parametrize("imag", IMAG)
@pytest.mark.parametrize(("b", "length", "h", "n"), [(1, 1, 1, 1), (2, 17, 3, 5), (1, 40, 2, 16)])
def test_dss(imag, b, length, h, n):
    """Its DSS is a layer norm, a scan from nothing, and D ⊙ u."""
    module = DSS(dim=h, kernel_N=n, dss_kernel_lambda_imag_exp=imag == "exp")
    x = torch.randn(b, length, h)
    with certifying():
        p = {name: lift(name, v) for name, v in ssm(array, module).items()}
        weight, bias = p["ssm.norm.weight"], p["ssm.norm.bias"]
        u = reference.layer_norm(lift("x", array(x)), weight, bias, eps=1e-5)
        lam = reference.gss_lambda(p["ssm.a"], p["ssm.b"], imag=imag)
        y, _ = reference.ssm_scan(u, lam, p["ssm.c"], None, delta=Enclosure(1.0), form=cfg.GSS)
        wanted = {"y": expected(y + p["ssm.d"] * u)}
    for dtype in DTYPES:
        assert_close(wanted, {"y": array(module.to(dtype)(x.to(dtype)))}, "f32")


@pytest.mark.parametrize("imag", IMAG)
@pytest.mark.parametrize(
    ("b", "length", "e", "h", "n"), [(1, 1, 4, 3, 2), (2, 9, 4, 3, 4), (1, 23, 6, 2, 6)]
)
def test_gss(imag, b, length, e, h, n):
    exp = imag == "exp"
    module = GSS(
        dim=e,
        dim_expansion_factor=2,
        dss_kernel_H=h,
        dss_kernel_N=n,
        dss_kernel_lambda_imag_exp=exp,
    )
    x, dout = torch.randn(2, b, length, e)
    config = cfg.GSS_PYTORCH if exp else replace(cfg.GSS_PYTORCH, imag=imag)
    given = cases.named(layer(array, module)) | {"x": array(x)}
    cotangents = {"dout": array(dout), "dstate": np.zeros((b, h, n, 2), np.float32)}
    wanted = proven("gss_layer", given, config, "state")
    wanted_gradients = proven("gss_layer_vjp", given | cotangents, config, "dstate0")
    for dtype in DTYPES:
        gss, at = deepcopy(module).to(dtype), x.to(dtype, copy=True).requires_grad_()
        y = gss(at)
        y.backward(dout.to(dtype))
        assert_close(wanted, {"y": array(y)}, "f32")
        grads = named(layer(gradient, gss)) | {"dx": array(at.grad)}
        assert_close(wanted_gradients, grads, "f32")


@pytest.mark.parametrize(
    ("b", "length", "v", "e", "depth", "h", "n"), [(1, 1, 5, 4, 1, 3, 2), (2, 7, 7, 3, 2, 3, 3)]
)
def test_language_model(b, length, v, e, depth, h, n):
    module = GatedStateSpacesLM(
        num_tokens=v, dim=e, depth=depth, dim_expansion_factor=2, dss_kernel_H=h, dss_kernel_N=n
    )
    tokens, targets = torch.randint(v, (2, b, length))
    config = cfg.LMConfig(cfg.GSS_PYTORCH, depth, final_norm=False)
    given = cases.named(model(array, module)) | {"tokens": array(tokens)}
    labelled = given | {"targets": array(targets)}
    wanted = proven("lm_logits", given, config, "state")
    wanted_loss = proven("lm_loss", labelled, config)
    wanted_gradients = proven("lm_loss_vjp", labelled | {"dloss": np.float32(1)}, config, "dstate0")
    for dtype in DTYPES:
        net = deepcopy(module).to(dtype)
        loss = net(tokens, labels=targets)
        loss.backward()
        assert_close(wanted, {"logits": array(net(tokens))}, "f32")
        assert_close(wanted_loss, {"loss": array(loss)}, "f32")
        assert_close(wanted_gradients, named(model(gradient, net)), "f32")
