"""Answers: what the public harness gives, what must hold of every text, and bombs."""

import json
import time
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refgss import scores
from refgss.scores.answers import INVALID, METHODS, RULES
from refgss.scores.arguments import MOST_CHARACTERS

# outputs of the public harness for Minerva, and what two deciders say of pairs of answers
NUMBERS = json.loads(Path(__file__).with_name("answers_numbers.json").read_text("utf-8"))
TEXTS = st.text(st.sampled_from(list("ab12 ,.$={}\\/-")), max_size=12) | st.text(max_size=8)


@pytest.mark.parametrize(("text", "form"), NUMBERS["normalize"])
def test_the_published_rules_give_what_the_harness_gives(text, form):
    assert scores.normalize_answer(text, rules="as-published") == form


@pytest.mark.parametrize(("text", "answer"), NUMBERS["extract"])
def test_extraction_is_that_of_the_harness(text, answer):
    assert scores.extract_answer(text, which="first", across_lines=False) == answer


@given(a=TEXTS, b=TEXTS, rules=st.sampled_from(RULES), method=st.sampled_from(METHODS))
def test_equivalence_is_reflexive_and_symmetric(a, b, rules, method):
    options = {"rules": rules, "method": method}
    assert scores.equivalent(a, a, **options) == 1
    assert scores.equivalent(a, b, **options) == scores.equivalent(b, a, **options)


@given(a=TEXTS)
def test_our_rules_leave_what_they_made(a):
    once = scores.normalize_answer(a, rules="refgss")
    assert scores.equivalent(a, once, rules="refgss", method="identity") or "$" in a or "=" in a


@given(p=st.integers(-50, 50), q=st.integers(1, 50), r=st.integers(-50, 50), s=st.integers(1, 50))
def test_values_are_compared_as_fractions(p, q, r, s):
    for a in (f"{p}/{q}", f"\\frac{{{p}}}{{{q}}}", f"\\dfrac{{{-p}}}{{{-q}}}"):
        equal = scores.equivalent(a, f"{r}/{s}", rules="refgss", method="rational")
        assert equal == (p * s == q * r), a


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("10 hours", "10 minutes"),
        ("1,2", "12"),
        ("1,2", "2,1"),
        ("10\\%", "10"),
        ("0.3333333333333333", "1/3"),
        ("\\frac{1}{2^{99}}", "\\frac{1}{2^{98}}"),
        ("1-\\frac{1}{\\mathrm{e}}", "1+\\frac{1}{\\mathrm{e}}"),
        ("\\frac{1}{0}", "\\frac{2}{0}"),
        ("2x+3=7", "7"),
        ("x", "X"),
        ("\\sqrt[3]{2}", "\\sqrt{3}"),
        ("2^{10}", "210"),
        ("5", INVALID),
    ],
)
def test_what_differs_is_never_equal(a, b):
    assert scores.equivalent(a, b, rules="refgss", method="rational") == 0


@pytest.mark.parametrize("case", NUMBERS["maj1"])
def test_votes_of_the_example(case):
    invalid = "drop" if case["drop_invalid"] else "keep"
    if case["tie"] == "expected":
        found = scores.vote_score(case["answers"], case["gold"], invalid=invalid)
    else:
        winner, votes = scores.vote(case["answers"], invalid=invalid, ties=case["tie"])
        found = float(votes > 0 and winner == case["gold"])
    assert found == case["value"]


@pytest.mark.parametrize(("counts", "gold", "k", "fraction", "passed"), NUMBERS["expected"])
def test_votes_of_k_in_closed_form(counts, gold, k, fraction, passed):
    from fractions import Fraction

    import numpy as np

    found = scores.majority_at_k(np.array(counts), gold=gold, invalid=0, k=k)
    assert found == pytest.approx(float(Fraction(fraction)), rel=1e-14)
    assert scores.pass_at_k(n=sum(counts), c=counts[gold], k=k) == pytest.approx(passed)


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    invalid=st.integers(0, 2),
    data=st.data(),
)
def test_the_closed_form_is_the_mean_over_all_choices(counts, invalid, data):
    import numpy as np

    gold = data.draw(st.integers(0, len(counts) - 1))
    k = data.draw(st.integers(1, sum(counts) + invalid))
    samples = [str(i) for i, c in enumerate(counts) for _ in range(c)] + [INVALID] * invalid
    each = [scores.vote_score(x, str(gold), invalid="drop") for x in combinations(samples, k)]
    found = scores.majority_at_k(np.array(counts), gold=gold, invalid=invalid, k=k)
    assert found == pytest.approx(float(np.mean(each)), abs=1e-12)


def test_many_samples_stay_within_binary64():
    import numpy as np

    counts = np.array([900, 800, 700, 100])
    found = [scores.majority_at_k(counts, gold=0, invalid=50, k=k) for k in (1, 2, 9)]
    assert found[0] == pytest.approx(900 / 2550) and found[0] == pytest.approx(found[1], abs=0.02)
    assert found[2] > found[0]
    assert scores.pass_at_k(n=50_000, c=1, k=25_000) == 0.5


BOMBS = (
    *("\\text{" * 16000, "\\boxed{" * 14000, "$" * MOST_CHARACTERS, "{" * MOST_CHARACTERS),
    *("\\boxed{" + "{" * 99000, "\\frac" * 20000, "1," * 50000, "9" * MOST_CHARACTERS),
    *("\\text{" * 16000 + "}", ("\\text{" * 1000 + "\n") * 16, "\\boxed{" * 14000 + "\n}"),
    *("Final Answer: The final answer is" * 3000, " I hope it is correct." * 4500),
    *("x=" * 50000, "\\sqrt" * 20000, "5" + " " * 99000 + "cm", "9^{" * 33000),
)


@pytest.mark.parametrize("text", BOMBS, ids=range(len(BOMBS)))
def test_bombs_take_no_time_and_equal_themselves_alone(text):
    start = time.process_time()
    for rules in RULES:
        assert scores.equivalent(text, text, rules=rules, method="rational") == 1
        assert scores.equivalent(text, "7", rules=rules, method="rational") == 0
    for which in ("first", "last"):
        scores.extract_answer(text, which=which, across_lines=True)
        scores.extract_answer(text, which=which, across_lines=False)
    scores.boxed_answer(text)
    assert time.process_time() - start < 5  # tenths of a second; quadratic, it would be minutes


def test_a_longer_text_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="has 100001 characters, more than 100000"):
        scores.normalize_answer("9" * (MOST_CHARACTERS + 1), rules="refgss")
