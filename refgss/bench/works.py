"""What is timed: for each work its sizes, its data, and exact values at some of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refgss import reference
from refgss.config import GSS, PAPER, BlockRecurrentConfig, LMConfig, TransformerConfig
from refgss.layers import kind_of
from refgss.model.initialization import initialize
from refgss.model.weights import Weights, quantize
from refgss.reference import language_model
from refgss.reference.kernel import kernel_at

Sizes = Mapping[str, Any]
Data = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """sizes: timed by default.  exact: from data to (which outputs are compared, their values)."""

    summary: str
    sizes: tuple[Sizes, ...]
    data: Callable[[Sizes], Data]
    exact: Callable[[Data], tuple[Any, np.ndarray]]


def modes(n: int, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Λ (n,): "random" as a GSS layer begins; "slow": no mode decays, many turn fast."""
    if kind == "slow":
        damping, frequency = np.exp(rng.uniform(-14, -9, n)), rng.uniform(-100, 100, n)
        return (-damping + 1j * frequency).astype(np.complex64)
    a, b = rng.standard_normal((2, n)).astype(np.float32)
    return reference.gss_lambda(a, b, imag="exp")


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def weights(rng: np.random.Generator, h: int, n: int) -> np.ndarray:
    return normal(rng, h, n) + 1j * normal(rng, h, n)


def conv_data(s: Sizes) -> Data:
    rng = np.random.default_rng(0)
    decay = np.exp(-np.arange(s["L"]) / (s["L"] / 4)).astype(np.float32)
    k = normal(rng, s["H"], s["L"]) * decay
    return {
        "u": normal(rng, s["B"], s["L"], s["H"]),
        "k": k,
        "dy": normal(rng, s["B"], s["L"], s["H"]),
    }


def conv_exact(d: Data) -> tuple[Any, np.ndarray]:
    """By FFT in binary64, of the first and the last channels."""
    some = np.unique(np.r_[0, d["k"].shape[0] - 1])
    u, k = d["u"][:, :, some].astype(float), d["k"][some].astype(float)
    n = 2 * u.shape[1]
    y = np.fft.irfft(np.fft.rfft(u, n, axis=1) * np.fft.rfft(k.T, n, axis=0), n, axis=1)
    return (slice(None), slice(None), some), y[:, : u.shape[1]]


def kernel_data(s: Sizes) -> Data:
    rng = np.random.default_rng(0)
    return {
        "lam": modes(s["N"], s["modes"], rng),
        "c": weights(rng, s["H"], s["N"]),
        "L": s["L"],
        "dk": normal(rng, s["H"], s["L"]),
    }


def kernel_exact(d: Data) -> tuple[Any, np.ndarray]:
    """The reference in binary64, at positions all over the kernel."""
    at = np.unique(np.geomspace(1, d["L"], 400).astype(int)) - 1
    lam, c = d["lam"].astype(complex), d["c"].astype(complex)
    return (slice(None), at), kernel_at(lam, c, at, np.float64(1), GSS)


def scan_data(s: Sizes) -> Data:
    rng = np.random.default_rng(0)
    lam, c = modes(s["N"], s["modes"], rng), weights(rng, s["H"], s["N"])
    state = np.stack([weights(rng, s["H"], s["N"]) for _ in range(s["B"])])
    return {"lam": lam, "c": c, "u": normal(rng, s["B"], s["L"], s["H"]), "state": state}


def scan_exact(d: Data) -> tuple[Any, np.ndarray]:
    """y of the reference in binary64, first and last channel."""
    some = np.unique(np.r_[0, d["c"].shape[0] - 1])
    lam, c, x = d["lam"].astype(complex), d["c"][some].astype(complex), d["state"][:, some]
    u = d["u"][:, :, some].astype(float)
    zeta = np.arange(u.shape[1])
    k = kernel_at(lam, c, zeta, np.float64(1), GSS)
    carried = np.einsum(
        "bhn,hn,nl->blh",
        x,
        c * reference.discretize(lam, 1.0, form=GSS)[1],
        np.exp(lam[:, None] * (zeta + 1)),
    ).real
    data = {"u": u, "k": k}
    return (slice(None), slice(None), some), conv_exact(data)[1] + carried


def layer_data(s: Sizes) -> Data:
    rng = np.random.default_rng(0)
    E, F, H, N = (s[x] for x in "EFHN")

    def matrix(rows: int, columns: int) -> np.ndarray:
        return normal(rng, rows, columns) / np.float32(rows**0.5)

    params = {
        "norm.weight": 1 + normal(rng, E) / 10,
        "norm.bias": normal(rng, E) / 10,
        "ssm.a": normal(rng, N),
        "ssm.b": normal(rng, N),
        "ssm.c": weights(rng, H, N) / np.float32(N**0.5),
        "ssm.d": normal(rng, H),
    }
    params |= {"w_v": matrix(E, F), "w_u": matrix(E, H), "w_uc": matrix(H, F), "w_o": matrix(F, E)}
    return {"params": params, "x": normal(rng, s["B"], s["L"], E)}


def layer_exact(d: Data) -> tuple[Any, np.ndarray]:
    """The reference in binary64, on the first 64 steps: a causal layer needs no others."""
    wide = {k: v.astype(np.result_type(v.dtype, float)) for k, v in d["params"].items()}
    y, _ = reference.gss_layer(wide, d["x"][:, :64].astype(float), None, config=PAPER)
    return (slice(None), slice(0, 64)), y


def attention_data(s: Sizes) -> Data:
    """q, k, v and dy (chunks, C, heads, D), neighbours in memory as (1, L, heads, D) has them."""
    rng = np.random.default_rng(0)
    shape = s["L"] // s["chunk"], s["chunk"], s["heads"], s["D"]
    return {name: normal(rng, *shape) for name in ("q", "k", "v", "dy")}


def attention_exact(d: Data) -> tuple[Any, np.ndarray]:
    """The definition in binary64, in the last chunk, of its last queries."""
    q, k, v = (d[name][-1].astype(float) for name in "qkv")
    last, C = min(64, len(q)), len(q)
    a = np.einsum("thd,shd->hts", q[-last:], k) / q.shape[-1] ** 0.5
    a = np.where(np.arange(C) <= np.arange(C - last, C)[:, None], a, -np.inf)
    w = np.exp(a - a.max(-1, keepdims=True))
    y = np.einsum("hts,shd->thd", w / w.sum(-1, keepdims=True), v)
    return (slice(-1, None), slice(C - last, C)), y[None]


def model_data(s: Sizes) -> Data:
    """A random model, its matrices in each of the formats asked for, and tokens."""
    sizes = {k: s[v] for k, v in MODEL_SIZES.items()}
    config = LMConfig(PAPER, depth=s["depth"], tied=True)
    params = initialize(config, sizes, vocabulary=s["V"], seed=0)
    rng = np.random.default_rng(0)
    return {
        "config": config,
        "weights": {w: quantize(params, w) for w in s["weights"]},
        "params": params,
        "tokens": rng.integers(0, s["V"], (s["B"], s["L"])),
    }


def model_exact(d: Data) -> tuple[Any, np.ndarray]:
    """The reference in binary64: logits after the tokens, layer by layer."""
    x = d["params"]["embedding.weight"][d["tokens"]].astype(float)
    for i in range(d["config"].depth):
        p = language_model.of_layer(d["params"], i)
        wide = {k: v.astype(np.result_type(v.dtype, float)) for k, v in p.items()}
        x, _ = reference.gss_layer(wide, x, None, config=d["config"].layer)
    norm = (d["params"][f"norm.{k}"].astype(float) for k in ("weight", "bias"))
    x = reference.layer_norm(x[:, -1], *norm, eps=d["config"].layer.eps)
    return slice(None), x @ d["params"]["embedding.weight"].T.astype(float)


CONV = tuple({"B": b, "L": l, "H": 256} for b in (1, 2, 8) for l in (1024, 4096, 16384, 65536))
CONV += ({"B": 1, "L": 1 << 20, "H": 16},)
PAPER_SIZE = {"B": 1, "L": 4096, "E": 1024, "F": 4096, "H": 256, "N": 512}
KERNEL = tuple(
    {"H": 256, "N": 512, "L": length, "modes": kind}
    for kind in ("random", "slow")
    for length in (4096, 65536)
)
SCAN = tuple({"B": 1, "L": 4096, "H": 256, "N": 512, "modes": kind} for kind in ("random", "slow"))


def drawn(config: Any, s: Sizes, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The parameters of a layer: norms and scales of about 1, matrices that keep sizes."""
    kind = kind_of(config)
    params = {}
    for name, tensor in kind.parameters(config, kind.Sizes(s["E"], s["A"], s["F"])).items():
        params[name] = normal(rng, *tensor.shape)
        if tensor.shape[-1:] == (s["heads"],) or "norm" in name:
            params[name] = 1 + params[name] / 10
        elif name in kind.ROLES:
            params[name] /= np.float32(tensor.shape[0] ** 0.5)
    return params


def recurrent_data(s: Sizes) -> Data:
    """A block-recurrent layer, and the transformer layer of its sizes that sees as many keys."""
    rng = np.random.default_rng(0)
    config = BlockRecurrentConfig(s["heads"], s["window"], s["states"])
    plain = TransformerConfig(
        s["heads"], chunk=s["window"], visible="strict", position="t5", mlp="relu", norm="rms"
    )
    x, dy = normal(rng, 2, s["L"], s["E"])[:, None]
    given = {"params": drawn(config, s, rng), "config": config, "x": x, "dy": dy}
    return given | {"plain_params": drawn(plain, s, rng), "plain": plain}


def recurrent_exact(d: Data) -> tuple[Any, np.ndarray]:
    """The reference in binary64, on the first window and the start of the second, which sees what
    the first has made of the state."""
    n = d["config"].window + 8
    wide = {k: v.astype(float) for k, v in d["params"].items()}
    y, _ = reference.block_recurrent_layer(wide, d["x"][:, :n].astype(float), config=d["config"])
    return (slice(None), slice(0, n)), y


# the authors' base model: heads wider than the model
RECURRENT = ({"L": 4096, "E": 512, "A": 1024, "F": 2048, "heads": 8, "window": 512, "states": 512},)
ATTENTION = ({"L": 4096, "heads": 8, "D": 128, "chunk": 512},)

MODEL_SIZES = {"width": "E", "gate": "F", "channels": "H", "states": "N"}
BUNDLED = {"V": 257, "E": 128, "F": 384, "H": 64, "N": 64, "depth": 6}  # the model in the package
LARGE = {"V": 32000, "E": 1024, "F": 4096, "H": 256, "N": 512, "depth": 16}  # 192 M parameters
MODELS = {"bundled": BUNDLED, "large": LARGE}
FORMATS: tuple[Weights, ...] = ("f32", "bf16", "int8")


def model_sizes(size: str, work: str, weights: Sequence[str] = ()) -> Sizes:
    """Of `decode` or `prefill`: L is what one turn reads."""
    length, formats = (64, FORMATS) if work == "decode" else (1024, FORMATS[:1])
    return {"B": 1, "L": length} | MODELS[size] | {"weights": [*(weights or formats)]}


WORKS = {
    "conv": Work("causal convolution, its kernel given in time", CONV, conv_data, conv_exact),
    "conv-cached": Work("convolution, its kernel transformed before", CONV, conv_data, conv_exact),
    "kernel": Work("the kernel K of a GSS layer", KERNEL, kernel_data, kernel_exact),
    "scan": Work("outputs and final state from inputs and state", SCAN, scan_data, scan_exact),
    "step": Work(
        "the recurrence, one token, discretised before",
        ({"B": 1, "L": 1, "H": 256, "N": 512, "modes": "random"},),
        scan_data,
        scan_exact,
    ),
    "layer": Work(
        "a GSS layer forward, its kernel transformed before", (PAPER_SIZE,), layer_data, layer_exact
    ),
    "train": Work(
        "kernel and convolution, forward and backward",
        ({"B": 1, "L": 4096, "H": 256, "N": 512, "modes": "random"},),
        lambda s: scan_data(s) | kernel_data(s) | {"dy": conv_data(s)["dy"]},
        lambda d: scan_exact(d | {"state": np.zeros_like(d["state"])}),
    ),
    "attention": Work(
        "attention over chunks, each query to the keys before it",
        ATTENTION,
        attention_data,
        attention_exact,
    ),
    "attention-train": Work(
        "the same, forward and backward", ATTENTION, attention_data, attention_exact
    ),
    "block-recurrent": Work(
        "a block-recurrent layer forward, and a transformer layer of its sizes",
        RECURRENT,
        recurrent_data,
        recurrent_exact,
    ),
    "block-recurrent-train": Work(
        "the same, forward and backward", RECURRENT, recurrent_data, recurrent_exact
    ),
    "decode": Work(
        "a language model, token by token",
        tuple(model_sizes(size, "decode") for size in MODELS),
        model_data,
        model_exact,
    ),
    "prefill": Work(
        "a language model, a prompt at once",
        tuple(model_sizes(size, "prefill") for size in MODELS),
        model_data,
        model_exact,
    ),
}
