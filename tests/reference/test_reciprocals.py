"""What ε does to a DSS kernel: the forms in circulation beside each other, and what is written."""

import numpy as np
import pytest

from refgss import config as cfg
from refgss import ops, reference


def kernel(form, lam, delta, length):
    """K of one mode with C = 1 - i, in binary64."""
    c = np.full((1, 1), 1 - 1j)
    lam, delta = np.array([lam], complex), np.array(delta)
    return reference.ssm_kernel(lam, c, length, delta=delta, form=form)[0]


def distance(form, other, lam, delta, length):
    """The largest difference of two kernels, beside the largest value of the first."""
    k, k2 = (kernel(f, lam, delta, length) for f in (form, other))
    return np.abs(k - k2).max() / np.abs(k).max()


@pytest.mark.parametrize(
    ("lam", "delta", "length", "off"),
    [  # the modulus of x = (e^{zR} - 1)Λ decides: ε/(|x|² + ε) of the exact kernel is missing
        (-0.5, 1.615e-3, 1, 0.38),
        (-0.5, 2.42e-3, 2, 6.4e-2),
        (-0.5 + 1j, 1e-3, 10, 5.9e-4),
        (-0.5 + 1j, 0.25, 129, 8e-8),
    ],
)
def test_exact_dss_softmax_is_not_the_one_in_circulation(lam, delta, length, off):
    found = distance(cfg.dss_softmax(length), cfg.dss_softmax_shifted(length), lam, delta, length)
    assert found == pytest.approx(off, rel=0.1)
    x = np.expm1(delta * lam * length) * lam
    assert found == pytest.approx(1e-7 / (abs(x) ** 2 + 1e-7), rel=1e-6)


@pytest.mark.parametrize("length", [1, 2, 9, 129])
def test_the_papers_epsilon_is_hardly_felt_where_the_authors_code_is_far_off(length):
    forms = cfg.dss_softmax(length), cfg.dss_softmax_shifted_sum(length)
    assert distance(*forms, -0.5, 1e-3, length) <= 1.01e-7


def test_the_two_forms_of_dss_exp_differ_at_small_modes():
    """|Λ|² = 0.76 ε: the shifted reciprocal is smaller by the factor 1 + 0.76."""
    lam = -np.sqrt(0.76e-7)
    assert distance(cfg.DSS_EXP_SHIFTED, cfg.DSS_EXP, lam, 1.0, 3) == pytest.approx(0.76, rel=1e-6)


def test_a_form_without_the_field_means_what_it_meant():
    old = {"method": "dss-exp", "pairs": False, "eps": 1e-7, "length": None}
    assert cfg.KernelForm(**old) == cfg.KernelForm(**old, reciprocal="clamped") == cfg.DSS_EXP
    assert ops.encode_option(cfg.DSS_EXP) == old
    soft = {"method": "dss-softmax", "pairs": False, "eps": None, "length": 5}
    assert cfg.KernelForm(**soft) == cfg.KernelForm(**soft, reciprocal="exact")
    assert ops.encode_option(cfg.dss_softmax(5)) == soft


@pytest.mark.parametrize(
    "form", [cfg.DSS_EXP_SHIFTED, cfg.dss_softmax_shifted(5), cfg.dss_softmax_shifted_sum(5)]
)
def test_a_shifted_form_survives_being_written(form):
    config = cfg.LMConfig(cfg.DSSConfig(form=form), depth=2)
    assert ops.encode_option(form)["reciprocal"] == form.reciprocal
    assert ops.decode_option("lm_logits", "config", ops.encode_option(config)) == config
