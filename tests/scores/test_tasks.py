"""Tasks: what BIG-bench 1.0.0 computes, what must hold of prompts, and the commands."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refgss import scores
from refgss.scores.choices import worth
from refgss.scores.matches import match

from .test_accuracy_commands import refgss_  # noqa: F401

NUMBERS = json.loads(Path(__file__).with_name("tasks_numbers.json").read_text("utf-8"))


def of(op):
    return [x for x in NUMBERS if x["op"] == op]


def flat(samples):
    """The samples of the example as the op takes them."""
    z = np.concatenate([s["log_prob"] for s in samples])
    y = np.concatenate([[s["target_scores"][c] for c in s["choice"]] for s in samples])
    return z, y.astype(float), np.array([len(s["choice"]) for s in samples])


@pytest.mark.parametrize("case", of("multiple_choice_metrics"), ids=lambda x: x["name"])
def test_multiple_choice_is_what_the_package_computes(case):
    names = ("multiple_choice_grade", "calibration_multiple_choice_brier_score")
    names += ("expected_calibration_error", "weighted_log_probabilities", "weighted_probabilities")
    grade, _, *others = scores.multiple_choice(*flat(case["samples"]), ties="sha256-f64")
    for name, x in zip(names, (grade, *others), strict=True):
        assert x == pytest.approx(case["values"][name], rel=1e-13), name


@pytest.mark.parametrize("case", of("tie_argmax_sha256"))
def test_ties_are_broken_by_the_bytes(case):
    z, places = np.array(case["log_prob"]), np.arange(len(case["log_prob"]))
    assert worth(z, places, "sha256-f64") == case["f64"]
    assert worth(z, places, "first") == case["first"]


@pytest.mark.parametrize("case", of("numeric_match"))
def test_numbers_within_a_tenth(case):
    one = case["response"], [case["target"]]
    assert match(*one, "numeric-public") == case["upstream"]
    if case["target"] != "1e400":  # no finite number matches nothing, by our rule
        assert match(*one, "numeric") == case["intended"]


@pytest.mark.parametrize("case", of("choice_order"))
def test_options_are_shown_in_the_package_s_order(case):
    assert scores.shown_choices(case["choices"], seed=case["seed"]) == case["order"]


def test_other_numbers_of_the_package():
    (likelihood,) = of("log_likelihood_multi")
    z = np.concatenate(likelihood["log_probs"])
    assert scores.log_likelihood(z, np.array([4, 4])) == pytest.approx(likelihood["value"])
    (total,) = of("normalized_aggregate")
    found = scores.normalized_aggregate(*np.array(total["tasks"]).T)
    assert found == pytest.approx(total["value"])
    (brier,) = of("brier_hard_targets")
    labels, n = brier["labels"], len(brier["log_probs"][0])
    y = np.concatenate([np.eye(n)[i] for i in labels])
    found = scores.multiple_choice(
        np.concatenate(brier["log_probs"]), y, np.full(len(labels), n), ties="first"
    )
    assert found[2] == pytest.approx(brier["brier_per_option"], rel=1e-13)


@pytest.mark.parametrize(
    "case", [x for x in of("linearity_breakthroughness") if len(x["scores"]) > 2]
)
def test_growth_with_size(case):
    y = np.array(case["scores"], float)
    for count, key in (("points", "L_paper"), ("steps", "L_steps")):
        found = scores.scaling(np.arange(1.0, len(y) + 1), y, count=count)
        wanted = [case["I"], case[key], case["B"]]
        for x, want in zip(found, wanted, strict=True):
            assert np.isnan(x) if want is None else x == pytest.approx(want)


def test_scikit_learns_f1():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    p, e = (rng.choice(list("abcd"), 50).tolist() for _ in range(2))
    theirs = metrics.f1_score(e, p, average="macro")
    assert scores.macro_f1(p, e) == pytest.approx(theirs)
    theirs = metrics.f1_score(["a", "a"], ["a", "c"], average="macro", zero_division=0)
    assert scores.macro_f1(["a", "c"], ["a", "a"]) == pytest.approx(theirs)


def test_bleu_and_rouge_are_those_of_their_packages():
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    from refgss.studies.tasks import bleu, rouge

    (case,) = of("bleu")
    found = bleu(case["responses"], case["targets"])
    assert found == pytest.approx(case["value"] / 100, rel=1e-12)
    (case,) = of("rouge_f_mean")
    targets = [[x] if isinstance(x, str) else x for x in case["targets"]]
    for name, x in rouge(case["responses"], targets).items():
        assert x == pytest.approx(case["value"][name] / 100)


# --- prompts -------------------------------------------------------------------------------------


def task(examples, **options):
    head = {"name": "t", "description": "", "keywords": [], "preferred_score": "exact_str_match"}
    return {"canary": "", **head, "metrics": ["exact_str_match"], "examples": examples, **options}


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(2, 9), shots=st.integers(0, 4), most=st.integers(0, 10), seed=st.integers(0, 99)
)
def test_a_prompt_ends_in_its_query_and_shows_others(n, shots, most, seed):
    examples = [{"input": f"<{i}>", "target": [f"[{i}a]", f"[{i}b]"]} for i in range(n)]
    options = {"shots": shots, "max_examples": most, "seed": seed}
    if n < shots + 1:
        with pytest.raises(ValueError, match="too few"):
            scores.task_prompts(task(examples), **options)
        return
    prompts, queries = scores.task_prompts(task(examples), **options)
    assert len(prompts) == len(queries) == (min(most, n) if most else n)
    assert len(set(queries.tolist())) == len(queries)
    for prompt, query in zip(prompts, queries, strict=True):
        assert prompt.endswith(f"\nQ: <{query}>\nA: ") and prompt.count("Q: ") == shots + 1
        assert prompt.count(f"<{query}>") == 1 and f"[{query}" not in prompt  # no answer leaks
        parts = prompt.split("\n\nQ: ")
        assert len(set(parts)) == shots + 1
    assert scores.task_prompts(task(examples), **options)[0] == prompts


def test_nothing_is_changed_in_the_task():
    given_ = task(
        [{"input": "a", "target_scores": {"x": 1, "y": 0}}, {"input": "b", "target": "c"}]
    )
    before = json.dumps(given_)
    for _ in range(2):
        scores.task_prompts(given_, shots=1, max_examples=0, seed=42)
        scores.task_options(given_, index=0)
    assert json.dumps(given_) == before


# --- the commands --------------------------------------------------------------------------------

SUMS = task(
    [
        {"input": "2+2", "target_scores": {"3": 0, "4": 1, "5": 0}, "target": "4"},
        {"input": "3+4", "target_scores": {"6": 0, "7": 1}, "target": ["7", "seven"]},
        {"input": "1+1", "target_scores": {"2": 1, "1": 0, "11": 0}, "target": "2"},
    ],
    metrics=["multiple_choice_grade", "exact_str_match", "log_likelihood"],
    preferred_score="multiple_choice_grade",
)


def write(path, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")
    return path


def table_of(text):
    return [line.split() for line in text.splitlines() if line.strip()]


def test_a_task_is_asked_and_its_log_scores_the_same(refgss_, tmp_path):  # noqa: F811
    file, log = write(tmp_path / "task.json", SUMS), tmp_path / "log.jsonl"
    asked = refgss_("eval", "tasks", file, "--shots", "0,1", "--tokens", "4", "--log", log)
    assert asked[0] == 0, asked
    scored_ = refgss_("score", log, "-o", tmp_path / "s.json")
    assert scored_[0] == 0 and table_of(scored_[1]) == table_of(asked[1])
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    kinds = [line["type"] for line in lines]
    assert kinds == ["task", *["choice", "text", "likelihood"] * 3] * 2
    assert lines[0]["parameters"] > 500_000 and all(x < 0 for x in lines[1]["log_probs"])
    found = json.loads((tmp_path / "s.json").read_text())["models"][0]["tasks"]
    assert found[0]["scores"]["random"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 3) / 3)
    assert found[0]["preferred"] == "multiple_choice_grade"


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_forked_states_give_what_reading_from_the_start_gives(backend):
    import importlib

    from refgss.model import load_checkpoint
    from refgss.model.text import BUNDLED
    from refgss.studies.scoring import Scorer

    module = importlib.import_module(f"refgss.{backend}")
    scorer = Scorer(load_checkpoint(BUNDLED), module)
    prompt, options = "def f(x):\n    return ", ["x", "x + 1", "", "größe", "None"]
    together = scorer.log_probs(prompt, options)
    alone = [scorer.log_probs(prompt, [x])[0] for x in options]
    assert together == alone
    letters = [scorer.log_probs(prompt + "x +"[:i], ["x + 1"[i]])[0] for i in range(4)]
    assert sum(letters) == pytest.approx(scorer.log_probs(prompt, ["x + "])[0], rel=1e-5)
    assert scorer.log_probs("", ["import"])[0] < 0


def test_subtasks_are_asked_by_name(refgss_, tmp_path):  # noqa: F811
    (tmp_path / "sub").mkdir()
    for name in ("b", "a"):
        write(tmp_path / "sub" / name / "task.json", SUMS | {"name": name})
    head = {k: x for k, x in SUMS.items() if k not in ("examples", "metrics")}
    file = write(tmp_path / "sub" / "task.json", head | {"name": "all"})
    code, out, _ = refgss_("eval", "tasks", file, "--max-examples", "1", "--tokens", "1")
    assert code == 0 and out.index("all:a") < out.index("all:b")


def choice(log_probs, worth_=(0, 1), **more):
    options = [f"o{i}" for i in range(len(log_probs))]
    line = {"type": "choice", "options": options, "log_probs": log_probs}
    return line | {"target_scores": list(worth_)} | more


HEAD = {"type": "task", "task": "t", "shots": 0, "metrics": ["multiple_choice_grade"]}
HEAD |= {"preferred_score": "multiple_choice_grade"}


def log_of(tmp_path, lines, name="log.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_logs_of_other_people_are_scored(refgss_, tmp_path):  # noqa: F811
    lines = [HEAD | {"metrics": ["multiple_choice_grade", "macro_f1"]}]
    lines += [choice([-1, -0.5]), choice([-1, -1]), choice([None, -3])]
    log = log_of(tmp_path, lines)
    code, _, _ = refgss_("score", log, "-o", tmp_path / "s.json")
    found = json.loads((tmp_path / "s.json").read_text())["models"][0]["tasks"][0]["scores"]
    assert code == 0 and found["multiple_choice_grade"] == pytest.approx(2.5 / 3)
    refgss_("score", log, "-o", tmp_path / "p.json", "--profile", "as-published")
    published = json.loads((tmp_path / "p.json").read_text())["models"][0]["tasks"][0]["scores"]
    assert published["multiple_choice_grade"] == pytest.approx(2 / 3)


def test_models_of_three_sizes_have_a_growth_and_a_picture(refgss_, tmp_path):  # noqa: F811
    pytest.importorskip("matplotlib")
    logs = []
    for i, z in enumerate(([[-1, -2]] * 2, [[-1, -2], [-2, -1]], [[-2, -1]] * 2)):
        lines = [HEAD | {"parameters": 10**i}, *map(choice, z)]
        logs.append(log_of(tmp_path, lines, f"{i}.jsonl"))
    picture = tmp_path / "g.png"
    code, out, _ = refgss_("score", *logs, "--plot", picture)
    assert code == 0 and "improvement 1.0000, linearity 1.0000" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert refgss_("score", logs[0], "--plot", picture)[0] == 0


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "has no task"),
        ([choice([-1, -2])], "line 1 is no task, nor a query after one"),
        ([{"type": "task", "task": "t"}], "a task has a name and metrics"),
        ([HEAD, {"type": "choice"}], "a query has no log_probs"),
        ([HEAD, choice([-1])], "not as many log_probs and scores as options"),
        ([HEAD, choice([None, None])], "sample 0 has no option that is possible"),
        ([HEAD, choice(["a", -1])], "t: "),
        ([HEAD, choice([-1, -2]), choice([-1, -2], (0, None))], "target_scores must be finite"),
        ([HEAD, {"type": "text", "response": 1, "targets": [["a"]]}], "t: "),
    ],
)
def test_bad_logs_are_one_sentence(refgss_, tmp_path, lines, sentence):  # noqa: F811
    if lines and lines[-1].get("type") == "text":
        lines = [HEAD | {"metrics": ["exact_str_match"]}, lines[-1]]
    code, _, err = refgss_("score", log_of(tmp_path, lines))
    assert code == 2 and sentence in err and err.count("\n") == 1, err


def test_nan_in_a_log_is_no_json(refgss_, tmp_path):  # noqa: F811
    path = log_of(tmp_path, [HEAD])
    path.write_text(path.read_text() + '{"type": "choice", "log_probs": [NaN, 1]}\n')
    code, _, err = refgss_("score", path)
    assert code == 2 and "line 2 is not JSON" in err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "no task: a JSON object is due"),
        ({"name": "t"}, "neither examples nor subtasks"),
        (SUMS | {"subtasks": []}, None),
        ({"name": "t", "subtasks": [SUMS, SUMS]}, "two subtasks of the name t"),
        ({"name": "t", "subtasks": "x"}, "no list of tasks"),
        (SUMS | {"metrics": ["bleurt"]}, "no metric that can be measured"),
        (SUMS | {"metrics": "x"}, "no metric that can be measured"),
        ({k: x for k, x in SUMS.items() if k != "keywords"}, "has no keywords"),
        (SUMS | {"examples": [{"input": "a", "target_scores": {"b": 1, "c": 1}}]}, "no correct"),
        (SUMS | {"examples": SUMS["examples"][:1]}, "too few for 1 shots"),
    ],
)
def test_bad_tasks_are_one_sentence(refgss_, tmp_path, content, sentence):  # noqa: F811
    file = write(tmp_path / "task.json", content)
    code, _, err = refgss_("eval", "tasks", file, "--shots", "1", "--tokens", "1")
    assert (code == 0) if sentence is None else (code == 2 and sentence in err), err
    assert "defect" not in err and "Traceback" not in err


def test_options_that_stand_twice_are_refused(refgss_, tmp_path):  # noqa: F811
    text = json.dumps(SUMS).replace('"3": 0', '"4": 0')
    (tmp_path / "task.json").write_text(text)
    code, _, err = refgss_("eval", "tasks", tmp_path / "task.json")
    assert code == 2 and "is not JSON" in err and "twice" in err
