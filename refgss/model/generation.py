"""Text from a session, token by token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refgss.model.sampling import Sampling, StopScanner, choose
from refgss.model.session import Session
from refgss.model.tokenizer import Tokenizer


def start(session: Session, tokenizer: Tokenizer) -> None:
    """Read the separator, if the tokenizer has one and nothing has been read yet."""
    if session.tokens == 0 and tokenizer.separator is not None:
        session.prefill(np.full((session.batch, 1), tokenizer.separator, np.int32))


def generate(
    session: Session,
    tokenizer: Tokenizer,
    count: int,
    *,
    sampling: Sampling,
    stops: tuple[bytes, ...] = (),
) -> Iterator[bytes]:
    """What each of at most `count` further tokens of one stream adds to the text.

    Ends before the first of the stop strings, and at the end of the document (a separator).
    """
    scanner, text_of = StopScanner(stops), tokenizer.stream()
    for _ in range(count):
        tokens = choose(session.logits, session.recent, session.tokens, sampling, tokenizer.size)
        if tokens[0] == tokenizer.separator:
            break
        session.step(tokens)
        yield scanner.feed(text_of(int(tokens[0])))
        if scanner.stopped:
            return
    yield scanner.held  # what might have become a stop string, and did not
