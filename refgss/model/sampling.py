"""The next token from logits: reproducible, one random number for each stream and position.

What is guaranteed stands in chapter 17: the number depends on seed, stream and position alone, and
the choice on the number, the logits, the recent tokens and the settings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refgss.tensors import ModelError


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
        bounds = {
            "temperature": self.temperature >= 0,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "repetition_penalty": self.repetition_penalty > 0,
            "seed": 0 <= self.seed < 2**64,
        }
        for name, allowed in bounds.items():
            if not allowed or not np.isfinite(getattr(self, name)):
                raise ModelError(f"{name} = {getattr(self, name)} is out of range")


GREEDY = Sampling(temperature=0)


def choose(
    logits: np.ndarray,
    recent: np.ndarray,
    position: int,
    sampling: Sampling,
    size: int | None = None,
) -> np.ndarray:
    """logits (B,V), recent tokens (B,R) -> the tokens (B,) at this position.

    size: tokens from it on are never chosen (a vocabulary larger than its tokenizer).
    Raises ModelError where logits are not finite.  Clauses: GSS-SMP-1..6.
    """
    logits = logits[:, :size].astype(np.float64)
    if not np.isfinite(logits).all():
        raise ModelError("the model's logits are not finite: its weights or its state are broken")
    if sampling.repetition_penalty != 1:
        penalize(logits, recent, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits.argmax(-1)
    return np.array([draw(x, b, position, sampling) for b, x in enumerate(logits)])


def penalize(logits: np.ndarray, recent: np.ndarray, penalty: float) -> None:
    """In place: recent tokens become less likely, each once.  Clauses: GSS-SMP-2."""
    for row, tokens in zip(logits, recent, strict=True):
        seen = np.unique(tokens[tokens < len(row)])
        row[seen] = np.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)


def draw(logits: np.ndarray, stream: int, position: int, sampling: Sampling) -> int:
    """One token of logits (V,) by inversion.  Clauses: GSS-SMP-3..5."""
    order = np.argsort(-logits, kind="stable")  # the most likely first, ties by number
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
