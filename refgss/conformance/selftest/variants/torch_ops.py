"""Every op in PyTorch, written anew from the papers, for its autograd.

PyTorch hands out ∂ℓ/∂Re + i·∂ℓ/∂Im for complex numbers, the convention of GSS-GRD-1.  No op checks
what it is given.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from refgss import ops
from refgss.config import GSS, GSSConfig


def gss_lambda(a, b, *, imag):
    return torch.complex(-a.exp(), b.exp() if imag == "exp" else b)


def wide(x):
    """In binary64: exponents are formed so, whatever the precision (GSS-ACC-2)."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def step_exponent(lam, delta):
    lam, delta = wide(lam), wide(delta)
    if delta.ndim < 2:
        return delta[..., None] * lam
    return torch.complex(delta[:, :1] * lam.real, delta[:, 1:] * lam.imag)


def exponential_less_one(z):
    """e^z - 1, by its series near 0, so that its derivative is right everywhere.

    PyTorch's derivative of expm1 is expm1(z) + 1, of which nothing is right where e^z is small.
    """
    near = z.abs() < 0.5
    small = torch.where(near, z, 0)
    return torch.where(near, small * series(small), torch.exp(torch.where(near, 1, z)) - 1)


def relative_exponential(z):
    """(e^z - 1)/z, by its series near 0, so that its derivative is right there too."""
    near = z.abs() < 0.5
    large = torch.where(near, 1, z)
    return torch.where(near, series(torch.where(near, z, 0)), (torch.exp(large) - 1) / large)


def series(z):
    """Sum over k of z^k/(k+1)!."""
    return sum(z**k / float(np.prod(np.arange(1.0, k + 2))) for k in range(1, 14)) + 1


def input_weight(lam, delta, z, form):
    if form.method == "dss-softmax":
        return softmax_weight(lam, z, form)
    z = z.to(lam.dtype)
    if form.method == "zoh":
        return delta[..., None] * relative_exponential(z)
    if form.method == "bilinear":
        return delta[..., None] / (1 - z / 2)
    if form.method != "dss-exp":
        raise NotImplementedError(f"the method {form.method} is not written here")
    if form.reciprocal == "shifted":
        return exponential_less_one(z) * shifted_reciprocal(lam, form.eps)
    square = (lam * lam.conj()).real
    return exponential_less_one(z) * lam.conj() / torch.clamp(square, min=form.eps)


def softmax_weight(lam, z, form):
    """As dss.py has it (shifted), the Annotated S4 (shifted-sum), or without ε."""
    if form.reciprocal == "exact":
        return 1 / (lam * powers(z, form.length, form, lam).sum(-1))
    z = torch.where(z.real > 0, -z, z)
    if form.reciprocal == "shifted-sum":
        return shifted_reciprocal(powers(z, form.length, form, lam).sum(-1), form.eps) / lam
    first, last = (exponential_less_one(x).to(lam.dtype) for x in (z, z * form.length))
    return first * shifted_reciprocal(last * lam, form.eps)


def shifted_reciprocal(x, eps):
    return x.conj() / (x * x.conj() + eps)


def powers(z, length, form, like):
    if form.method == "bilinear":  # a running product: PyTorch's 0 ** 0 is no number if complex
        base = transition(z, form)[..., None].expand(*z.shape, max(length - 1, 0))
        p = torch.cat([torch.ones_like(z)[..., None], base], -1)[..., :length].cumprod(-1)
    else:
        p = torch.exp(z[..., None] * torch.arange(length))
    return p.to(like.dtype)


def transition(z, form):
    return (1 + z / 2) / (1 - z / 2) if form.method == "bilinear" else torch.exp(z)


def discretize(lam, delta, *, form):
    z = step_exponent(lam, delta)
    return transition(z, form).to(lam.dtype), input_weight(lam, delta, z, form)


def ssm_kernel(lam, c, length, *, delta, form):
    z = step_exponent(lam, delta)
    if form.reciprocal == "exact":
        # softmax of z·l over l, its largest real part taken out
        exponent = z[..., None] * torch.arange(form.length)
        e = torch.exp(exponent - exponent.real.amax(-1, keepdim=True))
        modes = (e / e.sum(-1, keepdim=True))[..., :length].to(lam.dtype) / lam[:, None]
    elif form.method == "dss-softmax":
        exponent = z[..., None] * torch.arange(form.length)
        e = torch.exp(exponent - torch.where(lam.real > 0, exponent[..., -1], 0)[..., None])
        modes = input_weight(lam, delta, z, form)[..., None] * e[..., :length].to(lam.dtype)
    else:
        modes = input_weight(lam, delta, z, form)[..., None] * powers(z, length, form, c)
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
    x = x.expand(*u.shape, len(lam)).to(c.dtype)
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
    lam, one = gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.imag), torch.ones((), dtype=x.dtype)
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


def gradients(
    op: str, tensors: Mapping[str, Any], cotangents: Any, options: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """By autograd through `op`, from Σ Re(conj(cotangent)·output): one for each float tensor."""
    x = {k: torch.tensor(v) for k, v in tensors.items()}
    leaves = {k: v.requires_grad_() for k, v in x.items() if v.dtype != torch.int32}
    outputs = ops.call(sys.modules[__name__], op, x, options).values()
    given = [torch.tensor(d) for d in cotangents]
    loss = sum((d.conj() * y).real.sum() for d, y in zip(given, outputs, strict=False))
    grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    names = ["dstate0" if k == "state" else f"d{k}" for k in leaves]
    return {k: g.resolve_conj().numpy() for k, g in zip(names, grads, strict=True)}
