"""Text from a session, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from refgss.model.sampling import Sampling, StopScanner, choose
from refgss.model.session import Session
from refgss.model.tokenizer import Tokenizer
from refgss.tensors import ModelError


def start(session: Session, tokenizer: Tokenizer) -> None:
    """Read the separator, if the tokenizer has one and nothing has been read yet."""
    if session.tokens == 0 and tokenizer.separator is not None:
        session.prefill(np.full((session.batch, 1), tokenizer.separator, np.int32))


class Stream:
    """The text of one stream of a session, as it may be shown."""

    def __init__(self, session: Session, row: int, tokenizer: Tokenizer, stops: tuple[bytes, ...]):
        recent = session.recent[row]
        before, held = recent[recent >= 0].tolist(), int(session.held[row])
        self._text, self._scanner = tokenizer.stream(before, held), StopScanner(stops)

    @property
    def held(self) -> int:
        """Tokens at the end whose text has not been shown."""
        return self._text.held

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._scanner.stopped

    def feed(self, token: int) -> bytes:
        """The text that one more token brings."""
        return self._scanner.feed(self._text.feed(token))

    def end(self, hold: bool = False) -> bytes:
        """What is left; where it is held, only what no further token changes."""
        shown = b"" if hold else self._scanner.feed(self._text.rest())
        return shown if self.stopped else shown + self._scanner.held


class Token(NamedTuple):
    """One token that a stream has read."""

    id: int  # -1 at the end, for the text that was held back
    text: bytes  # what it adds to the text that may be shown
    logprob: float  # of the token before any setting of the sampling, in nats
    top: tuple[tuple[int, float], ...]  # the likeliest tokens and theirs
    end: str  # "" but for the last: "stop" or "length"


def stream(
    session: Session,
    tokenizer: Tokenizer,
    count: int,
    *,
    sampling: Sampling,
    stops: tuple[bytes, ...] = (),
    top: int = 0,
) -> Iterator[Token]:
    """As `generate`, with each token's log-probability and those of the `top` likeliest tokens.

    The last, of id -1, has the text that was held back and says why the text ends: "stop" at a stop
    string or the end of the document, or "length".
    """
    shown, end = Stream(session, 0, tokenizer, stops), "length"
    for _ in range(count):
        logits = session.logits
        at, size = session.positions, tokenizer.size
        token = int(choose(logits, session.recent, at, sampling, size)[0])
        if token == tokenizer.separator:
            end = "stop"
            break
        logprobs = log_softmax(logits[0, :size])
        likeliest = np.argsort(-logprobs, kind="stable")[:top]
        session.step(np.array([token]))
        text = shown.feed(token)
        chances = tuple((int(i), float(logprobs[i])) for i in likeliest)
        yield Token(token, text, float(logprobs[token]), chances, "")
        if shown.stopped:
            end = "stop"
            break
    yield Token(-1, shown.end(), 0.0, (), "stop" if shown.stopped else end)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(V,) -> (V,) log-probabilities in binary64."""
    x = logits.astype(np.float64)
    x = x - x.max()
    return np.asarray(x - np.log(np.exp(x).sum()))


def held_back(session: Session, tokenizer: Tokenizer) -> bytes:
    """The text of a stream that an earlier `generate` held back, as it stands."""
    text = Stream(session, 0, tokenizer, ()).end()
    session.held = np.zeros_like(session.held)
    return text


def generate(
    session: Session,
    tokenizer: Tokenizer,
    count: int,
    *,
    sampling: Sampling,
    stops: tuple[bytes, ...] = (),
    hold: bool = False,
    until: Callable[[], bool] = lambda: False,
) -> Iterator[bytes]:
    """What each of at most `count` further tokens of a session of one stream adds to the text.

    Ends before the first of the stop strings, at the end of the document (a separator), and once
    `until()`.  The text before and all that is yielded are what the tokenizer makes of all tokens.
    hold: leave a character that is not complete to the next call, or to whoever goes on from the
    saved state, instead of showing it as it stands.
    Raises ModelError where the session has several streams.
    """
    if session.batch != 1:
        raise ModelError(f"this session has {session.batch} streams: use generate_each")
    stream = Stream(session, 0, tokenizer, stops)
    for texts, _ in steps(session, [stream], tokenizer, count, sampling, until):
        yield texts.get(0, b"")
    forgotten = session.recent.shape[1] < session.tokens and stream.held >= session.recent.shape[1]
    yield stream.end(hold and not forgotten)
    session.held = np.array([stream.held])


class Piece(NamedTuple):
    """What a token adds to the text of a stream; the last is what was left at the stream's end."""

    stream: int
    text: bytes
    last: bool = False


def generate_each(
    session: Session,
    tokenizer: Tokenizer,
    count: int,
    *,
    sampling: Sampling,
    stops: tuple[bytes, ...] = (),
    until: Callable[[], bool] = lambda: False,
) -> Iterator[Piece]:
    """As `generate`, for the streams of a session side by side; the session stays where it is.

    Each stream ends by itself, and has the text that it would have alone.
    """
    streams = [Stream(session, b, tokenizer, stops) for b in range(session.batch)]
    going = list(range(session.batch))
    for texts, live in steps(session.fork(), streams, tokenizer, count, sampling, until):
        yield from (Piece(b, text) for b, text in texts.items())
        yield from (Piece(b, streams[b].end(), True) for b in going if b not in live)
        going = live
    yield from (Piece(b, streams[b].end(), True) for b in going)


def steps(
    session: Session,
    streams: list[Stream],
    tokenizer: Tokenizer,
    count: int,
    sampling: Sampling,
    until: Callable[[], bool],
) -> Iterator[tuple[dict[int, bytes], list[int]]]:
    """After each token: the texts by the streams' numbers, and which streams have not ended."""
    live = list(range(len(streams)))  # the streams that the rows of the session are
    for _ in range(count):
        if until() or not live:
            return
        alone = [0] * len(live)  # the number of a stream that is alone
        at, size = session.positions, tokenizer.size
        tokens = choose(session.logits, session.recent, at, sampling, size, alone)
        rows = [i for i, token in enumerate(tokens) if token != tokenizer.separator]
        if rows and len(rows) < len(live):
            session = session.select(rows)
        live = [live[i] for i in rows]
        if not live:
            yield {}, live
            return
        session.step(tokens[rows])
        texts = {b: streams[b].feed(int(t)) for b, t in zip(live, tokens[rows], strict=True)}
        session.held = np.array([streams[b].held for b in live])
        rows = [i for i, b in enumerate(live) if not streams[b].stopped]
        if rows and len(rows) < len(live):
            session = session.select(rows)
        live = [live[i] for i in rows]
        yield texts, live
