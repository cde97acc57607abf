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
from refgss.conformance.schemas import complaint

MAX_LINE = 1 << 20  # bytes: a candidate that writes more without a newline is not speaking to us


class ProtocolError(ValueError):
    """A line that is no message; the text says what is wrong with it."""


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as one line."""
    return json.dumps(message, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """A line as a message of the schema.  Raises ProtocolError.  Clauses: GSS-FMT-3."""
    shown = line[:80].decode("utf-8", "backslashreplace").strip()
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise ProtocolError(f"{shown!r} is not JSON") from e
    if trouble := complaint("message", message):
        raise ProtocolError(f"{shown!r} is not a message of protocol {PROTOCOL}: {trouble}")
    return message


def hello() -> dict[str, Any]:
    return {"type": "hello", "protocol": PROTOCOL}


def capabilities(claims: Mapping[str, Any]) -> dict[str, Any]:
    """What `capabilities()` of a backend returned, as a message."""
    return {
        "type": "capabilities",
        "protocol": PROTOCOL,
        "name": claims.get("name", "unnamed"),
        "version": claims.get("version", ""),
        "ops": claims.get("ops", []),
        "profiles": claims.get("profiles", []),
    }
