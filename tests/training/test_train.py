"""Training: resume bit by bit, many devices, optimisers, what a run refuses."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from refgss.config import DSSConfig, GSSConfig, LMConfig
from refgss.model import initialize, load_checkpoint
from refgss.model.tensors import TensorFileError
from refgss.reference import lm_loss
from refgss.training import loop
from refgss.training.data import DataConfig
from refgss.training.loop import Habits, train
from refgss.training.optimizers import kind, to_complex, to_real
from refgss.training.recipe import Recipe, Run, Sizes, TrainingError
from refgss.training.state import TrainingState, first_difference, leaves
from refgss.training.step import functions, loss_of

MODEL = LMConfig(GSSConfig(), depth=1)
SIZES = Sizes(width=16, gate=16, channels=8, states=4, memory=50.0)
RECIPE = Recipe(steps=12, batch=4, length=16, warmup=3, rate=1e-2)
HABITS = Habits(log=1, evaluate=4, save=5)


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A text with something to learn in it."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"{i} and {i} is {2 * i}\n" for i in range(300)))
    return str(path)


@pytest.fixture(scope="session")
def a_run(text):
    return Run(MODEL, SIZES, DataConfig((text,), held_out_tail=0.1), RECIPE)


@pytest.fixture(scope="session")
def whole(a_run, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    train(a_run, folder, HABITS)
    return folder


class KilledError(Exception):
    """Stands for kill -9: nothing is written after it."""


def killed_after(steps):
    def watch(progress):
        if progress.step == steps:
            raise KilledError

    return watch


def without_times(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds", None), line.pop("tokens_per_second", None)
    return lines


def tensors(folder):
    return load_checkpoint(folder / "model.safetensors").params


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_a_killed_run_goes_on_as_if_it_had_not_been(a_run, whole, tmp_path):
    for steps in (3, 9, 6, 11):  # before the first state, after it, before the next, …
        with pytest.raises(KilledError):
            train(a_run, tmp_path, HABITS, killed_after(steps))
    train(a_run, tmp_path, HABITS)
    assert same(tensors(tmp_path), tensors(whole))
    assert without_times(tmp_path) == without_times(whole)


def test_a_finished_run_stays_as_it_is(a_run, whole, tmp_path):
    before = tensors(whole), without_times(whole)
    train(a_run, whole, HABITS)
    assert same(tensors(whole), before[0]) and without_times(whole) == before[1]


def test_it_learns(whole):
    held_out = [line["held_out"] for line in without_times(whole) if "held_out" in line]
    assert held_out[-1] < held_out[0] and held_out[-1] < np.log(257)


def test_the_first_loss_is_that_of_the_standard(a_run, text):
    params = initialize(MODEL, vocabulary=257, seed=0, **vars(SIZES))
    windows = np.random.default_rng(0).integers(0, 257, (2, 17)).astype(np.int32)
    expected = lm_loss(params, windows[:, :-1], windows[:, 1:], config=MODEL)
    found = loss_of(MODEL, RECIPE)(to_real(params), windows)
    assert found == pytest.approx(expected, rel=1e-5)
    assert same(to_complex(to_real(params)), params)


def updated(model, recipe, sizes=SIZES):
    """Parameters after two steps on fixed windows, and the losses."""
    params = to_real(initialize(model, vocabulary=257, seed=0, **vars(sizes)))
    begin, step, _ = functions(model, recipe, tuple(params))
    memory, losses = begin(params), []
    for seed in range(2):
        shape = (recipe.batch, recipe.length + 1)
        windows = np.random.default_rng(seed).integers(0, 257, shape).astype(np.int32)
        params, memory, loss, _ = step(params, memory, windows, np.float32(0.5))
        losses.append(float(loss))
    return {k: np.asarray(v) for k, v in params.items()}, losses


def close(a, b, budget):
    """Adam divides by the size of the gradient: where it is tiny, its rounding shows."""
    assert all(np.abs(a[k] - b[k]).max() <= budget for k in a)


@pytest.mark.parametrize(
    "change",
    [
        {"data_parallel": 4},
        {"data_parallel": 2, "sequence_parallel": 4},
        {"accumulate": 2},
    ],
)
def test_spreading_a_batch_changes_rounding_alone(change):
    recipe = replace(RECIPE, rate=1e-3, modes_rate=1e-3)
    alone, spread = updated(MODEL, recipe), updated(MODEL, replace(recipe, **change))
    assert spread[1] == pytest.approx(alone[1], rel=1e-5)
    moved = [np.abs(alone[0][k] - spread[0][k]) for k in alone[0]]
    # an update is at most the rate times the schedule in size; nearly all agree far better
    assert max(x.max() for x in moved) <= 2 * 2 * 0.5e-3
    assert np.mean(np.concatenate([x.ravel() for x in moved])) < 1e-2 * 0.5e-3


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
def test_optimizers_move_all_parameters_and_lower_the_loss(optimizer, text, tmp_path):
    recipe = replace(RECIPE, optimizer=optimizer, steps=8)
    run = Run(MODEL, SIZES, DataConfig((text,), held_out_tail=0.1), recipe)
    losses = []
    train(run, tmp_path, HABITS, lambda progress: losses.append(progress.loss))
    assert losses[-1] < losses[0]
    initial = initialize(MODEL, vocabulary=257, seed=0, **vars(SIZES))
    assert not any(np.array_equal(x, initial[k]) for k, x in tensors(tmp_path).items())


def test_dss_and_bf16(text, tmp_path):
    model = LMConfig(DSSConfig(), depth=1)
    sizes = Sizes(width=16, gate=None, channels=None, states=4, memory=None)
    recipe = replace(RECIPE, steps=3, weights="bf16")
    run = Run(model, sizes, DataConfig((text,), held_out_tail=0.1), recipe)
    train(run, tmp_path, HABITS)
    assert load_checkpoint(tmp_path / "model.safetensors").config == model


def test_rates_rise_and_fall():
    factors = [RECIPE.schedule(step, 0.0) for step in range(RECIPE.steps + 1)]
    assert factors.index(max(factors)) == RECIPE.warmup - 1
    assert factors[-1] == pytest.approx(RECIPE.final)
    timed = replace(RECIPE, minutes=1.0)
    assert timed.share(0, 30.0) == 0.5 and timed.share(9, 30.0) == 0.75
    assert timed.share(0, 90.0) == 1.0


def test_kinds_of_parameters():
    assert kind("layers.3.ssm.a") == kind("layers.0.ssm.log_delta") == "modes"
    assert kind("layers.3.w_uc") == "matrix" and kind("embedding.weight") == "table"
    assert kind("layers.3.ssm.c") == kind("norm.bias") == "other"


def test_another_run_is_refused_and_nothing_is_lost(a_run, whole):
    before = (whole / "training.safetensors").read_bytes()
    other = replace(a_run, recipe=replace(RECIPE, rate=2e-2))
    with pytest.raises(TrainingError, match="rate is 0.01 and not 0.02"):
        train(other, whole, HABITS)
    assert (whole / "training.safetensors").read_bytes() == before
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "whose b is 1 and not 2"


def test_a_damaged_state_is_refused(a_run, whole, tmp_path):
    for name in ("text.json", "text.tokens"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    content = (whole / "training.safetensors").read_bytes()
    (tmp_path / "training.safetensors").write_bytes(content[:-1])
    with pytest.raises(TensorFileError, match="damaged"):
        train(a_run, tmp_path, HABITS)
    (tmp_path / "training.safetensors").write_bytes((whole / "model.safetensors").read_bytes())
    with pytest.raises(TrainingError, match="no training state"):
        train(a_run, tmp_path, HABITS)


def test_a_loss_that_is_no_number_stops_the_run(a_run, tmp_path, monkeypatch):
    begin, step, loss = functions(MODEL, RECIPE, tuple(leaves_of_a_run(a_run)))

    def broken(params, memory, windows, schedule):
        params, memory, nats, norm = step(params, memory, windows, schedule)
        return params, memory, nats, norm * np.float32(np.nan if calls.append(0) else 1)

    calls: list[int] = []

    def breaks(*arguments):
        params, memory, nats, norm = broken(*arguments)
        return params, memory, nats, norm if len(calls) < 8 else norm * np.float32(np.nan)

    monkeypatch.setattr(loop, "functions", lambda *arguments: (begin, breaks, loss))
    with pytest.raises(TrainingError, match="no finite number at step 7"):
        train(a_run, tmp_path, HABITS)
    monkeypatch.undo()
    train(a_run, tmp_path, HABITS)  # from the state of step 5


def leaves_of_a_run(run):
    return to_real(loop.initial_params(run, 257))


def test_what_cannot_be(text):
    for wrong in ({"steps": 0}, {"batch": 3, "accumulate": 2}, {"rate": float("nan")}):
        with pytest.raises(TrainingError):
            Recipe(**wrong)
    with pytest.raises(TrainingError, match="devices"):
        loss_of(MODEL, replace(RECIPE, batch=4096, data_parallel=4096))
    with pytest.raises(TrainingError, match="no such model"):
        loop.initial_params(Run(MODEL, replace(SIZES, width=0)), 257)


def test_names_of_a_state_are_those_of_its_parts(a_run):
    params = leaves_of_a_run(a_run)
    begin, _, _ = functions(MODEL, RECIPE, tuple(params))
    names = leaves(TrainingState(params, jax.device_get(begin(params))))
    assert len(names) > 2 * len(params) and "params.layers.0.w_v" in names
