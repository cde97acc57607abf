"""The bundled model: it loads, knows its language, and writes the same on every backend."""

import inspect

import numpy as np

from refgss import native, reference
from refgss.cli.models import BUNDLED
from refgss.model import Sampling, Session, evaluate, generate, load_checkpoint, load_tokenizer
from refgss.model.generation import start

WORDS = load_tokenizer("bytes")


def test_it_is_small_and_says_how_it_was_made():
    assert BUNDLED.stat().st_size < 12e6
    about = load_checkpoint(BUNDLED).about
    assert "train" in about["made_by"] and about["run"]["data"]["held_out"] > 0


def test_it_predicts_python_it_was_not_trained_on():
    """Source at less than half of the eight bits of a byte, shuffled at more than twice as many."""
    checkpoint = load_checkpoint(BUNDLED)
    text = np.frombuffer(
        inspect.getsource(test_it_is_small_and_says_how_it_was_made).encode(), "u1"
    )
    shuffled = np.random.default_rng(0).permutation(text)
    rates = [
        evaluate(checkpoint, [[t.astype(np.int32)]]).bits_per_byte.value for t in (text, shuffled)
    ]
    assert rates[0] < 4 and rates[1] > 2 * rates[0]


def test_greedy_text_is_the_same_on_reference_and_native():
    checkpoint, texts = load_checkpoint(BUNDLED), []
    for backend in (reference, native):
        session = Session(checkpoint, backend=backend)
        start(session, WORDS)
        session.prefill(WORDS.encode(b"def ")[None])
        texts.append(b"".join(generate(session, WORDS, 100, sampling=Sampling(temperature=0))))
    assert texts[0] == texts[1]
