"""Streamed text is the text of all tokens, whatever the decoder and wherever the tokens are cut."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refgss.model import load_tokenizer
from refgss.model.text_stream import WINDOW

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import AddedToken, Regex, decoders, models  # noqa: E402

# pieces of every kind that a decoder treats in a way of its own, and the bytes of a, é and ∞
PIECES = [
    "a",
    "▁",
    "▁def",
    "def",
    "5",
    " ",
    "  ",
    "##b",
    "Ġ",
    "Ċx",
    "ð",
    "Ł",
    "é</w>",
    "x</w>",
    ".",
]
BYTES = [f"<0x{b:02X}>" for b in (0x61, 0xC3, 0xA9, 0xE2, 0x88, 0x9E, 0xFF)]
VOCABULARY = {piece: i for i, piece in enumerate([*PIECES, *BYTES, "�", "<s>"])}

LLAMA = [
    decoders.Replace("▁", " "),
    decoders.ByteFallback(),
    decoders.Fuse(),
    decoders.Strip(" ", 1, 0),
]
DECODERS = {
    "none": None,
    "llama": decoders.Sequence(LLAMA),
    "gemma": decoders.Sequence(LLAMA[:3]),
    "byte fallback alone": decoders.ByteFallback(),
    "byte level": decoders.ByteLevel(),
    "metaspace": decoders.Metaspace(),
    "metaspace and bytes": decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()]
    ),
    "word piece": decoders.WordPiece(cleanup=True),
    "bpe": decoders.BPEDecoder(),
    "ctc": decoders.CTC("a", "▁"),
    "fuse": decoders.Fuse(),
    "strip": decoders.Strip(" ", 2, 0),
    "fuse and strip": decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 2, 0)]),
    "replace": decoders.Replace(Regex(" +"), "-"),
}
CHANGING = {  # what comes later changes what was there
    "fuse and replace": decoders.Sequence([decoders.Fuse(), decoders.Replace("▁.", "!")]),
    "fuse and replace any": decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace(Regex("[a-z ]+$"), "")]
    ),
}


@cache
def tokenizer_with(name):
    made = tokenizers.Tokenizer(models.WordLevel(VOCABULARY, unk_token="<s>"))
    made.add_special_tokens([AddedToken("<s>")])
    if decoder := {**DECODERS, **CHANGING}[name]:
        made.decoder = decoder
    return load_tokenizer(made.to_str())


TOKENS = st.lists(st.integers(0, len(VOCABULARY) + 1), max_size=40)  # two that it does not have
LONG = st.lists(st.integers(0, len(VOCABULARY) - 1), min_size=WINDOW, max_size=3 * WINDOW)


def streamed(tokenizer, runs, before=()):
    """The text of runs, each of which goes on from the tokens and the count that the last left."""
    shown, before, held = b"", list(before), 0
    for run in runs:
        stream = tokenizer.stream(before[-256:], held)
        for token in run:
            shown += stream.feed(token)
            before.append(token)
        held = stream.held
        assert held <= len(before)
    return shown + stream.rest()


def cut(tokens, ends):
    bounds = [0, *sorted(e % (len(tokens) + 1) for e in ends), len(tokens)]
    return [tokens[a:b] for a, b in pairwise(bounds)]


@pytest.mark.parametrize("name", [*DECODERS, *CHANGING])
@settings(max_examples=25)
@given(tokens=TOKENS | LONG, ends=st.lists(st.integers(0, 1000), max_size=4))
def test_runs_are_together_the_text_of_all_tokens(name, tokens, ends):
    tokenizer = tokenizer_with(name)
    assert streamed(tokenizer, cut(tokens, ends)) == tokenizer.decode(np.array(tokens, int))


def is_finished(tokenizer, tokens):
    """Whether the text ends with a whole character, so that what follows leaves it alone."""
    names = [tokenizer.inner.id_to_token(t) for t in tokens]
    last = next((n for n in reversed(names) if n not in (None, "<s>")), "")
    return last not in BYTES and not tokenizer.decode(np.array(tokens, int)).endswith("�".encode())


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=25)
@given(prompt=TOKENS | LONG, tokens=TOKENS, ends=st.lists(st.integers(0, 1000), max_size=3))
def test_a_prompt_and_what_follows_are_together_the_text_of_all_tokens(name, prompt, tokens, ends):
    tokenizer = tokenizer_with(name)
    if not is_finished(tokenizer, prompt):
        prompt = [*prompt, VOCABULARY["5"]]
    text = tokenizer.decode(np.array(prompt, int))
    whole = tokenizer.decode(np.array(prompt + tokens, int))
    assert text + streamed(tokenizer, cut(tokens, ends), prompt) == whole


@pytest.mark.parametrize("name", ["bytes", "raw-bytes"])
@given(text=st.binary(max_size=40) | st.text().map(str.encode), ends=st.lists(st.integers(0, 99)))
def test_bytes_are_whole_characters_or_no_characters_at_all(name, text, ends):
    tokenizer = load_tokenizer(name)
    assert streamed(tokenizer, cut(list(text), ends)) == text
    stream = tokenizer.stream()
    for byte in text:
        stream.feed(byte).decode("utf-8", "surrogateescape").encode("utf-8", "surrogateescape")
        assert stream.held <= 3


def test_the_separator_within_a_character_is_remembered():
    assert streamed(load_tokenizer("bytes"), [[0xE2, 256, 0x88], [256], [0x9E]]) == "∞".encode()


def test_an_example_that_other_streams_end_with_an_error():
    tokenizer = tokenizer_with("llama")
    tokens = [VOCABULARY[p] for p in ("<0x61>", "<0xC3>", "5")]
    assert streamed(tokenizer, [tokens]).decode() == "��5"


def test_spaces_come_with_the_word_after_a_prompt():
    tokenizer = tokenizer_with("metaspace")
    word = VOCABULARY["▁def"]
    assert streamed(tokenizer, [[word], [word]], [word]) == b" def def"


def test_the_end_that_a_decoder_strips_is_waited_for():
    """The package fails on text that is shorter than what is to be stripped: one sentence then."""
    made = tokenizers.Tokenizer(models.WordLevel(VOCABULARY, unk_token="<s>"))
    made.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)])
    tokenizer = load_tokenizer(made.to_str())
    tokens = [VOCABULARY[p] for p in ("a", " ", "5", " ")]
    assert streamed(tokenizer, [tokens[:2], tokens[2:]]) == b"a 5"


def test_a_word_comes_at_once():
    """Nothing is held back that no later token can change."""
    for name in DECODERS:
        stream = tokenizer_with(name).stream()
        stream.feed(VOCABULARY["5"])
        assert stream.feed(VOCABULARY["def"]).endswith(b"def"), name
