"""What holds between ops, proven to thirty digits: the exact reading has no rounding to excuse.

Two routes to the same numbers are run on balls and must enclose a common point.
"""

from itertools import pairwise

import numpy as np
import pytest
from flint import acb
from hypothesis import assume, given
from hypothesis import strategies as st

from refgss import config as cfg
from refgss import ops, reference
from refgss.conformance.judging import procedures
from refgss.conformance.judging.compare import Outputs
from refgss.conformance.vectors.certify import lift
from refgss.conformance.vectors.enclosure import Enclosure, certifying

from . import hard_cases
from .judging import assert_overlap, assert_within_budget, balls, exactly, lifted, read

# --- a scan, by any route ----------------------------------------------------------------------


@given(hard_cases.scans())
def test_a_scan_from_nothing_is_the_convolution_with_the_kernel(case):
    with certifying():
        given_ = {k: v for k, v in lifted(case).items() if k != "state"}
        length = case.tensors["u"].shape[1]
        k = read("ssm_kernel", given_, case.options | {"length": length})["k"]
        y = read("causal_conv", {"u": given_["u"], "k": k}, {})["y"]
        assert_overlap(read("ssm_scan", given_, case.options)["y"], y)


def cut(data, length):
    return sorted(data.draw(st.lists(st.integers(0, length), max_size=4), label="splits"))


@given(hard_cases.scans(), st.data())
def test_chunks_make_the_whole(case, data):
    with certifying():
        x, y = lifted(case), []
        bounds = [0, *cut(data, case.tensors["u"].shape[1]), None]
        whole = read("ssm_scan", x, case.options)
        for start, stop in pairwise(bounds):
            piece = read("ssm_scan", x | {"u": x["u"][:, start:stop]}, case.options)
            x |= {"state": piece["state"]}
            y.append(balls(piece["y"]))
        assert_overlap(whole["y"], np.concatenate(y, 1))
        assert_overlap(whole["state"], piece["state"])


@given(hard_cases.scans())
def test_steps_make_the_scan(case):
    assume(case.tensors["u"].shape[1])
    with certifying():
        x = lifted(case)
        whole, y = read("ssm_scan", x, case.options), []
        for l in range(case.tensors["u"].shape[1]):
            step = read("ssm_step", x | {"u": x["u"][:, l]}, case.options)
            x |= {"state": step["state"]}
            y.append(balls(step["y"]))
        assert_overlap(whole["y"], np.stack(y, 1))
        assert_overlap(whole["state"], x["state"])


@pytest.mark.parametrize("op", ["ssm_scan", "ssm_step"])
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_pieces_are_within_the_budgets_of_the_whole(op, precision):
    """In working precision, the rounded state handed on: for `ssm_step` a true recurrence."""

    def run(op, tensors, options):
        tensors = {k: ops.from_real(k, np.asarray(x)) for k, x in tensors.items()}
        outputs = ops.call(reference, op, tensors, options)
        return Outputs({k: ops.to_real(y) for k, y in outputs.items()})

    @given(hard_cases.scans(), st.data())
    def check(case, data):
        length = case.tensors["u"].shape[1]
        assume(length)
        splits = list(range(1, length)) if op == "ssm_step" else cut(data, length)
        tensors = ops.at_precision(case.tensors, precision)
        got = procedures.execute(run, op, tensors, case.options | {"splits": splits})
        assert_within_budget(case, got.arrays, precision)

    check()


# --- a linear system that does not look ahead ---------------------------------------------------


@given(hard_cases.scans(), st.data())
def test_a_scan_is_linear_in_input_and_state(case, data):
    other = {
        k: data.draw(hard_cases.tensors(*case.tensors[k].shape), label=f"other {k}")
        for k in ("u", "state")
        if k in case.tensors
    }
    with certifying():
        x = lifted(case)
        x2 = x | {k: lift(k, v) for k, v in other.items()}
        combined = x | {k: exactly(balls(x[k]) * 3 - balls(x2[k]) / 4, like=x[k]) for k in other}
        y, y2, both = (read("ssm_scan", t, case.options) for t in (x, x2, combined))
        for name in ("y", "state"):
            assert_overlap(both[name], balls(y[name]) * 3 - balls(y2[name]) / 4)


@given(hard_cases.scans(), st.integers(1, 5))
def test_a_delayed_input_gives_a_delayed_output(case, delay):
    form = case.options["form"]
    assume(form["method"] != "dss-softmax")  # which bounds the length
    with certifying():
        x = {k: v for k, v in lifted(case).items() if k != "state"}
        b, _, h = case.tensors["u"].shape
        late = np.concatenate([np.zeros((b, delay, h)), case.tensors["u"]], 1)
        y = read("ssm_scan", x, case.options)
        y_late = read("ssm_scan", x | {"u": Enclosure(late)}, case.options)
        assert_overlap(y["state"], y_late["state"])
        assert_overlap(y["y"], y_late["y"][:, delay:])
        assert_overlap(y_late["y"][:, :delay], np.zeros((b, delay, h)))


@given(st.one_of(hard_cases.scans(), hard_cases.convolutions(), hard_cases.layers()), st.data())
def test_no_output_sees_a_later_input(case, data):
    name = next(s for s in procedures.SEQUENCES if s in case.tensors)
    x = case.at("f64")[name]
    assume(x.shape[1])
    t = data.draw(st.integers(0, x.shape[1] - 1), label="t")
    changed = x.copy()
    changed[:, t:] = 1e6
    y, later = case.run("f64")["y"], case.run("f64", **{name: changed})["y"]
    np.testing.assert_array_equal(y[:, :t], later[:, :t])


@given(hard_cases.convolutions())
def test_the_rows_of_a_convolution_are_strangers(case):
    u = case.at("f64")["u"]
    assume(u.size)
    changed = u.copy()
    changed[0, :, 0] = np.nan
    y, other = case.run("f64")["y"], case.run("f64", u=changed)["y"]
    np.testing.assert_array_equal(y[1:], other[1:])
    np.testing.assert_array_equal(y[..., 1:], other[..., 1:])


# --- kernels -----------------------------------------------------------------------------------


@given(hard_cases.kernels(), st.data())
def test_a_shorter_kernel_is_a_prefix(case, data):
    length = data.draw(st.integers(0, case.options["length"]), label="length")
    with certifying():
        k = read("ssm_kernel", lifted(case), case.options)["k"]
        short = read("ssm_kernel", lifted(case), case.options | {"length": length})["k"]
        assert_overlap(k[:, :length], short)


@given(hard_cases.kernels())
def test_a_pair_stands_for_a_mode_and_its_conjugate(case):
    form = case.options["form"]
    with certifying():
        x = lifted(case)
        conjugate = x | {n: np.concatenate([x[n], np.conj(x[n])], -1) for n in ("lam", "c")}
        pairs = read("ssm_kernel", x, case.options | {"form": form | {"pairs": True}})["k"]
        alone = case.options | {"form": form | {"pairs": False}}
        assert_overlap(pairs, read("ssm_kernel", conjugate, alone)["k"])


@given(hard_cases.modes(1, cfg.dss_softmax(1), growing=True), st.integers(1, 13))
def test_softmax_rows_sum_to_one(lam, length):
    """With C = Λ, and with C = iΛ: Σ_l Λ B̄ Ā^l = 1 has the real part 1, and i times it 0."""
    options = {"form": ops.encode_option(cfg.dss_softmax(length)), "length": length}
    with certifying():
        lam = lift("lam", lam)
        c = exactly(np.stack([balls(lam), balls(lam) * acb(0, 1)]), like=lam)
        k = read("ssm_kernel", {"lam": lam, "c": c, "delta": Enclosure(1.0)}, options)["k"]
        assert_overlap(balls(k).sum(1), np.array([1.0, 0.0]))


# --- the limit of the zero-order hold -----------------------------------------------------------

ZOH = {"form": ops.encode_option(cfg.GSS)}


@given(hard_cases.floats(-1, -0.5), hard_cases.floats(-1, 1), st.integers(1, 60))
def test_the_zero_order_hold_tends_to_its_limit(re, im, k):
    """B̄ = 1 + z/2 + z²/6 + …, and from z³/24 on the series is below |z|³/12 where |z| ≤ 1."""
    z = np.array([[re, im]], np.float32) * np.float32(2.0**-k)
    case = hard_cases.Case("discretize", {"lam": z, "delta": np.float32(1)}, ZOH)
    with certifying():
        exact, z = balls(read("discretize", lifted(case), ZOH)["bbar"])[0], acb(*z.tolist()[0])
        assert abs(exact - (1 + z / 2 + z**2 / 6)).abs_upper() < abs(z) ** 3 / 12
    assert_within_budget(case, case.run("f64"), "f64")


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
@pytest.mark.parametrize("lam", [0, -1e-45, -1e-38j, -1e-30 + 1e-38j])
@pytest.mark.parametrize("kind", [np.complex64, np.complex128])
def test_at_zero_the_limit_is_reached(method, lam, kind):
    lam, delta = np.array([lam], kind), np.array([0.25, 3], kind(0).real.dtype)
    a, b = reference.discretize(lam, delta, form=cfg.KernelForm(method))
    np.testing.assert_array_equal(a.real, [[1], [1]])
    np.testing.assert_array_equal(b.real, [[0.25], [3]])
    assert np.all(np.abs(a.imag) < 1e-30) and np.all(np.abs(b.imag) < 1e-30)
