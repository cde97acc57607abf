// elementary.hpp: exp, sine and cosine, and the normal distribution function, lane by lane.
//
// Binary64 throughout: polynomials are Taylor's on a reduced interval, cut where the next term is
// below 2^-57.  Errors are stated in units of 2^-53 and hold for finite arguments in the given range.
#pragma once

#include "core/simd.hpp"

namespace refgss::REFGSS_ISA {

/// Integers of the width of T, as many as vec<T> has lanes.
template <class T> struct lanes_of;
template <> struct lanes_of<double> {
    typedef int64_t integers __attribute__((vector_size(REFGSS_VECTOR_BYTES)));
};
template <> struct lanes_of<float> {
    typedef int32_t integers __attribute__((vector_size(REFGSS_VECTOR_BYTES)));
};
using integers = lanes_of<double>::integers;
using real = vec<double>;

REFGSS_INLINE real select(integers mask, real yes, real no) {
    return real::raw((mask & (integers)yes.v) | (~mask & (integers)no.v));
}

/// The nearest integer, and the same as integers; |x| < 2^51.
REFGSS_INLINE real nearest(real x, integers& n) {
    const real magic(0x1.8p52);  // its last bit counts ones
    real shifted = x + magic;
    n = (integers)shifted.v - (integers)magic.v;
    return shifted - magic;
}

/// Σ c[k] x^k.
template <int Terms> REFGSS_INLINE real polynomial(real x, const double (&c)[Terms]) {
    real sum(c[Terms - 1]);
#pragma GCC unroll 32
    for (int k = Terms - 2; k >= 0; --k) sum = fma(sum, x, real(c[k]));
    return sum;
}

// 1/k!, and the alternating halves of it for sine and cosine in x².
constexpr double exp_terms[] = {1.0,          1.0,           1.0 / 2,         1.0 / 6,
                                1.0 / 24,     1.0 / 120,     1.0 / 720,       1.0 / 5040,
                                1.0 / 40320,  1.0 / 362880,  1.0 / 3628800,   1.0 / 39916800,
                                1.0 / 479001600, 1.0 / 6227020800};
constexpr double sin_terms[] = {1.0,         -1.0 / 6,          1.0 / 120,
                                -1.0 / 5040, 1.0 / 362880,      -1.0 / 39916800,
                                1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000};
constexpr double cos_terms[] = {1.0,          -1.0 / 2,         1.0 / 24,
                                -1.0 / 720,   1.0 / 40320,      -1.0 / 3628800,
                                1.0 / 479001600, -1.0 / 87178291200, 1.0 / 20922789888000};

/// 2^shift e^x for x <= 709 - shift log 2, with 0 where that is below e^-708; 2 units.  NaN gives NaN.
template <int Shift = 0> REFGSS_INLINE real exp(real x) {
    integers n;
    real k = nearest(x * real(0x1.71547652b82fep0), n);  // x/log 2
    real r = fma(k, real(-0x1.62e42feep-1), x);          // log 2 in two parts; the first product
    r = fma(k, real(-0x1.a39ef35793c76p-33), r);         // is exact with or without fma
    real scale = real::raw((real::raw)((n + (1023 + Shift)) << 52));
    real y = polynomial(r, exp_terms) * scale;
    return select((integers)(x.v < real(-708.0 - Shift * 0.6931471805599453).v), real(0.0), y);
}

/// sin x and cos x for |x| < 2^27; 2 units of 1, absolute.
REFGSS_INLINE void sincos(real x, real& sine, real& cosine) {
    integers n;
    real k = nearest(x * real(0x1.45f306dc9c883p-1), n);  // quarter turns
    real r = fma(k, real(-0x1.921fb5p0), x);              // π/2 in three parts, 26 bits, 26, 53
    r = fma(k, real(-0x1.110b46p-26), r);
    r = fma(k, real(-0x1.1a62633145c07p-54), r);
    real r2 = r * r;
    real s = polynomial(r2, sin_terms) * r, c = polynomial(r2, cos_terms);
    integers odd = -(n & 1);
    integers sine_sign = (n & 2) << 62, cosine_sign = ((n + 1) & 2) << 62;
    sine = real::raw((real::raw)((integers)select(odd, c, s).v ^ sine_sign));
    cosine = real::raw((real::raw)((integers)select(odd, s, c).v ^ cosine_sign));
}

/// 2^shift e^{x + iy}, as above; |y| < 2^27.
template <int Shift = 0> REFGSS_INLINE cvec<double> exp(cvec<double> z) {
    real size = exp<Shift>(z.re), s, c;
    sincos(z.im, s, c);
    return {size * c, size * s};
}

/// Half as many floats, or the doubles themselves, to and from memory.
template <class T> struct narrowed {
    typedef T raw __attribute__((vector_size(REFGSS_VECTOR_BYTES / sizeof(double) * sizeof(T))));
};
template <class T> REFGSS_INLINE void store_as(T* p, real a) {
    auto r = __builtin_convertvector(a.v, typename narrowed<T>::raw);
    std::memcpy(p, &r, sizeof r);
}
template <class T> REFGSS_INLINE real load_as(const T* p) {
    typename narrowed<T>::raw r;
    std::memcpy(&r, p, sizeof r);
    return real(__builtin_convertvector(r, typename real::raw));
}
REFGSS_INLINE real abs(real a) {
    return real::raw((real::raw)((integers)a.v & 0x7fffffffffffffff));
}
REFGSS_INLINE double sum_of(real a) {
    double s = 0;
    for (int i = 0; i < real::lanes; ++i) s += a[i];
    return s;
}

}  // namespace refgss::REFGSS_ISA
