"""`refgss eval math`, and equivalence by sympy in a process of its own."""

import json
import time

import pytest

from refgss.studies.algebra import Algebra

from .test_accuracy_commands import refgss_  # noqa: F401
from .test_answers import NUMBERS


@pytest.fixture(scope="module")
def algebra():
    pytest.importorskip("sympy")
    pytest.importorskip("antlr4")
    found = Algebra(seconds=30)  # the machine may be busy
    yield found
    found.close()


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("2x+3", "3+2x", True),
        ("(x-2)(x+2)", "x^2-4", True),
        ("\\sqrt{8}", "2\\sqrt{2}", True),
        ("\\frac{1}{2^{99}}", "\\frac{1}{2^{98}}", False),
        ("1-\\frac{1}{e}", "1+\\frac{1}{e}", False),
        ("1,2", "2,1", False),
        ("[2,5)", "[2,6)", False),
        ("\\infty", "-\\infty", False),
        ("1/0", "2/0", False),
        ("east", "seat", False),  # the letters multiplied are equal
        ("x=5", "x=6", False),
        ("}{", "}{", False),  # undecided; identity is asked before
        ("1" * 500, "1" * 500, False),
    ],
)
def test_sympy_tells_equal_answers_and_no_others(algebra, a, b, equal):
    assert algebra.equal(a, b) is equal


def test_a_bomb_ends_in_time_and_the_next_pair_is_answered():
    pytest.importorskip("sympy")
    pytest.importorskip("antlr4")
    algebra = Algebra(seconds=30)
    try:
        assert algebra.equal("x+1", "1+x")
        algebra.seconds, start = 1.0, time.monotonic()
        assert not algebra.equal("9^{9^{9^{9}}}", "9^{9^{9^{8}}}")
        assert time.monotonic() - start < 10
        algebra.seconds = 30
        assert algebra.equal("2x", "x+x")
        assert sum(algebra.compared.values()) == 3 and algebra.compared["equal"] == 2
    finally:
        algebra.close()


def test_math_verify_is_another_decider_and_where_it_differs(algebra):
    """The table of the disagreements: a pair that we call equal it calls equal too, but for one."""
    from refgss import scores

    ours = [
        bool(scores.equivalent(a, b, rules="refgss", method="rational")) or algebra.equal(a, b)
        for a, b, *_ in NUMBERS["pairs"]
    ]
    theirs = [verified for *_, verified in NUMBERS["pairs"]]
    table = {
        (a, b): (us, them)
        for (a, b, *_), us, them in zip(NUMBERS["pairs"], ours, theirs, strict=True)
        if us != them
    }
    assert table == {
        ("1,2", "2,1"): (False, True),  # a set of answers, for it
        ("\\{1,2\\}", "\\{2,1\\}"): (False, True),
        ("10\\%", "10"): (False, True),
        ("", ""): (True, False),
        ("\\frac{1}{2^{99}}", "\\frac{1}{2^{98}}"): (False, True),  # wrong
        ("1-\\frac{1}{\\mathrm{e}}", "1+\\frac{1}{\\mathrm{e}}"): (False, True),  # wrong
    }


# --- the command ---------------------------------------------------------------------------------


def said(answer):
    return f"Final Answer: The final answer is {answer}. I hope it is correct."


@pytest.fixture
def files(tmp_path):
    def write(name, lines):
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    gold = [{"id": "a", "answer": "\\frac12"}, {"id": 7, "solution": "so \\boxed{3}."}]
    given = [
        {"id": "a", "responses": [said("$0.5$"), said("1/2"), said("4"), "nothing"]},
        *({"id": 7, "response": said(x)} for x in ("5", "5", "3", "5")),
    ]
    return write, write("samples.jsonl", given), write("gold.jsonl", gold)


def test_votes_of_a_file(refgss_, files, tmp_path):  # noqa: F811
    out = tmp_path / "m.json"
    code, told, _ = refgss_(
        *("eval", "math", "--samples", files[1], "--gold", files[2]),
        *("--k", "4,1", "-o", out),
    )
    found = json.loads(out.read_text())
    assert code == 0 and "2 problems, 8 responses, 12.5% without an answer" in told
    one, four = found["curve"]
    assert (one["k"], one["majority"], one["pass"]) == (1, 0.375, 0.375)
    assert (four["majority"], four["pass"]) == (0.5, 1.0)
    assert (four["mode_right"], four["mode_wrong"]) == (1.0, 0.0)
    assert one["error"] == pytest.approx(0.125)


def test_the_published_profile_votes_over_the_first(refgss_, files):  # noqa: F811
    arguments = ["eval", "math", "--samples", files[1], "--gold", files[2], "--k", "3"]
    code, told, _ = refgss_(*arguments, "--profile", "as-published", "--equivalence", "identity")
    assert code == 0 and "profile as-published, equivalence identity" in told
    assert "0.0000" in told  # 0.5, 1/2 and 4 are three answers


def test_pictures_of_votes(refgss_, files, tmp_path):  # noqa: F811
    pytest.importorskip("matplotlib")
    picture = tmp_path / "m.png"
    arguments = ["eval", "math", "--samples", files[1], "--gold", files[2], "--k", "1,4"]
    assert refgss_(*arguments, "--plot", picture)[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


GOOD = {"id": "a", "response": said("1")}
ANSWER = {"id": "a", "answer": "1"}


@pytest.mark.parametrize(
    ("samples", "gold", "k", "sentence"),
    [
        ([GOOD], [ANSWER], "2", "has 1 responses: k = 2 needs 2"),
        ([GOOD], [ANSWER], "0", "no list of numbers from 1 on"),
        ([GOOD], [ANSWER], "1,x", "no list of numbers from 1 on"),
        ([GOOD], [ANSWER, ANSWER], "1", "the problem a is there twice"),
        ([GOOD], [{"id": "b", "answer": "1"}], "1", "the problem a has no answer"),
        ([GOOD], [ANSWER, {"id": "b", "answer": "1"}], "1", "no response to the problem b"),
        ([GOOD], [{"id": "a", "solution": "1"}], "1", "no \\boxed answer"),
        ([GOOD], [{"id": "a"}], "1", "neither an answer nor a solution"),
        ([{"id": "a"}], [ANSWER], "1", "neither a response nor a list"),
        ([{"id": "a", "responses": [1]}], [ANSWER], "1", "neither a response nor a list"),
        ([{"id": "a", "responses": []}], [ANSWER], "1", "the problem a has no response"),
        ([{"response": "1"}], [ANSWER], "1", "line 1 has no id"),
        (["text"], [ANSWER], "1", "line 1 is no JSON object"),
        ([], [], "1", "has no problem"),
        ([{"id": "a", "response": "9" * 100_001}], [ANSWER], "1", "has 100001 characters"),
    ],
)
def test_bad_files_are_one_sentence(refgss_, files, samples, gold, k, sentence):  # noqa: F811
    write = files[0]
    arguments = ["--samples", write("s.jsonl", samples), "--gold", write("g.jsonl", gold)]
    code, _, err = refgss_("eval", "math", *arguments, "--k", k)
    assert code == 2 and sentence in err and err.count("\n") == 1, err


def test_what_is_no_json_is_one_sentence(refgss_, files, tmp_path):  # noqa: F811
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": "a"')
    code, _, err = refgss_("eval", "math", "--samples", broken, "--gold", files[2])
    assert code == 2 and "line 1 is not JSON" in err
