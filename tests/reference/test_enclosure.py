"""The exact reading itself: proven values, and an error model that honest arithmetic stays inside.

Every operation is one text with two readings.  One is given operands that are wrong by as much as
they are declared to be, and computes in working precision; the other derives the budget.
"""

from functools import reduce

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refgss import ops, reference
from refgss.conformance.vectors import cases, enclosure
from refgss.conformance.vectors.certify import expected
from refgss.conformance.vectors.enclosure import Enclosure, certifying
from refgss.reference import elementary as el

from . import hard_cases
from .judging import assert_close, assert_overlap, lifted, read

KINDS = {"f32": (np.float32, 2.0**-24), "f64": (np.float64, 2.0**-53)}
DRAW = cases.Draw("enclosure")

# --- every operation, on operands in error -------------------------------------------------------


def positive(x):
    return np.maximum(x * x, np.asarray(2**-10, x.dtype))


def away_from_zero(x):
    return np.where(x == 0, 1, x)


def left(z):
    """Into the left half-plane, where Λ is."""
    return el.to_complex(-positive(z.real), z.imag)


REAL = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / away_from_zero(y),
    "negative": lambda x, y: -x,
    "square": lambda x, y: x**2,
    "a constant": lambda x, y: x * 0.1 + 3,
    "sqrt": lambda x, y: np.sqrt(positive(x)),
    "log": lambda x, y: np.log(positive(x)),
    "exp": lambda x, y: np.exp(x),
    "tanh": lambda x, y: np.tanh(x),
    "absolute": lambda x, y: np.abs(x) * y,
    "sign": lambda x, y: np.sign(positive(x)) * y,
    "maximum": lambda x, y: np.maximum(x, y),
    "where": lambda x, y: np.where(np.array([True, False, True]), x, y),
    "compare": lambda x, y: np.where((x < 9) & (x <= 9) & (x > -9), x, y),
    "sum": lambda x, y: (x * y).sum(-1),
    "sum, as a function": lambda x, y: np.sum(x + np.zeros_like(y), 0),
    "broadcast": lambda x, y: np.broadcast_to(x, (2, 3)) * y,
    "mean": lambda x, y: x.mean(-1, keepdims=True),
    "max": lambda x, y: x.max(-1, keepdims=True),
    "matmul": lambda x, y: x[None] @ y.reshape(3, 1),
    "einsum": lambda x, y: np.einsum("i,j,i->j", x, y, x),
    "Φ": lambda x, y: el.normal_cdf(x),
    "Φ′": lambda x, y: el.normal_pdf(x),
    "join": lambda x, y: np.concatenate([np.stack([x, y]), np.stack([y, x])], 1),
    "to complex": lambda x, y: el.to_complex(x, y),
    "wide": lambda x, y: el.narrow(el.wide(x) * el.wide(y), x),
}
COMPLEX = {
    "add": lambda x, y: x + y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / away_from_zero(y),
    "conjugate": lambda x, y: np.conj(x) * y,
    "by a real": lambda x, y: x * y.real,
    "parts": lambda x, y: x.real - y.imag,
    "exp": lambda x, y: np.exp(left(x)),
    "φ": lambda x, y: el.phi(left(x)),
    "φ′": lambda x, y: el.phi_derivative(left(x)),
    "einsum": lambda x, y: np.einsum("i,j->ij", x, y),
    "dot": lambda x, y: np.einsum("i,i->", x, np.conj(y)),
    "power": lambda x, y: el.rounded_powers(
        el.wide(x)[:, None] ** np.arange(4), np.arange(4), x, False
    ),
}
OPERANDS = {
    "f": (REAL, hard_cases.tensors(3)),
    "c": (COMPLEX, hard_cases.tensors(3, 2).map(lambda x: ops.from_real("c", x))),
}


def wrong_by(x, factor, signs, precision):
    """x in working precision, off by `factor`·𝐮·|x|; unless that is 0, rounded by one 𝐮 more."""
    kind, unit = KINDS[precision]
    off = x.astype(np.result_type(x, np.float64)) * (1 + factor * unit * signs)
    return off.astype(np.result_type(kind, 1j) if np.iscomplexobj(x) else kind)


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, (t, _) in OPERANDS.items() for n in t])
def test_honest_arithmetic_stays_inside(kind, name, precision):
    text, operands = OPERANDS[kind][0][name], OPERANDS[kind][1]

    @settings(max_examples=30)
    @given(operands, operands, st.sampled_from([0, 1, 100]), arrays(np.int8, (2, 3)))
    def check(x, y, factor, signs):
        declared = factor and factor + 1
        with certifying():
            exact = [Enclosure(v.astype(np.result_type(v, np.float64))) for v in (x, y)]
            sizes = [declared * np.abs(v.numbers) for v in exact]
            off = [v.rounded(size, size) for v, size in zip(exact, sizes, strict=True)]
            wanted = {"y": expected(text(*off))}
        off = [
            wrong_by(v, factor, np.sign(s), precision) for v, s in zip((x, y), signs, strict=True)
        ]
        with np.errstate(all="ignore"):
            got = text(*off)
        assert got.real.dtype == KINDS[precision][0]
        assert_close(wanted, {"y": got}, precision)

    check()


def test_every_operation_of_an_enclosure_is_tried(monkeypatch):
    used = set()

    def spied(function, operation):
        return lambda *args, **kwargs: used.add(function) or operation(*args, **kwargs)

    for table in (enclosure.UFUNCS, enclosure.FUNCTIONS):
        for function, operation in list(table.items()):
            monkeypatch.setitem(table, function, spied(function, operation))
    with certifying():
        for texts, _ in OPERANDS.values():
            x = Enclosure(np.array([1.0, 2.0, 3.0]), cplx=texts is COMPLEX)
            for text in texts.values():
                text(x, x)
    assert used == enclosure.UFUNCS.keys() | enclosure.FUNCTIONS.keys()


# --- what the model knows ------------------------------------------------------------------------


def test_an_error_that_two_numbers_share_cancels():
    with certifying():
        x = Enclosure(np.array([1.0, 3.0])).rounded(100.0, 100.0)
        y = Enclosure(np.array([2.0, 5.0]))
        np.testing.assert_array_equal((x - x).err, 0)
        rounding = (x.mag + y.mag + x.mag) * x.unit  # of x + y, and of the difference
        assert np.all(((x + y) - x - y).err <= 2 * rounding)
        assert np.all((x + y).err >= 100 * x.unit)


def test_wide_means_binary64_at_every_precision():
    with certifying():
        x = Enclosure(np.array([1.25]))
        y = el.wide(x) * el.wide(x)
        np.testing.assert_array_equal(y.err, 1.25**2 * 2.0**-53)
        slim = el.narrow(y, x).err
        assert np.all(slim >= 1.25**2 * x.unit) and np.all(slim <= 1.25**2 * (x.unit + 2.0**-53))


def test_a_divisor_that_may_be_zero_leaves_no_claim():
    with certifying():
        x = Enclosure(np.array([1.0])) / Enclosure(np.array([2.0**-30])).rounded(1.0, 1.0)
        in_binary32, in_binary64 = x.err[0]
        assert in_binary32 == np.inf and in_binary64 < 2.0**8


@pytest.mark.parametrize("n", [1, 8, 36, 1000])
def test_sums_may_be_added_in_any_order(n):
    terms = DRAW(n)
    with certifying():
        wanted = {"y": expected(Enclosure(terms.astype(float)).sum())}
    orders = {"ascending": np.sort(terms), "descending": np.sort(terms)[::-1], "drawn": terms}
    for order in orders.values():
        chain = reduce(lambda s, v: np.float32(s + v), order, np.float32(0))
        assert_close(wanted, {"y": chain}, "f32")
        assert_close(wanted, {"y": order.sum()}, "f32")


@pytest.mark.parametrize("label", ["slow", "undamped", "fast", "random"])
def test_a_recurrence_has_the_powers_that_the_model_grants(label):
    """Ā rounded once, then multiplied and multiplied in binary32."""
    lam = (cases.HARD_MODES | {"random": (DRAW.modes(4), "")})[label][0]
    z, l = ops.from_real("lam", lam.astype(float)), np.arange(60)
    with certifying():
        x = Enclosure(z)
        exact = np.exp(el.wide(x)[:, None] * l)
        wanted = {"y": expected(el.rounded_powers(exact, l, x, True))}
    a, powers = np.exp(z).astype(np.complex64), [np.ones(len(z), np.complex64)]
    for _ in l[1:]:
        powers.append(powers[-1] * a)
    assert_close(wanted, {"y": np.stack(powers, -1)}, "f32")


@pytest.mark.parametrize(("length", "taps"), [(1, 1), (33, 33), (64, 64), (64, 5), (13, 40)])
@pytest.mark.parametrize("spike", [1, 1e6])
@pytest.mark.parametrize("precision", KINDS)
def test_a_fast_convolution_stays_inside(length, taps, spike, precision):
    u, k = DRAW(2, length, 2), DRAW(2, taps)
    u[0, -1, 0] *= spike  # an FFT spreads its error over the row, back to the first position
    case = hard_cases.Case("causal_conv", {"u": u, "k": k}, {})
    with certifying():
        wanted = {"y": expected(read("causal_conv", lifted(case), {})["y"])}
    u, k = case.at(precision).values()
    size = scipy.fft.next_fast_len(length + taps)
    spectrum = scipy.fft.rfft(u, size, axis=1) * scipy.fft.rfft(k, size, axis=1).T
    assert_close(wanted, {"y": scipy.fft.irfft(spectrum, size, axis=1)[:, :length]}, precision)


# --- proven values -------------------------------------------------------------------------------


@pytest.mark.parametrize("subscripts", ["ij,jk->ik", "ij,jk,ik->", "ij,kj->ikj", "ij,jk->"])
def test_products_of_integers_are_exact(subscripts):
    inputs = subscripts.split("->")[0].split(",")
    operands = [np.arange(9).reshape(3, 3) - i for i, _ in enumerate(inputs)]
    with certifying():
        got = np.einsum(subscripts, *(Enclosure(x.astype(float)) for x in operands))
        assert_overlap(got, np.einsum(subscripts, *operands).astype(float))


COSTLY = {"layers": 6, "lm_logits": 4, "lm_loss": 4}


@pytest.mark.parametrize("name", hard_cases.FORWARD)
def test_more_bits_give_the_same_numbers(name):
    """The balls of 512 bits meet those of 256: a bug of precision would pull them apart."""
    forward = hard_cases.FORWARD[name]

    @settings(max_examples=COSTLY.get(name, 25))
    @given(st.one_of(forward, hard_cases.gradients(forward)))
    def check(case):
        found = []
        for bits in (256, 512):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(enclosure, "BITS", bits)
                with certifying():
                    found.append(read(case.op, lifted(case), case.options))
        with certifying():
            for output, y in found[0].items():
                assert_overlap(y, found[1][output])

    check()


def test_the_reference_reads_the_same_text():
    """Nothing in the reference asks what kind of array it has been given."""
    x = DRAW(2, 3)
    with certifying():
        exact = reference.gelu(Enclosure(x.astype(float)))
    assert isinstance(exact, Enclosure)
    np.testing.assert_allclose(
        reference.gelu(x.astype(float)), exact.numbers, rtol=0, atol=2.0**-49
    )
