"""Another reading of the reference: every number a proven ball, with the error budget beside it.

An `Enclosure` is an array of numbers known two ways.  `value` holds balls of 256 bits
(python-flint): the exact result of the text lies inside them, proven.  `err` holds, for each
precision p in PRECISIONS, a bound on how far an honest p-bit evaluation of the same text can be
from it, found by running error analysis: each operation propagates the errors of its operands and adds
the rounding error that the model of chapter 11 grants to it (𝐮 = 2^-p):

    + - × ÷ √ on reals     1 𝐮        complex product   √5 𝐮      complex quotient   5 𝐮
    elementary function    5 𝐮        Σ of n terms      min(n, 6√n) 𝐮 Σ|x_i|
    power in a recurrence  9 𝐮 a step  FFT convolution   3(2+√5) m 𝐮 ‖K‖₂‖u‖₂, size 2^m

One run of the reference on Enclosures gives the certified values and every budget.  No constant is
chosen to make something pass; the sources of these stand in spec/11-accuracy.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from flint import acb, arb, ctx
from numpy.lib.mixins import NDArrayOperatorsMixin

PRECISIONS = (24, 53)  # f32, f64
UNITS = np.array([2.0**-p for p in PRECISIONS])
BITS = 256

ELEMENTARY = 5  # ≥ 2 + √5: a product of two correctly rounded factors (GSS-ACC-3)
COMPLEX_PRODUCT = math.sqrt(5)  # Brent, Percival & Zimmermann 2007
COMPLEX_QUOTIENT = 5
STEP = 9  # ≥ 5 + √5 + 1: Ā rounded, multiplied, added to (GSS-ACC-4)
FFT = 3 * (2 + math.sqrt(5))  # a radix-2 FFT convolution, per level (GSS-ACC-5)
CONFIDENCE = 6  # λ of Higham & Mary 2019: a sum fails with probability below 2 exp(-λ²/2)


@contextmanager
def certifying() -> Iterator[None]:
    """Ball arithmetic at BITS bits inside the block."""
    before, ctx.prec = ctx.prec, BITS
    try:
        yield
    finally:
        ctx.prec = before


def exact(x: Any) -> np.ndarray:
    """Numbers as balls of radius 0."""
    x = np.asarray(x)
    if x.dtype == object:
        return x
    if np.iscomplexobj(x):
        return _map(lambda v: acb(float(v.real), float(v.imag)), x)
    return _map(lambda v: arb(float(v)), x)


def _map(f: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(f, 1, 1)(x), object)


def modulus(x: np.ndarray) -> np.ndarray:
    """|x| of balls or numbers, as binary64."""
    if x.dtype == object:
        return np.asarray(np.frompyfunc(lambda v: abs(complex(v)), 1, 1)(x), float)
    return np.abs(x)


def terms(n: int) -> float:
    """The factor of 𝐮 Σ|x_i| for a sum of n terms in any order."""
    return min(n, CONFIDENCE * math.sqrt(n))


class Enclosure(NDArrayOperatorsMixin):
    """An array of balls `value` (...), its budgets `err` (...,P), and the unit roundoffs (P,)."""

    def __init__(self, value: Any, err: Any = None, unit: np.ndarray = UNITS, cplx: bool = False):
        self.is_complex = cplx or np.iscomplexobj(value)
        self.value = exact(value)
        self.err = np.zeros((*self.value.shape, len(UNITS))) if err is None else err
        self.unit = unit

    # --- what an array is ---------------------------------------------------------------------
    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    dtype = property(lambda self: np.dtype(complex if self.is_complex else float))
    T = property(lambda self: self._view(lambda a: a.T, self.ndim))

    def __len__(self) -> int:
        return len(self.value)

    def _like(self, value: Any, err: Any, cplx: bool | None = None) -> Enclosure:
        return Enclosure(value, err, self.unit, self.is_complex if cplx is None else cplx)

    def _view(self, f: Callable[[np.ndarray], np.ndarray], ndim: int | None = None) -> Enclosure:
        """A rearrangement of the elements: no rounding."""
        err = np.stack([f(self.err[..., i]) for i in range(len(UNITS))], -1)
        return self._like(f(self.value), err)

    def __getitem__(self, index: Any) -> Enclosure:
        return self._view(lambda a: np.asarray(a[index], a.dtype))

    def reshape(self, *shape: int) -> Enclosure:
        return self._view(lambda a: a.reshape(*shape))

    real = property(lambda self: self._part("real"))
    imag = property(lambda self: self._part("imag"))

    def _part(self, name: str) -> Enclosure:
        value = _map(lambda v: getattr(acb(v), name), self.value)
        return self._like(value, self.err, False)

    @property
    def mag(self) -> np.ndarray:
        """|value| (...,1), to stand beside err."""
        return modulus(self.value)[..., None]

    def _numbers(self) -> np.ndarray:
        convert = complex if self.is_complex else float
        return np.asarray(np.frompyfunc(convert, 1, 1)(self.value), convert)

    # --- precision: the methods that refgss.reference.elementary looks for ---------------------
    def wide(self) -> Enclosure:
        unit = np.minimum(self.unit, 2.0**-53)
        return Enclosure(self.value, self.err, unit, self.is_complex)

    def narrow(self, like: Enclosure) -> Enclosure:
        return self._rounded(like.unit, 1)

    def _rounded(self, unit: np.ndarray, factor: Any) -> Enclosure:
        return Enclosure(self.value, self.err + factor * unit * self.mag, unit, self.is_complex)

    def rounded_powers(self, l: Any, like: Enclosure, stepwise: bool) -> Enclosure:
        if not stepwise:
            return self._rounded(like.unit, ELEMENTARY)
        growth = np.expm1((np.asarray(l) + 1)[..., None] * STEP * like.unit)  # ((1+9𝐮)^(l+1)) - 1
        return Enclosure(self.value, self.err + growth * self.mag, like.unit, self.is_complex)

    def fft_allowance(self, k: Any, u: Any) -> Enclosure:
        taps = min(k.shape[1], u.shape[1])
        levels = math.ceil(math.log2(u.shape[1] + taps))
        k_norm = np.sqrt((as_enclosure(k).mag[:, :taps] ** 2).sum((1, 2)))  # (H,)
        u_norm = np.sqrt((as_enclosure(u).mag ** 2).sum((1, 3)))  # (B,H)
        norms = (k_norm * u_norm)[:, None, :, None]  # (B,1,H,1)
        return self._like(self.value, self.err + FFT * levels * self.unit * norms)

    def to_complex(self, im: Any) -> Enclosure:
        im = as_enclosure(im)
        value = np.frompyfunc(acb, 2, 1)(self.value, im.value)
        unit = np.minimum(self.unit, im.unit)
        return Enclosure(np.asarray(value, object), np.hypot(self.err, im.err), unit, True)

    # --- elementary functions ------------------------------------------------------------------
    def _elementary(self, f: Callable, slope: Any, scale: Any = None) -> Enclosure:
        """f, with error slope·err and 5𝐮 of `scale` (of |f| if None)."""
        out = self._like(_map(f, self.value), self.err)
        size = out.mag if scale is None else np.maximum(out.mag, scale)
        out.err = slope(out.mag) + ELEMENTARY * self.unit * size
        return out

    def exp(self) -> Enclosure:
        return self._elementary(lambda v: v.exp(), lambda y: y * np.expm1(self.err))

    def log(self) -> Enclosure:
        relative = np.minimum(self.err / self.mag, 1)
        with np.errstate(divide="ignore"):
            return self._elementary(lambda v: v.log(), lambda y: -np.log1p(-relative))

    def phi(self) -> Enclosure:
        def f(z: Any) -> Any:
            return z.expm1() / z if z != 0 else arb(1)

        slope = as_enclosure(self).phi_slopes()[0]
        return self._elementary(f, lambda y: self.err * (slope + self.err), self.phi_scale())

    def phi_derivative(self) -> Enclosure:
        slope = as_enclosure(self).phi_slopes()[1]
        return self._elementary(
            _phi_derivative, lambda y: self.err * (slope + self.err), self.phi_scale()
        )

    def phi_slopes(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds on |φ'| and |φ''| in the left half-plane."""
        small = np.minimum(1, 2 / np.maximum(self.mag, 1e-300))
        return small / 2 + small / 2 * (self.mag > 1), np.minimum(small, 1 / 3 + (self.mag > 1))

    def phi_scale(self) -> np.ndarray:
        return np.minimum(1, 1 / np.maximum(self.mag, 1))

    def normal_cdf(self) -> Enclosure:
        half = arb(2).sqrt()
        return self._elementary(
            lambda x: (-x / half).erfc() / 2, lambda y: self.err * (self._pdf() + self.err), 1.0
        )

    def normal_pdf(self) -> Enclosure:
        tau = (2 * arb.pi()).sqrt()
        x = self.mag
        out = self._elementary(
            lambda v: (-v * v / 2).exp() / tau, lambda y: self.err * (x * y + self.err)
        )
        out.err = out.err + x**2 * self.unit * out.mag  # the exponent x²/2, rounded
        return out

    def _pdf(self) -> np.ndarray:
        return np.exp(-0.5 * self.mag**2) / math.sqrt(2 * math.pi)

    # --- reductions ----------------------------------------------------------------------------
    def sum(self, axis: Any = None, keepdims: bool = False) -> Enclosure:
        axes = tuple(range(self.ndim)) if axis is None else np.atleast_1d(axis)
        axes = tuple(int(a) % self.ndim for a in axes)
        n = math.prod(self.shape[a] for a in axes)
        mag = self.mag.sum(axes, keepdims=keepdims)
        value = np.asarray(self.value.sum(axes, keepdims=keepdims), object)
        return self._like(value, self.err.sum(axes, keepdims=keepdims) + terms(n) * self.unit * mag)

    def mean(self, axis: int, keepdims: bool) -> Enclosure:
        return self.sum(axis, keepdims) / self.shape[axis]

    def max(self, axis: int, keepdims: bool) -> Enclosure:
        index = np.argmax(self._numbers(), axis, keepdims=True)
        return self._view(lambda a: np.take_along_axis(a, index, axis))

    # --- NumPy's functions, on Enclosures ------------------------------------------------------
    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *args: Any, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs or ufunc not in UFUNCS:
            return NotImplemented
        return UFUNCS[ufunc](*args)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function not in FUNCTIONS:
            return NotImplemented
        return FUNCTIONS[function](*args, **kwargs)


def _phi_derivative(z: Any) -> Any:
    """(e^z - φ(z))/z; where balls would cancel, twice the bits."""
    if z == 0:
        return arb(1) / 2
    before, ctx.prec = ctx.prec, 4 * BITS
    try:
        return (z.exp() - z.expm1() / z) / z
    finally:
        ctx.prec = before


def as_enclosure(x: Any) -> Enclosure:
    return x if isinstance(x, Enclosure) else Enclosure(x)


def _pair(x: Any, y: Any) -> tuple[Enclosure, Enclosure, np.ndarray, bool]:
    """Both operands (numbers are exact, rounded to the other's precision), the unit, complexity."""
    xs, ys = as_enclosure(x), as_enclosure(y)
    if not isinstance(x, Enclosure):
        xs, unit = _constant(xs, ys.unit), ys.unit
    elif not isinstance(y, Enclosure):
        ys, unit = _constant(ys, xs.unit), xs.unit
    else:
        unit = np.minimum(xs.unit, ys.unit)
    # broadcasting of err needs equal ranks in front of its last axis
    rank = max(xs.ndim, ys.ndim)
    xs, ys = (
        v if v.ndim == rank else v.reshape((1,) * (rank - v.ndim) + v.shape) for v in (xs, ys)
    )
    return xs, ys, unit, xs.is_complex or ys.is_complex


def _constant(x: Enclosure, unit: np.ndarray) -> Enclosure:
    """A number of the text, exact where `unit` can hold it, else rounded."""
    numbers = x._numbers()
    inexact = np.stack([numbers.real.astype(_TYPES[u]) != numbers.real for u in unit], -1)
    return Enclosure(x.value, inexact * unit * x.mag, unit, x.is_complex)


_TYPES = {2.0**-24: np.float32, 2.0**-53: np.float64}


def _add(x: Any, y: Any, sign: int = 1) -> Enclosure:
    x, y, unit, cplx = _pair(x, y)
    value = x.value + y.value if sign > 0 else x.value - y.value
    out = Enclosure(value, x.err + y.err, unit, cplx)
    out.err = out.err + unit * (out.mag + out.err)
    return out


def _multiply(x: Any, y: Any) -> Enclosure:
    x, y, unit, cplx = _pair(x, y)
    rounding = COMPLEX_PRODUCT if x.is_complex and y.is_complex else 1
    propagated = x.mag * y.err + y.mag * x.err + x.err * y.err
    out = Enclosure(x.value * y.value, propagated, unit, cplx)
    out.err = out.err + rounding * unit * (out.mag + out.err)
    return out


def _divide(x: Any, y: Any) -> Enclosure:
    x, y, unit, cplx = _pair(x, y)
    out = Enclosure(x.value / y.value, None, unit, cplx)
    room = y.mag - y.err
    with np.errstate(divide="ignore", invalid="ignore"):
        propagated = np.where(room > 0, (x.err + out.mag * y.err) / room, np.inf)
    rounding = COMPLEX_QUOTIENT if y.is_complex else 1
    out.err = propagated + rounding * unit * (out.mag + propagated)
    return out


def _power(x: Enclosure, l: Any) -> Enclosure:
    """x² as a product, or x^l for integers l >= 0, where the relative error grows l-fold."""
    if isinstance(l, int) and l == 2:
        return _multiply(x, x)
    l = np.asarray(l)
    value = np.asarray(np.frompyfunc(lambda v, m: v ** int(m), 2, 1)(x.value, l), object)
    out = Enclosure(value, None, x.unit, x.is_complex)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.expm1(l[..., None] * np.log1p(x.err / x.mag))
    at_zero = np.where(l[..., None] == 0, 0.0, x.err)
    out.err = np.where(x.mag > 0, out.mag * relative, at_zero)
    return out


def _sqrt(x: Enclosure) -> Enclosure:
    out = x._like(_map(lambda v: v.sqrt(), x.value), x.err)
    with np.errstate(divide="ignore", invalid="ignore"):
        out.err = np.where(out.mag > 0, x.err / out.mag, np.sqrt(x.err)) + x.unit * out.mag
    return out


def _maximum(x: Any, y: Any) -> Enclosure:
    x, y, _, _ = _pair(x, y)
    first = x._numbers() >= y._numbers()
    return _where(first, x, y)


def _where(condition: np.ndarray, x: Any, y: Any) -> Enclosure:
    x, y, unit, cplx = _pair(x, y)
    value = np.where(condition, x.value, y.value)
    return Enclosure(value, np.where(condition[..., None], x.err, y.err), unit, cplx)


def _compare(ufunc: np.ufunc) -> Callable[[Any, Any], np.ndarray]:
    return lambda x, y: ufunc(*(v._numbers() if isinstance(v, Enclosure) else v for v in (x, y)))


def _einsum(subscripts: str, *operands: Any) -> Enclosure:
    xs = [as_enclosure(x) for x in operands]
    unit = np.minimum.reduce([x.unit for x in operands if isinstance(x, Enclosure)])
    value = np.asarray(np.einsum(subscripts, *(x.value for x in xs)), object)
    inputs, output = subscripts.replace("...", "").split("->")
    sizes = {
        s: n
        for x, names in zip(xs, inputs.split(","), strict=True)
        for s, n in zip(reversed(names), reversed(x.shape), strict=False)
    }
    n = math.prod(size for s, size in sizes.items() if s not in output)
    count = sum(x.is_complex for x in xs)
    rounding = terms(n) + (len(xs) - 1) * (COMPLEX_PRODUCT if count > 1 else 1)
    mags = [x.mag[..., 0] for x in xs]
    total = np.einsum(subscripts, *mags)
    err = np.empty((*value.shape, len(UNITS)))
    for p in range(len(UNITS)):
        errs = [x.err[..., p] for x in xs]
        upper = [m + e for m, e in zip(mags, errs, strict=True)]
        # Π(m+e) - Π m, telescoped so that nothing cancels
        mixed = sum(
            np.einsum(subscripts, *upper[:i], errs[i], *mags[i + 1 :]) for i in range(len(xs))
        )
        err[..., p] = mixed + rounding * unit[p] * (total + mixed)
    return Enclosure(value, err, unit, count > 0)


def _joined(join: Callable) -> Callable[..., Enclosure]:
    def f(arrays: Any, axis: int = 0) -> Enclosure:
        xs = [as_enclosure(x) for x in arrays]
        unit = np.minimum.reduce([x.unit for x in arrays if isinstance(x, Enclosure)])
        axis = axis if axis >= 0 else axis + xs[0].ndim
        value = join([x.value for x in xs], axis)
        return Enclosure(value, join([x.err for x in xs], axis), unit, xs[0].is_complex)

    return f


UFUNCS: dict[np.ufunc, Callable] = {
    np.add: _add,
    np.subtract: lambda x, y: _add(x, y, -1),
    np.multiply: _multiply,
    np.divide: _divide,
    np.power: _power,
    np.negative: lambda x: x._like(-x.value, x.err),
    np.conjugate: lambda x: (
        x._like(_map(lambda v: acb(v).conjugate(), x.value), x.err) if x.is_complex else x
    ),
    np.exp: Enclosure.exp,
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
