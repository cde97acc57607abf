"""Log-probabilities of texts that follow a prompt: the prompt is read once, its state is forked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refgss.model import Checkpoint
from refgss.model.generation import generate, log_softmax, start
from refgss.model.sampling import Sampling
from refgss.model.session import Session, length_limit
from refgss.model.tokenizer import load_tokenizer
from refgss.tensors import ModelError


class Scorer:
    """A model that says how probable a text is after a prompt.

    A text's tokens are those of the text alone, whatever the prompt ends in.
    """

    def __init__(self, checkpoint: Checkpoint, backend: Any = None):
        self.checkpoint, self.tokenizer = checkpoint, load_tokenizer(checkpoint.tokenizer)
        self.limit = length_limit(checkpoint.config)
        self._beginning = Session(checkpoint, backend=backend)
        start(self._beginning, self.tokenizer)

    @property
    def parameters(self) -> int:
        """Numbers of the model; the scales of int8 weights are none."""
        params = self.checkpoint.params.items()
        return sum(int(x.size) for name, x in params if not name.endswith(".scale"))

    def tokens(self, text: str) -> np.ndarray:
        return self.tokenizer.encode(text.encode("utf-8", "surrogatepass"))

    def read(self, prompt: str) -> Session:
        """A session after the prompt.  Raises ModelError where there is nothing to go on from."""
        session = self._beginning.fork()
        session.prefill(self.tokens(prompt)[None])
        if not session.tokens:
            raise ModelError("this model needs a prompt: its tokenizer has no separator")
        return session

    def log_probs(self, prompt: str, options: Sequence[str]) -> list[float]:
        """ln p of each option after the prompt, in nats.

        Raises ModelError where the model cannot read them, or its numbers are not finite.
        """
        each = {i: self.tokens(text) for i, text in enumerate(options)}
        session = self.read(prompt)
        longest = session.tokens + max((len(x) for x in each.values()), default=0)
        if self.limit is not None and longest > self.limit:
            raise ModelError(f"a question has {longest} tokens, the model reads {self.limit}")
        found = np.zeros(len(options))
        add(found, session, each)
        if not np.all(np.isfinite(found)):
            raise ModelError("the model's log-probabilities are not finite: its weights are broken")
        return [float(x) for x in found]

    def continuation(self, prompt: str, tokens: int) -> str:
        """The most probable next tokens, one after the other."""
        pieces = generate(
            self.read(prompt), self.tokenizer, tokens, sampling=Sampling(temperature=0)
        )
        return b"".join(pieces).decode("utf-8", "replace")


def add(found: np.ndarray, session: Session, rest: Mapping[int, np.ndarray]) -> None:
    """Add to `found` the ln p of what is left of each option, by its number.

    Options that begin alike are read together as far as they are alike; the session is used up.
    """
    while groups := by_first(rest):
        scores = log_softmax(session.logits[0])
        for token, group in groups.items():
            found[list(group)] += scores[token]
        longer = [
            (token, group) for token, group in groups.items() if any(map(len, group.values()))
        ]
        if not longer:
            return
        for token, group in longer[1:]:
            other = session.fork()
            other.step(np.array([token]))
            add(found, other, group)
        token, rest = longer[0]
        session.step(np.array([token]))


def by_first(rest: Mapping[int, np.ndarray]) -> dict[int, dict[int, np.ndarray]]:
    """The options by their first token, without it; those that have ended are left out."""
    found: dict[int, dict[int, np.ndarray]] = {}
    for i, tokens in rest.items():
        if len(tokens):
            found.setdefault(int(tokens[0]), {})[i] = tokens[1:]
    return found
