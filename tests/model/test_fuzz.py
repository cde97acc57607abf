"""Files with bytes changed, cut, swapped and doubled: each is refused in one sentence or read.

A few of each kind in the suite; `pytest -m long` takes a million and prints how many were refused.
"""

import random
from collections import Counter

import numpy as np
import pytest

from refgss.model import Session, load_checkpoint, load_snapshot, load_tokenizer, save_snapshot
from refgss.schemas import parse
from refgss.tensors import ModelError, read_tensors

from .models import saved

WORDS = [b"null", b"[", b"{}", b"-1", b"1e999", b'"', b"\xff", b"\0" * 8, b"9" * 20, b"\\ud800"]
WORDS += [b'"__metadata__":null,', b'"dtype":"BF16"', b"[" * 70]


def mutated(content, rng):
    """One to three changes, half of them among the first bytes, where the header is."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        end = len(content) if rng.random() < 0.5 else min(len(content), 2500)
        at = rng.randrange(end + 1)
        to = min(end, at + rng.choice([1, 1, 4, 40]))
        patch = rng.choice([b"", rng.randbytes(to - at), rng.choice(WORDS), content[at:to] * 2])
        content[at:to] = patch
        if rng.random() < 0.05:
            del content[rng.randrange(len(content) + 1) :]
    return bytes(content)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """By kind: a file as it should be, and what reads it."""
    folder = tmp_path_factory.mktemp("fuzz")
    path, checkpoint = saved(folder, width=5, gate=6, channels=4, states=3, depth=1)
    session = Session(checkpoint)
    session.prefill(np.array([[1, 2, 3]]))
    save_snapshot(folder / "s", session.snapshot(), checkpoint.digest)

    def state(file):
        load_snapshot(file, checkpoint)

    def tokens(file):
        load_tokenizer(file.read_bytes().decode("utf-8", "replace"))

    return {
        "checkpoint": (path.read_bytes(), load_checkpoint),
        "state": ((folder / "s").read_bytes(), state),
        "header": (path.read_bytes()[:3000], read_tensors),
        "json": (b'{"a": [1, 2.5, {"b": null}], "c": "d"}', lambda f: parse(f.read_bytes())),
        "tokenizer": (b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}}}', tokens),
    }


def fuzz(readers, folder, count):
    """How many of each kind were refused and read.  Anything else than a refusal fails."""
    found, rng, path = Counter(), random.Random(0), folder / "f"
    for i in range(count):
        kind = list(readers)[i % len(readers)]
        content, read = readers[kind]
        path.write_bytes(mutated(content, rng))
        try:
            read(path)
            found[kind, "read"] += 1
        except ValueError as e:  # of which ModelError is one
            assert kind in ("json", "tokenizer") or isinstance(e, ModelError), repr(e)
            found[kind, "refused"] += 1
        path.unlink()
    return found


def test_a_mutated_file_is_refused_or_read(readers, tmp_path):
    found = fuzz(readers, tmp_path, 1500)
    assert sum(found.values()) == 1500 and found["checkpoint", "refused"] > 100


@pytest.mark.long
def test_a_million_mutated_files(readers, tmp_path):
    found = fuzz(readers, tmp_path, 1_000_000)
    for (kind, outcome), number in sorted(found.items()):
        print(f"{kind}: {number} {outcome}")
    assert sum(found.values()) == 1_000_000
