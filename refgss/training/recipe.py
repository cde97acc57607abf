"""What a training run is: model, text and recipe, as frozen dataclasses that equal runs share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Literal

import numpy as np

from refgss.config import BlockRecurrentConfig, GSSConfig, LMConfig
from refgss.layers import kind_of, of_layer
from refgss.model.session import length_limit
from refgss.tensors import ModelError
from refgss.training.data import DataConfig

Optimizer = Literal["adamw", "adafactor", "muon"]


class TrainingError(ModelError):
    """A run that cannot go on, in one sentence that says what to do."""


@dataclass(frozen=True)
class Sizes:
    """Width E; gate F and channels H (GSS layers alone have them); states N.

    inner   of a transformer layer, the heads together: E if None.
    hidden  of its MLP: 4E, or 8E/3 where it is gated, if None.
    memory  the slowest mode of a GSS layer forgets within about so many tokens (GSS-INI-9); None:
            drawn from N(0,1) (GSS-INI-5).
    """

    width: int = 128
    gate: int | None = 384
    channels: int | None = 64
    states: int | None = 64
    memory: float | None = 1000.0
    inner: int | None = None
    hidden: int | None = None


def sizes_of(params: Mapping[str, np.ndarray], config: LMConfig) -> Sizes:
    """Those of a model that is there."""
    found: dict[str, int | None] = dict.fromkeys(f.name for f in fields(Sizes))
    for i, layer in enumerate(config.layers):
        found |= asdict(kind_of(layer).sizes(of_layer(params, i)))
    return Sizes(**{f.name: found[f.name] for f in fields(Sizes)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Recipe:
    """How the model is trained; as it stands, as the bundled model was.

    steps           updates of the parameters.
    minutes         None, or stop after so many: the schedule then follows the larger of the shares
                    of steps and of minutes, and the run cannot be repeated bit by bit.
    batch, length   windows an update, tokens a window.
    segments        windows of a text that are read one after the other, a step each: the state goes
                    on from one to the next, and no gradient goes back.
    accumulate      parts of a batch whose gradients are computed one after the other.
    optimizer       "adamw", "adafactor", or "muon" for the matrices of layers and adamw otherwise.
    rate            the peak learning rate; it rises over `warmup` steps, then falls as a cosine to
                    `final` of itself.
    matrix_rate     that of matrices under muon.
    modes_rate      that of ssm.a, ssm.b and ssm.log_delta.
    weight_decay    of matrices, times the rate.
    clip            the largest norm of a gradient; a larger one is scaled down.
    weights         "bf16": products with weights rounded to bfloat16, parameters kept in float32.
    data_parallel, sequence_parallel
                    devices over which a batch, and each window, is spread.
    """

    steps: int = 3000
    minutes: float | None = None
    batch: int = 8
    length: int = 512
    segments: int = 1
    accumulate: int = 1
    optimizer: Optimizer = "muon"
    rate: float = 4e-3
    matrix_rate: float = 2e-2
    modes_rate: float = 1e-3
    warmup: int = 100
    final: float = 0.02
    weight_decay: float = 0.02
    clip: float = 1.0
    seed: int = 0
    weights: Literal["full", "bf16"] = "full"
    data_parallel: int = 1
    sequence_parallel: int = 1

    def __post_init__(self) -> None:
        devices = ("data_parallel", "sequence_parallel")
        for name in ("steps", "batch", "length", "segments", "accumulate", *devices):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("minutes", "rate", "matrix_rate", "modes_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise TrainingError(f"{name} must be positive and finite, not {value}")
        if not (0 <= self.final <= 1 and self.weight_decay >= 0 and self.warmup >= 0):
            raise TrainingError("final must be from 0 to 1; weight-decay and warmup, at least 0")
        if self.seed < 0:
            raise TrainingError(f"seed must be at least 0, not {self.seed}")
        parts = self.accumulate * self.data_parallel
        if self.batch % parts or self.length % self.sequence_parallel:
            raise TrainingError(
                "batch must be a multiple of accumulate times data-parallel, and length one of "
                f"sequence-parallel: {self.batch} is no multiple of {parts}, or {self.length} "
                f"none of {self.sequence_parallel}"
            )

    @property
    def text(self) -> int:
        """Tokens that are read before a text begins anew."""
        return self.length * self.segments

    def share(self, step: int, seconds: float) -> float:
        """How much of the run is over, from 0 to 1."""
        timed = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(max(step / self.steps, timed), 1.0)

    def schedule(self, step: int, seconds: float) -> float:
        """The factor of all learning rates at this step: warm-up, then cosine."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        fall = (1 + math.cos(math.pi * self.share(step, seconds))) / 2
        return rise * (self.final + (1 - self.final) * fall)


@dataclass(frozen=True)
class Run:
    """All that decides the numbers of a run.

    start  None, or the SHA-256 of the checkpoint whose parameters the run begins with.
    """

    model: LMConfig = field(default_factory=lambda: LMConfig(GSSConfig(), depth=6))
    sizes: Sizes = field(default_factory=Sizes)
    data: DataConfig = field(default_factory=DataConfig)
    recipe: Recipe = field(default_factory=Recipe)
    tokenizer: str = "bytes"
    start: str | None = None

    def __post_init__(self) -> None:
        end = length_limit(self.model)
        if end is not None and self.recipe.text > end:
            raise TrainingError(
                f"a stream of this model ends after {end} tokens, and windows have "
                f"{self.recipe.text}: lower --length, or give --positions more"
            )
        recurrent = any(isinstance(layer, BlockRecurrentConfig) for layer in self.model.layers)
        if recurrent and self.recipe.sequence_parallel > 1:
            raise TrainingError(
                "the state of a recurrent layer goes from window to window, one after the other, "
                "and cannot be spread over devices: use --data-parallel"
            )
