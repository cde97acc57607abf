"""Every op written anew in PyTorch from the papers: its autograd is the witness of every gradient.

PyTorch hands out ∂ℓ/∂Re + i·∂ℓ/∂Im for complex numbers, the convention of GSS-GRD-1.  It runs in
binary64 and is held to the budgets of binary32, as all that promises no bound of its own.
"""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from refgss import ops
from refgss.config import GSS, GSSConfig

from . import hard_cases
from .judging import assert_within_budget

# --- the ops, as the papers have them ------------------------------------------------------------


def gss_lambda(a, b, *, imag):
    return torch.complex(-a.exp(), b.exp() if imag == "exp" else b)


def step_exponent(lam, delta):
    if delta.ndim < 2:
        return delta[..., None] * lam
    return torch.complex(delta[:, :1] * lam.real, delta[:, 1:] * lam.imag)


def relative_exponential(z):
    """(e^z - 1)/z, by its series near 0, so that its derivative is right there too."""
    near = z.abs() < 0.5
    small = torch.where(near, z, 0)
    series = sum(small**k / float(np.prod(np.arange(1.0, k + 2))) for k in range(1, 14)) + 1
    return torch.where(near, series, torch.expm1(torch.where(near, 1, z)) / torch.where(near, 1, z))


def input_weight(lam, delta, z, form):
    if form.method == "zoh":
        return delta[..., None] * relative_exponential(z)
    if form.method == "bilinear":
        return delta[..., None] / (1 - z / 2)
    if form.method == "dss-exp":
        square = (lam * lam.conj()).real
        return torch.expm1(z) * lam.conj() / torch.clamp(square, min=form.eps)
    return 1 / (lam * powers(z, form.length, form).sum(-1))


def powers(z, length, form):
    l = torch.arange(length)
    if form.method == "bilinear":
        return ((1 + z / 2) / (1 - z / 2))[..., None] ** l
    return torch.exp(z[..., None] * l)


def discretize(lam, delta, *, form):
    z = step_exponent(lam, delta)
    a = (1 + z / 2) / (1 - z / 2) if form.method == "bilinear" else torch.exp(z)
    return a, input_weight(lam, delta, z, form)


def ssm_kernel(lam, c, length, *, delta, form):
    z = step_exponent(lam, delta)
    if form.method == "dss-softmax":
        # softmax of z·l over l, its largest real part taken out
        exponent = z[..., None] * torch.arange(form.length)
        e = torch.exp(exponent - exponent.real.amax(-1, keepdim=True))
        modes = (e / e.sum(-1, keepdim=True))[..., :length] / lam[:, None]
    else:
        modes = input_weight(lam, delta, z, form)[..., None] * powers(z, length, form)
    modes = modes.expand(len(c), *modes.shape[-2:])
    return (2 if form.pairs else 1) * torch.einsum("hn,hnl->hl", c, modes).real


def causal_conv(u, k):
    """A product with the Toeplitz matrix T[l,t] = k[l-t]."""
    L, taps = u.shape[1], k.shape[1]
    lag = torch.arange(L)[:, None] - torch.arange(L)
    inside = (lag >= 0) & (lag < taps)
    toeplitz = nn.functional.pad(k, (0, 1))[:, torch.where(inside, lag, taps)]  # (H,L,L)
    return torch.einsum("hlt,bth->blh", toeplitz, u)


def ssm_step(u, lam, c, state, *, delta, form):
    a, b = discretize(lam, delta, form=form)
    x = u[..., None] + (0 if state is None else a * state)
    x = x.expand(*u.shape, len(lam)) + 0j
    return (2 if form.pairs else 1) * (c * b * x).sum(-1).real, x


def ssm_scan(u, lam, c, state, *, delta, form):
    x = torch.zeros(u.shape[0], *c.shape, dtype=c.dtype) if state is None else state
    ys = []
    for l in range(u.shape[1]):
        y, x = ssm_step(u[:, l], lam, c, x, delta=delta, form=form)
        ys.append(y)
    return torch.stack(ys, 1) if ys else torch.zeros_like(u), x


def layer_norm(x, weight, bias, *, eps):
    return nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


def gelu(x):
    return nn.functional.gelu(x)


def dense(x, weight, bias=None):
    return x @ weight if bias is None else x @ weight + bias


def gss_layer(p, x, state, *, config):
    h = layer_norm(x, p["norm.weight"], p["norm.bias"], eps=config.eps)
    v, u = gelu(h @ p["w_v"]), gelu(h @ p["w_u"])
    if config.ssm_norm:
        u = layer_norm(u, p["ssm.norm.weight"], p["ssm.norm.bias"], eps=config.eps)
    lam, one = gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.imag), torch.ones(())
    s, state = ssm_scan(u, lam, p["ssm.c"], state, delta=one, form=GSS)
    y = s + p["ssm.d"] * u
    return dense((y @ p["w_uc"]) * v, p["w_o"], p.get("b_o")) + x, state


def dss_layer(p, x, state, *, config):
    u = layer_norm(x, p["norm.weight"], p["norm.bias"], eps=config.eps)
    lam, delta = gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.imag), p["ssm.log_delta"].exp()
    s, state = ssm_scan(u, lam, p["ssm.c"], state, delta=delta, form=config.form)
    return dense(gelu(s + p["ssm.d"] * u), p["w_o"], p.get("b_o")) + x, state


def lm_logits(params, tokens, state, *, config):
    layer = gss_layer if isinstance(config.layer, GSSConfig) else dss_layer
    x, states = params["embedding.weight"][tokens], []
    for i in range(config.depth):
        names = [k for k in params if k.startswith(f"layers.{i}.")]
        p = {k.removeprefix(f"layers.{i}."): params[k] for k in names}
        x, s = layer(p, x, None if state is None else state[i], config=config.layer)
        states.append(s)
    if config.final_norm:
        x = layer_norm(x, params["norm.weight"], params["norm.bias"], eps=config.layer.eps)
    head = params["embedding.weight"].T if config.tied else params["head.weight"]
    return x @ head, torch.stack(states)


def lm_loss(params, tokens, targets, state, *, config):
    logits = lm_logits(params, tokens, state, config=config)[0]
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten().long())


# --- the comparison ------------------------------------------------------------------------------


def run(op, x, options):
    return ops.call(sys.modules[__name__], op, x, options)


def values(case):
    x = {k: torch.tensor(v) for k, v in case.at("f64").items()}
    return {k: y.numpy() for k, y in run(case.op, x, case.options).items()}


def gradients(case):
    """Of a case of `op_vjp`: autograd through `op`, from Σ Re(conj(cotangent)·output)."""
    op, x = case.op.removesuffix("_vjp"), case.at("f64")
    if "state" not in x and "state" in ops.OPS[op].arguments:
        x["state"] = np.zeros_like(case.run("f64")["dstate0"])
    x = {k: torch.tensor(v) for k, v in x.items()}
    cotangents = [x.pop(name) for name in hard_cases.cotangent_names(op)]
    leaves = {k: v.requires_grad_() for k, v in x.items() if v.dtype != torch.int32}
    outputs = run(op, leaves | x, case.options).values()
    loss = sum((d.conj() * y).real.sum() for d, y in zip(cotangents, outputs, strict=True))
    grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    names = ["dstate0" if k == "state" else f"d{k}" for k in leaves]
    return {k: g.resolve_conj().numpy() for k, g in zip(names, grads, strict=True)}


EXAMPLES = {"layers": 20, "lm_logits": 10, "lm_loss": 10}


@pytest.mark.parametrize("name", hard_cases.FORWARD)
def test_values_agree(name):
    @settings(max_examples=EXAMPLES.get(name, 50))
    @given(hard_cases.FORWARD[name])
    def check(case):
        assert_within_budget(case, values(case), "f32")

    check()


@pytest.mark.parametrize("name", hard_cases.FORWARD)
def test_gradients_agree_with_autograd(name):
    @settings(max_examples=EXAMPLES.get(name, 50))
    @given(hard_cases.gradients(hard_cases.FORWARD[name]))
    def check(case):
        assert_within_budget(case, gradients(case), "f32")

    check()
