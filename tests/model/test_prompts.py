"""Several prompts at once: each stream reads, writes and ends as it would alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refgss import native, reference
from refgss.cli import run
from refgss.model import Sampling, Session, load_tokenizer
from refgss.model.generation import generate, generate_each, start
from refgss.tensors import ModelError

from .models import LAYERS, saved

BYTES = load_tokenizer("bytes")
PROMPTS = [b"a", b"def f(x):", b"the state of the space", b"", b"def f(x):"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: saved(folder, name) for name in LAYERS}


def read(checkpoint, backend, prompts):
    session = Session(checkpoint, backend=backend, batch=len(prompts))
    start(session, BYTES)
    session.prefill([BYTES.encode(p) for p in prompts])
    return session


@pytest.mark.parametrize("layer", LAYERS)
@settings(max_examples=8)
@given(
    lengths=st.lists(st.integers(0, 25), min_size=2, max_size=4),
    steps=st.integers(0, 10),
    again=st.lists(st.integers(1, 5), min_size=4, max_size=4),
)
def test_each_stream_has_the_bits_that_it_has_alone(models, layer, lengths, steps, again):
    """On native: prompts, steps, prompts once more, and any choice of the streams."""
    rng, B = np.random.default_rng(0), len(lengths)
    prompts = [rng.integers(0, 257, n) for n in lengths]
    further, more = rng.integers(0, 257, (B, steps)), [rng.integers(0, 257, n) for n in again[:B]]
    together = Session(models[layer][1], backend=native, batch=B)
    alone = [Session(models[layer][1], backend=native) for _ in prompts]

    def check():
        for b, session in enumerate(alone):
            np.testing.assert_array_equal(together.logits[b], session.logits[0])
            recent = together.recent[b]
            np.testing.assert_array_equal(recent[recent >= 0], session.recent[0])
        np.testing.assert_array_equal(together.positions, [session.tokens for session in alone])

    together.prefill(prompts)
    for session, prompt in zip(alone, prompts, strict=True):
        session.prefill(prompt[None])
    check()
    for t in range(steps):
        together.step(further[:, t])
        for b, session in enumerate(alone):
            session.step(further[b, t : t + 1])
    check()
    together.prefill(more)
    for session, prompt in zip(alone, more, strict=True):
        session.prefill(prompt[None])
    check()
    rows = list(range(B))[::-2]
    together, alone = together.select(rows), [alone[b] for b in rows]
    together.step(np.full(len(rows), 7))
    for session in alone:
        session.step(np.array([7]))
    check()


@pytest.mark.parametrize("backend", [native, reference])
def test_each_text_is_that_of_the_prompt_alone(models, backend):
    checkpoint = models["paper"][1]
    sampling, stops = Sampling(0.7, repetition_penalty=1.3, seed=5), (b"e", b"\xff")
    texts = [b""] * len(PROMPTS)
    last = [False] * len(PROMPTS)
    session = read(checkpoint, backend, PROMPTS)
    before = session.tokens
    for piece in generate_each(session, BYTES, 40, sampling=sampling, stops=stops):
        assert not last[piece.stream]
        texts[piece.stream] += piece.text
        last[piece.stream] = piece.last
    assert all(last) and session.tokens == before
    for prompt, text in zip(PROMPTS, texts, strict=True):
        alone = read(checkpoint, backend, [prompt])
        assert b"".join(generate(alone, BYTES, 40, sampling=sampling, stops=stops)) == text
    assert len({len(text) for text in texts}) > 2  # some ended early


def test_the_command_shows_each_after_a_line_with_its_number(models, tmp_path, capsys):
    path = str(models["paper"][0])
    (tmp_path / "prompts").write_text("def f(x):\n\nthe gate")
    how = ["--tokens", "30", "--seed", "4", "--stop", "e"]
    alone = []
    for prompt in ("a", "def f(x):", "the gate"):
        assert run(["generate", path, prompt, *how]) == 0
        alone.append(capsys.readouterr().out)
    code = run(["generate", path, "a", "--prompts", str(tmp_path / "prompts"), *how])
    found = capsys.readouterr()
    expected = "".join(f"--- {i} of 3 ---\n{text}" for i, text in enumerate(alone, 1))
    assert (code, found.out) == (0, expected), found.err
    assert "prefill: " in found.err and "decode: " in found.err


def test_what_cannot_be_is_one_sentence(models, tmp_path, capsys):
    path, checkpoint = models["paper"]
    session = read(checkpoint, native, [b"a", b"ab"])
    with pytest.raises(ModelError, match="one by one"):
        session.snapshot()
    with pytest.raises(ModelError, match="2 streams"):
        session.prefill([[1], [2, 3], [4]])
    with pytest.raises(ModelError, match="tokens must be"):
        session.prefill([[1], [2, 300]])
    with pytest.raises(ModelError, match="use generate_each"):
        next(generate(session, BYTES, 1, sampling=Sampling()))
    assert session.positions.tolist() == [2, 3]
    assert run(["generate", str(path), "a", "b", "--save-state", str(tmp_path / "s")]) == 2
    assert "a state is that of one prompt" in capsys.readouterr().err


def test_a_row_can_be_saved_and_goes_on_alone(models):
    checkpoint = models["dss"][1]
    session = read(checkpoint, native, [b"a", b"abc"])
    session.step(np.array([3, 4]))
    alone = Session(checkpoint, snapshot=session.select([0]).snapshot())
    np.testing.assert_array_equal(alone.step(np.array([5])), session.step(np.array([5, 6]))[:1])
    assert alone.tokens == 4
