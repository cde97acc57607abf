"""Training: resume bit by bit, many devices, optimisers, what a run refuses."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from refgss.cli import run
from refgss.config import (
    BlockRecurrentConfig,
    DSSConfig,
    GSSConfig,
    LMConfig,
    TransformerConfig,
)
from refgss.layers import role_of
from refgss.model import initialize, load_checkpoint
from refgss.model.evaluation import negative_log_likelihood
from refgss.reference import lm_logits, lm_loss
from refgss.tensors import TensorFileError
from refgss.training import loop
from refgss.training.data import DataConfig, Windows
from refgss.training.loop import Habits, train
from refgss.training.optimizers import to_complex, to_real
from refgss.training.recipe import Recipe, Run, Sizes, TrainingError, sizes_of
from refgss.training.state import TrainingState, description, first_difference, leaves
from refgss.training.step import functions, loss_of

MODEL = LMConfig(GSSConfig(), depth=1)
GSS_SIZES = {"width": 16, "gate": 16, "channels": 8, "states": 4}
SIZES = Sizes(**GSS_SIZES, memory=50.0)
RECIPE = Recipe(steps=12, batch=4, length=16, optimizer="adamw", rate=1e-2, warmup=3)
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
    params = initialize(MODEL, GSS_SIZES, vocabulary=257, memory=50.0, seed=0)
    windows = np.random.default_rng(0).integers(0, 257, (2, 17)).astype(np.int32)
    expected = lm_loss(params, windows[:, :-1], windows[:, 1:], config=MODEL)
    found, state = loss_of(MODEL, RECIPE)(to_real(params), windows)
    assert state is None and found == pytest.approx(expected, rel=1e-5)
    assert same(to_complex(to_real(params)), params)


def updated(recipe):
    """Parameters after two steps on fixed windows, and the losses."""
    params = to_real(initialize(MODEL, GSS_SIZES, vocabulary=257, memory=50.0, seed=0))
    begin, step, _ = functions(MODEL, recipe, tuple(sorted(params)))
    memory, losses = begin(params), []
    for seed in range(2):
        shape = (recipe.batch, recipe.length + 1)
        windows = np.random.default_rng(seed).integers(0, 257, shape).astype(np.int32)
        params, memory, loss, *_ = step(params, memory, windows, np.float32(0.5))
        losses.append(float(loss))
    return np.concatenate([np.asarray(x).ravel() for x in params.values()]), losses


def test_spreading_a_batch_changes_rounding_alone():
    spread = replace(RECIPE, data_parallel=2, sequence_parallel=4, accumulate=2)
    (a, a_losses), (b, b_losses) = updated(RECIPE), updated(spread)
    assert b_losses == pytest.approx(a_losses, rel=1e-5)
    # Adam's update is about its rate, whatever the gradient: rounding shows where that is near 0
    assert np.mean(np.abs(a - b)) < 1e-2 * 0.5 * RECIPE.rate


@pytest.mark.parametrize(
    "optimizer, model, sizes, weights",
    [
        ("adafactor", MODEL, SIZES, "full"),
        ("muon", LMConfig(DSSConfig(), 1), Sizes(16, None, None, 4, None), "bf16"),
    ],
)
def test_optimizers_move_all_parameters_and_lower_the_loss(
    optimizer, model, sizes, weights, text, tmp_path
):
    recipe = replace(RECIPE, optimizer=optimizer, weights=weights)
    run = Run(model, sizes, DataConfig((text,), held_out_tail=0.1), recipe)
    losses = []
    train(run, tmp_path, HABITS, lambda progress: losses.append(progress.loss))
    assert losses[-1] < losses[0]
    initial = loop.initial_params(run, 257)
    assert not any(np.array_equal(x, initial[k]) for k, x in tensors(tmp_path).items())


def test_rates_rise_and_fall():
    factors = [RECIPE.schedule(step, 0.0) for step in range(RECIPE.steps + 1)]
    assert factors.index(max(factors)) == RECIPE.warmup - 1
    assert factors[-1] == pytest.approx(RECIPE.final)
    timed = replace(RECIPE, minutes=1.0)
    assert timed.share(0, 30.0) == 0.5 and timed.share(9, 30.0) == 0.75
    assert timed.share(0, 90.0) == 1.0


def test_roles_of_parameters():
    config = LMConfig((GSSConfig(), DSSConfig()), 4)
    assert role_of("layers.2.ssm.a", config) == role_of("layers.1.ssm.log_delta", config) == "modes"
    assert role_of("layers.2.w_uc", config) == role_of("layers.3.w_o", config) == "matrix"
    assert role_of("embedding.weight", config) == "table"
    assert role_of("layers.3.ssm.c", config) == role_of("norm.bias", config) == "other"


def test_another_run_is_refused_and_nothing_is_lost(a_run, whole):
    before = (whole / "training.safetensors").read_bytes()
    other = replace(a_run, recipe=replace(RECIPE, rate=2e-2))
    with pytest.raises(TrainingError, match=r"rate is 0\.01 and not 0\.02"):
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


def test_a_loss_that_is_no_number_stops_the_run(a_run, whole, tmp_path, monkeypatch):
    begin, step, loss = functions(MODEL, RECIPE, tuple(sorted(leaves_of_a_run(a_run))))
    calls = []

    def breaks(*arguments):
        calls.append(arguments)
        params, memory, nats, norm, state = step(*arguments)
        return params, memory, nats, norm * np.float32(np.nan if len(calls) == 8 else 1), state

    monkeypatch.setattr(loop, "functions", lambda *arguments: (begin, breaks, loss))
    with pytest.raises(TrainingError, match="no finite number at step 7"):
        train(a_run, tmp_path, HABITS)
    monkeypatch.undo()
    train(a_run, tmp_path, HABITS)  # from the state of step 5
    assert same(tensors(tmp_path), tensors(whole))


def test_a_run_that_stops_early_goes_on(a_run, whole, tmp_path):
    train(a_run, tmp_path, replace(HABITS, stop=7))
    assert not same(tensors(tmp_path), tensors(whole))
    train(a_run, tmp_path, HABITS)
    assert same(tensors(tmp_path), tensors(whole))


def test_two_runs_in_one_folder_are_refused(a_run, whole):
    (whole / ".model.safetensors.1.tmp").write_bytes(b"of a run that was killed")
    with loop.alone_in(whole):
        assert not list(whole.glob(".*.tmp"))
        with pytest.raises(TrainingError, match="going on"):
            train(a_run, whole, HABITS)


def test_a_run_may_begin_with_a_model(a_run, whole, tmp_path):
    start = load_checkpoint(whole / "model.safetensors")
    assert sizes_of(start.params, start.config) == replace(SIZES, memory=None)
    run = Run(
        start.config, sizes_of(start.params, start.config), a_run.data, RECIPE, start=start.digest
    )
    losses = []
    train(run, tmp_path, HABITS, lambda progress: losses.append(progress.loss), start)
    assert losses[0] < without_times(whole)[0]["loss"]
    with pytest.raises(TrainingError, match="start"):
        train(replace(run, start="0"), tmp_path, HABITS, start=start)


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
    begin, _, _ = functions(MODEL, RECIPE, tuple(sorted(params)))
    names = leaves(TrainingState(params, jax.device_get(begin(params))))
    assert len(names) > 2 * len(params) and "params.layers.0.w_v" in names


# --- segments -------------------------------------------------------------------------------------

MIXED = LMConfig(
    (
        GSSConfig(),
        TransformerConfig(heads=2, chunk=4, visible="strict"),
        BlockRecurrentConfig(heads=2, window=4, states=3),
    ),
    depth=3,
)


@pytest.fixture(scope="session")
def a_run_of_segments(a_run):
    recipe = replace(RECIPE, steps=7, length=6, segments=3, accumulate=2, weight_decay=0.0)
    return replace(a_run, model=MIXED, recipe=recipe)


@pytest.fixture
def compiled_quickly():
    """Programs are small: what takes time is to compile them well."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_a_run_of_segments_is_killed_between_them(a_run_of_segments, tmp_path, compiled_quickly):
    """Steps 3 and 6 begin a text; from all others the state of layers of every kind goes on."""
    run, (whole, killed) = a_run_of_segments, (tmp_path / "whole", tmp_path / "killed")
    train(run, whole, HABITS)
    train(run, killed, replace(HABITS, stop=1))
    after_one = tensors(killed)
    for steps in (2, 4, 5):
        with pytest.raises(KilledError):
            train(run, killed, replace(HABITS, save=1), killed_after(steps))
    train(run, killed, HABITS)
    assert same(tensors(killed), tensors(whole))
    losses = [line["loss"] for line in without_times(whole) if "loss" in line]
    assert [x["loss"] for x in without_times(killed) if "loss" in x] == losses
    # the second step goes on in the text, from the state that the first model left
    recipe, text = run.recipe, np.fromfile(whole / "text.tokens", "<u2")
    text = text[: json.loads((whole / "text.json").read_text())["train"]]
    batch = Windows(text, recipe.text, recipe.seed).batch(0, recipe.batch)
    first, second = batch[:, :6], batch[:, 6:13]
    _, state = lm_logits(loop.initial_params(run, 257), first, config=MIXED)
    logits, _ = lm_logits(after_one, second[:, :-1], state, config=MIXED)
    wanted = negative_log_likelihood(logits, second[:, 1:]).mean()
    assert losses[1] == pytest.approx(wanted, rel=1e-5)


def test_a_state_that_cannot_be_spread_over_devices(a_run_of_segments):
    recipe = replace(a_run_of_segments.recipe, sequence_parallel=2)
    with pytest.raises(TrainingError, match="cannot be spread over devices: use --data-parallel"):
        replace(a_run_of_segments, recipe=recipe)


def test_a_run_without_segments_is_described_as_before(a_run):
    assert "segments" not in description(a_run, "")["run"]["recipe"]


OTHER_LINES = ["5", "null", '"step"', '{"step": "a"}', '{"step": 1', "[1]", "{}"]


@pytest.mark.parametrize("line", OTHER_LINES)
def test_metrics_of_other_kinds_end_what_is_kept(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    first = '{"step": 1, "loss": 2.0}\n'
    path.write_text(f"{first}{line}\n{first}")
    loop.Metrics(path, 3).close()
    assert path.read_text() == first


def test_the_command_says_the_losses_and_refuses_what_it_would_ignore(text, tmp_path, capsys):
    out = ["--held-out-tail", "0.1", "--steps", "2", "--batch", "2", "--length", "16"]
    sizes = ["--width", "8", "--gate", "8", "--channels", "4", "--states", "2", "--depth", "1"]
    assert run(["train", text, "--out", str(tmp_path / "a"), *out, *sizes]) == 0
    shown = capsys.readouterr().out
    assert "held-out loss" in shown and "windows of 16 tokens" in shown and "nan" not in shown
    start = ["--from", str(tmp_path / "a" / "model.safetensors")]
    assert run(["train", text, "--out", str(tmp_path / "b"), *out, *start, "--width", "9"]) == 2
    assert "--width is determined by the model of --from" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
