"""Every figure stated about decoding: python benchmarks/decoding.py [--threads 2] [PART ...].

decode   time per token beside PyTorch, and share of the memory speed, at both sizes
prefill  a prompt of 512, 1024 and 2048 tokens at the large size, and of 1024 at the bundled one
hybrid   time per token of a hybrid of GSS and attention layers in the middle of a chunk, beside
         mere reading of what it must move
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


def tables(work, sizes, threads, seconds):
    print(run(work, sizes, threads=threads, seconds=seconds, rivals=["torch"]).table(), flush=True)


def peak():
    """MB of memory that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def hybrid(threads, depth=16, before=256, rounds=12):
    """As many layers as the 192 M model has, every fourth of attention."""
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
    read, _, size = reading(2**28)
    shares = {weights: [] for weights in FORMATS}
    times = {weights: [] for weights in FORMATS}
    for _ in range(rounds):
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
    for weights in FORMATS:
        ms, share = statistics.median(times[weights]) * 1e3, statistics.median(shares[weights])
        print(f"{weights:5} {ms:7.2f} ms per token, {100 * share:.0f} % of the speed of reading")


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
