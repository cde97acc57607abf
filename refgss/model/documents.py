"""Text files as documents: found in a fixed order, read in pieces, refused where they are none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from refgss.model.tokenizer import ByteTokenizer, Tokenizer
from refgss.tensors import ModelError

READ = 1 << 16  # bytes of a file at a time


class DocumentError(ModelError):
    """A file or a folder that is no text, in one sentence."""


def find_documents(paths: Sequence[Path | str], suffixes: Sequence[str] = ()) -> list[Path]:
    """The files, and the text files in the folders, in the order of their names.

    In folders, hidden, empty and binary files are left out, and what does not end in one of the
    suffixes, if there are any.  Raises DocumentError for a file named that is empty, binary or
    unreadable, and where there is nothing at all.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.is_file() and not hidden(p, path))
            wanted = (p for p in inside if not suffixes or p.name.endswith(tuple(suffixes)))
            found += [p for p in sorted(wanted) if trouble(p) is None]
        elif (reason := trouble(path)) is not None:
            raise DocumentError(f"{path} {reason}: name text files, or folders that have some")
        else:
            found.append(path)
    if not found:
        raise DocumentError(f"there is no text file in {', '.join(map(str, paths)) or 'nothing'}")
    return found


def hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def trouble(path: Path) -> str | None:
    """Why a file is no text, if it is none."""
    try:
        with open(path, "rb") as file:
            start = file.read(READ)
    except OSError as e:
        return f"cannot be read ({e.strerror})"
    if not start:
        return "is empty"
    return "is binary, it has NUL bytes" if b"\0" in start else None


def read_pieces(path: Path) -> Iterator[bytes]:
    """The bytes of a file, READ at a time.  Raises DocumentError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            while piece := file.read(READ):
                yield piece
    except OSError as e:
        raise DocumentError(f"{path} cannot be read: {e.strerror}") from e


def read_tokens(path: Path, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The tokens of a file, in memory that does not grow where tokens are bytes."""
    if isinstance(tokenizer, ByteTokenizer):
        yield from map(tokenizer.encode, read_pieces(path))
    else:
        yield tokenizer.encode(b"".join(read_pieces(path)))


def windows(paths: Iterable[Path], tokenizer: Tokenizer, length: int) -> Iterator[list[np.ndarray]]:
    """All files as one stream, the separator between them, in windows of `length` tokens.

    A rest that fills no window is left out.
    """
    between = [] if tokenizer.separator is None else [np.array([tokenizer.separator], np.int32)]
    held = np.zeros(0, np.int32)
    for path in paths:
        for piece in (*read_tokens(path, tokenizer), *between):
            held = np.concatenate([held, piece])
            while len(held) >= length:
                yield [held[:length]]
                held = held[length:]
