"""Bad input: one sentence that names the op, the argument and what to do."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from refgss import config, xla

from .examples import layer_parameters


def test_shapes_fail_while_tracing():
    f = jax.jit(lambda u, k: xla.causal_conv(u, k))
    with pytest.raises(
        ValueError,
        match=r"causal_conv: u has 3 channels where k has 4: shapes \(2, 5, 3\) and \(4, 5\)",
    ):
        f(jnp.ones((2, 5, 3)), jnp.ones((4, 5)))
    p = layer_parameters(config.PAPER)
    p["w_u"] = p["w_u"].T
    with pytest.raises(ValueError, match=r"gss_layer: w_u must have shape \(8, 6\), not \(6, 8\)"):
        jax.jit(lambda p: xla.gss_layer(p, jnp.ones((1, 4, 8)), config=config.PAPER))(p)


def test_a_cotangent_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"gelu_vjp: dy must have shape \(3,\), not \(4,\)"):
        xla.gelu_vjp(np.ones(3, np.float32), np.ones(4, np.float32))


def test_f64_without_x64():
    with pytest.raises(ValueError, match="gelu: float64 needs JAX's x64 mode: set JAX_ENABLE_X64"):
        xla.gelu(np.ones(3))


def test_growing_modes():
    with pytest.raises(ValueError, match="discretize: Re lam must not be positive"):
        xla.discretize(np.array([0.1j + 0.1], np.complex64), np.float32(1), form=config.GSS)


def test_plans():
    with pytest.raises(ValueError, match="no plan for the platform 'abacus'"):
        xla.plan_for("abacus")
    with pytest.raises(ValueError, match="unknown convolution 'guess'"):
        xla.Plan(convolution="guess")
    with pytest.raises(ValueError, match="unknown precision 'low'"):
        xla.Plan(precision="low")
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        xla.Plan(chunk=0)


def test_without_jax_one_sentence_names_the_extra():
    code = (
        "import sys; sys.modules['jax'] = None\n"
        "try:\n    import refgss.xla\nexcept ImportError as e:\n    print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refgss.xla needs JAX: pip install 'refgss[jax]'\n"
