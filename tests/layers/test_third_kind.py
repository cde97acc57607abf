"""A layer kind is a local act: a third one joins by entries in tables, and everything has it."""

import click
import jax
import numpy as np
import pytest

from refgss import layers, reference, xla
from refgss.cli.train import pattern_of
from refgss.config import GSSConfig, LMConfig
from refgss.layers.states import named
from refgss.model import initialize, load_checkpoint, save_checkpoint
from refgss.model.initialization import INITIAL
from refgss.model.session import Session
from refgss.model.snapshot import load_snapshot, save_snapshot
from refgss.native.layers import LAYERS as NATIVE_LAYERS
from refgss.reference.layers import LAYERS, LayerOps
from refgss.tensors import ModelError
from refgss.training.data import DataConfig
from refgss.training.loop import Habits, train
from refgss.training.recipe import Recipe, Run
from refgss.training.recipe import Sizes as TrainedSizes
from refgss.xla.layers import LAYERS as JAX_LAYERS
from tests.layers import moving_average
from tests.layers.moving_average import MovingAverage

MIXED = LMConfig((GSSConfig(), MovingAverage(taps=3)), depth=4)
ALONE = LMConfig(MovingAverage(taps=3), depth=2)
SIZES = {"width": 12, "gate": 16, "channels": 8, "states": 5}
TOKENS = np.random.default_rng(1).integers(0, 260, (2, 11))


@pytest.fixture(autouse=True)
def third_kind(monkeypatch):
    """All that a new kind hands in."""
    layer = LayerOps(moving_average.reference_layer, moving_average.reference_layer_vjp)
    monkeypatch.setitem(layers.KINDS, MovingAverage, moving_average)
    monkeypatch.setitem(LAYERS, MovingAverage, layer)
    monkeypatch.setitem(NATIVE_LAYERS, MovingAverage, layer)  # which has no kernel of its own
    monkeypatch.setitem(JAX_LAYERS, MovingAverage, moving_average.jax_layer)
    monkeypatch.setitem(INITIAL, MovingAverage, moving_average.initial)


def model(config):
    sizes = SIZES if config is MIXED else {"width": 12}
    return initialize(config, sizes, vocabulary=260, seed=3)


def saved(config, folder):
    path = folder / "model.safetensors"
    save_checkpoint(path, model(config), config)
    return load_checkpoint(path)


@pytest.mark.parametrize("config", [MIXED, ALONE], ids=["mixed", "alone"])
def test_the_reference_and_jax_agree_and_every_cut_gives_the_whole(config):
    params = model(config)
    whole, state = reference.lm_logits(params, TOKENS, None, config=config)
    assert isinstance(state, tuple) == (config is MIXED) and len(state) == config.depth
    for backend, cuts in ((reference, range(12)), (xla, (1, 4))):  # each cut is compiled
        for cut in cuts:
            a, after = backend.lm_logits(params, TOKENS[:, :cut], None, config=config)
            b, after = backend.lm_logits(params, TOKENS[:, cut:], after, config=config)
            np.testing.assert_allclose(np.concatenate([a, b], 1), whole, rtol=0, atol=1e-5)
            for x, y in zip(named(after).values(), named(state).values(), strict=True):
                np.testing.assert_allclose(x, y, rtol=0, atol=1e-5)


def test_gradients_agree_through_both_kinds():
    wide = {k: x.astype(np.result_type(x.dtype, float)) for k, x in model(MIXED).items()}
    targets, one = np.roll(TOKENS, -1, 1), np.array(1.0)
    ours, dstate = reference.lm_loss_vjp(wide, TOKENS, targets, None, one, config=MIXED)
    with jax.enable_x64(True):
        theirs, dtheirs = xla.lm_loss_vjp(wide, TOKENS, targets, None, one, config=MIXED)
    assert ours.keys() == theirs.keys() == wide.keys()
    for name, g in ours.items():
        np.testing.assert_allclose(theirs[name], g, rtol=1e-9, atol=1e-12, err_msg=name)
    for x, y in zip(named(dstate).values(), named(dtheirs).values(), strict=True):
        np.testing.assert_allclose(y, x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("config", [MIXED, ALONE], ids=["mixed", "alone"])
@pytest.mark.parametrize("backend", [None, reference], ids=["usual", "reference"])
def test_a_session_streams_saves_and_restores(config, backend, tmp_path):
    checkpoint = saved(config, tmp_path)
    assert checkpoint.config == config
    session = Session(checkpoint, backend=backend, batch=2)
    session.prefill(TOKENS[:, :7])
    fork = session.fork()
    save_snapshot(tmp_path / "state", session.snapshot(), checkpoint.digest)
    again = Session(
        checkpoint, backend=backend, snapshot=load_snapshot(tmp_path / "state", checkpoint)
    )
    for s in (session, fork, again):
        s.step(TOKENS[:, 7])
        s.prefill(TOKENS[:, 8:])
    np.testing.assert_array_equal(fork.logits, session.logits)
    np.testing.assert_array_equal(again.logits, session.logits)
    whole, _ = reference.lm_logits(checkpoint.params, TOKENS, None, config=config)
    np.testing.assert_allclose(session.logits, whole[:, -1], rtol=0, atol=1e-5)


def test_prompts_of_several_lengths_are_read_as_if_alone(tmp_path):
    checkpoint = saved(MIXED, tmp_path)
    both = Session(checkpoint, backend=reference, batch=2)
    both.prefill([TOKENS[0, :4], TOKENS[1]])
    both.step(TOKENS[:, 5])
    for row, prompt in enumerate((TOKENS[0, :4], TOKENS[1])):
        alone = Session(checkpoint, backend=reference)
        alone.prefill(prompt[None])
        alone.step(TOKENS[row : row + 1, 5])
        np.testing.assert_allclose(both.logits[row], alone.logits[0], rtol=0, atol=1e-5)


def test_a_mixed_model_trains(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 60)
    recipe = Recipe(steps=6, batch=2, length=16, warmup=1)
    run = Run(MIXED, TrainedSizes(**SIZES, memory=None), DataConfig((str(text),)), recipe)
    losses = []
    file = train(run, tmp_path / "out", Habits(save=3), lambda p: losses.append(p.loss))
    trained = load_checkpoint(file)
    assert trained.config == MIXED and losses[-1] < losses[0]


def test_a_file_of_a_kind_that_is_not_known_is_refused(tmp_path, monkeypatch):
    saved(MIXED, tmp_path)
    monkeypatch.delitem(layers.KINDS, MovingAverage)
    with pytest.raises(
        ModelError, match=r"kind 'moving-average', and refgss \S+ knows attention, dss, gss"
    ):
        load_checkpoint(tmp_path / "model.safetensors")


def test_options_that_the_kind_does_not_have_are_refused():
    with pytest.raises(ValueError, match="no such options"):
        layers.layer_from_json({"kind": "moving-average", "tap": 3})


def test_the_command_line_takes_patterns_of_every_kind():
    assert pattern_of("gss moving-average gss", ssm_norm=True) == (
        GSSConfig(ssm_norm=True),
        MovingAverage(taps=3),
        GSSConfig(ssm_norm=True),
    )
    for words, says in (("gss lstm", "there is no layer 'lstm'"), (" ", "names no layer")):
        with pytest.raises(click.UsageError, match=says):
            pattern_of(words)


def test_one_model_has_one_description():
    gss, other = GSSConfig(), MovingAverage(3)
    assert LMConfig((gss, other, gss, other), 4) == LMConfig((gss, other), 4)
    assert LMConfig((gss, gss), 5) == LMConfig(gss, 5)
    assert LMConfig((gss, other), 1) == LMConfig(gss, 1)
    assert LMConfig((gss, other), 3).layers == (gss, other, gss)
