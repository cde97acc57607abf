"""A few values of every op by mpmath, from the papers' formulas: they lie in the proven enclosures.

Nothing here calls the reference but through what it certifies.  Each value is computed to 50 digits
and must lie within the certified radius of the certified value.
"""

import mpmath as mp
import numpy as np
import pytest

from refgss import config as cfg
from refgss import ops
from refgss.conformance.vectors import cases
from refgss.conformance.vectors.certify import certify

DIGITS = 50
DRAW = cases.Draw("mpmath")
LAM = np.concatenate([cases.HARD_MODES["slow"][0], cases.HARD_MODES["near-zero"][0], DRAW.modes(3)])
C, U, X0 = DRAW(2, len(LAM), 2), DRAW(1, 7, 2), DRAW(1, 2, len(LAM), 2)
DELTA = np.array([[0.25, 0.5], [1.5, 0.75]], np.float32)


@pytest.fixture(autouse=True)
def precision():
    with mp.workdps(DIGITS):
        yield


def number(x):
    return mp.mpc(*map(float, x)) if np.size(x) == 2 else mp.mpf(float(x))


def assert_enclosed(want, index, value):
    """`value` lies within the radius of element `index` of a certified output; Re and Im apart."""
    value, complex_output = mp.mpc(value), len(index) < want.hi.ndim
    for part, v in enumerate((value.real, value.imag) if complex_output else (value.real,)):
        i = (*index, part) if complex_output else index
        error = abs(v - mp.mpf(want.hi[i]) - mp.mpf(want.lo[i]))
        # 50 digits, less ten for the terms that cancel
        assert error <= want.radius[i] + mp.mpf(10) ** (10 - DIGITS) * (1 + abs(v)), i


# --- the formulas ------------------------------------------------------------------------------


def transition(lam, re_step, im_step):
    """e^{ΔΛ}, with steps of their own for Re and Im."""
    return mp.exp(mp.mpc(lam.real * re_step, lam.imag * im_step))


def zoh(lam, re, im):
    """S4D (arXiv 2206.11893): Ā = e^{ΔA}, B̄ = (Ā - 1)/A."""
    return transition(lam, re, im), (transition(lam, re, im) - 1) / lam


def bilinear(lam, re, im):
    """S4D: Ā = (1 + ΔA/2)/(1 - ΔA/2), B̄ = Δ/(1 - ΔA/2)."""
    return (1 + re * lam / 2) / (1 - re * lam / 2), re / (1 - re * lam / 2)


def dss_exp(lam, re, im):
    """DSS (arXiv 2203.14343), Proposition 1(a), the reciprocal as in the authors' code."""
    a = transition(lam, re, im)
    return a, (a - 1) * mp.conj(lam) / max(abs(lam) ** 2, mp.mpf(1e-7))


def dss_softmax(lam, re, im):
    """DSS, Proposition 1(b): the row softmax of e^{ΔΛl} over l < 9."""
    a = transition(lam, re, im)
    return a, 1 / (lam * mp.fsum(a**l for l in range(9)))


def reciprocal(x):
    """conj(x)/(x conj(x) + ε), of the authors' dss.py; its ε is 1e-7."""
    return mp.conj(x) / (x * mp.conj(x) + mp.mpf(1e-7))


def dss_exp_shifted(lam, re, im):
    a = transition(lam, re, im)
    return a, (a - 1) * reciprocal(lam)


def dss_softmax_shifted(lam, re, im):
    """dss.py, and s4.py with disc="dss": num = e^{ΔΛ} - 1, den = e^{ΔΛL} - 1."""
    a = transition(lam, re, im)
    return a, (a - 1) * reciprocal((a**9 - 1) * lam)


def dss_softmax_shifted_sum(lam, re, im):
    """Appendix A.2, and the Annotated S4: the row sum is divided by, and 1/Λ stands beside it."""
    a = transition(lam, re, im)
    return a, reciprocal(mp.fsum(a**l for l in range(9))) / lam


METHODS = {
    "zoh": (cfg.GSS, zoh),
    "bilinear": (cfg.KernelForm("bilinear"), bilinear),
    "dss-exp": (cfg.DSS_EXP, dss_exp),
    "dss-softmax": (cfg.dss_softmax(9), dss_softmax),
    "dss-exp-shifted": (cfg.DSS_EXP_SHIFTED, dss_exp_shifted),
    "dss-softmax-shifted": (cfg.dss_softmax_shifted(9), dss_softmax_shifted),
    "dss-softmax-shifted-sum": (cfg.dss_softmax_shifted_sum(9), dss_softmax_shifted_sum),
}


def step_of(method, h):
    """Δ of the channel for Re and Im, and Δ as the ops take it."""
    separate = method.startswith("dss")
    delta = DELTA if separate else DELTA[:, 0]
    re, im = DELTA[h] if separate else (DELTA[h, 0], DELTA[h, 0])
    return mp.mpf(float(re)), mp.mpf(float(im)), delta


@pytest.mark.parametrize("method", METHODS)
def test_discretization(method):
    form, formula = METHODS[method]
    delta = step_of(method, 0)[2]
    tensors, options = {"lam": LAM, "delta": delta}, {"form": ops.encode_option(form)}
    want = certify("discretize", tensors, options)
    for h in range(2):
        for n, lam in enumerate(LAM):
            a, b = formula(number(lam), *step_of(method, h)[:2])
            assert_enclosed(want["abar"], (h, n), a)
            assert_enclosed(want["bbar"], (h, n), b)


def modes(method, h):
    """[(Ā, C B̄)] of a channel."""
    ab = [METHODS[method][1](number(lam), *step_of(method, h)[:2]) for lam in LAM]
    return [(a, number(c) * b) for (a, b), c in zip(ab, C[h], strict=True)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pairs", [False, True])
def test_kernel(method, pairs):
    """K_l = Re Σ_n C̃_n Ā_n^l, twice that where one of each conjugate pair is stored."""
    form = ops.encode_option(METHODS[method][0]) | {"pairs": pairs}
    tensors = {"lam": LAM, "c": C, "delta": step_of(method, 0)[2]}
    want = certify("ssm_kernel", tensors, {"form": form, "length": 9})["k"]
    for h in range(2):
        for l in (0, 1, 8):
            k = mp.fsum((w * a**l).real for a, w in modes(method, h))
            assert_enclosed(want, (h, l), (2 if pairs else 1) * k)


@pytest.mark.parametrize("method", METHODS)
def test_recurrence(method):
    """x_l = Ā x_{l-1} + u_l, y_l = Re Σ C̃ x_l, run step by step."""
    tensors = {"lam": LAM, "c": C, "delta": step_of(method, 0)[2], "u": U, "state": X0}
    options = {"form": ops.encode_option(METHODS[method][0])}
    want = certify("ssm_scan", tensors, options)
    first = certify("ssm_step", tensors | {"u": U[:, 0]}, options)
    for h in range(2):
        x = [number(v) for v in X0[0, h]]
        for l in range(U.shape[1]):
            x = [a * v + float(U[0, l, h]) for (a, _), v in zip(modes(method, h), x, strict=True)]
            y = mp.fsum((w * v).real for (_, w), v in zip(modes(method, h), x, strict=True))
            assert_enclosed(want["y"], (0, l, h), y)
            if l == 0:
                assert_enclosed(first["y"], (0, h), y)
                assert_enclosed(first["state"], (0, h, 4), x[4])
        for n, v in enumerate(x):
            assert_enclosed(want["state"], (0, h, n), v)


def test_parameters():
    a, b = DRAW(5), DRAW(5)
    for imag in ("exp", "identity"):
        want = certify("gss_lambda", {"a": a, "b": b}, {"imag": imag})["lam"]
        for n in range(5):
            im = mp.exp(number(b[n])) if imag == "exp" else number(b[n])
            assert_enclosed(want, (n,), mp.mpc(-mp.exp(number(a[n])), im))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_initialization(n):
    """S4D, with N = 2n states of which n are stored; LegS by mpmath's own eigenvalues."""
    N, half = 2 * n, mp.mpf(-1) / 2
    legs = mp.matrix(N, N)
    for i in range(N):
        for j in range(i):
            legs[i, j] = -mp.sqrt((2 * i + 1) * (2 * j + 1)) / 2
            legs[j, i] = -legs[i, j]
    frequencies = sorted((v.imag for v in mp.eig(legs, right=False)), reverse=True)
    wanted = {
        "lin": [mp.mpc(half, mp.pi * k) for k in range(n)],
        "inv": [mp.mpc(half, N / mp.pi * (mp.mpf(N) / (2 * k + 1) - 1)) for k in range(n)],
        "real": [mp.mpf(-(k + 1)) for k in range(n)],
        "legs": [mp.mpc(half, w) for w in frequencies[:n]],
    }
    for init, values in wanted.items():
        want = certify("s4d_lambda", {}, {"n": n, "init": init})["lam"]
        for k, v in enumerate(values):
            assert_enclosed(want, (k,), v)


def test_convolution():
    u, k = DRAW(1, 6, 1), DRAW(1, 4)
    want = certify("causal_conv", {"u": u, "k": k}, {})["y"]
    for l in range(6):
        terms = (number(k[0, j]) * number(u[0, l - j, 0]) for j in range(4) if j <= l)
        assert_enclosed(want, (0, l, 0), mp.fsum(terms))


def test_layer_norm():
    x, weight, bias = DRAW(4) + np.float32(100), DRAW(4), DRAW(4)
    want = certify("layer_norm", {"x": x, "weight": weight, "bias": bias}, {"eps": 1e-5})["y"]
    v = [number(e) for e in x]
    mean = mp.fsum(v) / 4
    variance = mp.fsum((e - mean) ** 2 for e in v) / 4
    for i in range(4):
        y = (v[i] - mean) / mp.sqrt(variance + mp.mpf(1e-5)) * number(weight[i]) + number(bias[i])
        assert_enclosed(want, (i,), y)


def test_gelu():
    x = np.array([-40, -6, -0.5, 0, 1e-20, 0.5, 3, 40], np.float32)
    want = certify("gelu", {"x": x}, {})["y"]
    for i, v in enumerate(map(number, x)):
        assert_enclosed(want, (i,), v / 2 * (1 + mp.erf(v / mp.sqrt(2))))


def test_dense():
    x, weight, bias = DRAW(3), DRAW(3, 2), DRAW(2)
    want = certify("dense", {"x": x, "weight": weight, "bias": bias}, {})["y"]
    for o in range(2):
        y = mp.fsum(number(x[i]) * number(weight[i, o]) for i in range(3)) + number(bias[o])
        assert_enclosed(want, (o,), y)


def test_loss():
    """A layer whose output weight is 0 is the identity: the loss is that of a table of logits."""
    config = cfg.LMConfig(cfg.PAPER, depth=1, final_norm=False)
    layer = cases.layer_params(DRAW, cfg.PAPER, 2, 2, 2, 2)
    layer["w_o"] = np.zeros((2, 2), np.float32)
    table, head = DRAW(3, 2), DRAW(2, 3)
    tensors = {"params.embedding.weight": table, "params.head.weight": head}
    tensors |= cases.named(layer, "layers.0.")
    tensors |= {"tokens": np.array([[0, 2]]), "targets": np.array([[1, 1]])}
    want = certify("lm_loss", tensors, {"config": ops.encode_option(config)})["loss"]
    nats = []
    for t in (0, 2):
        logits = [
            mp.fsum(number(table[t, e]) * number(head[e, v]) for e in (0, 1)) for v in range(3)
        ]
        nats.append(mp.log(mp.fsum(map(mp.exp, logits))) - logits[1])
    assert_enclosed(want, (), mp.fsum(nats) / 2)
