"""Chapter 18 in JAX: the reference's numbers in binary64, however a sequence is cut.

Row b of the batch goes on after b tokens, so that one program meets every cut of a sequence; tests
share shapes and options, and with them what is compiled.
"""

from functools import cache

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from refgss import reference, xla
from refgss.config import AttentionForm

from .examples import worst

B, L, C, A, G, D = 12, 11, 4, 4, 2, 6
VISIBLE = ("chunk", "sliding", "look1", "strict")
LOOSE = 1e-12  # far above 2^-53, below 2^-24


@pytest.fixture(autouse=True)
def in_binary64():
    """Programs are small: what takes time is to compile them well."""
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def drawn(length=L, seed=0, groups=G):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((B, length, heads, D)) for heads in (A, groups, groups)]


def bias_of(window):
    """Longer than it must be."""
    return np.random.default_rng(1).standard_normal((A, window.distances + 3))


@cache
def after(window):
    """A state whose row b has read b tokens."""
    q, k, v = drawn(seed=2)
    state, states = None, []
    for i in range(B):
        x = (q[:, :0], k[:, :0], v[:, :0]) if i == 0 else (z[:, i - 1 : i] for z in (q, k, v))
        _, state = reference.attention(*x, None, state, window=window)
        states.append(state)
    return {part: np.stack([states[b][part][b] for b in range(B)]) for part in state}


def equal(state, truth):
    """Keys and values are copies: bit for bit."""
    assert state.keys() == truth.keys()
    for part in truth:
        assert state[part].dtype == truth[part].dtype
        assert np.array_equal(state[part], truth[part], equal_nan=part != "t"), part


def of_both(window, given, length=L, bias=True):
    q, k, v = drawn(length)
    arguments = (q, k, v, bias_of(window) if bias else None, after(window) if given else None)
    return [f(*arguments, window=window) for f in (xla.attention, reference.attention)]


WINDOWS = [AttentionForm(C, visible) for visible in VISIBLE]
OTHERS = [AttentionForm(1, "strict", "one"), AttentionForm(16, "look1", "one")]


@pytest.mark.parametrize("window", [*WINDOWS, *OTHERS])
@pytest.mark.parametrize("given", [False, True])
def test_the_reference_s_outputs_and_state_from_every_cut(window, given):
    (y, state), (truth, left) = of_both(window, given)
    assert worst(y, truth) < LOOSE
    equal(state, left)


@pytest.mark.parametrize("window", WINDOWS)
def test_short_pieces_and_steps(window):
    (y, state), (truth, left) = of_both(window, True, 3)
    assert worst(y, truth) < LOOSE
    equal(state, left)
    (y, state), (truth, left) = of_both(window, True, 1)
    assert worst(y, truth) < LOOSE
    equal(state, left)
    step = [x[:, 0] for x in drawn(1)]
    y, state = xla.attention_step(*step, bias_of(window), after(window), window=window)
    assert worst(y, truth[:, 0]) < LOOSE
    equal(state, left)


@pytest.mark.parametrize("given", [False, True])
def test_no_tokens(given):
    window = AttentionForm(C, "look1")
    (y, state), (truth, left) = of_both(window, given, 0)
    assert y.shape == truth.shape == (B, 0, A, D)
    equal(state, left)


def gradients(window, given=True, bias=True, dy=None, **changed):
    x = dict(zip("qkv", drawn(), strict=True)) | changed
    rng = np.random.default_rng(3)
    dstate = {n: rng.standard_normal((B, window.slots, G, D)) for n in "kv"}
    b, state = bias_of(window) if bias else None, after(window) if given else None
    arguments = (*x.values(), b, state, drawn(seed=4)[0] if dy is None else dy, dstate)
    return [f(*arguments, window=window) for f in (xla.attention_vjp, reference.attention_vjp)]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("given", [False, True])
def test_the_reference_s_gradients(window, given):
    (*found, dstate0), (*truth, wanted) = gradients(window, given)
    for got, d in zip(found, truth, strict=True):
        assert worst(got, d) < LOOSE
    assert dstate0.keys() == wanted.keys()
    assert all(worst(dstate0[n], wanted[n]) < LOOSE for n in "kv")


def test_the_gradients_of_a_step_and_without_a_bias():
    window = AttentionForm(C, "sliding")
    q, k, v = (x[:, 0] for x in drawn(1))
    dstate = {n: np.ones((B, C, G, D)) for n in "kv"}
    arguments = (q, k, v, None, after(window), q[::-1], dstate)
    found = xla.attention_step_vjp(*arguments, window=window)
    truth = reference.attention_step_vjp(*arguments, window=window)
    assert found[3] is None
    for got, d in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True):
        assert worst(got, d) < LOOSE


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("part", "kqv")
def test_a_nan_is_felt_where_it_is_seen_alone(window, part):
    x = dict(zip("qkv", drawn(), strict=True))
    x[part] = x[part].copy()
    x[part][0, 5] = np.nan
    bias, state = bias_of(window), after(window)
    y, left = xla.attention(*x.values(), bias, state, window=window)
    truth, wanted = reference.attention(*x.values(), bias, state, window=window)
    bad = np.isnan(truth)
    assert bad.any() and np.array_equal(np.isnan(y), bad)
    assert worst(y[~bad], truth[~bad]) < LOOSE
    equal(left, wanted)
    (found, truth) = gradients(window, **{part: x[part]})
    for got, d in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True):
        assert np.array_equal(np.isnan(got), np.isnan(d))


@pytest.mark.parametrize(
    "window, seen",
    list(zip(WINDOWS, ([8, 9], [6, 7, 8, 9], [4, 5, 6, 7, 8, 9], [5, 6, 7, 8]), strict=True)),
)
def test_no_cotangent_reaches_what_its_query_does_not_see(window, seen):
    dy = np.zeros((B, L, A, D))
    dy[0, 9] = np.nan
    nothing = {n: np.zeros((B, window.slots, G, D)) for n in "kv"}
    given = (*drawn(), bias_of(window), after(window), dy, nothing)
    dq, dk, dv, *_ = xla.attention_vjp(*given, window=window)
    for dx, where in ((dq, [9]), (dk, seen), (dv, seen)):
        felt = np.isnan(dx).any((2, 3))
        assert np.flatnonzero(felt[0]).tolist() == where and not felt[1:].any()
        assert not np.any(np.asarray(dx)[~felt])  # exactly 0


def test_huge_logits():
    window = AttentionForm(C)
    q, k, v = drawn()
    given = (1e4 * q, k, v, bias_of(window), None)
    y, _ = xla.attention(*given, window=window)
    assert worst(y, reference.attention(*given, window=window)[0]) < 1e-9


def shapes_of(jaxpr):
    """Of everything that a program computes, inner programs included."""
    for eqn in jaxpr.eqns:
        yield from (v.aval.shape for v in eqn.outvars)
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from shapes_of(inner)


@pytest.mark.parametrize("window", WINDOWS)
def test_no_array_grows_with_the_square_of_the_length(window):
    gradient = jax.grad(lambda *x: xla.attention(*x, None, window=window)[0].sum(), (0, 1, 2))

    def largest(length):
        program = jax.make_jaxpr(gradient)(*drawn(length))
        return max(np.prod(shape) for shape in shapes_of(program.jaxpr))

    assert largest(128) == 2 * largest(64) < B * A * 128 * 64


def test_no_weights_are_kept_for_the_gradient():
    """Between the passes there are q, k, v and two numbers a query."""
    window, q = AttentionForm(32), drawn(64, groups=1)
    _, back = jax.vjp(lambda *x: xla.attention(*x, None, window=window)[0], *q)
    assert max(x.size for x in jax.tree.leaves(back)) == q[0].size < B * 64 * A * 32


def test_under_vmap_and_scan():
    window = AttentionForm(C, "look1")
    x, bias, state = drawn(), bias_of(window), jax.tree.map(jnp.asarray, after(window))
    truth, _ = reference.attention(*x, bias, after(window), window=window)

    def alone(q, k, v, state):
        one = jax.tree.map(lambda x: x[None], (q, k, v, state))
        return xla.attention(*one[:3], bias, one[3], window=window)[0][0]

    def step(state, x):
        y, state = xla.attention_step(*x, bias, state, window=window)
        return state, y

    @jax.jit
    def both(x, state):
        tokens = tuple(jnp.moveaxis(z, 1, 0) for z in x)
        return jax.vmap(alone)(*x, state), jax.lax.scan(step, state, tokens)[1]

    rows, steps = both(x, state)
    assert worst(rows, truth) < LOOSE and worst(jnp.moveaxis(steps, 0, 1), truth) < LOOSE


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("x64", [False, True])
def test_rotations_at_large_positions(pairing, x64):
    """The angles are those of binary64, also where JAX has binary32 alone."""
    dtype = np.float64 if x64 else np.float32
    x = drawn()[0].astype(dtype)
    r = np.random.default_rng(1).integers(0, 2**31 - 1, (B, L)).astype(np.int32)
    r[0] = 10**6
    truth = reference.rope(x.astype(float), r, base=1e4, pairing=pairing)
    with jax.enable_x64(x64):
        y = xla.rope(x, r, base=1e4, pairing=pairing)
        back = xla.rope_vjp(r, y, base=1e4, pairing=pairing)
    assert y.dtype == dtype
    bound = 1e-12 if x64 else 1e-6  # binary32 alone would be off by 1
    assert worst(y, truth) < bound and worst(back, x) < bound


def test_norms_and_tables():
    rng = np.random.default_rng(0)
    x, weight, dy = (rng.standard_normal(s) for s in ((B, L, D), (D,), (B, L, D)))
    assert worst(xla.rms_norm(x, weight, eps=1e-5), reference.rms_norm(x, weight, eps=1e-5)) < LOOSE
    found = xla.rms_norm_vjp(x, weight, dy, eps=1e-5)
    for got, d in zip(found, reference.rms_norm_vjp(x, weight, dy, eps=1e-5), strict=True):
        assert worst(got, d) < LOOSE
    table, dbias = rng.standard_normal((A, 32)), rng.standard_normal((A, 200))
    assert np.array_equal(xla.t5_bias(table, 200), reference.t5_bias(table, 200))
    truth = reference.t5_bias_vjp(table, 200, dbias)
    assert worst(xla.t5_bias_vjp(table, 200, dbias), truth) < LOOSE


def test_states_that_cannot_be():
    window = AttentionForm(C)
    for t in (-1, C):
        bad = {**after(window), "t": np.full(B, t, np.int32)}
        bad["t"][0] = 0
        given = (*drawn(), bias_of(window))
        with pytest.raises(ValueError, match=r"attention: every state.t must be at least 0"):
            xla.attention(*given, bad, window=window)
        y, left = jax.jit(lambda s: xla.attention(*given, s, window=window))(bad)  # noqa: B023
        assert not np.isnan(y[0]).any() and np.isnan(y[1:]).all()
        assert not np.isnan(left["k"][0]).any() and np.isnan(left["k"][1:]).all()


def test_no_rows():
    window = AttentionForm(2, "strict")
    q, k, v = (x[:0] for x in drawn(3))
    y, state = xla.attention(q, k, v, None, window=window)
    truth, wanted = reference.attention(q, k, v, None, window=window)
    assert y.shape == truth.shape
    equal(state, wanted)
