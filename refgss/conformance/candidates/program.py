"""A running program: the lines that go to it and come from it, its stderr, its end."""

from __future__ import annotations

import os
import re
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from refgss.conformance.candidates import protocol, supervisor
from refgss.conformance.candidates.claims import CandidateError
from refgss.text import printable

STDERR_BYTES = 4096  # of the end of stderr that are kept
POLL_SECONDS = 0.2  # between two looks at whether a silent program still lives
EXIT_SECONDS = 2.0  # for a program that closed its streams to end
BYE_SECONDS = 0.5  # for a program to leave after bye
KILL_SECONDS = 10.0  # for the supervisor to end everything
TELLING = re.compile(r"error|exception|panic|fault|fatal|abort", re.IGNORECASE)


class Program:
    """A program under `supervisor`, so that it ends together with all that it started.

    Raises CandidateError where it cannot be started.
    """

    def __init__(self, command: Sequence[str], memory: int):
        self.mark = f"REFGSS_CANDIDATE={secrets.token_hex(16)}"
        self.process, self.lifeline = supervised(command, memory, self.mark)
        with self.lifeline.makefile("rb") as lines:
            said = lines.readline().decode("utf-8", "replace").strip()
        if not said.isdigit():
            self.process.wait()
            self.lifeline.close()
            why = said or "its supervisor ended"
            raise CandidateError(f"{printable(command[0])} cannot be started: {why}")
        self.group = int(said)
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.stderr = self.process.stderr
        self.sending, self.receiving = selectors.DefaultSelector(), selectors.DefaultSelector()
        self.sending.register(self.stdin, selectors.EVENT_WRITE)
        self.receiving.register(self.stdout, selectors.EVENT_READ)
        for selector in (self.sending, self.receiving):
            selector.register(self.stderr, selectors.EVENT_READ)
        for stream in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(stream.fileno(), False)
        self.received, self.errors = b"", b""

    def send(self, message: Mapping[str, Any], deadline: float) -> None:
        """Write a message.  Raises TimeoutError, or EOFError where nobody reads any more."""
        left = protocol.encode(message)
        while left:
            if self.stdin not in self.ready(self.sending, deadline):
                continue
            try:
                left = left[self.stdin.write(left) or 0 :]
            except BrokenPipeError as e:
                raise EOFError("closed its input") from e

    def receive(self, deadline: float) -> dict[str, Any]:
        """The next message.  Raises TimeoutError, EOFError or ProtocolError."""
        while b"\n" not in self.received:
            if len(self.received) > protocol.MAX_LINE:
                raise protocol.ProtocolError(f"a line of more than {protocol.MAX_LINE} bytes")
            ready = self.ready(self.receiving, deadline)
            if self.stdout in ready:
                chunk = self.stdout.read(1 << 16)
                if not chunk:
                    raise EOFError("closed its output")
                self.received += chunk
            elif not ready and self.process.poll() is not None:
                raise EOFError("closed its output")
        line, _, self.received = self.received.partition(b"\n")
        return protocol.decode(line)

    def unasked(self) -> bytes:
        """What it has written and nobody asked for."""
        self.received += self.stdout.read(1 << 16) or b""
        return self.received

    def ready(self, selector: selectors.BaseSelector, deadline: float) -> list[Any]:
        """The streams that can be used now; stderr is read here, so that it never fills.

        Raises TimeoutError after the deadline.
        """
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        streams = [key.fileobj for key, _ in selector.select(min(left, POLL_SECONDS))]
        if self.stderr in streams and not self.read_errors():
            self.sending.unregister(self.stderr)
            self.receiving.unregister(self.stderr)
        return streams

    def read_errors(self) -> bool:
        """Read what is on stderr and keep its end; whether there was anything."""
        chunk = self.stderr.read(1 << 16)
        self.errors = (self.errors + (chunk or b""))[-STDERR_BYTES:]
        return bool(chunk)

    def exit_reason(self, otherwise: str) -> str:
        """How the program ended, `otherwise` if it lives, and the most telling line of stderr."""
        try:
            how = ending(self.process.wait(EXIT_SECONDS))
        except subprocess.TimeoutExpired:
            return otherwise
        for _ in range(100):  # not for ever: somebody may still be writing
            if not self.read_errors():
                break
        text = self.errors.decode("utf-8", "replace")
        lines = [line for line in map(printable, text.splitlines()) if line]
        telling = [line for line in lines if TELLING.search(line)]
        return f"{how}: {(telling or lines)[-1]}" if lines else how

    def close(self) -> None:
        """End the program and all that it started, politely where it still listens."""
        with suppress(OSError, EOFError, subprocess.TimeoutExpired):
            self.send({"type": "bye"}, time.monotonic() + BYE_SECONDS)
            self.stdin.close()
            self.process.wait(BYE_SECONDS)
        self.lifeline.close()
        with suppress(OSError):  # in case the program stopped its supervisor
            self.process.send_signal(signal.SIGCONT)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(KILL_SECONDS)
        if self.process.poll() in (None, -signal.SIGKILL):  # in case it killed it
            kill_marked(self.group, self.mark)
        self.process.kill()
        self.process.wait()
        self.sending.close()
        self.receiving.close()
        for stream in (self.stdin, self.stdout, self.stderr):
            with suppress(OSError):
                stream.close()


def supervised(
    command: Sequence[str], memory: int, mark: str
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The command under a supervisor, and the socket whose closing ends both."""
    ours, theirs = socket.socketpair()
    script = str(Path(supervisor.__file__).resolve())
    start = [sys.executable, "-I", "-S", script, str(theirs.fileno()), str(memory), *command]
    try:
        process = subprocess.Popen(
            start,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            env=os.environ | dict([mark.split("=")]),
            start_new_session=True,  # so that no key of the terminal reaches it
            bufsize=0,
        )
    except (OSError, ValueError) as e:
        ours.close()
        why = e.strerror if isinstance(e, OSError) else e
        raise CandidateError(f"{printable(command[0])} cannot be started: {why}") from e
    finally:
        theirs.close()
    return process, ours


def kill_marked(group: int, mark: str) -> None:
    """Kill a program that has lost its supervisor: its group, and what inherited this variable."""
    with suppress(OSError):
        os.killpg(group, signal.SIGKILL)
    deadline = time.monotonic() + KILL_SECONDS
    while (found := marked(mark.encode())) and time.monotonic() < deadline:
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def marked(mark: bytes) -> list[int]:
    """The processes whose environment holds this text; none where there is no /proc."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has just ended, or is another user's
            if mark in file.read_bytes():
                found.append(int(file.parent.name))
    return found


def ending(code: int) -> str:
    """How a process ended, from its return code."""
    if code >= 0:
        return f"exited with status {code}"
    known = {s.value: s.name for s in signal.Signals}
    return f"was ended by {known.get(-code, f'signal {-code}')}"
