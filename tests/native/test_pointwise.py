"""Layer norm, GELU and the dense map in C++, at sizes that fill no tile."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.hard_cases import Case
from reference.judging import assert_within_budget

from refgss import ops

native = pytest.importorskip("refgss.native")

DTYPES = [np.float32, np.float64]


def unit(dtype):
    return np.finfo(dtype).eps / 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_is_exact_everywhere(dtype):
    """Φ to 5𝐮 absolutely (GSS-ACC-3), and its left tail to a relative error that grows as x²."""
    x = np.concatenate([np.linspace(-13, 13, 20001), [-40, -1e30, 0, 40, 1e30, 1e-30]]).astype(
        dtype
    )
    exact = np.array([float(v) * 0.5 * math.erfc(-float(v) / math.sqrt(2)) for v in x])
    error = np.abs(native.gelu(x[None])[0] - exact)
    assert np.all(error <= 6 * unit(dtype) * np.abs(x) + np.finfo(dtype).tiny)
    tail = (x < 0) & (x > (-12 if dtype == np.float32 else -13))
    granted = (16 + 2 * x[tail].astype(float) ** 2) * unit(dtype) * np.abs(exact[tail])
    assert np.all(error[tail] <= granted + np.finfo(dtype).tiny * 13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_beyond_the_numbers(dtype):
    y = native.gelu(np.array([np.nan, np.inf, -np.inf, 1], dtype))
    assert np.isnan(y[0]) and y[1] == np.inf and not np.isfinite(y[2]) and np.isfinite(y[3])


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40)
@given(data=st.data())
def test_products_of_any_size(dtype, data):
    rows = data.draw(st.sampled_from([0, 1, 2, 3, 4, 5, 12, 13, 97, 193]))
    i = data.draw(st.sampled_from([0, 1, 7, 128, 129, 513, 1030]))
    o = data.draw(st.sampled_from([0, 1, 8, 31, 32, 33, 520]))
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((rows, i)).astype(dtype), rng.standard_normal((i, o)).astype(dtype)
    b, dy = rng.standard_normal(o).astype(dtype), rng.standard_normal((rows, o)).astype(dtype)

    def check(got, a, b):
        want, size = a.astype(float) @ b.astype(float), np.abs(a).astype(float) @ np.abs(b)
        k = a.shape[1]
        granted = (min(k, 6 * k**0.5) + 1) * (unit(dtype) + unit(np.float64))
        assert got.shape == want.shape
        assert np.all(np.abs(got - want) <= granted * size)

    check(native.dense(x, w), x, w)
    dx, dw, db = native.dense_vjp(x, w, b, dy)
    check(dx, dy, w.T)
    check(dw, x.T, dy)
    check(db[None], np.ones((1, rows), dtype), dy)
    np.testing.assert_array_equal(native.dense(x, w, b), native.dense(x, w) + b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_meet(dtype):
    """A row's result does not depend on the rows beside it, NaN or not (GSS-NFI-11)."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((30, 70)).astype(dtype), rng.standard_normal((70, 40)).astype(dtype)
    maps = {
        "layer_norm": lambda x: native.layer_norm(x, x[3], x[4], eps=1e-5),
        "dense": lambda x: native.dense(x, w),
        "gelu": native.gelu,
    }
    for name, f in maps.items():
        clean, dirty = f(x), x.copy()
        dirty[17, 5] = np.nan
        y = f(dirty)
        others = np.arange(30) != 17
        np.testing.assert_array_equal(y[others], clean[others], name)
        assert np.isnan(y[17, 5]) and (name == "gelu" or np.isnan(y[17]).all())


@pytest.mark.parametrize("shape", [(40, 70, 40), (200, 600, 33)])
def test_products_of_all_magnitudes(shape):
    """Numbers of any size keep their digits, and meet those of their own row and column only."""
    rows, terms, columns = shape
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((rows, terms), (terms, columns)))
    clean = native.dense(x, w)
    x[3] *= np.float32(2.0**-105)
    x[4] *= np.float32(2.0**60)
    x[5, 7], x[6, 8], x[7, 9] = np.inf, -np.inf, 3e37
    w[:, 2] *= np.float32(2.0**-20)
    w[:, 3] *= np.float32(2.0**40)
    w[12, 4], w[13, 5] = np.inf, np.nan
    y = native.dense(x, w)
    with np.errstate(all="ignore"):
        a, b = x.astype(float), w.astype(float)
        want, size = a @ b, np.abs(a) @ np.abs(b)
        want[np.abs(want) > np.finfo(np.float32).max] *= np.inf
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(want))
    np.testing.assert_array_equal(y[~finite], want[~finite])
    granted = 6 * terms**0.5 * unit(np.float32) * size + terms * np.finfo(np.float32).tiny
    assert np.all(np.abs(y[finite] - want[finite]) <= granted[finite])
    same = np.ix_(np.r_[0:3, 8:rows], np.r_[0:2, 6:columns])
    np.testing.assert_array_equal(y[same], clean[same])


@pytest.mark.parametrize("sparse", ["rows", "columns", "both"])
@pytest.mark.parametrize("terms", [1, 2])
def test_sums_of_one_product_and_of_two(sparse, terms):
    """A rounding for each product and each sum, wherever in long rows the terms are."""
    rng = np.random.default_rng(0)

    def keep(rows):
        reach = 20 if sparse == "both" else 100  # so that they meet
        mask = np.zeros((rows, 100), bool)
        mask[:, :: 100 // reach] = rng.permuted(
            np.tile(np.arange(reach) < terms, (rows, 1)), axis=1
        )
        return mask

    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((64, 100), (100, 96)))
    if sparse != "columns":
        x[~keep(64)] = 0
    if sparse != "rows":
        w[~keep(96).T] = 0
    a, b = x.astype(float), w.astype(float)
    want, size = a @ b, np.abs(a) @ np.abs(b)
    sums = ((a != 0).astype(int) @ (b != 0)) > 1
    assert np.count_nonzero(size) > 64 and sums.any() == (terms > 1)
    # 2⁻⁵: where numbers are split, five small products, 2⁻⁷ together, are rounded before
    granted = (1 + 2**-5) * unit(np.float32) * (size + sums * np.abs(want))
    assert np.all(np.abs(native.dense(x, w) - want) <= granted)


@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("shape", [(3, 1), (2, 3, 5), (2, 33), (3, 260)])
def test_norms_of_any_width_are_within_their_budgets(precision, shape):
    rng = np.random.default_rng(0)
    x = (100 + rng.standard_normal(shape)).astype(np.float32)
    weight, bias = rng.standard_normal((2, shape[-1]), np.float32)
    given = {"x": x, "weight": weight, "bias": bias}
    gradient = given | {"dy": rng.standard_normal(shape, np.float32)}
    for case in (
        Case("layer_norm", given, {"eps": 1e-5}),
        Case("layer_norm_vjp", gradient, {"eps": 1e-5}),
    ):
        got = ops.call(native, case.op, case.at(precision), case.options)
        assert_within_budget(case, got, precision)
