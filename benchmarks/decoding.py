"""Every figure stated about decoding: python benchmarks/decoding.py [--threads 2] [PART ...].

decode   time per token beside PyTorch, and share of the memory speed, at both sizes
prefill  a prompt of 512, 1024 and 2048 tokens at the large size, and of 1024 at the bundled one
hybrid   time per token of a hybrid of GSS and attention layers in the middle of a chunk, beside
         PyTorch (binary32) and beside mere reading of what it must move
context  a prompt of 1,000,000 tokens: its speed, the memory it takes, and the time per token after
         it and after 1,000, turn by turn
"""

import argparse
import resource
import statistics
import time
from dataclasses import replace

import numpy as np

from refgss.bench import MODELS, model_sizes, run
from refgss.config import TransformerConfig


def tables(work, sizes, threads, seconds):
    print(run(work, sizes, threads=threads, seconds=seconds, rivals=["torch"]).table(), flush=True)


def peak():
    """MB of memory that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Attention:
    """An attention layer of the hybrid in PyTorch: keys and values of its chunk lie in a buffer."""

    def __init__(self, p, config):
        import torch

        self.p = {k: v.T.contiguous() if k.startswith("w_") else v for k, v in p.items()}
        self.config, self.t = config, 0
        self.keys, self.values = torch.zeros(
            2, 1, config.heads, config.chunk, p["w_q"].shape[1] // config.heads
        )

    def step(self, x):
        """(1,E) -> (1,E)."""
        import torch

        F = torch.nn.functional
        p, E, eps, t = self.p, x.shape[-1], self.config.eps, self.t
        h = F.layer_norm(x, (E,), p["norm1.weight"], p["norm1.bias"], eps)
        q, k, v = (
            F.linear(h, p[w]).reshape(1, self.config.heads, 1, -1) for w in ("w_q", "w_k", "w_v")
        )
        self.keys[:, :, t : t + 1], self.values[:, :, t : t + 1] = k, v
        self.t = (t + 1) % self.config.chunk
        seen = slice(t + 1)
        a = F.scaled_dot_product_attention(q, self.keys[:, :, seen], self.values[:, :, seen])
        x = x + F.linear(a.reshape(1, -1), p["w_o"])
        h = F.layer_norm(x, (E,), p["norm2.weight"], p["norm2.bias"], eps)
        return x + F.linear(F.gelu(F.linear(h, p["w_1"])), p["w_2"])


def torch_hybrid(params, config):
    """tokens (1,) -> logits (1,V): the PyTorch model of the other parts with attention between."""
    import torch

    from refgss.bench.rivals import TorchModel

    def layers(kind):
        return [i for i, c in enumerate(config.layers) if isinstance(c, TransformerConfig) == kind]

    def of(i):
        start = f"layers.{i}."
        return {k.removeprefix(start): v for k, v in params.items() if k.startswith(start)}

    gss = {f"layers.{n}.{k}": v for n, i in enumerate(layers(False)) for k, v in of(i).items()} | {
        k: v for k, v in params.items() if not k.startswith("layers.")
    }
    model = TorchModel(torch, gss, config.eps, 1)
    recurrent = dict(zip(layers(False), range(config.depth), strict=False))
    attention = {
        i: Attention({k: torch.from_numpy(v) for k, v in of(i).items()}, config.layers[i])
        for i in layers(True)
    }

    def step(tokens):
        x = model.embedding[torch.from_numpy(tokens).long()]
        for i in range(config.depth):
            x = attention[i].step(x) if i in attention else model.step_layer(recurrent[i], x)
        return model.head(x).numpy()

    return step


def hybrid(threads, depth=16, before=256, rounds=12):
    """As many layers as the 192 M model has, every fourth of attention."""
    import torch

    from refgss import native
    from refgss.bench.native import reading, token_bytes
    from refgss.bench.works import FORMATS
    from refgss.model.initialization import initialize
    from refgss.model.profiles import PROFILES
    from refgss.model.weights import quantize

    native.set_num_threads(threads)
    profile = PROFILES["hybrid-373m"]
    config = replace(profile.config, depth=depth)
    params = initialize(config, profile.sizes, vocabulary=profile.vocabulary, seed=0)
    tokens = np.random.default_rng(0).integers(0, profile.vocabulary, (1, before + 65))
    decoders = {}
    for weights in FORMATS:
        stored = quantize(params, weights)
        decoder = native.Decoder(stored, config)
        decoder.prefill(tokens[:, :before])
        decoders[weights] = decoder, token_bytes(stored, decoder)
    torch.set_num_threads(threads)
    rival = torch_hybrid(params, config)
    with torch.inference_mode():
        for i in range(before + 1):
            theirs = rival(tokens[:, i])
        ours = decoders["f32"][0].fork().step(tokens[:, before])
        error = np.abs(ours - theirs).max() / np.abs(ours).max()
    read, _, size = reading(2**28)
    shares = {weights: [] for weights in FORMATS}
    times = {weights: [] for weights in ("torch", *FORMATS)}
    for _ in range(rounds):
        with torch.inference_mode():
            start = time.perf_counter()
            for i in range(before + 1, before + 65):
                rival(tokens[:, i])
            times["torch"].append((time.perf_counter() - start) / 64)
        for weights, (decoder, moved) in decoders.items():
            start = time.perf_counter()
            read()
            speed = size / (time.perf_counter() - start)
            fork = decoder.fork()
            fork.step(tokens[:, before])  # which makes its phases
            start = time.perf_counter()
            for i in range(before + 1, before + 65):
                fork.step(tokens[:, i])
            times[weights].append((time.perf_counter() - start) / 64)
            shares[weights].append(moved / times[weights][-1] / speed)
    count = sum(x.size for x in params.values())
    print(f"hybrid of {depth} layers, {count / 1e6:.1f} M numbers, {threads} threads")
    median = {name: statistics.median(t) for name, t in times.items()}
    print(f"torch {median['torch'] * 1e3:7.2f} ms per token; the logits differ by {error:.1e}")
    for weights in FORMATS:
        print(
            f"{weights:5} {median[weights] * 1e3:7.2f} ms per token, "
            f"{median['torch'] / median[weights]:.1f} times as fast, "
            f"{100 * statistics.median(shares[weights]):.0f} % of the speed of reading"
        )


def context(threads, length=1_000_000, short=1_000, rounds=40):
    from refgss import native
    from refgss.bench.works import model_data

    native.set_num_threads(threads)
    d = model_data(model_sizes("bundled", "decode", ["f32"]))
    tokens = np.random.default_rng(0).integers(0, 256, (1, length))
    decoders = {n: native.Decoder(d["params"], d["config"]) for n in (short, length)}
    decoders[short].prefill(tokens[:, :short])
    before = peak()
    start = time.perf_counter()
    decoders[length].prefill(tokens)
    seconds = time.perf_counter() - start
    print(
        f"a prompt of {length} tokens at {MODELS['bundled']}: {seconds:.1f} s, "
        f"{length / seconds:.0f} tokens/s; peak memory {peak():.0f} MB, "
        f"{peak() - before:.1f} MB more than after {short}"
    )
    times = {n: [] for n in decoders}
    for _ in range(rounds):
        for n, decoder in decoders.items():
            start = time.perf_counter()
            for _ in range(2 * decoder.block):
                decoder.step(tokens[:, 0])
            times[n].append((time.perf_counter() - start) / (2 * decoder.block))
    median = {n: statistics.median(t) for n, t in times.items()}
    for n, t in median.items():
        print(f"after {n:8} tokens: {t * 1e6:7.1f} µs per token")
    print(f"ratio {median[length] / median[short]:.3f}")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument(
    "parts", nargs="*", default=["decode", "prefill", "hybrid", "context"], metavar="PART"
)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seconds", type=float, default=10.0)
options = parser.parse_args()

if "decode" in options.parts:
    tables("decode", None, options.threads, options.seconds)
if "prefill" in options.parts:
    large = model_sizes("large", "prefill", ["f32", "bf16"])
    sizes = [large | {"L": length} for length in (512, 1024, 2048)]
    tables("prefill", [model_sizes("bundled", "prefill"), *sizes], options.threads, options.seconds)
if "hybrid" in options.parts:
    hybrid(options.threads)
if "context" in options.parts:
    context(options.threads)
