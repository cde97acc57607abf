"""All streams of a server, in turn: a piece of a prompt or a few tokens each, on one thread.

The native backend uses all cores for one token, so that a second thread would gain nothing; and
in turn no stream waits for the end of another.  A stream whose client does not read is left out
until it does.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any

import numpy as np

from refgss.model.generation import Token, start, stream
from refgss.model.prompt_cache import PromptCache
from refgss.model.session import Session
from refgss.model.tokenizer import Tokenizer
from refgss.serve.completions import Request
from refgss.tensors import ModelError

STOPPING = "the server is being stopped"
TURN = 4  # tokens that a stream generates when it is its turn


@dataclass(eq=False)
class Work:
    """One prompt of a request, and what has come of it.

    take  is given the tokens as they come, on the scheduler's thread; an exception is the last.
    """

    request: Request
    prompt: np.ndarray
    take: Callable[[Token | Exception], None]
    deadline: float  # of time.monotonic()
    unread: int = 0  # tokens that were given and not confirmed by `read`
    cancelled: bool = False
    steps: Iterator[None] | None = field(default=None, repr=False)


class Scheduler:
    """Decodes what is added until it is closed.

    at_most  tokens of a stream that its client has not read: then it waits.
    """

    def __init__(self, empty: Session, tokenizer: Tokenizer, at_most: int, kept: int):
        start(empty, tokenizer)
        self.cache = PromptCache(empty, kept)
        self.tokens = 0  # generated so far
        self._tokenizer, self._at_most = tokenizer, at_most
        self._active: deque[Work] = deque()
        self._now: Work | None = None  # whose turn it is
        self._changed, self._closed, self._last = Condition(), False, math.inf
        self._thread = Thread(target=self._run, name="refgss-decode", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._active) + (self._now is not None)

    def add(self, work: Work) -> None:
        with self._changed:
            if self._closed:
                raise ModelError(STOPPING)
            self._active.append(work)
            self._changed.notify()

    def read(self, work: Work, count: int) -> None:
        """So many tokens have been sent to the client."""
        with self._changed:
            work.unread -= count
            self._changed.notify()

    def cancel(self, work: Work) -> None:
        """Nobody wants it any more."""
        with self._changed:
            work.cancelled = True
            self._changed.notify()

    def end_within(self, seconds: float) -> None:
        """Every stream that has not ended by then is told so."""
        with self._changed:
            self._last = min(self._last, time.monotonic() + seconds)
            self._changed.notify()

    def close(self) -> None:
        """End all streams, and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                if work.steps is None:
                    work.steps = self._steps(work)
                going = next(work.steps, self) is not self
            except Exception as e:  # of one stream: the others go on
                work.take(e)
                going = False
            with self._changed:
                self._now = None
                if going:
                    self._active.append(work)

    def _next(self) -> Work | None:
        """The first that can go on, taken out; None once it is closed."""
        with self._changed:
            while not self._closed:
                for _ in range(len(self._active)):
                    work = self._active.popleft()
                    if work.cancelled:
                        continue
                    if work.unread < self._at_most or time.monotonic() > self._end_of(work):
                        self._now = work
                        return work
                    self._active.append(work)
                # a stream that waits for its client is looked at for its deadline
                self._changed.wait(1.0 if self._active else None)
            ended, self._active = self._active, deque()
        for work in ended:
            work.take(ModelError(STOPPING))
        return None

    def _steps(self, work: Work) -> Iterator[None]:
        """A turn's work from one yield to the next."""
        request, tokens = work.request, work.prompt
        session, done = self.cache.session(tokens)
        while done < len(tokens):
            done = self.cache.read(session, tokens, done)
            self._check(work)
            yield
        settings: dict[str, Any] = {"sampling": request.sampling, "stops": request.stops}
        made = stream(session, self._tokenizer, request.count, **settings, top=request.top or 0)
        for n, token in enumerate(made, 1):
            with self._changed:
                work.unread += 1
                self.tokens += token.id >= 0
            work.take(token)
            self._check(work)
            if n % TURN == 0 or work.unread >= self._at_most:
                yield

    def _end_of(self, work: Work) -> float:
        return min(work.deadline, self._last)

    def _check(self, work: Work) -> None:
        if time.monotonic() > self._last:
            raise ModelError(STOPPING)
        if time.monotonic() > work.deadline:
            raise TimeoutError("the request took too long")
