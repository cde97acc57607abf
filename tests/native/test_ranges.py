"""Small and large numbers: what underflows or overflows on the way is still within its budget."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import hard_cases
from reference.judging import assert_within_budget

from refgss import config as cfg
from refgss import ops, reference
from refgss.model import initialize

native = pytest.importorskip("refgss.native")

# of each op, the arguments in which it is linear, or linear for each of several
LINEAR = {
    "ssm_kernel": ("c", "dk"),
    "causal_conv": ("u", "k", "dy"),
    "ssm_scan": ("u", "state", "c", "dy", "dstate"),
    "ssm_step": ("u", "state", "c", "dy", "dstate"),
    "dense": ("x", "weight", "bias", "dy"),
}
TOGETHER = {"state": "u", "dstate": "dy", "bias": None}  # a sum: of one magnitude


@st.composite
def scaled(draw, name):
    forward = hard_cases.FORWARD[name]
    case = draw(st.one_of(forward, hard_cases.gradients(forward)))
    powers = {k: draw(st.sampled_from([-66, -33, 0, 33, 66])) for k in LINEAR[name]}
    powers |= {k: powers[v] if v else 0 for k, v in TOGETHER.items() if k in powers}
    scales = {k: np.float32(2.0**p) for k, p in powers.items() if k in case.tensors}
    tensors = {k: x * scales.get(k, np.float32(1)) for k, x in case.tensors.items()}
    return replace(case, tensors=tensors)


@pytest.mark.parametrize("name", LINEAR)
def test_budgets_hold_at_all_magnitudes(name):
    @settings(max_examples=60)
    @given(scaled(name), st.sampled_from(["f32", "f64"]))
    def check(case, precision):
        sizes = [np.abs(y).max(initial=0) for y in case.run("f64").values()]
        assume(max(sizes) < 2.0**120)
        assert_within_budget(
            case, ops.call(native, case.op, case.at(precision), case.options), precision
        )

    check()


def scan(u, lam, c=1, state=None, dtype=np.float32):
    u = np.asarray(u, dtype).reshape(1, -1, 1)
    lam = np.asarray(lam, np.result_type(dtype, 1j)).reshape(-1)
    c = np.full((1, len(lam)), c, lam.dtype)
    return native.ssm_scan(u, lam, c, state, delta=dtype(1), form=cfg.GSS)


@pytest.mark.parametrize("length", [66, 300, 5000])
def test_a_step_that_overflows_a_transform_spoils_nothing_before_it(length):
    u = np.ones(length)
    t = length - 1 if length == 66 else length // 2
    u[t] = 3e38
    y, _ = scan(u, -0.125)
    calm, _ = scan(u[:t], -0.125)
    np.testing.assert_array_equal(y[0, :t], calm[0])
    exact, _ = scan(u, -0.125, dtype=np.float64)
    budget = 2.0**-24 * 100 * 3e38  # by norms (GSS-ACC-5)
    assert np.abs(y[0, t:] - exact[0, t:]).max() < budget
    assert y[0, t, 0] == pytest.approx(exact[0, t, 0], rel=1e-5)


def test_after_a_large_step_comes_a_nan():
    u = np.ones(300)
    u[100], u[200] = 3e38, np.nan
    y, x = scan(u, -0.125)
    np.testing.assert_array_equal(y[0, :100], scan(u[:100], -0.125)[0][0])
    assert np.isfinite(y[0, :200]).all() and np.isnan(y[0, 200:]).all() and np.isnan(x).all()
    assert y[0, 100, 0] > 2e38


@pytest.mark.parametrize("length", [5, 66, 200])
@pytest.mark.parametrize("value", [3e38, np.nan, np.inf])
def test_no_state_remembers_nothing(length, value):
    u = np.full((2, length, 3), value, np.float32)
    lam, c = np.zeros(0, np.complex64), np.zeros((3, 0), np.complex64)
    kind = {"delta": np.float32(1), "form": cfg.GSS}
    for backend in (native, reference):
        assert not backend.ssm_scan(u, lam, c, None, **kind)[0].any()
        assert not backend.ssm_step(u[:, 0], lam, c, None, **kind)[0].any()


@pytest.mark.parametrize("value", [3e38, np.nan, np.inf])
@pytest.mark.parametrize("block", [1, 4, 100])
def test_a_stepper_without_state_remembers_nothing(value, block):
    lam, c = np.zeros(0, np.complex64), np.zeros((3, 0), np.complex64)
    prepared = native.Prepared(lam, c, 100, delta=np.float32(1), form=cfg.GSS)
    stepper = native.Stepper(prepared, 2, block=block)
    for _ in range(9):
        assert not stepper.step(np.full((2, 3), value, np.float32)).any()
    assert stepper.state.shape == (2, 3, 0)


@pytest.mark.parametrize("value", [3e38, np.nan, np.inf])
def test_a_decoder_without_state_remembers_nothing(value):
    """A NaN in one embedding reaches the logits of that token, and of no later one."""
    config = cfg.LMConfig(cfg.PAPER, 2)
    sizes = {"width": 16, "gate": 16, "channels": 8, "states": 1}
    params = initialize(config, sizes, vocabulary=9, seed=1)
    params = {k: x[..., :0] if k[-2:] in (".a", ".b", ".c") else x for k, x in params.items()}
    params["embedding.weight"] = params["embedding.weight"].copy()
    params["embedding.weight"][3] = value
    tokens = np.array([[1, 3, 2, 5, 6, 7, 3, 1]])
    with np.errstate(all="ignore"):
        want, _ = reference.lm_logits(params, tokens, config=config)
    assert np.isnan(want).any(axis=2).tolist() == [[t == 3 for t in tokens[0]]]
    one, two = (native.Decoder(params, config) for _ in range(2))
    got = np.stack([one.step(tokens[:, t]) for t in range(8)], axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(two.prefill(tokens), want[:, -1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(two.step(tokens[:, 0]), two.step(tokens[:, 0]))


@pytest.mark.parametrize("channels", [1, 5, 40])
@pytest.mark.parametrize("length", [66, 500])
@pytest.mark.parametrize("powers", [(125, 0), (100, -100), (-100, 100), (-120, 0), (-60, -60)])
def test_rows_of_any_magnitude_in_one_convolution(length, channels, powers):
    rng = np.random.default_rng(length)
    u, dy = rng.standard_normal((2, 2, length, channels)).astype(np.float32) / length
    k = rng.standard_normal((channels, length)).astype(np.float32)
    plain = native.causal_conv(u, k), *native.causal_conv_vjp(u, k, dy)
    u[1, :, ::2] *= np.float32(2.0 ** powers[0])
    k[::2] *= np.float32(2.0 ** powers[1])
    both = np.float32(2.0 ** (powers[0] + powers[1]))
    y = native.causal_conv(u, k)
    for b, h in np.ndindex(2, channels):
        scale = (2.0 ** powers[0] if b else 1) * 2.0 ** powers[1] if h % 2 == 0 else 1
        norm = np.linalg.norm(plain[0][b, :, h]) + 1
        assert np.abs(y[b, :, h] / scale - plain[0][b, :, h]).max() <= 1e-5 * norm, (b, h)
    du, _ = native.causal_conv_vjp(u, k, dy)
    norm = np.linalg.norm(plain[1]) + 1
    assert np.abs(du[:, :, ::2] / 2.0 ** powers[1] - plain[1][:, :, ::2]).max() <= 1e-5 * norm
    np.testing.assert_array_equal(du[:, :, 1::2], plain[1][:, :, 1::2])
    assert np.isfinite(y).all() and both > 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 5, 40])
@pytest.mark.parametrize("taps", [3, 300])
@pytest.mark.parametrize("cuts", [[1] * 40, [700], [64, 1, 299, 36, 300]])
def test_a_stream_takes_rows_of_any_magnitude(dtype, channels, taps, cuts):
    """As `causal_conv` does, whatever came before in another push; calm rows keep their bits."""
    rng, top = np.random.default_rng(taps), np.finfo(dtype).maxexp
    length = sum(cuts)
    plain = rng.standard_normal((2, length, channels)).astype(dtype)
    k = rng.standard_normal((channels, taps)).astype(dtype) / taps
    powers = rng.integers(-top // 2, top // 2, (2, 1, channels)) + 8
    powers[:, :, 0] = 0
    u = np.ldexp(plain, powers)
    u[1, length // 3, 0] = dtype(2.0) ** dtype(top - 3)  # a large step in a calm row
    wide = np.ldexp(k, np.arange(channels)[:, None] % 3 * (top // 6))

    def pushed(u, k):
        stream, ends = native.ConvStream(k, 2), np.cumsum([0, *cuts])
        return np.concatenate([stream.push(u[:, a:b]) for a, b in pairwise(ends)], axis=1)

    calm, got, whole = pushed(plain, k), pushed(u, wide), native.causal_conv(u, wide)
    np.testing.assert_array_equal(got[0, :, 0], calm[0, :, 0])
    for b, h in np.ndindex(2, channels):
        of_u, of_k = (int(np.frexp(np.abs(x).max())[1]) for x in (u[b, :, h], wide[h]))
        norms = np.linalg.norm(np.ldexp(u[b, :, h], -of_u)) * np.linalg.norm(
            np.ldexp(wide[h], -of_k)
        )
        error = np.ldexp(got[b, :, h], -of_u - of_k) - np.ldexp(whole[b, :, h], -of_u - of_k)
        assert np.abs(error).max() <= 8 * np.finfo(dtype).eps * norms, (b, h)


def test_a_large_step_in_a_stream_is_forgotten():
    """Long after it the stream goes on as one that never saw it."""
    k = np.full((3, 10), 0.1, np.float32)
    u = np.random.default_rng(0).standard_normal((1, 500, 3)).astype(np.float32)
    one, two = native.ConvStream(k, 1), native.ConvStream(k, 1)
    spike = np.ones((1, 30, 3), np.float32)
    one.push(spike)
    spike[0, 5, 1] = 3e38
    y = two.push(spike)
    assert np.isfinite(y).all() and y[0, 5, 1] == pytest.approx(3e37, rel=1e-6)
    for at in range(0, 500, 25):
        a, b = (s.push(u[:, at : at + 25]) for s in (one, two))
        np.testing.assert_array_equal(a[:, :, ::2], b[:, :, ::2])
    np.testing.assert_array_equal(a, b)


def test_gradients_of_numbers_whose_products_underflow():
    """Near 1e-20 in all that is multiplied, and a large weight that brings them back."""
    u, dy = np.full((1, 1), 1e-20, np.float32), np.full((1, 1), 1e-20, np.float32)
    lam, c = np.array([-1e-3], np.complex64), np.full((1, 1), 1e20, np.complex64)
    state = np.full((1, 1, 1), 1e-20, np.complex64)
    kind = {"delta": np.float32(1), "form": cfg.GSS}
    got = native.ssm_step_vjp(u, lam, c, state, dy, state, **kind)
    wide = [x.astype(np.complex128 if x.dtype.kind == "c" else np.float64) for x in
            (u, lam, c, state, dy, state)]  # fmt: skip
    want = reference.ssm_step_vjp(*wide, delta=1.0, form=cfg.GSS)
    for g, w in zip(got, want, strict=True):
        if np.abs(w).max() > 1e-36:
            np.testing.assert_allclose(g, w, rtol=2e-5)


def test_a_decaying_state_settles():
    """It does not stay among the subnormal numbers, where each step is slow."""
    lam, c = np.array([-0.5], np.complex64), np.ones((1, 1), np.complex64)
    kind = {"delta": np.float32(1), "form": cfg.GSS}
    state, u = np.full((1, 1, 1), 1e-30, np.complex64), np.zeros((1, 1), np.float32)
    for _ in range(60):
        _, state = native.ssm_step(u, lam, c, state, **kind)
        assert state == 0 or np.abs(state) >= np.finfo(np.float32).tiny
    assert state == 0
