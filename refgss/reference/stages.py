"""Intermediate results of a layer, by the names of chapter 14.  Clauses: GSS-CNF-10."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from refgss.reference.layers import dss_layer, gss_layer

STAGES: dict[Callable[..., Any], tuple[str, ...]] = {
    gss_layer: ("h", "v", "u", "lam", "s", "y", "uc"),
    dss_layer: ("u", "lam", "delta", "s", "y"),
}


def probe(op: str, *arguments: Any, **options: Any) -> dict[str, Any]:
    """The stages of `op` on its arguments; {} for an op that has none.

    They are the variables of the layer's function when it returns: its text is written with the
    standard's names, and needs no second path that only a probe would take.
    """
    layer = next((f for f in STAGES if f.__name__ == op), None)
    if layer is None:
        return {}
    found = variables(layer, *arguments, **options)
    return {name: found[name] for name in STAGES[layer]}


def variables(function: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, Any]:
    """The local variables of a call of `function`, as it returns."""
    found: dict[str, Any] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is function.__code__:
            found.update(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function(*arguments, **options)
    finally:
        sys.setprofile(before)
    return found
