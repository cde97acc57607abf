"""What a request of /v1/completions may ask, and what the answer looks like."""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refgss.model.generation import Token
from refgss.model.sampling import Sampling
from refgss.model.tokenizer import Tokenizer
from refgss.schemas import parse
from refgss.serve.limits import Limits
from refgss.tensors import ModelError
from refgss.text import printable


class RequestError(Exception):
    """A request that is refused: an HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Request:
    """A request that is right."""

    prompts: tuple[np.ndarray, ...]  # (L,) tokens each
    count: int
    sampling: Sampling
    stops: tuple[bytes, ...]
    top: int | None  # likeliest tokens to tell; None: no log-probabilities
    stream: bool
    usage: bool  # whether a stream tells the usage at its end


# the fields, each with its types and its default
FIELDS: Mapping[str, tuple[tuple[type, ...], Any]] = {
    "model": ((str,), ""),
    "prompt": ((str, list), ""),
    "max_tokens": ((int,), 16),
    "temperature": ((int, float), 1.0),
    "top_p": ((int, float), 1.0),
    "top_k": ((int,), 0),
    "min_p": ((int, float), 0.0),
    "repetition_penalty": ((int, float), 1.0),
    "seed": ((int,), 0),
    "stop": ((str, list), ()),
    "logprobs": ((int,), None),
    "stream": ((bool,), False),
    "stream_options": ((dict,), {}),
    "user": ((str,), ""),
}
ONLY: Mapping[str, Any] = {  # fields of other servers that this one has in one way alone
    "n": 1,
    "best_of": 1,
    "echo": False,
    "suffix": None,
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0,
}


def request_of(body: bytes, tokenizer: Tokenizer, name: str, limits: Limits) -> Request:
    """The request in a body of JSON.  Raises RequestError with what to change."""
    try:
        asked = parse(body)
    except ValueError as e:
        raise RequestError(400, f"the body is not JSON: {printable(str(e))}") from e
    if not isinstance(asked, dict):
        raise RequestError(400, "the body must be an object of JSON")
    given = {key: value for key, value in asked.items() if value is not None}
    check_fields(given)
    model = given.get("model", "")
    if model not in ("", name):
        raise RequestError(404, f"this server has the model {name}, not {printable(model)}")

    def value(key: str) -> Any:
        return given.get(key, FIELDS[key][1])

    count, top = value("max_tokens"), value("logprobs")
    check_range("max_tokens", count, limits.tokens)
    if top is not None:
        check_range("logprobs", top, limits.logprobs)
    stops = value("stop")
    stops = [stops] if isinstance(stops, str) else list(stops)
    if len(stops) > 16 or not all(isinstance(s, str) and s for s in stops):
        raise RequestError(400, "stop must be a text, or at most 16 of them, none empty")
    draws = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    try:
        sampling = Sampling(**{key: value(key) for key in draws})
    except ModelError as e:
        raise RequestError(400, str(e)) from e
    prompts = prompts_of(value("prompt"), tokenizer, limits)
    usage = bool(value("stream_options").get("include_usage", False))
    encoded = tuple(s.encode("utf-8") for s in stops)
    return Request(prompts, count, sampling, encoded, top, value("stream"), usage)


def check_fields(given: Mapping[str, Any]) -> None:
    """Raises RequestError for a field that is unknown, or of another type."""
    for key, value in given.items():
        if key in ONLY:
            if value != ONLY[key]:
                raise RequestError(400, f"{key} can only be {ONLY[key]} here")
            continue
        if key not in FIELDS:
            raise RequestError(400, f"there is no field {printable(key, 60)}")
        types = FIELDS[key][0]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            names = {str: "a text", list: "a list", int: "an integer", float: "a number"}
            names |= {bool: "true or false", dict: "an object"}
            wanted = " or ".join(names[t] for t in types)
            raise RequestError(400, f"{key} must be {wanted}")


def check_range(key: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise RequestError(400, f"{key} must be from 0 to {most}")


def prompts_of(asked: Any, tokenizer: Tokenizer, limits: Limits) -> tuple[np.ndarray, ...]:
    """A text, tokens, or several of either."""
    several = isinstance(asked, list) and not all(type(x) is int for x in asked)
    each = asked if several else [asked]
    if not 0 < len(each) <= limits.prompts:
        raise RequestError(400, f"a request has from 1 to {limits.prompts} prompts")
    prompts = tuple(prompt_of(x, tokenizer) for x in each)
    if sum(map(len, prompts)) > limits.prompt:
        raise RequestError(413, f"the prompts have more than {limits.prompt} tokens")
    if tokenizer.separator is None and not all(map(len, prompts)):
        raise RequestError(400, "this model needs a prompt: its tokenizer has no separator")
    return prompts


def prompt_of(x: Any, tokenizer: Tokenizer) -> np.ndarray:
    """The tokens (L,) of one prompt."""
    if isinstance(x, str):
        return tokenizer.encode(x.encode("utf-8", "replace"))
    if isinstance(x, list) and all(type(t) is int and 0 <= t < tokenizer.size for t in x):
        return np.array(x, np.int32)
    raise RequestError(400, f"a prompt is a text, or tokens below {tokenizer.size}")


# --- answers --------------------------------------------------------------------------------------


@dataclass
class Answer:
    """What one request is answered, as its tokens come."""

    request: Request
    model: str
    tokenizer: Tokenizer
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    generated: int = 0

    def __post_init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = [decoder("replace") for _ in self.request.prompts]
        self._written = [0 for _ in self.request.prompts]

    def choice(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        """The tokens that have come for a prompt."""
        end = tokens[-1].end if tokens else ""
        decoder, texts = self._decoders[index], []
        for t in tokens:
            texts.append(decoder.decode(t.text, bool(t.end)))
        self.generated += sum(t.id >= 0 for t in tokens)
        chances = None if self.request.top is None else self.chances(index, tokens, texts)
        self._written[index] += sum(map(len, texts))
        text = "".join(texts)
        return {"index": index, "text": text, "logprobs": chances, "finish_reason": end or None}

    def chances(self, index: int, tokens: Sequence[Token], texts: Sequence[str]) -> dict[str, Any]:
        """Log-probabilities: of each token, and of the likeliest; where its text begins."""
        begins = np.cumsum([self._written[index], *map(len, texts)]).tolist()
        read = [(t, at) for t, at in zip(tokens, begins, strict=False) if t.id >= 0]
        return {
            "tokens": [self.name(t.id) for t, _ in read],
            "token_logprobs": [t.logprob for t, _ in read],
            "top_logprobs": [{self.name(i): p for i, p in t.top} for t, _ in read],
            "text_offset": [at for _, at in read],
        }

    def name(self, token: int) -> str:
        """The text of a token; one that is no text by itself as bytes."""
        raw = self.tokenizer.decode(np.array([token]))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def usage(self) -> dict[str, int]:
        read = sum(map(len, self.request.prompts))
        total = read + self.generated
        return {
            "prompt_tokens": read,
            "completion_tokens": self.generated,
            "total_tokens": total,
        }

    def whole(self, choices: Sequence[Mapping[str, Any]], usage: bool) -> dict[str, Any]:
        """The object that a client reads."""
        found = {"id": self.id, "object": "text_completion", "created": self.created}
        more = {"usage": self.usage()} if usage else {}
        return {**found, "model": self.model, "choices": list(choices), **more}
