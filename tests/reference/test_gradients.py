"""Every gradient against central differences, in balls of 256 bits with a step of 2^-90.

For a real loss ℓ = Σ Re(conj(cotangent)·output), a step h in the direction v changes ℓ by
h·Σ Re(conj(gradient)·v) (GSS-GRD-1).  Truncation is of the order of h² and rounding of 2^-256/h, so
that more than twenty digits must agree: no error of a formula is that small.
"""

import numpy as np
import pytest
from flint import acb, arb
from hypothesis import given, settings

from refgss import config as cfg
from refgss import ops
from refgss.conformance.vectors.certify import certify
from refgss.conformance.vectors.enclosure import certifying

from . import hard_cases
from .judging import balls, exactly, lifted, read

STEP = 90
AGREEMENT = 70  # bits; leaves 2^110 to the third derivative and 2^96 to the conditioning


def primal(gradient):
    """dparams.w_u -> params.w_u, dstate0 -> state, dlam -> lam."""
    return {"dstate0": "state"}.get(gradient, gradient.removeprefix("d"))


def dot(x, y):
    """Σ Re(conj(x)·y)."""
    products = ((v.conjugate() * w).real for v, w in zip(x.ravel(), y.ravel(), strict=True))
    return sum(products, arb(0))


def loss(op, x, options, cotangents):
    outputs = read(op, x, options).values()
    return sum((dot(balls(d), balls(y)) for d, y in zip(cotangents, outputs, strict=True)), arb(0))


def direction(x, rng):
    v = rng.standard_normal((2, *x.shape))
    return balls(v[0] + 1j * v[1] if x.is_complex else v[0])


def along_the_axis(v, lam):
    """v, but 0 in Re Λ where it is 0.

    dss-softmax ends there, at what is refused (GSS-DIS-6), or has a kink there (GSS-DIS-10).
    """
    undamped = np.array([x.real == 0 for x in balls(lam)], bool)
    return np.where(undamped, v * 0 + np.array([acb(0, x.imag) for x in v], object), v)


def slope_and_gradient(case, read_gradient=read):
    """The change of the loss in a random direction: by differences, by the gradient; a scale."""
    op, rng, h = case.op.removesuffix("_vjp"), np.random.default_rng(0), arb(2) ** -STEP
    x = lifted(case)
    gradients = {primal(k): balls(g) for k, g in read_gradient(case.op, x, case.options).items()}
    cotangents = [x[name] for name in hard_cases.cotangent_names(op)]
    # where the state is left out its gradient is that at zero, and there is nothing to move
    ways = {name: direction(x[name], rng) for name in gradients if name in x}
    form = case.options.get("form", {})
    if form.get("method") == "dss-softmax" and (op != "ssm_kernel" or "reciprocal" in form):
        ways["lam"] = along_the_axis(ways["lam"], x["lam"])

    def moved(step):
        return x | {k: exactly(balls(x[k]) + step * v, like=x[k]) for k, v in ways.items()}

    ahead, behind = (loss(op, moved(s), case.options, cotangents) for s in (h, -h))
    scale = sum((abs(g) for k in ways for g in gradients[k].ravel()), 1 + abs(ahead))
    return (ahead - behind) / (2 * h), sum(dot(gradients[k], v) for k, v in ways.items()), scale


def assert_gradients_agree(case, **how):
    with certifying():
        slope, gradient, scale = slope_and_gradient(case, **how)
        assert abs(slope - gradient).abs_upper() < arb(2) ** -AGREEMENT * scale


COSTLY = {"layers": 24, "lm_logits": 8, "lm_loss": 8}


@pytest.mark.parametrize("name", hard_cases.FORWARD)
def test_gradients_are_slopes(name):
    @settings(max_examples=COSTLY.get(name, 60))
    @given(hard_cases.gradients(hard_cases.FORWARD[name]))
    def check(case):
        assert_gradients_agree(case)

    check()


@pytest.mark.parametrize("forward", [hard_cases.scans(), hard_cases.layers()])
def test_the_gradient_of_a_state_left_out_is_that_at_zero(forward):
    @settings(max_examples=12)
    @given(hard_cases.gradients(forward))
    def check(case):
        bare = {k: x for k, x in case.tensors.items() if k != "state"}
        zero = bare | {"state": np.zeros_like(case.tensors["dstate"])}
        at_zero = certify(case.op, zero, case.options)
        for name, want in certify(case.op, bare, case.options).items():
            np.testing.assert_array_equal(want.hi, at_zero[name].hi)

    check()


# beside PyTorch's autograd in test_attention and test_transformer; slopes in test_block_recurrent
ELSEWHERE = {"rms_norm", "rope", "t5_bias", "attention", "attention_step", "transformer_layer"}
ELSEWHERE |= {"l2_normalize", "window_attention", "state_attention", "gate"}
ELSEWHERE |= {"block_recurrent_layer", "block_recurrent_step"}


def test_every_gradient_op_is_differenced():
    drawn = {"gss_layer", "dss_layer"} | set(hard_cases.FORWARD) - {"layers"} | ELSEWHERE
    assert {f"{op}_vjp" for op in drawn} == {op for op in ops.OPS if op.endswith("_vjp")}


def test_an_error_of_one_part_in_2_60_is_noticed():
    given_ = {"lam": np.array([[-1, 2]], np.float32), "delta": np.float32(0.5)}
    given_ |= {"dabar": np.array([[1, 3]], np.float32), "dbbar": np.array([[-2, 1]], np.float32)}
    case = hard_cases.Case("discretize_vjp", given_, {"form": ops.encode_option(cfg.GSS)})

    def nearly(*args):
        off = 1 + arb(2) ** -60
        return {k: exactly(balls(y) * off, like=y) for k, y in read(*args).items()}

    assert_gradients_agree(case)
    with pytest.raises(AssertionError):
        assert_gradients_agree(case, read_gradient=nearly)
