"""refgss: the executable standard for gated state-space (GSS) sequence layers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refgss.model.text import generate as generate
    from refgss.model.text import stream as stream

__version__ = "0.1.0"


def get_include() -> str:
    """The folder with refgss.h, for a compiler's -I."""
    from refgss.standard import header_file

    return str(header_file().parent)


def __getattr__(name: str) -> Any:
    """`generate` and `stream`, imported when they are asked for: the spec needs no model."""
    if name in ("generate", "stream"):
        return getattr(import_module("refgss.model.text"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
