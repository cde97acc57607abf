"""Faults that an earlier set of vectors let pass, each found by vectors of the new kind alone."""

from types import SimpleNamespace

import numpy as np
import pytest

from refgss import reference
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging import runner
from refgss.conformance.vectors import coverage
from refgss.conformance.vectors.format import read_vectors
from refgss.layers.states import mapped
from refgss.ops import OPS
from refgss.standard import spec_folder

PUBLISHED = read_vectors(spec_folder() / "vectors").vectors
PROFILES = ("f32", "paper", "gss-pytorch")


def failures(op, function, selection="default"):
    """The ids of the vectors of `op` that a candidate with this function fails."""
    about = {"name": "wrong", "version": "1", "ops": [op], "profiles": list(PROFILES)}
    candidate = ModuleCandidate(SimpleNamespace(capabilities=lambda: about, **{op: function}))
    questions = runner.select(PUBLISHED, PROFILES, [op], selection=selection)
    records = runner.claimed_in_vain([op], questions, runner.run(candidate, questions, 0))
    return {r["id"] for r in records if r["outcome"] not in ("pass", "not claimed")}


@pytest.mark.parametrize("op", ["gss_layer", "dss_layer", "lm_logits"])
def test_a_state_of_zeros_where_none_was_given(op):
    def forgetful(params, x, state=None, *, config):
        y, after = getattr(reference, op)(params, x, state, config=config)
        return y, mapped(np.zeros_like, after) if state is None else after

    failed = failures(op, forgetful)
    assert any(id.endswith("-whole") for id in failed)


STATEFUL = [op for op in OPS if op.endswith("_vjp") and "state" in OPS[op].arguments]


@pytest.mark.parametrize("op", STATEFUL)
def test_a_gradient_that_declines_every_state_is_judged_without_one(op):
    where = OPS[op].arguments.index("state")

    def stateless(*arguments, **options):
        if arguments[where] is not None:
            raise NotImplementedError("no incoming state")
        return tuple(0 * np.asarray(1.0) for _ in OPS[op].outputs)

    assert any("fresh" in id or "option" in id for id in failures(op, stateless))


def test_an_op_that_is_claimed_and_always_declined_fails():
    def declines(*_, **__):
        raise NotImplementedError("tomorrow")

    assert failures("gss_layer_vjp", declines)


def test_who_refuses_everything_has_not_answered():
    def lazy(params, x, *rest, config):
        if x.shape == (2, 4, 3):  # of the refusals
            raise ValueError("no")
        raise NotImplementedError("tomorrow")

    assert failures("gss_layer", lazy)


REFUSING = [op for op in OPS if any(axes != "..." for axes in OPS[op].axes.values())]


@pytest.mark.parametrize("op", REFUSING)
def test_an_op_that_refuses_nothing(op):
    def trusting(*arguments, **options):
        try:
            return getattr(reference, op)(*arguments, **options)
        except (TypeError, ValueError):
            return 0.0

    failed = failures(op, trusting)
    assert failed and all("/refuse-" in id for id in failed)


@pytest.mark.parametrize("op", ["ssm_scan", "ssm_step_vjp", "ssm_kernel_vjp"])
def test_a_state_a_step_or_a_cotangent_of_size_1_that_is_broadcast(op):
    bad = {"ssm_scan": "state-one-0", "ssm_step_vjp": "one-step-nan", "ssm_kernel_vjp": "dk-one-0"}

    def broadcasting(*arguments, **options):
        try:
            return getattr(reference, op)(*arguments, **options)
        except ValueError as e:
            if "must have shape" not in str(e) and "delta" not in str(e):
                raise
            return 0.0

    assert f"{op}/refuse-{bad[op]}" in failures(op, broadcasting)


@pytest.mark.parametrize("op", ["gss_layer", "dss_layer_vjp", "lm_loss"])
def test_an_epsilon_that_is_always_1e_5(op):
    from dataclasses import replace

    def fixed(*arguments, config):
        layer = getattr(config, "layer", config)
        if isinstance(layer, tuple):
            layer = tuple(replace(one, eps=1e-5) for one in layer)
        else:
            layer = replace(layer, eps=1e-5)
        config = replace(config, layer=layer) if hasattr(config, "layer") else layer
        return getattr(reference, op)(*arguments, config=config)

    failed = failures(op, fixed)
    assert any("option-" in id and "eps" in id for id in failed)


def test_a_gradient_of_a_bias_that_there_is_not():
    def generous(x, weight, bias, dy):
        dx, dweight, dbias = reference.dense_vjp(x, weight, bias, dy)
        return dx, dweight, np.zeros_like(weight[0]) if dbias is None else dbias

    assert failures("dense_vjp", generous) == {"dense_vjp/no-bias"}


def test_the_published_set_asks_every_argument_option_and_output():
    assert coverage.complaints(PUBLISHED) == []


@pytest.mark.parametrize(
    ("lacking", "complaint"),
    [
        (lambda v: v.error and v.op == "dense", "dense: no vector with a bad bias"),
        (lambda v: "option-eps" in v.id, "config.eps is 1e-05 in every vector"),
        (lambda v: v.id.endswith("-whole"), "state is not judged"),
    ],
)
def test_coverage_names_what_is_not_asked(lacking, complaint):
    left = [v for v in PUBLISHED if not lacking(v)]
    assert any(complaint in sentence for sentence in coverage.complaints(left))


def beyond(op, axis, size):
    """The op of the reference, zero from this index of an axis of its first output on."""

    def faulty(*arguments, **options):
        result = getattr(reference, op)(*arguments, **options)
        first = result[0] if isinstance(result, tuple) else result
        first = np.moveaxis(first.copy(), axis, 0)
        first[size:] = 0
        first = np.moveaxis(first, 0, axis)
        return (first, *result[1:]) if isinstance(result, tuple) else first

    return faulty


@pytest.mark.parametrize(
    ("op", "axis", "size"),
    [
        ("gss_layer", 0, 4),
        ("dss_layer", 1, 12),
        ("ssm_scan", 1, 160),
        ("causal_conv", 2, 32),
        ("causal_conv_vjp", 1, 97),
        ("ssm_kernel", 1, 64),
        ("layer_norm", -1, 16),
        ("gelu", 0, 64),
        ("dense", -1, 32),
        ("ssm_step", 1, 128),
        ("lm_logits", 2, 11),
        ("lm_logits", 1, 64),
        ("gss_lambda", 0, 256),
        ("discretize", -1, 1024),
    ],
)
def test_a_fault_that_begins_at_a_size(op, axis, size):
    failed = failures(op, beyond(op, axis, size), "thorough" if size > 257 else "default")
    assert any("/size-" in id or "/long" in id for id in failed)


def test_a_state_below_one_millionth_that_is_flushed():
    def flushing(u, lam, c, state=None, *, delta, form):
        y, after = reference.ssm_step(u, lam, c, state, delta=delta, form=form)
        return y, np.where(np.abs(after) < 1e-6, 0, after).astype(after.dtype)

    failed = failures("ssm_step", flushing)
    assert failed and all("/scale-" in id for id in failed)


def test_a_huge_number_that_reaches_backwards():
    def noncausal(u, lam, c, state=None, *, delta, form):
        y, after = reference.ssm_scan(u, lam, c, state, delta=delta, form=form)
        if u.size and np.abs(u).max() > 1e38:
            y = np.full_like(y, np.nan)
        return y, after

    failed = failures("ssm_scan", noncausal)
    assert failed and all("/late-" in id for id in failed)
