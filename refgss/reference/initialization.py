"""Chapter 2, initialisation: where Λ starts.  All return Λ (N,) complex, Re Λ < 0."""

from __future__ import annotations

from typing import Literal

import numpy as np

from refgss.reference.elementary import Array, to_complex

Init = Literal["lin", "inv", "real", "legs"]


def s4d_lambda(n: int, *, init: Init) -> Array:
    """Λ (n,) complex128 for n stored modes, one of each conjugate pair.

    Clauses: GSS-INI-1..4, GSS-NFI-17.

    Raises ValueError for an unknown init or n < 1.
    """
    if n < 1:
        raise ValueError(f"s4d_lambda: n must be at least 1, not {n}")
    k = np.arange(n)
    if init == "lin":
        return to_complex(np.full(n, -0.5), np.pi * k)
    if init == "inv":  # (2n/π)(2n/(2k+1) - 1): N = 2n states in all
        return to_complex(np.full(n, -0.5), 2 * n / np.pi * (2 * n / (2 * k + 1) - 1))
    if init == "real":
        return to_complex(-(k + 1.0), np.zeros(n))
    if init == "legs":
        return to_complex(np.full(n, -0.5), np.linalg.eigvalsh(1j * hippo_skew(2 * n))[n:][::-1])
    raise ValueError(f"s4d_lambda: unknown init {init!r}: use lin, inv, real or legs")


def hippo_skew(n: int) -> Array:
    """The skew part of HiPPO-LegS (n,n): ∓√((2i+1)(2j+1))/2 below and above the diagonal."""
    r = np.sqrt(2 * np.arange(n) + 1.0)
    return np.triu(np.outer(r, r), 1) / 2 - np.tril(np.outer(r, r), -1) / 2


def gss_parameters(n: int, h: int, rng: np.random.Generator) -> dict[str, Array]:
    """a, b ~ N(0,1) (n,); Re C, Im C ~ N(0,1) (h,n); D ~ N(0,1) (h,).  Clauses: GSS-INI-5."""
    a, b, d = rng.standard_normal(n), rng.standard_normal(n), rng.standard_normal(h)
    c = to_complex(rng.standard_normal((h, n)), rng.standard_normal((h, n)))
    return {"ssm.a": a, "ssm.b": b, "ssm.c": c, "ssm.d": d}


def dss_parameters(n: int, h: int, rng: np.random.Generator) -> dict[str, Array]:
    """Λ from LegS, C as GSS, log Δ ~ U(log 1e-3, log 1e-1) (h,2).  Clauses: GSS-INI-6."""
    lam = s4d_lambda(n, init="legs")
    c = to_complex(rng.standard_normal((h, n)), rng.standard_normal((h, n)))
    log_delta = rng.uniform(np.log(1e-3), np.log(1e-1), (h, 2))
    return {
        "ssm.a": np.log(-lam.real),
        "ssm.b": lam.imag,
        "ssm.c": c,
        "ssm.d": rng.standard_normal(h),
        "ssm.log_delta": log_delta,
    }
