"""Models with block-recurrent layers: files, streams, profiles, commands."""

import numpy as np
import pytest

from refgss import reference
from refgss.cli import run
from refgss.config import BlockRecurrentConfig, GSSConfig, LMConfig, TransformerConfig
from refgss.layers.states import named
from refgss.model import (
    CheckpointError,
    Session,
    StateError,
    initialize,
    load_checkpoint,
    load_snapshot,
    save_checkpoint,
    save_snapshot,
)
from refgss.model.profiles import PROFILES, parameter_count
from refgss.tensors import read_tensors, write_tensors

from .models import small

WINDOWED = TransformerConfig(heads=3, chunk=4, visible="strict", position="t5", norm="rms")
RECURRENT = BlockRecurrentConfig(heads=3, window=4, states=2, gate="lstm", update="dual")
PATTERNS = {
    "alone": (RECURRENT,),
    "beside attention": (WINDOWED, RECURRENT),
    "beside gss": (GSSConfig(), BlockRecurrentConfig(heads=3, window=3, states=0, mlp="glu")),
}
TOKENS = np.random.default_rng(1).integers(0, 257, (2, 13))


@pytest.fixture(params=PATTERNS)
def checkpoint(request, tmp_path):
    params, config = small(PATTERNS[request.param], depth=3)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, params, config)
    return load_checkpoint(path)


def test_a_session_reads_forks_saves_and_continues(checkpoint, tmp_path):
    session = Session(checkpoint, backend=reference, batch=2)
    session.prefill(TOKENS[:, :6])  # in the middle of a window
    fork = session.fork()
    save_snapshot(tmp_path / "state", session.snapshot(), checkpoint.digest)
    restored = load_snapshot(tmp_path / "state", checkpoint)
    again = Session(checkpoint, backend=reference, snapshot=restored)
    for s in (session, fork, again):
        s.step(TOKENS[:, 6])
        s.prefill(TOKENS[:, 7:])
    np.testing.assert_array_equal(fork.logits, session.logits)
    np.testing.assert_array_equal(again.logits, session.logits)
    logits, state = reference.lm_logits(checkpoint.params, TOKENS, None, config=checkpoint.config)
    np.testing.assert_allclose(session.logits, logits[:, -1], rtol=0, atol=1e-5)
    for name, x in named(session.snapshot().state).items():
        np.testing.assert_allclose(x, named(state)[name], rtol=0, atol=1e-4, err_msg=name)


def test_prompts_of_several_lengths_are_read_as_if_alone(checkpoint):
    prompts = [TOKENS[0, :6], TOKENS[1]]
    both = Session(checkpoint, backend=reference, batch=2)
    both.prefill(prompts)
    both.step(TOKENS[:, 5])
    for row, prompt in enumerate(prompts):
        alone = Session(checkpoint, backend=reference)
        alone.prefill(prompt[None])
        alone.step(TOKENS[row : row + 1, 5])
        np.testing.assert_allclose(both.logits[row], alone.logits[0], rtol=0, atol=1e-5)


def test_a_state_of_other_tokens_is_refused(tmp_path):
    params, config = small((RECURRENT,), depth=1)
    save_checkpoint(tmp_path / "model", params, config)
    checkpoint = load_checkpoint(tmp_path / "model")
    session = Session(checkpoint, backend=reference)
    session.prefill(TOKENS[:1, :6])
    save_snapshot(tmp_path / "state", session.snapshot(), checkpoint.digest)
    file = read_tensors(tmp_path / "state")
    tensors = {k: x + 1 if k.endswith(".t") else x for k, x in file.tensors.items()}
    write_tensors(tmp_path / "state", tensors, file.metadata)
    with pytest.raises(StateError, match="its t is not 6, as it is after 6 tokens"):
        load_snapshot(tmp_path / "state", checkpoint)


def test_options_of_a_file_are_checked(tmp_path):
    params, config = small((RECURRENT,), depth=1)
    path = tmp_path / "model"
    save_checkpoint(path, params, config)
    file = read_tensors(path)
    other = {k: x.replace('"lstm"', '"gru"') for k, x in file.metadata.items()}
    write_tensors(path, file.tensors, other)
    with pytest.raises(CheckpointError, match="gate"):
        load_checkpoint(path)


def test_a_model_starts_as_its_authors_have_it():
    layer = BlockRecurrentConfig(heads=4, window=4, states=64, gate="full", update="dual")
    params = initialize(LMConfig(layer, 2), {"width": 64}, vocabulary=9, seed=1)
    own = {k.removeprefix("layers.0."): x for k, x in params.items() if k.startswith("layers.0.")}
    wanted = {
        "norm1.weight": (1, 0), "state.scale2": (1, 0), "state.initial": (0, 0.1),
        "state.ids": (0, 1), "position.table": (0, 32**-0.5), "w_q": (0, 1 / 8),
        "w_o": (0, (1 / (4 * 128)) ** 0.5), "state.gate1.w_f": (0, (0.1 / 128) ** 0.5),
        "state.gate1.b_f": (0, 0.1), "state.w_2": (0, 1 / 16),
    }  # fmt: skip
    for name, (mean, deviation) in wanted.items():
        few = 4 * (deviation + 1e-9) / own[name].size ** 0.5
        assert abs(own[name].mean() - mean) < few, name
        assert own[name].std() == pytest.approx(deviation, rel=0.3), name


@pytest.mark.parametrize(("name", "millions"), [("151m", 193.2), ("small", 0.2)])
def test_profiles_have_their_sizes(name, millions):
    profile = PROFILES[f"block-recurrent-{name}"]
    assert parameter_count(profile) / 1e6 == pytest.approx(millions, abs=0.1)
    layers = profile.config.layers
    assert [isinstance(x, BlockRecurrentConfig) for x in layers[-3:]] == [True, False, False]
    assert sum(isinstance(x, BlockRecurrentConfig) for x in layers) == 1


def test_a_pattern_of_training_is_described(capsys):
    pattern = "attention attention recurrent attention"
    options = ["--recurrent-window", "8", "--recurrent-gate", "lstm", "--heads", "2"]
    assert run(["train", "--layers", pattern, "--depth", "4", *options, "--dry-run"]) == 0
    assert "parameters" in capsys.readouterr().out
    assert run(["train", "--layers", "recurrent", "--channels", "4", "--dry-run"]) == 2
    assert "no layer of this pattern has the option --channels" in capsys.readouterr().err
    assert run(["train", "--layers", "gss", "--recurrent-states", "4", "--dry-run"]) == 2
    assert "no layer of this pattern has the option --recurrent-states" in capsys.readouterr().err
    assert run(["train", "--layers", "recurrent", "--heads", "7", "--dry-run"]) == 2
    assert "7 heads do not divide the width 128" in capsys.readouterr().err
