"""The two profiles of options that measurements are made with; one figure has one of them."""

from __future__ import annotations

from typing import Any

# ours, and what reproduces the tables of the papers' code: chapters 21 to 24 say where they differ
PROFILES: dict[str, dict[str, dict[str, Any]]] = {
    "refgss": {
        "atc": {"rule": "exact", "ties": "split"},
        "math": {"rules": "refgss", "samples": "all"},
        "tasks": {"ties": "expected", "numeric": "numeric"},
    },
    "as-published": {
        "atc": {"rule": "public", "ties": "ge"},
        "math": {"rules": "as-published", "samples": "first"},
        "tasks": {"ties": "sha256-f64", "numeric": "numeric-public"},
    },
}
