"""Evaluation: the loss is lm_loss, pieces change nothing, errors and bins are what they say."""

import lzma
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from refgss import native, reference
from refgss.model import load_tokenizer
from refgss.model.documents import DocumentError, find_documents, windows
from refgss.model.evaluation import EDGES, evaluate, rate, xz_bits_per_byte
from refgss.tensors import ModelError

from .models import saved

BYTES = load_tokenizer("bytes")
BACKENDS = {
    "reference": reference,
    "native": native,
    "ops": SimpleNamespace(lm_logits=native.lm_logits),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"))


def text(length, seed=0):
    return np.random.default_rng(seed).integers(32, 127, length).astype(np.uint8).tobytes()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_loss_is_lm_loss_of_the_documents_after_the_separator(model, backend):
    _, checkpoint = model
    documents = [text(n, n) for n in (1, 50, 700)]
    found = evaluate(
        checkpoint,
        ([BYTES.encode(d[:40]), BYTES.encode(d[40:])] for d in documents),
        backend=BACKENDS[backend],
    )
    nats = []
    for d in documents:
        tokens = np.array([[256, *d]])
        loss = reference.lm_loss(
            checkpoint.params, tokens[:, :-1], tokens[:, 1:], config=checkpoint.config
        )
        nats.append(float(loss) * len(d))
    np.testing.assert_allclose(found.nats, nats, rtol=1e-5)
    assert list(found.tokens) == list(found.sizes) == [1, 50, 700]
    assert found.loss == pytest.approx(sum(nats) / 751, rel=1e-5)
    assert found.bits_per_byte.value == pytest.approx(found.loss / math.log(2), rel=1e-9)
    assert found.perplexity == pytest.approx(math.exp(found.loss))


def test_bins_of_positions_hold_every_token_once(model):
    _, checkpoint = model
    found = evaluate(checkpoint, [[BYTES.encode(text(3000))], [BYTES.encode(text(9))]])
    assert [n for _, n in found.by_position] == [
        sum(min(EDGES[i + 1], n) - min(EDGES[i], n) for n in (3000, 9))
        for i in range(len(found.by_position))
    ]
    assert math.fsum(nats for nats, _ in found.by_position) == pytest.approx(math.fsum(found.nats))


def test_a_limit_is_the_beginning(model):
    _, checkpoint = model
    documents = [BYTES.encode(text(5000)), BYTES.encode(text(30))]
    cut = evaluate(checkpoint, ([d] for d in documents), limit=1500)
    short = evaluate(checkpoint, ([d[:1500]] for d in documents))
    assert cut == short


def test_the_standard_error_is_that_of_repeated_draws():
    rng = np.random.default_rng(0)
    sizes = rng.integers(100, 1000, (2000, 40))
    bits = sizes * rng.normal(2, 0.3, sizes.shape)
    rates = [rate(b, s) for b, s in zip(bits, sizes, strict=True)]
    spread = np.std([r.value for r in rates])
    assert np.mean([r.error for r in rates]) == pytest.approx(spread, rel=0.05)
    assert math.isnan(rate([1.0], [2]).error)


def test_xz_is_xz(tmp_path):
    files = []
    for i, n in enumerate((10, 100000)):
        files.append(tmp_path / f"{i}.txt")
        files[-1].write_bytes(text(n, i) * 2)
    made = sum(len(lzma.compress(f.read_bytes(), preset=9)) for f in files)
    assert xz_bits_per_byte(files).value == 8 * made / 200020


def test_windows_are_the_stream_cut(tmp_path):
    for name, content in (("a", b"hello"), ("b", b"world!")):
        (tmp_path / name).write_bytes(content)
    files = find_documents([tmp_path])
    cut = [w[0].tolist() for w in windows(files, BYTES, 4)]
    assert cut == [list(b"hell"), [*b"o", 256, *b"wo"], list(b"rld!")]


def test_documents_are_found_in_order_and_what_is_no_text_is_refused(tmp_path):
    for name in ("b.py", "a.py", ".hidden", "sub/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "binary").write_bytes(b"a\0b")
    (tmp_path / "empty").write_bytes(b"")
    assert [p.name for p in find_documents([tmp_path])] == ["a.py", "b.py", "c.txt"]
    assert [p.name for p in find_documents([tmp_path], [".py"])] == ["a.py", "b.py"]
    for name, says in (("binary", "is binary"), ("empty", "is empty"), ("no", "cannot be read")):
        with pytest.raises(DocumentError, match=says):
            find_documents([tmp_path / name])
    with pytest.raises(DocumentError, match="no text file"):
        find_documents([tmp_path], [".rs"])


def test_nothing_to_evaluate_is_one_sentence(model):
    with pytest.raises(ModelError, match="nothing to evaluate"):
        evaluate(model[1], [[]])


PEAK = """
import resource, sys
from refgss.model import load_checkpoint, load_tokenizer
from refgss.model.documents import read_tokens
from refgss.model.evaluation import evaluate
from refgss.model.session import Session
from pathlib import Path
model, path = load_checkpoint(sys.argv[1]), Path(sys.argv[2])
session = Session(model)
for piece in read_tokens(path, load_tokenizer("bytes")):
    session.prefill(piece[None])
evaluate(model, [read_tokens(path, load_tokenizer("bytes"))])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_text(model, tmp_path):
    """A prompt and a document of 200 kB take what those of 70 kB take: less than 1 MB more.

    A single float for each token and layer would show: their logits alone are 135 MB more.
    """
    peaks = []
    for n in (70_000, 200_000):
        (tmp_path / "t").write_bytes(text(n))
        command = [sys.executable, "-c", PEAK, str(model[0]), str(tmp_path / "t")]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True).stdout))
    unit = 1 if sys.platform == "darwin" else 1024
    assert (peaks[1] - peaks[0]) * unit < 2**20
