"""The convolution: every length, layout and route agrees with the defining sum, row by row.

The bound is the FFT theorem's (Higham, Accuracy and Stability, 24.1, three transforms), in the
norms of the row at hand: 3 (2 + sqrt 5) log2(2 L) u |k[h]| |u[b,:,h]|.
"""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refgss.reference.convolution import convolution_at

native = pytest.importorskip("refgss.native")

DTYPES = [np.float32, np.float64]
# around the direct method, the tiles, the paddings, the change of layout; empty, odd, prime
LENGTHS = st.sampled_from([0, 1, 2, 3, 17, 63, 64, 65, 97, 127, 161, 257, 509, 1024, 1280, 2053])
SHAPES = st.tuples(st.integers(0, 3), LENGTHS, st.integers(0, 40), LENGTHS)


def draw(shape, dtype, seed=0):
    b, length, h, taps = shape
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-3, 4, h)  # a row of size 1000 must not spoil a row of size 1
    u = (rng.standard_normal((b, length, h)) * scale).astype(dtype)
    return u, rng.standard_normal((h, taps)).astype(dtype)


def exact(u, k):
    """The defining sum, in a wider type."""
    u, k = u.astype(np.longdouble), k.astype(np.longdouble)
    y = np.zeros_like(u)
    for j in range(min(u.shape[1], k.shape[1])):
        y[:, j:] += k[:, j] * u[:, : u.shape[1] - j]
    return y


def theorem(u, k, prepared=False):
    """The bound for each row: (B,1,H).  A prepared kernel counts with all its taps."""
    steps = max(u.shape[1], k.shape[1] if prepared else 1, 1)
    taps = k[:, : None if prepared else u.shape[1]].astype(np.float64)
    norms = np.linalg.norm(u.astype(np.float64), axis=1) * np.linalg.norm(taps, axis=1)
    unit = np.finfo(u.dtype).epsneg  # 2^-24, 2^-53
    return (3 * (2 + 5**0.5) * np.log2(2 * steps) * unit * norms)[:, None]


def assert_close(y, u, k, prepared=False):
    assert y.shape == u.shape and y.dtype == u.dtype
    assert np.all(np.abs(y - exact(u, k)) <= theorem(u, k, prepared))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60)
@given(SHAPES, st.integers(0, 99))
@example((1, 2053, 21, 2053), 0)  # a strip that is not full, and rows one by one
@example((2, 9001, 3, 9001), 0)  # few channels, all one by one
@example((2, 5000, 17, 100), 0)  # blocks
@example((1, 2053, 2, 65), 0)
def test_every_shape_is_the_defining_sum(dtype, shape, seed):
    u, k = draw(shape, dtype, seed)
    assert_close(native.causal_conv(u, k), u, k)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [65521, 300_000])
def test_long_convolutions_at_sampled_steps(dtype, length):
    u, k = draw((1, length, 2, length), dtype)
    rows = [0, 1, length // 2, length - 2, length - 1]
    wanted = convolution_at(u.astype(np.longdouble), k.astype(np.longdouble), rows)
    assert np.all(np.abs(native.causal_conv(u, k)[:, rows] - wanted) <= theorem(u, k))


def test_undamped_kernels_do_not_wrap_round():
    u, k = np.zeros((1, 1000, 16), np.float64), np.ones((16, 1000))
    u[:, -1] = 1
    assert np.abs(native.causal_conv(u, k)[:, :-1]).max() <= theorem(u, k).max()


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=30)
@given(SHAPES, st.integers(0, 99))
@example((2, 2053, 21, 2053), 0)
@example((1, 9001, 3, 9001), 0)
@example((2, 700, 17, 100), 0)
def test_gradients_are_the_adjoint_sums(dtype, shape, seed):
    u, k = draw(shape, dtype, seed)
    dy = draw(shape, dtype, seed + 1)[0]
    du, dk = native.causal_conv_vjp(u, k, dy)
    assert_close(du[:, ::-1], dy[:, ::-1], k)
    wanted, bound = np.zeros(k.shape, np.longdouble), np.zeros(k.shape)
    seen = min(u.shape[1], k.shape[1])
    for signal, cotangent in zip(u, dy, strict=True):
        backward, taps = cotangent[None, ::-1], signal.T
        wanted[:, :seen] += exact(backward, taps)[0, ::-1].T[:, :seen]
        bound[:, :seen] += theorem(backward, taps)[0].T
    assert du.dtype == dk.dtype == dtype and dk.shape == k.shape
    assert np.all(np.abs(dk - wanted) <= bound)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=30)
@given(SHAPES, st.lists(st.integers(0, 2053), max_size=5), st.integers(0, 99))
@example((1, 2053, 21, 1500), [1, 1, 700], 0)
@example((2, 2053, 2, 1500), [2000], 0)
def test_a_stream_in_any_chunks_is_the_convolution(dtype, shape, cuts, seed):
    u, k = draw(shape, dtype, seed)
    stream = native.ConvStream(k, len(u))
    cuts = sorted(min(c, u.shape[1]) for c in cuts)
    y = np.concatenate([stream.push(part) for part in np.split(u, cuts, axis=1)], axis=1)
    assert_close(y, u, k, prepared=True)


@pytest.mark.parametrize("shape", [(2, 50, 5, 50), (2, 2053, 21, 2053), (3, 3000, 17, 90)])
def test_a_spectrum_serves_every_shorter_signal(shape):
    u, k = draw(shape, np.float32)
    spectrum = native.Spectrum(k, u.shape[1])
    for length in (u.shape[1], u.shape[1] // 2, 1, 0):
        assert_close(spectrum(u[:, :length]), u[:, :length], k, prepared=True)


# --- rows are independent, layout and threads change nothing -------------------------------------

ROUTES = [
    (2, 50, 21, 50),
    (2, 700, 21, 700),
    (2, 2053, 21, 2053),
    (2, 9001, 3, 9001),
    (2, 3000, 17, 90),
]


@pytest.mark.parametrize("shape", ROUTES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_keeps_its_nan(shape, bad):
    u, k = draw(shape, np.float32)
    dy = draw(shape, np.float32, 1)[0]
    clean, (du, dk) = native.causal_conv(u, k), native.causal_conv_vjp(u, k, dy)
    u[1, 30, 2] = bad
    y, (du_bad, dk_bad) = native.causal_conv(u, k), native.causal_conv_vjp(u, k, dy)
    assert not np.isfinite(y[1, 30 : 30 + shape[3], 2]).any()
    other = np.ones(u.shape[::2], bool)
    other[1, 2] = False
    assert np.array_equal(y.swapaxes(1, 2)[other], clean.swapaxes(1, 2)[other])
    assert np.array_equal(du_bad, du)  # the convolution is linear: du does not see u
    rows = np.arange(len(k)) != 2
    assert np.array_equal(dk_bad[rows], dk[rows])


@pytest.mark.parametrize("shape", ROUTES)
def test_threads_change_no_bit(shape):
    u, k = draw(shape, np.float32)
    before, results = native.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            native.set_num_threads(threads)
            results.append([native.causal_conv(u, k), *native.causal_conv_vjp(u, k, u)])
    finally:
        native.set_num_threads(before)
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("shape", ROUTES)
def test_layout_changes_no_bit(shape):
    u, k = draw(shape, np.float32)
    wide = np.zeros((*u.shape[:2], 2 * u.shape[2] + 1), u.dtype)
    wide[..., 1::2] = u
    layouts = [
        np.asfortranarray(u),
        np.ascontiguousarray(u.swapaxes(1, 2)).swapaxes(1, 2),
        np.ascontiguousarray(u[:, ::-1])[:, ::-1],
        wide[..., 1::2],
    ]
    wanted = [native.causal_conv(u, k), *native.causal_conv_vjp(u, k, u)]
    for same in layouts:
        got = [
            native.causal_conv(same, np.asfortranarray(k)),
            *native.causal_conv_vjp(same, k, same),
        ]
        assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_a_repeated_signal_needs_no_copy():
    u, k = draw((1, 300, 7, 300), np.float64)
    repeated = np.broadcast_to(u, (3, 300, 7))
    assert np.array_equal(native.causal_conv(repeated, k)[2], native.causal_conv(u, k)[0])


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda u, k: (u.astype(np.float64), k), (TypeError, ValueError)),
        (lambda u, k: (u.astype(np.float16), k), TypeError),
        (lambda u, k: (u.astype(int), k), TypeError),
        (lambda u, k: (u.astype(">f4"), k), TypeError),
        (lambda u, k: (u.tolist(), k), TypeError),
        (lambda u, k: (u[0], k), ValueError),
        (lambda u, k: (u, k[:-1]), ValueError),
        (lambda u, k: (u, k[0]), ValueError),
        (lambda u, k: (misaligned(u), k), ValueError),
    ],
)
def test_a_wrong_argument_is_one_sentence(change, error):
    u, k = change(*draw((2, 9, 3, 9), np.float32))
    with pytest.raises(error, match=r"^[^\n]+$"):
        native._core.causal_conv(u, k)


def misaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:]
    raw[:] = np.frombuffer(x.tobytes(), np.uint8)
    return raw.view(x.dtype).reshape(x.shape)


def test_handles_refuse_other_signals():
    u, k = draw((2, 9, 3, 9), np.float32)
    spectrum, stream = native.Spectrum(k, 5), native.ConvStream(k, 3)
    for call in (lambda: spectrum(u), lambda: spectrum(u[:, :5, :2]), lambda: stream.push(u)):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            call()
    with pytest.raises(TypeError, match="dtype"):
        spectrum(u[:, :5].astype(np.float64))
    with pytest.raises(ValueError, match="negative"):
        native.Spectrum(k, -1)
