"""How well a model predicts text: nats, perplexity, bits per byte, loss by position.

A document is read from the beginning, after the separator if the tokenizer has one, in pieces, so
that files of any length take the same memory.  Its bytes count, the separator does not.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refgss.config import LMConfig
from refgss.model.checkpoint import Checkpoint
from refgss.model.documents import read_pieces
from refgss.model.session import default_backend, length_limit
from refgss.model.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from refgss.tensors import ModelError

PIECE = 1024  # tokens that the backend is given at once
EDGES = np.concatenate([[0], 2 ** np.arange(62)])  # of the bins of positions: 0, 1, 2, 4, 8, …


@dataclass(frozen=True)
class Rate:
    """bits / bytes over documents, and its standard error as that of a ratio (NaN for one)."""

    value: float
    error: float

    def __str__(self) -> str:
        known = not math.isnan(self.error)
        return f"{self.value:.4f} ± {self.error:.4f}" if known else f"{self.value:.4f}"


def rate(bits: Sequence[float], sizes: Sequence[int]) -> Rate:
    """Σ bits / Σ sizes; the error by linearisation, documents as drawn independently."""
    x, y, n = np.array(bits, float), np.array(sizes, float), len(bits)
    value = x.sum() / y.sum()
    residuals = x - value * y
    error = math.sqrt(n / (n - 1) * (residuals @ residuals)) / y.sum() if n > 1 else math.nan
    return Rate(value, error)


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of documents.

    nats, tokens, sizes  of each document: negative log-likelihood, tokens predicted, bytes.
    by_position          (nats, tokens) of each bin of positions EDGES[i] <= position < EDGES[i+1].
    """

    nats: Sequence[float]
    tokens: Sequence[int]
    sizes: Sequence[int]
    by_position: Sequence[tuple[float, int]]

    @property
    def loss(self) -> float:
        """Nats per token."""
        return math.fsum(self.nats) / sum(self.tokens)

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    @property
    def bits_per_byte(self) -> Rate:
        return rate([x / math.log(2) for x in self.nats], self.sizes)


def evaluate(
    checkpoint: Checkpoint,
    documents: Iterable[Iterable[np.ndarray]],
    *,
    backend: Any = None,
    limit: int | None = None,
    progress: Callable[[int], object] = lambda tokens: None,
) -> Evaluation:
    """Score every document, given as the pieces of its tokens; of each at most `limit` tokens.

    progress is told of tokens as they are read.  Raises ModelError where nothing is scored or a
    logit is not finite.
    """
    checkpoint.check_unchanged()
    tokenizer, end = load_tokenizer(checkpoint.tokenizer), length_limit(checkpoint.config)
    limit = min(limit or 1 << 61, end or 1 << 61)
    reader = Reader(checkpoint, backend or default_backend(), tokenizer.separator)
    nats, tokens, sizes = [], [], []
    bins, counts = np.zeros(len(EDGES)), np.zeros(len(EDGES), np.int64)
    for document in documents:
        total, at, size = 0.0, 0, 0
        for targets, losses in reader.losses(limited(document, limit)):
            where = np.searchsorted(EDGES, np.arange(at, at + len(losses)), "right") - 1
            np.add.at(bins, where, losses)
            np.add.at(counts, where, 1)
            total, at = total + float(losses.sum()), at + len(losses)
            size += size_of(targets, tokenizer)
            progress(len(losses))
        if size:
            nats.append(total)
            tokens.append(at)
            sizes.append(size)
    if not sizes:
        raise ModelError("there is nothing to evaluate: name files with at least one character")
    used = counts.nonzero()[0]
    by_position = [(float(bins[i]), int(counts[i])) for i in range(used[-1] + 1)]
    return Evaluation(nats, tokens, sizes, by_position)


def size_of(targets: np.ndarray, tokenizer: Tokenizer) -> int:
    """Bytes of the text of these tokens."""
    if isinstance(tokenizer, ByteTokenizer):
        return int((targets < 256).sum())
    return len(tokenizer.decode(targets))


def limited(document: Iterable[np.ndarray], limit: int) -> Iterator[np.ndarray]:
    """Pieces of at most PIECE tokens, `limit` tokens in all."""
    for tokens in document:
        for i in range(0, min(len(tokens), limit), PIECE):
            yield tokens[i : min(i + PIECE, limit)]
        limit -= min(len(tokens), limit)
        if not limit:
            return


class Reader:
    """The losses of documents, each from a fresh state, piece by piece."""

    def __init__(self, checkpoint: Checkpoint, backend: Any, separator: int | None):
        self._start = np.array([] if separator is None else [separator], np.int32)
        config = checkpoint.config
        self._vocabulary = checkpoint.params["embedding.weight"].shape[0]
        if hasattr(backend, "Decoder"):
            fresh = backend.Decoder(checkpoint.params, config, batch=1)
            self._reader = lambda: fresh.fork().loss
        else:
            params = checkpoint.float_params()
            self._reader = lambda: OpsLoss(backend, params, config).loss

    def losses(self, document: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Targets (L,) and their negative log-likelihoods (L,) in nats, float64.

        Raises ModelError where one is not finite.
        """
        read, before = self._reader(), self._start
        for piece in document:
            tokens = np.concatenate([before, piece])
            inputs, targets, before = tokens[:-1], tokens[1:], tokens[-1:]
            if len(piece) and piece.max() >= self._vocabulary:
                raise ModelError(
                    f"the text has the token {piece.max()} where the model knows only those below "
                    f"{self._vocabulary}: it was trained on other text"
                )
            if len(inputs):
                losses = read(inputs[None], targets[None])[0]
                if not np.isfinite(losses).all():
                    raise ModelError("the model's loss is not finite: its weights are broken")
                yield targets, losses


@dataclass
class OpsLoss:
    """`lm_logits` of any backend as what `refgss.native.Decoder.loss` is."""

    backend: Any
    params: Any
    config: LMConfig
    state: Any = None

    def loss(self, tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """tokens, targets (B,L) -> -log p(target) in nats, (B,L) float64."""
        logits, self.state = self.backend.lm_logits(
            self.params, tokens, self.state, config=self.config
        )
        return negative_log_likelihood(np.asarray(logits), targets)


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """logits (B,L,V), targets (B,L) -> log Σ e^logits - logits[targets] (B,L) float64.

    Clauses: GSS-LM-4..5.
    """
    peak = logits.max(-1, keepdims=True)
    total = np.exp(logits - peak).sum(-1, dtype=np.float64)
    chosen = np.take_along_axis(logits, targets[..., None], -1)
    return np.log(total) + (peak - chosen)[..., 0].astype(np.float64)


def xz_bits_per_byte(paths: Sequence[Path]) -> Rate:
    """What `xz -9` makes of the same files, each by itself."""
    bits, sizes = [], []
    for path in paths:
        compressor, size, made = lzma.LZMACompressor(preset=9), 0, 0
        for piece in read_pieces(path):
            size, made = size + len(piece), made + len(compressor.compress(piece))
        bits.append(8 * (made + len(compressor.flush())))
        sizes.append(size)
    return rate(bits, sizes)
