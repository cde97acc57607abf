"""Where the standard is: its chapters, schemas and vectors, and the header of its C ABI."""

from __future__ import annotations

from pathlib import Path

SPEC_VERSION = "1.2.0"  # semantic; spec/README says what raises which part


def spec_folder() -> Path:
    """The folder with the chapters, schemas and vectors."""
    return beside_package("spec", "schemas")


def header_file() -> Path:
    """The header refgss.h."""
    return beside_package("include", "refgss.h") / "refgss.h"


def beside_package(name: str, content: str) -> Path:
    """The folder `name` of a checkout, or its installed copy, that holds `content`."""
    package = Path(__file__).resolve().parent
    for folder in (package.parent / name, package / name):
        if (folder / content).exists():
            return folder
    raise FileNotFoundError(f"the folder {name}/ is missing: reinstall refgss")
