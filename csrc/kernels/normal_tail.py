"""Coefficients of normal.hpp: python csrc/kernels/normal_tail.py prints them (needs mpmath).

Q(t) = 1 - Φ(t) = e^{-t²/2} P(q)/(1 + √2 t), q = (t - a)/(t + a).  The factor of the exponential
varies by less than 2 over t >= 0, so that P, its Chebyshev interpolant, has a small relative error
everywhere.
"""

from mpmath import cos, erfc, exp, mp, mpf, pi, sqrt

mp.prec = 200


def scaled_tail(q, a):
    """(1 + √2 t) e^{t²/2} Q(t) at t = a (1 + q)/(1 - q)."""
    s = a * (1 + q) / (1 - q) / sqrt(mpf(2))
    return (1 + 2 * s) * exp(s * s) * erfc(s) / 2


def interpolant(degree, a):
    """Powers of q of the interpolant in the Chebyshev points, and its largest relative error."""
    n = degree + 1
    points = [pi * (2 * k + 1) / (2 * n) for k in range(n)]
    values = [scaled_tail(cos(x), a) for x in points]
    c = [2 * sum(v * cos(j * x) for x, v in zip(points, values, strict=True)) / n for j in range(n)]
    c[0] /= 2
    powers = [mpf(0)] * n
    before, now = [mpf(1)], [mpf(0), mpf(1)]  # T_0, T_1
    for j in range(n):
        for k, t in enumerate(before):
            powers[k] += c[j] * t
        after = [mpf(0), *(2 * t for t in now)]
        for k, t in enumerate(before):
            after[k] -= t
        before, now = now, after
    grid = [mpf(k) / 100 for k in range(-100, 96)]
    error = max(
        abs(sum(p * q**k for k, p in enumerate(powers)) / scaled_tail(q, a) - 1) for q in grid
    )
    return powers, error


if __name__ == "__main__":
    for name, degree, a in [("float", 11, 4), ("double", 24, 5)]:
        powers, error = interpolant(degree, mpf(a))
        print(f"{name}: a = {a}, relative error {float(error):.1e}")
        print("    " + ", ".join(repr(float(p)) for p in powers))
