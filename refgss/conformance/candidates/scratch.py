"""The files that a case travels in, whatever a candidate does to them."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from refgss.conformance.candidates.protocol import ProtocolError

MOST_BYTES = 1 << 28  # of a file that a candidate wrote
REMOVAL_SECONDS = 10.0  # to remove what a living candidate may still add to


class Scratch:
    """A temporary folder with a new, empty folder for each case."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="refgss-"))

    @contextmanager
    def case(self) -> Iterator[Path]:
        """A folder that nobody could guess, removed with all that is in it.  Raises OSError."""
        try:
            name = tempfile.mkdtemp(dir=self.root)
        except OSError:  # the candidate removed the temporary folder, or locked it
            remove(self.root)
            self.root.mkdir(mode=0o700)
            name = tempfile.mkdtemp(dir=self.root)
        try:
            yield Path(name)
        finally:
            remove(Path(name))

    def close(self) -> None:
        remove(self.root)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that must not exist yet, not even as a pipe or a link.  Raises OSError."""
    with open(path, "xb") as file:
        file.write(content)


def read_given(path: Path, deadline: float) -> bytes:
    """What a candidate wrote: a regular file of bounded size, read before the deadline.

    Neither a pipe nor a link nor a device is waited for or followed.  Raises ProtocolError or
    TimeoutError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError as e:
        raise ProtocolError("it wrote no safetensors file") from e
    except OSError as e:
        raise ProtocolError(f"it wrote no safetensors file that can be read: {e.strerror}") from e
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ProtocolError("what it wrote is no safetensors file, and no regular file at all")
        content, size = bytearray(), about.st_size
        while max(len(content), size) <= MOST_BYTES and (chunk := os.read(descriptor, 1 << 24)):
            if time.monotonic() > deadline:
                raise TimeoutError
            content += chunk
    finally:
        os.close(descriptor)
    if max(len(content), size) > MOST_BYTES:
        raise ProtocolError(f"its safetensors file has more than {MOST_BYTES} bytes")
    return bytes(content)


def remove(path: Path) -> None:
    """Remove a file or a folder, however deep and whatever its permissions; links are not followed.

    A folder below another is moved up before it is emptied, so that no path grows and nothing
    recurses.  What resists for REMOVAL_SECONDS stays.
    """
    deadline = time.monotonic() + REMOVAL_SECONDS
    with suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        while (children := listed(path)) and time.monotonic() < deadline:
            for child in children:
                empty(child, path)
        path.rmdir()


def listed(folder: Path) -> list[Path]:
    folder.chmod(0o700)
    return list(folder.iterdir())


def empty(child: Path, top: Path) -> None:
    """Remove a child of `top`; the folders in it become children of `top`."""
    if child.is_symlink() or not child.is_dir():
        child.unlink(missing_ok=True)
        return
    for below in listed(child):
        if below.is_symlink() or not below.is_dir():
            below.unlink(missing_ok=True)
        else:
            below.chmod(0o700)
            below.rename(top / uuid4().hex)
    child.rmdir()
