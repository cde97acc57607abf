"""Every algorithm gives the same function: transforms, chunks, lengths that fit nothing."""

from functools import partial

import jax
import numpy as np
import pytest

from refgss import config, reference
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging.runner import Question, ask
from refgss.xla import (
    Plan,
    causal_conv,
    ffi,
    gss_layer,
    ssm_kernel,
    ssm_scan,
    ssm_step,
    with_plan,
)

from .examples import certified_layer, complex_normal, layer_parameters, normal, worst

PLANS = [
    Plan(cpu_kernels="xla"),
    Plan("matmul", cpu_kernels="xla"),
    Plan(chunk=7, cpu_kernels="xla"),
    Plan("matmul", chunk=16, cpu_kernels="xla"),
]
ROUNDOFF = 2.0**-24


def fft_bound(u, k):
    """The error that GSS-ACC-5 grants to an FFT in row (b,h) if no errors cancel."""
    taps = k[:, : u.shape[1]].astype(np.float64)
    m = np.ceil(np.log2(u.shape[1] + taps.shape[1]))
    norms = np.linalg.norm(u.astype(np.float64), axis=1) * np.linalg.norm(taps, axis=1)
    return (2 + np.sqrt(5)) * 3 * m * ROUNDOFF * norms[:, None]


@pytest.mark.parametrize("plan", PLANS[:2])
@pytest.mark.parametrize(
    "L, Lk", [(1, 1), (2, 5), (7, 3), (31, 31), (64, 64), (97, 40), (130, 200)]
)
def test_convolution(plan, L, Lk):
    rng = np.random.default_rng(L)
    u, k = normal(rng, 2, L, 3), normal(rng, 3, Lk)
    y = reference.causal_conv(u.astype(np.float64), k.astype(np.float64))
    assert np.all(np.abs(causal_conv(u, k, plan=plan) - y) <= fft_bound(u, k))


@pytest.mark.parametrize("plan", PLANS[:2])
def test_a_bad_row_spoils_no_other(plan):
    rng = np.random.default_rng(0)
    u, k = normal(rng, 2, 20, 3), normal(rng, 3, 20)
    clean = np.array(causal_conv(u, k, plan=plan))
    u[1, 5, 2] = np.nan
    y = np.array(causal_conv(u, k, plan=plan))
    assert np.all(np.isnan(y[1, 5:, 2]))
    y[1, :, 2] = clean[1, :, 2]
    np.testing.assert_array_equal(y, clean)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("plan", PLANS)
def test_the_scan_is_causal_whatever_comes(plan, bad):
    rng = np.random.default_rng(1)
    u, lam, c = normal(rng, 2, 40, 3), -np.exp(complex_normal(rng, 4)), complex_normal(rng, 3, 4)
    lam = -np.abs(lam.real) + 1j * lam.imag
    options = {"delta": np.float32(1), "form": config.GSS, "plan": plan}
    y0, x0 = ssm_scan(u, lam, c, None, **options)
    u[1, 25, 2] = bad
    y, x = map(np.array, ssm_scan(u, lam, c, None, **options))
    assert not np.any(np.isfinite(y[1, 25:, 2])) and np.all(np.isnan(x[1, 2]))
    y[1, 25:, 2], x[1, 2] = y0[1, 25:, 2], x0[1, 2]
    assert worst(y, y0) <= 100 * ROUNDOFF and worst(x, x0) <= 100 * ROUNDOFF


@pytest.mark.parametrize("form", [config.GSS, config.S4D_BILINEAR, config.DSS_EXP])
@pytest.mark.parametrize("plan", PLANS)
def test_scan_against_the_reference_in_f64(plan, form):
    rng = np.random.default_rng(2)
    lam = -np.exp(normal(rng, 5) - 3) + 1j * normal(rng, 5)
    c, state = complex_normal(rng, 3, 5), complex_normal(rng, 2, 3, 5)
    u, delta = normal(rng, 2, 33, 3), np.exp(normal(rng, 3))
    wide = [u.astype(float), lam.astype(complex), c.astype(complex), state.astype(complex)]
    truth = reference.ssm_scan(*wide, delta=delta.astype(float), form=form)
    with jax.enable_x64(True):
        got = ssm_scan(*wide, delta=delta.astype(float), form=form, plan=plan)
        # 33 sums of 33 products each, and as many powers of one step's error
        assert max(map(worst, got, truth)) < 33 * 33 * 2.0**-53


def test_stepping_is_scanning():
    rng = np.random.default_rng(3)
    lam = (-np.exp(normal(rng, 5) - 3) + 1j * normal(rng, 5)).astype(np.complex64)
    c, u = complex_normal(rng, 3, 5), normal(rng, 2, 30, 3)
    options = {"delta": np.float32(1), "form": config.GSS}
    y, x = ssm_scan(u, lam, c, None, **options)

    def step(x, u):
        y, x = ssm_step(u, lam, c, x, **options)
        return x, y

    x_steps, y_steps = jax.lax.scan(step, 0 * x, u.swapaxes(0, 1))
    assert worst(y_steps.swapaxes(0, 1), y) < 30 * 9 * ROUNDOFF  # GSS-ACC-4
    assert worst(x_steps, x) < 30 * 9 * ROUNDOFF


def test_a_long_kernel_of_a_fast_and_slow_mode():
    """GSS-ACC-2 at a length where binary32 exponents are off by half a radian."""
    L, lam = 65536, np.array([-1e-4 + 97.4j], np.complex64)
    k = ssm_kernel(lam, np.ones((1, 1), np.complex64), L, delta=np.float32(1), form=config.GSS)
    z = lam.astype(complex)[0]
    truth = ((np.exp(z) - 1) / z * np.exp(z * np.arange(L))).real
    scale = np.abs((np.exp(z) - 1) / z) * np.exp(z.real * np.arange(L))
    # φ, two table factors, two products, and |zl| roundings of binary64 in the truth itself
    assert np.max(np.abs(k[0] - truth) / scale) < (5 + 5 + 2 * np.sqrt(5)) * ROUNDOFF


def to_bf16(x):
    import ml_dtypes  # JAX's own

    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def test_bf16_weights_are_what_they_say():
    p = layer_parameters(config.PAPER)
    x = normal(np.random.default_rng(0), 1, 9, 8)
    rounded = {k: to_bf16(v) if k.startswith("w_") else v for k, v in p.items()}
    plain = Plan(cpu_kernels="xla")
    y, _ = gss_layer(p, x, config=config.PAPER, plan=Plan(weights="bf16", cpu_kernels="xla"))
    np.testing.assert_array_equal(y, gss_layer(rounded, x, config=config.PAPER, plan=plain)[0])
    assert worst(y, gss_layer(p, x, config=config.PAPER, plan=plain)[0]) > 2.0**-12


@pytest.mark.parametrize("kernels", ["native", "xla"])
@pytest.mark.parametrize("op", ["gss_layer", "gss_layer_vjp"])
def test_bf16_weights_keep_the_budget_of_f32(op, kernels):
    """Weights that bfloat16 holds are exact in binary32, and their gradients are not rounded."""
    if kernels == "native" and (why := ffi.obstacle()):
        pytest.skip(why)
    candidate = ModuleCandidate(with_plan(Plan(weights="bf16", cpu_kernels=kernels)))
    line = ask(candidate, Question(certified_layer(op, 8, to_bf16), "f32"))
    assert line["outcome"] == "pass", line


@pytest.mark.parametrize("gate", [1, 4, 18, 40])
def test_a_gate_branch_in_pieces_is_the_gate_branch(gate):
    p = layer_parameters(config.GSS_PYTORCH)
    x = normal(np.random.default_rng(0), 2, 9, 8)

    def loss(p, x, plan):
        y, state = gss_layer(p, x, config=config.GSS_PYTORCH, plan=plan)
        return (y**2).sum() + (abs(state) ** 2).sum(), y

    whole, pieces = (
        jax.value_and_grad(loss, (0, 1), has_aux=True)(p, x, Plan(cpu_kernels="xla", gate=size))
        for size in (None, gate)
    )
    # the same sums, 18 positions in another order
    assert max(jax.tree.leaves(jax.tree.map(worst, pieces, whole))) <= 18 * 4 * ROUNDOFF


def test_a_gate_branch_in_pieces_keeps_only_what_its_pieces_need():
    """For the gradient: parameters, x, and what the state space hands to the gate."""
    p, x = layer_parameters(config.PAPER), normal(np.random.default_rng(0), 2, 64, 8)
    shapes = {}
    for size in (None, 16):
        layer = partial(gss_layer, config=config.PAPER, plan=Plan(cpu_kernels="xla", gate=size))
        back = jax.vjp(lambda p, x, f=layer: f(p, x)[0], p, x)[1]
        shapes[size] = [v.shape for v in jax.tree.leaves(back) if v.size >= 2 * 64]
    H, F = p["w_uc"].shape
    assert (2, 64, F) in shapes[None]
    whole = [s for s in shapes[16] if np.prod(s) % (2 * 64) == 0]
    assert sorted(np.prod(s) // (2 * 64) for s in whole) == [H, 8, 8], shapes[16]


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_the_precision_of_dense_maps_arrives_in_the_program(precision):
    p, x = layer_parameters(config.PAPER), normal(np.random.default_rng(0), 1, 9, 8)
    plan = Plan(cpu_kernels="xla", precision=precision)
    f = jax.jit(lambda p, x: gss_layer(p, x, config=config.PAPER, plan=plan)[0])
    g = jax.jit(jax.grad(lambda p, x: (f(p, x) ** 2).sum(), (0, 1)))
    high, products = "precision = [HIGH, HIGH]", "stablehlo.dot_general"
    dense = 4 if precision == "high" else 0
    assert f.lower(p, x).as_text().count(high) == dense
    text = g.lower(p, x).as_text()
    assert text.count(high) == 3 * dense  # and the gradients of weights and operands
    assert text.count(products) == text.count("precision = [H") > 3 * dense
    np.testing.assert_array_equal(f(p, x), gss_layer(p, x, config=config.PAPER, plan=PLANS[0])[0])
