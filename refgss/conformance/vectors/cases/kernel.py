"""Chapter 3: the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refgss import config as cfg
from refgss.conformance.vectors.cases.common import (
    FORMS,
    HARD_MODES,
    Case,
    Draw,
    F,
    lam_of,
    step_kinds,
    steps,
    with_cotangents,
)
from refgss.ops import encode_option

KERNEL_CLAUSES = {
    "slow": ("GSS-ACC-2",),
    "high-frequency": ("GSS-ACC-2",),
    "fast": ("GSS-KER-3",),
    "undamped": ("GSS-DIS-7",),
}


def kernels() -> Iterator[Case]:
    for name, (form, clause) in FORMS.items():
        clauses = ("GSS-KER-1", clause) + (("GSS-KER-2",) if form.pairs else ())
        o = {"form": encode_option(form)}
        modes = {"random": (Draw(f"kernel/{name}").modes(6), "")} | HARD_MODES
        for label, (lam, note) in modes.items():
            kinds = step_kinds(form) if label == "random" else ("one",)
            for kind in kinds:
                suffix = f"{name}-{label}-{kind}"
                draw = Draw(f"ssm_kernel/{suffix}")
                tensors = {"lam": lam, "c": draw(3, len(lam), 2), "delta": steps(draw, kind, 3)}
                ids = clauses + KERNEL_CLAUSES.get(label, ())
                oo = o | {"length": 33}
                yield Case(f"ssm_kernel/{suffix}", "ssm_kernel", ids, tensors, oo, (label,), note)
                grad = with_cotangents(draw, tensors, {"dk": (3, 33)})
                ids = ("GSS-GRD-1", "GSS-GRD-4")
                yield Case(
                    f"ssm_kernel_vjp/{suffix}", "ssm_kernel_vjp", ids, grad, oo, (label,), note
                )
    gss = {"form": encode_option(cfg.GSS)}
    draw = Draw("ssm_kernel/sizes")
    for h, n, length in ((1, 1, 1), (1, 1, 9), (2, 16, 64), (5, 3, 0), (3, 0, 7), (0, 3, 7)):
        tensors = {"lam": draw.modes(n), "c": draw(h, n, 2), "delta": np.array(1, F)}
        yield Case(
            f"ssm_kernel/size-{h}-{n}-{length}",
            "ssm_kernel",
            ("GSS-KER-1", "GSS-NFI-14", "GSS-ARR-2"),
            tensors,
            gss | {"length": length},
        )
    long = tuple(sorted({0, 1, 63, 64, 65, 4095, 4096, 32767, 32768, 65534, 65535}))
    for name in ("zoh", "bilinear", "dss-exp"):
        for label in ("slow", "undamped", "high-frequency"):
            lam, note = HARD_MODES[label]
            draw = Draw(f"ssm_kernel/long-{name}-{label}")
            tensors = {"lam": lam, "c": draw(1, len(lam), 2), "delta": np.array(1, F)}
            yield Case(
                f"ssm_kernel/long-{name}-{label}",
                "ssm_kernel",
                ("GSS-KER-1", "GSS-ACC-2"),
                tensors,
                {"form": encode_option(FORMS[name][0]), "length": 65536},
                (label, "long"),
                note,
                positions=long,
            )
    yield from softmax_kernels()


def softmax_kernels() -> Iterator[Case]:
    """dss-softmax where Re Λ > 0, and a prefix of the length that it declares; gradients too."""
    o = {"form": encode_option(cfg.dss_softmax(33))}
    draw = Draw("ssm_kernel/dss-softmax-growing")
    c = draw(2, 3, 2)
    for label, lam, note in (
        ("growing", (0.5 + 2j, 12 - 1j, -0.3 + 1j), "the largest term must be factored out"),
        ("huge", (40 + 1j, 0.5 - 2j, -0.3 + 1j), "Σ e^{zr} overflows binary64 too"),
    ):
        tensors = {"lam": lam_of(*lam), "c": c, "delta": np.array(1, F)}
        yield from with_gradient(
            label, "GSS-KER-5", tensors, o | {"length": 33}, f"Re Λ > 0: {note}"
        )
    tensors = {"lam": draw.modes(4), "c": draw(2, 4, 2), "delta": np.array(1, F)}
    note = "a prefix of the kernel declared for a longer sequence"
    yield from with_gradient("prefix", "GSS-KER-4", tensors, o | {"length": 16}, note)


def with_gradient(
    label: str,
    clause: str,
    tensors: dict[str, np.ndarray],
    o: dict[str, Any],
    note: str,
) -> Iterator[Case]:
    """A kernel by dss-softmax, and its gradient."""
    id = f"dss-softmax-{label}"
    yield Case(f"ssm_kernel/{id}", "ssm_kernel", (clause,), tensors, o, (), note)
    shape = (len(tensors["c"]), o["length"])
    grad = with_cotangents(Draw(f"ssm_kernel_vjp/{id}"), tensors, {"dk": shape})
    ids = ("GSS-GRD-1", "GSS-GRD-4", clause)
    yield Case(f"ssm_kernel_vjp/{id}", "ssm_kernel_vjp", ids, grad, o, (), note)
