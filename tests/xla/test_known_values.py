"""What NumPy arrays are refused for, JAX arrays are too; compiled code, which cannot, gives NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from refgss import config, ops, xla
from refgss.conformance.vectors.cases.asked import refusals_by_table

CASES = [c for c in refusals_by_table() if "params" not in ops.OPS[c.op].arguments or "lm" in c.op]


@pytest.mark.parametrize("op", sorted({case.op for case in CASES}))
def test_every_refusal_of_the_table_holds_for_jax_arrays(op):
    accepted = []
    for case in (c for c in CASES if c.op == op):
        given = ops.at_precision(case.tensors, "f32")
        tensors = {k: jnp.asarray(ops.from_real(k, x)) for k, x in given.items()}
        try:
            ops.call(xla, op, tensors, case.options)
            accepted.append(case.id)
        except (TypeError, ValueError) as error:
            assert "\n" not in str(error), case.id
    assert not accepted


LAM, STEP = jnp.array([-0.5 + 1j, 0.1j], jnp.complex64), jnp.float32(0.5)
C = jnp.ones((2, 2), jnp.complex64)
PLAN = xla.Plan(cpu_kernels="xla")
BAD_MODES = [(LAM + 1, STEP), (LAM * jnp.nan, STEP), (LAM, -STEP), (LAM, 0 * STEP)]


def kernel(lam, delta):
    return xla.ssm_kernel(lam, C, 3, delta=delta, form=config.GSS, plan=PLAN)


@pytest.mark.parametrize(("lam", "delta"), BAD_MODES)
def test_modes_that_a_compiler_hides_give_nan(lam, delta):
    assert np.all(np.isnan(jax.jit(kernel)(lam, delta)))
    with pytest.raises(ValueError, match="must"):  # u is hidden, Λ and Δ are known
        jax.jit(lambda c: xla.ssm_kernel(lam, c, 3, delta=delta, form=config.GSS, plan=PLAN))(C)


def test_a_growing_softmax_kernel_is_compiled():
    form = config.dss_softmax(4)
    k = jax.jit(lambda lam: xla.ssm_kernel(lam, C, 4, delta=STEP, form=form, plan=PLAN))(LAM + 1)
    assert np.all(np.isfinite(k))


@pytest.mark.parametrize("token", [-1, 5])
def test_tokens_that_a_compiler_hides_give_nan(token):
    from refgss.xla.language_model import rows_of

    table = jnp.ones((5, 2))
    read = jax.jit(lambda t: table.at[rows_of(t, 5)].get(mode="fill", fill_value=jnp.nan))
    assert np.all(np.isnan(read(jnp.array([token], jnp.int8))))
