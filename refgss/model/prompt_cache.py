"""States kept at beginnings of prompts, so that a beginning which comes again is not read again."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

import numpy as np

from refgss.model.session import Session

EVERY = 512  # tokens: at such a distance states are kept within a prompt, and one at its end


class PromptCache:
    """Sessions of one stream, by the tokens that they have read.

    A state cannot be taken back by some tokens, so that only a kept beginning helps: the longest
    one is found.  `entries` states are kept, the one that was not used for the longest time goes
    first; a state of a GSS model is as large after a million tokens as after one.
    """

    def __init__(self, empty: Session, entries: int = 64, every: int = EVERY):
        self._empty, self._entries, self._every = empty, entries, every
        self._kept: OrderedDict[bytes, Session] = OrderedDict()
        self._lock = Lock()
        self.hits = self.misses = 0  # tokens that were not read again, and those that were read

    def __len__(self) -> int:
        return len(self._kept)

    def session(self, tokens: np.ndarray) -> tuple[Session, int]:
        """tokens (L,) -> a session of one's own after a beginning of them, and how long that is."""
        tokens = np.ascontiguousarray(tokens, np.int32)
        with self._lock:
            for length in self._lengths(len(tokens)):
                key = tokens[:length].tobytes()
                if key in self._kept:
                    self._kept.move_to_end(key)
                    self.hits += length
                    return self._kept[key].fork(), length
            return self._empty.fork(), 0

    def read(self, session: Session, tokens: np.ndarray, done: int) -> int:
        """Read the next piece of a prompt from token `done` on; how many are read after it.

        A piece ends where a state is kept: at multiples of `every`, and at the end.
        """
        end = min(len(tokens), (done // self._every + 1) * self._every)
        session.prefill(tokens[None, done:end])
        with self._lock:
            self.misses += end - done
            if end % self._every == 0 or end == len(tokens):
                self._kept[np.ascontiguousarray(tokens[:end], np.int32).tobytes()] = session.fork()
                while len(self._kept) > self._entries:
                    self._kept.popitem(last=False)
        return end

    def _lengths(self, length: int) -> list[int]:
        """Lengths of kept beginnings that can be those of a prompt, the longest first."""
        sizes = {len(key) // 4 for key in self._kept}
        return sorted((n for n in sizes if n <= length), reverse=True)
