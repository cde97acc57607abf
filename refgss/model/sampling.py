"""The next token from logits: reproducible, one random number for each stream and position.

What is guaranteed stands in chapter 17: the number depends on seed, stream and position alone, and
the choice on the number, the logits, the recent tokens and the settings.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refgss.tensors import ModelError

MOST_TEMPERATURE = sys.float_info.max
LARGEST = 2.0**128  # logits are binary32: below it in size
MOST_PENALTY = 1e6  # so that no product or quotient with a logit leaves binary64


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the defaults change nothing.

    temperature         divides the logits; 0 is greedy.
    top_k               only the k most likely tokens; 0 is all.
    top_p               only the fewest most likely tokens whose probabilities reach p.
    min_p               only tokens at least min_p times as likely as the most likely.
    repetition_penalty  divides positive and multiplies negative logits of recent tokens.
    seed                of the random numbers.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("top_k", "seed"):
            if not isinstance(getattr(self, name), int | np.integer):
                raise ModelError(f"{name} must be an integer, not {getattr(self, name)!r}")
        bounds = {
            "temperature": (
                0 <= self.temperature <= MOST_TEMPERATURE,
                "0, or positive and finite",
            ),
            "top_k": (0 <= self.top_k, "at least 0"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1"),
            "repetition_penalty": (
                1 / MOST_PENALTY <= self.repetition_penalty <= MOST_PENALTY,
                f"from {1 / MOST_PENALTY} to {MOST_PENALTY}",
            ),
            "seed": (0 <= self.seed < 2**64, "from 0 to 2^64 - 1"),
        }
        for name, (allowed, range_) in bounds.items():
            if not allowed:
                raise ModelError(f"{name} must be {range_}, not {getattr(self, name)}")


GREEDY = Sampling(temperature=0)
REMEMBERED = 256  # tokens that the repetition penalty looks at (GSS-SMP-2)


def choose(
    logits: np.ndarray,
    recent: np.ndarray,
    position: int | np.ndarray,
    sampling: Sampling,
    size: int | None = None,
    streams: Sequence[int] | None = None,
) -> np.ndarray:
    """logits (B,V), recent tokens (B,R), -1 for none -> the tokens (B,) at this position, or these.

    size: tokens from it on are never chosen (a vocabulary larger than its tokenizer).
    streams: their numbers, by which random numbers differ; else 0 … B - 1.
    Raises ModelError where there are no logits, or one is not a finite number of binary32.
    Clauses: GSS-SMP-1..6.
    """
    logits = logits[:, :size].astype(np.float64)
    if not logits.shape[1]:
        raise ModelError("there is no token to choose: the model or its tokenizer has none")
    if not (np.abs(logits) < LARGEST).all():
        raise ModelError("the model's logits are not finite: its weights or its state are broken")
    if sampling.repetition_penalty != 1:
        penalize(logits, recent[:, -REMEMBERED:], sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits.argmax(-1)
    B = len(logits)
    rows = zip(logits, streams or range(B), np.broadcast_to(position, B).tolist(), strict=True)
    return np.array([draw(x, stream, t, sampling) for x, stream, t in rows])


def penalize(logits: np.ndarray, recent: np.ndarray, penalty: float) -> None:
    """In place: recent tokens become less likely, each once.  Clauses: GSS-SMP-2."""
    for row, tokens in zip(logits, recent, strict=True):
        seen = np.unique(tokens[(tokens >= 0) & (tokens < len(row))])
        row[seen] = np.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)


def draw(logits: np.ndarray, stream: int, position: int, sampling: Sampling) -> int:
    """One token of logits (V,) by inversion.  Clauses: GSS-SMP-3..5."""
    order = np.argsort(-logits, kind="stable")  # the most likely first, ties by number
    with np.errstate(over="ignore", under="ignore"):  # a quotient of -inf has no weight
        p = np.exp((logits[order] - logits[order[0]]) / sampling.temperature)
    if sampling.top_k:
        p = p[: sampling.top_k]
    if sampling.top_p < 1:
        total = np.cumsum(p)
        p = p[: 1 + np.searchsorted(total, sampling.top_p * total[-1])]
    p = p[p >= sampling.min_p]  # p[0] = 1
    total = np.cumsum(p)
    target = uniform(sampling.seed, stream, position) * total[-1]
    return int(order[min(np.searchsorted(total, target, side="right"), len(p) - 1)])


def uniform(seed: int, stream: int, position: int) -> float:
    """A number in [0, 1) of 53 bits: Philox4x64-10, keyed and counted.  Clauses: GSS-SMP-5."""
    key = np.array([seed, stream], np.uint64)
    bits = np.random.Philox(key=key, counter=[position, 0, 0, 0]).random_raw()
    return float(int(bits) >> 11) * 2.0**-53


class StopScanner:
    """Text as it may be shown, cut before the first of the stop strings.

    What may be the beginning of a stop string is held back until it is known.
    """

    def __init__(self, stops: tuple[bytes, ...]):
        if not all(stops):
            raise ModelError("a stop string must not be empty")
        self.stops, self.held, self.stopped = stops, b"", False

    def feed(self, text: bytes) -> bytes:
        """More text -> what of all the text can be shown now."""
        self.held += text
        found = [at for at in map(self.held.find, self.stops) if at >= 0]
        if found:
            shown, self.held, self.stopped = self.held[: min(found)], b"", True
            return shown
        keep = max((n for s in self.stops for n in self._overlaps(s)), default=0)
        at = len(self.held) - keep
        shown, self.held = self.held[:at], self.held[at:]
        return shown

    def _overlaps(self, stop: bytes) -> list[int]:
        """How long the text's end is that begins the stop string."""
        return [n for n in range(1, len(stop)) if self.held.endswith(stop[:n])]
