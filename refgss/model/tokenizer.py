"""Text to tokens and back: bytes, or a Hugging Face `tokenizers` file carried in the checkpoint.

A tokenizer is known by its description: "bytes", "raw-bytes", or the text of a tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from refgss.model.text_stream import ByteStream, TextStream, Vocabulary, VocabularyStream

SEPARATOR = 256  # stands before every document


class Tokenizer(Protocol):
    """What a model needs of one."""

    @property
    def size(self) -> int:
        """Tokens are below it."""

    @property
    def separator(self) -> int | None:
        """The token before every document."""

    def encode(self, text: bytes) -> np.ndarray:
        """The tokens (L,) int32 of a text in UTF-8; the separator is not among them."""

    def decode(self, tokens: np.ndarray) -> bytes:
        """The text of tokens (L,), which may end within a character."""

    def stream(self, before: Sequence[int] = (), held: int = 0) -> TextStream:
        """The text of further tokens, one after the other.

        before: the tokens that were read last, of which the last `held` have not been shown.
        """


class ByteTokenizer:
    """Token t < 256 is the byte t; 256 separates documents.  Clauses: GSS-FMT-15."""

    size = 257
    separator: int | None = SEPARATOR

    def encode(self, text: bytes) -> np.ndarray:
        return np.frombuffer(text, np.uint8).astype(np.int32)

    def decode(self, tokens: np.ndarray) -> bytes:
        tokens = np.asarray(tokens)
        return tokens[tokens < SEPARATOR].astype(np.uint8).tobytes()

    def stream(self, before: Sequence[int] = (), held: int = 0) -> TextStream:
        return ByteStream(before, held)


class RawByteTokenizer(ByteTokenizer):
    """Bytes, and nothing between documents.  Clauses: GSS-FMT-15."""

    size = 256
    separator = None


class FileTokenizer:
    """A tokenizer.json.  Its separator is the first of the tokens that by custom end a text.

    Raises ValueError where the text is no such file, or the package is missing.
    """

    CUSTOMARY = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "[SEP]")

    def __init__(self, description: str):
        try:
            import tokenizers
        except ImportError as e:
            raise ValueError(
                "this model has a tokenizer of the package tokenizers: "
                "pip install 'refgss[tokenizers]'"
            ) from e
        try:
            self.inner: Any = tokenizers.Tokenizer.from_str(description)
        except Exception as e:  # the package raises bare Exception
            raise ValueError(f"the tokenizer is no file of the package tokenizers: {e}") from e
        self._vocabulary = Vocabulary(self.inner)
        self.size = max(self.inner.get_vocab().values(), default=-1) + 1
        found = (self.inner.token_to_id(name) for name in self.CUSTOMARY)
        self.separator: int | None = next((t for t in found if t is not None), None)

    def encode(self, text: bytes) -> np.ndarray:
        encoding = self.inner.encode(text.decode("utf-8", "replace"), add_special_tokens=False)
        return np.array(encoding.ids, np.int32)

    def decode(self, tokens: np.ndarray) -> bytes:
        return self._vocabulary.text(np.asarray(tokens).tolist()).encode()

    def stream(self, before: Sequence[int] = (), held: int = 0) -> TextStream:
        return VocabularyStream(self._vocabulary, before, held)


BYTES: dict[str, Tokenizer] = {"bytes": ByteTokenizer(), "raw-bytes": RawByteTokenizer()}


def load_tokenizer(description: str) -> Tokenizer:
    """The tokenizer of this description.  Raises ValueError for an unknown one."""
    if description in BYTES:
        return BYTES[description]
    if description.lstrip().startswith("{"):
        return FileTokenizer(description)
    raise ValueError(
        f"unknown tokenizer {description[:40]!r}: use {', '.join(BYTES)} or the text of a "
        "tokenizer.json"
    )
