"""Protocol 1: JSON lines on stdin and stdout, tensors in safetensors files beside them.

`check` says hello and the candidate answers with its capabilities; then each case is a line that
names the op, the precision, the options and two files, and the candidate writes its outputs to the
second and answers done, error or unclaimed.  Expected values are never sent, and a case's number
says nothing about its vector.  Every message fits spec/schemas/message.schema.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from refgss.conformance import PROTOCOL
from refgss.schemas import parse, problem
from refgss.text import printable

MAX_LINE = 1 << 20  # bytes: a candidate that writes more without a newline is not speaking to us


class ProtocolError(ValueError):
    """A line that is no message; the text says what is wrong with it."""


def encode(message: Mapping[str, Any]) -> bytes:
    """A message of the schema as one line.  Raises ProtocolError."""
    if wrong := problem("message", message):
        raise ProtocolError(f"this is no message of protocol {PROTOCOL}: {wrong}")
    try:
        return json.dumps(message, ensure_ascii=True, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as e:
        raise ProtocolError(f"this message is not JSON: {e}") from e


def decode(line: bytes) -> dict[str, Any]:
    """A line as a message of the schema.  Raises ProtocolError.  Clauses: GSS-FMT-3."""
    shown = printable(line.decode("utf-8", "replace"), 80)
    try:
        message = parse(line)
    except ValueError as e:
        raise ProtocolError(f"{shown!r} is not JSON") from e
    if wrong := problem("message", message):
        raise ProtocolError(f"{shown!r} is not a message of protocol {PROTOCOL}: {wrong}")
    return dict(message)


def hello() -> dict[str, Any]:
    return {"type": "hello", "protocol": PROTOCOL}


def capabilities(claims: Mapping[str, Any]) -> dict[str, Any]:
    """What `capabilities()` of a backend returned, as a message."""
    missing = {"name": "unnamed", "version": "", "ops": [], "profiles": []}
    found = {key: claims.get(key, default) for key, default in missing.items()}
    found = {key: list(x) if isinstance(x, tuple) else x for key, x in found.items()}
    found |= {key: list(claims[key]) for key in ("probes", "ways") if claims.get(key)}
    found |= {"arrays": claims["arrays"]} if "arrays" in claims else {}
    return {"type": "capabilities", "protocol": PROTOCOL, **found}
