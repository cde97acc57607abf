"""Chapter 2: parameters and discretisation."""

from __future__ import annotations

from collections.abc import Iterator

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


def parameters() -> Iterator[Case]:
    inits = {"lin": 1, "inv": 2, "real": 3, "legs": 4}
    for init, i in inits.items():
        for n in (1, 4, 9):
            clauses = (f"GSS-INI-{i}",)
            yield Case(f"s4d_lambda/{init}-{n}", "s4d_lambda", clauses, {}, {"n": n, "init": init})
    for imag, clause in (("exp", "GSS-PAR-1"), ("identity", "GSS-PAR-2")):
        draw = Draw(f"gss_lambda/{imag}")
        a, b = draw(7), draw(7)
        a[:2], b[:2] = (-12, 3), (4.5, -9)  # slow and fast; high and low frequency
        tensors, o = {"a": a, "b": b}, {"imag": imag}
        yield Case(f"gss_lambda/{imag}", "gss_lambda", (clause,), tensors, o)
        grad = ("GSS-GRD-1", "GSS-GRD-2")
        yield Case(
            f"gss_lambda_vjp/{imag}", "gss_lambda_vjp", grad, tensors | {"dlam": draw(7, 2)}, o
        )


def discretization() -> Iterator[Case]:
    for name, (form, clause) in FORMS.items():
        if form.pairs:
            continue  # pairs concern the kernel only
        o = {"form": encode_option(form)}
        modes = {"random": (Draw(f"discretize/{name}").modes(5), "")} | HARD_MODES
        for label, (lam, note) in modes.items():
            for kind in step_kinds(form) if label == "random" else ("one", "channel"):
                suffix = f"{name}-{label}-{kind}"
                draw = Draw(f"discretize/{suffix}")
                delta, n = steps(draw, kind, 3), len(lam)
                tensors = {"lam": lam, "delta": delta}
                clauses = ("GSS-DIS-1", clause)
                yield Case(
                    f"discretize/{suffix}", "discretize", clauses, tensors, o, (label,), note
                )
                shape = (*delta.shape[:1], n, 2)
                grad = with_cotangents(draw, tensors, {"dabar": shape, "dbbar": shape})
                ids = ("GSS-GRD-1", "GSS-GRD-3") + (("GSS-GRD-14",) if kind == "separate" else ())
                yield Case(
                    f"discretize_vjp/{suffix}", "discretize_vjp", ids, grad, o, (label,), note
                )
    one = {"delta": np.array(1, F)}
    zero = {"lam": lam_of(0), **one}
    for name in ("zoh", "bilinear", "dss-exp"):
        form, clause = FORMS[name]
        o = {"form": encode_option(form)}
        ids = (clause, "GSS-DIS-7", "GSS-ACC-3")
        yield Case(f"discretize/{name}-at-zero", "discretize", ids, zero, o, ("near-zero",))
    clamped = {"lam": lam_of(-1e-4 + 1e-4j, -1e-5, 2e-4j), **one}
    o = {"form": encode_option(cfg.DSS_EXP)}
    note = "|Λ|² < ε"
    yield Case("discretize/dss-exp-clamped", "discretize", ("GSS-DIS-4",), clamped, o, (), note)
    grad = with_cotangents(Draw("clamped"), clamped, {"dabar": (3, 2), "dbbar": (3, 2)})
    ids = ("GSS-GRD-13",)
    yield Case("discretize_vjp/dss-exp-clamped", "discretize_vjp", ids, grad, o, (), note)
    at_floor = {"lam": lam_of(-(2**-12), 2**-12 * 1j, -(2**-11), -(2**-13)), **one}
    o = {"form": encode_option(cfg.KernelForm("dss-exp", eps=2.0**-24))}
    note = "|Λ|² = ε, exactly, beside 4ε and ε/4"
    yield Case("discretize/dss-exp-at-floor", "discretize", ("GSS-DIS-4",), at_floor, o, (), note)
    grad = with_cotangents(Draw("at-floor"), at_floor, {"dabar": (4, 2), "dbbar": (4, 2)})
    yield Case("discretize_vjp/dss-exp-at-floor", "discretize_vjp", ids, grad, o, (), note)
    pole = {"lam": lam_of(-2, -2 + 1e-3j), **one}
    o = {"form": encode_option(FORMS["bilinear"][0])}
    note = "Ā = 0: log Ā does not exist"
    yield Case("discretize/bilinear-abar-zero", "discretize", ("GSS-DIS-3",), pole, o, (), note)
