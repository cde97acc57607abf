"""Text from a prompt, in one call: `refgss.generate` and `refgss.stream`."""

import subprocess
import sys

import numpy as np
import pytest

import refgss
from refgss.cli.models import BUNDLED
from refgss.model import ModelError, Sampling, Session, load_checkpoint, load_tokenizer
from refgss.model.generation import log_softmax, start, stream
from refgss.model.prompt_cache import PromptCache

CHECKPOINT = load_checkpoint(BUNDLED)
BYTES = load_tokenizer(CHECKPOINT.tokenizer)


def beginning():
    session = Session(CHECKPOINT)
    start(session, BYTES)
    return session


def test_it_is_what_the_command_prints():
    command = ["generate", "def f(n):", "--tokens", "30", "--temperature", "0"]
    said = subprocess.run(
        [sys.executable, "-m", "refgss", *command], capture_output=True, text=True
    ).stdout
    assert refgss.generate("def f(n):", tokens=30, temperature=0) + "\n" == said
    assert "".join(refgss.stream("def f(n):", tokens=30, temperature=0)) + "\n" == said


def test_stop_and_models_and_settings():
    text = refgss.generate("def f(n):", tokens=30, temperature=0)
    stopped = refgss.generate(
        "def f(n):", tokens=30, temperature=0, stop=text[5:8], model=CHECKPOINT
    )
    assert stopped == text[: text.index(text[5:8])]
    with pytest.raises(ModelError, match="no such setting"):
        refgss.generate("x", heat=2)
    with pytest.raises(ModelError, match="temperature"):
        refgss.generate("x", temperature=-1)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        refgss.nothing.more()


def test_importing_refgss_imports_no_model():
    code = "import refgss, sys; assert not {'refgss.model', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_log_probabilities_are_those_of_the_logits_before_each_token():
    session, other = beginning(), beginning()
    for s in (session, other):
        s.prefill(BYTES.encode(b"import ")[None])
    found = [*stream(session, BYTES, 8, sampling=Sampling(seed=4), top=3)]
    assert [t.end for t in found] == [*[""] * 8, "length"]
    for token in found[:-1]:
        p = log_softmax(other.logits[0])
        assert token.logprob == p[token.id]
        assert np.isclose(np.exp(p).sum(), 1)
        assert [i for i, _ in token.top] == np.argsort(-p, kind="stable")[:3].tolist()
        other.step(np.array([token.id]))


def test_a_kept_beginning_gives_the_same_numbers():
    cache, prompt = PromptCache(beginning(), entries=3, every=16), BYTES.encode(b"x = 1\n" * 9)
    for tokens in (prompt, prompt, prompt[:40], np.append(prompt, 65), prompt[:16]):
        session, done = cache.session(tokens)
        while done < len(tokens):
            done = cache.read(session, tokens, done)
        alone = beginning()
        alone.prefill(tokens[None])
        for s in (session, alone):
            s.step(np.array([66]))
        np.testing.assert_allclose(session.logits, alone.logits, rtol=1e-5, atol=1e-5)
    assert len(cache) == 3 and cache.hits > len(prompt)
