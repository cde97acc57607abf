"""Chapter 5: the recurrence, by scan and by step."""

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
    step_kinds,
    steps,
    with_cotangents,
)
from refgss.ops import encode_option


def recurrences() -> Iterator[Case]:
    for name, (form, _) in FORMS.items():
        o = {"form": encode_option(form)}
        modes = {"random": (Draw(f"scan/{name}").modes(4), "")} | HARD_MODES
        for label, (lam, note) in modes.items():
            for kind in step_kinds(form) if label == "random" else ("one",):
                suffix = f"{name}-{label}-{kind}"
                draw = Draw(f"ssm_scan/{suffix}")
                b, length, h, n = 2, 11, 3, len(lam)
                modes_ = {"lam": lam, "c": draw(h, n, 2), "delta": steps(draw, kind, h)}
                modes_ |= {"state": draw(b, h, n, 2)}
                scan, step = modes_ | {"u": draw(b, length, h)}, modes_ | {"u": draw(b, h)}
                scanned = ("GSS-REC-4", "GSS-STA-1", "GSS-ACC-4")
                stepped = ("GSS-REC-1", "GSS-REC-2", "GSS-STA-1")
                args: Any = (o, (label,), note)
                yield Case(f"ssm_scan/{suffix}", "ssm_scan", scanned, scan, *args)
                yield Case(f"ssm_step/{suffix}", "ssm_step", stepped, step, *args)
                shapes = {"dy": (b, length, h), "dstate": (b, h, n, 2)}
                ids = ("GSS-GRD-1", "GSS-GRD-6")
                grad = with_cotangents(draw, scan, shapes)
                yield Case(f"ssm_scan_vjp/{suffix}", "ssm_scan_vjp", ids, grad, *args)
                grad = with_cotangents(draw, step, shapes | {"dy": (b, h)})
                yield Case(f"ssm_step_vjp/{suffix}", "ssm_step_vjp", ids, grad, *args)
    gss = {"form": encode_option(cfg.GSS)}
    draw = Draw("ssm_scan/chunks")
    modes_ = {"lam": draw.modes(4), "c": draw(2, 4, 2), "delta": np.array(1, F)}
    whole = modes_ | {"u": draw(2, 6, 2), "state": draw(2, 2, 4, 2)}
    fresh = {k: v for k, v in whole.items() if k != "state"}
    note = "no state means zeros"
    yield Case("ssm_scan/fresh", "ssm_scan", ("GSS-STA-2",), fresh, gss, (), note)
    one = fresh | {"u": draw(2, 2)}
    yield Case("ssm_step/fresh", "ssm_step", ("GSS-STA-2",), one, gss, (), note)
    chunks = (gss, ("chunks",), "the sequence cut here, the candidate's own state handed over")
    for m in range(7):
        args = (chunks[0] | {"splits": [m]}, *chunks[1:])
        split = ("GSS-REC-3",) + (("GSS-STA-2",) if m in (0, 6) else ())
        yield Case(f"ssm_scan/split-{m}", "ssm_scan", split, whole, *args)
    o = gss | {"splits": [0, 1, 1, 2, 5]}
    yield Case("ssm_scan/splits", "ssm_scan", ("GSS-REC-3", "GSS-STA-2"), whole, o, *chunks[1:])
    o = gss | {"splits": [1, 2, 3, 4, 5]}
    ids = ("GSS-REC-1", "GSS-REC-2")
    yield Case("ssm_step/steps", "ssm_step", ids, whole, o, ("chunks",), "token by token")
    empty = modes_ | {"u": draw(2, 0, 2), "state": draw(2, 2, 4, 2)}
    ids = ("GSS-STA-2", "GSS-NFI-14")
    note = "no token: the state is returned unchanged"
    yield Case("ssm_scan/no-length", "ssm_scan", ids, empty, gss, (), note)
    none = modes_ | {"u": draw(0, 5, 2), "state": draw(0, 2, 4, 2)}
    yield Case("ssm_scan/no-batch", "ssm_scan", ("GSS-NFI-14",), none, gss)
    stateless = {"lam": draw.modes(0), "c": draw(2, 0, 2), "delta": np.array(1, F)}
    stateless |= {"u": draw(1, 4, 2), "state": draw(1, 2, 0, 2)}
    yield Case("ssm_scan/no-states", "ssm_scan", ("GSS-NFI-14",), stateless, gss)
    lam, note = HARD_MODES["slow"]
    draw = Draw("ssm_scan/long")
    tensors = {"lam": lam, "c": draw(1, 3, 2), "delta": np.array(1, F), "u": draw(1, 160, 1)}
    tensors |= {"state": draw(1, 1, 3, 2)}
    ids = ("GSS-REC-4", "GSS-ACC-4")
    yield Case("ssm_scan/long", "ssm_scan", ids, tensors, gss, ("slow", "long"), note)
    nan, ids = whole | {"u": draw(2, 12, 2)}, ("GSS-NFI-9", "GSS-NFI-10")
    note = "NaN at b=1, t=4, h=1: earlier outputs and other rows are as without it"
    yield Case("ssm_scan/nan", "ssm_scan", ids, nan, gss, ("nan",), note, nan=(1, 4, 1))
    nan = whole | {"u": draw(2, 2)}
    yield Case("ssm_step/nan", "ssm_step", ("GSS-NFI-9",), nan, gss, ("nan",), "", nan=(1, 0))
