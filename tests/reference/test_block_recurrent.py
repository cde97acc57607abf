"""The Block-Recurrent Transformer beside its authors' numbers; its pieces beside the whole.

block_recurrent_numbers.json holds what google-research/meliad (Apache-2.0) computes in float64, its
float32 casts patched: outputs, states and gradients of three cells of two segments.
"""

import json
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest

from refgss import reference
from refgss.config import BlockRecurrentConfig, GSSConfig, LMConfig
from refgss.layers import block_recurrent
from refgss.layers.states import without_integers
from refgss.model import initialize

NUMBERS = json.loads((Path(__file__).parent / "block_recurrent_numbers.json").read_text())
GATES = {"bias": "fixed", "lstm": "lstm", "full": "full"}
PATHS = {
    "keys_layer": "w_k", "values_layer": "w_v", "queries_layer": "w_q", "queries2_layer": "w_q2",
    "attention_scale": "scale", "attention_scale2": "scale2", "position_embeddings": "ids",
    "pre_attn_layernorm": "norm1.weight", "pre_ffn_layernorm": "norm2.weight",
}  # fmt: skip
MLPS = {
    "hidden0/kernel": "w_1", "gate_bias": "{gate}.b_f",
    "forget_gate/kernel": "{gate}.w_f", "forget_gate/bias": "{gate}.b_f",
    "input_gate/kernel": "{gate}.w_i", "input_gate/bias": "{gate}.b_i",
}  # fmt: skip
E, A, F, B, L = 6, 8, 10, 2, 11


def flat(tree, path=()):
    if isinstance(tree, dict):
        return {k: x for name, sub in tree.items() for k, x in flat(sub, (*path, name)).items()}
    return {path: np.array(tree)}


def ours(path):
    """The name of a parameter of meliad."""
    if path == ("recurrent_initial_state",):
        return "state.initial"
    if path[0] == "relative_positions":
        return "position.table"
    prefix = "state." if path[0] == "recurrent_tbase" else ""
    for part, (matrix, gate) in {
        "post_attn_mlp": ("w_o", "gate1"), "ffn": ("w_2", "gate2")
    }.items():  # fmt: skip
        if part in path:
            rest = "/".join(path[path.index(part) + 1 :])
            return prefix + MLPS.get(rest, matrix).format(gate=gate)
    return prefix + next(PATHS[part] for part in path if part in PATHS)


def parameters(tree):
    return {ours(path): x for path, x in flat(tree).items()}


def config_of(example):
    return BlockRecurrentConfig(
        heads=example["H"],
        window=example["W"],
        states=example["S"],
        gate=GATES[example["gate"]],
        update=example["config"],
    )


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("example", NUMBERS["examples"], ids=lambda e: f"{e['gate']}-{e['config']}")
def test_the_numbers_of_the_authors(example):
    config, params = config_of(example), parameters(example["params"])
    segments, state = np.array(example["x"])[:, None], None
    for x, y, s in zip(segments, example["y"], example["state_after_segment"], strict=True):
        found, state = reference.block_recurrent_layer(params, x, state, config=config)
        close(found[0], y)
        close(state["s"][0], s)


def test_the_gradients_of_the_authors():
    example, wanted = NUMBERS["examples"][1], NUMBERS["gradient"]
    assert (example["gate"], example["config"]) == ("bias", "skip")
    config, params = config_of(example), parameters(example["params"])
    x, dout = np.array(example["x"])[:1], np.array(wanted["cotangent"])
    y, state = reference.block_recurrent_layer(params, x, config=config)
    close((y * dout).sum(), wanted["loss"])
    nothing = {k: np.zeros_like(z) for k, z in without_integers(state).items()}
    g, dx, _ = reference.block_recurrent_layer_vjp(params, x, None, dout, nothing, config=config)
    close(dx, wanted["dx"])
    theirs = parameters(wanted["d_params"])
    assert theirs.keys() == g.keys()
    for name, value in theirs.items():
        close(g[name], value)


# --- pieces and the whole -------------------------------------------------------------------------

COMBINATIONS = list(product(("fixed", "lstm", "full"), ("skip", "single", "dual")))


def layer(gate="fixed", update="skip", **options):
    config = BlockRecurrentConfig(
        **({"heads": 2, "window": 3, "states": 2} | options), gate=gate, update=update
    )
    rng = np.random.default_rng(1)
    shapes = block_recurrent.parameters(config, block_recurrent.Sizes(E, A, F))
    params = {k: rng.standard_normal(t.shape) * 0.5 for k, t in shapes.items()}
    return config, params, rng.standard_normal((B, L, E)), rng


def run(params, x, state, config, cuts=()):
    """y and the state of consecutive pieces."""
    ends, found = [0, *cuts, x.shape[1]], []
    for a, b in pairwise(ends):
        y, state = reference.block_recurrent_layer(params, x[:, a:b], state, config=config)
        found.append(y)
    return np.concatenate(found, 1), state


def step_by_step(params, x, state, config):
    found = []
    for t in range(x.shape[1]):
        y, state = reference.block_recurrent_step(params, x[:, t], state, config=config)
        found.append(y)
    return np.stack(found, 1), state


def assert_same(found, wanted):
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-12, atol=1e-13)
    assert found[1].keys() == wanted[1].keys()
    for part, z in wanted[1].items():
        np.testing.assert_allclose(found[1][part], z, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("gate", "update"), COMBINATIONS)
def test_every_cut_and_all_steps_give_the_whole(gate, update):
    config, params, x, _ = layer(gate, update)
    whole = run(params, x, None, config)
    np.testing.assert_array_equal(whole[1]["t"], [3 + L % 3] * B)
    for cut in range(L + 1):
        assert_same(run(params, x, None, config, [cut]), whole)
    assert_same(step_by_step(params, x, None, config), whole)


@pytest.mark.parametrize("window", [1, 2, 5, 12])
@pytest.mark.parametrize("states", [0, 1, 4])
def test_windows_and_states_of_other_sizes(window, states):
    config, params, x, _ = layer("full", "dual", window=window, states=states)
    whole = run(params, x, None, config)
    assert_same(run(params, x, None, config, [1, 1, 6, 10]), whole)
    assert_same(step_by_step(params, x, None, config), whole)


def test_rows_of_a_batch_are_at_different_places():
    config, params, x, _ = layer("lstm", "dual")
    apart = [run(params, x[b : b + 1, : 4 * b], None, config)[1] for b in range(B)]
    state = {part: np.concatenate([s[part] for s in apart]) for part in apart[0]}
    np.testing.assert_array_equal(state["t"], [0, 4])
    y, end = run(params, x[:, 4:], state, config)
    alone = [run(params, x[b : b + 1, 4:], apart[b], config) for b in range(B)]
    for b in range(B):
        assert_same((y[b : b + 1], {k: z[b : b + 1] for k, z in end.items()}), alone[b])


def test_of_a_row_that_begins_nothing_is_read():
    config, params, x, rng = layer("full", "single")
    _, state = run(params, x, None, config)
    foreign = {k: np.full_like(z, np.nan) for k, z in state.items() if k != "t"}
    assert_same(
        run(params, x, foreign | {"t": np.zeros(B, np.int32)}, config), run(params, x, None, config)
    )
    empty = run(params, x[:, :0], foreign | {"t": np.zeros(B, np.int32)}, config)[1]
    assert all((z == 0).all() for z in empty.values())
    dstate = {k: rng.standard_normal(z.shape) for k, z in state.items() if k != "t"}
    zero = {k: np.zeros_like(z) for k, z in state.items()}
    g, _, dstate0 = reference.block_recurrent_layer_vjp(
        params, x, zero, rng.standard_normal(x.shape), dstate, config=config
    )
    assert all((z == 0).all() for z in dstate0.values()) and (g["state.initial"] != 0).all()


def test_without_states_it_is_a_layer_with_a_window():
    config, params, x, _ = layer(states=0)
    y, _ = run(params, x, None, config)
    h = reference.rms_norm(x, params["norm1.weight"], eps=1e-6)
    q, k, v = ((h @ params[f"w_{n}"]).reshape(B, L, 2, 4) for n in "qkv")
    q, k = (reference.l2_normalize(z, eps=1e-6) for z in (q, k))
    bias = reference.t5_bias(params["position.table"], 4)
    a, _ = reference.window_attention(q, k, v, bias, params["scale"], None, window=3)
    x1 = x + a.reshape(B, L, A) @ params["w_o"][:A]
    h2 = reference.rms_norm(x1, params["norm2.weight"], eps=1e-6)
    out = x1 + np.maximum(h2 @ params["w_1"], 0) @ params["w_2"]
    np.testing.assert_allclose(y, out, rtol=1e-13, atol=1e-13)


# --- gradients ------------------------------------------------------------------------------------


def slope(loss, arrays, ways):
    """The derivative of loss(arrays) along `ways`, of order h⁴."""
    h = 2.0**-13
    ahead, behind, twice, back = (
        loss({k: x + n * h * ways[k] for k, x in arrays.items()}) for n in (1, -1, 2, -2)
    )
    return (8 * (ahead - behind) - (twice - back)) / (12 * h)


def assert_slope(loss, arrays, gradients, rng):
    """Each gradient along a direction of its own."""
    for name in arrays:
        ways = {k: np.zeros_like(x) for k, x in arrays.items()}
        ways[name] = rng.standard_normal(arrays[name].shape)
        wanted = slope(loss, arrays, ways)
        assert (gradients[name] * ways[name]).sum() == pytest.approx(wanted, rel=1e-7, abs=1e-9), (
            name
        )


@pytest.mark.parametrize("length", [2, L])
@pytest.mark.parametrize(("gate", "update"), COMBINATIONS)
def test_gradients_are_slopes(gate, update, length):
    options = {"mlp": "glu", "normalize_keys": update != "single" or gate == "full"}
    config, params, x, rng = layer(gate, update, **options)
    _, state = run(params, x[:, :5], None, config)
    state["t"][0] = 0  # one row begins
    x = x[:, 5 : 5 + length]
    y, end = run(params, x, state, config)
    dout = rng.standard_normal(y.shape)
    dstate = {k: rng.standard_normal(z.shape) for k, z in without_integers(end).items()}

    def loss(arrays):
        own = {k: arrays[f"state/{k}"] for k in dstate} | {"t": state["t"]}
        p = {k: arrays[k] for k in params}
        y, after = run(p, arrays["x"], own, config)
        return (y * dout).sum() + sum((after[k] * d).sum() for k, d in dstate.items())

    g, dx, dstate0 = reference.block_recurrent_layer_vjp(
        params, x, state, dout, dstate, config=config
    )
    assert g.keys() == params.keys()
    arrays = params | {"x": x} | {f"state/{k}": state[k] for k in dstate}
    j = 5 % 3  # of the slots after those that are read the derivative is that of exact zeros
    for k in "kv":
        assert (dstate0[k][:, 3 + j :] == 0).all()
    assert_slope(loss, arrays, g | {"x": dx} | {f"state/{k}": z for k, z in dstate0.items()}, rng)


@pytest.mark.parametrize("position", ["none", "t5"])
def test_the_gradients_of_a_step_are_those_of_one_token(position):
    config, params, x, rng = layer("lstm", "dual", position=position)
    for n in (2, 4):
        _, state = run(params, x[:, :n], None, config)
        dout = rng.standard_normal((B, E))
        dstate = {k: rng.standard_normal(z.shape) for k, z in without_integers(state).items()}
        step = reference.block_recurrent_step_vjp(
            params, x[:, n], state, dout, dstate, config=config
        )
        whole = reference.block_recurrent_layer_vjp(
            params, x[:, n : n + 1], state, dout[:, None], dstate, config=config
        )
        np.testing.assert_array_equal(step[1], whole[1][:, 0])
        for mine, theirs in ((step[0], whole[0]), (step[2], whole[2])):
            for name, value in theirs.items():
                np.testing.assert_array_equal(mine[name], value)


@pytest.mark.parametrize("scale", [None, (0.7, -1.3)], ids=["root", "scale"])
@pytest.mark.parametrize("window", [1, 3, 9])
def test_gradients_of_window_attention_are_slopes(window, scale):
    rng = np.random.default_rng(2)
    arrays = {n: rng.standard_normal((2, 5, 2, 3)) for n in "qkv"}
    arrays |= {f"s{n}": rng.standard_normal((2, window, 2, 3)) for n in "kv"}
    arrays["bias"] = rng.standard_normal((2, window + 2))
    if scale is not None:
        arrays["scale"] = np.array(scale)
    dy = rng.standard_normal((2, 5, 2, 3))
    dstate = {n: rng.standard_normal((2, window, 2, 3)) for n in "kv"}

    def taken(x):
        held = {"k": x["sk"], "v": x["sv"]}
        return x["q"], x["k"], x["v"], x["bias"], x.get("scale"), held

    def loss(x):
        y, state = reference.window_attention(*taken(x), window=window)
        return (y * dy).sum() + sum((state[n] * dstate[n]).sum() for n in "kv")

    found = reference.window_attention_vjp(*taken(arrays), dy, dstate, window=window)
    gradients = dict(zip(("q", "k", "v", "bias", "scale"), found, strict=False))
    gradients |= {f"s{n}": found[5][n] for n in "kv"}
    assert (gradients["scale"] is None) == (scale is None)
    assert (gradients["bias"][:, window + 1 :] == 0).all() and (gradients["bias"][:, 0] == 0).all()
    assert_slope(loss, arrays, gradients, rng)


def test_a_scale_of_zero_weighs_all_keys_alike_and_has_no_gradient():
    rng = np.random.default_rng(3)
    q, k, v = rng.standard_normal((3, 1, 4, 1, 2))
    scale = np.zeros(1)
    y, _ = reference.window_attention(q, k, v, None, scale, None, window=3)
    np.testing.assert_allclose(
        y[0, :, 0], [v[0, max(t - 3, 0) : t, 0].sum(0) / 3 for t in range(4)]
    )
    nothing = {n: np.zeros((1, 3, 1, 2)) for n in "kv"}
    dq, dk, *_, dscale, _ = reference.window_attention_vjp(
        q, k, v, None, scale, None, y, nothing, window=3
    )
    assert not dq.any() and not dk.any() and dscale == 0


@pytest.mark.parametrize("scale", [None, (0.7, -1.3)], ids=["root", "scale"])
def test_gradients_of_state_attention_are_slopes(scale):
    rng = np.random.default_rng(4)
    arrays = {"q": rng.standard_normal((2, 5, 2, 3))}
    arrays |= {n: rng.standard_normal((2, 4, 2, 3)) for n in "kv"}
    if scale is not None:
        arrays["scale"] = np.array(scale)
    dy = rng.standard_normal((2, 5, 2, 3))

    def taken(x):
        return x["q"], x["k"], x["v"], x.get("scale")

    found = reference.state_attention_vjp(*taken(arrays), dy)
    gradients = dict(zip(("q", "k", "v", "scale"), found, strict=True))
    assert_slope(
        lambda x: (reference.state_attention(*taken(x)) * dy).sum(), arrays, gradients, rng
    )


@pytest.mark.parametrize("kind", ["fixed", "full", "lstm"])
def test_gradients_of_gates_are_slopes(kind):
    rng = np.random.default_rng(5)
    arrays = {n: rng.standard_normal((2, 5, 3)) for n in "szf"}
    if kind == "fixed":
        arrays["f"] = arrays["f"][0, 0]
    if kind == "lstm":
        arrays["i"] = rng.standard_normal((2, 5, 3))
    dout = rng.standard_normal((2, 5, 3))

    def taken(x):
        return x["s"], x["z"], x["f"], x.get("i")

    found = reference.gate_vjp(*taken(arrays), dout, kind=kind)
    gradients = dict(zip("szfi", found, strict=True))
    assert_slope(
        lambda x: (reference.gate(*taken(x), kind=kind) * dout).sum(), arrays, gradients, rng
    )


def test_gates_that_are_closed_or_open_give_one_or_the_other():
    s, z = np.array([3.0, 3.0]), np.array([-7.0, -7.0])
    f = np.array([800.0, -800.0])
    np.testing.assert_array_equal(reference.gate(s, z, f, kind="fixed"), [3, -7])
    np.testing.assert_array_equal(reference.gate(s, z, f, kind="full"), [3, -7])
    np.testing.assert_array_equal(reference.gate(s, z, f, -f, kind="lstm"), [3, -7])


def test_the_length_of_what_has_one_is_one():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((4, 3)) * 1e3
    x[2] = 0
    y = reference.l2_normalize(x, eps=1e-6)
    np.testing.assert_allclose((y * y).sum(-1), [1, 1, 0, 1])
    dy = rng.standard_normal((4, 3))
    x = rng.standard_normal((4, 3)) * 1e-3
    found = {"x": reference.l2_normalize_vjp(x, dy, eps=1e-6)}
    h = {"x": np.ones(())}
    assert h and found["x"].shape == x.shape
    small = lambda a: (reference.l2_normalize(a["x"] * 1e-3, eps=1e-6) * dy).sum()  # noqa: E731
    assert_slope(small, {"x": x * 1e3}, {"x": found["x"] * 1e-3}, rng)


# --- models ---------------------------------------------------------------------------------------


def test_a_language_model_of_mixed_layers_in_pieces():
    recurrent = BlockRecurrentConfig(heads=2, window=3, states=2, gate="full", update="dual")
    config = LMConfig((GSSConfig(), recurrent), depth=3)
    sizes = {"width": 6, "gate": 8, "channels": 4, "states": 3}
    params = initialize(config, sizes, vocabulary=20, seed=1)
    tokens = np.random.default_rng(1).integers(0, 20, (2, 11))
    whole, state = reference.lm_logits(params, tokens, config=config)
    head, first = reference.lm_logits(params, tokens[:, :4], config=config)
    tail, last = reference.lm_logits(params, tokens[:, 4:], first, config=config)
    np.testing.assert_allclose(np.concatenate([head, tail], 1), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(last[1]["t"], state[1]["t"])
    with pytest.raises(ValueError, match=r"state\.t must be at least 0 and below two windows, 6"):
        reference.lm_logits(
            params, tokens, (first[0], first[1] | {"t": first[1]["t"] + 9}, first[2]), config=config
        )
