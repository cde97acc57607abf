"""Text from elsewhere, made fit to be shown."""

from __future__ import annotations

MOST = 300  # characters of a foreign text that are shown


def harmless(text: str) -> str:
    """Text as one line that does nothing to a terminal.

    Names, messages and file contents come from candidates, models and reports.  Escape sequences,
    line ends, control characters, invisible marks that turn the reading direction, and halves of
    surrogate pairs become U+FFFD.
    """
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def printable(text: str, most: int = MOST) -> str:
    """Foreign text as one harmless line of at most `most` characters, white space collapsed."""
    line = harmless(" ".join(text[: 4 * most].split()))
    return line if len(line) <= most else f"{line[:most]}…"
