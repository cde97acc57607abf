"""Every op written anew in PyTorch from the papers: its autograd is the witness of every gradient.

PyTorch hands out ∂ℓ/∂Re + i·∂ℓ/∂Im for complex numbers, the convention of GSS-GRD-1.  It runs in
binary64 and is held to the budgets of binary32, as all that promises no bound of its own.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from refgss import ops
from refgss.conformance.selftest.variants import torch_ops

from . import hard_cases
from .judging import assert_within_budget

# --- the comparison ------------------------------------------------------------------------------


def run(op, x, options):
    return ops.call(torch_ops, op, x, options)


def values(case):
    x = {k: torch.tensor(v) for k, v in case.at("f64").items()}
    return {k: y.numpy() for k, y in run(case.op, x, case.options).items()}


def gradients(case):
    """Of a case of `op_vjp`, by autograd through `op`."""
    op, x = case.op.removesuffix("_vjp"), case.at("f64")
    if "state" not in x and "state" in ops.OPS[op].arguments:
        x["state"] = np.zeros_like(case.run("f64")["dstate0"])
    cotangents = [x.pop(name) for name in hard_cases.cotangent_names(op)]
    return torch_ops.gradients(op, x, cotangents, case.options)


EXAMPLES = {"layers": 20, "lm_logits": 10, "lm_loss": 10}


@pytest.mark.parametrize("name", hard_cases.FORWARD)
def test_values_agree(name):
    @settings(max_examples=EXAMPLES.get(name, 50))
    @given(hard_cases.FORWARD[name])
    def check(case):
        assert_within_budget(case, values(case), "f32")

    check()


@pytest.mark.parametrize("name", hard_cases.FORWARD)
def test_gradients_agree_with_autograd(name):
    @settings(max_examples=EXAMPLES.get(name, 50))
    @given(hard_cases.gradients(hard_cases.FORWARD[name]))
    def check(case):
        assert_within_budget(case, gradients(case), "f32")

    check()
