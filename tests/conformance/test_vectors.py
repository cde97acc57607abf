"""Vectors on disk: what is written is what is read, byte for byte, and damage is noticed."""

import hashlib
import json
import shutil
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from refgss.conformance.vectors.format import (
    DamagedVectorsError,
    Expected,
    Vector,
    assembled,
    lint,
    read_vectors,
    write_vectors,
)
from refgss.standard import spec_folder

DATE = "2026-11-23"


def expected(hi, **changes):
    hi = np.asarray(hi, np.float64)
    budget = np.full_like(hi, 1e-6)
    parts = dict(hi=hi, lo=np.zeros_like(hi), radius=np.full_like(hi, 1e-13))
    parts |= dict(budget={"f32": budget, "f64": budget * 1e-6 + 1e-9})
    return Expected(**(parts | changes))


def vector(id="gelu/one", **changes):
    x = np.array([1.0, -2.0], np.float32)
    parts = dict(id=id, op="gelu", clauses=("GSS-NRM-3",), options={}, tensors={"x": x})
    return Vector(**(parts | dict(expected={"y": expected([0.84, -0.04])}) | changes))


def same(a, b):
    assert (a.id, a.op, a.clauses, dict(a.options)) == (b.id, b.op, b.clauses, dict(b.options))
    assert (a.layer_profile, a.error, a.flags) == (b.layer_profile, b.error, b.flags)
    assert a.note == b.note
    assert list(a.tensors) == list(b.tensors) and list(a.expected) == list(b.expected)
    for name in a.tensors:
        np.testing.assert_array_equal(a.tensors[name], b.tensors[name], strict=True)
    for name, e in a.expected.items():
        other = b.expected[name]
        assert e.full_shape == other.full_shape and (e.at is None) == (other.at is None)
        for x, y in [(e.hi, other.hi), (e.lo, other.lo), (e.radius, other.radius)]:
            np.testing.assert_array_equal(x, y, strict=True)
        for precision in e.budget:
            np.testing.assert_array_equal(e.budget[precision], other.budget[precision], strict=True)


@settings(max_examples=40, deadline=None)
@given(
    x=arrays(np.float32, array_shapes(min_dims=0, min_side=0), elements=st.floats(width=32)),
    error=st.booleans(),
    profile=st.sampled_from([None, "paper", "gss-pytorch"]),
    note=st.text(st.characters(codec="utf-8")),
)
def test_round_trip(tmp_path_factory, x, error, profile, note):
    folder = tmp_path_factory.mktemp("vectors")
    v = vector(
        tensors={"x": x, "tokens": np.zeros((0, 2), np.int32)},
        expected={} if error else {"y": expected(x)},
        error=error,
        layer_profile=profile,
        note=note,
        flags=("empty",),
        options={"eps": 1e-5, "form": {"method": "zoh"}},
    )
    sampled = vector("gelu/b", expected={"y": expected([1.0], at=np.array([5]), shape=(2, 3))})
    write_vectors(folder, [v, sampled], DATE)
    read = read_vectors(folder)
    assert read.date == DATE
    by_id = {w.id: w for w in read.vectors}
    same(v, by_id[v.id])
    same(sampled, by_id[sampled.id])


def test_the_same_vectors_give_the_same_bytes(tmp_path):
    vs = [vector("gelu/b"), vector("gelu/a"), vector("dense/a", op="dense")]
    write_vectors(tmp_path / "1", vs, DATE)
    write_vectors(tmp_path / "2", vs[::-1], DATE)
    write_vectors(tmp_path / "2", read_vectors(tmp_path / "1").vectors, DATE)
    names = sorted(f.name for f in (tmp_path / "1").iterdir())
    assert names == ["dense.safetensors", "gelu.safetensors", "index.json", "manifest.json"]
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_an_op_that_lost_its_vectors_leaves_no_payload(tmp_path):
    write_vectors(tmp_path, [vector(), vector("dense/a", op="dense")], DATE)
    write_vectors(tmp_path, [vector()], DATE)
    assert not (tmp_path / "dense.safetensors").exists()


@pytest.mark.parametrize("name", ["index.json", "manifest.json", "gelu.safetensors"])
def test_every_changed_or_missing_file_is_noticed(tmp_path, name):
    write_vectors(tmp_path, [vector()], DATE)
    content = (tmp_path / name).read_bytes()
    for i in range(0, len(content), 7):
        changed = content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :]
        (tmp_path / name).write_bytes(changed)
        if name == "manifest.json" and json_equal(changed, content):
            continue  # white space
        with pytest.raises(DamagedVectorsError):
            read_vectors(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DamagedVectorsError):
        read_vectors(tmp_path)


def reseal(folder):
    """Make the manifest fit again whatever the files hold now."""
    names = sorted(f.name for f in folder.iterdir() if f.name != "manifest.json")
    digests = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}
    (folder / "manifest.json").write_text(json.dumps({"sha256": digests}))


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("index.json", b'"gelu/one"', b'"gelu/two"', "incomplete"),
        ("index.json", b'"op": "gelu"', b'"op": "fft"', "incomplete"),
        ("index.json", b'"tensors": ["x"]', b'"tensors": ["x", "z"]', "incomplete"),
        ("index.json", b'"sampled": false', b'"sampled": true', "incomplete"),
        ("index.json", b'"clauses"', b'"causes"', "clauses"),
        ("index.json", b'"cases": [', b'"cases": [[', "not JSON"),
        ("index.json", b'"y": {"shape": [2]', b'"y": {"shape": [1e999]', "not JSON"),
        ("gelu.safetensors", b'"F64","shape":[2]', b'"F64","shape":[3]', "incomplete"),
        ("gelu.safetensors", b'|lo":{"dtype":"F64"', b'|lo":{"dtype":"I64"', "float64"),
    ],
)
def test_what_does_not_fit_together_is_damage_even_under_a_right_seal(
    tmp_path, name, old, new, complaint
):
    write_vectors(tmp_path, [vector()], DATE)
    content = (tmp_path / name).read_bytes()
    assert old in content, content
    (tmp_path / name).write_bytes(content.replace(old, new, 1))
    reseal(tmp_path)
    with pytest.raises(DamagedVectorsError, match=complaint):
        read_vectors(tmp_path)


def test_samples_outside_the_output_are_damage(tmp_path):
    outside = expected([1.0], at=np.array([6]), shape=(2, 3))
    write_vectors(tmp_path, [vector(expected={"y": outside})], DATE)
    with pytest.raises(DamagedVectorsError, match="samples outside"):
        read_vectors(tmp_path)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_fuzzed_vectors_are_refused_or_are_vectors(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzzed")
    write_vectors(folder, [vector()], DATE)
    file = folder / data.draw(st.sampled_from(["index.json", "gelu.safetensors", "manifest.json"]))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        i = data.draw(st.integers(0, len(content) - 1))
        content[i : i + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    file.write_bytes(content)
    if file.name != "manifest.json":
        reseal(folder)
    try:
        found = read_vectors(folder)
    except DamagedVectorsError as e:
        assert str(e)
        return
    with np.errstate(all="ignore"):
        lint(found.vectors, CLAUSES)


def test_writing_vectors_leaves_the_files_of_others_alone(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    write_vectors(tmp_path, [vector(), vector("dense/a", op="dense")], DATE)
    write_vectors(tmp_path, [vector()], DATE)
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"


def json_equal(a, b):
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


CLAUSES = {"GSS-NRM-3": "MUST", "GSS-NRM-9": "SHOULD"}


def test_lint_finds_nothing_in_a_good_set():
    assert lint([vector(), vector("gelu/e", expected={}, error=True)], CLAUSES) == []


@pytest.mark.parametrize(
    ("vectors", "complaint"),
    [
        ([vector(), vector()], "used twice"),
        ([vector(clauses=("GSS-XYZ-1", "GSS-NRM-3"))], "no clause GSS-XYZ-1"),
        ([vector(), vector("gelu/b", clauses=())], "names no clause"),
        ([vector(), vector("nope/b", op="nope")], "no op nope"),
        ([vector("dense/a")], "begin with its op"),
        ([vector(error=True)], "without any"),
        ([vector(tensors={"x": np.zeros(2)})], "float64, not float32"),
        ([vector(expected={"y": expected([0.0], radius=np.array([1e-8]))})], "less sharply"),
        ([vector(expected={"y": expected([0.0], lo=np.zeros(2))})], "hi's shape"),
        ([vector(expected={"y": expected([0.0], at=np.array([6]), shape=(2, 3))})], "outside"),
        ([vector(clauses=("GSS-NRM-9",))], "GSS-NRM-3: no vector covers"),
    ],
)
def test_lint_names_each_defect(vectors, complaint):
    assert any(complaint in line for line in lint(vectors, CLAUSES))


def test_the_installed_set_reads_as_a_foreign_one_does(tmp_path):
    """Neither path may see another number than the other: the quick one checks less."""
    installed = spec_folder() / "vectors"
    shutil.copytree(installed, tmp_path / "copy")
    ours, foreign = read_vectors(installed), read_vectors(tmp_path / "copy")
    assert (ours.date, ours.digest) == (foreign.date, foreign.digest)
    for a, b in zip(ours.vectors[::20], foreign.vectors[::20], strict=True):
        same(a, b)


def test_the_installed_set_is_read_in_little_more_time_than_its_index_and_hashes():
    folder = spec_folder() / "vectors"
    assembled.cache_clear()
    start = time.process_time()
    for file in folder.iterdir():
        hashlib.sha256(file.read_bytes())
    json.loads((folder / "index.json").read_bytes())
    least = time.process_time()
    read_vectors(folder)
    assert time.process_time() - least < 15 * (least - start)  # 6 on an idle machine; once 30
