"""The decoder with transformer layers: its logits and states are those of the reference, whatever
the pieces, the weights, the visibility and the position; a stream does not end."""

import numpy as np
import pytest

from refgss import reference
from refgss.config import GSSConfig, LMConfig, TransformerConfig
from refgss.layers.states import named
from refgss.model import initialize
from refgss.model.weights import dequantize, quantize

native = pytest.importorskip("refgss.native")

HEADS = {"heads": 4, "chunk": 5}
LAYERS = {
    "plain": TransformerConfig(**HEADS),
    "grouped, rope": TransformerConfig(**HEADS, kv_heads=2, position="rope-half", bias=True),
    "sliding, rope": TransformerConfig(**HEADS, visible="sliding", position="rope-interleaved"),
    "look1, t5, gated": TransformerConfig(
        **HEADS, visible="look1", position="t5", mlp="glu", norm="rms"
    ),
    "strict, alibi": TransformerConfig(
        **HEADS, kv_heads=1, visible="strict", position="alibi", mlp="relu", scale="one"
    ),
    "learned": TransformerConfig(**HEADS, position="learned", mlp="gelu-tanh", bias=True),
    "long chunk": TransformerConfig(heads=2, chunk=200, position="rope-half"),
}
SIZES = {"width": 24, "gate": 40, "channels": 20, "states": 3, "inner": 32, "hidden": 50}


def model(layer, weights="f32"):
    """GSS and transformer layers, none of whose parameters is 0."""
    config = LMConfig((GSSConfig(), layer), depth=3)
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
        np.testing.assert_allclose(named(found)[name], x, rtol=0, atol=1e-5 * size, err_msg=name)


@pytest.mark.parametrize("weights", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("layer", LAYERS)
def test_any_pieces_give_the_logits_of_the_whole(layer, weights):
    params, config = model(LAYERS[layer], weights)
    t = tokens(90)
    logits, state = wanted(params, config, t)
    assert native.Decoder.supports(config)
    for pieces in ([1] * 90, [90], [1, 1, 7, 1, 30, 1, 1, 1, 0, 47]):
        decoder = native.Decoder(params, config, batch=2, block=8)
        found = []
        for piece in np.split(t, np.cumsum(pieces)[:-1], axis=1):
            one = piece.shape[1] == 1
            found.append(decoder.step(piece[:, 0])[:, None] if one else decoder.logits(piece))
        np.testing.assert_allclose(np.concatenate(found, 1), logits, rtol=0, atol=2e-4)
        assert_same_state(decoder.state, state)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_state_of_any_phase_is_taken_up_by_row(layer):
    """Rows that have read 3 and 11 tokens."""
    params, config = model(LAYERS[layer])
    t, before = tokens(20), [tokens(3, 1), tokens(11, 1)]
    states = [wanted(params, config, x)[1] for x in before]
    both = tuple(
        {k: np.concatenate([s[i][k] for s in states]) for k in states[0][i]}
        if isinstance(states[0][i], dict)
        else np.concatenate([s[i] for s in states])
        for i in range(config.depth)
    )
    narrow = tuple(
        {k: x.astype("f4") if x.dtype.kind == "f" else x for k, x in s.items()}
        if isinstance(s, dict)
        else s.astype("c8")
        for s in both
    )
    logits, state = wanted(params, config, t, both)
    decoder = native.Decoder(params, config, batch=2)
    decoder.restore(narrow)
    found = [decoder.step(t[:, 0])[:, None], decoder.logits(t[:, 1:13]), decoder.logits(t[:, 13:])]
    np.testing.assert_allclose(np.concatenate(found, 1), logits, rtol=0, atol=2e-4)
    assert_same_state(decoder.state, state)


@pytest.mark.parametrize("layer", ["plain", "sliding, rope", "look1, t5, gated", "strict, alibi"])
def test_forked_saved_and_restored_it_goes_on_bit_for_bit(layer):
    params, config = model(LAYERS[layer])
    t = tokens(60)
    one = native.Decoder(params, config, batch=2, block=4)
    one.prefill(t[:, :17])
    again = one.fresh(2)
    again.restore(one.state, position=17)
    fork = one.fork()
    for i in range(17, 60):
        x = one.step(t[:, i])
        np.testing.assert_array_equal(fork.step(t[:, i]), x)
        np.testing.assert_array_equal(again.step(t[:, i]), x)


def test_a_stream_goes_on_over_many_chunks():
    """Positions are counted modulo what the ring needs: 40 chunks of 5 and a ring of 6."""
    params, config = model(LAYERS["grouped, rope"])
    t = tokens(200)
    logits, _ = wanted(params, config, t)
    decoder = native.Decoder(params, config, batch=2, block=7)
    found = np.stack([decoder.step(t[:, i]) for i in range(200)], 1)
    np.testing.assert_allclose(found, logits, rtol=0, atol=2e-4)


def test_threads_change_no_bit():
    params, config = model(LAYERS["look1, t5, gated"])
    before, found = native.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            native.set_num_threads(threads)
            decoder = native.Decoder(params, config, batch=2)
            decoder.prefill(tokens(30))
            found.append(np.stack([decoder.step(x) for x in tokens(9).T]))
    finally:
        native.set_num_threads(before)
    for x in found[1:]:
        np.testing.assert_array_equal(x, found[0])


def test_what_is_no_state_is_refused():
    params, config = model(LAYERS["plain"])
    decoder = native.Decoder(params, config, batch=2)
    gss, attention, _ = state = decoder.state
    wrong = attention | {"t": np.array([0, 5])}  # of a chunk of 5
    with pytest.raises(ValueError, match="state t"):
        decoder.restore((gss, wrong, state[2]))
    with pytest.raises(ValueError, match="state"):
        decoder.restore((gss, attention | {"k": attention["k"][:, 1:]}, state[2]))
