"""SciPy as a witness: discretisation, recurrence, read-out, convolution, erf, eigenvalues.

SciPy computes in binary64 and promises no error bound, so that its results are held to the widest
budget that the standard itself grants, that of binary32: an error of a formula is larger by far.
"""

import numpy as np
import pytest
from scipy import linalg, signal, special

from refgss import config as cfg
from refgss import ops
from refgss.conformance.vectors import cases

from .hard_cases import Case
from .judging import assert_within_budget

N, L = 4, 40
DRAW = cases.Draw("scipy")
MODES = {"random": DRAW.modes(N)} | {
    name: cases.HARD_MODES[name][0] for name in ("slow", "undamped", "real")
}
FORMS = {"zoh": cfg.GSS, "bilinear": cfg.KernelForm("bilinear")}
EVERY = [
    pytest.mark.parametrize("label", MODES),
    pytest.mark.parametrize("method", FORMS),
    pytest.mark.parametrize("delta", [0.125, 1.0]),
]


def over_all(test):
    for mark in EVERY:
        test = mark(test)
    return test


def scan_case(label, method, delta, **changes):
    """One row: u (1,L,1), C (1,N), a state."""
    lam = MODES[label]
    given = {"lam": lam, "c": DRAW(1, len(lam), 2), "u": DRAW(1, L, 1), "delta": np.float32(delta)}
    given |= {"state": DRAW(1, 1, len(lam), 2)} | changes
    return Case("ssm_scan", given, {"form": ops.encode_option(FORMS[method])})


def discrete(lam, method, delta):
    """Ā, B̄ (N,) of x' = Λx + u for every mode by itself."""
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    found = [
        signal.cont2discrete((np.array([[v]]), one + 0j, one, zero), delta, method=method)[:2]
        for v in lam
    ]
    return np.array(found)[..., 0, 0].T


@over_all
def test_discretization(label, method, delta):
    case = scan_case(label, method, delta)
    given = {k: case.tensors[k] for k in ("lam", "delta")}
    a, b = discrete(case.at("f64")["lam"], method, delta)
    assert_within_budget(Case("discretize", given, case.options), {"abar": a, "bbar": b}, "f32")


@over_all
def test_recurrence_as_a_filter(label, method, delta):
    """x_l = Ā x_{l-1} + u_l is a filter of one pole, with the initial condition Ā x_0."""
    case = scan_case(label, method, delta)
    x = case.at("f64")
    a, b = discrete(x["lam"], method, delta)
    u, state = x["u"][0, :, 0], x["state"][0, 0]
    states = [
        signal.lfilter([1], [1, -pole], u + 0j, zi=[pole * start])[0]
        for pole, start in zip(a, state, strict=True)
    ]
    y = (x["c"][0] * b) @ np.array(states)
    got = {"y": y.real[None, :, None], "state": np.array(states)[None, None, :, -1]}
    assert_within_budget(case, got, "f32")


@over_all
def test_recurrence_as_a_discrete_system(label, method, delta):
    """`dlsim` reads its output before the update; ours is read after it: C̃(Āx + u) (GSS-REC-2)."""
    case = scan_case(label, method, delta)
    x = case.at("f64")
    a, b = discrete(x["lam"], method, delta)
    weight, n = x["c"][0] * b, len(a)
    A = np.block([[np.diag(a.real), -np.diag(a.imag)], [np.diag(a.imag), np.diag(a.real)]])
    B = np.concatenate([np.ones((n, 1)), np.zeros((n, 1))])
    after = weight * a  # Re(C̃ Ā x) = Re(C̃Ā) Re x - Im(C̃Ā) Im x
    C, D = np.concatenate([after.real, -after.imag])[None], [[weight.sum().real]]
    u, state = np.append(x["u"][0, :, 0], 0), x["state"][0, 0]
    start = np.concatenate([state.real, state.imag])
    _, y, states = signal.dlsim((A, B, C, D, delta), u, x0=start)
    got = {"y": y[None, :L], "state": (states[L, :n] + 1j * states[L, n:])[None, None]}
    assert_within_budget(case, got, "f32")


@over_all
def test_kernel_as_an_impulse_response(label, method, delta):
    case = scan_case(label, method, delta)
    x = case.at("f64")
    a, b = discrete(x["lam"], method, delta)
    impulse = np.eye(1, L)[0] + 0j
    taps = np.array([signal.lfilter([1], [1, -pole], impulse) for pole in a])  # Ā^l
    k = ((x["c"][0] * b) @ taps).real[None]
    given = {k: case.tensors[k] for k in ("lam", "c", "delta")}
    case = Case("ssm_kernel", given, case.options | {"length": L})
    assert_within_budget(case, {"k": k}, "f32")


@pytest.mark.parametrize(("length", "taps"), [(1, 1), (32, 32), (37, 5), (9, 23)])
@pytest.mark.parametrize("how", ["direct", "fft"])
def test_convolution(length, taps, how):
    case = Case("causal_conv", {"u": DRAW(2, length, 3), "k": DRAW(3, taps)}, {})
    u, k = case.at("f64").values()
    y = [[signal.convolve(row, tap, method=how)[:length] for row, tap in zip(b.T, k, strict=True)]
         for b in u]  # fmt: skip
    assert_within_budget(case, {"y": np.swapaxes(np.array(y), 1, 2)}, "f32")


def test_gelu():
    """Φ to the last bits in both tails: a witness of binary64, held to binary64."""
    x = np.concatenate([np.linspace(-37, 37, 149), [0, 1e-30, -1e-8]]).astype(np.float32)
    case, v = Case("gelu", {"x": x}, {}), x.astype(float)
    assert_within_budget(case, {"y": v * special.erfc(-v / np.sqrt(2)) / 2}, "f64")
    assert_within_budget(case, {"y": v / 2 * (1 + special.erf(v / np.sqrt(2)))}, "f64")


def test_loss():
    config, _ = cases.MODELS["paper"]
    params = cases.named(cases.model_params(DRAW, config, 11, 4, 6, 3, 2))
    given = params | {k: DRAW.tokens(11, 2, 5) for k in ("tokens", "targets")}
    case = Case("lm_loss", given, {"config": ops.encode_option(config)})
    bare = {k: x for k, x in given.items() if k != "targets"}
    logits = Case("lm_logits", bare, case.options).run("f64")["logits"]
    chosen = np.take_along_axis(logits, given["targets"][..., None], -1)[..., 0]
    loss = np.mean(special.logsumexp(logits, axis=-1) - chosen)
    assert_within_budget(case, {"loss": loss}, "f32")


@pytest.mark.parametrize("n", [1, 4, 16])
def test_legs(n):
    """HiPPO-LegS as its authors wrote it, plus its rank-one correction: what S4D-LegS keeps."""
    r = np.sqrt(2 * np.arange(2 * n) + 1)
    hippo = -np.tril(np.outer(r, r), -1) - np.diag(np.arange(2 * n) + 1.0)
    p = np.sqrt(np.arange(2 * n) + 0.5)
    eigenvalues = linalg.eigvals(hippo + np.outer(p, p))
    lam = sorted(eigenvalues, key=lambda v: -v.imag)[:n]
    assert_within_budget(Case("s4d_lambda", {}, {"n": n, "init": "legs"}), {"lam": lam}, "f32")
