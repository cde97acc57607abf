"""Accuracy without labels, of the bundled model on text that it was not trained for.

    python benchmarks/estimation.py [--bytes 12000] [--bootstrap 0] [--profile refgss]

A sample is the prediction of a byte.  The source is a part of the files held out in training, the
targets are another part, the same with 2 to 40 % of the bytes read replaced by others, and English
text.  Prints what each estimate says of each target beside the truth, and mean absolute errors.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

import numpy as np

from refgss.model import load_checkpoint
from refgss.model.session import default_backend
from refgss.model.text import BUNDLED
from refgss.scores.profiles import PROFILES
from refgss.studies import accuracy
from refgss.studies.samples import Samples

SHARES = (0.02, 0.05, 0.1, 0.2, 0.4)  # of replaced bytes
PIECE = 500  # bytes that are read from the start


def texts(n: int) -> tuple[bytes, bytes, bytes]:
    """Python for the source and the first target, from other files; English."""
    library = Path(sysconfig.get_paths()["stdlib"])
    code = [p.read_bytes() for p in sorted(library.glob("[s-z]*.py")) if p.stat().st_size > 2000]
    whole = b"".join(code[::3]), b"".join(code[1::3])
    prose = (library / "LICENSE.txt").read_bytes() if (library / "LICENSE.txt").exists() else b""
    if not prose:
        prose = (Path(__file__).parents[1] / "README.md").read_bytes()
    return whole[0][:n], whole[1][:n], prose[:n]


def predictions(name: str, text: bytes, share: float = 0.0) -> Samples:
    """Logits of each byte after those before it, a share of these being replaced."""
    model, rng = load_checkpoint(BUNDLED), np.random.default_rng(0)
    params, backend = model.float_params(), default_backend()
    targets = np.frombuffer(text[: len(text) // PIECE * PIECE], np.uint8).reshape(-1, PIECE)
    read = targets.astype(np.int32)
    replaced = rng.random(read.shape) < share
    read = np.where(replaced, rng.integers(32, 127, read.shape), read).astype(np.int32)
    first = np.full((len(read), 1), 256, np.int32)
    tokens = np.concatenate([first, read[:, :-1]], 1)
    logits, _ = backend.lm_logits(params, tokens, None, config=model.config)
    z = np.asarray(logits, np.float64).reshape(-1, logits.shape[-1])
    group = np.repeat(np.arange(len(read)), PIECE)
    return Samples(name, z, targets.ravel().astype(int), group)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--bytes", type=int, default=12_000, help="of each text")
    arguments.add_argument("--profile", choices=list(PROFILES), default="refgss")
    given = arguments.parse_args()
    own, other, prose = texts(given.bytes)
    source = predictions("source", own)
    targets = [predictions("other files", other)]
    targets += [predictions(f"{share:.0%} replaced", other, share) for share in SHARES]
    targets.append(predictions("English", prose))
    temperature, _ = accuracy.fitted(source)
    print(
        f"profile {given.profile}, {len(source.logits)} bytes of the source, accuracy "
        f"{source.correct.mean():.4f}, temperature {temperature:.4f}"
    )
    lines = [accuracy.estimate(source, t, None, temperature, given.profile) for t in targets]
    names = accuracy.METHODS
    print(f"{'target':14}{'accuracy':>10}", *(f"{name:>8}" for name in names))
    for line in lines:
        said = (f"{line['estimates'][name]:8.4f}" for name in names)
        print(f"{line['target']:14}{line['accuracy']:10.4f}", *said)
    errors = accuracy.mean_absolute_errors(lines)
    print(f"{'mean error':14}{'':10}", *(f"{errors[name]:8.4f}" for name in names))


if __name__ == "__main__":
    main()
