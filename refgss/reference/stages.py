"""Intermediate results of a layer, by the names of chapter 14.  Clauses: GSS-CNF-10."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from refgss.reference.block_recurrent import block_recurrent_forward
from refgss.reference.elementary import Array
from refgss.reference.layers import dss_forward, gss_forward
from refgss.reference.transformer import transformer_forward

STAGES: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "gss_layer": (gss_forward, ("h", "v", "u", "lam", "s", "y", "uc")),
    "dss_layer": (dss_forward, ("u", "lam", "delta", "s", "y")),
    "transformer_layer": (transformer_forward, ("h", "q", "k", "v", "a", "x1", "h2", "m")),
    "block_recurrent_layer": (
        block_recurrent_forward,
        ("h", "q", "k", "v", "q2", "a", "x1", "h2", "m"),
    ),
}


def probe(op: str, *arguments: Any, config: Any = None, **options: Any) -> dict[str, Array]:
    """The stages of `op` on its arguments; {} for an op that has none."""
    if op not in STAGES:
        return {}
    forward, names = STAGES[op]
    found = forward(*arguments, config)
    return {name: getattr(found, name) for name in names}
