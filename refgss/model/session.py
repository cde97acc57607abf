"""Streams of tokens through a model, on any backend, in memory that does not grow.

    >>> session = Session(load_checkpoint("model.safetensors"))
    >>> logits = session.prefill(prompt[None])  # (1,V), after any number of tokens
    >>> logits = session.step(logits.argmax(-1))  # one token more

A backend is any module with the op `lm_logits`; refgss.native decodes faster by a `Decoder`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from refgss import reference
from refgss.config import DSSConfig, LMConfig
from refgss.model.checkpoint import Checkpoint
from refgss.model.snapshot import Snapshot, advanced
from refgss.tensors import ModelError

Params = Mapping[str, np.ndarray]
RECENT = 256  # tokens remembered, for the repetition penalty
PIECES = (256, 16, 1)  # tokens that an op is given at once: few lengths to compile for


def default_backend() -> Any:
    """refgss.native where it is built; else the reference, with a warning that says why."""
    try:
        from refgss import native
    except ImportError as e:
        warnings.warn(f"NumPy computes, slowly: {e}", RuntimeWarning, stacklevel=2)
        return reference
    return native


class Engine(Protocol):
    """What a session needs of a backend: logits after more tokens, and a state to come back to."""

    def prefill(self, tokens: np.ndarray) -> np.ndarray:
        """tokens (B,L), L >= 1 -> logits (B,V) after the last."""

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """tokens (B,) -> logits (B,V)."""

    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """A state (depth,B,H,N) and the inputs (depth,B,n,H) since."""

    def fork(self) -> Engine:
        """Another at the same place."""


@dataclass
class OpsEngine:
    """`lm_logits` of any backend, piece by piece."""

    backend: Any
    params: Params
    config: LMConfig
    x: Any  # (depth,B,H,N), an array of the backend

    def prefill(self, tokens: np.ndarray) -> np.ndarray:
        for piece in pieces(tokens):
            logits = self._read(piece)
        return np.asarray(logits)[:, -1]

    def step(self, tokens: np.ndarray) -> np.ndarray:
        return np.asarray(self._read(tokens[:, None]))[:, 0]

    def _read(self, tokens: np.ndarray) -> Any:
        """tokens (B,L) -> logits (B,L,V)."""
        logits, self.x = self.backend.lm_logits(self.params, tokens, self.x, config=self.config)
        return logits

    def state(self) -> tuple[np.ndarray, np.ndarray]:
        depth, B, H, _ = self.x.shape
        return np.asarray(self.x), np.zeros((depth, B, 0, H), np.float32)

    def fork(self) -> Engine:
        return replace(self)


@dataclass
class DecoderEngine:
    """`refgss.native.Decoder`, on the weights as the checkpoint has them."""

    decoder: Any

    def prefill(self, tokens: np.ndarray) -> np.ndarray:
        return self.decoder.prefill(tokens)

    def step(self, tokens: np.ndarray) -> np.ndarray:
        return self.decoder.step(tokens)

    def state(self) -> tuple[np.ndarray, np.ndarray]:
        return self.decoder.snapshot()

    def fork(self) -> Engine:
        return DecoderEngine(self.decoder.fork())


def pieces(tokens: np.ndarray) -> Iterator[np.ndarray]:
    """(B,L) cut into pieces of these lengths, the longest first."""
    at = 0
    for length in PIECES:
        while at + length <= tokens.shape[1]:
            yield tokens[:, at : at + length]
            at += length


class Session:
    """B independent streams, all of the same number of tokens.

    backend   a module with `lm_logits`; None chooses refgss.native where it is built.
    snapshot  where to continue; None is the beginning, with `batch` streams.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        backend: Any = None,
        batch: int = 1,
        snapshot: Snapshot | None = None,
    ):
        if batch < 1:
            raise ModelError(f"a session has at least one stream, not {batch}")
        checkpoint.check_unchanged()
        self.checkpoint, self.backend = checkpoint, backend or default_backend()
        snapshot = snapshot or beginning(checkpoint, batch)
        self.tokens, self.recent = snapshot.tokens, snapshot.recent
        self.logits = snapshot.logits  # (B,V), after the last token; zeros before the first
        self._engine = engine(self.backend, checkpoint, snapshot)

    @property
    def batch(self) -> int:
        return self.recent.shape[0]

    def prefill(self, tokens: np.ndarray) -> np.ndarray:
        """tokens (B,L), L >= 0 -> logits (B,V) after the last.  Clauses: GSS-STA-2, GSS-STA-4."""
        tokens = self._checked(tokens, 2)
        if tokens.shape[1]:
            self._remember(tokens, self._engine.prefill(tokens))
        return self.logits

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """tokens (B,), one for each stream -> logits (B,V)."""
        tokens = self._checked(tokens, 1)
        self._remember(tokens[:, None], self._engine.step(tokens))
        return self.logits

    def snapshot(self) -> Snapshot:
        """All that it remembers: continue from it in another session, or save it.

        Clauses: GSS-STA-6, GSS-STA-9.
        """
        state, pending = self._engine.state()
        return Snapshot(state, pending, self.recent, self.logits, self.tokens)

    def fork(self) -> Session:
        """Another session at the same place."""
        fork = copy(self)
        fork._engine = self._engine.fork()
        return fork

    def _checked(self, tokens: np.ndarray, axes: int) -> np.ndarray:
        """Raises ModelError before anything is read."""
        tokens, vocabulary = np.asarray(tokens), self.logits.shape[1]
        if tokens.ndim != axes or tokens.shape[0] != self.batch or tokens.dtype.kind not in "iu":
            raise ModelError(
                f"tokens must be integers for {self.batch} streams, not {tokens.dtype} "
                f"{tokens.shape}"
            )
        if tokens.size and not (0 <= tokens.min() and tokens.max() < vocabulary):
            raise ModelError(f"tokens must be between 0 and {vocabulary - 1}")
        end = length_limit(self.checkpoint.config)
        if end is not None and self.tokens + tokens.size // self.batch > end:
            raise ModelError(f"a stream of this model ends after {end} tokens (GSS-STA-8)")
        return tokens.astype(np.int32)

    def _remember(self, tokens: np.ndarray, logits: np.ndarray) -> None:
        self.recent = np.concatenate([self.recent, tokens[:, -RECENT:]], 1)[:, -RECENT:]
        self.tokens, self.logits = self.tokens + tokens.shape[1], logits


def beginning(checkpoint: Checkpoint, batch: int) -> Snapshot:
    """Before the first token."""
    H, N = checkpoint.params["layers.0.ssm.c"].shape
    V = checkpoint.params["embedding.weight"].shape[0]
    depth = checkpoint.config.depth
    state, pending = np.zeros((depth, batch, H, N), np.complex64), np.zeros((depth, batch, 0, H))
    recent, logits = np.zeros((batch, 0), np.int32), np.zeros((batch, V), np.float32)
    return Snapshot(state, pending.astype(np.float32), recent, logits, 0)


def engine(backend: Any, checkpoint: Checkpoint, snapshot: Snapshot) -> Engine:
    """The backend's decoder where it has one, else its `lm_logits`."""
    params, config = checkpoint.float_params(), checkpoint.config
    if not hasattr(backend, "Decoder"):
        return OpsEngine(backend, params, config, advanced(snapshot, params, config))
    decoder = backend.Decoder(checkpoint.params, config, batch=len(snapshot.recent))
    state, pending = snapshot.state, snapshot.pending
    if pending.shape[2] >= decoder.block:  # of a decoder that advances less often
        state, pending = advanced(snapshot, params, config), pending[:, :, :0]
    decoder.restore(state, pending, position=snapshot.tokens)
    return DecoderEngine(decoder)


def length_limit(config: LMConfig) -> int | None:
    """After how many tokens a stream ends: that of dss-softmax.  Clauses: GSS-STA-8."""
    return config.layer.form.length if isinstance(config.layer, DSSConfig) else None
