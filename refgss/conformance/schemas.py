"""The JSON Schemas of every file and message, and one sentence about what does not fit them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from refgss.conformance import spec_folder


@cache
def validator(name: str) -> Any:
    import jsonschema  # costs a tenth of a second: only where something is checked

    schema = json.loads((spec_folder() / "schemas" / f"{name}.schema.json").read_text("utf-8"))
    return jsonschema.Draft202012Validator(schema)


def complaint(name: str, value: Any) -> str | None:
    """What does not fit the schema of this name, in one sentence; None if all does."""
    from jsonschema.exceptions import best_match

    checker = validator(name)
    if checker.is_valid(value):
        return None
    error = best_match(checker.iter_errors(value))
    where = "".join(f"[{part!r}]" for part in error.absolute_path)
    text = error.message if len(error.message) < 200 else f"{error.message[:200]}…"
    return f"{where or 'the whole'}: {text}"
