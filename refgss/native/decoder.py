"""A language model prepared once, for streaming: `refgss.native.Decoder`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refgss import checks, ops
from refgss.config import (
    BlockRecurrentConfig,
    DSSConfig,
    GSSConfig,
    LMConfig,
    TransformerConfig,
)
from refgss.layers import kind_of, of_layer
from refgss.layers.states import State, bundled
from refgss.layers.tensor import Tensor
from refgss.layers.transformer import length_limit
from refgss.native import _core
from refgss.native.attention import window_tuple
from refgss.native.pointwise import GATE
from refgss.native.state_space import form_tuple

BLOCK = 64  # tokens between two advances of the state
SHARE = 32  # int8 weights that share a scale

POSITIONS = ("none", "rope-half", "rope-interleaved", "t5", "alibi", "learned")  # refgss_position
MLP = {"gelu": 1, "gelu-tanh": 2, "glu": 3, "relu": 4}  # enum refgss_mlp
UPDATE = {"skip": 1, "single": 2, "dual": 3}  # enum refgss_update
COUNT_STEP = 2**20  # a number of tokens is saved as two of binary32, in steps and the rest


def transformer_options(c: TransformerConfig) -> tuple[Any, ...]:
    """As csrc/bindings/decoder.cpp takes them."""
    how = POSITIONS.index(c.position), MLP[c.mlp], c.rope_base, c.eps
    return "transformer", window_tuple(c.form), c.heads, c.groups, *how


# the options of a layer, by the type of its config, as csrc/bindings/decoder.cpp takes them
OPTIONS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    GSSConfig: lambda c: ("gss", c.imag == "exp", c.eps),
    DSSConfig: lambda c: ("dss", c.imag == "exp", c.eps, form_tuple(c.form)),
    TransformerConfig: transformer_options,
    BlockRecurrentConfig: lambda c: (
        *("recurrent", c.heads, c.window, GATE[c.gate], UPDATE[c.update], MLP[c.mlp], c.eps),
    ),
}

RECURRENT = (GSSConfig, DSSConfig)  # kinds whose state waits for the next advance

# matrices that may have few bits, and the axis along which their scales are shared
SUMMED = dict.fromkeys(("w_v", "w_u", "w_uc", "w_o", "w_q", "w_k", "w_1", "w_2", "w_3"), 0)
SUMMED |= dict.fromkeys(("w_q2", "w_f", "w_i"), 0)
SUMMED |= {"head.weight": 0, "embedding.weight": 1}


class Decoder:
    """A language model that reads B sequences side by side, and remembers where it is.

    params   as for `lm_logits`, in float32 and complex64.  A matrix (one of the layers,
             embedding.weight, head.weight) may be bf16 as uint16; or int8 beside NAME.scale, one
             bf16 (uint16) for 32 weights along the axis that is summed over: (ceil(I/32),O), or
             (V,ceil(E/32)) of the embedding.  All are copied once, into an order of their own.
    batch    B.
    block    tokens between two advances of the states; the inputs since the last are `pending`.

    Sums are binary32 whatever the weights: logits have the budget of `lm_logits` on the float32
    numbers that the weights stand for.  They depend neither on the number of threads nor on the
    other sequences.  Memory does not grow with the number of tokens.  Under dss-softmax, tokens
    beyond the declared length are refused (GSS-STA-8).
    Raises ValueError and TypeError for parameters that do not fit the config.

    A call that fails or is interrupted (Ctrl-C) leaves a decoder where it was before.  One decoder
    serves one thread at a time: a call from a second one raises RuntimeError ("is in use by another
    thread"); `fork` makes one for it.
    """

    def __init__(
        self,
        params: Mapping[str, np.ndarray],
        config: LMConfig,
        *,
        batch: int = 1,
        block: int = BLOCK,
    ):
        check_parameters(params, config)
        if batch < 0 or block < 1:
            raise ValueError(f"Decoder: batch must be >= 0 and block >= 1, not {batch} and {block}")
        self.config, self.batch, self.block = config, batch, block
        self._sizes = [
            kind_of(layer).sizes(of_layer(params, i)) for i, layer in enumerate(config.layers)
        ]
        layers = [OPTIONS[type(layer)](layer) for layer in config.layers]
        self._core = _core.Decoder(dict(params), layers, config.eps, batch, block)

    @staticmethod
    def supports(config: LMConfig) -> bool:
        """Whether it can decode such models: those whose layers are of kinds that it knows.

        A learned position that is not one in a chunk is not: its stream ends (GSS-HYB-10).
        """
        return all(
            type(layer) in OPTIONS
            and not (isinstance(layer, TransformerConfig) and length_limit(layer) is not None)
            for layer in config.layers
        )

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """The next token of each sequence, (B,) int -> logits (B,V)."""
        checks.check_rank("Decoder", "tokens", tokens, "B", "i")
        return self._core.step(self._tokens("tokens", tokens[:, None])[:, 0])

    def prefill(self, tokens: np.ndarray) -> np.ndarray:
        """Many tokens of each sequence, (B,L) int, L > 0 -> logits of the last position (B,V)."""
        return self._core.prefill(self._tokens("tokens", tokens), False)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """(B,L) int -> (B,L,V)."""
        return self._core.prefill(self._tokens("tokens", tokens), True)

    def loss(self, tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """tokens, targets (B,L) int -> -log p(target) in nats, (B,L) float64.

        The logits of 128 positions are held at a time.
        """
        tokens, targets = self._tokens("tokens", tokens), self._tokens("targets", targets)
        if tokens.shape != targets.shape:
            raise ValueError(
                f"Decoder: targets must have shape {tokens.shape}, not {targets.shape}"
            )
        return self._core.loss(tokens, targets)

    @property
    def position(self) -> int:
        """Tokens of each sequence so far."""
        return self._core.position()

    @property
    def place(self) -> tuple[int, np.ndarray | None]:
        """`position`, and the logits (B,V) that the last `step` or `prefill` returned; or None."""
        return self._core.place()

    @property
    def state(self) -> State:
        """After all tokens (GSS-STA-3): (depth,B,H,N) complex64 where all layers have such a state.

        Another backend can go on from it, and so can this one, up to rounding; for a continuation
        with the same bits see `snapshot`.
        """
        saved = iter(self._core.save(_core.STATE))
        states: list[State] = []
        for parts in self._parts():
            own = {}
            for name, tensor in parts.items():
                x = next(saved)
                own[name] = OF_SAVED[tensor.numbers](x)
            states.append(own if len(own) > 1 else next(iter(own.values())))
        return bundled(states)

    def snapshot(self) -> tuple[State, np.ndarray | None]:
        """state (depth,B,H,N) complex64, pending (depth,B,n,H) float32, 0 <= n < block.

        `state` is that at the last advance, and `pending` are the inputs u of each layer's SSM in
        the n tokens since.  A prefill ends with an advance: n = 0.  Where the layers have no states
        of one shape, or one has no SSM: `state` after all tokens, and None.
        """
        if not all(type(layer) in RECURRENT for layer in self.config.layers):
            return self.state, None
        saved = self._core.save(_core.SNAPSHOT)  # x and pending of each layer
        state = bundled([ops.joined_complex(x) for x in saved[::2]])
        if isinstance(state, tuple):
            return self.state, None
        return state, np.stack(saved[1::2])

    def restore(
        self, state: State, pending: np.ndarray | None = None, *, position: int = 0
    ) -> None:
        """Goes where the snapshot was made: what follows is the same bit by bit, given the same
        parameters, block and instruction set.  Without `pending`, `state` is that after all tokens.
        """
        checks.check_depth("Decoder", "state", state, self.config.depth)
        arrays: list[np.ndarray] = []
        for i, (own, parts) in enumerate(zip(state, self._parts(), strict=True)):
            checks.check_parts("Decoder", f"layer {i}: state", own, parts)
            for x in own.values() if isinstance(own, Mapping) else (own,):
                if x.dtype.kind in "iu":
                    arrays.append(in_steps(x))
                    continue
                if x.dtype not in (np.complex64, np.float32):
                    raise TypeError("Decoder: state must be complex64 or float32")
                arrays.append(ops.to_real(x))
            if pending is not None:
                arrays.append(self._pending(pending, own, i))
        self._core.restore(_core.STATE if pending is None else _core.SNAPSHOT, arrays, position)

    def _pending(self, pending: np.ndarray, state: np.ndarray, i: int) -> np.ndarray:
        """The pending inputs (B,n,H) of a layer with an SSM, whose state is (B,H,N)."""
        checks.check_rank("Decoder", "pending", pending, "depth,B,n,H", "f")
        n = pending.shape[2]
        shape = (self.config.depth, self.batch, n, state.shape[1])
        checks.check_shape("Decoder", "pending", pending, shape, "f")
        if n >= self.block:
            raise ValueError(
                f"Decoder: {n} steps are pending where block is {self.block}: "
                "use the block with which they were saved"
            )
        if pending.dtype != np.float32:
            raise TypeError("Decoder: pending must be float32")
        return pending[i]

    def _parts(self) -> list[Mapping[str, Tensor]]:
        """The parts of each layer's state by name."""
        layers = zip(self.config.layers, self._sizes, strict=True)
        return [kind_of(layer).state(layer, sizes, self.batch) for layer, sizes in layers]

    def fork(self) -> Decoder:
        """Another decoder at the same place of the same sequences; the weights are shared."""
        other = object.__new__(Decoder)
        other.__dict__.update(self.__dict__)
        other._core = self._core.fork()
        return other

    def fresh(self, batch: int) -> Decoder:
        """Another decoder, of `batch` sequences at their beginning; the weights are shared.

        Raises ValueError where batch < 0.
        """
        other = object.__new__(Decoder)
        other.__dict__.update(self.__dict__)
        other.batch, other._core = batch, self._core.fresh(batch)
        return other

    def _tokens(self, name: str, tokens: np.ndarray) -> np.ndarray:
        """(B,L) as int64."""
        checks.check_rank("Decoder", name, tokens, "B,L", "i")
        if tokens.shape[0] != self.batch:
            raise ValueError(
                f"Decoder: {name} are of {tokens.shape[0]} sequences where it has {self.batch}"
            )
        return np.ascontiguousarray(tokens, np.int64)


def in_steps(t: np.ndarray) -> np.ndarray:
    """Numbers of tokens (B,) as the library saves them, (B,2)."""
    return np.stack([t // COUNT_STEP, t % COUNT_STEP], -1).astype(np.float32)


def from_steps(saved: np.ndarray) -> np.ndarray:
    """The inverse: int32, as states begin, or int64 where that is too narrow."""
    high, low = saved.astype(np.int64).T
    t = high * COUNT_STEP + low
    return t.astype(np.int32) if t.max(initial=0) <= np.iinfo(np.int32).max else t


# from what the library saves, by the numbers of a part of a state
OF_SAVED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "complex": ops.joined_complex,
    "real": lambda x: x,
    "integer": from_steps,
}


class Template:
    """Stands for an array where only its shape and dtype are asked for."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape, self.dtype = shape, "float32"


def in_float32(params: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The parameters as they would be in float32: few bits become templates, scales are gone.

    Raises TypeError and ValueError for scales that do not fit.
    """
    seen: dict[str, Any] = dict(params)
    for name, x in params.items():
        axis = SUMMED.get(name.rsplit(".", 1)[-1] if name.startswith("layers.") else name)
        if axis is None or x.dtype not in (np.uint16, np.int8):
            continue
        seen[name] = Template(x.shape)
        if x.dtype == np.uint16:
            continue
        scale = seen.pop(f"{name}.scale", None)
        if scale is None:
            raise ValueError(f"Decoder: {name} is int8: its scales, {name}.scale, are missing")
        shape = tuple(-(-n // SHARE) if i == axis else n for i, n in enumerate(x.shape))
        if scale.dtype != np.uint16 or scale.shape != shape:
            raise ValueError(
                f"Decoder: {name}.scale must be bf16 (uint16) of shape {shape}, "
                f"not {scale.dtype} {scale.shape}"
            )
    return seen


def check_parameters(params: Mapping[str, np.ndarray], config: LMConfig) -> None:
    """What `lm_logits` asks of them, in binary32."""
    seen = in_float32(params)
    checks.check_language_model("Decoder", seen, np.zeros((0, 0), np.int64), None, config)
    E = seen["embedding.weight"].shape[1]
    if not Decoder.supports(config):
        raise ValueError(
            "Decoder: all layers must be of kinds that it knows, and learned positions those in a "
            "chunk"
        )
    for i, layer in enumerate(config.layers):
        x = np.empty((0, 0, E), np.float32)
        checks.check_layer(f"Decoder, layer {i}", of_layer(seen, i), x, None, layer)
    for name, x in seen.items():
        if str(x.dtype) not in ("float32", "complex64"):
            raise TypeError(f"Decoder: {name} must be float32 or complex64, not {x.dtype}")
