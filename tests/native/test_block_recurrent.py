"""Block-recurrent layers in C++: their ops are within the budgets and agree with the definition at
sizes where tiles meet; pieces and steps are the whole; the same for any number of threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.hard_cases import Case
from reference.judging import assert_within_budget

from refgss import layers, ops, reference
from refgss.config import BlockRecurrentConfig
from refgss.conformance.candidates.library import Library
from refgss.layers.block_recurrent import Sizes

native = pytest.importorskip("refgss.native")

from refgss.native import abi  # noqa: E402  # where it is built

UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}
DTYPES = [np.float32, np.float64]
LIBRARY = Library(str(abi.HERE / abi.LIBRARY))


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@st.composite
def windows(draw, lengths, sizes, widths):
    """Arguments of `window_attention_vjp`, those of `window_attention` among them, and W."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    W, L = draw(st.sampled_from(sizes)), draw(st.sampled_from(lengths))
    B, H, D = draw(st.integers(0, 2)), draw(st.integers(1, 3)), draw(st.sampled_from(widths))
    shape, slots = (B, L, H, D), (B, W, H, D)
    scale = draw(st.sampled_from([None, 0.0, 1.0, 20.0]))
    return {
        **{name: normal(rng, *shape) for name in "qkv"},
        "bias": normal(rng, H, W + draw(st.integers(1, 3))) if draw(st.booleans()) else None,
        "scale": None if scale is None else np.float32(scale) * normal(rng, H),
        "state": {n: normal(rng, *slots) for n in "kv"} if draw(st.booleans()) else None,
        "dy": normal(rng, *shape),
        "dstate": {n: normal(rng, *slots) for n in "kv"},
    }, W


def case_of(op, values, **options):
    wanted = {k: values[k] for k in ops.OPS[op].arguments}
    tensors = {k: x for name, value in wanted.items() for k, x in ops.spread(name, value).items()}
    return Case(op, tensors, options)


def judged(case, precision):
    """By the module and through the C ABI."""
    for candidate in (native, LIBRARY):
        got = ops.call(candidate, case.op, case.at(precision), case.options)
        assert_within_budget(case, got, precision)


# --- ops ------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(windows([0, 1, 2, 5], [1, 2, 3, 8], [1, 2, 5]), st.sampled_from(["f32", "f64"]))
def test_attention_to_a_window_is_within_its_budget(drawn, precision):
    values, W = drawn
    for op in ("window_attention", "window_attention_vjp"):
        judged(case_of(op, values, window=W), precision)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([0, 1, 3]),
    st.sampled_from([0, 1, 4]),
    st.sampled_from([None, 0.0, 1.0, 20.0]),
    st.sampled_from(["f32", "f64"]),
    st.integers(0, 2**32 - 1),
)
def test_attention_to_a_state_is_within_its_budget(T, M, scale, precision, seed):
    rng = np.random.default_rng(seed)
    values = {"q": normal(rng, 2, T, 2, 3), "dy": normal(rng, 2, T, 2, 3)}
    values |= {name: normal(rng, 2, M, 2, 3) for name in "kv"}
    values["scale"] = None if scale is None else np.float32(scale) * normal(rng, 2)
    for op in ("state_attention", "state_attention_vjp"):
        judged(case_of(op, values), precision)


@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("kind", ["fixed", "lstm", "full"])
@pytest.mark.parametrize("shape", [(5,), (0, 3), (2, 3, 1), (70, 33)])
def test_gates_are_within_their_budgets(shape, kind, precision):
    rng = np.random.default_rng(0)
    values = {name: normal(rng, *shape) for name in ("s", "z", "dout")}
    values["f"] = 9 * normal(rng, *(shape[-1:] if kind == "fixed" else shape))
    values["i"] = 9 * normal(rng, *shape) if kind == "lstm" else None
    for op in ("gate", "gate_vjp"):
        judged(case_of(op, values, kind=kind), precision)


@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("shape", [(1,), (2, 3, 5), (0, 4), (3, 130)])
def test_lengths_of_one_are_within_their_budgets(shape, precision):
    rng = np.random.default_rng(0)
    values = {"x": normal(rng, *shape), "dy": normal(rng, *shape)}
    values["x"][..., :1] *= 1e-3
    for op in ("l2_normalize", "l2_normalize_vjp"):
        judged(case_of(op, values, eps=1e-6), precision)
    zeros = np.zeros(shape, np.float32)
    np.testing.assert_array_equal(native.l2_normalize(zeros, eps=1e-6), zeros)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=8, deadline=None)
@given(drawn=windows([1, 95, 97, 290], [1, 33, 128, 129, 300], [1, 8, 17]))
def test_tiles_of_any_size_agree_with_the_definition(dtype, drawn):
    """Sums of up to n terms: √n would be usual, and n is granted; a logit is off by its size."""
    values, W = drawn
    found, exact = (
        parts(module, at(values, kind), W) for module, kind in ((native, dtype), (reference, float))
    )
    scale = 1 if values["scale"] is None else 1 + np.abs(values["scale"]).max()
    logits = scale * (1 + np.abs(values["q"]).sum(-1).max(initial=0) * 4)
    granted = UNIT[dtype] * 8 * (logits + W)
    for x, want in zip(found, exact, strict=True):
        size = 1 + np.abs(want).max(initial=0)
        np.testing.assert_allclose(x, want, rtol=0, atol=granted * 16 * size * scale)
    after = native.window_attention(*given_of(at(values, dtype)), window=W)[1]
    want = reference.window_attention(*given_of(at(values, dtype)), window=W)[1]
    for part in "kv":
        np.testing.assert_array_equal(after[part], want[part])


def at(x, dtype):
    if isinstance(x, dict):
        return {k: at(v, dtype) for k, v in x.items()}
    return None if x is None else x.astype(dtype)


def given_of(values):
    return [values[k] for k in ("q", "k", "v", "bias", "scale", "state")]


def parts(module, values, W):
    y, _ = module.window_attention(*given_of(values), window=W)
    *found, dstate0 = module.window_attention_vjp(
        *given_of(values), values["dy"], values["dstate"], window=W
    )
    return [x for x in (y, *found, dstate0["k"], dstate0["v"]) if x is not None]


def test_zeros_before_the_first_token_are_seen():
    rng = np.random.default_rng(0)
    q, k, v = (normal(rng, 1, 3, 1, 4) for _ in range(3))
    y, _ = native.window_attention(q, k, v, None, np.zeros(1, np.float32), None, window=4)
    np.testing.assert_array_equal(y[0, 0], 0 * v[0, 0])
    np.testing.assert_allclose(y[0, 2], (v[0, 0] + v[0, 1]) / 4, rtol=1e-6)


# --- layers ---------------------------------------------------------------------------------------

FORMS = [("fixed", "skip"), ("fixed", "dual"), ("fixed", "single")]
FORMS += [("lstm", "single"), ("lstm", "dual"), ("full", "skip")]


def layer(gate, update, dtype=np.float64, window=3, states=2):
    config = BlockRecurrentConfig(2, window, states, gate, update, mlp="glu")
    rng = np.random.default_rng(0)
    kind = layers.kind_of(config)
    shapes = kind.parameters(config, Sizes(6, 6, 8))
    return {n: rng.standard_normal(t.shape).astype(dtype) for n, t in shapes.items()}, config


@pytest.mark.parametrize(("gate", "update"), FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_and_gradients_are_the_reference(gate, update, dtype):
    params, config = layer(gate, update)
    rng = np.random.default_rng(1)
    x, dout = rng.standard_normal((2, 2, 8, 6))
    _, state = reference.block_recurrent_layer(params, x[:, :5], None, config=config)
    state["t"][1] = 0  # a row that begins
    dstate = {n: rng.standard_normal(state[n].shape) for n in ("s", "k", "v")}
    exact = reference.block_recurrent_layer_vjp(params, x, state, dout, dstate, config=config)
    wanted = *reference.block_recurrent_layer(params, x, state, config=config), *exact
    p, xs, d, ds = (at(v, dtype) for v in (params, x, dout, dstate))
    s = at({n: state[n] for n in ("s", "k", "v")}, dtype) | {"t": state["t"]}
    found = native.block_recurrent_layer_vjp(p, xs, s, d, ds, config=config)
    for got, want in zip(
        (*native.block_recurrent_layer(p, xs, s, config=config), *found), wanted, strict=True
    ):
        for name in want if isinstance(want, dict) else [None]:
            a, b = (got, want) if name is None else (got[name], want[name])
            size = np.abs(b).max(initial=1)
            np.testing.assert_allclose(a, b, rtol=0, atol=3000 * UNIT[dtype] * size, err_msg=name)


@pytest.mark.parametrize(("gate", "update"), FORMS)
def test_pieces_and_steps_are_the_whole(gate, update):
    params, config = layer(gate, update)
    x = np.random.default_rng(2).standard_normal((2, 8, 6))
    whole, end = native.block_recurrent_layer(params, x, None, config=config)
    for cut in range(9):
        y1, state = native.block_recurrent_layer(params, x[:, :cut], None, config=config)
        y2, state = native.block_recurrent_layer(params, x[:, cut:], state, config=config)
        np.testing.assert_allclose(np.concatenate([y1, y2], 1), whole, rtol=0, atol=1e-12)
        assert_same_state(state, end)
    state = None
    for t in range(8):
        y, state = native.block_recurrent_step(params, x[:, t], state, config=config)
        np.testing.assert_allclose(y, whole[:, t], rtol=0, atol=1e-12)
    assert_same_state(state, end)


def assert_same_state(state, wanted):
    np.testing.assert_array_equal(state["t"], wanted["t"])
    for part in ("s", "k", "v"):
        np.testing.assert_allclose(state[part], wanted[part], rtol=0, atol=1e-12)


def test_threads_change_no_bit():
    params, config = layer("lstm", "dual", np.float32, window=40, states=70)
    rng = np.random.default_rng(3)
    x, dout = rng.standard_normal((2, 3, 130, 6)).astype(np.float32)
    before, results = native.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            native.set_num_threads(threads)
            y, state = native.block_recurrent_layer(params, x, None, config=config)
            dstate = {n: state[n] for n in ("s", "k", "v")}
            g, dx, _ = native.block_recurrent_layer_vjp(
                params, x, None, dout, dstate, config=config
            )
            results.append([y, state["s"], dx, *g.values()])
    finally:
        native.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
