"""Attention in C++: within the budgets, at sizes where tiles, panels and chunks meet; the same for
any cut, thread count and layout; a NaN stays where it is seen."""

import os
import signal
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.hard_cases import Case
from reference.judging import assert_within_budget

from refgss import ops, reference
from refgss.config import AttentionForm

native = pytest.importorskip("refgss.native")

VISIBLE = ["chunk", "sliding", "look1", "strict"]
UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}
DTYPES = [np.float32, np.float64]


def named(arguments):
    """Arguments of an op as tensors of a case."""
    return {k: x for name, value in arguments.items() for k, x in ops.spread(name, value).items()}


@st.composite
def attentions(draw, lengths, chunks, widths):
    """Arguments of `attention_vjp` and a window; those of `attention` are among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    window = AttentionForm(
        draw(st.sampled_from(chunks)),
        draw(st.sampled_from(VISIBLE)),
        draw(st.sampled_from(["inverse-root", "one"])),
    )
    B, L = draw(st.sampled_from([0, 1, 2, 3])), draw(st.sampled_from(lengths))
    G, each, D = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.sampled_from(widths))
    size = draw(st.sampled_from([0.0, 1.0, 30.0]))  # equal logits, usual ones, huge ones

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    slots = (B, window.slots, G, D)
    t = rng.integers(0, window.chunk if window.visible == "chunk" else 5 * window.chunk, B)
    return {
        "q": np.float32(size) * normal(B, L, G * each, D),
        "k": normal(B, L, G, D),
        "v": normal(B, L, G, D),
        "bias": normal(G * each, window.distances + 1) if draw(st.booleans()) else None,
        "state": {"k": normal(*slots), "v": normal(*slots), "t": t}
        if draw(st.booleans())
        else None,
        "dy": normal(B, L, G * each, D),
        "dstate": {"k": normal(*slots), "v": normal(*slots)},
    }, window


def at(x, dtype):
    """Arguments in this precision."""
    if isinstance(x, dict):
        return {k: at(v, dtype) for k, v in x.items()}
    return x.astype(dtype) if x is not None and x.dtype.kind == "f" else x


def forward(module, a, window):
    return module.attention(a["q"], a["k"], a["v"], a["bias"], a["state"], window=window)


# --- values ---------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(attentions([0, 1, 2, 5], [1, 2, 3, 8], [1, 2, 5]), st.sampled_from(["f32", "f64"]))
def test_every_result_is_within_its_budget(drawn, precision):
    arguments, window = drawn
    option = {"window": ops.encode_option(window)}
    for op in ("attention", "attention_vjp"):
        wanted = {k: arguments[k] for k in ops.OPS[op].arguments}
        case = Case(op, named(wanted), option)
        got = ops.call(native, op, case.at(precision), option)
        assert_within_budget(case, got, precision)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=15, deadline=None)
@given(drawn=attentions([1, 95, 97, 150, 290], [1, 5, 33, 64, 128, 129, 200, 300], [1, 8, 17, 40]))
def test_tiles_of_any_size_agree_with_the_definition(dtype, drawn):
    """Sums of up to n terms: √n would be usual, and n is granted; a logit is off by its size."""
    arguments, window = drawn
    y, state = forward(native, at(arguments, dtype), window)
    wanted, after = forward(reference, at(arguments, np.float64), window)
    logits = 1 + np.abs(arguments["q"]).sum(-1).max(initial=0) * 4
    granted = UNIT[dtype] * 8 * (logits + window.distances)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=granted * 4)
    for part in ("k", "v", "t"):
        np.testing.assert_array_equal(state[part], after[part])

    found = gradients(native, at(arguments, dtype), window)
    exact = gradients(reference, at(arguments, np.float64), window)
    for x, want in zip(found, exact, strict=True):
        size = 1 + np.abs(want).max(initial=0)
        np.testing.assert_allclose(x, want, rtol=0, atol=granted * 16 * size)
        assert not x[want == 0].any()


def gradients(module, a, window):
    given = (a[k] for k in ("q", "k", "v", "bias", "state", "dy", "dstate"))
    *found, dstate0 = module.attention_vjp(*given, window=window)
    return [x for x in (*found, dstate0["k"], dstate0["v"]) if x is not None]


def test_beside_pytorch_at_full_size():
    """One chunk of the paper's size, in float32, both directions."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    q, k, v, dy = rng.standard_normal((4, 1, 512, 2, 128)).astype(np.float32)
    heads_first = [torch.tensor(x).transpose(1, 2).double().requires_grad_() for x in (q, k, v)]
    theirs = torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=True)
    cotangents = torch.autograd.grad(theirs, heads_first, torch.tensor(dy).transpose(1, 2).double())
    window = AttentionForm(512)
    ours = native.attention(q, k, v, None, None, window=window)[0]
    zeros = {"k": np.zeros_like(k), "v": np.zeros_like(v)}
    dours = native.attention_vjp(q, k, v, None, None, dy, zeros, window=window)
    for x, want in zip((ours, *dours[:3]), (theirs, *cotangents), strict=True):
        np.testing.assert_allclose(x, want.detach().transpose(1, 2), rtol=0, atol=2e-5)


# --- cuts, steps, threads, layouts ----------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(attentions([11, 150, 300], [1, 4, 100, 128, 150], [4, 20]), st.data())
def test_pieces_and_steps_are_the_whole_bit_for_bit(drawn, data):
    arguments, window = drawn
    a = at(arguments, data.draw(st.sampled_from(DTYPES)))
    whole, after = forward(native, a, window)
    L = a["q"].shape[1]
    cuts = sorted(data.draw(st.lists(st.integers(0, L), max_size=4)))
    state, pieces = a["state"], []
    for first, end in pairwise([0, *cuts, L]):
        part = {k: a[k][:, first:end] for k in ("q", "k", "v")}
        if end - first == 1:
            one = (x[:, 0] for x in part.values())
            y, state = native.attention_step(*one, a["bias"], state, window=window)
            y = y[:, None]
        else:
            y, state = forward(native, a | part | {"state": state}, window)
        pieces.append(y)
    np.testing.assert_array_equal(np.concatenate(pieces, 1), whole)
    for name in ("k", "v", "t"):
        np.testing.assert_array_equal(state[name], after[name])


@pytest.fixture
def threads():
    before = native.get_num_threads()
    yield native.set_num_threads
    native.set_num_threads(before)


@pytest.mark.parametrize("visible", VISIBLE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_layouts_change_no_bit(visible, dtype, threads):
    rng = np.random.default_rng(0)
    window = AttentionForm(100, visible)
    q, dy = rng.standard_normal((2, 2, 300, 4, 24)).astype(dtype)
    k, v = rng.standard_normal((2, 2, 300, 2, 24)).astype(dtype)
    bias = rng.standard_normal((4, window.distances)).astype(dtype)
    ends = dict(
        zip("kv", rng.standard_normal((2, 2, window.slots, 2, 24)).astype(dtype), strict=True)
    )
    state = ends | {"t": np.array([3, 99])}

    def both(lay):
        arguments = [lay(x) for x in (q, k, v, bias)]
        start = {name: lay(x) if name in "kv" else x for name, x in state.items()}
        end = {name: lay(x) for name, x in ends.items()}
        y, _ = native.attention(*arguments, start, window=window)
        *d, dstate0 = native.attention_vjp(*arguments, start, lay(dy), end, window=window)
        return [y, *d, dstate0["k"], dstate0["v"]]

    threads(1)
    alone = both(np.ascontiguousarray)
    for count in (2, 3):
        threads(count)
        for lay in (np.ascontiguousarray, np.asfortranarray, lambda x: x[::-1].copy()[::-1]):
            for x, want in zip(both(lay), alone, strict=True):
                np.testing.assert_array_equal(x, want)


# --- NaN ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("visible", VISIBLE)
@pytest.mark.parametrize("name", ["q", "k", "v", "dy"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_seen_is_not_felt(visible, name, bad):
    """Bit for bit, forward and backward: exclusion, not multiplication by 0."""
    rng = np.random.default_rng(0)
    window, at_token = AttentionForm(40, visible), 70
    clean = {
        n: rng.standard_normal((1, 150, 1, 16)).astype(np.float32) for n in ("q", "k", "v", "dy")
    }
    clean |= {"bias": None, "state": None}
    clean["dstate"] = dict.fromkeys("kv", np.zeros((1, window.slots, 1, 16), np.float32))
    dirty = clean | {name: clean[name].copy()}
    dirty[name][0, at_token, 0, 5] = bad
    sees = np.array([[visible_at(window, t, s) for s in range(150)] for t in range(150)])
    by_key = name in ("k", "v")
    queries = sees[:, at_token] if by_key else np.arange(150) == at_token
    keys = sees[queries].any(0) | (np.arange(150) == at_token)

    y, y0 = (forward(native, a, window)[0] for a in (dirty, clean))
    if name != "dy":
        np.testing.assert_array_equal(y[:, ~queries], y0[:, ~queries])
        if np.isnan(bad):  # a logit of -∞ is a weight of 0
            assert np.isnan(y[:, queries][..., 5]).all()
    (dq, dk, dv), (dq0, dk0, dv0) = (gradients(native, a, window)[:3] for a in (dirty, clean))
    np.testing.assert_array_equal(dq[:, ~queries], dq0[:, ~queries])
    for x, want in ((dk, dk0), (dv, dv0)):
        np.testing.assert_array_equal(x[:, ~keys], want[:, ~keys])
    assert not np.isfinite(dq[:, queries]).all()


def visible_at(window, t, s):
    C = window.chunk
    return {
        "chunk": s <= t and t // C == s // C,
        "sliding": s <= t and t - s < C,
        "look1": s <= t and t // C - s // C <= 1,
        "strict": 0 < t - s <= C,
    }[window.visible]


def test_no_key_gives_zero_and_one_key_gives_its_value():
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 1, 9, 2, 7)).astype(np.float32)
    y, _ = native.attention(q, k, v, None, None, window=AttentionForm(4, "strict"))
    assert not y[:, 0].any() and y[:, 1:].all()
    np.testing.assert_array_equal(y[:, 1], v[:, 0])
    for visible in ("chunk", "sliding"):
        y, _ = native.attention(q, k, v, None, None, window=AttentionForm(1, visible))
        np.testing.assert_array_equal(y, v)


# --- positions, RMS norm, layer -------------------------------------------------------------------


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("start", [0, 10**6, 2**31 - 9])
def test_rope_is_within_its_budget_far_from_the_start(pairing, precision, start):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 2, 3, 2, 8)).astype(np.float32)
    r = start + np.array([[0, 1, 5], [2, 7, 1]], np.int64)
    option = {"base": 10000.0, "pairing": pairing}
    for case in (
        Case("rope", {"x": x, "r": r}, option),
        Case("rope_vjp", {"r": r, "dy": dy}, option),
    ):
        assert_within_budget(case, ops.call(native, case.op, case.at(precision), option), precision)


@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("shape", [(3, 1), (2, 3, 5), (2, 33), (3, 260)])
def test_rms_norms_of_any_width_are_within_their_budgets(precision, shape):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    given = {"x": x, "weight": rng.standard_normal(shape[-1]).astype(np.float32)}
    for case in (
        Case("rms_norm", given, {"eps": 1e-5}),
        Case("rms_norm_vjp", given | {"dy": dy}, {"eps": 1e-5}),
    ):
        got = ops.call(native, case.op, case.at(precision), case.options)
        assert_within_budget(case, got, precision)


@pytest.mark.parametrize("length", [0, 1, 16, 17, 130])
def test_t5_bias_is_a_look_up(length):
    rng = np.random.default_rng(0)
    table, dbias = rng.standard_normal((3, 32)), rng.standard_normal((3, length))
    np.testing.assert_array_equal(native.t5_bias(table, length), reference.t5_bias(table, length))
    ours, theirs = (m.t5_bias_vjp(table, length, dbias) for m in (native, reference))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)


# --- refusals and interruption --------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    q = np.zeros((1, 3, 4, 8), np.float32)
    k = np.zeros((1, 3, 2, 8), np.float32)
    window = AttentionForm(4)

    def run(q=q, k=k, v=k, bias=None, state=None):
        return native.attention(q, k, v, bias, state, window=window)

    run()
    with pytest.raises(ValueError, match="heads"):
        run(q=q[:, :, :3])
    with pytest.raises(ValueError, match="distances"):
        run(bias=np.zeros((4, 3), np.float32))
    with pytest.raises(TypeError, match="dtype"):
        run(k=k.astype(float), v=k.astype(float))
    slots = np.zeros((1, 4, 2, 8), np.float32)
    with pytest.raises(ValueError):
        run(state={"k": slots, "v": slots, "t": np.array([4])})
    with pytest.raises(ValueError, match="pairs"):
        native.rope(q[..., :7], np.zeros((1, 3), int), base=1e4, pairing="half")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that signals here")
@pytest.mark.parametrize("back", [False, True])
def test_long_work_can_be_interrupted(back):
    q = np.ones((1, 60_000, 1, 64), np.float32)
    window = AttentionForm(60_000)
    zeros = dict.fromkeys("kv", np.zeros((1, 60_000, 1, 64), np.float32))
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    began = time.perf_counter()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        if back:
            native.attention_vjp(q, q, q, None, None, q, zeros, window=window)
        else:
            native.attention(q, q, q, None, None, window=window)
    assert time.perf_counter() - began < 10
