"""Chapter 4: causal convolution."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refgss.conformance.vectors.cases.common import (
    Case,
    Draw,
    F,
    with_cotangents,
)


def convolutions() -> Iterator[Case]:
    sizes = {
        "even": (2, 32, 32, 3),
        "odd": (2, 33, 33, 3),
        "prime": (1, 97, 97, 2),
        "short-kernel": (2, 40, 7, 3),
        "long-kernel": (1, 9, 23, 2),
        "one": (1, 1, 1, 1),
        "one-channel": (3, 17, 17, 1),
        "many-channels": (1, 12, 12, 19),
        "no-batch": (0, 5, 5, 2),
        "no-length": (2, 0, 4, 2),
        "no-taps": (2, 5, 0, 2),
    }
    for label, (b, length, taps, h) in sizes.items():
        draw = Draw(f"causal_conv/{label}")
        tensors = {"u": draw(b, length, h), "k": draw(h, taps)}
        empty = label.startswith("no-")
        clauses = ("GSS-CNV-1", "GSS-NFI-14") if empty else ("GSS-CNV-1", "GSS-CNV-3", "GSS-ARR-2")
        yield Case(f"causal_conv/{label}", "causal_conv", clauses, tensors)
        grad = with_cotangents(draw, tensors, {"dy": (b, length, h)})
        yield Case(f"causal_conv_vjp/{label}", "causal_conv_vjp", ("GSS-GRD-5",), grad)
    draw = Draw("causal_conv/undamped")
    u, ramp = draw(1, 64, 2), np.ones((2, 64), F)
    ramp[1] = np.cos(np.arange(64)).astype(F)
    note = "a kernel that does not decay shows any wrap-round"
    tensors = {"u": u, "k": ramp}
    yield Case(
        "causal_conv/undamped", "causal_conv", ("GSS-CNV-2",), tensors, {}, ("undamped",), note
    )
    impulse = np.zeros((1, 16, 2), F)
    impulse[0, 0] = 1
    tensors = {"u": impulse, "k": draw(2, 16)}
    note = "an impulse gives the kernel, neither reversed nor rolled"
    yield Case("causal_conv/impulse", "causal_conv", ("GSS-CNV-1",), tensors, {}, (), note)
    spike = draw(2, 64, 2)
    spike[0, 40, 0] = 1e6
    tensors = {"u": spike, "k": draw(2, 64)}
    note = "a spike leaks through an FFT backwards in its row, and into no other row"
    yield Case(
        "causal_conv/spike", "causal_conv", ("GSS-CNV-4", "GSS-ACC-5"), tensors, {}, (), note
    )
    draw = Draw("causal_conv/long")
    k = np.exp(-np.arange(8192) / 5e3)[None].astype(F)
    positions = (0, 1, 4095, 4096, 8190, 8191)
    tensors = {"u": draw(1, 8192, 1), "k": k}
    yield Case(
        "causal_conv/long",
        "causal_conv",
        ("GSS-CNV-2",),
        tensors,
        {},
        ("slow", "long"),
        positions=positions,
    )
    tensors = {"u": draw(2, 12, 3), "k": draw(3, 5)}
    note = "NaN at b=1, t=4, h=2 stays in its row, and reaches 5 outputs"
    ids = ("GSS-NFI-6", "GSS-NFI-7", "GSS-CNV-4")
    yield Case("causal_conv/nan", "causal_conv", ids, tensors, {}, ("nan",), note, nan=(1, 4, 2))
