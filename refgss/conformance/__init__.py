"""The conformance kit: clauses, vectors, budgets, candidates, diagnosis and reports."""

from __future__ import annotations

from pathlib import Path

PROTOCOL = 1  # of the messages between `refgss check` and a candidate (GSS-CNF)
PRECISIONS = ("f32", "f64")
LAYER_PROFILES = ("paper", "gss-pytorch")
PROFILES = PRECISIONS + LAYER_PROFILES


def spec_folder() -> Path:
    """Where the chapters, schemas and vectors are: `spec/` of a checkout, or the installed copy."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package.parent / "spec", package / "spec"):
        if (folder / "schemas").is_dir():
            return folder
    raise FileNotFoundError("the folder spec/ is missing: reinstall refgss")
