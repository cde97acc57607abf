"""Streams of tokens through a model, on any backend, in memory that does not grow.

    >>> session = Session(load_checkpoint("model.safetensors"))
    >>> logits = session.prefill(prompt[None])  # (1,V), after any number of tokens
    >>> logits = session.step(logits.argmax(-1))  # one token more

A backend is any module with the op `lm_logits`; refgss.native decodes faster by a `Decoder`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from refgss import reference
from refgss.config import LMConfig
from refgss.layers import kind_of
from refgss.layers.states import State, mapped, side_by_side, streams, zero_states
from refgss.model.checkpoint import Checkpoint
from refgss.model.snapshot import Snapshot, advanced, has_pending
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

    def state(self) -> tuple[State, np.ndarray | None]:
        """A state and the inputs (depth,B,n,H) since, as a `Snapshot` has them."""

    def fork(self) -> Engine:
        """Another at the same place."""

    def at(self, state: State, pending: np.ndarray | None, tokens: int) -> Engine:
        """Another with the same weights, of other streams: there, after so many tokens."""


@dataclass
class OpsEngine:
    """`lm_logits` of any backend, piece by piece."""

    backend: Any
    params: Params
    config: LMConfig
    x: State  # of arrays of the backend

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

    def state(self) -> tuple[State, np.ndarray | None]:
        x = mapped(np.asarray, self.x)
        return x, nothing_pending(self.config, x)

    def fork(self) -> Engine:
        return replace(self)

    def at(self, state: State, pending: np.ndarray | None, tokens: int) -> Engine:
        return replace(self, x=state)


@dataclass
class DecoderEngine:
    """`refgss.native.Decoder`, on the weights as the checkpoint has them."""

    decoder: Any

    def prefill(self, tokens: np.ndarray) -> np.ndarray:
        return self.decoder.prefill(tokens)

    def step(self, tokens: np.ndarray) -> np.ndarray:
        return self.decoder.step(tokens)

    def state(self) -> tuple[State, np.ndarray | None]:
        return self.decoder.snapshot()

    def fork(self) -> Engine:
        return DecoderEngine(self.decoder.fork())

    def at(self, state: State, pending: np.ndarray | None, tokens: int) -> Engine:
        decoder = self.decoder.fresh(state.shape[1])
        decoder.restore(state, pending, position=tokens)
        return DecoderEngine(decoder)


def pieces(tokens: np.ndarray) -> Iterator[np.ndarray]:
    """(B,L) cut into pieces of these lengths, the longest first."""
    at = 0
    for length in PIECES:
        while at + length <= tokens.shape[1]:
            yield tokens[:, at : at + length]
            at += length


class Session:
    """B independent streams, read side by side; each gives what it would give alone.

    tokens    read by each stream, or by the longest where prompts were not of one length.
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
        self.behind = np.zeros(self.batch, np.int64)  # (B,), tokens fewer than the longest has
        self.held = snapshot.held  # (B,), of the last tokens: their text has not been shown
        self._engine = engine(self.backend, checkpoint, snapshot)

    @property
    def batch(self) -> int:
        return self.recent.shape[0]

    @property
    def positions(self) -> np.ndarray:
        """(B,): tokens that each stream has read."""
        return self.tokens - self.behind

    def prefill(self, tokens: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """tokens (B,L), L >= 0, or B prompts of any lengths -> logits (B,V) after the last.

        Clauses: GSS-STA-2, GSS-STA-4.
        """
        if isinstance(tokens, list | tuple) and len({np.size(row) for row in tokens}) > 1:
            return self._prefill_each(tokens)
        tokens = self._checked(np.asarray(tokens), 2)
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

        Raises ModelError where its streams have read different numbers of tokens: save them one by
        one, session.select([b]).snapshot().  Clauses: GSS-STA-6, GSS-STA-9.
        """
        if self.behind.any():
            raise ModelError(
                "the streams have read different numbers of tokens, and a state has one: save them "
                "one by one, as session.select([b]).snapshot()"
            )
        state, pending = self._engine.state()
        return Snapshot(state, pending, self.recent, self.logits, self.tokens, self.held)

    def fork(self) -> Session:
        """Another session at the same place."""
        fork = copy(self)
        fork._engine = self._engine.fork()
        return fork

    def select(self, rows: Sequence[int]) -> Session:
        """Another session of these streams, each where it is here."""
        rows = list(rows)
        state, pending = self._engine.state()
        other, ahead = copy(self), self.behind[rows].min(initial=self.tokens)
        other.tokens, other.behind = self.tokens - int(ahead), self.behind[rows] - ahead
        other.recent, other.logits = self.recent[rows], self.logits[rows]
        other.recent = other.recent[:, (other.recent >= 0).any(0)]
        other.held = self.held[rows]
        given = None if pending is None else pending[:, rows]
        other._engine = self._engine.at(streams(state, rows), given, other.tokens)
        return other

    def _prefill_each(self, prompts: Sequence[np.ndarray]) -> np.ndarray:
        """Prompts of different lengths: each read alone, then side by side again.

        A decoder's state is whole after a prompt, so that no bit depends on the other streams.
        """
        if len(prompts) != self.batch:
            raise ModelError(f"there are {len(prompts)} prompts for {self.batch} streams")
        alone = [self.select([b]) for b in range(self.batch)]
        for session, prompt in zip(alone, prompts, strict=True):
            session.prefill(np.asarray(prompt)[None])
        states, pending = zip(*(session._engine.state() for session in alone), strict=True)
        if len({x.shape[2] for x in pending if x is not None}) > 1:
            raise ModelError("a prompt is empty where others are not: give each stream a token")
        tokens = max(session.tokens for session in alone)
        given = None if pending[0] is None else np.concatenate(pending, 1)
        engine = self._engine.at(side_by_side(states), given, tokens)
        recent = np.full((self.batch, min(tokens, RECENT)), -1, np.int32)  # none, to the left
        for row, session in zip(recent, alone, strict=True):
            row[len(row) - session.recent.shape[1] :] = session.recent[0]
        self.tokens, self._engine, self.recent = tokens, engine, recent
        self.behind = np.array([tokens - session.tokens for session in alone])
        self.held = np.zeros(self.batch, np.int64)
        self.logits = np.concatenate([session.logits for session in alone])
        return self.logits

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
        self.held = np.zeros(self.batch, np.int64)


def beginning(checkpoint: Checkpoint, batch: int) -> Snapshot:
    """Before the first token."""
    V = checkpoint.params["embedding.weight"].shape[0]
    state = zero_states(checkpoint.params, checkpoint.config, batch)
    pending = nothing_pending(checkpoint.config, state)
    recent, logits = np.zeros((batch, 0), np.int32), np.zeros((batch, V), np.float32)
    held = np.zeros(batch, np.int64)
    return Snapshot(state, pending, recent, logits, 0, held)


def nothing_pending(config: LMConfig, state: State) -> np.ndarray | None:
    """No inputs since the state, as far as there can be any."""
    if not has_pending(config, state):
        return None
    return np.zeros((*state.shape[:2], 0, state.shape[2]), np.float32)


def engine(backend: Any, checkpoint: Checkpoint, snapshot: Snapshot) -> Engine:
    """The backend's decoder where it has one, else its `lm_logits`."""
    params, config = checkpoint.float_params(), checkpoint.config
    if not (hasattr(backend, "Decoder") and backend.Decoder.supports(config)):
        return OpsEngine(backend, params, config, advanced(snapshot, params, config))
    decoder = backend.Decoder(checkpoint.params, config, batch=len(snapshot.recent))
    state, pending = snapshot.state, snapshot.pending
    assert pending is not None  # a decoder's layers have state-space models
    if pending.shape[2] >= decoder.block:  # of a decoder that advances less often
        state, pending = advanced(snapshot, params, config), pending[:, :, :0]
    decoder.restore(state, pending, position=snapshot.tokens)
    return DecoderEngine(decoder)


def length_limit(config: LMConfig) -> int | None:
    """After how many tokens a stream ends, or None.  Clauses: GSS-STA-8."""
    ends = [kind_of(layer).length_limit(layer) for layer in config.layers]
    return min((end for end in ends if end is not None), default=None)
