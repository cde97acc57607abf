"""The formulas of chapter 18, clause by clause, in plain loops at 100 digits.

As in `test_formulas`, no line is shared with the reference, and there is no tolerance.
"""

from __future__ import annotations

from itertools import product

import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf

pytest.importorskip("flint")

from refgss.config import AttentionForm
from refgss.conformance.vectors.certify import certify
from refgss.ops import encode_option

DIGITS = 100
ROUNDING = mpf(10) ** (10 - DIGITS)
B, L, HEADS, GROUPS, D, C = 2, 4, 4, 2, 2, 2
START = (1, 4)  # tokens that each row has read


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(DIGITS):
        yield


def draw(*shape: int, seed: int = 1) -> np.ndarray:
    """Numbers that float32 holds."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def zeros(*shape: int) -> np.ndarray:
    return np.full(shape, mpf(0), object)


def assert_proven(op: str, tensors: dict, options: dict, formulas: dict) -> None:
    published = certify(op, tensors, {k: encode_option(v) for k, v in options.items()})
    assert published.keys() == formulas.keys()
    for name, formula in formulas.items():
        e, values = published[name], [mpf(v) for v in np.ravel(np.array(formula, object))]
        assert len(values) == e.hi.size, name
        for v, hi, lo, radius in zip(values, e.hi.flat, e.lo.flat, e.radius.flat, strict=True):
            distance = abs(v - mpf(float(hi)) - mpf(float(lo)))
            assert distance <= mpf(float(radius)) + ROUNDING * (1 + abs(v)), (op, name, v, hi)


def test_rms_norm():
    x, weight, dy, eps = draw(B, 4, seed=1), draw(4, seed=2), draw(B, 4, seed=3), 1e-5
    y, dx, dweight = zeros(B, 4), zeros(B, 4), zeros(4)
    for b in range(B):
        root = mp.sqrt(sum(mpf(float(v)) ** 2 for v in x[b]) / 4 + mpf(eps))
        xhat = [mpf(float(v)) / root for v in x[b]]
        g = [mpf(float(dy[b, i])) * float(weight[i]) for i in range(4)]
        along = mp.fdot(g, xhat) / 4
        for i in range(4):
            y[b, i] = xhat[i] * float(weight[i])
            dx[b, i] = (g[i] - xhat[i] * along) / root
            dweight[i] += xhat[i] * float(dy[b, i])
    assert_proven("rms_norm", {"x": x, "weight": weight}, {"eps": eps}, {"y": y})
    case = {"x": x, "weight": weight, "dy": dy}
    assert_proven("rms_norm_vjp", case, {"eps": eps}, {"dx": dx, "dweight": dweight})


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_rope(pairing):
    x, width, base = draw(1, 3, 1, 6), 6, 500.0
    r = np.array([[0, 3, 1_000_000]], np.int32)
    y, back = zeros(*x.shape), zeros(*x.shape)
    for i, j in product(range(3), range(3)):
        angle = int(r[0, i]) * mpf(base) ** (mpf(-2 * j) / width)
        first, second = (j, j + 3) if pairing == "half" else (2 * j, 2 * j + 1)
        x1, x2 = (mpf(float(x[0, i, 0, n])) for n in (first, second))
        for out, sign in ((y, 1), (back, -1)):
            cos, sin = mp.cos(angle), sign * mp.sin(angle)
            out[0, i, 0, first], out[0, i, 0, second] = x1 * cos - x2 * sin, x1 * sin + x2 * cos
    o = {"base": base, "pairing": pairing}
    assert_proven("rope", {"x": x, "r": r}, o, {"y": y})
    assert_proven("rope_vjp", {"r": r, "dy": x}, o, {"dx": back})


def bucket(n: int) -> int:
    """By the formula of the note of GSS-ATT-5, in exact arithmetic: (n/16)^16 against 8^k."""
    if n < 16:
        return n
    return min(31, 16 + max(k for k in range(40) if 8**k * 16**16 <= n**16))


def test_t5_bias():
    table, length = draw(2, 32), 150
    dbias = draw(2, length, seed=2)
    dtable = zeros(2, 32)
    for h, n in product(range(2), range(length)):
        dtable[h, bucket(n)] += mpf(float(dbias[h, n]))
    bias = [[float(table[h, bucket(n)]) for n in range(length)] for h in range(2)]
    assert_proven("t5_bias", {"table": table}, {"length": length}, {"bias": bias})
    case = {"table": table, "dbias": dbias}
    assert_proven("t5_bias_vjp", case, {"length": length}, {"dtable": dtable})


def seen(t: int, s: int, visible: str) -> bool:
    if visible == "strict":
        return 0 < t - s <= C
    if visible == "sliding":
        return 0 <= t - s < C
    return s <= t and t // C - s // C <= (1 if visible == "look1" else 0)


class Row:
    """One row of a batch: keys and values of every token by position, and its gradients."""

    def __init__(self, case: dict, b: int, start: int, visible: str, scale):
        self.k, self.v, self.slot = {}, {}, {}
        slots = case["state.k"].shape[1]
        for s in range(start + L):
            if s < start:  # a token of the state, where the next one sees it
                if not seen(start, s, visible):
                    continue
                self.k[s], self.v[s] = case["state.k"][b, s % slots], case["state.v"][b, s % slots]
            else:
                self.k[s], self.v[s] = case["k"][b, s - start], case["v"][b, s - start]
        self.case, self.b, self.start, self.visible, self.scale = case, b, start, visible, scale

    def weights(self, i: int, h: int) -> dict:
        """The softmax of GSS-ATT-3, by position."""
        t, g = self.start + i, h * GROUPS // HEADS
        a = {
            s: self.scale
            * sum(mpf(float(x)) * float(y) for x, y in zip(self.q(i, h), k[g], strict=True))
            + float(self.case["bias"][h, t - s])
            for s, k in self.k.items()
            if seen(t, s, self.visible)
        }
        total = sum(mp.exp(x) for x in a.values())
        return {s: mp.exp(x) / total for s, x in a.items()}

    def q(self, i: int, h: int) -> np.ndarray:
        return self.case["q"][self.b, i, h]


@pytest.mark.parametrize(
    ("visible", "scale"),
    [("chunk", "inverse-root"), ("sliding", "one"), ("look1", "one"), ("strict", "inverse-root")],
)
def test_attention(visible, scale):
    form = AttentionForm(C, visible, scale)
    S, M = (2 * C if visible == "look1" else C), 2 * C + 1
    factor = 1 / mp.sqrt(D) if scale == "inverse-root" else mpf(1)
    case = {"q": draw(B, L, HEADS, D, seed=1), "bias": draw(HEADS, M, seed=2)}
    case |= {n: draw(B, L, GROUPS, D, seed=i) for i, n in enumerate("kv", 3)}
    case |= {f"state.{n}": draw(B, S, GROUPS, D, seed=i) for i, n in enumerate("kv", 5)}
    held = [t % C if visible == "chunk" else t for t in START]
    case["state.t"] = np.array(held, np.int32)
    dy = draw(B, L, HEADS, D, seed=7)
    dstate = {f"dstate.{n}": draw(B, S, GROUPS, D, seed=i) for i, n in enumerate("kv", 8)}
    y, state = zeros(B, L, HEADS, D), {n: zeros(B, S, GROUPS, D) for n in "kv"}
    grads = {"dq": zeros(B, L, HEADS, D), "dbias": zeros(HEADS, M)}
    grads |= {f"d{n}": zeros(B, L, GROUPS, D) for n in "kv"}
    grads |= {f"dstate0.{n}": zeros(B, S, GROUPS, D) for n in "kv"}
    for b, start in enumerate(START):
        row = Row(case, b, start, visible, factor)

        def add(name: str, s: int, g: int, d: int, x, b: int = b, start: int = start) -> None:
            if s < start:
                grads[f"dstate0.{name}"][b, s % S, g, d] += x
            else:
                grads[f"d{name}"][b, s - start, g, d] += x

        for i, h in product(range(L), range(HEADS)):
            w, g = row.weights(i, h), h * GROUPS // HEADS
            dw = {
                s: sum(mpf(float(dy[b, i, h, d])) * float(row.v[s][g, d]) for d in range(D))
                for s in w
            }
            mean = sum(w[s] * dw[s] for s in w)
            for s, d in product(w, range(D)):
                da = w[s] * (dw[s] - mean)
                y[b, i, h, d] += w[s] * float(row.v[s][g, d])
                grads["dq"][b, i, h, d] += factor * da * float(row.k[s][g, d])
                grads["dbias"][h, start + i - s] += da if d == 0 else 0
                add("k", s, g, d, factor * da * float(case["q"][b, i, h, d]))
                add("v", s, g, d, w[s] * float(dy[b, i, h, d]))
        end = start + L
        for s, g, d in product(row.k, range(GROUPS), range(D)):
            if seen(end, s, visible):
                for name, x in (("k", row.k), ("v", row.v)):
                    state[name][b, s % S, g, d] = float(x[s][g, d])
                    add(name, s, g, d, mpf(float(dstate[f"dstate.{name}"][b, s % S, g, d])))
    end = [(t + L) % C if visible == "chunk" else t + L for t in START]
    o = {"window": form}
    out = {"y": y} | {f"state.{n}": x for n, x in state.items()} | {"state.t": end}
    assert_proven("attention", case, o, out)
    assert_proven("attention_vjp", case | dstate | {"dy": dy}, o, grads)
