"""Text from elsewhere, made fit to be shown."""

from __future__ import annotations

MOST = 300  # characters of a foreign text that are shown


def printable(text: str, most: int = MOST) -> str:
    """Foreign text as one line that does nothing to a terminal, cut after `most` characters.

    Names, messages and file contents come from candidates, models and reports.  White space
    becomes a single space; escape sequences, control characters, invisible marks that turn the
    reading direction, and halves of surrogate pairs become U+FFFD.
    """
    line = " ".join(text[: 4 * most].split())
    line = "".join(c if c.isprintable() else "\ufffd" for c in line)
    return line if len(line) <= most else f"{line[:most]}…"
