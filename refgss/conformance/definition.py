"""Where the definition of an op stands: that of a score in `refgss.scores`, all others below."""

from __future__ import annotations

from types import ModuleType

from refgss import reference, scores
from refgss.ops import SCORES


def definition(op: str) -> ModuleType:
    """The module of this project whose function of that name defines the op."""
    return scores if op in SCORES else reference
