"""Every op on hard cases: its plain reading stays within the budget of its proven value."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import hard_cases
from .judging import assert_within_budget

COSTLY = ("layers", "lm_logits", "lm_loss")


def examples(name):
    return 15 if name in COSTLY else 60


def both(name):
    """A forward case, or one of its gradient."""
    forward = hard_cases.FORWARD[name]
    return st.one_of(forward, hard_cases.gradients(forward))


@pytest.mark.parametrize("name", hard_cases.FORWARD)
def test_the_reference_is_within_its_budgets(name):
    @settings(max_examples=examples(name))
    @given(both(name), st.sampled_from(["f32", "f64"]))
    def check(case, precision):
        assert_within_budget(case, case.run(precision), precision)

    check()


@pytest.mark.parametrize("name", hard_cases.FORWARD)
def test_the_working_precision_is_kept(name):
    @settings(max_examples=examples(name))
    @given(both(name), st.sampled_from([("f32", np.float32), ("f64", np.float64)]))
    def check(case, precision):
        profile, wanted = precision
        for output, y in case.run(profile).items():
            assert y.real.dtype == wanted, output

    check()


@pytest.mark.parametrize("name", hard_cases.FORWARD)
def test_memory_layout_does_not_matter_and_arguments_are_left_alone(name):
    def awkward(x):
        """The same numbers in reverse order of axes, at every other place, from an offset."""
        if not x.ndim:
            return x
        memory = np.full([2 * n + 1 for n in x.shape[::-1]], 7, x.dtype).T
        view = memory[tuple(slice(1, None, 2) for _ in x.shape)]
        view[...] = x
        return view

    @settings(max_examples=examples(name))
    @given(both(name))
    def check(case):
        given_ = {k: awkward(x) for k, x in case.at("f64").items()}
        for x in given_.values():
            x.setflags(write=False)
        assert_within_budget(case, case.run("f64", **given_), "f64")
        for k, x in case.at("f64").items():
            np.testing.assert_array_equal(given_[k], x)

    check()
