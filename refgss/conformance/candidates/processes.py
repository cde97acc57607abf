"""Candidates in a process of their own, asked over `protocol`, one case at a time.

When a process crashes, hangs or talks nonsense, that is the outcome of the case, and a fresh
process answers the next one, until it is clear that none ever will.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy

from refgss import ops
from refgss.conformance.candidates import protocol
from refgss.conformance.candidates.claims import (
    CandidateError,
    Capabilities,
    capabilities_of,
    one_line,
)
from refgss.conformance.candidates.program import Program
from refgss.conformance.candidates.scratch import Scratch, read_given, write_new
from refgss.conformance.judging.compare import Answer, Failure, Outcome, Outputs
from refgss.tensors import header_of
from refgss.text import printable

FATAL = (Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.GARBAGE, Outcome.OUT_OF_ORDER)
MAX_FAILURES = 3  # an op that failed so often in one way of FATAL is not asked again
IN_A_ROW = 8  # nor is a candidate after so many cases without an answer
START_SECONDS = 60.0  # to say hello: importing a framework takes a while
CASE_NUMBER_STEP = 1 << 20  # below which the next case's number is ahead: nobody can guess it

T = TypeVar("T")
Tensors = Mapping[str, np.ndarray]
Options = Mapping[str, Any]
Read = Callable[[Mapping[str, Any], Path, float], T]  # an answer and its files, until a deadline


class OutOfOrderError(Exception):
    """An answer that belongs to no case, or to another one."""


class ProcessCandidate:
    """A program that speaks the protocol, restarted after a crash, a time-out or nonsense."""

    def __init__(self, command: Sequence[str], timeout: float, memory: int):
        self.command, self.timeout, self.memory = list(command), timeout, memory
        self.scratch = Scratch()
        self.number = 1
        self.failures: Counter[tuple[str, Any, Outcome]] = Counter()
        self.unanswered: list[Outcome] = []  # of the cases since the last answer
        self.program: Program | None = None
        try:
            self.about = self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> Capabilities:
        """Start the program and shake hands."""
        self.program = Program(self.command, self.memory)
        deadline = time.monotonic() + START_SECONDS
        try:
            self.program.send(protocol.hello(), deadline)
            message = self.program.receive(deadline)
        except TimeoutError as e:
            raise CandidateError(
                f"the candidate did not answer hello within {START_SECONDS:g} s"
            ) from e
        except EOFError as e:
            raise CandidateError(f"the candidate {self.program.exit_reason(str(e))}") from e
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
        self,
        op: str,
        tensors: Tensors,
        options: Options,
        precision: str,
        way: str | None = None,
    ) -> Answer:
        return self.exchange(op, tensors, options, precision, read_answer, way)

    def probe(self, op: str, tensors: Tensors, options: Options, precision: str) -> Tensors:
        if op not in self.about.probes:
            return {}
        found = self.exchange(op, tensors, options, precision, read_stages)
        return {} if isinstance(found, Failure) else found

    def exchange(
        self,
        op: str,
        tensors: Tensors,
        options: Options,
        precision: str,
        read: Read[T],
        way: str | None = None,
    ) -> T | Failure:
        """Send one case and read what comes back; whatever goes wrong is an outcome.

        Clauses: GSS-FMT-11, GSS-FMT-12.
        """
        for outcome in FATAL:
            if self.failures[op, read, outcome] >= MAX_FAILURES:
                return Failure(outcome, f"not asked: {op} {outcome} {MAX_FAILURES} times before")
        if len(self.unanswered) >= IN_A_ROW:
            why = f"not asked: no answer to {IN_A_ROW} cases in a row"
            return Failure(self.unanswered[-1], why)
        case = {"type": "case", "case": self.number, "op": op, "precision": precision}
        case |= {"options": dict(options)} | ({} if way is None else {"way": way})
        found = self.attempt(case, ops.at_precision(tensors, precision), read)
        self.number += 1 + secrets.randbelow(CASE_NUMBER_STEP)
        if isinstance(found, Failure) and found.outcome in FATAL:
            self.failures[op, read, found.outcome] += 1
            self.unanswered.append(found.outcome)
            self.stop()  # what is left in its pipe would be taken for the next answer
        else:
            self.unanswered.clear()
        return found

    def attempt(self, case: dict[str, Any], tensors: Tensors, read: Read[T]) -> T | Failure:
        """Send a case to the program, started anew where there is none, and read the answer."""
        try:
            if self.program is None:
                self.start()
        except CandidateError as e:
            return Failure(Outcome.CRASHED, f"it could not be started again: {e}")
        assert self.program is not None
        try:
            with self.scratch.case() as folder:
                return self.converse(self.program, folder, case, tensors, read)
        except TimeoutError:
            return Failure(Outcome.TIMED_OUT, f"no answer within {self.timeout:g} s")
        except EOFError as e:
            return Failure(Outcome.CRASHED, f"it {self.program.exit_reason(str(e))}")
        except protocol.ProtocolError as e:
            return Failure(Outcome.GARBAGE, str(e))
        except OutOfOrderError as e:
            return Failure(Outcome.OUT_OF_ORDER, str(e))

    def converse(
        self, program: Program, folder: Path, case: dict[str, Any], tensors: Tensors, read: Read[T]
    ) -> T:
        """One case through the files of a folder.

        Raises TimeoutError, EOFError, ProtocolError or OutOfOrderError.
        """
        files = {"inputs": folder / "inputs", "outputs": folder / "outputs"}
        files |= {"probes": folder / "stages"} if read is read_stages else {}
        write_new(files["inputs"], safetensors.numpy.save(dict(tensors)))
        deadline = time.monotonic() + self.timeout
        if early := program.unasked():
            said = protocol.decode(early.partition(b"\n")[0])
            raise OutOfOrderError(f"it said {shown(said)} before it was asked")
        program.send(case | {name: str(file) for name, file in files.items()}, deadline)
        message = program.receive(deadline)
        if message.get("case") != case["case"]:
            raise OutOfOrderError(f"it answered {shown(message)} to case {case['case']}")
        return read(message, folder, deadline)

    def stop(self) -> None:
        if self.program is not None:
            self.program.close()
            self.program = None

    def close(self) -> None:
        self.stop()
        self.scratch.close()


def shown(message: Mapping[str, Any]) -> str:
    return printable(json.dumps(message), 80)


def read_answer(message: Mapping[str, Any], folder: Path, deadline: float) -> Answer:
    """The answer that a message and the outputs beside it make.

    Raises ProtocolError or TimeoutError.
    """
    if message["type"] == "unclaimed":
        return Failure(Outcome.UNCLAIMED, printable(message.get("message", "")))
    if message["type"] == "error":
        return Failure(Outcome.RAISED, printable(message["message"]))
    if message["type"] != "done":
        raise protocol.ProtocolError(f"{message['type']} is no answer to a case")
    if "message" in message:
        outcome = Outcome(message.get("outcome", Outcome.WRONG_DTYPE))
        return Failure(outcome, printable(message["message"]))
    content = read_given(folder / "outputs", deadline)
    try:
        return Outputs(tensors_of(content))
    except KeyError as e:
        return Failure(Outcome.WRONG_DTYPE, f"an output is {e.args[0]}")  # BF16, F8_E4M3 …
    except Exception as e:
        raise protocol.ProtocolError(f"its outputs are no safetensors file: {one_line(e)}") from e


def read_stages(message: Mapping[str, Any], folder: Path, deadline: float) -> Tensors:
    """The stages beside an answer, none where they cannot be read: they decide nothing.

    Raises TimeoutError.
    """
    try:
        return tensors_of(read_given(folder / "stages", deadline))
    except TimeoutError:
        raise
    except Exception:  # no file, or no safetensors
        return {}


def tensors_of(content: bytes) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file; raises whatever is wrong with it."""
    found: dict[str, np.ndarray] = safetensors.numpy.load(content)
    header_of(content)  # which refuses a name that stands twice
    return found
