"""Tensors drawn from a seed: the numbers are those of the clause, whoever draws them."""

import hashlib

import numpy as np
import pytest

from refgss.conformance.vectors import fresh
from refgss.conformance.vectors.build import vector
from refgss.conformance.vectors.cases import Case
from refgss.conformance.vectors.drawn import Law, Tensors
from refgss.conformance.vectors.format import read_vectors, write_vectors

MASK = 2**64 - 1


def numbers(text, n):
    """GSS-FMT-17 in integers of Python."""
    s = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    for _ in range(n):
        s = (s + 0x9E3779B97F4A7C15) & MASK
        z = ((s ^ (s >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield (z ^ (z >> 31)) >> 40


@pytest.mark.parametrize(("center", "exponent"), [(0.0, 0), (1.0, -2), (-2.0, 0), (0.0, -30)])
def test_reals_are_those_of_the_clause(center, exponent):
    drawn = Law((3, 5), center, exponent).draw("seed", "x").ravel()
    for got, k in zip(drawn, numbers("seed|x", 15), strict=True):
        assert got == np.float32(center + 2.0**exponent * (2 * k + 1 - 2**24) / 2**24)


def test_tokens_are_those_of_the_clause():
    drawn = Law((20,), below=11).draw("seed", "tokens")
    assert drawn.dtype == np.int32
    assert drawn.tolist() == [k * 11 // 2**24 for k in numbers("seed|tokens", 20)]


def case(n=700):
    tensors = Tensors({}, {"x": Law((n,))}, "gelu/size")
    flags = ("size",)
    return Case("gelu/size", "gelu", ("GSS-NRM-3",), tensors, {}, flags, sampled=True)


def test_what_is_drawn_is_not_stored_and_is_the_same_when_read(tmp_path):
    v = vector(case())
    write_vectors(tmp_path, [v], "2026-11-27")
    assert (tmp_path / "gelu.safetensors").stat().st_size < 2000
    (read,) = read_vectors(tmp_path).vectors
    np.testing.assert_array_equal(read.tensors["x"], v.tensors["x"], strict=True)
    write_vectors(tmp_path / "again", [read], "2026-11-27")
    for name in ("index.json", "gelu.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_samples_agree_with_the_whole_and_their_budgets_are_no_smaller():
    c = case(30)
    whole = vector(Case(**{**vars(c), "sampled": False})).expected["y"]
    some = vector(c).expected["y"]
    assert some.full_shape == whole.full_shape and len(some.at) <= 16
    np.testing.assert_array_equal(some.hi, whole.hi[some.at])
    for precision, budget in some.budget.items():
        assert np.all(budget >= whole.budget[precision][some.at])


def test_a_large_template_gives_a_fresh_case_with_other_numbers():
    published = vector(case(100))
    (drawn,) = fresh.draw([published], 0, seed=3, large=True)
    assert drawn.tensors["x"].shape == (100,) and drawn.id == "gelu/size.fresh-3"
    assert np.mean(drawn.tensors["x"] == published.tensors["x"]) < 0.1
    assert fresh.draw([published], 2, seed=3, large=False) == []
