"""Text from a prompt, in one call.

>>> refgss.generate("def fibonacci(n):", tokens=40, temperature=0)
>>> pieces = refgss.stream("import os", model="model.safetensors")
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refgss.model.checkpoint import Checkpoint, load_checkpoint
from refgss.model.generation import generate as pieces
from refgss.model.generation import start
from refgss.model.sampling import Sampling
from refgss.model.session import Session
from refgss.model.tokenizer import load_tokenizer
from refgss.tensors import ModelError

BUNDLED = Path(__file__).parent / "bundled.safetensors"


def stream(
    prompt: str,
    *,
    model: str | Path | Checkpoint | None = None,
    tokens: int = 200,
    stop: str | tuple[str, ...] = (),
    backend: Any = None,
    **sampling: float,
) -> Iterator[str]:
    """The continuation of a prompt, piece by piece, in whole characters.

    model     a file, or a loaded checkpoint; None is the model that comes with refgss.
    tokens    that are generated at most.
    stop      texts before the first of which it ends.
    backend   a module with the op `lm_logits`; None chooses refgss.native where it is built.
    sampling  temperature, top_k, top_p, min_p, repetition_penalty, seed: see `Sampling`.
    Raises ModelError for a model, a prompt or a setting that cannot be used.
    """
    settings: dict[str, Any] = dict(sampling)
    try:
        chosen = Sampling(**settings)
    except TypeError as e:
        raise ModelError(f"there is no such setting of the sampling: {e}") from e
    checkpoint = model if isinstance(model, Checkpoint) else load_checkpoint(model or BUNDLED)
    tokenizer = load_tokenizer(checkpoint.tokenizer)
    session = Session(checkpoint, backend=backend)
    start(session, tokenizer)
    read = tokenizer.encode(prompt.encode("utf-8", "surrogateescape"))
    session.prefill(read[None])
    if not session.tokens:
        raise ModelError("this model needs a prompt: its tokenizer has no separator")
    stops = (stop,) if isinstance(stop, str) else stop
    encoded = tuple(s.encode("utf-8", "surrogateescape") for s in stops)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces(session, tokenizer, tokens, sampling=chosen, stops=encoded):
        if text := decoder.decode(piece):
            yield text
    if text := decoder.decode(b"", True):
        yield text


def generate(prompt: str, **settings: Any) -> str:
    """The continuation of a prompt as one text: what `stream` yields, together."""
    return "".join(stream(prompt, **settings))
