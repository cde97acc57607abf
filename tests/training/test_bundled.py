"""The model that comes with the package."""

from pathlib import Path

import pytest

from refgss.cli.models import BUNDLED
from refgss.model import load_checkpoint
from refgss.model.documents import read_tokens
from refgss.model.evaluation import evaluate, xz_bits_per_byte
from refgss.model.tokenizer import load_tokenizer
from refgss.training.data import DataConfig, split


@pytest.fixture(scope="module")
def bundled():
    return load_checkpoint(BUNDLED)


def test_it_is_small_and_says_how_it_was_made(bundled):
    assert BUNDLED.stat().st_size < 12e6
    assert bundled.about["run"]["recipe"]["seed"] == 0 and len(bundled.about["text"]) == 64
    assert not str(bundled.about).count(str(Path.home()))


def test_it_beats_xz_on_files_that_it_never_saw(bundled):
    files = [p for p in split(DataConfig())[1].values() if 5_000 < p.stat().st_size < 20_000][:8]
    tokenizer = load_tokenizer(bundled.tokenizer)
    found = evaluate(bundled, (read_tokens(p, tokenizer) for p in files))
    assert len(files) == 8 and found.bits_per_byte.value < xz_bits_per_byte(files).value
