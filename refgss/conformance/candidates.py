"""Candidates: somebody's implementation, here or in a process of its own, asked one case at a time.

A process is asked over `protocol`.  When it crashes, hangs or talks nonsense, that is the outcome
of the case, and a fresh process answers the next one.
"""

from __future__ import annotations

import importlib
import json
import os
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import safetensors
import safetensors.numpy

from refgss.conformance import PROFILES, ops, protocol
from refgss.conformance.compare import Answer, Failure, Outcome, Outputs
from refgss.conformance.schemas import complaint

ALIASES = {"reference": "refgss.reference", "native": "refgss.native", "jax": "refgss.xla"}
PATIENCE = 3  # an op that crashed or timed out so often is not asked again
START_SECONDS = 120.0  # to say hello: importing a framework takes a while


class CandidateError(Exception):
    """The candidate could not be started, or does not speak the protocol."""


@dataclass(frozen=True)
class Capabilities:
    """What a candidate claims."""

    name: str
    version: str
    ops: tuple[str, ...]
    profiles: tuple[str, ...]


class Candidate(Protocol):
    about: Capabilities

    def ask(
        self, op: str, tensors: Mapping[str, np.ndarray], options: Mapping[str, Any], precision: str
    ) -> Answer:
        """The answer to one case; tensors are float32 or int32 in real layout."""

    def close(self) -> None: ...


def open_candidate(spec: str, timeout: float = 30.0, memory: int = 8 << 30) -> Candidate:
    """The candidate that a command line names.

    spec is reference, native, jax, python:MODULE[:OBJECT], python:FILE.py, lib:FILE or
    cmd:"PROGRAM ARGS".  A process may take `timeout` seconds a case and `memory` bytes.
    Raises CandidateError where it cannot be started, ValueError where spec is none of these.
    """
    kind, _, target = spec.partition(":")
    if kind in ALIASES and not target:
        return ModuleCandidate(import_backend(kind))
    if kind in ("python", "lib") and target:
        worker = [sys.executable, "-m", "refgss.conformance.worker", kind, target]
        return ProcessCandidate(worker, timeout, memory)
    if kind == "cmd" and target:
        return ProcessCandidate(shlex.split(target), timeout, memory)
    raise ValueError(
        f"unknown candidate {spec!r}: use reference, native, jax, python:MODULE[:OBJECT], "
        'python:FILE.py, lib:FILE or cmd:"PROGRAM ARGS"'
    )


def import_backend(alias: str) -> ModuleType:
    """One of this project's backends by its short name."""
    if alias == "jax":
        os.environ.setdefault("JAX_ENABLE_X64", "1")  # profile f64 needs it; f32 is not affected
    try:
        return importlib.import_module(ALIASES[alias])
    except ImportError as e:
        raise CandidateError(f"the backend {alias} cannot be used here: {e}") from e


def claimed(module: Any) -> Capabilities:
    """What `module.capabilities()` says; without one, every profile for the ops that it has.

    Raises CandidateError where it says nothing sensible.  Clauses: GSS-CNF-1.
    """
    if not hasattr(module, "capabilities"):
        name = getattr(module, "__name__", type(module).__name__)
        return Capabilities(name, "", tuple(op for op in ops.OPS if hasattr(module, op)), PROFILES)
    try:
        message = json.loads(protocol.encode(protocol.capabilities(module.capabilities())))
    except Exception as e:
        raise CandidateError(f"capabilities() failed: {one_line(e)}") from e
    if trouble := complaint("message", message):
        raise CandidateError(f"capabilities() does not fit the protocol: {trouble}")
    return capabilities_of(message)


def capabilities_of(message: Mapping[str, Any]) -> Capabilities:
    return Capabilities(
        message["name"], message["version"], tuple(message["ops"]), tuple(message["profiles"])
    )


def one_line(e: BaseException) -> str:
    text = " ".join(str(e).split())
    return f"{type(e).__name__}: {text[:300]}" if text else type(e).__name__


def answer_of(
    module: Any,
    op: str,
    tensors: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
) -> Answer:
    """Call an op of a Python module on tensors in real layout."""
    arguments = {name: ops.from_real(name, x) for name, x in tensors.items()}
    try:
        result = ops.invoke(module, op, arguments, options)
    except NotImplementedError as e:
        return Failure(Outcome.UNCLAIMED, str(e))
    except Exception as e:
        return Failure(Outcome.RAISED, one_line(e))
    try:
        return Outputs({k: ops.to_real(x) for k, x in ops.named_outputs(op, result).items()})
    except Exception as e:
        return Failure(Outcome.WRONG_SHAPE, one_line(e))


class ModuleCandidate:
    """A backend of this project, called in this process: no time-out and no overhead."""

    def __init__(self, module: Any):
        self.module = module
        self.about = claimed(module)

    def ask(
        self, op: str, tensors: Mapping[str, np.ndarray], options: Mapping[str, Any], precision: str
    ) -> Answer:
        with np.errstate(all="ignore"):  # vectors overflow and divide by zero on purpose
            return answer_of(self.module, op, ops.at_precision(tensors, precision), options)

    def close(self) -> None:
        pass


class ProcessCandidate:
    """A program that speaks the protocol, restarted after a crash, a time-out or nonsense."""

    def __init__(self, command: Sequence[str], timeout: float, memory: int):
        self.command, self.timeout, self.memory = list(command), timeout, memory
        self.folder = tempfile.TemporaryDirectory(prefix="refgss-", ignore_cleanup_errors=True)
        self.number = 0
        self.trouble: Counter[tuple[str, Outcome]] = Counter()
        self.line: Pipe | None = None
        try:
            self.about = self.start()
        except CandidateError:
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
            raise CandidateError(message["message"])
        if message["type"] != "capabilities" or message["protocol"] != protocol.PROTOCOL:
            raise CandidateError(
                f"the candidate must answer hello with capabilities of protocol {protocol.PROTOCOL}"
            )
        return capabilities_of(message)

    def ask(
        self, op: str, tensors: Mapping[str, np.ndarray], options: Mapping[str, Any], precision: str
    ) -> Answer:
        for outcome in (Outcome.CRASHED, Outcome.TIMED_OUT):
            if self.trouble[op, outcome] >= PATIENCE:
                return Failure(outcome, f"not asked: {op} {outcome} {PATIENCE} times before")
        answer = self.exchange(op, tensors, options, precision)
        if isinstance(answer, Failure):
            self.trouble[op, answer.outcome] += 1
        return answer

    def exchange(
        self, op: str, tensors: Mapping[str, np.ndarray], options: Mapping[str, Any], precision: str
    ) -> Answer:
        """Send one case and read its answer; whatever goes wrong is an outcome.

        Clauses: GSS-FMT-11, GSS-FMT-12.
        """
        if self.line is None:
            try:
                self.start()
            except CandidateError as e:
                return Failure(Outcome.CRASHED, f"it could not be started again: {e}")
        assert self.line is not None
        self.number += 1
        files = [Path(self.folder.name) / f"{self.number}.{end}" for end in ("in", "out")]
        safetensors.numpy.save_file(ops.at_precision(tensors, precision), files[0])
        case = {"type": "case", "case": self.number, "op": op, "precision": precision}
        case |= {"options": dict(options), "inputs": str(files[0]), "outputs": str(files[1])}
        try:
            self.line.send(case)
            message = self.line.receive(self.timeout)
            if message.get("case") != self.number:
                raise LookupError(f"it answered {json.dumps(message)[:80]} to case {self.number}")
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
    """The answer that a message and the file beside it make."""
    if message["type"] == "unclaimed":
        return Failure(Outcome.UNCLAIMED, message.get("message", ""))
    if message["type"] == "error":
        return Failure(Outcome.RAISED, " ".join(message["message"].split())[:300])
    if message["type"] != "done":
        raise protocol.ProtocolError(f"{message['type']} is no answer to a case")
    try:
        return Outputs(safetensors.numpy.load_file(outputs))
    except Exception as e:
        raise protocol.ProtocolError(f"its outputs are no safetensors file: {one_line(e)}") from e


class Pipe:
    """A running program and the lines that go to and come from it."""

    def __init__(self, command: Sequence[str], memory: int):
        self.errors = tempfile.TemporaryFile()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                start_new_session=True,  # so that its children end with it
                bufsize=0,
            )
        except OSError as e:
            raise CandidateError(f"{command[0]} cannot be started: {e.strerror}") from e
        limit_memory(self.process.pid, memory)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        os.set_blocking(self.stdout.fileno(), False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.stdout, selectors.EVENT_READ)
        self.buffer = b""

    def send(self, message: Mapping[str, Any]) -> None:
        self.stdin.write(protocol.encode(message))

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next message.  Raises TimeoutError, EOFError or ProtocolError."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            if len(self.buffer) > protocol.MAX_LINE:
                raise protocol.ProtocolError(f"a line of more than {protocol.MAX_LINE} bytes")
            if not self.selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            chunk = self.stdout.read(1 << 16)
            if not chunk:
                raise EOFError
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return protocol.decode(line)

    def epitaph(self) -> str:
        """How the program ended, and its last words."""
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            return "closed its output"
        how = f"exited with status {code}"
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        self.errors.seek(0)
        words = self.errors.read()[-4096:].decode("utf-8", "replace").strip().splitlines()
        return f"{how}: {words[-1].strip()[:300]}" if words else how

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
        for stream in (self.stdin, self.stdout, self.errors):
            with suppress(OSError):
                stream.close()


def limit_memory(pid: int, size: int) -> None:
    """Bound a process's data where the system can (Linux)."""
    with suppress(ImportError, AttributeError, OSError):
        import resource

        resource.prlimit(pid, resource.RLIMIT_DATA, (size, size))
