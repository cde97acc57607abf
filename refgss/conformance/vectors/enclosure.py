"""Another reading of the reference: every number a proven ball, with the error budget beside it.

An `Enclosure` is an array of numbers known two ways.  `value` holds balls of 256 bits
(python-flint): the exact result of the text lies inside them, proven.  `noise` and `rest` say how
far an honest p-bit evaluation of the same text can be from it, for each p in PRECISIONS.  Every
operation makes a rounding error δ of its own, in Re and in Im apart, of which the model of chapter
11 knows two things, in units of 𝐮 = 2^-p: a bound, and a spread, the root of the sum of the squared
bounds of the single roundings that it is made of:

                          spread, bound                              spread, bound
    + - × ÷ √ on reals    1       1           complex product        √2      2
    elementary function   2       5           complex quotient       √5      5
    step of a recurrence  2       4           level of an FFT        √(5/2)  2 + √5, of its norm
    Σ of n terms          √ΣT²    ΣT          T: the largest partial sums that any order can meet

`noise[..., s]` is the derivative of the element by δ_s, times its spread: what two numbers share is
known, so that errors which cancel do cancel.  The roundings are taken as independent and of mean
zero, so that their sum stays below λ times the root of the sum of the squared spreads but with
probability 2 exp(-λ²/2) (Hoeffding; Higham & Mary 2019), and below the sum of the bounds always.
`rest` bounds what is not linear in them.  A budget is the smaller of the two sums, plus the rest.
No constant is chosen to make something pass: spec/11-accuracy.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import numpy as np
from flint import acb, arb, ctx
from numpy.lib.mixins import NDArrayOperatorsMixin

from refgss.reference import elementary

PRECISIONS = (24, 53)  # f32, f64
UNITS = np.array([2.0**-p for p in PRECISIONS])
BITS = 256

# (spread, bound) of one operation, in units of 𝐮 times the result's modulus, in Re and Im alike
COMPLEX_PRODUCT = (math.sqrt(2), 2)  # ab - cd: ab and cd together, and their difference
COMPLEX_QUOTIENT = (math.sqrt(5), 5)  # a product by the conjugate 2, its squared modulus 2, ÷ 1
ELEMENTARY = (2, 5)  # two factors, correctly rounded, 1 each, and their product 2 (GSS-ACC-3)
STEP = (2, 4)  # of a recurrence: the two parts of Āx and u, 2 products and 2 sums (GSS-ACC-4)
# a level of an FFT, in norm: all are added, and half of them multiplied by a root of unity first,
# which is rounded itself: 1 + (2 + 1)/2 in squares (GSS-ACC-5)
LEVEL = (math.sqrt(5 / 2), 2 + math.sqrt(5))
CONFIDENCE = 6  # λ: a budget fails an honest element with probability below 2 exp(-18) = 3e-8


class Sources:
    """The rounding errors δ of one run: for each, 𝐮 at every precision, and bound/spread."""

    def __init__(self) -> None:
        self.count = 0
        self.units = np.empty((0, len(UNITS)))
        self.weights = np.empty(0)

    def more(self, unit: np.ndarray, weights: np.ndarray) -> None:
        n = len(weights)
        self.count += n
        self.units = np.concatenate([self.units, np.broadcast_to(unit, (n, len(UNITS)))])
        self.weights = np.append(self.weights, weights)

    def bound(self, noise: np.ndarray) -> np.ndarray:
        """noise (...,S) -> (...,P): the smaller of the two sums."""
        size, s = np.abs(noise), noise.shape[-1]
        top = np.maximum(size.max(-1, keepdims=True, initial=0), 1e-300)  # no square underflows
        size /= top
        always = size @ (self.units[:s] * self.weights[:s, None])
        size *= size
        likely = CONFIDENCE * np.sqrt(size @ self.units[:s] ** 2)
        return np.asarray(top * np.minimum(likely, always))


class UndecidedError(ValueError):
    """A case whose answer hangs on a rounding: choose other numbers."""


SOURCES: ContextVar[Sources] = ContextVar("SOURCES")
BOUNDED: ContextVar[bool] = ContextVar("BOUNDED", default=False)  # errors go to the rest at once


@contextmanager
def certifying(bounded: bool = False) -> Iterator[None]:
    """Ball arithmetic at BITS bits, and fresh rounding errors, inside the block.

    `bounded` follows no single error: each is bounded where it is made, and bounds are added up.
    That takes no memory, and gives budgets that are larger where errors would cancel.
    """
    before, ctx.prec = ctx.prec, BITS
    tokens = SOURCES.set(Sources()), BOUNDED.set(bounded)
    try:
        yield
    finally:
        ctx.prec = before
        SOURCES.reset(tokens[0])
        BOUNDED.reset(tokens[1])


def exact(x: Any) -> np.ndarray:
    """Numbers as balls of radius 0."""
    x = np.asarray(x)
    if x.dtype == object:
        return x
    if np.iscomplexobj(x):
        return _map(lambda v: acb(float(v.real), float(v.imag)), x)
    return _map(lambda v: arb(float(v)), x)


def _map(f: Callable[..., Any], *xs: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(f, len(xs), 1)(*xs), object)


class Enclosure(NDArrayOperatorsMixin):
    """`value` (...) of balls; `noise` (...,S); `rest` (...,P); the unit roundoffs `unit` (P,)."""

    def __init__(
        self,
        value: Any,
        noise: Any = None,
        rest: Any = None,
        unit: np.ndarray = UNITS,
        cplx: bool = False,
    ):
        self.is_complex = cplx or np.iscomplexobj(value)
        self.terms = 1  # of the sum that this is, if it is one
        self.value = exact(value)
        self.noise = np.zeros((*self.value.shape, 0)) if noise is None else noise
        self.rest = np.zeros((*self.value.shape, len(UNITS))) if rest is None else rest
        self.unit = unit

    # --- what an array is ---------------------------------------------------------------------
    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    dtype = property(lambda self: np.dtype(complex if self.is_complex else float))
    T = property(lambda self: self._view(lambda a: a.T))
    real = property(lambda self: self._part("real"))
    imag = property(lambda self: self._part("imag"))

    def __len__(self) -> int:
        return len(self.value)

    def _view(self, f: Callable[[np.ndarray], np.ndarray]) -> Enclosure:
        """A rearrangement of the elements: no rounding."""
        index = f(np.arange(self.size).reshape(self.shape))
        flat = self.noise.reshape(self.size, -1) if self.size else self.noise.reshape(0, 0)
        noise = flat[index.ravel()].reshape(*index.shape, flat.shape[1])
        rest = self.rest.reshape(self.size, len(UNITS))[index.ravel()]
        value = np.asarray(self.value.ravel()[index.ravel()].reshape(index.shape), object)
        rest = rest.reshape(*index.shape, len(UNITS))
        return Enclosure(value, noise, rest, self.unit, self.is_complex)

    def __getitem__(self, index: Any) -> Enclosure:
        return self._view(lambda a: np.asarray(a[index]))

    def reshape(self, *shape: int) -> Enclosure:
        return self._view(lambda a: a.reshape(*shape))

    def _part(self, name: str) -> Enclosure:
        value = _map(lambda v: getattr(acb(v), name), self.value)
        return Enclosure(value, getattr(self.noise, name), self.rest, self.unit)

    @cached_property
    def numbers(self) -> np.ndarray:
        """The values in binary64."""
        kind = complex if self.is_complex else float
        return np.asarray(np.frompyfunc(kind, 1, 1)(self.value), kind)

    @cached_property
    def mag(self) -> np.ndarray:
        """|value| (...,1), to stand beside noise and rest."""
        return np.abs(self.numbers)[..., None]

    @cached_property
    def err(self) -> np.ndarray:
        """The budget (...,P)."""
        return SOURCES.get().bound(self.noise) + self.rest

    def rounded(self, spread: Any, bound: Any, unit: Any = None) -> Enclosure:
        """One more error in each element, two where it is complex; sizes (...) in units of 𝐮.

        Complex sizes are those of Re and of Im, where a real one serves for both.
        """
        unit, n = self.unit if unit is None else unit, self.size
        if BOUNDED.get():
            return self.bounded(np.minimum(CONFIDENCE * spread, bound), unit)
        sizes = []
        for size in (spread, bound):
            size = np.broadcast_to(size, self.shape).reshape(n)
            parts = (size.real, size.imag) if np.iscomplexobj(size) else (size, size)
            sizes.append(np.concatenate(parts) if self.is_complex else parts[0])
        sources, s, i = SOURCES.get(), self.noise.shape[-1], np.arange(n)
        first = sources.count  # of the new errors, one after the other
        weights = np.divide(sizes[1], sizes[0], out=np.ones_like(sizes[0]), where=sizes[0] > 0)
        sources.more(unit, weights)
        noise = np.zeros((n, sources.count), self.dtype)
        noise[:, :s] = self.noise.reshape(n, s)
        noise[i, first + i] = sizes[0][:n]
        if self.is_complex:
            noise[i, first + n + i] = 1j * sizes[0][n:]
        noise = noise.reshape(*self.shape, sources.count)
        return Enclosure(self.value, noise, self.rest, unit, self.is_complex)

    def bounded(self, size: Any, unit: np.ndarray) -> Enclosure:
        """An error of at most `size` units in Re and in Im, added to the rest."""
        if self.is_complex:
            size = np.abs(size) if np.iscomplexobj(size) else math.sqrt(2) * np.asarray(size)
        size = np.broadcast_to(size, self.shape)[..., None]
        return Enclosure(self.value, self.noise, self.rest + size * unit, unit, self.is_complex)

    def made_by(self, operation: tuple[float, float], size: Any = None, unit: Any = None) -> Any:
        """The errors of one operation; `size` is the modulus of the result if not given."""
        size = np.abs(self.numbers) if size is None else size
        return self.rounded(operation[0] * size, operation[1] * size, unit)

    def once(self, unit: Any = None) -> Enclosure:
        """Rounded once, Re and Im apart."""
        v = self.numbers
        parts = np.abs(v.real) + 1j * np.abs(v.imag) if self.is_complex else np.abs(v)
        return self.rounded(parts, parts, unit)

    # --- precision: the methods that refgss.reference.elementary looks for ---------------------
    def wide(self) -> Enclosure:
        unit = np.minimum(self.unit, 2.0**-53)
        return Enclosure(self.value, self.noise, self.rest, unit, self.is_complex)

    def narrow(self, like: Enclosure) -> Enclosure:
        return self.once(like.unit)

    def rounded_powers(self, l: Any, like: Enclosure, stepwise: bool) -> Enclosure:
        """Ā^l (·,N,|l|): an elementary function, or l steps by an Ā that is one."""
        if not stepwise:
            return self.made_by(ELEMENTARY, unit=like.unit)
        if BOUNDED.get():
            growth = np.expm1((l[:, None] + 1) * (ELEMENTARY[1] + STEP[1]) * like.unit)  # (l,P)
            return Enclosure(self.value, None, self.rest + self.mag * growth, like.unit, True)
        modes, count = self.shape[:-1], len(l)
        rows, p = math.prod(modes), self.numbers.reshape(math.prod(modes), count)
        # the error of Ā, l times in Ā^l: one source for each mode
        shared = np.einsum("rq,rl->rlq", np.eye(rows), ELEMENTARY[0] * l * p)
        # the errors of the steps up to l: one source for each mode and step
        stepped = np.einsum(
            "rq,rl,jl->rlqj", np.eye(rows), STEP[0] * p, np.triu(np.ones((count,) * 2))
        )
        fresh = np.concatenate([shared, stepped.reshape(rows, count, rows * count)], -1)
        fresh = np.concatenate([fresh, 1j * fresh], -1)
        before = _padded(self.noise)
        weights = np.repeat([f[1] / f[0] for f in (ELEMENTARY, STEP)], [rows, rows * count])
        SOURCES.get().more(like.unit, np.tile(weights, 2))
        noise = np.concatenate([before, fresh.reshape(*self.shape, fresh.shape[-1])], -1)
        growth = (l[:, None] + 1) * (ELEMENTARY[1] + STEP[1]) * like.unit  # (l,P)
        rest = self.rest + self.mag * (np.expm1(growth) - growth)
        return Enclosure(self.value, noise, rest, like.unit, True)

    def fft_allowance(self, k: Any, u: Any) -> Enclosure:
        """y (B,L,H) = k (H,Lk) * u (B,L,H), by three transforms of m levels each."""
        kn = as_enclosure(k).numbers[:, : u.shape[1]].T[None]  # (1,taps,H)
        un = as_enclosure(u).numbers  # (B,L,H)
        points = kn.shape[1] + un.shape[1] - 1  # what a linear convolution takes at least
        m = max(math.ceil(math.log2(points)), 1)
        norms = np.linalg.norm(kn, axis=1) * np.linalg.norm(un, axis=1)  # ‖k‖‖u‖ (B,H)
        spectrum = np.fft.rfft(kn, 2**m, axis=1) * np.fft.rfft(un, 2**m, axis=1)
        full = np.linalg.norm(np.fft.irfft(spectrum, 2**m, axis=1), axis=1)  # ‖k∗u‖ (B,H)
        likely = LEVEL[0] * np.sqrt(m / points * (2 * norms**2 + full**2))[:, None]
        worst = LEVEL[1] * 3 * m * norms[:, None]
        return self.rounded(likely, np.minimum(worst, CONFIDENCE * likely))

    def to_complex(self, im: Any) -> Enclosure:
        im = as_enclosure(im)
        noise = _noise_sum(self.noise, 1j * im.noise)
        unit, rest = np.minimum(self.unit, im.unit), np.hypot(self.rest, im.rest)
        return Enclosure(_map(acb, self.value, im.value), noise, rest, unit, True)

    # --- elementary functions ------------------------------------------------------------------
    def smooth(
        self, f: Callable, slope: Any, bend: Any, scale: Any = 0.0, unit: Any = None
    ) -> Enclosure:
        """f; `bend(err)` bounds |f(x+e) - f(x) - slope·e|; rounded by 5𝐮 max(|f|, scale)."""
        slope = np.asarray(slope)[..., None]
        rest = np.abs(slope) * self.rest + bend(self.err)
        y = Enclosure(_map(f, self.value), self.noise * slope, rest, self.unit, self.is_complex)
        return y.made_by(ELEMENTARY, np.maximum(np.abs(y.numbers), scale), unit)

    def exp(self) -> Enclosure:
        y = np.exp(self.numbers)
        return self.smooth(lambda v: v.exp(), y, lambda e: np.abs(y)[..., None] * (np.expm1(e) - e))

    def log(self) -> Enclosure:
        def bend(e: np.ndarray) -> np.ndarray:
            r = np.minimum(e / self.mag, 1)
            return -np.log1p(-r) - r

        with np.errstate(divide="ignore"):
            return self.smooth(lambda v: v.log(), 1 / self.numbers, bend)

    def exp_minus_one(self, like: Enclosure) -> Enclosure:
        """z φ(z), at the scale of φ."""
        y, scale = np.exp(self.numbers), np.abs(self.numbers) * self._phi_scale()
        return self.smooth(
            lambda v: v.expm1(),
            y,
            lambda e: np.abs(y)[..., None] * (np.expm1(e) - e),
            scale,
            like.unit,
        )

    def phi(self) -> Enclosure:
        """In the left half-plane |φ''| ≤ 1/3."""
        slope = elementary.phi_derivative(self.numbers.astype(complex))
        return self.smooth(_phi, slope, lambda e: e * e / 6, self._phi_scale())

    def phi_derivative(self) -> Enclosure:
        """|φ''| ≤ 1/3 again: without a derivative of its own, all of it to the rest."""
        return self.smooth(_phi_derivative, 0.0, lambda e: e / 3, self._phi_scale())

    def _phi_scale(self) -> np.ndarray:
        return np.minimum(1, 1 / np.maximum(np.abs(self.numbers), 1))

    def normal_cdf(self) -> Enclosure:
        root = arb(2).sqrt()
        return self.smooth(
            lambda v: (-v / root).erfc() / 2,
            elementary.normal_pdf(self.numbers),
            lambda e: e * e / 8,  # |Φ''| ≤ 1/√(2πe) < 1/4
            1.0,
        )

    def sigmoid(self) -> Enclosure:
        """At the scale of 1: 1 - σ(-x) and (1 + tanh(x/2))/2 are σ(x) too."""
        y = elementary.sigmoid(self.numbers)
        return self.smooth(
            lambda v: 1 / (1 + (-v).exp()),
            y * (1 - y),
            lambda e: e * e / 20,  # |σ''| ≤ 1/(6√3) < 1/10
            1.0,
        )

    def tanh(self) -> Enclosure:
        y = np.tanh(self.numbers)
        return self.smooth(lambda v: v.tanh(), 1 - y * y, lambda e: e * e * 0.4)  # |tanh''| < 0.8

    def normal_pdf(self) -> Enclosure:
        tau, x = (2 * arb.pi()).sqrt(), self.numbers
        y = self.smooth(
            lambda v: (-v * v / 2).exp() / tau,
            -x * elementary.normal_pdf(x),
            lambda e: e * e / 5,  # |Φ'''| ≤ 1/√(2π) < 2/5
        )
        return y.made_by((1, 1), x**2 * np.abs(y.numbers))  # the exponent x²/2 is rounded too

    def normal_cdf_tanh(self) -> Enclosure:
        return self.smooth(
            _cdf_tanh,
            elementary.normal_pdf_tanh(self.numbers),
            lambda e: e * e / 8,  # the second derivative is below 1/4
            1.0,
        )

    def normal_pdf_tanh(self) -> Enclosure:
        """At the scale of what multiplies 1 - tanh²."""
        x, root = self.numbers, math.sqrt(2 / math.pi)
        inner, tanh = 1 + 3 * elementary.CUBIC * x * x, 2 * elementary.normal_cdf_tanh(x) - 1
        slope = 6 * elementary.CUBIC * x - 2 * root * tanh * inner * inner
        return self.smooth(
            _pdf_tanh,
            root / 2 * (1 - tanh * tanh) * slope,
            lambda e: e * e / 4,  # the third derivative is below 1/2
            root / 2 * inner,
        )

    # --- attention: chapter 18 -----------------------------------------------------------------
    def over_root(self, n: int) -> Enclosure:
        """x/√n: a root, its reciprocal and a product; the factor may stand in the terms of x."""
        value, root = _map(lambda v: v / arb(n).sqrt(), self.value), math.sqrt(n)
        y = Enclosure(value, self.noise / root, self.rest / root, self.unit)
        y = y.made_by((math.sqrt(3), 3))
        y.terms = self.terms
        return y

    def rotation(self, r: np.ndarray, base: float) -> tuple[Enclosure, Enclosure]:
        """cos and sin of r·base^(-2j/D), the angle a power times a number, in binary64."""
        D, exact_unit = self.shape[-1], np.minimum(self.unit, 2.0**-53)
        powers = np.array([arb(base) ** (arb(-j) / D) for j in range(0, D, 2)], object)
        angles = np.multiply.outer(_map(lambda n: arb(int(n)), np.asarray(r)), powers)
        x = Enclosure(np.asarray(angles, object), unit=exact_unit)
        x = x.made_by((math.hypot(ELEMENTARY[0], 1), ELEMENTARY[1] + 1))
        cos, sin = np.cos(x.numbers), np.sin(x.numbers)

        def bend(e: np.ndarray) -> np.ndarray:
            return e * e / 2

        return (
            x.smooth(lambda v: v.cos(), -sin, bend, 1.0, self.unit),
            x.smooth(lambda v: v.sin(), cos, bend, 1.0, self.unit),
        )

    def alibi(self, heads: int, length: int) -> Enclosure:
        """-2^(-8(h+1)/heads)·n: a power in binary64, and a product that is rounded."""
        slopes = np.array([-(arb(2) ** (arb(-8 * (h + 1)) / heads)) for h in range(heads)], object)
        n = _map(lambda v: arb(int(v)), np.arange(length))
        value = np.asarray(np.multiply.outer(slopes, n), object)
        wide = Enclosure(value, unit=np.minimum(self.unit, 2.0**-53)).made_by(ELEMENTARY)
        return wide.once(self.unit)

    def online_allowance(self, w: Any, x: Any, seen: np.ndarray) -> Enclosure:
        """y (B,L,H,D) = Σ_s w[b,t,s,h] x[b,s,h] over what is seen, whose sums may be formed online.

        In the order of rising weights each key but the first multiplies what is there by e^{m-m'}:
        an elementary function, the same in Σ w x and in Σ w, and a product in each.  The quotient
        may be a product with a reciprocal.
        """
        w, x, y = (as_enclosure(z).numbers for z in (w, x, self))
        spread, bound = np.zeros((2, *self.shape))
        for b, t in np.ndindex(*seen.shape[:2]):
            s = np.flatnonzero(seen[b, t])
            order = np.argsort(w[b, t, s], 0)  # (n,H)
            weight = np.take_along_axis(w[b, t, s], order, 0)[..., None]  # (n,H,1)
            values = np.take_along_axis(x[b, s], order[..., None], 0)  # (n,H,D)
            apart = before(weight * np.abs(values - y[b, t]))
            sums = before(weight * np.abs(values)), before(weight) * np.abs(y[b, t])
            squares = (ELEMENTARY[0] * apart) ** 2 + sums[0] ** 2 + sums[1] ** 2
            spread[b, t] = np.sqrt(squares.sum(0) + 2 * y[b, t] ** 2)
            bound[b, t] = (ELEMENTARY[1] * apart + sums[0] + sums[1]).sum(0) + 2 * np.abs(y[b, t])
        return self.rounded(spread, np.minimum(bound, CONFIDENCE * spread))

    def either(self, other: Enclosure) -> Enclosure:
        """This number, or another text of it that was read after it: the budget holds both."""
        noise = other.noise.copy()
        noise[..., : self.noise.shape[-1]] = 0  # what both share reaches both alike
        rest = np.maximum(self.rest, other.rest)
        return Enclosure(self.value, _noise_sum(self.noise, noise), rest, self.unit)

    # --- reductions ----------------------------------------------------------------------------
    def sum(self, axis: Any = None, keepdims: bool = False) -> Enclosure:
        axes = tuple(range(self.ndim)) if axis is None else tuple(np.atleast_1d(axis) % self.ndim)
        n = math.prod(self.shape[a] for a in axes)
        value, noise, rest = (
            a.sum(axes, keepdims=keepdims) for a in (self.value, self.noise, self.rest)
        )
        y = Enclosure(np.asarray(value, object), noise, rest, self.unit, self.is_complex)
        terms = np.moveaxis(self.numbers, axes, range(-len(axes), 0))
        terms = terms.reshape(*terms.shape[: self.ndim - len(axes)], n)
        return y.summed(terms.reshape(*y.shape, n), (0, 0))

    def summed(self, terms: np.ndarray, product: tuple[float, float]) -> Enclosure:
        """The errors of summing `terms` (...,n), in any order, each made with errors `product`.

        Of a complex sum made of complex products only the moduli of the terms are used: its parts
        may be summed as twice as many real products.
        """
        if np.iscomplexobj(terms) and product[0] > 1:
            spread, bound = sum_sizes(np.abs(terms), product)
        elif np.iscomplexobj(terms):
            parts = [sum_sizes(t, product) for t in (terms.real, terms.imag)]
            spread, bound = (re + 1j * im for re, im in zip(*parts, strict=True))
        else:
            spread, bound = sum_sizes(terms, product)
        y = self.rounded(spread, bound)
        y.terms = terms.shape[-1]
        return y

    def mean(self, axis: int, keepdims: bool) -> Enclosure:
        return self.sum(axis, keepdims) / self.shape[axis]

    def max(self, axis: int, keepdims: bool) -> Enclosure:
        index = np.argmax(self.numbers, axis, keepdims=True)
        found = self._view(lambda a: np.take_along_axis(a, index, axis))
        return found if keepdims else found._view(lambda a: a.squeeze(axis))

    # --- scores: chapters 21 to 24 --------------------------------------------------------------
    def comparable(self, *others: Any) -> tuple[np.ndarray, ...]:
        """The numbers of both, whose order no honest rounding to binary64 can change.

        Raises UndecidedError where two are neither apart nor equal by themselves.
        """
        all_ = [self, *map(as_enclosure, others)]
        v = np.concatenate([x.numbers.ravel() for x in all_])
        e = np.concatenate([x.err[..., -1].ravel() for x in all_])
        known = np.unique(np.stack([v, e], -1), axis=0)  # equal and without error: one number
        low, high = known[:, 0] - known[:, 1], known[:, 0] + known[:, 1]
        order = np.argsort(low, kind="stable")
        if np.any(np.maximum.accumulate(high[order])[:-1] >= low[order][1:]):
            raise UndecidedError("two numbers are too near to each other to be put in order")
        return tuple(x.numbers for x in all_)

    def beside(self, edges: np.ndarray) -> np.ndarray:
        """The numbers, whose order with each of the edges no honest rounding can change.

        Raises UndecidedError where one is near an edge, and not there by itself.
        """
        near = np.abs(self.numbers[..., None] - edges) <= self.err[..., -1:]
        if np.any(near & (self.err[..., -1:] > 0)):
            raise UndecidedError("a number is too near to an edge to be put on one side of it")
        return self.numbers

    def ratio(self, numerator: int, denominator: int) -> Enclosure:
        """The quotient of two integers, rounded once."""
        return Enclosure(float(numerator), unit=self.unit) / Enclosure(
            float(denominator), unit=self.unit
        )

    # --- NumPy's functions, on Enclosures ------------------------------------------------------
    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *args: Any, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs or ufunc not in UFUNCS:
            return NotImplemented
        return UFUNCS[ufunc](*args)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function not in FUNCTIONS:
            return NotImplemented
        return FUNCTIONS[function](*args, **kwargs)


def sum_sizes(terms: np.ndarray, product: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Spread and bound (...) of a sum of terms (...,n), whatever its order and blocking.

    An addition whose result is the sum of m terms rounds at most the sum of the m largest terms of
    one sign, T_m; of the n - 1 additions of any order the j-th largest has m <= n + 1 - j; the last
    one rounds the sum itself.
    """
    rising = np.sort(terms, -1)
    up = np.cumsum(np.maximum(rising[..., ::-1], 0), -1)
    down = np.cumsum(np.maximum(-rising, 0), -1)
    largest = np.maximum(up, down)[..., 1:]
    if largest.shape[-1]:
        largest[..., -1] = np.abs(terms.sum(-1))
    size = np.abs(terms)
    spread = np.sqrt((largest**2).sum(-1) + product[0] ** 2 * (size**2).sum(-1))
    bound = largest.sum(-1) + product[1] * size.sum(-1)
    return spread, np.minimum(bound, CONFIDENCE * spread)


def _tanh_argument(x: Any) -> Any:
    """√(2/π)(x + 0.044715 x³), the decimal number exactly."""
    return (2 / arb.pi()).sqrt() * (x + arb(44715) / 1000000 * x**3)


def _cdf_tanh(x: Any) -> Any:
    """(1 + tanh z)/2 = 1/(1 + e^{-2z}), which does not cancel."""
    return 1 / (1 + (-2 * _tanh_argument(x)).exp())


def _pdf_tanh(x: Any) -> Any:
    z, root = _tanh_argument(x), (2 / arb.pi()).sqrt()
    return root / 2 * z.sech() ** 2 * (1 + 3 * arb(44715) / 1000000 * x**2)


def before(terms: np.ndarray) -> np.ndarray:
    """The sum of the terms (n,...) before each; that before the first is empty."""
    return np.concatenate([np.zeros_like(terms[:1]), np.cumsum(terms[:-1], 0)])


def _phi(z: Any) -> Any:
    return z.expm1() / z if z != 0 else arb(1)


def _phi_derivative(z: Any) -> Any:
    """(e^z - φ(z))/z; where balls would cancel, four times the bits."""
    if z == 0:
        return arb(1) / 2
    before, ctx.prec = ctx.prec, 4 * BITS
    try:
        return (z.exp() - z.expm1() / z) / z
    finally:
        ctx.prec = before


def as_enclosure(x: Any) -> Enclosure:
    return x if isinstance(x, Enclosure) else Enclosure(x)


def _padded(noise: np.ndarray) -> np.ndarray:
    """noise (...,S'), with zeros for the sources that came later."""
    later = SOURCES.get().count - noise.shape[-1]
    return np.concatenate([noise, np.zeros((*noise.shape[:-1], later))], -1) if later else noise


def _pair(x: Any, y: Any) -> tuple[Enclosure, Enclosure, np.ndarray, bool]:
    """Both operands of equal rank, the unit of the result, and whether it is complex.

    A number of the text is exact where the precision of the other operand can hold it.
    """
    xs, ys = as_enclosure(x), as_enclosure(y)
    if not isinstance(x, Enclosure):
        xs, unit = _constant(xs, ys.unit), ys.unit
    elif not isinstance(y, Enclosure):
        ys, unit = _constant(ys, xs.unit), xs.unit
    else:
        unit = np.minimum(xs.unit, ys.unit)
    rank = max(xs.ndim, ys.ndim)
    xs, ys = (
        v if v.ndim == rank else v.reshape(*(1,) * (rank - v.ndim), *v.shape) for v in (xs, ys)
    )
    return xs, ys, unit, xs.is_complex or ys.is_complex


def _constant(x: Enclosure, unit: np.ndarray) -> Enclosure:
    kinds = {2.0**-24: np.float32, 2.0**-53: np.float64}
    numbers = x.numbers
    inexact = np.stack([numbers.real.astype(kinds[u]) != numbers.real for u in unit], -1)
    size = np.where(inexact, x.mag, 0)  # an infinity is exact
    return Enclosure(x.value, None, size * unit, unit, x.is_complex)


def _noise_sum(*parts: np.ndarray) -> np.ndarray:
    """Σ of noises of different lengths S: sources that came later are zeros in the shorter."""
    shape = np.broadcast_shapes(*(p.shape[:-1] for p in parts))
    total = np.zeros((*shape, max(p.shape[-1] for p in parts)), np.result_type(*parts))
    for p in parts:
        total[..., : p.shape[-1]] += p
    return total


def _made(value: Any, noise: Any, rest: Any, unit: np.ndarray, cplx: bool) -> Enclosure:
    """An Enclosure, its noise and rest broadcast to the shape of its value."""
    value = np.asarray(value, object)
    s = noise.shape[-1] if noise.ndim else 0
    noise = np.broadcast_to(noise, (*value.shape, s)) if s else None
    return Enclosure(value, noise, np.broadcast_to(rest, (*value.shape, len(UNITS))), unit, cplx)


def _add(x: Any, y: Any, sign: int = 1) -> Enclosure:
    x, y, unit, cplx = _pair(x, y)
    value = x.value + y.value if sign > 0 else x.value - y.value
    noise = _noise_sum(x.noise, sign * y.noise)
    out = _made(value, noise, x.rest + y.rest, unit, cplx).once()
    for sum_, other in ((x, y), (y, x)):
        if sum_.terms > 1:  # the sum may have begun with the other
            n, size = sum_.terms - 1, np.broadcast_to(np.abs(other.numbers), out.shape)
            out = out.rounded(math.sqrt(n) * size, min(n, CONFIDENCE * math.sqrt(n)) * size)
            out.terms = n + 2
    return out


def _multiply(x: Any, y: Any) -> Enclosure:
    x, y, unit, cplx = _pair(x, y)
    a, b = x.numbers[..., None], y.numbers[..., None]
    noise = _noise_sum(x.noise * b, y.noise * a)
    rest = x.rest * np.abs(b) + y.rest * np.abs(a) + x.err * y.err
    out = _made(x.value * y.value, noise, rest, unit, cplx)
    if not (x.is_complex and y.is_complex):
        return out.once()
    out = out.made_by(COMPLEX_PRODUCT)
    out.terms = 2  # of each part
    return out


def _divide(x: Any, y: Any) -> Enclosure:
    x, y, unit, cplx = _pair(x, y)
    value = x.value / y.value
    q = np.asarray(np.frompyfunc(complex, 1, 1)(value), complex)
    q = (q if cplx else q.real)[..., None]
    b = y.numbers[..., None]
    noise = _noise_sum(x.noise / b, -q / b * y.noise)
    room = np.abs(b) - y.err
    with np.errstate(divide="ignore", invalid="ignore"):
        bend = np.where(room > 0, (x.err + np.abs(q) * y.err) * y.err / (np.abs(b) * room), np.inf)
    rest = (x.rest + np.abs(q) * y.rest) / np.abs(b) + bend
    out = _made(value, noise, rest, unit, cplx)
    return out.made_by(COMPLEX_QUOTIENT) if y.is_complex else out.once()


def _power(x: Enclosure, l: Any) -> Enclosure:
    """x² as a product, or x^l for integers l >= 0."""
    if isinstance(l, int) and l == 2:
        return _multiply(x, x)
    l = np.asarray(l)
    value = _map(
        lambda v, m: v ** int(m), x.value, np.broadcast_to(l, np.broadcast(x.value, l).shape)
    )
    a, e = x.numbers, x.err
    slope = l * a ** np.maximum(l - 1, 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        relative = np.where(x.mag > 0, e / x.mag, 0)
        growth = np.expm1(l[..., None] * np.log1p(relative)) - l[..., None] * relative
        bend = np.where(x.mag > 0, np.abs(a**l)[..., None] * growth, (l[..., None] > 1) * e**2)
    rest = np.abs(slope)[..., None] * x.rest + bend
    return _made(value, x.noise * slope[..., None], rest, x.unit, x.is_complex)


def _sqrt(x: Enclosure) -> Enclosure:
    y = np.sqrt(x.numbers)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        noise, rest = x.noise / (2 * y), np.where(y > 0, x.rest / (2 * y) + x.err**2 / y**3, np.inf)
    out = Enclosure(_map(lambda v: v.sqrt(), x.value), noise, rest, x.unit)
    return out.once()


def _maximum(x: Any, y: Any) -> Enclosure:
    x, y, _, _ = _pair(x, y)
    return _where(x.numbers >= y.numbers, x, y)


def _where(condition: np.ndarray, x: Any, y: Any) -> Enclosure:
    x, y, unit, cplx = _pair(x, y)
    chosen = condition[..., None]
    noise = _noise_sum(np.where(chosen, x.noise, 0), np.where(chosen, 0, y.noise))
    rest = np.where(chosen, x.rest, y.rest)
    return _made(np.where(condition, x.value, y.value), noise, rest, unit, cplx)


def _compare(ufunc: np.ufunc) -> Callable[[Any, Any], np.ndarray]:
    return lambda x, y: ufunc(*(v.numbers if isinstance(v, Enclosure) else v for v in (x, y)))


def _einsum(subscripts: str, *operands: Any) -> Enclosure:
    xs = [as_enclosure(x) for x in operands]
    unit = np.minimum.reduce([x.unit for x in operands if isinstance(x, Enclosure)])
    value = np.asarray(np.einsum(subscripts, *(x.value for x in xs)), object)
    inputs, output = subscripts.split("->")
    names = inputs.split(",")
    numbers = [x.numbers for x in xs]
    mags = [np.abs(v) for v in numbers]
    parts = []
    for i, x in enumerate(xs):
        if x.noise.shape[-1]:
            letters = [name + "Z" * (i == j) for j, name in enumerate(names)]
            args = [x.noise if i == j else v for j, v in enumerate(numbers)]
            parts.append(np.einsum(f"{','.join(letters)}->{output}Z", *args))
    noise = _noise_sum(*parts) if parts else np.zeros((*value.shape, 0))
    rest = np.zeros((*value.shape, len(UNITS)))
    for p in range(len(UNITS)):
        rests, errs = [x.rest[..., p] for x in xs], [x.err[..., p] for x in xs]
        for i in range(len(xs)):  # linear in the rests; then in pairs of errors, telescoped
            rest[..., p] += np.einsum(subscripts, *mags[:i], rests[i], *mags[i + 1 :])
            for j in range(i + 1, len(xs)):
                args = [*mags[:i], errs[i], *mags[i + 1 : j], errs[j]]
                upper = [m + e for m, e in zip(mags[j + 1 :], errs[j + 1 :], strict=True)]
                rest[..., p] += np.einsum(subscripts, *args, *upper)
    count = sum(x.is_complex for x in xs)
    out = _made(value, noise, rest, unit, count > 0)
    over = "".join(sorted(set(inputs) - set(output) - set(",.")))  # what is summed over
    terms = np.einsum(f"{subscripts}{over}", *numbers)
    n = math.prod(terms.shape[out.ndim :])
    factors = len(xs) - 1  # products in each term
    each = COMPLEX_PRODUCT if count > 1 else (1, 1)
    product = (math.sqrt(factors) * each[0], factors * each[1])
    return out.summed(terms.reshape(*out.shape, n), product)


def _joined(join: Callable) -> Callable[..., Enclosure]:
    def f(arrays: Any, axis: int = 0) -> Enclosure:
        xs = [as_enclosure(x) for x in arrays]
        unit = np.minimum.reduce([x.unit for x in arrays if isinstance(x, Enclosure)])
        axis = axis if axis >= 0 else axis + xs[0].ndim + (join is np.stack)
        noise = join([_padded(x.noise) for x in xs], axis)
        value, rest = join([x.value for x in xs], axis), join([x.rest for x in xs], axis)
        return Enclosure(value, noise, rest, unit, xs[0].is_complex)

    return f


def _conjugate(x: Enclosure) -> Enclosure:
    value = _map(lambda v: acb(v).conjugate(), x.value) if x.is_complex else x.value
    return Enclosure(value, np.conj(x.noise), x.rest, x.unit, x.is_complex)


UFUNCS: dict[np.ufunc, Callable] = {
    np.add: _add,
    np.subtract: lambda x, y: _add(x, y, -1),
    np.multiply: _multiply,
    np.divide: _divide,
    np.power: _power,
    np.negative: lambda x: Enclosure(-x.value, -x.noise, x.rest, x.unit, x.is_complex),
    np.conjugate: _conjugate,
    np.absolute: lambda x: _where(x.numbers < 0, -x, x),
    np.sign: lambda x: np.sign(x.numbers),
    np.exp: Enclosure.exp,
    np.tanh: Enclosure.tanh,
    np.log: Enclosure.log,
    np.sqrt: _sqrt,
    np.maximum: _maximum,
    np.matmul: lambda x, y: _einsum("...i,i->..." if y.ndim == 1 else "...i,io->...o", x, y),
    **{u: _compare(u) for u in (np.equal, np.less, np.less_equal, np.greater)},
}

FUNCTIONS: dict[Any, Callable] = {
    np.einsum: _einsum,
    np.where: _where,
    np.sum: lambda x, axis=None: x.sum(axis),
    np.stack: _joined(np.stack),
    np.concatenate: _joined(np.concatenate),
    np.broadcast_to: lambda x, shape: x._view(lambda a: np.broadcast_to(a, shape)),
    np.zeros_like: lambda x: np.zeros(x.shape, x.dtype),
}
