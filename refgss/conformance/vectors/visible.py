"""Which keys a query sees, read from the table of GSS-ATT-2 once more, in plain loops."""

from __future__ import annotations

from refgss.config import AttentionForm


def sees(t: int, s: int, form: AttentionForm) -> bool:
    """Whether the query at t sees the key at s >= 0."""
    chunk = form.chunk
    return {
        "chunk": s <= t and t // chunk == s // chunk,
        "sliding": s <= t and t - s < chunk,
        "look1": s <= t and t // chunk - s // chunk <= 1,
        "strict": s < t and t - s <= chunk,
    }[form.visible]


def shown(t: int, form: AttentionForm) -> list[bool]:
    """By slot, whether it holds a token that the next, at t, sees.

    Under "chunk" t may be counted modulo the chunk.
    """
    full = [False] * form.slots
    for s in range(max(0, t - form.slots), t):
        full[s % form.slots] = sees(t, s, form)
    return full
