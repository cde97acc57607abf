"""What all chapters draw from: a case, seeded random tensors, hard modes, forms and steps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refgss import config as cfg
from refgss.ops import to_real

F = np.float32


@dataclass(frozen=True)
class Case:
    """An op on tensors (real layout) and options, and how its answer is to be certified.

    positions  certify only these positions of the length axis.
    outputs    ask for these outputs only; () means all.
    sampled    certify samples of each output, drawn by the id, with errors that are only bounded.
    nan        the element of the op's signal (u or x), or of `nan_in`, that becomes NaN.
    """

    id: str
    op: str
    clauses: tuple[str, ...]
    tensors: Mapping[str, np.ndarray]
    options: dict[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    note: str = ""
    layer_profile: str | None = None
    error: bool = False
    positions: tuple[int, ...] = ()
    outputs: tuple[str, ...] = ()
    nan: tuple[int, ...] = ()
    nan_in: str = ""
    sampled: bool = False


class Draw:
    """Standard normal float32 tensors, seeded by a name."""

    def __init__(self, name: str):
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * self.rng.standard_normal(shape)).astype(F)

    def modes(self, n: int) -> np.ndarray:
        """Λ (n,2) of a randomly initialised GSS."""
        a, b = self.rng.standard_normal((2, n))
        return np.stack([-np.exp(a), np.exp(b)], -1).astype(F)

    def tokens(self, v: int, *shape: int) -> np.ndarray:
        return self.rng.integers(0, v, shape, dtype=np.int32)


def lam_of(*values: complex) -> np.ndarray:
    return to_real(np.array(values, complex)).astype(F)


# Λ with Δ = 1 that random draws do not reach
HARD_MODES = {
    "slow": (lam_of(-1e-4 + 1.23j, -1e-4 + 20.1j, -1e-6 + 97.4j), "|Ā| just below 1"),
    "undamped": (lam_of(1j, 3.5j, 97.4j), "|Ā| = 1: what wraps round does not decay"),
    "near-zero": (lam_of(-1e-8 + 0j, -1e-6 + 1e-7j, -1e-4 - 1e-4j), "(e^Λ - 1)/Λ cancels"),
    "fast": (lam_of(-120 + 1j, -300 + 40j, -20 + 3j), "Ā underflows in binary32"),
    "high-frequency": (lam_of(-0.01 + 1000j, -0.02 - 512j, -0.005 + 97.4j), "Im Λ ≫ π"),
    "real": (lam_of(-0.5, -1, -2), "no oscillation"),
}

FORMS: dict[str, tuple[cfg.KernelForm, str]] = {
    "zoh": (cfg.GSS, "GSS-DIS-2"),
    "zoh-pairs": (cfg.S4D_ZOH, "GSS-DIS-2"),
    "bilinear": (cfg.KernelForm("bilinear"), "GSS-DIS-3"),
    "bilinear-pairs": (cfg.S4D_BILINEAR, "GSS-DIS-3"),
    "dss-exp": (cfg.DSS_EXP, "GSS-DIS-4"),
    "dss-softmax": (cfg.dss_softmax(33), "GSS-DIS-5"),
}


def steps(draw: Draw, kind: str, h: int) -> np.ndarray:
    """Δ: "one" (1), "scalar", "channel" (h,) or "separate" (h,2)."""
    if kind == "one":
        return np.array(1, F)
    shape = {"scalar": (), "channel": (h,), "separate": (h, 2)}[kind]
    return np.exp(draw(*shape, scale=0.5).astype(float) - 1).astype(F)


def step_kinds(form: cfg.KernelForm) -> tuple[str, ...]:
    dss = form.method.startswith("dss")
    return ("one", "scalar", "channel", "separate") if dss else ("one", "scalar", "channel")


def with_cotangents(draw: Draw, tensors: dict[str, np.ndarray], cotangents: dict[str, Any]) -> Any:
    """The tensors of `<op>_vjp`: those of the op and a random cotangent of each output's shape."""
    return tensors | {k: draw(*shape) for k, shape in cotangents.items()}
