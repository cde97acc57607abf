"""Chapter 18 in plain PyTorch: attention over the keys near a query, and what tells positions.

Queries are taken in blocks, each with the stretch of keys that any of its queries sees: a batch of
small dense attentions.  Of the weights nothing is kept for the gradient but the largest logit and
the sum of each query, from which it computes them again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from refgss import checks
from refgss.config import AttentionForm
from refgss.reference.attention import FIRST
from refgss.torch.inputs import Tensor, eager

State = Mapping[str, Tensor]


# --- positions ------------------------------------------------------------------------------------


def rope(x: Tensor, r: Tensor, base: Any, pairing: str) -> Tensor:
    """Each pair of numbers turned by r·base^(-2i/D), an angle of binary64.

    Clauses: GSS-ATT-13, GSS-ATT-14.
    """
    if eager():
        base = checks.check_rope("rope", "x", x, r, base, pairing)
    D = x.shape[-1]
    i = torch.arange(0, D, 2, dtype=torch.float64, device=x.device)
    angle = (r[..., None] * base ** (-i / D))[:, :, None]  # (B,L,1,D/2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    if pairing == "half":
        x1, x2 = x[..., : D // 2], x[..., D // 2 :]
        return torch.cat([x1 * cos - x2 * sin, x1 * sin + x2 * cos], -1)
    x1, x2 = x[..., ::2], x[..., 1::2]
    return torch.stack([x1 * cos - x2 * sin, x1 * sin + x2 * cos], -1).flatten(-2)


def t5_bias(table: Tensor, length: int) -> Tensor:
    """bias (H,length).  Clauses: GSS-ATT-5."""
    if eager():
        checks.check_table("t5_bias", table, length)
    n = torch.arange(length, device=table.device)
    first = torch.tensor(FIRST, device=table.device)
    return table[:, torch.where(n < 16, n, 15 + torch.searchsorted(first, n, right=True))]


# --- which keys a query sees, and the state that holds them ---------------------------------------


def visible(t: Tensor, s: Tensor, window: AttentionForm) -> Tensor:
    """Whether the query at t sees the key at s.  Clauses: GSS-ATT-1, GSS-ATT-2."""
    C, distance = window.chunk, t - s
    if window.visible == "strict":
        seen = (distance > 0) & (distance <= C)
    elif window.visible == "sliding":
        seen = (distance >= 0) & (distance < C)
    else:
        chunks = t.div(C, rounding_mode="floor") - s.div(C, rounding_mode="floor")
        seen = (distance >= 0) & (chunks <= (window.visible == "look1"))
    return seen & (s >= 0)


def of_rows(index: Tensor, like: Tensor) -> Tensor:
    """(B,T) as an index of the tokens of (B,·,G,D)."""
    return index[..., None, None].expand(*index.shape, *like.shape[2:])


def in_order(slots: Tensor, start: Tensor) -> Tensor:
    """(B,S,G,D), the tokens that the slots hold before the one at `start`, the oldest first."""
    S = slots.shape[1]
    index = (start[:, None] + torch.arange(S, device=start.device)) % S
    return slots.gather(1, of_rows(index, slots))


def handed_on(
    slots: Tensor, x: Tensor, start: Tensor, end: Tensor, window: AttentionForm
) -> Tensor:
    """What the token at `end` (B,) sees, each in its slot, else zeros: (B,S,G,D).

    x (B,T,G,D) are the tokens from `start` on; those before are in the slots.
    Clauses: GSS-ATT-7.
    """
    S = window.slots
    x = x[:, max(0, x.shape[1] - S) :]
    slot, end = torch.arange(S, device=x.device), end[:, None]
    s = end - 1 - (end - 1 - slot) % S
    index = torch.where(s < start[:, None], slot, S + s - (end - x.shape[1]))
    index = index.clamp(0, S + x.shape[1] - 1)
    found = torch.cat([slots, x], 1).gather(1, of_rows(index, x))
    return torch.where(visible(end, s, window)[..., None, None], found, 0)


# --- attention ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocks:
    """How the queries of `length` tokens are taken: `size` at a time, with `back` keys before."""

    window: AttentionForm
    length: int
    size: int
    back: int

    @property
    def count(self) -> int:
        return -(-self.length // self.size)

    @property
    def missing(self) -> int:
        """Of the last block."""
        return self.count * self.size - self.length

    def seen(self, start: Tensor) -> Tensor:
        """Of tokens at `start` (B,) and on: (B,count,1,1,size,back + size)."""
        within = torch.arange(-self.back, self.size, device=start.device)
        blocks = torch.arange(self.count, device=start.device) * self.size
        first = (start[:, None] + blocks)[..., None, None, None, None]
        t, s = first + within[self.back :, None], first + within
        given = t < start.reshape(-1, 1, 1, 1, 1, 1) + self.length
        return visible(t, s, self.window) & given

    def queries(self, x: Tensor) -> Tensor:
        """(B,L,G,R,D) -> (B,count,size,G,R,D), zeros at the end."""
        x = functional.pad(x, (0, 0, 0, 0, 0, 0, 0, self.missing))
        return x.unflatten(1, (self.count, self.size))

    def keys(self, x: Tensor) -> Tensor:
        """(B,back + L,G,D) -> (B,count,back + size,G,D): what each block may see."""
        x = functional.pad(x, (0, 0, 0, 0, 0, self.missing))
        return x.unfold(1, self.back + self.size, self.size).permute(0, 1, 4, 2, 3)

    def keys_back(self, dx: Tensor) -> Tensor:
        """The gradient of `keys`."""
        B, n, K, G, D = dx.shape
        whole = dx.new_zeros(B, self.back + n * self.size, G, D)
        for i in range(n):
            whole[:, i * self.size : i * self.size + K] += dx[:, i]
        return whole[:, : self.back + self.length]

    def distance(self, bias: Tensor) -> Tensor:
        """Of query and key (size,back + size), any that the bias has where no key is seen."""
        within = torch.arange(-self.back, self.size, device=bias.device)
        return (within[self.back :, None] - within).clamp(0, bias.shape[-1] - 1)


def blocks_of(length: int, window: AttentionForm, fresh: bool) -> Blocks:
    """With no state (`fresh`) blocks are chunks, and fewer keys before them are seen."""
    C = window.chunk
    size = max(1, min(C, length))
    if not fresh:
        back = window.slots
    else:
        back = 0 if window.visible == "chunk" or length <= C else C
    return Blocks(window, length, size, back)


def over_seen(subscripts: str, w: Tensor, x: Tensor, seen: Tensor) -> Tensor:
    """A sum of w·x, w being 0 where nothing is seen: what is no number spoils no other sum.

    Clauses: GSS-ATT-10, GSS-ATT-16.
    """
    finite = x.isfinite()
    if eager() and finite.all():
        return torch.einsum(subscripts, w, x)
    pairs = seen.expand(w.shape).to(x.dtype)
    spoiled = torch.einsum(subscripts, pairs, (~finite).to(x.dtype)) > 0
    sums = torch.einsum(subscripts, w, torch.where(finite, x, 0))
    return torch.where(spoiled, float("nan"), sums)


class Attend(torch.autograd.Function):
    """q (B,n,Q,G,R,D), keys and values (B,back + L,G,D), bias (G,R,M), start (B,) -> as q.

    Clauses: GSS-ATT-3, GSS-ATT-9, GSS-ATT-11, GSS-ATT-16, GSS-ATT-17, GSS-ATT-18, GSS-ATT-25.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        bias: Tensor | None,
        start: Tensor,
        blocks: Blocks,
    ) -> Tensor:
        seen = blocks.seen(start)
        a = logits(q, blocks.keys(keys), bias, seen, blocks)
        some = seen.any(-1, keepdim=True)  # under "strict" the first token sees none
        largest = torch.where(some, a.amax(-1, keepdim=True), 0)
        e = torch.where(seen, (a - largest).exp(), 0)
        total = torch.where(some, e.sum(-1, keepdim=True), 1)
        ctx.blocks = blocks
        ctx.save_for_backward(q, keys, values, bias, start, largest, total)
        return over_seen("bngrqk,bnkgd->bnqgrd", e / total, blocks.keys(values), seen)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        """dS = P∘(dP - rowsum(P∘dP)), P from the logits again."""
        (dy,), blocks = cotangents, ctx.blocks
        q, keys, values, bias, start, largest, total = ctx.saved_tensors
        seen, k, v = blocks.seen(start), blocks.keys(keys), blocks.keys(values)
        a = logits(q, k, bias, seen, blocks)
        w = torch.where(seen, (a - largest).exp() / total, 0)
        dw = torch.where(seen, torch.einsum("bnqgrd,bnkgd->bngrqk", dy, v), 0)
        da = torch.where(seen, w * (dw - (w * dw).sum(-1, keepdim=True)), 0)
        dbias = None
        if bias is not None:
            at = blocks.distance(bias).flatten().expand(*bias.shape[:2], -1)
            dbias = torch.zeros_like(bias).scatter_add(-1, at, da.sum((0, 1)).flatten(-2))
        scaled = da * scale(q, blocks)
        dq = over_seen("bngrqk,bnkgd->bnqgrd", scaled, k, seen)
        dk = over_seen("bngrqk,bnqgrd->bnkgd", scaled, q, seen)
        dv = over_seen("bngrqk,bnqgrd->bnkgd", w, dy, seen)
        return dq, blocks.keys_back(dk), blocks.keys_back(dv), dbias, None, None


def logits(q: Tensor, k: Tensor, bias: Tensor | None, seen: Tensor, blocks: Blocks) -> Tensor:
    """(B,n,Q,G,R,D), (B,n,K,G,D) -> (B,n,G,R,Q,K), -∞ where nothing is seen."""
    a = torch.einsum("bnqgrd,bnkgd->bngrqk", q, k) * scale(q, blocks)
    if bias is not None:
        a = a + bias[..., blocks.distance(bias)]
    return torch.where(seen, a, -math.inf)


def scale(q: Tensor, blocks: Blocks) -> float:
    return 1 / math.sqrt(q.shape[-1]) if blocks.window.scale == "inverse-root" else 1.0


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    state: State | None,
    window: AttentionForm,
) -> tuple[Tensor, State]:
    """q (B,L,Hq,D), k, v (B,L,G,D), bias (Hq,M) or None, state or None -> y (B,L,Hq,D), state.

    Clauses: GSS-ATT-1..3, GSS-ATT-6..8, GSS-ATT-10..11, GSS-ATT-15, GSS-ATT-17, GSS-ATT-25..26.
    """
    if eager():
        checks.check_attention("attention", q, k, v, bias, state, window)
    (B, L, heads, D), G = q.shape, k.shape[2]
    blocks, new = blocks_of(L, window, state is None), {"k": k, "v": v}
    given: dict[str, Tensor] = {n: k.new_zeros(B, window.slots, G, D) for n in new}
    start = torch.zeros(B, dtype=torch.int32, device=q.device)
    if state is not None:
        given = dict(state)
        start = given["t"].to(torch.promote_types(given["t"].dtype, torch.int32))

    def with_earlier(part: str) -> Tensor:
        """(B,back + L,G,D)."""
        if state is None:
            return functional.pad(new[part], (0, 0, 0, 0, blocks.back, 0))
        return torch.cat([in_order(given[part], start), new[part]], 1)

    grouped = None if bias is None else bias.unflatten(0, (G, heads // G))
    keys, values = (with_earlier(part) for part in new)
    if L:
        split = blocks.queries(q.unflatten(2, (G, heads // G)))
        y = Attend.apply(split, keys, values, grouped, start, blocks)
        y = y.flatten(3, 4).flatten(1, 2)[:, :L]
    else:
        y = q
    end = start + L
    parts = {n: handed_on(given[n], x, start, end, window) for n, x in new.items()}
    return y, {**parts, "t": end % window.chunk if window.visible == "chunk" else end}


def attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    state: State | None,
    window: AttentionForm,
) -> tuple[Tensor, State]:
    """One token: q (B,Hq,D), k, v (B,G,D) -> y (B,Hq,D), state.

    Clauses: GSS-ATT-23, GSS-ATT-27.
    """
    if eager():
        checks.check_attention_step("attention_step", q, k, v)
    y, state = attention(q[:, None], k[:, None], v[:, None], bias, state, window)
    return y[:, 0], state
