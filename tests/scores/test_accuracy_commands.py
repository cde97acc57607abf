"""`refgss calibrate` and `refgss estimate`."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from refgss.cli import run

from .test_estimation import CORRECT, LABELS, SOURCE, TARGET, T


@pytest.fixture
def refgss_(capfd):
    def call(*arguments):
        code = run([str(x) for x in arguments])
        said = capfd.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def files(tmp_path):
    np.savez(tmp_path / "source.npz", logits=SOURCE, labels=LABELS)
    save_file({"logits": TARGET}, tmp_path / "target.safetensors")
    return tmp_path / "source.npz", tmp_path / "target.safetensors"


def test_calibrate_prints_and_writes_its_figures(refgss_, files, tmp_path):
    out = tmp_path / "T.json"
    code, said, _ = refgss_("calibrate", files[0], "-o", out)
    found = json.loads(out.read_text())
    assert code == 0 and "12 samples, 3 classes, accuracy 0.8333" in said
    assert found["temperature"] == pytest.approx(T, rel=1e-6)
    assert [x["temperature"] for x in found["at"]] == [1.0, found["temperature"]]
    assert found["at"][1]["nll"] < found["at"][0]["nll"]
    assert sum(b["samples"] for b in found["at"][0]["bins"]) == 12


def test_estimate_of_a_target_without_labels(refgss_, files, tmp_path):
    out = tmp_path / "E.json"
    code, said, err = refgss_("estimate", *files, "--bootstrap", 20, "-o", out)
    (line,) = json.loads(out.read_text())["targets"]
    assert code == 0 and "source accuracy 0.8333" in said and "leaves out 2 of 9" in err
    assert line["estimates"]["ATC-MC"] == pytest.approx(5 / 9)
    assert "accuracy" not in line and "error" not in said
    low, high = line["intervals"]["AC"]
    assert low < line["estimates"]["AC"] < high


def test_the_papers_profile_is_another_and_is_named(refgss_, files):
    code, said, _ = refgss_("estimate", *files, "--bootstrap", 0, "--profile", "as-published")
    assert code == 0 and "profile as-published" in said and "0.7778" in said


def test_labels_of_a_target_give_errors_and_a_second_model_gde(refgss_, files, tmp_path):
    labelled = tmp_path / "labelled.npz"
    np.savez(labelled, logits=TARGET, labels=TARGET.argmax(1))
    code, said, _ = refgss_("estimate", files[0], labelled, "--second", files[1], "--bootstrap", 0)
    assert code == 0 and "mean absolute error" in said and "GDE" in said and "1.0000" in said


def test_probabilities_serve_as_logits_do(refgss_, files, tmp_path):
    from refgss import scores

    given = tmp_path / "p.npz"
    np.savez(given, probs=scores.softmax(SOURCE, temperature=1.0), labels=LABELS)
    said = [refgss_("calibrate", path)[1] for path in (files[0], given)]
    assert said[0] == said[1]


def test_pictures(refgss_, files, tmp_path):
    pytest.importorskip("matplotlib")
    labelled = tmp_path / "labelled.npz"
    np.savez(labelled, logits=TARGET, labels=TARGET.argmax(1))
    for name, arguments in (
        ("r", ["calibrate", files[0]]),
        ("p", ["estimate", files[0], labelled, "--bootstrap", 0]),
    ):
        picture = tmp_path / f"{name}.png"
        assert refgss_(*arguments, "--plot", picture)[0] == 0
        assert picture.read_bytes().startswith(b"\x89PNG")


def bad(tmp_path, **arrays):
    np.savez(tmp_path / "bad.npz", **arrays)
    return tmp_path / "bad.npz"


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({}, "either the array logits (n,K) or the array probs"),
        ({"logits": SOURCE, "probs": SOURCE}, "either the array logits"),
        ({"logits": SOURCE}, "has no labels"),
        ({"logits": SOURCE[:, 0], "labels": LABELS}, "must be (n,K)"),
        ({"logits": SOURCE * np.nan, "labels": LABELS}, "row 0 has a NaN"),
        ({"logits": SOURCE, "labels": LABELS + 1}, "of 3"),
        ({"logits": SOURCE, "labels": LABELS[:5]}, "one for each row"),
        ({"logits": SOURCE, "labels": LABELS * 1.0}, "must be integers"),
        ({"logits": SOURCE[:0], "labels": LABELS[:0]}, "no sample"),
        ({"logits": SOURCE[:, :1], "labels": LABELS * 0}, "two classes"),
        ({"probs": np.full((2, 2), 0.4), "labels": LABELS[:2]}, "does not sum to 1"),
        ({"logits": np.array([["a"]]), "labels": LABELS[:1]}, "numbers are due"),
        ({"logits": SOURCE, "labels": LABELS, "group": LABELS[:3]}, "one for each sample"),
        ({"logits": np.array([[{}]], object), "labels": LABELS[:1]}, "no npz file of numbers"),
    ],
)
def test_bad_samples_are_one_sentence(refgss_, tmp_path, arrays, sentence):
    code, _, err = refgss_("calibrate", bad(tmp_path, **arrays))
    assert code == 2 and sentence in err and err.count("\n") == 1, err


def test_bad_files_and_options_are_one_sentence(refgss_, files, tmp_path):
    text = tmp_path / "text.npz"
    text.write_text("no samples")
    array = tmp_path / "array.npy"
    np.save(array, SOURCE)
    other = bad(tmp_path, logits=TARGET[:, :2])
    for arguments, sentence in (
        (["calibrate", text], "no npz file"),
        (["calibrate", array], "np.savez"),
        (["calibrate", files[0], "--bins", 0], "0 is not in the range"),
        (["estimate", files[0], other], "3 classes"),
        (["estimate", files[1], files[1]], "has no labels"),
        (["estimate", *files, "--second", files[1], "--second", files[1]], "once for each TARGET"),
        (["estimate", *files, "--second", other], "one shape"),
    ):
        code, _, err = refgss_(*arguments)
        assert code == 2 and sentence in err and "defect" not in err, err


def test_a_source_without_errors_is_noted(refgss_, files, tmp_path):
    perfect = bad(tmp_path, logits=SOURCE[CORRECT == 1], labels=LABELS[CORRECT == 1])
    _, _, err = refgss_("estimate", perfect, files[1], "--bootstrap", 0)
    assert "no errors" in err and "at its bound" in err
