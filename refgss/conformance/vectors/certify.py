"""Proven expected values and derived budgets for any case: the reference, read on Enclosures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from flint import acb, acb_mat, arb

from refgss import ops
from refgss.conformance.definition import definition
from refgss.conformance.vectors.enclosure import UNITS, Enclosure, certifying
from refgss.conformance.vectors.format import Expected
from refgss.conformance.vectors.temperature import fitted_temperature
from refgss.reference.convolution import convolution_at
from refgss.reference.discretization import step_exponent
from refgss.reference.kernel import kernel_at, mode_weight, read_out
from refgss.reference.recurrence import channel_powers
from refgss.scores import matches, voting

PROFILES = ("f32", "f64")  # in the order of enclosure.PRECISIONS
MOST_SAMPLES = 16  # of each output of a large case
MOST_STEPS = 300  # of a scan or convolution that is certified whole
TINY = (2.0**-126, 2.0**-1022)  # below these a result may be flushed to zero (GSS-ACC-7)


def lift(name: str, x: np.ndarray) -> Any:
    """A tensor of a case as an exact Enclosure; integers stay as they are."""
    return x if x.dtype.kind in "iu" else Enclosure(ops.from_real(name, x.astype(np.float64)))


def certify(
    op: str, tensors: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> dict[str, Expected]:
    """Every output of `op` on a case: proven value, radius, and a budget for each profile.

    Tensors are in real layout (complex numbers as a trailing axis of two).
    Raises ValueError where the op refuses the case.
    """
    with certifying():
        if op == "s4d_lambda":
            return {"lam": expected(initial_lambda(**options))}
        if op == "fit_temperature":
            return fitted_temperature(**tensors)
        if op in FRACTIONS:
            return {"score": near(FRACTIONS[op](**tensors, **options))}
        lifted = {name: lift(name, x) for name, x in tensors.items()}
        outputs = ops.call(definition(op), op, lifted, options)
        return {
            k: exactly(v) if ops.exact_kind(op, k) and op in ops.SCORES else expected(v)
            for k, v in outputs.items()
        }


def near(x: Fraction) -> Expected:
    """A rational number, to 2⁻⁴⁰ of it (GSS-ANS-10, GSS-ANS-11, GSS-TSK-12)."""
    hi = float(x)
    lo, budget = float(x - Fraction(hi)), hi * 2.0**-40 + TINY[1]
    value, rest, radius = (np.array(v) for v in (hi, lo, abs(lo) * 2.0**-50))
    return Expected(value, rest, radius, dict.fromkeys(PROFILES, np.array(budget)))


def majority(counts: np.ndarray, gold: int, invalid: int, k: int) -> Fraction:
    return Fraction(
        voting.mean_share(voting.check_counts(counts, gold, invalid, k), gold, invalid, k)
    )


FRACTIONS: Mapping[str, Callable[..., Fraction]] = {  # scores that are rational numbers
    "vote_score": voting.share_of_vote,
    "majority_at_k": majority,
    "pass_at_k": voting.share_with_one,
    "text_match": matches.share_of_matches,
    "macro_f1": matches.mean_f1,
}


def exactly(x: Any) -> Expected:
    """Integers, or the bytes of a text."""
    x = np.asarray(x)
    return Expected.exactly(x if x.dtype == np.uint8 else x.astype(np.int64))


def certify_at(
    op: str, tensors: Mapping[str, np.ndarray], options: Mapping[str, Any], positions: list[int]
) -> dict[str, Expected]:
    """As `certify`, for a long kernel or convolution, at some positions of the length axis only."""
    with certifying():
        x = {name: lift(name, v) for name, v in tensors.items()}
        if op == "ssm_kernel":
            form = ops.decode_option(op, "form", options["form"])
            y = kernel_at(x["lam"], x["c"], np.array(positions), x["delta"], form)  # (H,|l|)
            shape: tuple[int, ...] = (y.shape[0], options["length"])
            at = np.add.outer(np.arange(shape[0]) * shape[1], positions)
        elif op == "causal_conv":
            y = convolution_at(x["u"], x["k"], positions)  # (B,|l|,H)
            shape = x["u"].shape
            at = np.arange(np.prod(shape)).reshape(shape)[:, positions]
        else:
            raise ValueError(f"{op} cannot be certified at samples: certify it whole")
        return {ops.OPS[op].outputs[0]: expected(y, at, shape)}


def certify_samples(
    op: str, tensors: Mapping[str, np.ndarray], options: Mapping[str, Any], seed: str
) -> dict[str, Expected]:
    """As `certify`, for a large case: samples of each output, its errors bounded one by one."""
    with certifying(bounded=True):
        x = {name: lift(name, v) for name, v in tensors.items()}
        if op in AT_SAMPLES and x["u"].shape[1] > MOST_STEPS:
            outputs: Any = AT_SAMPLES[op](x, options, np.random.default_rng(seed_of(seed)))
        else:
            found = ops.call(definition(op), op, x, options)
            outputs = {name: (y, places_of(y), y.shape) for name, y in found.items()}
        return {
            name: samples(y, at, shape, np.random.default_rng(seed_of(f"{seed}|{name}")))
            for name, (y, at, shape) in outputs.items()
        }


def seed_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def scan_at_samples(
    x: Mapping[str, Any], options: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
    """A long `ssm_scan` at some positions, by its closed form (GSS-REC-4)."""
    form = ops.decode_option("ssm_scan", "form", options["form"])
    u, c, delta = x["u"], x["c"], x["delta"]
    B, L, H = u.shape
    z = step_exponent(x["lam"], delta)
    weight = mode_weight(x["lam"], c, delta, z, form)
    p = channel_powers(z, np.arange(L + 1), form, c)  # (H,N,L+1)
    rows = places((L,), rng)[:, 0].tolist()
    y = convolution_at(u, read_out(weight, p[..., :L]), rows)
    last = np.einsum("blh,hnl->bhn", u, p[..., :L][..., ::-1])
    if "state" in x:
        carried = p[..., [row + 1 for row in rows]]
        y = y + np.einsum("bhn,hn,hnl->blh", x["state"], weight, carried).real
        last = p[..., L] * x["state"] + last
    at = np.arange(B * L * H).reshape(B, L, H)[:, rows]
    return {"y": (y, at, (B, L, H)), "state": (last, places_of(last), last.shape)}


def convolution_at_samples(
    x: Mapping[str, Any], options: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
    """A long `causal_conv` at some positions."""
    shape = x["u"].shape
    rows = places(shape[1:2], rng)[:, 0].tolist()
    at = np.arange(math.prod(shape)).reshape(shape)[:, rows]
    return {"y": (convolution_at(x["u"], x["k"], rows), at, shape)}


AT_SAMPLES = {"ssm_scan": scan_at_samples, "causal_conv": convolution_at_samples}


def places_of(y: Any) -> np.ndarray:
    """The flat index of every element."""
    return np.arange(y.size).reshape(y.shape)


def places(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Indices (·,rank) of samples: any, and often where a block of a power of two ends."""
    columns, many = [], MOST_SAMPLES
    for n in shape:
        power = 2 ** int(np.log2(max(n - 1, 1)))
        edges = rng.choice([0, n - 1, min(power, n - 1), power - 1, min(32, n - 1)], many)
        columns.append(np.where(rng.random(many) < 0.5, edges, rng.integers(0, n, many)))
    return np.unique(np.stack(columns, -1), axis=0)


def samples(y: Any, at: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> Expected:
    """Some elements of y, whose elements stand `at` these flat indices of the whole output."""
    y = y if isinstance(y, Enclosure) else Enclosure(y)
    if y.size <= MOST_SAMPLES:
        chosen = np.arange(y.size)
    else:
        chosen = np.ravel_multi_index(tuple(places(y.shape, rng).T), y.shape)
    y, at = y.reshape(y.size)[chosen], at.ravel()[chosen]
    if y.is_complex:
        at, shape = np.stack([2 * at, 2 * at + 1], -1), (*shape, 2)
    return expected(y, at, shape)


def expected(
    y: Any, at: np.ndarray | None = None, shape: tuple[int, ...] | None = None
) -> Expected:
    """An Enclosure as hi + lo ± radius and a budget for each profile, in real layout."""
    y = y if isinstance(y, Enclosure) else Enclosure(y)
    balls = y.value
    if y.is_complex:
        balls = np.stack([exact_part(balls, "real"), exact_part(balls, "imag")], -1)
    flat = [split(v) for v in balls.ravel()]
    hi, lo, radius = np.array(flat, float).reshape(-1, 3).T.reshape(3, *balls.shape)
    err = np.nan_to_num(y.err, nan=np.inf, posinf=np.inf)  # ∞ times 0, and without a bound
    err = np.stack([err] * 2, -2) if y.is_complex else err  # a modulus bounds both parts
    radius = rounded_up(radius)
    budget = {p: rounded_up(err[..., i] + TINY[i]) for i, p in enumerate(PROFILES)}
    flat_at = None if at is None else at.ravel().astype(np.int64)
    if flat_at is not None:
        hi, lo, radius = hi.ravel(), lo.ravel(), radius.ravel()
        budget = {p: b.ravel() for p, b in budget.items()}
    return Expected(hi, lo, radius, budget, flat_at, balls.shape if shape is None else shape)


def rounded_up(x: np.ndarray) -> np.ndarray:
    """x rounded up to 12 bits, so that no machine's last bit of exp shows in a shipped file.

    Nor where x has 12 bits but for that last one: 2⁻⁴⁰ of x more does not round it up.
    """
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.ceil(mantissa * (2.0**12 - 2.0**-28)), exponent - 12)


def exact_part(balls: np.ndarray, part: str) -> np.ndarray:
    return np.asarray(np.frompyfunc(lambda v: getattr(acb(v), part), 1, 1)(balls), object)


def split(ball: Any) -> tuple[float, float, float]:
    """A ball as hi + lo ± radius in binary64."""
    ball = arb(ball)
    hi = float(ball)
    if not math.isfinite(hi):
        return hi, 0.0, 0.0
    lo = float(ball - arb(hi))
    radius = float((ball - arb(hi) - arb(lo)).abs_upper()) * (1 + 2.0**-50)
    return hi, lo, radius


def initial_lambda(n: int, init: str) -> Enclosure:
    """s4d_lambda by other means: exact π, and a proven eigenvalue enclosure for LegS.

    LegS is the one place where the text calls a library (LAPACK).  Its budget is Weyl's: symmetric
    eigenvalues move by at most the norm of the error of the matrix, here (m + 4) 𝐮 ‖S‖_F: m of the
    backward error, 3 of the entries (two roots and their product), 1 of the result.
    """
    k, half = range(n), arb(-1) / 2
    if init == "real":
        values, scale = [acb(-(i + 1)) for i in k], np.zeros(n)
    elif init == "lin":
        values = [acb(half, arb.pi() * i) for i in k]
        scale = np.array([2 * np.pi * i for i in k])  # π rounded, then the product
    elif init == "inv":
        values = [acb(half, 2 * n / arb.pi() * (arb(2 * n) / (2 * i + 1) - 1)) for i in k]
        scale = np.array([6 * abs(complex(v).imag) + 2 * n / np.pi for v in values])
    else:
        S = reference_hippo(2 * n)
        eigenvalues = sorted((acb(0, v.imag) for v in S.eig()), key=lambda v: -complex(v).imag)
        values = [acb(half, v.imag) for v in eigenvalues[:n]]
        norm = np.sqrt(sum(abs(complex(v)) ** 2 for v in eigenvalues))
        scale = np.full(n, (2 * n + 4) * norm)
    return Enclosure(np.array(values, object), None, np.multiply.outer(scale, UNITS), cplx=True)


def reference_hippo(n: int) -> acb_mat:
    r = [arb(2 * i + 1).sqrt() for i in range(n)]
    return acb_mat([[acb((j > i) - (i > j)) * r[i] * r[j] / 2 for j in range(n)] for i in range(n)])
