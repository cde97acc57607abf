"""JSON as the standard wants it, and the schemas of every file and message."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from refgss.standard import spec_folder

MOST_DIGITS = 18  # of an integer: any 64-bit reader holds it
MOST_DEPTH = 64  # of arrays and objects in each other: far below what any reader's stack holds
TOO_DEEP = f"it is nested more than {MOST_DEPTH} levels deep"


def parse(text: bytes | str) -> Any:
    """The value of a JSON text in UTF-8.  Raises ValueError, whatever is wrong with it.

    Stricter than Python: no NaN or infinity, no number that 64 bits cannot hold, no key twice, no
    half of a surrogate pair, no nesting beyond MOST_DEPTH: every reader sees the same values.
    """
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    try:
        value = json.loads(
            text,
            parse_constant=refuse,
            parse_float=finite,
            parse_int=short,
            object_pairs_hook=distinct,
        )
    except RecursionError as e:
        raise ValueError(TOO_DEEP) from e
    if deeper(value, MOST_DEPTH):
        raise ValueError(TOO_DEEP)
    if "\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def deeper(value: Any, most: int) -> bool:
    """Whether arrays and objects are nested in more than `most` levels; found without recursion."""
    level = [value]
    for _ in range(most + 1):
        level = [x for x in level if isinstance(x, list | dict)]
        level = [y for x in level for y in (x.values() if isinstance(x, dict) else x)]
        if not level:
            return False
    return True


def refuse(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else refuse(text)


def short(text: str) -> int:
    return int(text) if len(text.lstrip("-")) <= MOST_DIGITS else refuse(f"{text[:20]}…")


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


@cache
def validators(name: str) -> dict[str | None, Any]:
    """The validator of the schema of this name, and by "type" those of the kinds that it has."""
    import jsonschema  # costs a tenth of a second: only where something is checked

    schema = json.loads((spec_folder() / "schemas" / f"{name}.schema.json").read_text("utf-8"))
    whole = jsonschema.Draft202012Validator(schema)
    kinds = {
        about["properties"]["type"]["const"]: jsonschema.Draft202012Validator(about)
        for about in schema.get("$defs", {}).values()
        if "type" in about.get("properties", {})
    }
    return {None: whole, **kinds}


def problem(name: str, value: Any) -> str | None:
    """What does not fit the schema of this name, in one sentence; None if all does."""
    from jsonschema.exceptions import best_match

    found = validators(name)
    kind = value.get("type") if isinstance(value, Mapping) else None
    checker = found.get(kind if isinstance(kind, str) else None, found[None])
    if checker.is_valid(value):
        return None
    if checker is found[None] and len(found) > 1:
        return f"its type must be one of {', '.join(sorted(filter(None, found)))}"
    error = best_match(checker.iter_errors(value))
    where = "".join(f"[{part!r}]" for part in error.absolute_path)
    text = error.message if len(error.message) < 200 else f"{error.message[:200]}…"
    return f"{where or 'the whole'}: {text}"
