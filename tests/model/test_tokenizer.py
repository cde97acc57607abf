"""Tokenizers: text comes back, a token file travels in the checkpoint, unknown ones are refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refgss.model import CheckpointError, load_checkpoint, load_tokenizer, save_checkpoint

from .models import small

WORDS = ["<unk>", "</s>", "▁the", "▁state", "▁space", "▁"]


@pytest.fixture(scope="module")
def file_of_words():
    """A tokenizer.json that knows some words and every byte."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers

    vocabulary = {w: i for i, w in enumerate(WORDS)}
    vocabulary |= {f"<0x{b:02X}>": len(WORDS) + b for b in range(256)}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()]
    )
    return made.to_str()


@settings(derandomize=True, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_come_back_whatever_they_are(text):
    for name in ("bytes", "raw-bytes"):
        tokenizer = load_tokenizer(name)
        tokens = tokenizer.encode(text)
        assert tokens.dtype == np.int32 and tokenizer.decode(tokens) == text
        stream = tokenizer.stream()
        assert b"".join(stream.feed(int(t)) for t in tokens) + stream.rest() == text
    assert load_tokenizer("bytes").decode(np.array([104, 256, 105])) == b"hi"


def test_a_token_file_comes_back_and_streams_whole_characters(file_of_words):
    tokenizer = load_tokenizer(file_of_words)
    assert (tokenizer.size, tokenizer.separator) == (len(WORDS) + 256, 1)
    text = "déjà vu ∞ 語".encode()
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    stream, shown = tokenizer.stream(), []
    for token in tokens:
        shown.append(stream.feed(int(token)))
        shown[-1].decode()  # never a part of a character
    assert b"".join(shown) + stream.rest() == text


def test_a_token_file_travels_in_the_checkpoint(tmp_path, file_of_words):
    params, config = small(vocabulary=len(WORDS) + 256)
    save_checkpoint(tmp_path / "m", params, config, tokenizer=file_of_words)
    assert load_checkpoint(tmp_path / "m").tokenizer == file_of_words


@pytest.mark.parametrize(
    ("description", "vocabulary", "says"),
    [
        ("words", 260, "unknown tokenizer 'words'"),
        ("{}", 260, "no file of the package tokenizers"),
        (json.dumps({"model": None}), 260, "no file of the package tokenizers"),
        ("bytes", 256, "257 tokens where the model knows 256"),
    ],
)
def test_others_are_refused_in_one_sentence(tmp_path, description, vocabulary, says):
    params, config = small(vocabulary=vocabulary)
    with pytest.raises(CheckpointError, match=says):
        save_checkpoint(tmp_path / "m", params, config, tokenizer=description)
