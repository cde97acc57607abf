"""Writing a file whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write the file so that nobody ever sees half of it: see `replacing`.  Raises OSError."""
    with replacing(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


def bounded_read(path: Path, most: int = 1 << 30) -> bytes:
    """The content of a file or a pipe.  Raises OSError, also where it has more bytes (a device)."""
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return content


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its place once all is written and on the disk.

    A crash or a loss of power at any moment leaves the old file or the new one, at worst with a
    temporary file (.refgss-….tmp) beside it.  Several threads and processes may write one path: the
    last one wins.  The permissions of a file that is replaced are kept.  A device or a pipe
    (/dev/stdout) is written as it is.

    Raises OSError, which always names a file.
    """
    try:
        if path.exists() and not path.is_file():
            with open(path, "wb") as file:
                yield file
        else:
            with beside(target_of(path)) as file:
                yield file
    except OSError as e:
        if e.filename is None:  # a write fails without a name
            raise OSError(e.errno, e.strerror, str(path)) from e
        raise


def target_of(path: Path) -> Path:
    """Where links lead: a link that is written to keeps pointing there."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


@contextmanager
def beside(path: Path) -> Iterator[BinaryIO]:
    """A file of a name of its own in the same folder, renamed to `path` at the end."""
    new = path.with_name(f".refgss-{secrets.token_hex(8)}.tmp")
    try:
        with open(new, "xb") as file:
            if path.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
        sync_folder(path.parent)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder`, which is new; of an empty one it fills the place.

    Where it is new nobody ever sees half of it, whatever happens.  Raises OSError; then `folder` is
    as it was.
    """
    new = not folder.exists()
    place = folder.parent if new else folder
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".refgss-", suffix=".tmp") as name:
        (filled := Path(name, "new")).mkdir()
        yield filled
        if new:
            filled.rename(folder)
        else:
            for child in filled.iterdir():
                child.rename(folder / child.name)


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder outlast a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
