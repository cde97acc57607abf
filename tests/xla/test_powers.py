"""Powers stay right where l·Im z reaches millions of radians, with and without binary64 sines."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from refgss.xla import powers
from refgss.xla.pairs import Pair

L = 65536
MODES = [(-1e-4, 97.4), (-1e-6, 1234.5), (0.0, 20.1), (-0.3, 2.0), (-1e-5, 1e4)]


def exponent(re, im):
    one = jnp.ones((1,), jnp.float32)
    return powers.Exponent(Pair(re * one, im * one), one, one)


def error_in_units(p, z, l, method):
    """max |p - Ā^l|/|Ā^l| in unit roundoffs of binary32, over normal numbers."""
    worst = 0.0
    with mpmath.workprec(200):
        abar = mpmath.exp(z) if method == "zoh" else (1 + z / 2) / (1 - z / 2)
        for i, k in enumerate(l):
            truth = abar ** int(k)
            if abs(truth) > 1e-30:
                got = mpmath.mpc(float(p.re[0, i]), float(p.im[0, i]))
                worst = max(worst, float(abs(got - truth) / abs(truth)) * 2**24)
    return worst


@pytest.mark.parametrize("sines", ["binary64", "binary32"])
@pytest.mark.parametrize("method", ["zoh", "bilinear"])
@pytest.mark.parametrize("re, im", MODES)
def test_powers_are_within_the_budget_of_an_elementary_function(re, im, method, sines, monkeypatch):
    if sines == "binary32":  # what a TPU runs
        monkeypatch.setattr(powers, "exponentials", powers.exponentials_in_binary32)
    rng = np.random.default_rng(0)
    l = np.unique(np.concatenate([np.arange(64), rng.integers(0, L, 64), [L - 1]]))
    z = exponent(re, im)
    p = jax.jit(lambda z: powers.powers(z, l, method))(z)
    assert p.re.dtype == jnp.float32
    exact = mpmath.mpc(float(z.lam.re[0]), float(z.lam.im[0]))
    assert error_in_units(p, exact, l, method) <= 5  # GSS-ACC-3


def test_the_naive_exponent_fails_this_test():
    re, im = MODES[0]
    z, l = exponent(re, im), np.array([L - 1])
    p = jnp.exp((z.lam.re + 1j * z.lam.im)[:, None] * l.astype(np.float32))
    exact = mpmath.mpc(float(z.lam.re[0]), float(z.lam.im[0]))
    assert error_in_units(Pair(p.real, p.imag), exact, l, "zoh") > 1000


def test_a_mode_that_dies_at_once():
    """Bilinear at z = -2: Ā = 0, Ā^0 = 1, and ∂Ā^l/∂z is not 0 at l = 1 alone."""
    one = jnp.ones((1,), jnp.float32)

    def table(x):
        z = powers.Exponent(Pair(x * one, 0 * one), one, one)
        return powers.powers(z, np.arange(4), "bilinear").re[0]

    np.testing.assert_array_equal(table(-2.0), [1, 0, 0, 0])
    np.testing.assert_array_equal(jax.jacfwd(table)(-2.0), [0, 0.25, 0, 0])


def test_x64_mode_stays_off():
    powers.powers(exponent(-0.1, 1.0), np.arange(3), "zoh")
    assert jnp.asarray(1.5).dtype == jnp.float32
