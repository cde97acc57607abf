"""The formulas of the spec, clause by clause, in plain loops at 100 digits.

A reading of the chapters that shares no line with the reference.  There is no tolerance: the value
of a formula must lie within the proven radius of the value that `certify` publishes for it.
"""

from __future__ import annotations

from itertools import product

import mpmath
import numpy as np
import pytest
from mpmath import mp, mpc, mpf

pytest.importorskip("flint")

from refgss import config as cfg
from refgss.conformance.vectors.certify import certify
from refgss.ops import encode_option, is_complex, to_real

DIGITS = 100
ROUNDING = mpf(10) ** (10 - DIGITS)  # of the loops below, beside numbers near 1
B, L, H, N = 2, 3, 2, 2

CONFIGURATIONS = [
    pytest.param(form, lam, steps, id=f"{name}-{kind}")
    for name, form, lam in (
        ("zoh", cfg.GSS, (-0.25 + 1.5j, 0)),
        ("zoh-pairs", cfg.S4D_ZOH, (-0.25 + 1.5j, 0.5j)),
        ("bilinear-pairs", cfg.S4D_BILINEAR, (-0.25 + 1.5j, 0.5j)),
        ("dss-exp", cfg.DSS_EXP, (-0.25 + 1.5j, -(2**-13) + 2**-14 * 1j)),  # |Λ|² below ε
        ("dss-softmax", cfg.dss_softmax(5), (-0.25 + 1.5j, 0.5j)),
        ("dss-exp-shifted", cfg.DSS_EXP_SHIFTED, (-0.25 + 1.5j, -(2**-13) + 2**-14 * 1j)),
        ("dss-softmax-shifted", cfg.dss_softmax_shifted(5), (-0.25 + 1.5j, 2**-6 * 1j)),
        ("dss-softmax-shifted-sum", cfg.dss_softmax_shifted_sum(5), (-0.25 + 1.5j, 0.5j)),
    )
    for kind, steps in (("one", 0.75), ("channels", (0.75, 0.5)), ("parts", ((0.75, 2), (0.5, 1))))
    if kind != "parts" or name.startswith("dss")
]


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(DIGITS):
        yield


def draw(*shape: int, cplx: bool = False, seed: int = 1) -> np.ndarray:
    """Numbers that float32 holds."""
    rng = np.random.default_rng((seed, *shape))
    x = rng.standard_normal((*shape, 2)).astype(np.float32).astype(np.float64)
    return x[..., 0] + 1j * x[..., 1] if cplx else x[..., 0]


def lift(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(lambda v: mpc(complex(v)), 1, 1)(x), object)


def conj(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(lambda v: mpc(v).conjugate(), 1, 1)(x), object)


def re(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(lambda v: mpc(v).real, 1, 1)(x), object)


def zeros(*shape: int) -> np.ndarray:
    return np.full(shape, mpc(0), object)


def assert_proven(op: str, tensors: dict, options: dict, formulas: dict) -> None:
    """The outputs that `certify` publishes for a case enclose the values of the formulas."""
    files = {name: to_real(x).astype(np.float32) for name, x in tensors.items()}
    published = certify(op, files, {k: encode_option(v) for k, v in options.items()})
    assert published.keys() == formulas.keys()
    for name, formula in formulas.items():
        e, values = published[name], [mpc(v) for v in np.ravel(formula)]
        parts = [(v.real, v.imag) if is_complex(name) else (v.real,) for v in values]
        flat = [part for pair in parts for part in pair]
        assert len(flat) == e.hi.size, name
        for v, hi, lo, radius in zip(flat, e.hi.flat, e.lo.flat, e.radius.flat, strict=True):
            distance = abs(v - mpf(float(hi)) - mpf(float(lo)))
            assert distance <= mpf(float(radius)) + ROUNDING * (1 + abs(v)), (op, name, v, hi)


# --- chapter 2 ---------------------------------------------------------------------------------


def phi(z: mpc) -> mpc:
    return (mp.exp(z) - 1) / z if z else mpc(1)


def phi_slope(z: mpc) -> mpc:
    return (mp.exp(z) - phi(z)) / z if z else mpc(0.5)


def shifted(x: mpc, form: cfg.KernelForm) -> mpc:
    return x.conjugate() / (abs(x) ** 2 + mpf(form.eps))


class Modes:
    """z, Ā, B̄ and their derivatives in z, all (H,N): GSS-DIS-1 to 5, the table of GSS-GRD-3."""

    def __init__(self, lam, steps, form):
        self.lam, self.form, self.steps = lift(np.array(lam)), form, np.array(steps, float)
        self.separate = self.steps.ndim == 2
        self.z, self.a, self.b, self.da, self.db = (zeros(H, N) for _ in range(5))
        for h, n in product(range(H), range(N)):
            z = self.z[h, n] = self.exponent(h, n)
            d, lam_n = mpf(self.step(h)), self.lam[n]
            self.a[h, n] = self.da[h, n] = mp.exp(z)
            if form.method == "zoh":
                self.b[h, n], self.db[h, n] = d * phi(z), d * phi_slope(z)
            elif form.method == "bilinear":
                self.a[h, n], self.da[h, n] = (1 + z / 2) / (1 - z / 2), 1 / (1 - z / 2) ** 2
                self.b[h, n], self.db[h, n] = d / (1 - z / 2), d / 2 / (1 - z / 2) ** 2
            elif form.reciprocal == "shifted":
                factor = mp.exp(z) - 1
                self.b[h, n] = factor * shifted(self.denominator(h, n), form)
            elif form.reciprocal == "shifted-sum":
                self.b[h, n] = shifted(self.denominator(h, n), form) / lam_n
            elif form.method == "dss-exp":
                r = lam_n.conjugate() / max(abs(lam_n) ** 2, mpf(form.eps))
                self.b[h, n], self.db[h, n] = (mp.exp(z) - 1) * r, mp.exp(z) * r
            else:
                total = sum(mp.exp(z * r) for r in range(form.length))
                slope = sum(r * mp.exp(z * r) for r in range(form.length))
                self.b[h, n] = 1 / (lam_n * total)
                self.db[h, n] = -self.b[h, n] * slope / total

    def denominator(self, h, n):
        """The x of r(x): GSS-DIS-9 to 11, for Re Λ <= 0."""
        z, lam, R = self.z[h, n], self.lam[n], self.form.length
        if self.form.method == "dss-exp":
            return lam
        if self.form.reciprocal == "shifted":
            return (mp.exp(z * R) - 1) * lam
        return sum(mp.exp(z * j) for j in range(R))

    def back_through_reciprocal(self, h, n, db):
        """dB̄ -> dz and what else reaches dΛ: GSS-GRD-15."""
        z, lam, R, x = self.z[h, n], self.lam[n], self.form.length, self.denominator(h, n)
        r, size = shifted(x, self.form), abs(x) ** 2 + mpf(self.form.eps)
        first = 1 / lam if self.form.reciprocal == "shifted-sum" else mp.exp(z) - 1
        dr = first.conjugate() * db
        dx = -((r**2).conjugate()) * dr + self.form.eps / size**2 * dr.conjugate()
        if self.form.reciprocal == "shifted-sum":
            slope = sum(j * mp.exp(z * j) for j in range(R))
            return slope.conjugate() * dx, (-r / lam**2).conjugate() * db
        dz = (mp.exp(z) * r).conjugate() * db
        if self.form.method == "dss-exp":
            return dz, dx
        last = mp.exp(z * R)
        return dz + (R * last * lam).conjugate() * dx, (last - 1).conjugate() * dx

    def step(self, h):
        return float(self.steps.flat[0] if self.steps.size == 1 else self.steps[h].flat[0])

    def exponent(self, h, n):
        lam = self.lam[n]
        if self.separate:
            return mpc(self.steps[h, 0] * lam.real, self.steps[h, 1] * lam.imag)
        return mpf(self.step(h)) * lam

    @property
    def s(self):
        return 2 if self.form.pairs else 1

    def back(self, dabar, dbbar):
        """dĀ, dB̄ (H,N) -> dΛ (N), dΔ of Δ's shape.  GSS-GRD-3, GSS-GRD-13, GSS-GRD-14."""
        dlam, ddelta = zeros(N), zeros(*self.steps.shape)
        for h, n in product(range(H), range(N)):
            z, lam, db = self.z[h, n], self.lam[n], dbbar[h, n]
            dz = self.da[h, n].conjugate() * dabar[h, n] + self.db[h, n].conjugate() * db
            shifts = self.form.reciprocal in ("shifted", "shifted-sum")
            if shifts:
                share, beside = self.back_through_reciprocal(h, n, db)
                dz, dlam[n] = dz + share, dlam[n] + beside
            if self.separate:
                ddelta[h, 0] += lam.real * dz.real
                ddelta[h, 1] += lam.imag * dz.imag
                dlam[n] += mpc(self.steps[h, 0] * dz.real, self.steps[h, 1] * dz.imag)
            else:
                direct = {"zoh": phi(z), "bilinear": 1 / (1 - z / 2)}.get(self.form.method, mpc(0))
                share = (lam.conjugate() * dz).real + (direct.conjugate() * db).real
                ddelta[(h,) if ddelta.ndim else ()] += share
                dlam[n] += mpf(self.step(h)) * dz
            if shifts:
                continue
            if self.form.method == "dss-exp":
                dr = (mp.exp(z) - 1).conjugate() * db
                floor = mpf(self.form.eps)
                above = abs(lam) ** 2 > floor
                dlam[n] += -((1 / lam) ** 2).conjugate() * dr if above else dr.conjugate() / floor
            elif self.form.method == "dss-softmax":
                dlam[n] += (-self.b[h, n] / lam).conjugate() * db
        return dlam, ddelta

    def back_from_kernel(self, c, dweight, dabar):
        """dC̃, dĀ (H,N) -> dΛ, dC, dΔ.  GSS-GRD-4."""
        dlam, ddelta = self.back(dabar, self.s * conj(c) * dweight)
        return {"dlam": dlam, "dc": self.s * conj(self.b) * dweight, "ddelta": ddelta}


@pytest.mark.parametrize(("form", "lam", "steps"), CONFIGURATIONS)
def test_discretisation(form, lam, steps):
    m = Modes(lam, steps, form)
    shared = m.steps.ndim == 0
    case = {"lam": np.array(lam, complex), "delta": m.steps}
    value = {"abar": m.a[0] if shared else m.a, "bbar": m.b[0] if shared else m.b}
    assert_proven("discretize", case, {"form": form}, value)
    da, db = (draw(*np.shape(value["abar"]), cplx=True, seed=i) for i in (1, 2))
    once = (
        np.array([[1], [0]]) if shared else 1
    )  # one scalar Δ: let the first channel stand for all
    dlam, ddelta = m.back(once * lift(da), once * lift(db))
    case |= {"dabar": da, "dbbar": db}
    assert_proven("discretize_vjp", case, {"form": form}, {"dlam": dlam, "ddelta": ddelta})


# --- chapters 3 and 5 --------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "lam", "steps"), CONFIGURATIONS)
def test_kernel(form, lam, steps):
    m, c, dk = Modes(lam, steps, form), draw(H, N, cplx=True), draw(H, L)
    weight = m.s * lift(c) * m.b
    k, dweight, dabar = zeros(H, L), zeros(H, N), zeros(H, N)
    for h, n, l in product(range(H), range(N), range(L)):
        k[h, l] += (weight[h, n] * m.a[h, n] ** l).real
        dweight[h, n] += (m.a[h, n] ** l).conjugate() * mpf(dk[h, l])
        slope = l * m.a[h, n] ** (l - 1) if l else mpc(0)
        dabar[h, n] += (weight[h, n] * slope).conjugate() * mpf(dk[h, l])
    case = {"lam": np.array(lam, complex), "c": c, "delta": m.steps}
    options = {"form": form, "length": L}
    assert_proven("ssm_kernel", case, options, {"k": k})
    back = m.back_from_kernel(lift(c), dweight, dabar)
    assert_proven("ssm_kernel_vjp", case | {"dk": dk}, options, back)


@pytest.mark.parametrize("op", ["ssm_scan", "ssm_step"])
@pytest.mark.parametrize(("form", "lam", "steps"), CONFIGURATIONS)
def test_recurrence(form, lam, steps, op):
    m, c, length = Modes(lam, steps, form), draw(H, N, cplx=True), L if op == "ssm_scan" else 1
    u, dy = draw(B, length, H, seed=1), draw(B, length, H, seed=2)
    state, dstate = (draw(B, H, N, cplx=True, seed=i) for i in (3, 4))
    weight = m.s * lift(c) * m.b
    x, y = [lift(state)], zeros(B, length, H)
    for l in range(length):  # GSS-REC-1, GSS-REC-2
        x.append(m.a * x[-1] + lift(u[:, l])[..., None])
        y[:, l] = re((weight * x[-1]).sum(-1))
    du, dweight, dabar, carried = zeros(B, length, H), zeros(H, N), zeros(H, N), lift(dstate)
    for l in reversed(range(length)):  # GSS-GRD-6
        cotangent = lift(dy[:, l])[..., None]
        g = conj(weight) * cotangent + carried
        du[:, l] = re(g.sum(-1))
        dabar = dabar + (conj(x[l]) * g).sum(0)
        dweight = dweight + (conj(x[l + 1]) * cotangent).sum(0)
        carried = conj(m.a) * g
    signal = {"u": u, "dy": dy} if op == "ssm_scan" else {"u": u[:, 0], "dy": dy[:, 0]}
    case = {"lam": np.array(lam, complex), "c": c, "delta": m.steps, "state": state}
    value = {"y": y, "state": x[-1]}
    assert_proven(op, case | {"u": signal["u"]}, {"form": form}, value)
    back = m.back_from_kernel(lift(c), dweight, dabar) | {"du": du, "dstate0": carried}
    assert_proven(f"{op}_vjp", case | signal | {"dstate": dstate}, {"form": form}, back)


# --- chapters 2 (parameters), 4 and 6 ----------------------------------------------------------


@pytest.mark.parametrize("imag", ["exp", "identity"])
def test_parameters(imag):
    a, b, dlam = draw(N, seed=1), draw(N, seed=2), draw(N, cplx=True)
    ea, eb = ([mp.exp(v) for v in x] for x in (a, b))
    lam = [mpc(-ea[n], eb[n] if imag == "exp" else b[n]) for n in range(N)]
    assert_proven("gss_lambda", {"a": a, "b": b}, {"imag": imag}, {"lam": lam})
    da = [-ea[n] * dlam[n].real for n in range(N)]
    db = [(eb[n] if imag == "exp" else 1) * dlam[n].imag for n in range(N)]
    case = {"a": a, "b": b, "dlam": dlam}
    assert_proven("gss_lambda_vjp", case, {"imag": imag}, {"da": da, "db": db})


@pytest.mark.parametrize("n", [1, 2, 5])
def test_initialisation(n):
    skew = mpmath.matrix(2 * n)
    for i, j in product(range(2 * n), repeat=2):
        skew[i, j] = (-1 if i > j else i != j) * mp.sqrt((2 * i + 1) * (2 * j + 1)) / 2
    frequencies = sorted(mpmath.eigh(skew * mpc(0, 1), eigvals_only=True), reverse=True)[:n]
    lam = {
        "lin": [mpc(-0.5, mp.pi * k) for k in range(n)],
        "inv": [mpc(-0.5, 2 * n / mp.pi * (mpf(2 * n) / (2 * k + 1) - 1)) for k in range(n)],
        "real": [mpc(-(k + 1)) for k in range(n)],
        "legs": [mpc(-0.5, w) for w in frequencies],
    }
    for init, value in lam.items():
        assert_proven("s4d_lambda", {}, {"n": n, "init": init}, {"lam": value})


@pytest.mark.parametrize("taps", [1, L, L + 2])
def test_convolution(taps):
    u, k, dy = draw(B, L, H, seed=1), draw(H, taps, seed=2), draw(B, L, H, seed=3)
    y, du, dk = zeros(B, L, H), zeros(B, L, H), zeros(H, taps)
    for b, l, h in product(range(B), range(L), range(H)):
        for j in range(min(l, taps - 1) + 1):
            y[b, l, h] += mpf(k[h, j]) * u[b, l - j, h]
            du[b, l - j, h] += mpf(k[h, j]) * dy[b, l, h]
            dk[h, j] += mpf(u[b, l - j, h]) * dy[b, l, h]
    assert_proven("causal_conv", {"u": u, "k": k}, {}, {"y": y})
    assert_proven("causal_conv_vjp", {"u": u, "k": k, "dy": dy}, {}, {"du": du, "dk": dk})


def test_layer_norm():
    x, weight, bias, dy = draw(B, 4, seed=1), draw(4, seed=2), draw(4, seed=3), draw(B, 4, seed=4)
    eps, width = 1e-5, 4
    y, dx, dweight, dbias = zeros(B, width), zeros(B, width), zeros(width), zeros(width)
    for b in range(B):
        mu = mp.fsum(x[b]) / width
        root = mp.sqrt(mp.fsum((v - mu) ** 2 for v in x[b]) / width + mpf(eps))
        xhat = [(v - mu) / root for v in x[b]]
        g = [mpf(dy[b, i]) * weight[i] for i in range(width)]
        mean, along = mp.fsum(g) / width, mp.fdot(g, xhat) / width
        for i in range(width):
            y[b, i] = xhat[i] * weight[i] + bias[i]
            dx[b, i] = (g[i] - mean - xhat[i] * along) / root
            dweight[i] += dy[b, i] * xhat[i]
            dbias[i] += dy[b, i]
    case, o = {"x": x, "weight": weight, "bias": bias}, {"eps": eps}
    assert_proven("layer_norm", case, o, {"y": y})
    back = {"dx": dx, "dweight": dweight, "dbias": dbias}
    assert_proven("layer_norm_vjp", case | {"dy": dy}, o, back)


def test_gelu():
    x, dy = np.array([-9, -0.75, 0, 1.5, 30]), draw(5)
    y = [v * mp.ncdf(v) for v in map(mpf, x)]
    dx = [(mp.ncdf(v) + v * mp.npdf(v)) * g for v, g in zip(map(mpf, x), dy, strict=True)]
    assert_proven("gelu", {"x": x}, {}, {"y": y})
    assert_proven("gelu_vjp", {"x": x, "dy": dy}, {}, {"dx": dx})


def test_dense():
    x, weight, bias, dy = draw(B, 3), draw(3, 2), draw(2), draw(B, 2)
    y, dx, dweight, dbias = lift(np.tile(bias, (B, 1))), zeros(B, 3), zeros(3, 2), zeros(2)
    for b, o in product(range(B), range(2)):
        dbias[o] += dy[b, o]
        for i in range(3):
            y[b, o] += mpf(x[b, i]) * weight[i, o]
            dx[b, i] += mpf(dy[b, o]) * weight[i, o]
            dweight[i, o] += mpf(x[b, i]) * dy[b, o]
    case = {"x": x, "weight": weight, "bias": bias}
    assert_proven("dense", case, {}, {"y": y})
    back = {"dx": dx, "dweight": dweight, "dbias": dbias}
    assert_proven("dense_vjp", case | {"dy": dy}, {}, back)
