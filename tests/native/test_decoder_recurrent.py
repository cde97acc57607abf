"""The decoder with block-recurrent layers: its logits and states are those of the reference, with
any pieces, weights, gate and update; a stream does not end."""

import numpy as np
import pytest

from refgss import reference
from refgss.config import BlockRecurrentConfig, GSSConfig, LMConfig, TransformerConfig
from refgss.layers.states import named
from refgss.model import initialize
from refgss.model.weights import dequantize, quantize

native = pytest.importorskip("refgss.native")

SMALL = {"heads": 4, "window": 5, "states": 3}
LAYERS = {
    "fixed skip": BlockRecurrentConfig(**SMALL),
    "fixed dual": BlockRecurrentConfig(**SMALL, update="dual", mlp="gelu"),
    "lstm single": BlockRecurrentConfig(**SMALL, gate="lstm", update="single", mlp="gelu-tanh"),
    "lstm dual": BlockRecurrentConfig(**SMALL, gate="lstm", update="dual", normalize_keys=False),
    "full skip": BlockRecurrentConfig(**SMALL, gate="full", position="none"),
    "full single": BlockRecurrentConfig(**SMALL, gate="full", update="single", mlp="glu"),
    "no state": BlockRecurrentConfig(4, 5, 0),
    "one token": BlockRecurrentConfig(4, 1, 2, update="dual"),
    "long": BlockRecurrentConfig(2, 50, 40),
}
SIZES = {"width": 24, "gate": 40, "channels": 20, "states": 3, "inner": 32, "hidden": 50}


def model(layer, weights="f32"):
    """A GSS layer and recurrent ones, none of whose parameters is 0."""
    config = LMConfig((GSSConfig(), layer, TransformerConfig(4, chunk=5), layer), depth=4)
    params = initialize(config, SIZES, vocabulary=37, seed=3)
    rng = np.random.default_rng(0)
    noise = {k: 0.1 * rng.standard_normal(x.shape).astype("f4") for k, x in params.items()}
    params = {k: (x + noise[k]).astype(x.dtype) for k, x in params.items()}
    return quantize(params, weights), config


def tokens(length, batch=2):
    return np.random.default_rng(1).integers(0, 37, (batch, length))


def wanted(params, config, t, state=None):
    """Logits and state in binary64, of the numbers that the weights stand for."""
    wide = {k: x.astype(np.result_type(x.dtype, float)) for k, x in dequantize(params).items()}
    return reference.lm_logits(wide, t, state, config=config)


def assert_same_state(found, state):
    for name, x in named(state).items():
        size = 1 + np.abs(x).max(initial=0)
        np.testing.assert_allclose(named(found)[name], x, rtol=0, atol=2e-5 * size, err_msg=name)


@pytest.mark.parametrize("weights", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("layer", LAYERS)
def test_any_pieces_give_the_logits_of_the_whole(layer, weights):
    params, config = model(LAYERS[layer], weights)
    t = tokens(60 if LAYERS[layer].window < 50 else 110)
    length = t.shape[1]
    logits, state = wanted(params, config, t)
    assert native.Decoder.supports(config)
    for pieces in ([1] * length, [length], [1, 1, 7, 1, 20, 1, 1, 1, 0, length - 32]):
        decoder = native.Decoder(params, config, batch=2, block=8)
        found = []
        for piece in np.split(t, np.cumsum(pieces)[:-1], axis=1):
            one = piece.shape[1] == 1
            found.append(decoder.step(piece[:, 0])[:, None] if one else decoder.logits(piece))
        np.testing.assert_allclose(np.concatenate(found, 1), logits, rtol=0, atol=3e-4)
        assert_same_state(decoder.state, state)


def joined(parts):
    if isinstance(parts[0], dict):
        return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    return np.concatenate(parts)


def narrow(x):
    if isinstance(x, dict):
        return {k: narrow(v) for k, v in x.items()}
    return x.astype({"f": "f4", "c": "c8"}.get(x.dtype.kind, x.dtype))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_state_of_any_phase_is_taken_up_by_row(layer):
    """Rows that have read 0, 3, 5 and 12 tokens."""
    params, config = model(LAYERS[layer])
    t, before = tokens(20, 4), [tokens(n, 1) for n in (0, 3, 5, 12)]
    states = [wanted(params, config, x)[1] for x in before]
    both = tuple(joined([s[i] for s in states]) for i in range(config.depth))
    logits, state = wanted(params, config, t, both)
    decoder = native.Decoder(params, config, batch=4)
    decoder.restore(tuple(narrow(x) for x in both))
    assert_same_state(decoder.state, both)
    found = [decoder.step(t[:, 0])[:, None], decoder.logits(t[:, 1:13]), decoder.logits(t[:, 13:])]
    np.testing.assert_allclose(np.concatenate(found, 1), logits, rtol=0, atol=3e-4)
    assert_same_state(decoder.state, state)


@pytest.mark.parametrize("at", [0, 3, 5, 9, 10, 17])
@pytest.mark.parametrize("layer", ["fixed skip", "lstm dual", "full single", "one token"])
def test_forked_saved_and_restored_it_goes_on_bit_for_bit(layer, at):
    """Where a window is empty, half full, full; after a prompt and in the midst of a block."""
    config = LMConfig((LAYERS[layer],), depth=2)  # what GSS layers remember is rounded anew
    sizes = {name: SIZES[name] for name in ("width", "inner", "hidden")}
    params = initialize(config, sizes, vocabulary=37, seed=3)
    t = tokens(50)
    for how in ("prompt", "steps"):
        one = native.Decoder(params, config, batch=2, block=4)
        if how == "prompt":
            one.prefill(t[:, :at]) if at else None
        else:
            for i in range(at):
                one.step(t[:, i])
        again = one.fresh(2)
        again.restore(one.state, position=at)
        fork = one.fork()
        for i in range(at, 50):
            x = one.step(t[:, i])
            np.testing.assert_array_equal(fork.step(t[:, i]), x)
            np.testing.assert_array_equal(again.step(t[:, i]), x)


def test_a_row_that_has_read_nothing_holds_zeros():
    params, config = model(LAYERS["fixed dual"])
    for name, x in named(native.Decoder(params, config, batch=2).state).items():
        assert not x.any(), name


def test_a_stream_goes_on_over_many_windows():
    params, config = model(LAYERS["lstm dual"])
    t = tokens(200)
    logits, _ = wanted(params, config, t)
    decoder = native.Decoder(params, config, batch=2, block=7)
    found = np.stack([decoder.step(t[:, i]) for i in range(200)], 1)
    np.testing.assert_allclose(found, logits, rtol=0, atol=5e-4)


def test_threads_change_no_bit():
    params, config = model(LAYERS["lstm dual"])
    before, found = native.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            native.set_num_threads(threads)
            decoder = native.Decoder(params, config, batch=2)
            decoder.prefill(tokens(13))
            found.append(np.stack([decoder.step(x) for x in tokens(9).T]))
    finally:
        native.set_num_threads(before)
    for x in found[1:]:
        np.testing.assert_array_equal(x, found[0])


def test_what_is_no_state_is_refused():
    params, config = model(LAYERS["fixed skip"])
    decoder = native.Decoder(params, config, batch=2)
    state = list(decoder.state)
    for t in (-1, 10):  # 2W
        wrong = [*state]
        wrong[1] = state[1] | {"t": np.array([0, t])}
        with pytest.raises(ValueError, match="state t"):
            decoder.restore(tuple(wrong))
    wrong[1] = state[1] | {"k": state[1]["k"][:, 1:]}
    with pytest.raises(ValueError, match="state"):
        decoder.restore(tuple(wrong))
