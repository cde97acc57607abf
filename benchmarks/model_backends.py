"""One trained model on every backend: logits within the budget, and the same text.

    python benchmarks/model_backends.py [MODEL.safetensors]

The budget of chapter 11 follows every rounding error through the model, 6·√(Σ (g_s·size_s)²).  For
a model of millions of weights the sum is sampled: the model runs in binary64, every dot product
with errors of the sizes that the chapter grants to binary32, drawn at random, and the spread of the
logits over such runs is the root.  Only dot products are perturbed: the true budget is larger.
Errors are those against the reference in binary64.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from refgss import native, reference, xla
from refgss.cli.models import BUNDLED
from refgss.conformance.selftest.mutants import copy, sources
from refgss.model import load_checkpoint, load_tokenizer, save_checkpoint
from refgss.model.generation import generate, start
from refgss.model.sampling import GREEDY
from refgss.model.session import Session
from refgss.model.weights import quantize

TOKENS, SAMPLES, GENERATED = 128, 12, 200
UNIT = 2.0**-24
PROMPT = b"def "
NATIVE = ("layer_norm", "gelu", "gss_lambda", "ssm_scan")
BACKENDS = {"reference": reference, "native": native, "jax": xla}


def noisy_dense(rng):
    """`dense` in binary64 with the errors of binary32: n of size 𝐮·Σ|terms|, drawn."""

    def dense(x, weight, bias=None):
        size = np.sqrt(len(weight)) * UNIT * (abs(x) @ abs(weight))
        y = native.dense(x, np.ascontiguousarray(weight), bias)
        return y + rng.standard_normal(size.shape) * size

    return dense


def wide(params):
    kinds = {"f": np.float64, "c": np.complex128}
    return {name: x.astype(kinds[x.dtype.kind]) for name, x in params.items()}


def budget(params, tokens, config):
    """Six standard deviations of every logit (B,L,V)."""
    runs = []
    for seed in range(SAMPLES):
        dense = noisy_dense(np.random.default_rng(seed))
        model = copy(f"noisy_{seed}", sources())  # the reference's layers, over these ops
        for name in NATIVE:
            setattr(model.layers, name, getattr(native, name))
        model.layers.dense = dense
        ops = model.language_model.OPS._replace(dense=dense, layer_norm=native.layer_norm)
        runs.append(model.lm_logits(params, tokens, config=config, ops=ops)[0])
    return 6 * np.std(runs, 0, ddof=1)


def stepped(checkpoint, tokens):
    """Logits (1,L,V) of the decoder, a token at a time."""
    decoder = native.Decoder(checkpoint.params, checkpoint.config)
    return np.stack([decoder.step(t) for t in tokens.T], 1)


def text_of(checkpoint, backend):
    tokenizer, session = load_tokenizer(checkpoint.tokenizer), Session(checkpoint, backend=backend)
    start(session, tokenizer)
    session.prefill(tokenizer.encode(PROMPT)[None])
    return b"".join(generate(session, tokenizer, GENERATED, sampling=GREEDY))


def main():
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else BUNDLED
    model = load_checkpoint(source)
    tokenizer = load_tokenizer(model.tokenizer)
    text = (Path(__file__).parents[1] / "README.md").read_bytes()
    tokens = np.concatenate([[tokenizer.separator or 0], tokenizer.encode(text)])[None, :TOKENS]
    print(f"{source.name}: {TOKENS} tokens, worst error/budget; greedy text of {GENERATED} tokens")
    for weights in ("f32", "bf16", "int8"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            save_checkpoint(path, quantize(model.float_params(), weights), model.config)
            checkpoint = load_checkpoint(path)
        params, config = checkpoint.float_params(), model.config
        exact, _ = reference.lm_logits(wide(params), tokens, config=config)
        allowed = budget(wide(params), tokens, config)
        found = {
            name: np.asarray(backend.lm_logits(params, tokens.astype(np.int32), config=config)[0])
            for name, backend in BACKENDS.items()
        }
        found["decoder, prefill"] = native.Decoder(checkpoint.params, config).logits(tokens)
        found["decoder, steps"] = stepped(checkpoint, tokens)
        ratios = {name: (abs(y - exact) / allowed).max() for name, y in found.items()}
        print(f"{weights}: " + ", ".join(f"{name} {r:.3f}" for name, r in ratios.items()))
        texts = {name: text_of(checkpoint, backend) for name, backend in BACKENDS.items()}
        same = {name: text == texts["reference"] for name, text in texts.items()}
        verdict = "identical" if all(same.values()) else f"differ: {same}"
        print(f"{weights}: texts of {', '.join(texts)}: {verdict}", flush=True)


if __name__ == "__main__":
    main()
