"""What weights of 16 and 8 bits cost: bits per byte on the held-out files, beside f32.

python benchmarks/model_weights.py [MODEL.safetensors] [PATH...]
"""

import sys
import tempfile
from pathlib import Path

from refgss.cli.evaluate import held_out
from refgss.cli.models import model_and_rest
from refgss.model import load_checkpoint, load_tokenizer, save_checkpoint
from refgss.model.documents import find_documents, read_tokens
from refgss.model.evaluation import evaluate
from refgss.model.weights import quantize


def main():
    model, rest = model_and_rest(tuple(sys.argv[1:]))
    files = find_documents(rest) if rest else held_out(model)
    tokenizer = load_tokenizer(model.tokenizer)
    print(f"{len(files)} files, {sum(f.stat().st_size for f in files)} bytes")
    print("weights  bytes of the model  bits per byte      more than f32")
    full = None
    for weights in ("f32", "bf16", "int8"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            save_checkpoint(path, quantize(model.float_params(), weights), model.config)
            size = path.stat().st_size
            found = evaluate(load_checkpoint(path), (read_tokens(f, tokenizer) for f in files))
        full = full or found.bits_per_byte.value
        more = found.bits_per_byte.value - full
        print(f"{weights:7}{size:20}  {found.bits_per_byte}  {more:+.5f}", flush=True)


if __name__ == "__main__":
    main()
