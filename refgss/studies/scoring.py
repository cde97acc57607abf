"""Log-probabilities of texts that follow a prompt: the prompt is read once, its state is forked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refgss.model import Checkpoint
from refgss.model.evaluation import OpsLoss
from refgss.model.generation import generate, start
from refgss.model.sampling import Sampling
from refgss.model.session import Session, default_backend, length_limit
from refgss.model.tokenizer import load_tokenizer
from refgss.tensors import ModelError


class Scorer:
    """A model that says how probable a text is after a prompt.

    A text's tokens are those of the text alone, whatever the prompt ends in.
    """

    def __init__(self, checkpoint: Checkpoint, backend: Any = None):
        checkpoint.check_unchanged()
        self.backend = backend or default_backend()
        self.checkpoint, self.tokenizer = checkpoint, load_tokenizer(checkpoint.tokenizer)
        self.limit = length_limit(checkpoint.config)
        first = self.tokenizer.separator
        self._first = np.array([] if first is None else [first], np.int32)
        if hasattr(self.backend, "Decoder"):
            self._fresh = self.backend.Decoder(checkpoint.params, checkpoint.config, batch=1)
        else:
            self._fresh = OpsLoss(self.backend, checkpoint.float_params(), checkpoint.config)

    @property
    def parameters(self) -> int:
        """Numbers of the model; the scales of int8 weights are none."""
        params = self.checkpoint.params.items()
        return sum(int(x.size) for name, x in params if not name.endswith(".scale"))

    def tokens(self, text: str) -> np.ndarray:
        return self.tokenizer.encode(text.encode("utf-8", "surrogatepass"))

    def log_probs(self, prompt: str, options: Sequence[str]) -> list[float]:
        """ln p of each option after the prompt, in nats.

        Raises ModelError where the model cannot read them, or its numbers are not finite.
        """
        before = np.concatenate([self._first, self.tokens(prompt)])
        if not len(before):
            raise ModelError("this model needs a prompt: its tokenizer has no separator")
        each = [self.tokens(text) for text in options]
        longest = len(before) + max((len(x) for x in each), default=0)
        if self.limit is not None and longest > self.limit:
            raise ModelError(
                f"a prompt has {longest} tokens, more than the {self.limit} of the model"
            )
        read = forked(self._fresh)
        if len(before) > 1:
            read.loss(before[None, :-1], before[None, 1:])
        found = [self.after(forked(read), before[-1:], x) for x in each]
        if not np.all(np.isfinite(found)):
            raise ModelError("the model's log-probabilities are not finite: its weights are broken")
        return found

    def after(self, read: Any, last: np.ndarray, tokens: np.ndarray) -> float:
        """ln p of tokens after those that have been read and the last."""
        if not len(tokens):
            return 0.0
        inputs = np.concatenate([last, tokens[:-1]])
        return -float(read.loss(inputs[None], tokens[None]).sum())

    def continuation(self, prompt: str, tokens: int) -> str:
        """The most probable next tokens, one after the other."""
        session = Session(self.checkpoint, backend=self.backend)
        start(session, self.tokenizer)
        session.prefill(self.tokens(prompt)[None])
        pieces = generate(session, self.tokenizer, tokens, sampling=Sampling(temperature=0))
        return b"".join(pieces).decode("utf-8", "replace")


def forked(read: Any) -> Any:
    return replace(read) if isinstance(read, OpsLoss) else read.fork()
