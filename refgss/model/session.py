"""Streams of tokens through a model, on any backend, in memory that does not grow.

    >>> session = Session(load_checkpoint("model.safetensors"))
    >>> logits = session.prefill(prompt[None])  # (1,V), after any number of tokens
    >>> logits = session.step(logits.argmax(-1))  # one token more

A backend is any module with the op `lm_logits`; refgss.native decodes faster by a `Decoder`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import get_ident
from typing import Any, NamedTuple, Protocol

import numpy as np

from refgss import reference
from refgss.config import LMConfig
from refgss.layers import kind_of
from refgss.layers.states import State, batch_of, mapped, side_by_side, streams, zero_states
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


class Place(NamedTuple):
    """Where an engine is: all of it, or nothing of it, is that after a call."""

    tokens: int  # of each stream so far
    logits: np.ndarray  # (B,V), after the last
    x: Any = None  # the state, of arrays of the backend; a decoder has one of its own


class Engine(Protocol):
    """What a session needs of a backend: logits after more tokens, and a state to come back to.

    A call that raises, an interrupted one too, leaves it where it was.
    """

    def prefill(self, tokens: np.ndarray) -> None:
        """Read tokens (B,L), L >= 1."""

    def step(self, tokens: np.ndarray) -> None:
        """Read tokens (B,)."""

    def place(self) -> Place:
        """After how many tokens it is, and the logits (B,V) there."""

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
    where: Place

    def prefill(self, tokens: np.ndarray) -> None:
        x = self.where.x
        for piece in pieces(tokens):  # piece (B,L) -> logits (B,L,V)
            logits, x = self.backend.lm_logits(self.params, piece, x, config=self.config)
        last = np.asarray(logits)[:, -1]
        self.where = Place(self.where.tokens + tokens.shape[1], last, x)  # at once, or not at all

    def step(self, tokens: np.ndarray) -> None:
        self.prefill(tokens[:, None])

    def place(self) -> Place:
        return self.where

    def state(self) -> tuple[State, np.ndarray | None]:
        x = mapped(np.asarray, self.where.x)
        return x, nothing_pending(self.config, x)

    def fork(self) -> Engine:
        return OpsEngine(self.backend, self.params, self.config, self.where)

    def at(self, state: State, pending: np.ndarray | None, tokens: int) -> Engine:
        return replace(self, where=Place(tokens, self.where.logits, state))


@dataclass
class DecoderEngine:
    """`refgss.native.Decoder`, on the weights as the checkpoint has them."""

    decoder: Any
    before: np.ndarray  # logits (B,V) before it has read anything

    def prefill(self, tokens: np.ndarray) -> None:
        self.decoder.prefill(tokens)

    def step(self, tokens: np.ndarray) -> None:
        self.decoder.step(tokens)

    def place(self) -> Place:
        position, last = self.decoder.place
        return Place(position, self.before if last is None else last)

    def state(self) -> tuple[State, np.ndarray | None]:
        return self.decoder.snapshot()

    def fork(self) -> Engine:
        return DecoderEngine(self.decoder.fork(), self.before)

    def at(self, state: State, pending: np.ndarray | None, tokens: int) -> Engine:
        decoder = self.decoder.fresh(batch_of(state))
        decoder.restore(state, pending, position=tokens)
        return DecoderEngine(decoder, self.before)


def pieces(tokens: np.ndarray) -> Iterator[np.ndarray]:
    """(B,L) cut into pieces of these lengths, the longest first."""
    at = 0
    for length in PIECES:
        while at + length <= tokens.shape[1]:
            yield tokens[:, at : at + length]
            at += length


class Read(NamedTuple):
    """What a session has read."""

    tokens: int
    recent: np.ndarray  # (B,R), the last of them
    logits: np.ndarray  # (B,V)
    behind: np.ndarray  # (B,), tokens fewer than the longest stream has
    held: np.ndarray  # (B,), of the last tokens: their text has not been shown


class Session:
    """B independent streams, read side by side; each gives what it would give alone.

    tokens    read by each stream, or by the longest where prompts were not of one length.
    backend   a module with `lm_logits`; None chooses refgss.native where it is built.
    snapshot  where to continue; None is the beginning, with `batch` streams.

    A call that is interrupted, by Ctrl-C for example, or that fails, has either read all of its
    tokens or none: `tokens`, `recent` and `logits` say which.  A session serves one thread at a
    time; a call from a second one raises ModelError (`fork` makes a session for it).
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
        snapshot = snapshot or beginning(checkpoint, batch)
        backend = backend or default_backend()
        none = np.zeros(len(snapshot.recent), np.int64)
        read = Read(snapshot.tokens, snapshot.recent, snapshot.logits, none, snapshot.held)
        self._begin(checkpoint, backend, engine(backend, checkpoint, snapshot), read)

    def _begin(self, checkpoint: Checkpoint, backend: Any, engine: Engine, read: Read) -> None:
        self.checkpoint, self.backend = checkpoint, backend
        self._at, self._reading = (engine, read), read.recent[:, :0]

    @property
    def _engine(self) -> Engine:
        return self._at[0]

    @property
    def batch(self) -> int:
        return self._at[1].recent.shape[0]

    @property
    def tokens(self) -> int:
        """Tokens of each stream so far."""
        return self._settled().tokens

    @property
    def recent(self) -> np.ndarray:
        """(B,R): the last R <= 256 tokens."""
        return self._settled().recent

    @property
    def logits(self) -> np.ndarray:
        """(B,V), after the last token; zeros before the first."""
        return self._settled().logits

    @property
    def behind(self) -> np.ndarray:
        """(B,): tokens fewer than the longest stream has."""
        return self._settled().behind

    @property
    def held(self) -> np.ndarray:
        """(B,): of the last tokens, those whose text has not been shown."""
        return self._settled().held

    @held.setter
    def held(self, held: np.ndarray) -> None:
        self._at = (self._engine, self._settled()._replace(held=held))

    @property
    def positions(self) -> np.ndarray:
        """(B,): tokens that each stream has read."""
        read = self._settled()
        return read.tokens - read.behind

    def prefill(self, tokens: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """tokens (B,L), L >= 0, or B prompts of any lengths -> logits (B,V) after the last.

        Clauses: GSS-STA-2, GSS-STA-4.
        """
        with OneThread(self):
            if isinstance(tokens, list | tuple) and len({np.size(row) for row in tokens}) > 1:
                return self._prefill_each(tokens)
            tokens = self._checked(np.asarray(tokens), 2)
            if tokens.shape[1]:
                self._reading = tokens
                self._engine.prefill(tokens)
            return self._settled().logits

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """tokens (B,), one for each stream -> logits (B,V)."""
        with OneThread(self):
            tokens = self._checked(tokens, 1)
            self._reading = tokens[:, None]
            self._engine.step(tokens)
            return self._settled().logits

    def snapshot(self) -> Snapshot:
        """All that it remembers: continue from it in another session, or save it.

        Raises ModelError where its streams have read different numbers of tokens: save them one by
        one, session.select([b]).snapshot().  Clauses: GSS-STA-6, GSS-STA-9.
        """
        with OneThread(self):
            read = self._settled()
            if read.behind.any():
                raise ModelError(
                    "the streams have read different numbers of tokens, and a state has one: save "
                    "them one by one, as session.select([b]).snapshot()"
                )
            state, pending = self._engine.state()
            return Snapshot(state, pending, read.recent, read.logits, read.tokens, read.held)

    def fork(self) -> Session:
        """Another session at the same place."""
        with OneThread(self):
            fork = object.__new__(Session)
            fork._begin(self.checkpoint, self.backend, self._engine.fork(), self._settled())
            return fork

    def _settled(self) -> Read:
        """What has been read: an engine that is ahead was interrupted after its work was done."""
        (engine, read), reading = self._at, self._reading
        place = engine.place()
        if place.tokens != read.tokens:
            recent = np.concatenate([read.recent, reading[:, -RECENT:]], 1)[:, -RECENT:]
            none = np.zeros(len(recent), np.int64)
            read = Read(place.tokens, recent, place.logits, read.behind, none)
            self._at = (engine, read)
        return read

    def select(self, rows: Sequence[int]) -> Session:
        """Another session of these streams, each where it is here."""
        rows, read = list(rows), self._settled()
        state, pending = self._engine.state()
        ahead = read.behind[rows].min(initial=read.tokens)
        recent, tokens = read.recent[rows], read.tokens - int(ahead)
        recent = recent[:, (recent >= 0).any(0)]
        given = None if pending is None else pending[:, rows]
        engine = self._engine.at(streams(state, rows), given, tokens)
        behind, held = read.behind[rows] - ahead, read.held[rows]
        other = object.__new__(Session)
        some = Read(tokens, recent, read.logits[rows], behind, held)
        other._begin(self.checkpoint, self.backend, engine, some)
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
        behind = np.array([tokens - session.tokens for session in alone])
        logits = np.concatenate([session.logits for session in alone])
        none = np.zeros(self.batch, np.int64)
        self._at = (engine, Read(tokens, recent, logits, behind, none))  # at once
        return logits

    def _checked(self, tokens: np.ndarray, axes: int) -> np.ndarray:
        """Raises ModelError before anything is read."""
        tokens, read = np.asarray(tokens), self._settled()
        vocabulary = read.logits.shape[1]
        if tokens.ndim != axes or tokens.shape[0] != self.batch or tokens.dtype.kind not in "iu":
            raise ModelError(
                f"tokens must be integers for {self.batch} streams, not {tokens.dtype} "
                f"{tokens.shape}"
            )
        if tokens.size and not (0 <= tokens.min() and tokens.max() < vocabulary):
            raise ModelError(f"tokens must be between 0 and {vocabulary - 1}")
        end = length_limit(self.checkpoint.config)
        if end is not None and read.tokens + tokens.size // self.batch > end:
            raise ModelError(f"a stream of this model ends after {end} tokens (GSS-STA-8)")
        return tokens.astype(np.int32)


class OneThread:
    """Keeps other threads out of a session for the length of a call.

    One dictionary operation takes it and one gives it back.  What an interruption between a call's
    end and the second leaves behind keeps out others, not the thread itself.
    """

    def __init__(self, session: Session):
        self.session = session

    def __enter__(self) -> None:
        if self.session.__dict__.setdefault("_thread", get_ident()) != get_ident():
            raise ModelError(
                "this session is in use by another thread: give each thread one of its own (fork)"
            )

    def __exit__(self, *_: object) -> None:
        self.session.__dict__.pop("_thread", None)


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
        x = advanced(snapshot, params, config)
        return OpsEngine(backend, params, config, Place(snapshot.tokens, snapshot.logits, x))
    decoder = backend.Decoder(checkpoint.params, config, batch=len(snapshot.recent))
    state, pending = snapshot.state, snapshot.pending
    if pending is not None and pending.shape[2] >= decoder.block:  # it advanced less often
        state, pending = advanced(snapshot, params, config), pending[:, :, :0]
    decoder.restore(state, pending, position=snapshot.tokens)
    return DecoderEngine(decoder, snapshot.logits)


def length_limit(config: LMConfig) -> int | None:
    """After how many tokens a stream ends, or None.  Clauses: GSS-STA-8."""
    ends = [kind_of(layer).length_limit(layer) for layer in config.layers]
    return min((end for end in ends if end is not None), default=None)
