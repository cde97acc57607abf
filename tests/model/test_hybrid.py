"""Models with GSS and attention layers: files, streams, gradients, commands."""

import json

import numpy as np
import pytest

from refgss import native, reference
from refgss.cli import run
from refgss.config import DSSConfig, GSSConfig, LMConfig, TransformerConfig
from refgss.layers.states import mapped, named
from refgss.model import (
    CheckpointError,
    ModelError,
    Session,
    StateError,
    initialize,
    load_checkpoint,
    load_snapshot,
    save_checkpoint,
    save_snapshot,
)
from refgss.model.evaluation import evaluate
from refgss.model.profiles import PROFILES, parameter_count, parameters
from refgss.model.weights import quantize
from refgss.tensors import read_tensors, write_tensors

from .models import small

ATTENTION = {
    "chunk": TransformerConfig(heads=3, chunk=4),
    "sliding": TransformerConfig(heads=3, kv_heads=1, chunk=4, visible="sliding", position="t5"),
    "look1": TransformerConfig(heads=3, chunk=4, visible="look1", position="alibi", mlp="glu"),
    "strict": TransformerConfig(heads=3, chunk=4, visible="strict", norm="rms", mlp="relu"),
    "learned": TransformerConfig(heads=3, chunk=4, position="learned", bias=True),
}
PATTERNS = {name: (GSSConfig(), layer) for name, layer in ATTENTION.items()}
PATTERNS["alone"] = (TransformerConfig(heads=3, chunk=4),)
PATTERNS["three kinds"] = (TransformerConfig(heads=3, chunk=4), DSSConfig(), GSSConfig())
TOKENS = np.random.default_rng(1).integers(0, 257, (2, 13))
ENDS = TransformerConfig(heads=3, chunk=4, visible="sliding", position="learned", positions=9)


def saved(folder, pattern, weights="f32"):
    params, config = small(pattern, depth=len(pattern) + 1)
    path = folder / "model.safetensors"
    save_checkpoint(path, quantize(params, weights), config)
    return path, load_checkpoint(path)


@pytest.fixture(params=PATTERNS)
def model(request, tmp_path):
    return saved(tmp_path, PATTERNS[request.param])


def whole(checkpoint, tokens=TOKENS):
    return reference.lm_logits(checkpoint.float_params(), tokens, None, config=checkpoint.config)


def test_a_file_gives_back_pattern_and_parameters(model):
    path, checkpoint = model
    again = load_checkpoint(path)
    assert again.config == checkpoint.config and isinstance(again.config.layers, tuple)
    for name, x in checkpoint.params.items():
        np.testing.assert_array_equal(again.params[name], x)


@pytest.mark.parametrize("backend", [reference, native], ids=["reference", "native"])
def test_a_session_reads_forks_saves_and_continues(model, backend, tmp_path):
    _, checkpoint = model
    session = Session(checkpoint, backend=backend, batch=2)
    session.prefill(TOKENS[:, :7])
    fork = session.fork()
    save_snapshot(tmp_path / "state", session.snapshot(), checkpoint.digest)
    restored = load_snapshot(tmp_path / "state", checkpoint)
    again = Session(checkpoint, backend=backend, snapshot=restored)
    for s in (session, fork, again):
        s.step(TOKENS[:, 7])
        s.prefill(TOKENS[:, 8:])
    np.testing.assert_array_equal(fork.logits, session.logits)
    np.testing.assert_array_equal(again.logits, session.logits)
    logits, state = whole(checkpoint)
    np.testing.assert_allclose(session.logits, logits[:, -1], rtol=0, atol=1e-5)
    for name, x in named(session.snapshot().state).items():
        size = 1 + np.abs(x).max()
        np.testing.assert_allclose(x, named(state)[name], rtol=0, atol=1e-5 * size, err_msg=name)


def test_prompts_of_several_lengths_are_read_as_if_alone(model):
    _, checkpoint = model
    prompts = [TOKENS[0, :6], TOKENS[1]]
    both = Session(checkpoint, backend=reference, batch=2)
    both.prefill(prompts)
    both.step(TOKENS[:, 5])
    both.step(TOKENS[:, 6])
    for row, prompt in enumerate(prompts):
        alone = Session(checkpoint, backend=reference)
        alone.prefill(prompt[None])
        for i in (5, 6):
            alone.step(TOKENS[row : row + 1, i])
        np.testing.assert_allclose(both.logits[row], alone.logits[0], rtol=0, atol=1e-5)
        chosen = both.select([row])
        np.testing.assert_array_equal(chosen.logits[0], both.logits[row])
        chosen.snapshot()  # whose t agrees with the tokens that were read


def test_gradients_of_the_loss_are_slopes(model):
    _, checkpoint = model
    config = checkpoint.config
    wide = {k: x.astype(np.result_type(x.dtype, float)) for k, x in checkpoint.params.items()}
    rng = np.random.default_rng(3)
    _, state = reference.lm_logits(wide, TOKENS[:, :3], None, config=config)
    tokens, targets = TOKENS[:, 3:9], TOKENS[:, 4:10]
    one = np.array(1.0)
    g, dstate = reference.lm_loss_vjp(wide, tokens, targets, state, one, config=config)
    assert g.keys() == wide.keys()

    def random(x):
        way = rng.standard_normal(x.shape)
        return way + 1j * rng.standard_normal(x.shape) if x.dtype.kind == "c" else way

    along = {k: random(x) for k, x in wide.items()}
    of_state = mapped(lambda x: 0 * x if x.dtype.kind == "i" else random(x), state)

    def loss(step):
        moved = {k: x + step * along[k] for k, x in wide.items()}
        ways = iter(named(of_state).values())
        there = mapped(
            lambda x: x + (0 if x.dtype.kind == "i" else step) * next(ways).astype(x.dtype), state
        )
        return reference.lm_loss(moved, tokens, targets, there, config=config)

    def product(a, b):
        return np.sum(a.real * b.real) + (np.sum(a.imag * b.imag) if a.dtype.kind == "c" else 0)

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    held = named(dstate)
    exact = sum(product(g[k], along[k]) for k in g)
    exact += sum(product(held[k], x) for k, x in named(of_state).items() if k in held)
    assert not any(k.endswith(".t") for k in held)
    assert abs(slope - exact) < 1e-6 * (1 + abs(exact))


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_fewer_bits(weights, tmp_path):
    _, checkpoint = saved(tmp_path, PATTERNS["look1"], weights)
    own = [k for k in checkpoint.params if k.startswith("layers.1.")]
    few = {"bf16": np.uint16, "int8": np.int8}[weights]
    matrices = {k.split(".", 2)[2] for k in own if checkpoint.params[k].dtype == few}
    matrices -= {k for k in matrices if k.endswith(".scale")}
    assert matrices == {"w_q", "w_k", "w_v", "w_o", "w_1", "w_2", "w_3"}
    session = Session(checkpoint, batch=2)
    session.prefill(TOKENS)
    np.testing.assert_allclose(session.logits, whole(checkpoint)[0][:, -1], rtol=0, atol=1e-5)


def test_evaluation_reads_what_lm_loss_reads(tmp_path):
    _, checkpoint = saved(tmp_path, PATTERNS["chunk"])
    text = TOKENS[0] % 128
    found = evaluate(checkpoint, [[text]], backend=reference)
    tokens = np.array([[256, *text]])
    loss = reference.lm_loss(
        checkpoint.params, tokens[:, :-1], tokens[:, 1:], config=checkpoint.config
    )
    np.testing.assert_allclose(found.loss, loss, rtol=1e-5)


# --- what is refused ------------------------------------------------------------------------------


def test_a_stream_ends_after_the_learned_positions(tmp_path):
    _, checkpoint = saved(tmp_path, (GSSConfig(), ENDS))
    session = Session(checkpoint, backend=reference)
    session.prefill(TOKENS[:1, :8])
    with pytest.raises(ModelError, match="a stream of this model ends after 9 tokens"):
        session.prefill(TOKENS[:1, 8:10])
    session.step(TOKENS[:1, 8])  # nothing was lost
    assert session.tokens == 9


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"state.1.t": np.array([2, 2], np.int32)}, "layer 1: its t is not 3"),
        ({"state.1.t": np.array([3, -1], np.int32)}, "layer 1: its t is not 3"),
        ({"state.1.k": np.zeros((2, 8, 3, 11), np.float32)}, r"its state.1.k must be float32"),
        ({"state.1.v": np.full((2, 4, 3, 11), np.nan, np.float32)}, "is not finite"),
        ({"state.2.k": np.zeros(1, np.float32)}, "it has the tensors"),
    ],
)
def test_a_state_of_another_phase_or_pattern_is_refused(changed, says, tmp_path):
    _, checkpoint = saved(tmp_path, PATTERNS["chunk"])
    session = Session(checkpoint, backend=reference, batch=2)
    session.prefill(TOKENS[:, :7])
    path = tmp_path / "state"
    save_snapshot(path, session.snapshot(), checkpoint.digest)
    file = read_tensors(path)
    write_tensors(path, {**file.tensors, **changed}, file.metadata)
    with pytest.raises(StateError, match=says):
        load_snapshot(path, checkpoint)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"chunk": 0}, "chunk"),
        ({"chunk": 2**40}, "chunk"),
        ({"heads": 5, "kv_heads": 5}, "5 heads do not divide the width 33"),
        ({"kv_heads": 2}, "2 kv_heads do not divide 3 heads"),
        ({"visible": "all"}, "visible"),
        ({"window": 4}, "window"),
        ({"position": "t5"}, "position.table is missing"),
    ],
)
def test_a_file_with_other_options_is_refused(changed, says, tmp_path):
    path, _ = saved(tmp_path, PATTERNS["chunk"])
    file = read_tensors(path)
    config = json.loads(file.metadata["refgss.config"])
    config["layer"][1] |= changed
    metadata = {**file.metadata, "refgss.config": json.dumps(config)}
    write_tensors(path, file.tensors, metadata)
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(path)


def test_states_of_another_pattern_are_refused_by_the_op():
    params, config = small(PATTERNS["chunk"])
    _, state = reference.lm_logits(params, TOKENS, None, config=config)
    for bad, says in (
        (state[::-1], "must be"),
        (state[:1], "state must have 2 entries, one a layer, not 1"),
        ((state[0], {**state[1], "t": state[1]["t"] + 4}), "below the chunk, 4"),
        ((state[0], {"k": state[1]["k"], "v": state[1]["v"]}), "a mapping with k, v, t"),
    ):
        with pytest.raises((TypeError, ValueError), match=says):
            reference.lm_logits(params, TOKENS, bad, config=config)


# --- sizes, beginnings, commands ------------------------------------------------------------------


def test_the_papers_numbers_of_parameters():
    millions = {"gss-192m": "192.2", "gss-352m": "351.6", "hybrid-373m": "372.6"}
    for name, count in millions.items():
        assert f"{parameter_count(PROFILES[name]) / 1e6:.1f}" == count


def test_a_profile_has_the_parameters_of_the_model_that_is_made():
    profile = PROFILES["hybrid-small"]
    made = initialize(profile.config, profile.sizes, vocabulary=profile.vocabulary, seed=0)
    told = dict(parameters(profile))
    assert {k: x.shape for k, x in made.items()} == {k: t.shape for k, t in told.items()}


def test_a_model_starts_where_the_standard_says():
    layer = TransformerConfig(heads=4, position="t5", bias=True, mlp="glu")
    config = LMConfig((layer,), depth=3)
    params = initialize(config, {"width": 192}, vocabulary=10, seed=0)
    rows = {"w_q": 192, "w_1": 192, "w_3": 192, "w_o": 192 * 6, "w_2": 512 * 6}
    for name, fan_in in rows.items():
        np.testing.assert_allclose(params[f"layers.1.{name}"].std(), fan_in**-0.5, rtol=0.05)
    assert params["layers.0.norm2.weight"].min() == 1
    assert not params["layers.2.position.table"].any() and not params["layers.2.b_1"].any()


def out_of(capsys, *arguments):
    code = run([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err


def test_info_describes_hybrids_and_profiles(tmp_path, capsys):
    path, _ = saved(tmp_path, PATTERNS["chunk"])
    code, out, _ = out_of(capsys, "info", path)
    assert code == 0 and "2 × GSS" in out and "1 × ATTENTION, width 33, inner 33" in out
    code, out, _ = out_of(capsys, "info", "--profile", "hybrid-373m")
    assert code == 0 and "372,621,312" in out and "8 × ATTENTION" in out


def test_a_hybrid_generates(tmp_path, capsys):
    path, _ = saved(tmp_path, PATTERNS["chunk"])
    code, out, err = out_of(
        capsys, "generate", path, "hello", "--tokens", 9, "--temperature", 0,
        "--backend", "reference",
    )  # fmt: skip
    assert (code == 0 and out.startswith("hello")) or (code == 0 and out), err


def test_train_says_what_a_pattern_takes(capsys):
    pattern = ("train", "--dry-run", "--layers", "gss gss gss attention")
    sizes = "--depth 4 --width 64 --gate 128 --channels 32 --states 16 --tied --chunk 16 --heads 4"
    code, out, err = out_of(capsys, *pattern, *sizes.split())
    wanted = parameter_count(PROFILES["hybrid-small"]) + 64  # a token more: 257
    assert (code, out.split()[0]) == (0, f"{wanted:,}"), err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--layers gss,attention", "there is no layer 'gss,attention'"),
        ("--layers attention --chunk 0", "chunk must be a whole number of at least 1, not 0"),
        ("--layers attention --chunk -4", "chunk must be a whole number of at least 1, not -4"),
        ("--layers attention --heads 3", "3 heads do not divide the width 128"),
        ("--layers attention --kv-heads 3", "3 kv_heads do not divide 8 heads"),
        ("--layers attention --visible all", "'all' is not one of"),
        ("--layers attention --position learned --visible strict", "need positions"),
        (
            "--layers attention --position learned --visible sliding --positions 9 --length 10",
            "a stream of this model ends after 9 tokens, and windows have 10",
        ),
        ("--layers gss --chunk 8", "no layer of this pattern has the option --chunk"),
    ],
)
def test_train_refuses_in_one_sentence(options, says, capsys):
    code, out, err = out_of(capsys, "train", "--dry-run", *options.split())
    assert code == 2 and not out and says in err and err.count("\n") == 1


def test_a_hybrid_trains_stops_and_continues(tmp_path):
    pytest.importorskip("jax")
    from refgss.training.data import DataConfig
    from refgss.training.loop import Habits, train
    from refgss.training.recipe import Recipe, Run, Sizes

    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 60)
    pattern = (GSSConfig(), TransformerConfig(heads=2, chunk=8, position="rope-half"))
    sizes = Sizes(width=8, gate=8, channels=4, states=3, memory=None, hidden=12)
    recipe = Recipe(6, batch=2, length=20, warmup=1)
    run = Run(LMConfig(pattern, 2), sizes, DataConfig((str(text),)), recipe)
    losses: list[float] = []
    whole = train(run, tmp_path / "whole", Habits(save=6), lambda p: losses.append(p.loss))
    for stop in (3, None):
        pieces = train(run, tmp_path / "pieces", Habits(save=3, stop=stop))
    assert losses[-1] < losses[0] and load_checkpoint(pieces).config == run.model
    for name, x in load_checkpoint(whole).params.items():
        np.testing.assert_array_equal(load_checkpoint(pieces).params[name], x, err_msg=name)
