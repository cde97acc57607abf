"""The cases of spec/vectors: what is asked, clause by clause, before anything is certified.

A case is a vector without its expected values.  Inputs are float32 numbers, exactly, so that one
vector serves every precision; random ones are drawn from a generator seeded by the case's id, so
that adding a case changes no other.  Hard cases that random data never reaches are spelled out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refgss import config as cfg
from refgss.checks import layer_shapes
from refgss.ops import encode_option, to_real

F = np.float32


@dataclass(frozen=True)
class Case:
    """An op on tensors (real layout) and options, and how its answer is to be certified.

    positions  certify only these positions of the length axis.
    outputs    ask for these outputs only; () means all.
    nan        the element of the op's signal (u or x) that becomes NaN.
    """

    id: str
    op: str
    clauses: tuple[str, ...]
    tensors: dict[str, np.ndarray]
    options: dict[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    note: str = ""
    layer_profile: str | None = None
    error: bool = False
    positions: tuple[int, ...] = ()
    outputs: tuple[str, ...] = ()
    nan: tuple[int, ...] = ()


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


# --- chapter 2 ---------------------------------------------------------------------------------


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
    pole = {"lam": lam_of(-2, -2 + 1e-3j), **one}
    o = {"form": encode_option(FORMS["bilinear"][0])}
    note = "Ā = 0: log Ā does not exist"
    yield Case("discretize/bilinear-abar-zero", "discretize", ("GSS-DIS-3",), pole, o, (), note)


# --- chapter 3 ---------------------------------------------------------------------------------


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
    o = {"form": encode_option(cfg.dss_softmax(33)), "length": 33}
    draw = Draw("ssm_kernel/dss-softmax-growing")
    growing = lam_of(0.5 + 2j, 12 - 1j, -0.3 + 1j)
    tensors = {"lam": growing, "c": draw(2, 3, 2), "delta": np.array(1, F)}
    note = "Re Λ > 0: the largest term must be factored out"
    yield Case("ssm_kernel/dss-softmax-growing", "ssm_kernel", ("GSS-KER-5",), tensors, o, (), note)
    tensors = tensors | {"lam": lam_of(40 + 1j, 0.5 - 2j, -0.3 + 1j)}
    note = "Re Λ > 0: Σ e^{zr} overflows binary64 too"
    yield Case("ssm_kernel/dss-softmax-huge", "ssm_kernel", ("GSS-KER-5",), tensors, o, (), note)
    tensors = {"lam": draw.modes(4), "c": draw(2, 4, 2), "delta": np.array(1, F)}
    note = "a prefix of the kernel declared for a longer sequence"
    o = o | {"length": 16}
    yield Case("ssm_kernel/dss-softmax-prefix", "ssm_kernel", ("GSS-KER-4",), tensors, o, (), note)


# --- chapter 4 ---------------------------------------------------------------------------------


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


# --- chapter 5 ---------------------------------------------------------------------------------


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


# --- chapter 6 ---------------------------------------------------------------------------------


def pointwise() -> Iterator[Case]:
    draw = Draw("layer_norm")
    x = {
        "random": (draw(2, 5, 8), 1e-5, ("GSS-NRM-1",), ""),
        "large-mean": (draw(4, 16) + F(1000), 1e-5, ("GSS-NRM-2",), "E[x²] - E[x]² cancels"),
        "small": (draw(4, 16, scale=3e-3), 1e-5, ("GSS-NRM-1",), "var ≈ ε: shows the wrong ε"),
        "constant": (np.full((2, 8), 3, F), 1e-5, ("GSS-NRM-1",), "var = 0"),
        "eps-1e-6": (draw(4, 16, scale=3e-3), 1e-6, ("GSS-NRM-1",), "ε is an argument"),
        "one": (draw(3, 1), 1e-5, ("GSS-NRM-1",), "E = 1"),
        "no-rows": (draw(0, 4), 1e-5, ("GSS-NFI-14",), ""),
    }
    for label, (v, eps, clauses, note) in x.items():
        tensors = {"x": v, "weight": draw(v.shape[-1]), "bias": draw(v.shape[-1])}
        o = {"eps": eps}
        yield Case(f"layer_norm/{label}", "layer_norm", clauses, tensors, o, (), note)
        grad = tensors | {"dy": draw(*v.shape)}
        yield Case(f"layer_norm_vjp/{label}", "layer_norm_vjp", ("GSS-GRD-7",), grad, o, (), note)
    draw = Draw("gelu")
    special = np.array([0, -0.0, 1e-30, 12, -12, 30, -30, 100, -100, 1e30, -1e30], F)
    x_gelu = {
        "grid": (np.linspace(-6, 6, 49).astype(F), "where tanh and erf differ most: |x| ≈ 2"),
        "random": (draw(2, 9, 3), ""),
        "special": (special, "zero, tails and large numbers"),
    }
    for label, (v, note) in x_gelu.items():
        yield Case(f"gelu/{label}", "gelu", ("GSS-NRM-3",), {"x": v}, {}, (), note)
        grad = {"x": v, "dy": draw(*v.shape)}
        yield Case(f"gelu_vjp/{label}", "gelu_vjp", ("GSS-GRD-8",), grad, {}, (), note)
    draw = Draw("dense")
    for label, (shape, i, o_, bias) in {
        "rows": ((7,), 5, 3, True),
        "no-bias": ((2, 4), 6, 6, False),
        "deep": ((1,), 300, 2, True),
        "vector": ((), 4, 3, True),
        "no-rows": ((0,), 4, 3, True),
    }.items():
        tensors = {"x": draw(*shape, i), "weight": draw(i, o_)} | (
            {"bias": draw(o_)} if bias else {}
        )
        rows = ("GSS-NFI-14",) if label == "no-rows" else ()
        ids = ("GSS-NRM-4", "GSS-ARR-1", "GSS-ACC-1", *rows)
        yield Case(f"dense/{label}", "dense", ids, tensors)
        grad = tensors | {"dy": draw(*shape, o_)}
        yield Case(f"dense_vjp/{label}", "dense_vjp", ("GSS-GRD-9",), grad)
    draw = Draw("pointwise/nan")
    nan: tuple[tuple[str, ...], ...] = (("GSS-NFI-11",), ("nan",))
    tensors = {"x": draw(2, 3, 4), "weight": draw(4), "bias": draw(4)}
    o = {"eps": 1e-5}
    yield Case("layer_norm/nan", "layer_norm", nan[0], tensors, o, nan[1], nan=(1, 2, 0))
    tensors = {"x": draw(2, 3, 4), "weight": draw(4, 5)}
    yield Case("dense/nan", "dense", nan[0], tensors, {}, nan[1], nan=(0, 1, 3))
    yield Case("gelu/nan", "gelu", nan[0], {"x": draw(9)}, {}, nan[1], nan=(4,))


# --- chapters 7 and 8 --------------------------------------------------------------------------


def layer_params(draw: Draw, config: Any, e: int, f: int, h: int, n: int) -> dict[str, np.ndarray]:
    """Parameters of a layer as an initialised network has them: dense weights ~ 1/√fan-in."""
    separate = isinstance(config, cfg.DSSConfig) and config.form.method.startswith("dss")
    some = {"norm.weight": (e,), "ssm.c": (h, n), "w_v": (e, f)}
    some["ssm.log_delta"] = (e, 2) if separate else (e,)
    shapes = layer_shapes({k: np.empty(s) for k, s in some.items()}, config)
    params = {}
    for name, shape in shapes.items():
        if name == "ssm.c":
            value = draw(*shape, 2, scale=n**-0.5)
        elif name.startswith("w_"):
            value = draw(*shape, scale=shape[0] ** -0.5)
        elif name.endswith("norm.weight"):
            value = (1 + draw(*shape, scale=0.2)).astype(F)
        elif name == "ssm.log_delta":
            value = (draw(*shape, scale=0.5) - 1).astype(F)
        elif name in ("ssm.a", "ssm.b", "ssm.d"):
            value = draw(*shape)
        else:
            value = draw(*shape, scale=0.2)
        params[name] = value
    return params


def named(params: dict[str, np.ndarray], prefix: str = "") -> dict[str, np.ndarray]:
    return {f"params.{prefix}{k}": v for k, v in params.items()}


GSS_CLAUSES = ("GSS-LAY-1", "GSS-LAY-2", "GSS-LAY-3", "GSS-LAY-5", "GSS-ACC-6")
LAYERS: dict[str, tuple[Any, str | None, tuple[str, ...]]] = {
    "paper": (cfg.PAPER, "paper", (*GSS_CLAUSES, "GSS-LAY-7")),
    "gss-pytorch": (cfg.GSS_PYTORCH, "gss-pytorch", (*GSS_CLAUSES, "GSS-LAY-4", "GSS-LAY-8")),
    "identity": (cfg.GSSConfig(imag="identity"), None, (*GSS_CLAUSES, "GSS-PAR-2")),
    "dss-exp": (cfg.DSSConfig(), None, ("GSS-LAY-6",)),
    "dss-softmax": (cfg.DSSConfig(form=cfg.dss_softmax(12)), None, ("GSS-LAY-6", "GSS-DIS-5")),
    "dss-zoh": (cfg.DSSConfig(imag="exp", form=cfg.S4D_ZOH, out_bias=False), None, ("GSS-LAY-6",)),
}


def layers() -> Iterator[Case]:
    for name, (config, profile, clauses) in LAYERS.items():
        op = "gss_layer" if isinstance(config, cfg.GSSConfig) else "dss_layer"
        o = {"config": encode_option(config)}
        for label in ("random", "slow", "one-token", "one-state", "small"):
            draw = Draw(f"{op}/{name}-{label}")
            e, f, h, n = 6, 10, 6 if op == "dss_layer" else 4, 1 if label == "one-state" else 5
            b, length = 2, 1 if label == "one-token" else 12
            if label == "small":  # to be read, and redrawn during a check at little cost
                e, f, h, n, b, length = 3, 4, 3 if op == "dss_layer" else 2, 2, 1, 4
            params = layer_params(draw, config, e, f, h, n)
            if label == "slow":
                params["ssm.a"][: n // 2] = -9  # Re Λ ≈ -1e-4
            tensors = named(params) | {"x": draw(b, length, e)}
            state = draw(b, h, n, 2)
            ids = (*clauses, "GSS-STA-3")
            yield Case(
                f"{op}/{name}-{label}",
                op,
                ids,
                tensors | {"state": state},
                o,
                (label,),
                "",
                profile,
            )
            fresh = f"{op}/{name}-{label}-fresh"
            note = "from no state, the output alone"
            yield Case(fresh, op, clauses, tensors, o, (label,), note, profile, outputs=("y",))
            grad = tensors | {"state": state, "dout": draw(b, length, e), "dstate": state}
            yield Case(
                f"{op}_vjp/{name}-{label}",
                f"{op}_vjp",
                ("GSS-GRD-10",),
                grad,
                o,
                (label,),
                "",
                profile,
            )
            if label == "random":
                whole = tensors | {"state": state}
                for splits in ([0], [1], [5], [11], [12], [1, 2, 6, 6, 7]):
                    cut = "-".join(map(str, splits))
                    yield Case(
                        f"{op}/{name}-split-{cut}", op, ("GSS-STA-4", "GSS-STA-2"), whole,
                        o | {"splits": splits}, ("chunks",), "", profile,
                    )  # fmt: skip
        for label, (b, length) in {"no-length": (2, 0), "no-batch": (0, 4)}.items():
            draw = Draw(f"{op}/{name}-{label}")
            params = layer_params(draw, config, 4, 6, 4 if op == "dss_layer" else 3, 2)
            h = params["ssm.d"].shape[0]
            tensors = named(params) | {"x": draw(b, length, 4), "state": draw(b, h, 2, 2)}
            yield Case(f"{op}/{name}-{label}", op, ("GSS-NFI-14",), tensors, o, (), "", profile)
        if op == "gss_layer":
            yield from parts_of_layer(name, config, profile)
        draw = Draw(f"{op}/{name}-nan")
        params = layer_params(draw, config, 4, 6, 4 if op == "dss_layer" else 3, 2)
        tensors, note = named(params) | {"x": draw(3, 5, 4)}, "NaN at b=1, t=2: other b stay"
        ids = ("GSS-NFI-12",)
        args = (f"{op}/{name}-nan", op, ids, tensors, o, ("nan",), note, profile)
        yield Case(*args, outputs=("y",), nan=(1, 2, 0))


def parts_of_layer(name: str, config: cfg.GSSConfig, profile: str | None) -> Iterator[Case]:
    """Layers most of whose parts are switched off, so that a failure says which part it is."""
    e, f, h, n = 6, 10, 4, 5
    draw = Draw(f"gss_layer/{name}-parts")
    params = layer_params(draw, config, e, f, h, n)
    given = {"x": draw(2, 6, e), "state": draw(2, h, n, 2)}
    silent = params | {"w_o": 0 * params["w_o"]}
    quiet = silent | ({"b_o": 0 * params["b_o"]} if config.out_bias else {})
    scan = {"ssm.c": 0 * params["ssm.c"]}
    inner = ("GSS-LAY-4",) if config.ssm_norm else ()
    ones = {"norm.weight": np.zeros(e, F), "norm.bias": np.ones(e, F)}  # h is 1 everywhere
    ones |= {k: (4 + np.abs(params[k])).astype(F) for k in ("w_v", "w_u")}  # where gelu(x) = x
    cases: dict[str, tuple[Any, tuple[str, ...], str]] = {
        "residual": (quiet, ("GSS-LAY-1",), "w_o = 0: x comes back"),
        "no-scan": (params | scan, ("GSS-LAY-1", "GSS-LAY-2", *inner, "GSS-LAY-5"), "C = 0"),
        "linear": (params | ones, ("GSS-LAY-3", *inner, "GSS-LAY-5"), "neither norm nor GELU acts"),
    }
    if config.out_bias:
        cases["bias"] = (silent, ("GSS-LAY-5",), "w_o = 0: x + b_o comes back")
    o = {"config": encode_option(config)}
    for label, (weights, ids, note) in cases.items():
        id = f"gss_layer/{name}-{label}"
        tensors = named(weights) | given
        yield Case(id, "gss_layer", ids, tensors, o, ("part",), note, profile, outputs=("y",))


MODELS: dict[str, tuple[cfg.LMConfig, str | None]] = {
    "paper": (cfg.LMConfig(cfg.PAPER, depth=2), "paper"),
    "gss-pytorch": (cfg.LMConfig(cfg.GSS_PYTORCH, depth=2, final_norm=False), "gss-pytorch"),
    "tied": (cfg.LMConfig(cfg.PAPER, depth=1, tied=True), None),
    "dss": (cfg.LMConfig(cfg.DSSConfig(), depth=2), None),
}


def model_params(draw: Draw, config: cfg.LMConfig, v: int, e: int, f: int, h: int, n: int) -> Any:
    params = {"embedding.weight": draw(v, e)}
    for i in range(config.depth):
        layer = layer_params(draw, config.layer, e, f, h, n)
        params |= {f"layers.{i}.{k}": x for k, x in layer.items()}
    if config.final_norm:
        params |= {
            "norm.weight": (1 + draw(e, scale=0.2)).astype(F),
            "norm.bias": draw(e, scale=0.2),
        }
    return params if config.tied else params | {"head.weight": draw(e, v, scale=e**-0.5)}


def models() -> Iterator[Case]:
    v, e, f, n, b, length = 11, 6, 10, 4, 2, 6
    for name, (config, profile) in MODELS.items():
        h = e if isinstance(config.layer, cfg.DSSConfig) else 4
        draw = Draw(f"lm/{name}")
        params = named(model_params(draw, config, v, e, f, h, n))
        o = {"config": encode_option(config)}
        tokens, targets = draw.tokens(v, b, length), draw.tokens(v, b, length)
        state = draw(config.depth, b, h, n, 2)
        run = params | {"tokens": tokens}
        ids = ("GSS-LM-1", "GSS-LM-2", "GSS-LM-3")
        args: Any = (o, (), "", profile)
        stateful = run | {"state": state}
        yield Case(f"lm_logits/{name}", "lm_logits", (*ids, "GSS-STA-3"), stateful, *args)
        alone = ("logits",)
        yield Case(
            f"lm_logits/{name}-fresh", "lm_logits", ids, run, o, (), "", profile, outputs=alone
        )
        for splits in ([3], [1, 2, 3, 4, 5]):
            cut = "-".join(map(str, splits))
            yield Case(
                f"lm_logits/{name}-split-{cut}", "lm_logits", ("GSS-STA-4",), stateful,
                o | {"splits": splits}, ("chunks",), "", profile,
            )  # fmt: skip
        no_layers = {k: 0 * x for k, x in params.items() if k.endswith((".w_o", ".b_o"))}
        embedding = "params.embedding.weight"
        one_word = {embedding: np.tile(params[embedding][:1], (v, 1))}
        for label, changed, clauses, note in (
            ("no-layers", no_layers, ("GSS-LM-1", "GSS-LM-3"), "w_o = 0: head of embedding"),
            ("one-word", one_word, ("GSS-LM-2", "GSS-LM-3"), "all tokens have the same embedding"),
        ):
            yield Case(
                f"lm_logits/{name}-{label}", "lm_logits", clauses, run | changed, o, ("part",),
                note, profile, outputs=alone,
            )  # fmt: skip
        loss = run | {"targets": targets}
        yield Case(f"lm_loss/{name}-fresh", "lm_loss", ("GSS-LM-4",), loss, *args)
        yield Case(f"lm_loss/{name}", "lm_loss", ("GSS-LM-4",), loss | {"state": state}, *args)
        grad = loss | {"dloss": np.array(1, F)}
        yield Case(f"lm_loss_vjp/{name}", "lm_loss_vjp", ("GSS-GRD-12",), grad, *args)
        grad = loss | {"dloss": np.array(-2.5, F)}
        yield Case(f"lm_loss_vjp/{name}-scaled", "lm_loss_vjp", ("GSS-GRD-12",), grad, *args)
        grad = stateful | {"dlogits": draw(b, length, v), "dstate": draw(*state.shape)}
        yield Case(f"lm_logits_vjp/{name}", "lm_logits_vjp", ("GSS-GRD-11",), grad, *args)
        yield from small_model(name, config, profile)
    config = cfg.LMConfig(cfg.PAPER, depth=1, final_norm=False)
    draw = Draw("lm_loss/confident")
    params = model_params(draw, config, v, e, f, 4, n)
    params["head.weight"] *= F(300)
    tensors = named(params) | {"tokens": draw.tokens(v, 1, 5), "targets": draw.tokens(v, 1, 5)}
    note = "logits in the hundreds: e^logit overflows in binary32"
    o = {"config": encode_option(config)}
    yield Case("lm_loss/confident", "lm_loss", ("GSS-LM-5",), tensors, o, (), note)


def small_model(name: str, config: cfg.LMConfig, profile: str | None) -> Iterator[Case]:
    """The ops of a model on few numbers: to be read, and redrawn during a check at little cost."""
    v, e, f, n, length = 4, 3, 3, 2, 3
    h = e if isinstance(config.layer, cfg.DSSConfig) else 2
    draw = Draw(f"lm/{name}-small")
    run = named(model_params(draw, config, v, e, f, h, n)) | {"tokens": draw.tokens(v, 1, length)}
    loss = run | {"targets": draw.tokens(v, 1, length)}
    state = draw(config.depth, 1, h, n, 2)
    given = {"state": state}
    cotangents = given | {"dlogits": draw(1, length, v), "dstate": draw(*state.shape)}
    for op, clauses, tensors in (
        ("lm_logits", ("GSS-LM-1", "GSS-LM-2", "GSS-LM-3", "GSS-STA-3"), run | given),
        ("lm_logits_vjp", ("GSS-GRD-11",), run | cotangents),
        ("lm_loss", ("GSS-LM-4",), loss | given),
        ("lm_loss_vjp", ("GSS-GRD-12",), loss | given | {"dloss": np.array(0.75, F)}),
    ):
        o = {"config": encode_option(config)}
        yield Case(f"{op}/{name}-small", op, clauses, tensors, o, ("small",), "", profile)


# --- chapter 12: what must be refused ----------------------------------------------------------


def refusals() -> Iterator[Case]:
    draw = Draw("refusals")
    gss, softmax = ({"form": encode_option(f)} for f in (cfg.GSS, cfg.dss_softmax(4)))
    one = np.array(1, F)
    good = {"lam": draw.modes(2), "c": draw(2, 2, 2), "delta": one}
    growing, unset = lam_of(0.1 + 1j, -1), lam_of(np.nan, -1)
    scan = good | {"u": draw(1, 3, 2)}

    def refuse(op: str, why: str, clause: str, tensors: Any, options: Any) -> Case:
        return Case(
            f"{op}/refuse-{why}", op, (clause,), tensors, options, ("refusal",), "", error=True
        )

    for op, base, o in (
        ("discretize", {"delta": one}, gss),
        ("ssm_kernel", good, gss | {"length": 4}),
        ("ssm_scan", scan, gss),
        ("ssm_step", good | {"u": draw(1, 2)}, gss),
    ):
        yield refuse(op, "growing", "GSS-DIS-6", base | {"lam": growing}, o)
        yield refuse(op, "nan-lambda", "GSS-NFI-2", base | {"lam": unset}, o)
        for why, value in (("nan-frequency", complex(-1, np.nan)), ("infinite-decay", -np.inf)):
            yield refuse(op, why, "GSS-NFI-2", base | {"lam": lam_of(value, -1)}, o)
        yield refuse(op, "negative-step", "GSS-NFI-3", good | base | {"delta": -one}, o)
    zero = good | {"lam": lam_of(0, -1)}
    yield refuse("ssm_kernel", "softmax-zero", "GSS-DIS-8", zero, softmax | {"length": 4})
    yield refuse("ssm_kernel", "softmax-too-long", "GSS-KER-6", good, softmax | {"length": 5})
    yield refuse("ssm_kernel", "negative-length", "GSS-KER-6", good, gss | {"length": -1})
    channels = {"u": draw(1, 4, 3), "k": draw(2, 4)}
    yield refuse("causal_conv", "channels", "GSS-NFI-1", channels, {})
    wrong = scan | {"state": draw(1, 2, 3, 2)}
    yield refuse("ssm_scan", "state-shape", "GSS-NFI-1", wrong, gss)
    config, _ = MODELS["paper"]
    params = named(model_params(draw, config, 5, 4, 6, 3, 2))
    tokens = params | {"tokens": np.array([[0, 5]], np.int32)}
    o = {"config": encode_option(config)}
    yield refuse("lm_logits", "token-range", "GSS-LM-6", tokens, o)
    targets = params | {"tokens": np.array([[0]], np.int32), "targets": np.array([[-1]], np.int32)}
    yield refuse("lm_loss", "target-range", "GSS-LM-6", targets, o)
    none = params | {"tokens": np.zeros((1, 0), np.int32), "targets": np.zeros((1, 0), np.int32)}
    yield refuse("lm_loss", "no-tokens", "GSS-NFI-4", none, o)
    missing = {k: x for k, x in params.items() if not k.endswith("ssm.d")}
    good_tokens = {"tokens": np.array([[0, 4]], np.int32)}
    yield refuse("lm_logits", "missing-parameter", "GSS-NFI-1", missing | good_tokens, o)
    unused = params | good_tokens | {"params.layers.0.b_o": draw(4)}
    yield refuse("lm_logits", "unused-parameter", "GSS-NFI-1", unused, o)


CHAPTERS: tuple[Callable[[], Iterator[Case]], ...] = (
    parameters,
    discretization,
    kernels,
    convolutions,
    recurrences,
    pointwise,
    layers,
    models,
    refusals,
)


def all_cases() -> list[Case]:
    """Every case, in the order of the chapters; ids are unique."""
    cases = [case for chapter in CHAPTERS for case in chapter()]
    assert len({case.id for case in cases}) == len(cases), "two cases share an id"
    return cases
