"""What a candidate is, and what it claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from refgss import ops
from refgss.conformance import LAYER_PROFILES, PRECISIONS
from refgss.conformance.candidates import protocol
from refgss.conformance.candidates.presentation import ways_of
from refgss.conformance.judging.compare import Answer
from refgss.text import printable

# the ops that have stages
PROBED = ("gss_layer", "dss_layer", "transformer_layer", "block_recurrent_layer")


class CandidateError(Exception):
    """The candidate could not be started, or does not speak the protocol."""


@dataclass(frozen=True)
class Capabilities:
    """What a candidate claims."""

    name: str
    version: str
    ops: tuple[str, ...]
    profiles: tuple[str, ...]
    probes: tuple[str, ...] = ()  # the ops whose stages it offers
    arrays: str = "numpy"  # the framework whose arrays it takes
    ways: tuple[str, ...] = ()  # in which it can be asked besides (`presentation.WAYS`)

    @cached_property
    def offered(self) -> frozenset[str]:
        """The ops of the standard that are among those claimed."""
        return frozenset(ops.CONTRACT).intersection(self.ops)


class Candidate(Protocol):
    about: Capabilities

    def ask(
        self,
        op: str,
        tensors: Mapping[str, np.ndarray],
        options: Mapping[str, Any],
        precision: str,
        way: str | None = None,
    ) -> Answer:
        """The answer to one case; tensors are float32 or int32 in real layout.

        way: one of `about.ways` in which it is asked.
        """

    def probe(
        self, op: str, tensors: Mapping[str, np.ndarray], options: Mapping[str, Any], precision: str
    ) -> Mapping[str, np.ndarray]:
        """The stages of an op that the candidate offers, if any.  Clauses: GSS-CNF-10."""

    def close(self) -> None: ...


def claimed(module: Any) -> Capabilities:
    """What `module.capabilities()` says; without one, every profile for the ops that it has.

    Raises CandidateError where it says nothing sensible.  Clauses: GSS-CNF-1.
    """
    if not hasattr(module, "capabilities"):
        name = getattr(module, "__name__", type(module).__name__)
        has = tuple(op for op in ops.OPS if hasattr(module, op))
        profiles = (*PRECISIONS, *LAYER_PROFILES)  # scores are claimed by name: theirs are common
        return Capabilities(name, "", has, profiles, ways=ways_of("numpy"))
    try:
        says = module.capabilities()
        if hasattr(module, "probe"):
            says = {"probes": [op for op in PROBED if hasattr(module, op)], **says}
        found = capabilities_of(protocol.decode(protocol.encode(protocol.capabilities(says))))
        return replace(found, ways=ways_of(found.arrays))
    except protocol.ProtocolError as e:
        raise CandidateError(f"capabilities() does not fit the protocol: {e}") from e
    except Exception as e:
        raise CandidateError(f"capabilities() failed: {one_line(e)}") from e


def capabilities_of(message: Mapping[str, Any]) -> Capabilities:
    return Capabilities(
        message["name"],
        message["version"],
        tuple(message["ops"]),
        tuple(message["profiles"]),
        tuple(message.get("probes", ())),
        message.get("arrays", "numpy"),
        tuple(message.get("ways", ())),
    )


def one_line(e: BaseException) -> str:
    text = printable(str(e))
    return f"{type(e).__name__}: {text}" if text else type(e).__name__
