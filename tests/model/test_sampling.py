"""Sampling: by the clauses of chapter 17, reproducible, and as likely as it should be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refgss.model.generation import generate, start
from refgss.model.sampling import GREEDY, Sampling, StopScanner, choose, draw, penalize, uniform
from refgss.model.session import Session
from refgss.model.snapshot import load_snapshot, save_snapshot
from refgss.model.tokenizer import load_tokenizer
from refgss.tensors import ModelError

from .models import saved

LOGITS = hnp.arrays(np.float64, st.integers(1, 12), elements=st.floats(-50, 50, width=32))
HOW = st.builds(
    Sampling,
    temperature=st.floats(0.05, 3),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
    seed=st.integers(0, 2**64 - 1),
)


def philox(key, counter):
    """Philox4x64-10 (Salmon et al., 2011) in integers: the first of its four words."""
    mask, c, k = 2**64 - 1, [counter, 0, 0, 0], list(key)
    for _ in range(10):
        a, b = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
        c = [(b >> 64) ^ c[1] ^ k[0], b & mask, (a >> 64) ^ c[3] ^ k[1], a & mask]
        k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    return c[0]


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32), st.integers(0, 2**63))
def test_the_random_number_is_that_of_the_spec(seed, stream, position):
    expected = (philox((seed, stream), position + 1) >> 11) * 2.0**-53
    assert uniform(seed, stream, position) == expected


def kept(logits, how):
    """GSS-SMP-3 and 4 in words: what may be drawn."""
    order = sorted(range(len(logits)), key=lambda v: (-logits[v], v))
    weight = [float(np.exp((logits[v] - logits[order[0]]) / how.temperature)) for v in order]
    n = how.top_k or len(order)
    weight = weight[:n]
    fewest = next(
        m for m in range(1, n + 2) if sum(weight[:m]) >= how.top_p * sum(weight) * (1 - 1e-12)
    )
    return {v for v, w in zip(order[:fewest], weight, strict=False) if w >= how.min_p}


@settings(deadline=None, derandomize=True, max_examples=300)
@given(LOGITS, HOW, st.integers(0, 10**9))
def test_a_draw_is_among_the_tokens_that_are_kept(logits, how, position):
    assert draw(logits, 0, position, how) in kept(logits, how)


def test_draws_are_as_likely_as_their_weights():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    drawn = [draw(np.log(p), 0, t, Sampling(seed=3)) for t in range(5000)]
    found = np.bincount(drawn, minlength=4) / 5000
    assert (abs(found - p) < 5 * np.sqrt(p * (1 - p) / 5000)).all()  # five standard deviations


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (GREEDY, 1),  # the lowest of equals
        (Sampling(top_k=1), 1),
        (Sampling(top_p=1e-9), 1),
        (Sampling(min_p=1), None),  # either of the equals
        (Sampling(temperature=1e-6), None),
        (Sampling(temperature=0, repetition_penalty=3), 2),
    ],
)
def test_the_sharpest_settings_are_greedy(how, expected):
    logits = np.array([[0.0, 2.0, 2.0, -1.0]], np.float32)
    for t in range(50):
        token = int(choose(logits, np.array([[1, 1, 3]]), t, how)[0])
        assert token in ({1, 2} if expected is None else {expected})


def test_the_penalty_counts_each_recent_token_once():
    logits = np.array([[2.0, -2.0, 1.0]])
    penalize(logits, np.array([[0, 0, 1, 9]]), 4.0)
    assert logits.tolist() == [[0.5, -8.0, 1.0]]


def test_tokens_that_the_tokenizer_lacks_are_never_chosen():
    logits = np.array([[0.0, 1.0, 9.0]], np.float32)
    assert choose(logits, np.zeros((1, 0), int), 0, GREEDY, 2) == [1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(value):
    with pytest.raises(ModelError, match="not finite"):
        choose(np.array([[0.0, value]]), np.zeros((1, 0), int), 0, GREEDY)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e-308),
        ("repetition_penalty", float("inf")),
        ("temperature", 10**309),
        ("top_k", 2.5),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_settings_out_of_range_are_one_sentence(field, value):
    with pytest.raises(ModelError, match=field):
        Sampling(**{field: value})


# --- the whole of the documented domain ----------------------------------------------------------

EXTREME = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38, 50.0, 88.0, -104.0]
DOMAIN = st.builds(
    Sampling,
    temperature=st.just(0.0) | st.floats(5e-324, 1.7976931348623157e308),
    top_k=st.integers(0, 12) | st.just(10**400),
    top_p=st.floats(5e-324, 1),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(1e-6, 1e6),
    seed=st.integers(0, 2**64 - 1),
)


@settings(deadline=None, derandomize=True, max_examples=500)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 9)),
        elements=st.sampled_from(EXTREME) | st.floats(-(2.0**127), 2.0**127, width=32),
    ),
    DOMAIN,
    st.integers(0, 10**18),
    st.data(),
)
@pytest.mark.filterwarnings("error")
def test_sampling_is_total_on_its_domain(logits, sampling, position, data):
    """A token for whatever is allowed, without a warning, and the same one again."""
    B, V = logits.shape
    recent = data.draw(hnp.arrays(np.int32, (B, 3), elements=st.integers(-1, V + 1)))
    tokens = choose(logits, recent, position, sampling)
    assert tokens.shape == (B,) and ((tokens >= 0) & (tokens < V)).all()
    np.testing.assert_array_equal(choose(logits, recent, position, sampling), tokens)
    if sampling.top_k == 1 or sampling.temperature == 0:
        best = logits.astype(np.float64)
        penalize(best, recent, sampling.repetition_penalty)
        np.testing.assert_array_equal(tokens, best.argmax(-1))


NUMBERS = st.floats() | st.integers(-(10**400), 10**400)


@settings(deadline=None, derandomize=True, max_examples=500)
@given(
    st.sampled_from(["temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"]),
    NUMBERS,
    hnp.arrays(np.float64, (2, 5), elements=st.floats()),
)
@pytest.mark.filterwarnings("error")
def test_outside_of_the_domain_there_is_one_sentence(field, value, logits):
    try:
        sampling = Sampling(**{field: value})
        tokens = choose(logits, np.array([[0, 1], [2, 9]]), 3, sampling)
    except ModelError as e:
        assert "\n" not in str(e)
    else:
        assert np.abs(logits).max() < 2.0**128 and ((tokens >= 0) & (tokens < 5)).all()


def test_where_there_is_no_token_there_is_one_sentence():
    with pytest.raises(ModelError, match="no token to choose"):
        choose(np.zeros((1, 3), np.float32), np.zeros((1, 0), int), 0, GREEDY, 0)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    st.lists(st.binary(max_size=4).map(lambda b: bytes(x % 3 for x in b)), max_size=12),
    st.lists(st.binary(min_size=1, max_size=4).map(lambda b: bytes(x % 3 for x in b)), max_size=3),
)
def test_stop_strings_cut_the_text_wherever_pieces_end(pieces, stops):
    scanner, shown = StopScanner(tuple(stops)), b""
    for piece in pieces:
        if not scanner.stopped:
            shown += scanner.feed(piece)
    text = b"".join(pieces)
    ends = [at for at in map(text.find, stops) if at >= 0]
    if not scanner.stopped:
        shown += scanner.held
        assert not ends and shown == text
    else:  # the first stop string to be complete is cut off
        assert ends and any(text.startswith(shown + s) for s in stops)
        assert not any(s in shown for s in stops)


def text_of(session, count, **how):
    tokenizer = load_tokenizer("bytes")
    start(session, tokenizer)
    return b"".join(generate(session, tokenizer, count, sampling=Sampling(**how)))


def test_the_same_seed_gives_the_same_text_across_saving(tmp_path):
    _, checkpoint = saved(tmp_path)
    how = {"temperature": 0.7, "top_k": 50, "repetition_penalty": 1.2, "seed": 6}
    whole = text_of(Session(checkpoint), 60, **how)
    session = Session(checkpoint)
    first = text_of(session, 23, **how)
    save_snapshot(tmp_path / "s", session.snapshot(), checkpoint.digest)
    again = Session(checkpoint, snapshot=load_snapshot(tmp_path / "s", checkpoint))
    assert first + text_of(again, 60 - 23, **how) == whole
    assert text_of(Session(checkpoint), 60, **{**how, "seed": 7}) != whole
