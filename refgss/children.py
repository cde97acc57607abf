"""Python processes that this one starts, with the same refgss as this one."""

from __future__ import annotations

import sys
from pathlib import Path


def python(*arguments: str) -> list[str]:
    """The command `python ARGUMENTS`.

    `python -c` and `python -m` look into the working folder first.  Where that is a checkout, and
    refgss was not imported from it, they would find its source in place of this package.
    """
    from_here = Path(__file__).resolve().parents[1] == Path.cwd()
    return [sys.executable, *([] if from_here else ["-P"]), *arguments]
