"""Weights of fewer bits: rounded as the spec says, binary32 numbers all, budgets unchanged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refgss import native, ops, reference
from refgss.conformance.judging.compare import error_ratio
from refgss.conformance.vectors.certify import certify
from refgss.model.weights import dequantize, from_bf16, is_matrix, quantize, to_bf16
from refgss.tensors import ModelError

from .models import LAYERS, small

FINITE = st.floats(-(2.0**100), 2.0**100, width=32)
ROWS = hnp.arrays(np.float32, st.tuples(st.integers(1, 70), st.integers(1, 3)), elements=FINITE)


@settings(derandomize=True, deadline=None)
@given(hnp.arrays(np.float32, st.integers(0, 50), elements=FINITE))
def test_bf16_rounds_to_nearest_even(x):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    np.testing.assert_array_equal(to_bf16(x), x.astype(ml_dtypes.bfloat16).view(np.uint16))


@settings(derandomize=True, deadline=None)
@given(ROWS)
def test_int8_is_within_half_a_step_of_the_weight_and_exact_in_binary32(w):
    q = quantize({"w_v": w, "embedding.weight": w.T.copy()}, "int8")
    back = dequantize(q)
    np.testing.assert_array_equal(back["embedding.weight"], back["w_v"].T)
    scale = from_bf16(q["w_v.scale"]).astype(np.float64).repeat(32, 0)[: len(w)]
    exact = q["w_v"] * scale
    assert (back["w_v"] == exact).all()  # q·scale needs no rounding
    assert (abs(exact - w) <= scale / 2).all()
    assert abs(q["w_v"].astype(int)).max() <= 127
    peak = np.maximum.reduceat(abs(w.astype(np.float64)), range(0, len(w), 32))
    steps = from_bf16(q["w_v.scale"]).astype(np.float64)
    below = from_bf16(q["w_v.scale"] - 1).astype(np.float64)  # the next smaller BF16
    small_enough = (peak == 0) | (steps == 2.0**-126) | (below < peak / 127)
    assert ((steps >= peak / 127) & small_enough).all()


def test_a_weight_too_large_is_refused():
    with pytest.raises(ModelError, match="w_v has weights from 2\\^120"):
        quantize({"w_v": np.full((2, 2), 2.0**120, np.float32)}, "int8")


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_all_else_stays_as_it_is(weights):
    params, _ = small(LAYERS["gss-pytorch"])
    back = dequantize(quantize(params, weights))
    assert back.keys() == params.keys()
    for name in params:
        assert back[name].dtype == params[name].dtype
        assert is_matrix(name) or np.array_equal(back[name], params[name])


@pytest.mark.parametrize("weights", ["bf16", "int8"])
@pytest.mark.parametrize("layer", ["paper", "dss"])
def test_the_budget_is_that_of_f32(layer, weights):
    """GSS-FMT-14: certified on the numbers that the weights stand for, judged as binary32."""
    tiny = {"vocabulary": 6, "width": 33, "gate": 5, "channels": 4, "states": 2}
    params, config = small(LAYERS[layer], depth=1, **tiny)
    params = dequantize(quantize(params, weights))
    tokens = np.array([[3, 1, 4]], np.int32)
    given_ = {f"params.{k}": ops.to_real(v) for k, v in params.items()} | {"tokens": tokens}
    wanted = certify("lm_logits", given_, {"config": ops.encode_option(config)})
    for backend in (reference, native):
        logits, state = backend.lm_logits(params, tokens, config=config)
        for name, got in (("logits", logits), ("state", ops.to_real(state))):
            assert error_ratio(got.astype(np.float64), wanted[name], "f32").max() <= 1
