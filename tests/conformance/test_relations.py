"""Simple relations between wrong numbers and proven ones are found and said."""

import numpy as np
import pytest

from refgss.conformance.judging.relations import named_factor, relation
from refgss.conformance.vectors.format import moderate, read_vectors
from refgss.standard import spec_folder

VECTORS = moderate(read_vectors(spec_folder() / "vectors").vectors)


def vector(op, output, least):
    """A vector of the op whose output is large enough in each of its axes, and not zero."""
    for v in VECTORS:
        e = v.expected.get(output)
        if v.op == op and e is not None and e.at is None and np.all(np.isfinite(e.hi)):
            if all(n >= m for n, m in zip(e.hi.shape, least, strict=True)) and np.ptp(e.hi) > 0.1:
                return v
    raise AssertionError(op)


CONV = vector("causal_conv", "y", (2, 5, 3))
STATE = vector("ssm_scan", "state", (2, 2, 2, 2))


def off(x, at, by=1.0):
    x = x.copy()
    x[at] += by
    return x


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda e: e / 2, "the proven number × 1/2"),
        (lambda e: -e, "the proven number with the other sign"),
        (lambda e: e * np.pi, "the proven number × π"),
        (lambda e: e * 1.2345678, "the proven number × 1.235"),
        (lambda e: 0 * e, "zero everywhere"),
        (lambda e: e + 0.25, "the proven number + 0.25"),
        (lambda e: e[:, ::-1], "reversed in time"),
        (lambda e: np.concatenate([0 * e[:, :1], e[:, :-1]], 1), "one step late"),
        (lambda e: np.concatenate([e[:, 1:], 0 * e[:, :1]], 1), "one step early"),
        (lambda e: off(e, np.s_[1]), "right but for batch row 1"),
        (lambda e: off(e, np.s_[..., 2]), "right but for channel 2"),
        (lambda e: off(e, np.s_[:, 3:]), "right up to position 2 and wrong from 3 on"),
        (lambda e: e * (1 + np.arange(e.size).reshape(e.shape)), None),
    ],
)
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_relations_of_a_sequence(make, said, precision):
    dtype = np.float32 if precision == "f32" else np.float64
    assert relation(CONV, "y", make(CONV.expected["y"].hi).astype(dtype), precision) == said


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda e: e * [1, -1], "conjugated"),
        (lambda e: e[..., ::-1], "with Re and Im exchanged"),
        (lambda e: off(e, np.s_[1]), "right but for batch row 1"),
    ],
)
def test_relations_of_complex_numbers(make, said):
    assert relation(STATE, "state", make(STATE.expected["state"].hi), "f64") == said


def test_a_matrix_is_found_transposed():
    for v in VECTORS:
        e = v.expected.get("dweight")
        if v.op == "dense_vjp" and e.hi.shape[0] == e.hi.shape[1] > 1:
            assert relation(v, "dweight", e.hi.T, "f64") == "transposed"
            return
    pytest.fail("no square weight among the vectors of dense_vjp")


def test_factors_are_written_as_people_write_them():
    assert named_factor(2 / 3) == "the proven number × 2/3"
    assert named_factor(np.log(2)) == "the proven number × ln 2"


def test_another_shape_has_no_relation_even_where_samples_are_judged():
    v = next(v for v in VECTORS if v.op == "causal_conv" and v.expected["y"].at is not None)
    assert relation(v, "y", np.zeros((1, 2, 3)), "f64") is None
