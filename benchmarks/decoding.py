"""Every figure stated about decoding: python benchmarks/decoding.py [--threads 2] [PART ...].

decode   time per token beside PyTorch, and share of the memory speed, at both sizes
prefill  a prompt of 512, 1024 and 2048 tokens at the large size, and of 1024 at the bundled one
context  a prompt of 1,000,000 tokens: its speed, the memory it takes, and the time per token after
         it and after 1,000, turn by turn
"""

import argparse
import resource
import statistics
import time

import numpy as np

from refgss.bench import MODELS, model_sizes, run


def tables(work, sizes, threads, seconds):
    print(run(work, sizes, threads=threads, seconds=seconds, rivals=["torch"]).table(), flush=True)


def peak():
    """MB of memory that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
parser.add_argument("parts", nargs="*", default=["decode", "prefill", "context"], metavar="PART")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seconds", type=float, default=10.0)
options = parser.parse_args()

if "decode" in options.parts:
    tables("decode", None, options.threads, options.seconds)
if "prefill" in options.parts:
    large = model_sizes("large", "prefill", ["f32", "bf16"])
    sizes = [large | {"L": length} for length in (512, 1024, 2048)]
    tables("prefill", [model_sizes("bundled", "prefill"), *sizes], options.threads, options.seconds)
if "context" in options.parts:
    context(options.threads)
