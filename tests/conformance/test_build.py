"""From cases to vectors: what is published keeps its inputs, and nothing published is dropped."""

from dataclasses import replace

import numpy as np
import pytest

from refgss.conformance.vectors.build import to_certify, vector
from refgss.conformance.vectors.cases import Case

CASE = Case("gelu/one", "gelu", ("GSS-NRM-3",), {"x": np.array([1.0, -2.0], np.float32)})
DRAWN_OTHERWISE = replace(CASE, tensors={"x": np.array([5.0], np.float32)})
NEW = replace(CASE, id="gelu/two")


def test_a_published_vector_is_certified_from_its_own_inputs():
    published = vector(CASE)
    again = [vector(case) for case in to_certify([published], [DRAWN_OTHERWISE, NEW])]
    assert [v.id for v in again] == ["gelu/one", "gelu/two"]
    np.testing.assert_array_equal(again[0].tensors["x"], CASE.tensors["x"])
    np.testing.assert_array_equal(again[0].expected["y"].hi, published.expected["y"].hi)


def test_only_what_is_not_published_is_added():
    assert to_certify([vector(CASE)], [DRAWN_OTHERWISE, NEW], only_new=True) == [NEW]


def test_a_published_vector_whose_case_is_gone_is_missed():
    with pytest.raises(ValueError, match="gelu/one is published and has no case"):
        to_certify([vector(CASE)], [NEW])
