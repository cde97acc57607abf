"""A candidate in PyTorch to start from: give it your own code, op by op, and check it again.

    refgss check --candidate python:THIS_FILE --profile f32

An op that is missing here, or that raises NotImplementedError, counts as not claimed; any other
exception counts as a refusal of the input.  `refgss spec GSS-KER-1` prints a clause.  Arguments are
tensors on the CPU, of any strides, and stay as they are; channels last: u (B,L,H).  Results have
the precision of the arguments.
"""

import torch


def capabilities():
    """What this candidate claims; profiles: f32, f64 and the layers paper and gss-pytorch."""
    return {
        "name": "my-gss",
        "version": "0.1",
        "ops": ["causal_conv", "ssm_kernel", "layer_norm"],
        "profiles": ["f32", "f64"],
        "arrays": "torch",
    }


def causal_conv(u, k):
    """u (B,L,H), k (H,Lk) -> y (B,L,H): y[b,l,h] = sum over j of k[h,j] u[b,l-j,h]."""
    if u.ndim != 3 or k.ndim != 2 or u.shape[2] != k.shape[0]:
        raise ValueError(f"u {tuple(u.shape)} and k {tuple(k.shape)} must be (B,L,H) and (H,Lk)")
    y = torch.zeros_like(u)
    for j in range(min(k.shape[1], u.shape[1])):
        y[:, j:] += k[:, j] * u[:, : u.shape[1] - j]
    return y


def ssm_kernel(lam, c, length, *, delta, form):
    """lam (N,), c (H,N) complex -> K (H,length) = Re sum over n of C (e^z - 1)/Λ e^{zl}, z = ΔΛ."""
    if form.method != "zoh" or delta.ndim:
        raise NotImplementedError("zero-order hold with one step for all channels")
    if lam.ndim != 1 or c.ndim != 2 or c.shape[1] != lam.shape[0]:
        raise ValueError(f"lam {tuple(lam.shape)} and c {tuple(c.shape)} must be (N,) and (H,N)")
    if not torch.isfinite(lam).all() or not (lam.real <= 0).all():
        raise ValueError("Re lam must be finite and not positive")
    if not (torch.isfinite(delta) and delta > 0):
        raise ValueError("delta must be positive and finite")
    if not 0 <= length < 2**31:
        raise ValueError("length must not be negative")
    z = delta.double() * lam.to(torch.complex128)  # exponents in binary64 (GSS-ACC-2)
    nonzero = torch.where(z == 0, 1, z)
    bbar = delta * torch.where(z == 0, 1, torch.expm1(nonzero) / nonzero)  # no cancellation
    powers = torch.exp(z[:, None] * torch.arange(length))  # (N,length)
    k = ((c * bbar) @ powers).real
    return ((2 if form.pairs else 1) * k).to(c.real.dtype)


def layer_norm(x, weight, bias, *, eps):
    """x (...,E), weight and bias (E,) -> (...,E)."""
    if not x.ndim or not x.shape[-1] or not x.shape[-1:] == weight.shape == bias.shape:
        raise ValueError(f"x {tuple(x.shape)} must end in the shape of weight and bias")
    d = x - x.mean(-1, keepdim=True)
    return d / torch.sqrt((d * d).mean(-1, keepdim=True) + eps) * weight + bias
