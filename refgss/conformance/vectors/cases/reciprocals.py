"""Chapters 2 and 3: the shifted reciprocals of the DSS methods, where ε is felt or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refgss import config as cfg
from refgss.conformance.vectors.cases.common import (
    HARD_MODES,
    Case,
    Draw,
    F,
    lam_of,
    with_cotangents,
)
from refgss.ops import encode_option

CLAUSES = {5: "GSS-DIS-9", 6: "GSS-DIS-10", 7: "GSS-DIS-11"}  # by the number of the form
SMALL_STEP = np.array(1e-3, F)
ONE = np.array(1, F)
TWO_STEPS = np.array([[0.25, 0.5], [1.5, 0.75]], F)
LIN = lam_of(-0.5, -0.5 + np.pi * 1j, -0.5 + 2 * np.pi * 1j)


def of_form(
    form: cfg.KernelForm, label: str, lam: Any, delta: Any, length: int, note: str
) -> Iterator[Case]:
    """Kernel, discretisation and their gradients; a growing mode has a kernel only."""
    clause, suffix = CLAUSES[form.number], f"{form.method}-{form.reciprocal}-{label}"
    draw, h, n = Draw(f"reciprocal/{suffix}"), 2, len(lam)
    o = {"form": encode_option(form)}
    tensors = {"lam": lam, "c": draw(h, n, 2), "delta": delta}
    growing = ("GSS-KER-5",) if np.any(lam[:, 0] > 0) else ()
    separate = ("GSS-GRD-14",) if delta.ndim == 2 else ()
    rest: Any = ((label,), note)
    id, oo = f"ssm_kernel/{suffix}", o | {"length": length}
    yield Case(id, "ssm_kernel", ("GSS-KER-1", clause, *growing), tensors, oo, *rest)
    ids = ("GSS-GRD-1", "GSS-GRD-4", "GSS-GRD-15", *separate)
    grad = with_cotangents(draw, tensors, {"dk": (h, length)})
    yield Case(f"ssm_kernel_vjp/{suffix}", "ssm_kernel_vjp", ids, grad, oo, *rest)
    if growing:
        return
    tensors = {"lam": lam, "delta": delta}
    yield Case(f"discretize/{suffix}", "discretize", ("GSS-DIS-1", clause), tensors, o, *rest)
    shape = (*delta.shape[:1], n, 2)
    grad = with_cotangents(draw, tensors, {"dabar": shape, "dbbar": shape})
    ids = ("GSS-GRD-1", "GSS-GRD-3", "GSS-GRD-15", *separate)
    yield Case(f"discretize_vjp/{suffix}", "discretize_vjp", ids, grad, o, *rest)


def reciprocals() -> Iterator[Case]:
    form = cfg.DSS_EXP_SHIFTED
    small = lam_of(-1e-4 + 1e-4j, -1e-5, 2e-4j, -3e-4 + 3e-4j)
    for label, lam, delta, note in (
        ("random", Draw("reciprocal/random").modes(4), ONE, ""),
        ("small", small, ONE, "|Λ|² beside ε"),
        ("near-zero", HARD_MODES["near-zero"][0], ONE, HARD_MODES["near-zero"][1]),
        ("zero", lam_of(0, -1), ONE, "r(0) = 0, and its gradient is all in the conjugate"),
        ("lin", LIN, SMALL_STEP, "the modes and step of an initialised layer"),
        ("separate", LIN, TWO_STEPS, ""),
    ):
        yield from of_form(form, label, lam, delta, 9, note)
    for of_length in (cfg.dss_softmax_shifted, cfg.dss_softmax_shifted_sum):
        for length in (1, 2, 9, 129):
            note = "few steps: z·R is small" if length < 129 else "ε is below rounding"
            yield from of_form(of_length(length), f"lin-{length}", LIN, SMALL_STEP, length, note)
        form = of_length(9)
        near = HARD_MODES["near-zero"]
        yield from of_form(form, "near-zero", near[0], ONE, 9, near[1])
        turn = lam_of(2j * np.pi / 9, -4j * np.pi / 9, -1e-3 + 2j * np.pi / 9)
        yield from of_form(form, "vanishing", turn, ONE, 9, "the sum nearly vanishes: ε decides")
        yield from of_form(form, "separate", LIN, TWO_STEPS, 5, "a prefix of the kernel")
        fast = HARD_MODES["fast"]
        yield from of_form(form, "fast", fast[0], ONE, 9, fast[1])
        growing = lam_of(0.5 + 2j, 12 - 1j, -0.3 + 1j)
        note = "Re Λ > 0: the largest term must be factored out"
        yield from of_form(form, "growing", growing, ONE, 9, note)
        huge = lam_of(40 + 1j, 1e-4 - 1e-4j, 1e-3)
        note = "Re Λ > 0: Σ e^{zr} overflows binary64, or ε is felt"
        yield from of_form(of_length(33), "huge", huge, ONE, 7, note)
