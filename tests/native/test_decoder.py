"""The decoder: within the budgets of lm_logits in every weight format, whatever the route."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import hard_cases
from reference.judging import assert_close

from refgss import config as cfg
from refgss import ops, reference
from refgss.conformance.vectors import cases
from refgss.conformance.vectors.certify import certify
from refgss.model.weights import dequantize, quantize

native = pytest.importorskip("refgss.native")
from refgss.native import Decoder, abi  # noqa: E402

FORMATS = ["f32", "bf16", "int8"]
MODELS = [config for config, _ in cases.MODELS.values()] + [
    cfg.LMConfig(cfg.DSSConfig(form=cfg.dss_softmax(300)), depth=2, tied=True)
]


def model(config, v=37, e=40, f=70, h=45, n=5, seed="decoder"):
    """Widths that end within a tile of 32 and within a block of scales."""
    h = e if isinstance(config.layer, cfg.DSSConfig) else h
    drawn = cases.named(cases.model_params(cases.Draw(seed), config, v, e, f, h, n))
    return {k: v for k, v in arguments(drawn)["params"].items()}


def arguments(tensors):
    """The tensors of a case as the op takes them, in binary32; `params` a mapping."""
    narrow = {k: ops.from_real(k, x) for k, x in ops.at_precision(tensors, "f32").items()}
    params = {k.removeprefix("params."): x for k, x in narrow.items() if k.startswith("params.")}
    return {k: x for k, x in narrow.items() if not k.startswith("params.")} | {"params": params}


def mixed(widths=(45, 40)):
    """GSS and DSS layers in one model, the first with so many channels; DSS has E = 40."""
    config = cfg.LMConfig((cfg.PAPER, cfg.DSSConfig(form=cfg.DSS_EXP)), depth=4)
    params = model(cfg.LMConfig(cfg.PAPER, depth=4), h=widths[0])
    other = model(cfg.LMConfig(config.layers[1], depth=4), e=widths[1])
    dss = {k: x for k, x in other.items() if k.startswith(("layers.1.", "layers.3."))}
    gss = {k: x for k, x in params.items() if not k.startswith(("layers.1.", "layers.3."))}
    return gss | dss, config


def tokens(length, batch=2, v=37, seed=0):
    return np.random.default_rng(seed).integers(0, v, (batch, length))


def reading(decoder, t, pieces):
    """All logits of tokens read in pieces: 1 is a step."""
    out = []
    for piece in np.split(t, np.cumsum(pieces), axis=1):
        if piece.shape[1] == 1:
            out.append(decoder.step(piece[:, 0])[:, None])
        else:
            out.append(decoder.logits(piece))
    return np.concatenate(out, 1)


@settings(max_examples=25, deadline=None)
@given(hard_cases.models("lm_logits"), st.sampled_from(FORMATS), st.data())
def test_logits_and_state_are_within_budget(case, weights, data):
    """Those of the numbers that the weights stand for, read in any pieces."""
    given_ = arguments(case.tensors)
    stored = quantize(given_["params"], weights)
    exact = {f"params.{k}": ops.to_real(x) for k, x in dequantize(stored).items()}
    config = ops.decode_option(case.op, "config", case.options["config"])
    b = len(given_["tokens"])
    decoder = Decoder(stored, config, batch=b, block=data.draw(st.sampled_from([1, 2, 64])))
    if "state" in given_:
        decoder.restore(given_["state"])
    pieces = data.draw(st.lists(st.integers(0, 2), max_size=4))
    logits = reading(decoder, given_["tokens"], pieces)
    wanted = certify(case.op, case.tensors | exact, case.options)
    assert_close(wanted, {"logits": logits, "state": decoder.state}, "f32")


@pytest.mark.parametrize("config", MODELS, ids=str)
@pytest.mark.parametrize("weights", FORMATS)
def test_long_streams_in_any_pieces(config, weights):
    """Beyond blocks, chunks and tiles: against the reference in binary64."""
    stored = quantize(model(config), weights)
    wide = {k: x.astype(np.result_type(x.dtype, float)) for k, x in dequantize(stored).items()}
    t = tokens(200)
    want, state = reference.lm_logits(wide, t, config=config)
    for pieces in ([], [1] * 200, [150] + [1] * 40, [0, 1, 1, 0, 63, 1, 70]):
        decoder = Decoder(stored, config, batch=2)
        got = reading(decoder, t, pieces)
        assert np.abs(got - want).max() <= 2e-6 * np.abs(want).max()
        assert np.abs(decoder.state - state).max() <= 2e-6 * np.abs(state).max()
        assert decoder.position == 200
    last = Decoder(stored, config, batch=2).prefill(t)
    assert np.abs(last - want[:, -1]).max() <= 2e-6 * np.abs(want).max()
    loss = Decoder(stored, config, batch=2).loss(t[:, :-1], t[:, 1:])
    wanted = reference.lm_loss(wide, t[:, :-1], t[:, 1:], config=config)
    assert loss.shape == (2, 199) and abs(loss.mean() - wanted) <= 2e-6 * abs(wanted)


@pytest.mark.parametrize("channels", [40, 45, 130])
@pytest.mark.parametrize("weights", ["f32", "int8"])
def test_layers_of_several_kinds(channels, weights):
    """GSS and DSS in turn, with as many channels or others: logits, states, and the way back."""
    params, config = mixed((channels, 40))
    stored = quantize(params, weights)
    wide = {k: x.astype(np.result_type(x.dtype, float)) for k, x in dequantize(stored).items()}
    t = tokens(150)
    want, state = reference.lm_logits(wide, t, config=config)
    decoder = Decoder(stored, config, batch=2)
    got = reading(decoder, t, [70] + [1] * 70)
    assert np.abs(got - want).max() <= 2e-6 * np.abs(want).max()
    assert isinstance(decoder.state, tuple) == (channels != 40)
    for mine, other in zip(decoder.state, state, strict=True):
        assert np.abs(mine - other).max() <= 2e-6 * np.abs(other).max()
    again = Decoder(stored, config, batch=2)
    again.restore(*decoder.snapshot(), position=150)
    assert again.position == 150
    a, b = decoder.step(t[:, 0]), again.step(t[:, 0])
    assert np.abs(a - b).max() <= 2e-6 * np.abs(a).max()
    if channels == 40:  # then there is a snapshot of all layers
        same((a, b))


@pytest.mark.parametrize("weights", FORMATS)
def test_large_rows_and_large_weights(weights):
    """Beyond what kernels that split their numbers take: those rows and matrices go another way."""
    config = cfg.LMConfig(cfg.PAPER, depth=2, tied=True)
    params = model(config)
    params["layers.0.w_uc"] = params["layers.0.w_uc"] * np.float32(1e16)
    params["layers.1.w_v"] = params["layers.1.w_v"].copy()
    params["layers.1.w_v"][3, 5] = 1e16
    stored = quantize(params, weights)
    wide = {k: x.astype(np.result_type(x.dtype, float)) for k, x in dequantize(stored).items()}
    t = tokens(200)
    want, _ = reference.lm_logits(wide, t, config=config)
    got = Decoder(stored, config, batch=2).logits(t)
    assert np.abs(got - want).max() <= 2e-6 * np.abs(want).max()


@pytest.mark.parametrize("config", MODELS[:4], ids=str)
@pytest.mark.parametrize("steps", [0, 1, 63, 64, 65])
def test_snapshots_and_forks_go_on_with_the_same_bits(config, steps):
    params = model(config)
    t = tokens(20 + steps + 70)
    whole = Decoder(params, config, batch=2)
    whole.prefill(t[:, :20])
    for i in range(20, 20 + steps):
        whole.step(t[:, i])
    state, pending = whole.snapshot()
    assert pending.shape[2] == steps % 64
    restored = Decoder(params, config, batch=2)
    restored.prefill(t[:, ::-1])  # whatever it was doing
    restored.restore(state, pending, position=whole.position)
    streams = [whole, whole.fork(), restored]
    for i in range(20 + steps, 20 + steps + 68):
        same(d.step(t[:, i]) for d in streams)
    same(d.prefill(t[:, -2:]) for d in streams)
    same(d.state for d in streams)
    same(d.position for d in streams)


def same(values):
    first, *rest = values
    for value in rest:
        np.testing.assert_array_equal(first, value)


def test_the_past_can_be_read_again():
    """The state of a snapshot and the tokens since it give the bits of its pending inputs."""
    params = model(MODELS[1])
    t = tokens(90)
    whole = Decoder(params, MODELS[1], batch=2)
    for i in range(80):
        whole.step(t[:, i])
    state, pending = whole.snapshot()
    again = Decoder(params, MODELS[1], batch=2)
    again.restore(state, position=64)
    for i in range(64, 80):
        again.step(t[:, i])
    np.testing.assert_array_equal(again.snapshot()[1], pending)
    for i in range(80, 90):
        same(d.step(t[:, i]) for d in (whole, again))


@pytest.mark.parametrize("weights", FORMATS)
def test_sequences_do_not_know_of_each_other(weights):
    config = MODELS[0]
    params = quantize(model(config), weights)
    t = tokens(70, batch=7)
    together = Decoder(params, config, batch=7)
    steps = np.stack([together.step(t[:, i]) for i in range(70)], 1)
    for b in (0, 3, 6):
        alone = Decoder(params, config, batch=1)
        same([steps[b : b + 1], np.stack([alone.step(t[b : b + 1, i]) for i in range(70)], 1)])


def test_no_sequence_and_no_token():
    params = model(MODELS[0])
    none = Decoder(params, MODELS[0], batch=0)
    assert none.step(np.zeros(0, int)).shape == (0, 37)
    assert none.prefill(np.zeros((0, 4), int)).shape == (0, 37)
    some = Decoder(params, MODELS[0], batch=2)
    assert some.logits(np.zeros((2, 0), int)).shape == (2, 0, 37)
    assert some.state.shape == (2, 2, 45, 5) and not some.state.any()


FOLDERS = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
EVERY_ROUTE = """
import sys
import numpy as np
from test_decoder import FORMATS, MODELS, model, quantize, reading, tokens
from refgss.native import Decoder, set_num_threads
found = []
for threads in (1, 2):
    set_num_threads(threads)
    for config in MODELS[:4]:
        for weights in FORMATS:
            d = Decoder(quantize(model(config), weights), config, batch=3)
            found.append(reading(d, tokens(140, 3), [30] + [1] * 100))
half = len(found) // 2
assert all((a == b).all() for a, b in zip(found[:half], found[half:])), "threads change results"
np.save(sys.argv[1], np.stack(found[:half]))
"""


def test_instruction_sets_agree_and_threads_change_nothing(tmp_path):
    levels = ["baseline", "avx2", "avx512", "amx"]
    levels = levels[: levels.index(native.simd()) + 1]
    found = []
    for level in levels:
        done = subprocess.run(
            [sys.executable, "-c", EVERY_ROUTE, tmp_path / level],
            env=os.environ | {"REFGSS_SIMD": level, "PYTHONPATH": os.pathsep.join(FOLDERS)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(np.load(tmp_path / f"{level}.npy"))
    for other in found[1:]:
        assert np.abs(other - found[0]).max() <= 4e-6 * np.abs(found[0]).max()


def without(params, name):
    return {k: x for k, x in params.items() if k != name}


BROKEN = {
    "layer 1: the parameter w_o is missing": lambda p: without(p, "layers.1.w_o"),
    "the parameter head.weight is missing": lambda p: without(p, "head.weight"),
    "no meaning": lambda p: p | {"layers.0.w_x": p["layers.0.w_o"]},
    "must be float32": lambda p: p | {"norm.bias": p["norm.bias"].astype(float)},
    "scales, layers.0.w_o.scale, are missing": lambda p: without(p, "layers.0.w_o.scale"),
    "must be bf16": lambda p: p | {"layers.0.w_o.scale": p["layers.0.w_o.scale"][:-1]},
    "w_v must have shape": lambda p: p | {"layers.0.w_v": p["layers.0.w_v"][:-1]},
    "must be float32 or float64": lambda p: p | {"layers.0.ssm.d": p["layers.0.w_o.scale"][0]},
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_wrong_parameters_are_refused(sentence):
    params = quantize(model(MODELS[0]), "int8")
    with pytest.raises((TypeError, ValueError), match=sentence):
        Decoder(BROKEN[sentence](params), MODELS[0])


def test_wrong_calls_are_refused():
    d = Decoder(model(MODELS[0]), MODELS[0], batch=2)
    for call in (
        lambda: d.step(np.array([0, 37])),
        lambda: d.step(np.array([0, -1])),
        lambda: d.step(np.array([0])),
        lambda: d.step(np.array([0.0, 1.0])),
        lambda: d.prefill(np.zeros((2, 0), int)),
        lambda: d.prefill(np.full((2, 3), 37)),
        lambda: d.loss(tokens(3), tokens(4)),
        lambda: d.loss(tokens(3), tokens(3) + 37),
        lambda: d.restore(d.state[:1]),
        lambda: d.restore(d.state.astype(complex)),
        lambda: d.restore(d.state, np.zeros((2, 2, 64, 45), np.float32)),
        lambda: d.restore(d.state, np.zeros((2, 2, 3, 44), np.float32)),
        lambda: Decoder(model(MODELS[0]), MODELS[0], batch=-1),
    ):
        with pytest.raises((TypeError, ValueError), match=r"Decoder|tokens|targets"):
            call()
    assert d.position == 0 and not d.state.any()


def test_a_softmax_stream_ends():
    params = model(MODELS[4])
    d = Decoder(params, MODELS[4])
    d.prefill(tokens(299, 1))
    d.step(np.array([0]))
    with pytest.raises(ValueError, match="GSS-STA-8"):
        d.step(np.array([0]))
    with pytest.raises(ValueError, match="GSS-STA-8"):
        Decoder(params, MODELS[4]).prefill(tokens(301, 1))


def test_a_kind_that_the_library_does_not_know():
    ffi, lib = abi.open_library()
    table = np.ones((3, 4), np.float32)
    e = abi.view(ffi, table)
    layer = ffi.new("refgss_lm_layer *", (99, ffi.NULL, ffi.NULL))
    params = ffi.new("refgss_lm_params *", {"embedding": e, "layers": layer, "depth": 1, "eps": 1})
    made = ffi.new("refgss_decoder **")
    for kind, sentence in ((99, b"layers.0.kind is 99"), (1, b"layers.0.params is NULL")):
        layer.kind = kind
        assert lib.refgss_decoder_new(params, 1, 4, made) == lib.REFGSS_ERROR_VALUE
        assert ffi.string(lib.refgss_last_error()).startswith(sentence) and made[0] == ffi.NULL


def test_null_handles_are_refused():
    ffi, lib = abi.open_library()
    nothing = ffi.NULL
    assert lib.refgss_decoder_new(nothing, 1, 1, ffi.new("refgss_decoder **")) != 0
    assert lib.refgss_decoder_step(nothing, nothing, nothing) != 0
    assert lib.refgss_decoder_prefill(nothing, nothing, 1, nothing) != 0
    assert lib.refgss_decoder_pending(nothing) == 0
    lib.refgss_decoder_free(nothing)
