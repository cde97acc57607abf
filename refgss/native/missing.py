"""Why the C++ backend cannot be used, in one sentence that says what to do."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REASON = "not_built.txt"  # setup.py leaves it where it could not compile


def reason(error: ImportError, here: Path = HERE) -> str:
    """`error` is what importing refgss.native._core in the folder `here` raised."""
    root = here.parents[1]  # a checkout, or the folder of installed packages
    checkout = (root / "setup.py").exists()
    again = f"run `pip install --editable .` in {root}" if checkout else "install refgss again"
    if any(here.glob("_core.*")):
        return f"refgss.native was built for another Python, system or librefgss: {again} ({error})"
    if hidden := built_elsewhere(root):
        return (
            f"the source in {root}, where refgss.native is not built, hides the installed refgss "
            f"of {hidden}: start Python in another folder, or {again}"
        )
    if (here / REASON).exists():
        why = (here / REASON).read_text("utf-8").strip()
        return f"refgss.native is not built: {why}, and {again}"
    return f"refgss.native is not built: {again}"


def built_elsewhere(root: Path) -> Path | None:
    """A folder of sys.path other than `root` that has refgss with its C++ backend."""
    folders = (Path(entry or ".").resolve() for entry in sys.path)
    return next((f for f in folders if f != root and any(f.glob("refgss/native/_core.*"))), None)
