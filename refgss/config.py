"""The options of every op, as frozen dataclasses: nothing that changes a number is hidden.

`KernelForm` says how Λ, C and Δ become a kernel, `AttentionForm` which keys a query sees;
`GSSConfig`, `DSSConfig`, `TransformerConfig` and `BlockRecurrentConfig` say what a layer does,
`LMConfig` how layers become a language model.  All are hashable and JSON-able (`to_json`), so that
they serve as static arguments under `jit` and travel in messages.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol, get_args

Method = Literal["zoh", "bilinear", "dss-exp", "dss-softmax"]
Imag = Literal["exp", "identity"]
Reciprocal = Literal["clamped", "exact", "shifted", "shifted-sum"]

# the reciprocals of each method; the first is meant where none is written
RECIPROCALS: dict[Method, tuple[Reciprocal, ...]] = {
    "dss-exp": ("clamped", "shifted"),
    "dss-softmax": ("exact", "shifted", "shifted-sum"),
}
NUMBERS: dict[tuple[Method, Reciprocal | None], int] = {
    ("zoh", None): 1,
    ("bilinear", None): 2,
    ("dss-exp", "clamped"): 3,
    ("dss-softmax", "exact"): 4,
    ("dss-exp", "shifted"): 5,
    ("dss-softmax", "shifted"): 6,
    ("dss-softmax", "shifted-sum"): 7,
}


def plain(options: Any) -> None:
    """The fields of a new dataclass of options, numbers of NumPy as numbers of Python."""
    for f in fields(options):
        value = getattr(options, f.name)
        if getattr(value, "shape", None) == () and hasattr(value, "item"):
            object.__setattr__(options, f.name, value.item())


@dataclass(frozen=True)
class KernelForm:
    """How (Λ, Δ) become Ā and B̄ (GSS-DIS-1..11) and how modes are counted (GSS-KER-2).

    method      "zoh", "bilinear", "dss-exp" or "dss-softmax".
    pairs       True where only one of each conjugate pair is stored: the real part is doubled.
    eps         ε of the reciprocal, in every form that has one but "exact".
    length      "dss-softmax" only: the length over which the softmax is normalised.
    reciprocal  how the dss methods divide.  "dss-exp": "clamped", conj(Λ)/max(|Λ|², ε), where none
                is written, or "shifted", conj(Λ)/(|Λ|² + ε).  "dss-softmax": "exact" where none is
                written, or shifted as in the authors' code ("shifted") or paper ("shifted-sum").
    """

    method: Method
    pairs: bool = False
    eps: float | None = None
    length: int | None = None
    reciprocal: Reciprocal | None = None

    def __post_init__(self) -> None:
        plain(self)
        if self.method not in ("zoh", "bilinear", "dss-exp", "dss-softmax"):
            raise ValueError(
                f"unknown method {self.method!r}: use zoh, bilinear, dss-exp or dss-softmax"
            )
        known = RECIPROCALS.get(self.method, ())
        if self.reciprocal is None and known:
            object.__setattr__(self, "reciprocal", known[0])
        if self.reciprocal not in (known or (None,)):
            choice = f"use {' or '.join(known)}" if known else "leave reciprocal out"
            raise ValueError(
                f"method {self.method!r} has no reciprocal {self.reciprocal!r}: {choice}"
            )
        if (self.eps is not None) != (self.reciprocal not in (None, "exact")):
            raise ValueError(
                f"method {self.method!r}: eps belongs to dss-exp, and to dss-softmax with a "
                "shifted reciprocal, and only to them"
            )
        if (self.length is not None) != (self.method == "dss-softmax"):
            raise ValueError(
                f"method {self.method!r}: length belongs to dss-softmax, and only to it"
            )
        if self.eps is not None and not 0 < self.eps < math.inf:
            raise ValueError(f"eps must be positive and finite, not {self.eps}")
        if self.length is not None and self.length < 1:
            raise ValueError(f"the softmax length must be at least 1, not {self.length}")

    @property
    def number(self) -> int:
        """Method and reciprocal as `enum refgss_method` of the C ABI numbers them."""
        return NUMBERS[self.method, self.reciprocal]

    @property
    def floor(self) -> float:
        """ε of the reciprocal."""
        assert self.eps is not None
        return self.eps

    @property
    def span(self) -> int:
        """The declared length of dss-softmax."""
        assert self.length is not None
        return self.length


GSS = KernelForm("zoh")  # with Δ = 1: the simplified DSS of arXiv 2206.13947
DSS_EXP = KernelForm("dss-exp", eps=1e-7)  # arXiv 2203.14343, Proposition 1(a)
DSS_EXP_SHIFTED = KernelForm("dss-exp", eps=1e-7, reciprocal="shifted")
S4D_ZOH = KernelForm("zoh", pairs=True)  # arXiv 2206.11893
S4D_BILINEAR = KernelForm("bilinear", pairs=True)


def dss_softmax(length: int) -> KernelForm:
    """DSS-softmax (arXiv 2203.14343, Proposition 1(b)), normalised over `length` positions."""
    return KernelForm("dss-softmax", length=length)


def dss_softmax_shifted(length: int) -> KernelForm:
    """DSS-softmax as its authors' code has it (dss.py, and s4.py with disc="dss")."""
    return KernelForm("dss-softmax", length=length, eps=1e-7, reciprocal="shifted")


def dss_softmax_shifted_sum(length: int) -> KernelForm:
    """DSS-softmax as appendix A.2 of its paper has it, and the Annotated S4."""
    return KernelForm("dss-softmax", length=length, eps=1e-7, reciprocal="shifted-sum")


@dataclass(frozen=True)
class GSSConfig:
    """A GSS layer (GSS-LAY-1..5).

    imag      "exp": Im Λ = exp(b); "identity": Im Λ = b.
    ssm_norm  LayerNorm over the H channels before the SSM (D multiplies the normed u too).
    out_bias  whether the output projection has a bias.
    eps       of every LayerNorm in the layer.
    """

    imag: Imag = "exp"
    ssm_norm: bool = False
    out_bias: bool = False
    eps: float = 1e-5

    def __post_init__(self) -> None:
        plain(self)


PAPER = GSSConfig()  # figure 1(b) of arXiv 2206.13947
GSS_PYTORCH = GSSConfig(ssm_norm=True, out_bias=True)  # gated-state-spaces-pytorch 0.1.0


@dataclass(frozen=True)
class DSSConfig:
    """A DSS layer over the full width E (GSS-LAY-6), the paper's baseline."""

    imag: Imag = "identity"
    form: KernelForm = DSS_EXP
    out_bias: bool = True
    eps: float = 1e-5

    def __post_init__(self) -> None:
        plain(self)


# --- attention ------------------------------------------------------------------------------------

Visible = Literal["chunk", "sliding", "look1", "strict"]
Scale = Literal["inverse-root", "one"]
Position = Literal["none", "rope-half", "rope-interleaved", "t5", "alibi", "learned"]
Mlp = Literal["gelu", "gelu-tanh", "glu", "relu"]
Norm = Literal["layer", "rms"]


def one_of(what: str, value: Any, known: tuple[Any, ...]) -> None:
    """Raises ValueError unless an option has one of the values that it knows."""
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}: use {', '.join(known[:-1])} or {known[-1]}")


def whole(what: str, value: Any, least: int = 1) -> None:
    """Raises ValueError unless an option is an integer of at least this."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{what} must be a whole number of at least {least}, not {value!r}")


@dataclass(frozen=True)
class AttentionForm:
    """Which keys a query sees, and how it is scaled (GSS-ATT-1..3).

    chunk    C: tokens of a chunk, or of the window.
    visible  the query at t sees the key at s <= t if c(s) = c(t) where c(t) = t div C ("chunk");
             if t - s < C ("sliding"); if c(t) - c(s) <= 1 ("look1"); if s < t and t - s <= C
             ("strict").
    scale    of the products of queries and keys: "inverse-root", 1/√D, or "one".
    """

    chunk: int
    visible: Visible = "chunk"
    scale: Scale = "inverse-root"

    def __post_init__(self) -> None:
        plain(self)
        whole("chunk", self.chunk)
        one_of("visibility", self.visible, get_args(Visible))
        one_of("scale", self.scale, get_args(Scale))

    @property
    def slots(self) -> int:
        """S: how many keys and values the state holds."""
        return 2 * self.chunk if self.visible == "look1" else self.chunk

    @property
    def distances(self) -> int:
        """M: the largest t - s that is ever seen, and 1."""
        return {"look1": 2 * self.chunk, "strict": self.chunk + 1}.get(self.visible, self.chunk)


@dataclass(frozen=True)
class TransformerConfig:
    """A transformer layer with local attention (GSS-HYB-2..5): norm, attention, norm, MLP.

    heads      of queries; `kv_heads` of keys and values, which divide them (None: as many).
    chunk, visible, scale
               of the attention (`AttentionForm`).
    position   "none"; "rope-half" or "rope-interleaved", keys and queries turned by `rope_base`;
               "t5" or "alibi", a bias of the distance; "learned", a vector of the position.
    positions  rows of the learned table: where a stream ends, but under "chunk", where the row is
               t mod C.  None: C of them, under "chunk" alone.
    mlp        "gelu" or "gelu-tanh", of width 4E; "glu", gated; "relu".
    norm       "layer" (weight and bias) or "rms" (weight only).
    bias       whether every dense map has one.
    eps        of both norms.
    """

    heads: int = 8
    kv_heads: int | None = None
    chunk: int = 512
    visible: Visible = "chunk"
    scale: Scale = "inverse-root"
    position: Position = "none"
    rope_base: float = 10000.0
    positions: int | None = None
    mlp: Mlp = "gelu"
    norm: Norm = "layer"
    bias: bool = False
    eps: float = 1e-5

    def __post_init__(self) -> None:
        plain(self)
        whole("heads", self.heads)
        if self.kv_heads is None:
            object.__setattr__(self, "kv_heads", self.heads)
        whole("kv_heads", self.kv_heads)
        if self.heads % self.groups:
            raise ValueError(f"{self.kv_heads} kv_heads do not divide {self.heads} heads")
        _ = self.form  # its options are refused where they stand
        for what, known in (("position", Position), ("mlp", Mlp), ("norm", Norm)):
            one_of(what, getattr(self, what), get_args(known))
        if not 0 < self.rope_base < math.inf:
            raise ValueError(f"rope_base must be positive and finite, not {self.rope_base}")
        if self.positions is not None:
            if self.position != "learned":
                raise ValueError("positions belong to the learned position, and only to it")
            whole("positions", self.positions)
            if self.visible == "chunk" and self.positions < self.chunk:
                raise ValueError(
                    f"a chunk of {self.chunk} needs as many learned positions, not {self.positions}"
                )
        elif self.position == "learned" and self.visible != "chunk":
            raise ValueError(
                f"learned positions under the visibility {self.visible!r} need positions, the "
                "number of rows of their table"
            )

    @property
    def groups(self) -> int:
        """G: heads of keys and values."""
        assert self.kv_heads is not None
        return self.kv_heads

    @property
    def form(self) -> AttentionForm:
        """What the attention is told."""
        return AttentionForm(self.chunk, self.visible, self.scale)

    @property
    def rows(self) -> int:
        """Of the learned table."""
        return self.chunk if self.positions is None else self.positions


# --- the block-recurrent transformer --------------------------------------------------------------

Gate = Literal["fixed", "lstm", "full"]
Update = Literal["skip", "single", "dual"]
Distance = Literal["none", "t5"]


@dataclass(frozen=True)
class BlockRecurrentConfig:
    """A layer of the Block-Recurrent Transformer (GSS-BRT-1..21): tokens and a state.

    heads    of queries, keys and values, of tokens and of the state alike.
    window   W: a token sees the W tokens before it, and the state changes after every W tokens.
    states   S: vectors of the state; with 0 of them nothing is remembered beyond the window.
    gate     how the state takes what is new: by a learned vector ("fixed"), or by gates of the
             input, that are one ("full") or two ("lstm").
    update   what the state takes: attention ("skip"), an MLP of attention ("single"), or both, one
             after the other, each with a gate ("dual").
    normalize_keys
             queries and keys have length 1, and each head a learned scale; else 1/√D.
    position "t5", a bias of the distance, or "none".
    mlp      of tokens and of the state, as in a transformer layer.
    eps      of the RMS norms.
    """

    heads: int = 8
    window: int = 512
    states: int = 512
    gate: Gate = "fixed"
    update: Update = "skip"
    normalize_keys: bool = True
    position: Distance = "t5"
    mlp: Mlp = "relu"
    eps: float = 1e-6

    def __post_init__(self) -> None:
        plain(self)
        whole("heads", self.heads)
        whole("window", self.window)
        whole("states", self.states, least=0)
        for what, known in (("gate", Gate), ("update", Update), ("mlp", Mlp)):
            one_of(what, getattr(self, what), get_args(known))
        one_of("position", self.position, get_args(Distance))
        if not isinstance(self.normalize_keys, bool):
            raise ValueError(f"normalize_keys must be True or False, not {self.normalize_keys!r}")


class LayerConfig(Protocol):
    """The options of a layer of any kind: a frozen dataclass."""

    @property
    def eps(self) -> float:
        """ε of every norm in the layer."""


@dataclass(frozen=True)
class LMConfig:
    """A language model (GSS-LM-1..3): embedding, `depth` layers, optional final norm, head.

    layer  the options of every layer, or a tuple of them: a pattern that repeats until `depth`
           layers are there.  ε of the final norm is that of the last layer.
    """

    layer: LayerConfig | tuple[LayerConfig, ...]
    depth: int
    final_norm: bool = True
    tied: bool = False  # the head is the transposed embedding

    def __post_init__(self) -> None:
        plain(self)
        if self.depth < 1:
            raise ValueError(f"a language model has at least one layer, not {self.depth}")
        if isinstance(self.layer, tuple):
            if not self.layer:
                raise ValueError("a pattern of layers has at least one of them")
            pattern = shortest(self.layers)  # one model has one description
            object.__setattr__(self, "layer", pattern[0] if len(pattern) == 1 else pattern)

    @property
    def layers(self) -> tuple[LayerConfig, ...]:
        """The options of each layer in order."""
        pattern = self.layer if isinstance(self.layer, tuple) else (self.layer,)
        return tuple(pattern[i % len(pattern)] for i in range(self.depth))

    @property
    def eps(self) -> float:
        """ε of the final norm."""
        return self.layers[-1].eps


def shortest(layers: tuple[LayerConfig, ...]) -> tuple[LayerConfig, ...]:
    """The shortest pattern that these layers repeat."""
    lengths = range(1, len(layers) + 1)
    return next(layers[:n] for n in lengths if layers[n:] == layers[: len(layers) - n])


def to_json(options: Any) -> dict[str, Any]:
    """A dataclass of options as files and messages have it.

    `reciprocal` is written only where it is not the one meant where none is written: whoever
    knows no other still reads all else.
    """
    meant = {None, *(known[0] for known in RECIPROCALS.values())}
    return asdict(
        options,
        dict_factory=lambda named: {
            name: value for name, value in named if not (name == "reciprocal" and value in meant)
        },
    )
