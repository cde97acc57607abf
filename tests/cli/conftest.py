"""What the tests of the command line share."""

import numpy as np
import pytest

from refgss.conformance.vectors.format import Expected, Vector, write_vectors


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """One vector, so that a check takes no time."""
    one = np.ones(1)
    expected = Expected(0 * one, 0 * one, 0 * one, {"f32": one / 8, "f64": one / 8})
    tensors = {"x": np.zeros(1, np.float32)}
    v = Vector("gelu/zero", "gelu", ("GSS-NRM-3",), {}, tensors, {"y": expected})
    folder = tmp_path_factory.mktemp("few")
    write_vectors(folder, [v], "2026-11-23")
    return folder
