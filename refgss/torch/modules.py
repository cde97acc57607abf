"""The layers and the language model as modules.

Their tensors have the names and layout of a checkpoint (chapter 13): `ssm.c` is real, (H,N,2),
so that whatever moves, rounds or saves parameters need know no complex numbers.  `state_dict` of a
`LanguageModel` has the tensors of its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from refgss import ops
from refgss.config import (
    PAPER,
    DSSConfig,
    GSSConfig,
    Imag,
    LayerConfig,
    LMConfig,
    TransformerConfig,
)
from refgss.layers import kind_of
from refgss.layers.states import mapped, zero_states
from refgss.model import initialize, load_checkpoint, save_checkpoint
from refgss.model.imports import from_gated_state_spaces_pytorch, to_gated_state_spaces_pytorch
from refgss.model.initialization import INITIAL, sizes_for
from refgss.torch import backends
from refgss.torch.inputs import Tensor

State = Any


def draw_seed() -> int:
    """Of an initialisation: from the generator of PyTorch, which `torch.manual_seed` sets."""
    return int(torch.randint(2**63 - 1, ()))


class Named(nn.Module):
    """A module whose parameters have the names of the standard, dots included."""

    def add(self, params: Mapping[str, np.ndarray]) -> None:
        """Parameters by their names; those of NumPy in the layout of files."""
        for name, x in params.items():
            owner: nn.Module = self
            *groups, last = name.split(".")
            for group in groups:
                if not hasattr(owner, group):
                    owner.add_module(group, nn.Module())
                owner = owner.get_submodule(group)
            real = torch.from_numpy(np.array(ops.to_real(x)))
            owner.register_parameter(last, nn.Parameter(real))

    def params(self) -> dict[str, Tensor]:
        """The parameters as the ops take them, which share the memory of the module's."""
        named = dict(self.named_parameters())
        return {n: torch.view_as_complex(x) if ops.is_complex(n) else x for n, x in named.items()}


class Layer(Named):
    """A layer of any kind: x (B,L,E), state or None -> y (B,L,E), state.

    config  the options (refgss.config); sizes by the names of the Sizes of the layer's kind.
    memory  tokens over which the modes of a GSS layer are spread at first (GSS-INI-9).
    It starts as the standard has it, drawn from PyTorch's generator.
    """

    def __init__(self, config: LayerConfig, *, memory: float | None = None, **sizes: int):
        rng = np.random.default_rng(draw_seed())
        drawn = INITIAL[type(config)](config, sizes_for(config, sizes), 1, memory, rng)
        single = {"f": np.float32, "c": np.complex64}
        self.begin({name: x.astype(single[x.dtype.kind]) for name, x in drawn.items()}, config)

    def begin(self, params: Mapping[str, np.ndarray], config: LayerConfig) -> None:
        super().__init__()
        self.config = config
        self.add(params)

    @classmethod
    def of(cls, params: Mapping[str, np.ndarray], config: LayerConfig) -> Layer:
        """A layer with copies of these parameters (NumPy, by the names of chapters 7 and 19)."""
        made = cls.__new__(cls)
        made.begin(params, config)
        return made

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        op = backends.OPS[kind_of(self.config).OP]
        return op(self.params(), x, state, config=self.config)

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One token: x (B,E) -> y (B,E), state."""
        y, state = self(x[:, None], state)
        return y[:, 0], state

    def zero_state(self, batch: int) -> State:
        """Before the first token.  Clauses: GSS-STA-2."""
        own = {f"layers.0.{name}": x for name, x in self.params().items()}
        return tensors(
            zero_states(own, LMConfig(self.config, 1), batch)[0], next(iter(own.values()))
        )


class GSS(Layer):
    """The GSS layer (GSS-LAY-1..5): width E, gate F, channels H, states N."""

    def __init__(
        self,
        width: int,
        *,
        gate: int,
        channels: int,
        states: int,
        config: GSSConfig = PAPER,
        memory: float | None = None,
    ):
        sizes = {"width": width, "gate": gate, "channels": channels, "states": states}
        super().__init__(config, memory=memory, **sizes)


class DSS(Layer):
    """The DSS layer (GSS-LAY-6): width E, states N."""

    def __init__(self, width: int, *, states: int, config: DSSConfig | None = None):
        super().__init__(config or DSSConfig(), width=width, states=states)


class TransformerLayer(Layer):
    """Local attention and an MLP, each after a norm (GSS-HYB-2..5): width E.

    sizes: `inner`, the heads together, and `hidden`, of the MLP, where they are not the usual ones.
    """

    def __init__(self, width: int, *, config: TransformerConfig | None = None, **sizes: int):
        super().__init__(config or TransformerConfig(), width=width, **sizes)


def tensors(state: State, like: Tensor) -> State:
    """A state of NumPy as tensors, where the parameters are and of their precision."""
    real = like.real.dtype if like.is_complex() else like.dtype

    def tensor(x: np.ndarray) -> Tensor:
        found = torch.from_numpy(x).to(like.device)
        if x.dtype.kind == "i":
            return found
        return found.to(torch.promote_types(real, torch.complex64) if x.dtype.kind == "c" else real)

    return mapped(tensor, state)


class LanguageModel(Named):
    """tokens (B,L), state or None -> logits (B,L,V), state.  Clauses: GSS-LM-1..3.

    config, sizes, vocabulary and memory as `refgss.model.initialize` has them; it starts as the
    standard has it, drawn from PyTorch's generator.  `tokenizer` and `about` are those of its file.
    """

    def __init__(
        self,
        config: LMConfig,
        *,
        vocabulary: int,
        memory: float | None = None,
        tokenizer: str = "bytes",
        **sizes: int,
    ):
        params = initialize(config, sizes, vocabulary=vocabulary, memory=memory, seed=draw_seed())
        self.begin(params, config, tokenizer, {})

    def begin(
        self,
        params: Mapping[str, np.ndarray],
        config: LMConfig,
        tokenizer: str,
        about: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.config, self.tokenizer, self.about = config, tokenizer, dict(about)
        self.add(params)

    @classmethod
    def of(
        cls,
        params: Mapping[str, np.ndarray],
        config: LMConfig,
        *,
        tokenizer: str = "bytes",
        about: Mapping[str, Any] | None = None,
    ) -> LanguageModel:
        """A model with copies of these parameters (NumPy, by the names of chapter 8)."""
        made = cls.__new__(cls)
        made.begin(params, config, tokenizer, about or {})
        return made

    @classmethod
    def from_checkpoint(cls, path: Path | str) -> LanguageModel:
        """The model of a file; bf16 and int8 weights become the float32 numbers that they are.

        Raises CheckpointError unless the file is in order.
        """
        found = load_checkpoint(path)
        config, params = found.config, found.float_params()
        return cls.of(params, config, tokenizer=found.tokenizer, about=found.about)

    def save_checkpoint(self, path: Path | str) -> None:
        """As `refgss.model.save_checkpoint`: in float32, whole or not at all."""
        save_checkpoint(
            path, self.arrays(), self.config, tokenizer=self.tokenizer, about=self.about
        )

    @classmethod
    def from_gated_state_spaces_pytorch(
        cls, weights: Mapping[str, Tensor], *, imag: Imag = "exp", tokenizer: str = "bytes"
    ) -> LanguageModel:
        """The model of a state dict of gated-state-spaces-pytorch.

        Raises ModelError where it is none.
        """
        arrays = {name: x.detach().cpu().numpy() for name, x in weights.items()}
        params, config = from_gated_state_spaces_pytorch(arrays, imag=imag)
        return cls.of(params, config, tokenizer=tokenizer)

    def to_gated_state_spaces_pytorch(self) -> dict[str, Tensor]:
        """A state dict for its GatedStateSpacesLM.

        Raises ModelError where it has no such model.
        """
        found = to_gated_state_spaces_pytorch(self.arrays(), self.config)
        return {name: torch.from_numpy(x) for name, x in found.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """The parameters in float32 and complex64: copies."""
        named = {n: x.detach().float().cpu().numpy() for n, x in self.named_parameters()}
        return {n: np.array(ops.from_real(n, x)) for n, x in named.items()}

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return backends.OPS["lm_logits"](self.params(), tokens, state, config=self.config)

    def step(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One token: tokens (B,) -> logits (B,V), state."""
        logits, state = self(tokens[:, None], state)
        return logits[:, 0], state

    def loss(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> Tensor:
        """Mean negative log-likelihood of targets (B,L), in nats.  Clauses: GSS-LM-4."""
        op = backends.OPS["lm_loss"]
        return op(self.params(), tokens, targets, state, config=self.config)

    def zero_state(self, batch: int) -> State:
        """Before the first token.  Clauses: GSS-STA-2."""
        params = self.params()
        state = zero_states(params, self.config, batch)
        return tensors(state, params["embedding.weight"])
