"""Candidates in a process of their own, asked over `protocol`, one case at a time.

When a process crashes, hangs or talks nonsense, that is the outcome of the case, and a fresh
process answers the next one, until it is clear that none ever will.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from refgss import ops
from refgss.conformance.candidates import protocol
from refgss.conformance.candidates.claims import (
    CandidateError,
    Capabilities,
    capabilities_of,
    one_line,
)
from refgss.conformance.candidates.protocol import printable
from refgss.conformance.judging.compare import Answer, Failure, Outcome, Outputs

PATIENCE = 3  # an op that failed so often in a way of HOPELESS is not asked again
IN_A_ROW = 8  # nor is a candidate after so many cases without an answer
HOPELESS = (Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.GARBAGE, Outcome.OUT_OF_ORDER)
START_SECONDS = 60.0  # to say hello: importing a framework takes a while
MOST_BYTES = 1 << 30  # of a file of outputs
LAST_WORDS = 4096  # bytes of stderr that are kept
BEAT = 0.2  # seconds between two looks at whether a silent process still lives
COMPLAINT = re.compile(r"error|exception|panic|fault|fatal|abort", re.IGNORECASE)


class ProcessCandidate:
    """A program that speaks the protocol, restarted after a crash, a time-out or nonsense."""

    def __init__(self, command: Sequence[str], timeout: float, memory: int):
        self.command, self.timeout, self.memory = list(command), timeout, memory
        self.folder = tempfile.TemporaryDirectory(prefix="refgss-", ignore_cleanup_errors=True)
        self.number = 0
        self.trouble: Counter[tuple[str, Outcome]] = Counter()
        self.lost: list[Outcome] = []  # of the cases since the last answer
        self.line: Pipe | None = None
        try:
            self.about = self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> Capabilities:
        """Start the program and shake hands."""
        self.line = Pipe(self.command, self.memory)
        try:
            self.line.send(protocol.hello())
            message = self.line.receive(START_SECONDS)
        except TimeoutError as e:
            raise CandidateError(
                f"the candidate did not answer hello within {START_SECONDS:g} s"
            ) from e
        except (EOFError, BrokenPipeError) as e:
            raise CandidateError(f"the candidate {self.line.epitaph()}") from e
        except protocol.ProtocolError as e:
            raise CandidateError(f"the candidate broke the protocol: {e}") from e
        if message["type"] == "error":
            raise CandidateError(printable(message["message"]))
        if message["type"] != "capabilities" or message["protocol"] != protocol.PROTOCOL:
            raise CandidateError(
                f"the candidate must answer hello with capabilities of protocol {protocol.PROTOCOL}"
            )
        return capabilities_of(message)

    def ask(
        self, op: str, tensors: Mapping[str, np.ndarray], options: Mapping[str, Any], precision: str
    ) -> Answer:
        for outcome in HOPELESS:
            if self.trouble[op, outcome] >= PATIENCE:
                return Failure(outcome, f"not asked: {op} {outcome} {PATIENCE} times before")
        if len(self.lost) >= IN_A_ROW:
            why = f"not asked: no answer to {IN_A_ROW} cases in a row"
            return Failure(self.lost[-1], why)
        answer = self.exchange(op, tensors, options, precision)
        if isinstance(answer, Failure) and answer.outcome in HOPELESS:
            self.trouble[op, answer.outcome] += 1
            self.lost.append(answer.outcome)
        else:
            self.lost.clear()
        return answer

    def probe(
        self, op: str, tensors: Mapping[str, np.ndarray], options: Mapping[str, Any], precision: str
    ) -> Mapping[str, np.ndarray]:
        if op not in self.about.probes:
            return {}
        file = Path(self.folder.name) / "stages"
        self.exchange(op, tensors, options, precision, {"probes": str(file)})
        try:
            return safetensors.numpy.load(file.read_bytes())
        except Exception:  # no file, or no safetensors: the stages decide nothing
            return {}
        finally:
            file.unlink(missing_ok=True)

    def exchange(
        self,
        op: str,
        tensors: Mapping[str, np.ndarray],
        options: Mapping[str, Any],
        precision: str,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> Answer:
        """Send one case and read its answer; whatever goes wrong is an outcome.

        Clauses: GSS-FMT-11, GSS-FMT-12.
        """
        if self.line is None:
            try:
                self.start()
            except CandidateError as e:
                self.stop()
                return Failure(Outcome.CRASHED, f"it could not be started again: {e}")
        assert self.line is not None
        self.number += 1
        files = [Path(self.folder.name) / f"{self.number}.{end}" for end in ("in", "out")]
        safetensors.numpy.save_file(ops.at_precision(tensors, precision), files[0])
        case = {"type": "case", "case": self.number, "op": op, "precision": precision}
        case |= {"options": dict(options), "inputs": str(files[0]), "outputs": str(files[1])}
        case |= more
        try:
            self.line.send(case)
            message = self.line.receive(self.timeout)
            if message.get("case") != self.number:
                said = printable(json.dumps(message), 80)
                raise LookupError(f"it answered {said} to case {self.number}")
            return read_answer(message, files[1])
        except TimeoutError:
            failure = Failure(Outcome.TIMED_OUT, f"no answer within {self.timeout:g} s")
        except (EOFError, BrokenPipeError):
            failure = Failure(Outcome.CRASHED, f"it {self.line.epitaph()}")
        except protocol.ProtocolError as e:
            failure = Failure(Outcome.GARBAGE, str(e))
        except LookupError as e:
            failure = Failure(Outcome.OUT_OF_ORDER, str(e))
        finally:
            for file in files:
                file.unlink(missing_ok=True)
        self.stop()  # what is left in its pipe would be taken for the next answer
        return failure

    def stop(self) -> None:
        if self.line is not None:
            self.line.close()
            self.line = None

    def close(self) -> None:
        self.stop()
        self.folder.cleanup()


def read_answer(message: Mapping[str, Any], outputs: Path) -> Answer:
    """The answer that a message and the file beside it make.  Raises ProtocolError."""
    if message["type"] == "unclaimed":
        return Failure(Outcome.UNCLAIMED, printable(message.get("message", "")))
    if message["type"] == "error":
        return Failure(Outcome.RAISED, printable(message["message"]))
    if message["type"] != "done":
        raise protocol.ProtocolError(f"{message['type']} is no answer to a case")
    if "message" in message:
        return Failure(Outcome.WRONG_DTYPE, printable(message["message"]))
    if not outputs.is_file():
        raise protocol.ProtocolError("it wrote no safetensors file of outputs")
    if outputs.stat().st_size > MOST_BYTES:
        raise protocol.ProtocolError(f"its safetensors file has more than {MOST_BYTES} bytes")
    try:
        return Outputs(safetensors.numpy.load(outputs.read_bytes()))
    except KeyError as e:
        return Failure(Outcome.WRONG_DTYPE, f"an output is {e.args[0]}")  # BF16, F8_E4M3 …
    except Exception as e:
        raise protocol.ProtocolError(f"its outputs are no safetensors file: {one_line(e)}") from e


class Pipe:
    """A running program, the lines that go to and come from it, and its last words on stderr."""

    def __init__(self, command: Sequence[str], memory: int):
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that its children end with it
                bufsize=0,
            )
        except (OSError, ValueError) as e:
            why = e.strerror if isinstance(e, OSError) else e
            raise CandidateError(f"{printable(command[0])} cannot be started: {why}") from e
        set_limits(self.process.pid, memory)
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.stderr = self.process.stderr
        self.selector = selectors.DefaultSelector()
        for stream in (self.stdout, self.stderr):
            os.set_blocking(stream.fileno(), False)
            self.selector.register(stream, selectors.EVENT_READ)
        self.buffer, self.words = b"", b""

    def send(self, message: Mapping[str, Any]) -> None:
        self.stdin.write(protocol.encode(message))

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next message.  Raises TimeoutError, EOFError or ProtocolError."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            if len(self.buffer) > protocol.MAX_LINE:
                raise protocol.ProtocolError(f"a line of more than {protocol.MAX_LINE} bytes")
            self.wait(deadline)
        line, _, self.buffer = self.buffer.partition(b"\n")
        return protocol.decode(line)

    def wait(self, deadline: float) -> None:
        """Take in what the program has written.  Raises TimeoutError or EOFError."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        ready = [key.fileobj for key, _ in self.selector.select(min(left, BEAT))]
        if self.stderr in ready and not self.listen():
            self.selector.unregister(self.stderr)
        if self.stdout in ready:
            chunk = self.stdout.read(1 << 16)
            if not chunk:
                raise EOFError
            self.buffer += chunk
        elif not ready and self.process.poll() is not None:
            raise EOFError  # though a process that it left behind may hold its output open

    def listen(self) -> bool:
        """Take in what is on stderr, so that it never fills; whether there was anything."""
        chunk = self.stderr.read(1 << 16)
        self.words = (self.words + (chunk or b""))[-LAST_WORDS:]
        return bool(chunk)

    def epitaph(self) -> str:
        """How the program ended, and the last line of its stderr that complains."""
        try:
            code = self.process.wait(2)
        except subprocess.TimeoutExpired:
            return "closed its output"
        how = f"exited with status {code}"
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        for _ in range(100):  # not for ever: somebody may still be writing
            if not self.listen():
                break
        lines = [x for x in map(printable, self.words.decode("utf-8", "replace").splitlines()) if x]
        complaints = [x for x in lines if COMPLAINT.search(x)]
        return f"{how}: {(complaints or lines)[-1]}" if lines else how

    def close(self) -> None:
        if self.process.poll() is None:
            with suppress(OSError):
                self.send({"type": "bye"})
                self.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.5)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.selector.close()
        for stream in (self.stdin, self.stdout, self.stderr):
            with suppress(OSError):
                stream.close()


def set_limits(pid: int, memory: int) -> None:
    """Bound a process's data and its files, and forbid core dumps, where the system can (Linux)."""
    with suppress(ImportError, AttributeError):
        import resource

        wanted = {resource.RLIMIT_DATA: memory, resource.RLIMIT_FSIZE: memory}
        for limit, size in {**wanted, resource.RLIMIT_CORE: 0}.items():
            with suppress(OSError, ValueError):
                hard = resource.prlimit(pid, limit)[1]
                least = size if hard == resource.RLIM_INFINITY else min(size, hard)
                resource.prlimit(pid, limit, (least, least))
