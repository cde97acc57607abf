"""The options of every op, as frozen dataclasses: nothing that changes a number is hidden.

`KernelForm` says how Λ, C and Δ become a kernel, `GSSConfig` and `DSSConfig` say what a layer does,
`LMConfig` says how layers become a language model.  All are hashable and JSON-able
(`dataclasses.asdict`), so that they serve as static arguments under `jit` and travel in messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Method = Literal["zoh", "bilinear", "dss-exp", "dss-softmax"]
Imag = Literal["exp", "identity"]


@dataclass(frozen=True)
class KernelForm:
    """How (Λ, Δ) become Ā and B̄ (GSS-DIS-1..6) and how modes are counted (GSS-KER-2).

    method  "zoh", "bilinear", "dss-exp" or "dss-softmax".
    pairs   True where only one of each conjugate pair is stored: the real part is doubled.
    eps     "dss-exp" only: the floor of |Λ|² in the reciprocal.
    length  "dss-softmax" only: the length over which the softmax is normalised.
    """

    method: Method
    pairs: bool = False
    eps: float | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        if self.method not in ("zoh", "bilinear", "dss-exp", "dss-softmax"):
            raise ValueError(
                f"unknown method {self.method!r}: use zoh, bilinear, dss-exp or dss-softmax"
            )
        if (self.eps is not None) != (self.method == "dss-exp"):
            raise ValueError(f"method {self.method!r}: eps belongs to dss-exp, and only to it")
        if (self.length is not None) != (self.method == "dss-softmax"):
            raise ValueError(
                f"method {self.method!r}: length belongs to dss-softmax, and only to it"
            )
        if self.eps is not None and not self.eps > 0:
            raise ValueError(f"eps must be positive, not {self.eps}")
        if self.length is not None and self.length < 1:
            raise ValueError(f"the softmax length must be at least 1, not {self.length}")

    @property
    def floor(self) -> float:
        """ε of dss-exp."""
        assert self.eps is not None
        return self.eps

    @property
    def span(self) -> int:
        """The declared length of dss-softmax."""
        assert self.length is not None
        return self.length


GSS = KernelForm("zoh")  # with Δ = 1: the simplified DSS of arXiv 2206.13947
DSS_EXP = KernelForm("dss-exp", eps=1e-7)  # arXiv 2203.14343, Proposition 1(a)
S4D_ZOH = KernelForm("zoh", pairs=True)  # arXiv 2206.11893
S4D_BILINEAR = KernelForm("bilinear", pairs=True)


def dss_softmax(length: int) -> KernelForm:
    """DSS-softmax (arXiv 2203.14343, Proposition 1(b)), normalised over `length` positions."""
    return KernelForm("dss-softmax", length=length)


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


PAPER = GSSConfig()  # figure 1(b) of arXiv 2206.13947
GSS_PYTORCH = GSSConfig(ssm_norm=True, out_bias=True)  # gated-state-spaces-pytorch 0.1.0


@dataclass(frozen=True)
class DSSConfig:
    """A DSS layer over the full width E (GSS-LAY-6), the paper's baseline."""

    imag: Imag = "identity"
    form: KernelForm = DSS_EXP
    out_bias: bool = True
    eps: float = 1e-5


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
