"""The state-space maps in C++: within the budgets on hard cases and at sizes where blocks, tiles
and pieces meet; the same for any layout, thread count and cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import hard_cases
from reference.judging import assert_within_budget

from refgss import config as cfg
from refgss import ops, reference

native = pytest.importorskip("refgss.native")

COSTLY = ("layers", "lm_logits", "lm_loss")
UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}
SUM = 5 + 5 + 1 + 2 * 5**0.5  # 𝐮 that chapter 11 grants to a term of the kernel: φ, Ā^l, Δ·, C·, C̃·


def both(name):
    forward = hard_cases.FORWARD[name]
    return st.one_of(forward, hard_cases.gradients(forward))


@pytest.mark.parametrize("name", hard_cases.FORWARD)
def test_every_op_is_within_its_budgets(name):
    @settings(max_examples=15 if name in COSTLY else 100)
    @given(both(name), st.sampled_from(["f32", "f64"]))
    def check(case, precision):
        got = ops.call(native, case.op, case.at(precision), case.options)
        assert_within_budget(case, got, precision)

    check()


@pytest.mark.parametrize("name", hard_cases.FORWARD)
def test_layout_changes_no_bit_and_arguments_are_left_alone(name):
    def awkward(x):
        if not x.ndim:
            return x
        memory = np.full([2 * n + 1 for n in x.shape[::-1]], 7, x.dtype).T
        view = memory[tuple(slice(None, None, -2) if n else slice(0) for n in x.shape)]
        view = view[tuple(slice(0, n) for n in x.shape)]
        view[...] = x
        return view

    @settings(max_examples=10 if name in COSTLY else 40)
    @given(both(name), st.sampled_from(["f32", "f64"]))
    def check(case, precision):
        plain = case.at(precision)
        odd = {k: awkward(x) for k, x in plain.items()}
        wanted = ops.call(native, case.op, plain, case.options)
        for output, y in ops.call(native, case.op, odd, case.options).items():
            np.testing.assert_array_equal(y, wanted[output], output)
        for k, x in odd.items():
            np.testing.assert_array_equal(x, plain[k], k)

    check()


# --- sizes where blocks meet -----------------------------------------------------------------


def problem(seed, h, n, dtype, form, delta_shape):
    rng = np.random.default_rng(seed)
    damping = np.exp(rng.uniform(-14, 3, n))  # from 10^6 steps of memory to less than one
    lam = -damping + 1j * rng.uniform(-40, 40, n)
    c = rng.standard_normal((h, n)) + 1j * rng.standard_normal((h, n))
    cplx = np.result_type(dtype, 1j)
    return lam.astype(cplx), c.astype(cplx), rng.uniform(0.01, 1, delta_shape).astype(dtype)


def kernel_sizes(lam, c, delta, form, length):
    """Σ|C̃ Ā^l| (H,length): what errors of the kernel are measured by."""
    wide = lam.astype(np.complex128), c.astype(np.complex128), delta.astype(np.float64)
    abar, bbar = reference.discretize(wide[0], wide[2], form=form)
    modulus = np.abs(abar[..., None]) ** np.arange(length)
    weight = (2 if form.pairs else 1) * np.abs(wide[1] * bbar)
    return np.einsum("hn,nl->hl" if modulus.ndim == 2 else "hn,hnl->hl", weight, modulus)


def in_f64(*arrays):
    return [None if x is None else x.astype(np.result_type(x.dtype, np.float64)) for x in arrays]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", [cfg.GSS, cfg.S4D_BILINEAR, cfg.DSS_EXP])
@settings(max_examples=30)
@given(data=st.data())
def test_kernels_of_any_size(dtype, form, data):
    length = data.draw(st.sampled_from([1, 31, 33, 127, 128, 129, 255, 1000, 1537]))
    h, n = data.draw(st.integers(1, 27)), data.draw(st.sampled_from([1, 2, 31, 32, 33, 65]))
    shape = data.draw(st.sampled_from([(), (h,)]))
    lam, c, delta = problem(data.draw(st.integers(0, 99)), h, n, dtype, form, shape)
    got = native.ssm_kernel(lam, c, length, delta=delta, form=form)
    want = reference.ssm_kernel(*in_f64(lam, c), length, delta=in_f64(delta)[0], form=form)
    granted = SUM + min(n, 6 * n**0.5)
    # the float64 reference is granted as much; and powers are of a rounded exponent
    unit = UNIT[dtype] + UNIT[np.float64] * (1 + np.abs(lam).max() * delta.max() * length)
    sizes = kernel_sizes(lam, c, delta, form, length)
    # each of 2 n products may be flushed to zero, and a power of Ā before it is weighted
    flushed = 2 * n * np.finfo(dtype).tiny * max(1, sizes[:, 0].max())
    assert np.all(np.abs(got - want) <= granted * unit * sizes + flushed)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("h", "length"), [(2, 512), (17, 1000), (33, 1537)])
def test_kernels_of_many_slow_modes(dtype, h, length):
    """More than 64: they go by a nonuniform transform, the other 40 modes by sums."""
    rng = np.random.default_rng(h)
    n, cplx = 140, np.result_type(dtype, 1j)
    damping = np.concatenate([rng.uniform(0, 2 / 512, 98), [0, 2 / 512], rng.uniform(0.01, 3, 40)])
    frequency = np.concatenate([rng.uniform(-40, 40, n - 3), [0, np.pi, -np.pi]])
    lam = (-rng.permutation(damping) + 1j * frequency).astype(cplx)
    c = (rng.standard_normal((h, n)) + 1j * rng.standard_normal((h, n))).astype(cplx)
    got = native.ssm_kernel(lam, c, length, delta=dtype(1), form=cfg.GSS)
    want = reference.ssm_kernel(*in_f64(lam, c), length, delta=1.0, form=cfg.GSS)
    sizes = kernel_sizes(lam, c, np.float64(1), cfg.GSS, length)
    unit = UNIT[dtype] + UNIT[np.float64] * (1 + np.abs(lam).max() * length)
    assert np.all(np.abs(got - want) <= (SUM + 6 * n**0.5) * unit * sizes)


def test_long_kernels_of_slow_and_fast_modes():
    lam = np.array([-1e-6 + 1000j, -1e-4 + 97.4j, -1e-3, 1j, -1e-2 - 3j], np.complex64)
    c = np.ones((3, 5), np.complex64)
    length, delta = 65536, np.float32(1)
    got = native.ssm_kernel(lam, c, length, delta=delta, form=cfg.GSS)
    want = reference.ssm_kernel(*in_f64(lam, c), length, delta=1.0, form=cfg.GSS)
    sizes = kernel_sizes(lam, c, delta, cfg.GSS, length)
    # 2⁻⁵³ |z l| is what rounding the exponent may do
    unit = UNIT[np.float32] + UNIT[np.float64] * 1000 * length
    assert np.all(np.abs(got - want) <= (SUM + 5) * unit * sizes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=25)
@given(data=st.data())
def test_states_and_outputs_of_scans_of_any_size(dtype, data):
    b, length = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([2, 31, 128, 129, 400]))
    h, n = data.draw(st.integers(1, 20)), data.draw(st.sampled_from([1, 5, 32, 33]))
    shape = data.draw(st.sampled_from([(), (h,)]))
    seed = data.draw(st.integers(0, 99))
    lam, c, delta = problem(seed, h, n, dtype, cfg.GSS, shape)
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((b, length, h)).astype(dtype)
    u[:, : data.draw(st.integers(0, length))] *= data.draw(st.sampled_from([0, 1, 1e6]))
    state = c[None].repeat(b, 0)
    y, x = native.ssm_scan(u, lam, c, state, delta=delta, form=cfg.GSS)
    wide = in_f64(u, lam, c, state)
    want_y, want_x = reference.ssm_scan(*wide, delta=in_f64(delta)[0], form=cfg.GSS)
    modulus = np.abs(reference.discretize(wide[1], in_f64(delta)[0], form=cfg.GSS)[0])
    modulus = np.broadcast_to(modulus, (h, n))[..., None] ** np.arange(length + 1)  # (H,N,L+1)
    terms = length + 1
    granted = SUM + min(terms, 6 * terms**0.5)
    unit = UNIT[dtype] + UNIT[np.float64] * (1 + np.abs(lam).max() * length)
    sizes = modulus[..., -1] * np.abs(state)
    sizes = sizes + np.einsum("blh,hnl->bhn", np.abs(u), modulus[..., :length][..., ::-1])
    assert np.all(np.abs(x - want_x) <= granted * unit * sizes + np.finfo(dtype).tiny)
    # outputs: by norms, as the convolution is by FFT (GSS-ACC-5)
    taps = kernel_sizes(lam, c, delta, cfg.GSS, length)
    norms = np.linalg.norm(taps, axis=1) * np.linalg.norm(u, axis=1)[:, None]
    m = np.ceil(np.log2(2 * length))
    read = np.einsum("bhn,hn,hnl->blh", np.abs(state), np.abs(c), modulus[..., 1:])
    granted_y = (3 * (2 + 5**0.5) * m + SUM + 6 * n**0.5) * norms
    granted_y = granted_y + (SUM + min(n, 6 * n**0.5)) * read * np.abs(delta).max()
    assert np.all(np.abs(y - want_y) <= unit * (granted_y + np.abs(want_y)))


def test_pieces_of_a_long_scan_meet():
    """More channels than 2²³/1024: the scan works on pieces of 1024 steps."""
    h, n, length = 8200, 2, 1100
    rng = np.random.default_rng(0)
    lam = np.array([-0.01 + 1j, -1e-4 + 0.1j])
    c = rng.standard_normal((h, n)) + 1j * rng.standard_normal((h, n))
    u = rng.standard_normal((1, length, h))
    y, x = native.ssm_scan(u, lam, c, None, delta=1.0, form=cfg.GSS)
    some = [0, 1, 4099, h - 1]
    want_y, want_x = reference.ssm_scan(u[..., some], lam, c[some], None, delta=1.0, form=cfg.GSS)
    norm = np.linalg.norm(u[..., some], axis=1) * np.linalg.norm(
        kernel_sizes(lam, c[some], np.float64(1), cfg.GSS, length), axis=1
    )
    unit = 3 * (2 + 5**0.5) * 12 * 2.0**-53
    assert np.all(np.abs(y[..., some] - want_y) <= 2 * unit * norm[:, None])
    assert np.all(np.abs(x[:, some] - want_x) <= unit * length**0.5 * norm[..., None])


# --- threads, NaN, prepared maps -------------------------------------------------------------


def small(dtype=np.float32, length=300):
    lam, c, delta = problem(1, 19, 33, dtype, cfg.GSS, ())
    u = np.random.default_rng(2).standard_normal((2, length, 19)).astype(dtype)
    return u, lam, c, np.stack([c, c.conj()]), dict(delta=delta, form=cfg.GSS)


def test_threads_change_no_bit():
    u, lam, c, state, kind = small()
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((200, 64), np.float32), rng.standard_normal((64, 96), np.float32)
    runs = []
    before = native.get_num_threads()
    try:
        for threads in (1, 2, 3):
            native.set_num_threads(threads)
            runs.append(
                [
                    native.ssm_kernel(lam, c, 5000, **kind),
                    *native.ssm_scan(u, lam, c, state, **kind),
                    *native.ssm_scan_vjp(u, lam, c, state, u, state, **kind),
                    *native.ssm_step(u[:, 0], lam, c, state, **kind),
                    native.dense(x, w),
                    *native.dense_vjp(x, w, w[0], rng_free(x, 96)),
                    *native.layer_norm_vjp(x, x[0], x[1], x, eps=1e-5),
                ]
            )
    finally:
        native.set_num_threads(before)
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def rng_free(x, columns):
    """A matrix of x's rows that is the same in every run."""
    return np.outer(x[:, 0], np.arange(columns)).astype(x.dtype)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("t", [0, 1, 150, 299])
def test_nothing_before_or_beside_a_nan_is_touched(bad, t):
    u, lam, c, state, kind = small()
    clean_y, clean_x = native.ssm_scan(u, lam, c, state, **kind)
    u[1, t, 7] = bad
    y, x = native.ssm_scan(u, lam, c, state, **kind)
    assert not np.isfinite(y[1, t:, 7]).any() and not np.isfinite(x[1, 7]).any()
    before, _ = native.ssm_scan(u[1:, :t, 7:8], lam, c[7:8], state[1:, 7:8], **kind)
    scale = np.abs(clean_y[1, :, 7]).max()
    assert np.all(np.abs(y[1, :t, 7] - before[0, :, 0]) <= 60 * 2.0**-24 * scale * t**0.5)
    y[1, :, 7], x[1, 7] = clean_y[1, :, 7], clean_x[1, 7]
    np.testing.assert_array_equal(y, clean_y)
    np.testing.assert_array_equal(x, clean_x)


@pytest.mark.parametrize("block", [1, 5, 128])
def test_the_stepper_is_the_scan(block):
    u, lam, c, state, kind = small(np.float64)
    y, _ = native.ssm_scan(u, lam, c, state, **kind)
    prepared = native.Prepared(lam, c, 0, **kind)
    stepper = native.Stepper(prepared, 2, state, block=block)
    scale = np.abs(y).max()
    for l in range(40):
        assert np.allclose(stepper.step(u[:, l]), y[:, l], rtol=0, atol=1e-13 * scale)
        if l % 13 == 0:
            x = native.ssm_scan(u[:, : l + 1], lam, c, state, **kind)[1]
            assert np.allclose(stepper.state, x, rtol=0, atol=1e-13 * np.abs(x).max())


def test_a_prepared_map_is_the_map_and_keeps_its_parameters():
    u, lam, c, state, kind = small()
    wanted = native.ssm_scan(u, lam, c, state, **kind)
    step = native.ssm_step(u[:, 0], lam, c, state, **kind)
    lam_copy, c_copy = lam.copy(), c.copy()
    prepared = native.Prepared(lam_copy, c_copy, u.shape[1], **kind)
    lam_copy[:], c_copy[:] = 0, 0
    for got, want in zip(prepared.step(u[:, 0], state), step, strict=True):
        np.testing.assert_array_equal(got, want)
    for got, want in zip(prepared.scan(u, state), wanted, strict=True):
        assert np.abs(got - want).max() <= 60 * 2.0**-24 * np.abs(want).max()


@pytest.mark.parametrize("length", [0, 1, 300])
def test_a_state_may_be_advanced_in_place(length):
    u, lam, c, state, kind = small()
    prepared = native.Prepared(lam, c, 300, **kind)
    y, x = prepared.scan(u[:, :length], state)
    np.testing.assert_array_equal(prepared.advance(u[:, :length], state), y)
    np.testing.assert_array_equal(state, x)
    state.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        prepared.advance(u, state)


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        (dict(lam=np.array([1 + 1j], np.complex64)), ValueError, "Re lam"),
        (dict(lam=np.array([np.nan], np.complex64)), ValueError, "finite"),
        (dict(lam=np.array([-1], np.complex128)), TypeError, "dtype"),
        (dict(lam=np.array([-1], np.float32)), TypeError, "lam"),
        (dict(c=np.ones((2, 3), np.complex64)), ValueError, "states"),
        (dict(c=np.ones((3, 1), np.complex64)), ValueError, "channels"),
        (dict(u=np.ones((1, 4, 2), np.float64)), TypeError, "dtype"),
        (dict(u=np.ones((4, 2), np.float32)), ValueError, "axes"),
        (dict(u=np.ones((1, 4, 2), np.float32).astype(">f4")), TypeError, "u "),
        (dict(u=np.ones((1, 4, 2), np.int32)), TypeError, "u must be"),
        (dict(state=np.ones((1, 2, 2), np.complex64)), ValueError, "state"),
        (dict(delta=np.float32(0)), ValueError, "delta"),
        (dict(delta=np.ones((2, 2), np.float32)), ValueError, "dss"),
        (dict(form=cfg.dss_softmax(3)), ValueError, "softmax"),
    ],
)
def test_what_is_refused(change, error, word):
    given = dict(
        u=np.ones((1, 4, 2), np.float32),
        lam=np.array([-1], np.complex64),
        c=np.ones((2, 1), np.complex64),
        state=None,
        delta=1.0,
        form=cfg.GSS,
    )
    native.ssm_scan(**given)
    with pytest.raises(error, match=word) as caught:
        native.ssm_scan(**given | change)
    assert "\n" not in str(caught.value)
