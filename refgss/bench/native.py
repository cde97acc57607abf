"""Ours: for each work what is timed, as a function of the data that returns what is run.

Where there is more than one way, {name: (what is run, how many units of work that is)}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from refgss import native
from refgss.bench.report import MEMORY, OURS
from refgss.bench.works import Data
from refgss.config import GSS, PAPER, AttentionForm

KIND: Any = {"delta": np.float32(1), "form": GSS}


def start(threads: int) -> str:
    native.set_num_threads(threads)
    return f"refgss {native.__version__} ({native.simd()})"


def conv(d: Data) -> Callable:
    return lambda: native.causal_conv(d["u"], d["k"])


def conv_cached(d: Data) -> Callable:
    spectrum = native.Spectrum(d["k"], d["u"].shape[1])
    return lambda: spectrum(d["u"])


def kernel(d: Data) -> Callable:
    return lambda: native.ssm_kernel(d["lam"], d["c"], d["L"], **KIND)


def scan(d: Data) -> Callable:
    return lambda: native.ssm_scan(d["u"], d["lam"], d["c"], d["state"], **KIND)[0]


def step(d: Data) -> dict[str, tuple]:
    prepared = native.Prepared(d["lam"], d["c"], 0, **KIND)
    stepper = native.Stepper(prepared, len(d["u"]), d["state"], block=128)
    u, state, mine = d["u"][:, 0], d["state"], d["state"].copy()
    moved = 2 * state.nbytes + d["c"].nbytes  # the state read and written, C̃ read

    def block() -> None:
        """128 tokens, the update of the state among them."""
        for _ in range(128):
            stepper.step(u)

    return {
        "refgss": (lambda: prepared.step(u, state)[0][:, None], 1, moved),
        "refgss, over its state": (lambda: prepared.advance(d["u"], mine), 1, moved),
        "refgss, Stepper": (block, 128),
        MEMORY: reading(2**28),
    }


def layer(d: Data) -> dict[str, tuple[Callable, int]]:
    p = d["params"]
    prepared = native.PreparedLayer(p, d["x"].shape[1], config=PAPER)
    h = d["x"].reshape(-1, d["x"].shape[2])
    v, y = native.dense(h, p["w_v"]), native.dense(h, p["w_u"])

    def products() -> None:
        """What any implementation must do: the share of matrix products."""
        for x, w in ((h, "w_v"), (h, "w_u"), (y, "w_uc"), (v, "w_o")):
            native.dense(x, p[w])

    return {
        "refgss": (lambda: prepared(d["x"], None)[0], 1),
        "refgss, its matrix products": (products, 1),
    }


def train(d: Data) -> Callable:
    def run() -> np.ndarray:
        k = native.ssm_kernel(d["lam"], d["c"], d["L"], **KIND)
        y = native.causal_conv(d["u"], k)
        _, dk = native.causal_conv_vjp(d["u"], k, d["dy"])
        native.ssm_kernel_vjp(d["lam"], d["c"], d["L"], dk, **KIND)
        return y

    return run


def attention(d: Data) -> Callable:
    q, k, v, window, _ = of_row(d)
    return lambda: native.attention(q, k, v, None, None, window=window)[0].reshape(d["q"].shape)


def attention_train(d: Data) -> Callable:
    q, k, v, window, dy = of_row(d)
    zeros = {"k": np.zeros_like(d["k"][:1]), "v": np.zeros_like(d["v"][:1])}

    def run() -> np.ndarray:
        y, _ = native.attention(q, k, v, None, None, window=window)
        native.attention_vjp(q, k, v, None, None, dy, zeros, window=window)
        return y.reshape(d["q"].shape)

    return run


def of_row(d: Data) -> tuple[np.ndarray, np.ndarray, np.ndarray, AttentionForm, np.ndarray]:
    """q, k, v, the window and dy: the chunks as one row, (1, L, heads, D)."""
    q, k, v, dy = (d[name].reshape(1, -1, *d[name].shape[2:]) for name in ("q", "k", "v", "dy"))
    return q, k, v, AttentionForm(d["q"].shape[1]), dy


PLAIN = f"{OURS}, transformer layer"


def block_recurrent(d: Data) -> dict[str, tuple[Callable, int]]:
    def plain() -> None:
        native.transformer_layer(d["plain_params"], d["x"], None, config=d["plain"])

    def run() -> np.ndarray:
        return native.block_recurrent_layer(d["params"], d["x"], None, config=d["config"])[0]

    return {OURS: (run, 1), PLAIN: (plain, 1)}


def block_recurrent_train(d: Data) -> dict[str, tuple[Callable, int]]:
    """A gradient computes the layer first: forward and backward in one call, without the output."""
    p, x, dy, config = d["params"], d["x"], d["dy"], d["config"]
    state = native.block_recurrent_layer(p, x[:, :0], None, config=config)[1]
    dstate = {name: state[name] for name in ("s", "k", "v")}
    plain_state = native.transformer_layer(d["plain_params"], x[:, :0], None, config=d["plain"])[1]
    plain_dstate = {name: plain_state[name] for name in ("k", "v")}

    def run() -> None:
        native.block_recurrent_layer_vjp(p, x, None, dy, dstate, config=config)

    def plain() -> None:
        native.transformer_layer_vjp(
            d["plain_params"], x, None, dy, plain_dstate, config=d["plain"]
        )

    return {OURS: (run, 1), PLAIN: (plain, 1)}


def label(weights: str) -> str:
    return OURS if weights == "f32" else f"{OURS}, {weights} weights"


def token_bytes(params: Mapping[str, np.ndarray], decoder: native.Decoder) -> float:
    """What a token must move: each weight once; taps and inputs; the state and C once a block; the
    keys and values that it sees.

    A tied embedding is read as the head; of one that is not, only a row.
    """
    weights = sum(x.nbytes for k, x in params.items() if "ssm." not in k)
    if not decoder.config.tied:
        weights -= params["embedding.weight"].nbytes
    return weights + sum(remembered_bytes(state, decoder) for state in decoder.state)


def remembered_bytes(state: Any, decoder: native.Decoder) -> float:
    """What a layer moves of what it remembers."""
    if isinstance(state, Mapping):
        _, slots, groups, width = state["k"].shape
        return 2 * 4 * groups * width * float(np.minimum(state["t"] + 1, slots).sum())
    batch, H, N = state.shape
    recent = (decoder.block + 1) // 2 * 2 + 1  # taps and inputs, on average; a start
    return batch * H * (4 * recent + 3 * 8 * N / decoder.block)


def reading(size: int) -> tuple[Callable, int, float]:
    """Mere reading of memory, by as many threads."""
    threads = native.get_num_threads()
    parts = np.array_split(np.ones(size // 8, np.int64), threads)
    pool = ThreadPoolExecutor(threads)

    def run() -> None:
        for _ in pool.map(np.max, parts):
            pass

    return run, 1, size


def decode(d: Data) -> dict[str, tuple]:
    tokens, found = d["tokens"], {}
    for weights, params in d["weights"].items():
        decoder = native.Decoder(params, d["config"], batch=len(tokens))

        def run(decoder: native.Decoder = decoder) -> np.ndarray:
            """As many tokens as lie between two advances of the states, one advance among them."""
            for i in range(tokens.shape[1]):
                logits = decoder.step(tokens[:, i])
            return logits

        found[label(weights)] = run, tokens.shape[1], token_bytes(params, decoder)
    largest = max(size for _, _, size in found.values())
    return found | {MEMORY: reading(int(max(largest, 2**28)))}


def prefill(d: Data) -> dict[str, tuple[Callable, int]]:
    tokens, found = d["tokens"], {}
    for weights, params in d["weights"].items():
        decoder = native.Decoder(params, d["config"], batch=len(tokens))
        start = decoder.state

        def run(decoder: native.Decoder = decoder, start: np.ndarray = start) -> np.ndarray:
            decoder.restore(start)
            return decoder.prefill(tokens)

        found[label(weights)] = run, 1
    return found
