"""Text as tokens come: never lost, never doubled, wherever the tokens are cut.

What all streams promise: the text before a stream, all that `feed` returns and `rest` at the end
are together the text of all tokens.  Text that a later token may still change is held back, by
whole tokens; how many they are, `held`, is all that has to be remembered beside the tokens.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

from refgss.tensors import ModelError

WINDOW = 64  # tokens after which the context that is decoded again is made shorter
UNFINISHED = "\ufffd"  # what decoders make of bytes that are no character, or not yet
LONGEST = 3  # bytes, and so tokens, of a character that is not complete


class TextStream(Protocol):
    """The text of one token after the other."""

    held: int  # of the last tokens, how many have text that has not been returned

    def feed(self, token: int) -> bytes:
        """The text that is certain now and was not before."""

    def rest(self) -> bytes:
        """What was held back, as it stands: for the end."""


class ByteStream:
    """Of tokens that are bytes: whole characters; bytes that are none pass as they are."""

    def __init__(self, before: Sequence[int], held: int):
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.held = 0
        for token in before[len(before) - held :]:
            self.feed(token)

    def feed(self, token: int) -> bytes:
        text = self._decoder.decode(bytes([token]) if token < 256 else b"")
        pending = len(self._decoder.getstate()[0])
        begins = pending == 1 and token < 256  # a character that has just begun
        self.held = 0 if not pending else 1 if begins else self.held + 1
        return text.encode("utf-8", "surrogateescape")

    def rest(self) -> bytes:
        self.held = 0
        return self._decoder.decode(b"", final=True).encode("utf-8", "surrogateescape")


class Vocabulary:
    """What streams ask of a `tokenizers.Tokenizer`."""

    def __init__(self, inner: Any):
        self._inner = inner
        added = inner.get_added_tokens_decoder()
        self._special = {token for token, about in added.items() if about.special}
        decoders = parts_of(json.loads(inner.to_str())["decoder"])
        kinds = [about["type"] for about in decoders]
        fused = kinds[kinds.index("Fuse") :] if "Fuse" in kinds else []
        self.joins_bytes = "ByteFallback" in kinds
        # whether later tokens leave the text of whole characters alone: unless all of the text is
        # searched, or stripped at its end, where the package fails on text that is too short
        self.is_final = "Replace" not in fused and not any(d.get("stop") for d in decoders)

    def text(self, tokens: Sequence[int]) -> str:
        """Raises ModelError where the tokenizer's decoder fails."""
        try:
            return self._inner.decode(list(tokens)) if len(tokens) else ""
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as e:  # the package panics with one
            raise ModelError(
                f"the tokenizer's decoder fails on these tokens ({str(e)[:100]}): correct it in "
                "the tokenizer.json"
            ) from e

    def is_silent(self, token: int) -> bool:
        """Whether decoding leaves the token out."""
        return token in self._special or self._inner.id_to_token(token) is None

    def is_byte(self, token: int) -> bool:
        """Whether it is one byte of a run that is decoded together, whatever comes after it."""
        name = self._inner.id_to_token(token) or ""
        return self.joins_bytes and bool(re.fullmatch("<0x[0-9A-F]{2}>", name))


def parts_of(decoder: Any) -> list[dict[str, Any]]:
    """The decoders of a sequence, in their order."""
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [part for inner in decoder["decoders"] for part in parts_of(inner)]
    return [decoder]


class VocabularyStream:
    """Of a tokenizer file with any decoder.

    A decoder may treat the first token in a way of its own and join bytes of several tokens, so
    that a token has no text by itself: the text of some tokens before it is compared with and
    without it.  A decoder that changes text which it gave before (a Replace of fused text, bytes
    that turn out to be none) is waited for.
    """

    def __init__(self, vocabulary: Vocabulary, before: Sequence[int], held: int):
        self._vocabulary = vocabulary
        self._tokens = list(before)
        self._shown = vocabulary.text(self._tokens[: len(self._tokens) - held])
        self.held = held

    def feed(self, token: int) -> bytes:
        self._tokens.append(token)
        vocabulary = self._vocabulary
        if vocabulary.is_silent(token):
            self.held += self.held > 0
            return b""
        self.held += 1
        if vocabulary.is_byte(token) or not vocabulary.is_final:
            return b""
        if vocabulary.joins_bytes or not vocabulary.text(self._tokens).endswith(UNFINISHED):
            return self._show()
        return self._show(LONGEST) if self.held > LONGEST else b""

    def rest(self) -> bytes:
        return self._show() if self.held else b""

    def _show(self, keep: int = 0) -> bytes:
        """The text of all tokens but the last `keep`, less what has been shown."""
        text = self._vocabulary.text(self._tokens[: len(self._tokens) - keep])
        new = text[common(text, self._shown) :]
        self._shown, self.held = text, keep
        if not keep and len(self._tokens) > WINDOW:
            self._forget()
        return new.encode()

    def _forget(self) -> None:
        """Keep a context whose own text is certain: some, and whole characters."""
        for count in (8, 16, 32):
            context = self._tokens[-count:]
            text = self._vocabulary.text(context)
            if text and UNFINISHED not in text and not self._vocabulary.is_byte(context[0]):
                self._tokens, self._shown = context, text
                return


def common(a: str, b: str) -> int:
    """How many characters both begin with."""
    if a.startswith(b):
        return len(b)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
