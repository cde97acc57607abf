"""Variants of attention: softmax formed online, in blocks or by PyTorch, and its gradients."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from refgss.conformance.selftest.variants.declare import Rejection, instead_of
from refgss.reference.attention import by_distance, by_keys, of_groups, of_heads, over_seen

Array = np.ndarray


def each_query(q, keys, values, bias, at, window) -> Iterator[tuple[Any, ...]]:
    """Place, scaled query, keys, values and bias of each query and head that sees a key."""
    scale = q.dtype.type(1 / math.sqrt(q.shape[3]) if window.scale == "inverse-root" else 1)
    keys, values = of_heads(keys, q.shape[2]), of_heads(values, q.shape[2])
    for b, t, h in np.ndindex(*q.shape[:3]):
        s = np.flatnonzero(at.seen[b, t])
        if len(s):
            near = 0 if bias is None else bias[h, at.distance[b, t, s]]
            yield (b, t, h), q[b, t, h] * scale, keys[b, s, h], values[b, s, h], near


def online(block: int, backwards: bool) -> Callable[..., Array]:
    """Attention over blocks of keys: what is there is multiplied where the maximum rises."""

    def attend(q, keys, values, bias, at, window):
        y = np.zeros(q.shape, q.dtype)
        for place, query, k, v, near in each_query(q, keys, values, bias, at, window):
            a = k @ query + near
            m, total, sum_ = -np.inf, q.dtype.type(0), np.zeros_like(query)
            for i in sorted(range(0, len(a), block), reverse=backwards):
                part = slice(i, i + block)
                larger = np.maximum(m, a[part].max())
                e, again = np.exp(a[part] - larger), np.exp(np.asarray(m - larger, q.dtype))
                total = total * again + e.sum()
                sum_ = sum_ * again + e @ v[part]
                m = larger
            y[place] = sum_ * (1 / total)
        return y

    return attend


@instead_of("attention.attend")
def softmax_online(q, keys, values, bias, at, window):
    """An online softmax, key by key."""
    return online(1, False)(q, keys, values, bias, at, window)


@instead_of("attention.attend")
def softmax_online_backwards(q, keys, values, bias, at, window):
    """An online softmax, from the last key to the first."""
    return online(1, True)(q, keys, values, bias, at, window)


@instead_of("attention.attend")
def softmax_in_blocks(q, keys, values, bias, at, window):
    """An online softmax over blocks of two keys."""
    return online(2, False)(q, keys, values, bias, at, window)


@instead_of("attention.attend")
def softmax_split(q, keys, values, bias, at, window):
    """Every second key by another worker; both halves are joined by their maxima."""
    y = np.zeros(q.shape, q.dtype)
    for place, query, k, v, near in each_query(q, keys, values, bias, at, window):
        a, parts = k @ query + near, []
        for own in (slice(0, None, 2), slice(1, None, 2)):
            m = a[own].max(initial=-np.inf)
            e = np.exp(a[own] - m) if len(a[own]) else a[own]
            parts.append((m, e.sum(), e @ v[own]))
        m = max(part[0] for part in parts)
        again = [np.exp(q.dtype.type(part[0] - m)) for part in parts]
        total = sum(r * part[1] for r, part in zip(again, parts, strict=True))
        y[place] = sum(r * part[2] for r, part in zip(again, parts, strict=True)) / total
    return y


@instead_of(
    "attention.attend",
    rejections=(
        Rejection(
            "GSS-ATT-10",
            ("attention", "attention_step"),
            "a mask that is added to the logits: NaN − ∞ is NaN, and so is 0·NaN",
        ),
    ),
)
def sdpa(q, keys, values, bias, at, window):
    """PyTorch's scaled_dot_product_attention with a mask, on the CPU."""
    return by_sdpa(q, keys, values, bias, at, window)[0]


def by_sdpa(q, keys, values, bias, at, window):
    """y, and the tensors that it was made of."""
    import torch

    heads = q.shape[2]
    tensors = [torch.tensor(q)] + [torch.tensor(of_heads(x, heads)) for x in (keys, values)]
    mask = torch.where(torch.tensor(at.seen), 0.0, -torch.inf).to(tensors[0].dtype)
    mask = mask[:, None].expand(-1, heads, -1, -1).clone()  # (B,H,L,T)
    if bias is not None:
        mask += torch.tensor(bias[:, at.distance].transpose(1, 0, 2, 3))
    for x in (*tensors, mask):
        x.requires_grad_()
    # a key without a NaN in its place; a query that sees none is left out
    some = torch.tensor(at.seen.any(2))[:, None, :, None]
    safe = torch.where(some, mask, 0)
    scale = None if window.scale == "inverse-root" else 1.0
    query, key, value = (x.transpose(1, 2) for x in tensors)
    y = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=safe, scale=scale
    )
    y = torch.where(some, y, 0).transpose(1, 2)
    return y.detach().numpy(), y, tensors, mask


@instead_of("attention.attend_vjp")
def sdpa_backward(q, keys, values, bias, at, window, dy):
    """PyTorch's autograd through scaled_dot_product_attention."""
    import torch

    _, y, tensors, mask = by_sdpa(q, keys, values, bias, at, window)
    leaves = [*tensors, mask]
    grads = torch.autograd.grad((y * torch.tensor(dy)).sum(), leaves, materialize_grads=True)
    dq, dk, dv, da = (g.numpy() for g in grads)
    groups = keys.shape[2]
    dbias = (
        None if bias is None else by_distance(da.transpose(0, 2, 3, 1), at.seen, at.distance, bias)
    )
    return dq, of_groups(dk, groups), of_groups(dv, groups), dbias


def flash(keep_logsumexp: bool) -> Callable[..., Any]:
    """FlashAttention's gradient: weights from what each row kept, and its sum from y."""

    def attend_vjp(q, keys, values, bias, at, window, dy):
        y = online(2, False)(q, keys, values, bias, at, window)
        w, da = np.zeros((2, *at.seen.shape, q.shape[2]), q.dtype)
        for (b, t, h), query, k, v, near in each_query(q, keys, values, bias, at, window):
            s = np.flatnonzero(at.seen[b, t])
            a = k @ query + near
            m = a.max()
            total = np.exp(a - m).sum()
            kept = np.exp(a - (m + np.log(total))) if keep_logsumexp else np.exp(a - m) / total
            w[b, t, s, h] = kept
            da[b, t, s, h] = kept * (v @ dy[b, t, h] - (dy[b, t, h] * y[b, t, h]).sum())
        by_key, groups = at.seen.transpose(0, 2, 1), keys.shape[2]
        dvalues = of_groups(over_seen(by_keys(w), dy, by_key), groups)
        dbias = None if bias is None else by_distance(da, at.seen, at.distance, bias)
        scale = 1 / math.sqrt(q.shape[3]) if window.scale == "inverse-root" else 1
        scaled = (q * q.dtype.type(scale)).astype(q.dtype)
        dkeys = of_groups(over_seen(by_keys(da), scaled, by_key), groups)
        dq = over_seen(da, of_heads(keys, q.shape[2]), at.seen) * q.dtype.type(scale)
        return dq, dkeys, dvalues, dbias

    return attend_vjp


@instead_of("attention.attend_vjp")
def flash_backward(q, keys, values, bias, at, window, dy):
    """FlashAttention's gradient from the logarithm of the sum that each row kept."""
    return flash(True)(q, keys, values, bias, at, window, dy)


@instead_of("attention.attend_vjp")
def flash_backward_with_maximum(q, keys, values, bias, at, window, dy):
    """FlashAttention's gradient from maximum and sum apart."""
    return flash(False)(q, keys, values, bias, at, window, dy)


@instead_of("elementary.rotation")
def angles_reduced(x, r, base):
    """Angles in binary64 modulo 2π, then cosine and sine in the working precision."""
    D = x.shape[-1]
    angle = r[..., None].astype(np.float64) * base ** (-np.arange(0, D, 2) / D)
    near = (angle - 2 * np.pi * np.round(angle / (2 * np.pi))).astype(x.dtype)
    return np.cos(near), np.sin(near)


@instead_of(
    "elementary.rotation",
    rejections=(
        Rejection(
            "GSS-ATT-14",
            ("rope", "rope_vjp"),
            "the exponent is rounded before the exponential: at r = 10⁸ that shows in binary64",
            ("f64",),
        ),
    ),
)
def angles_by_exponential(x, r, base):
    """Frequencies as e^{−2j/D·log base}, in binary64."""
    D = x.shape[-1]
    angle = r[..., None] * np.exp(-np.arange(0, D, 2) / D * math.log(base))
    return np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype)


@instead_of("pointwise.inverse_rms")
def rms_by_root(x, eps):
    """The root of the mean of squares in binary64."""
    wide = x.astype(np.float64)
    return (1 / np.sqrt((wide * wide).mean(-1, keepdims=True) + eps)).astype(x.dtype)


@instead_of("elementary.normal_cdf_tanh")
def tanh_by_sigmoid(x):
    """1/(1 + e^{−2z}) for (1 + tanh z)/2."""
    z = x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x * x * x)
    return 1 / (1 + np.exp(np.minimum(-2 * z, 80)))
