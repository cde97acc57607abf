// normal.hpp: the normal distribution function Φ and density, lane by lane, in the precision of T.
//
// The tail Q(t) = 1 - Φ(t) is e^{-t²/2} P(q)/(1 + √2 t), q = (t - a)/(t + a), for t >= 0: P varies by less
// than 2, so no digits cancel in either tail of Φ.  csrc/kernels/normal_tail.py derives the coefficients.  Φ is
// within 2 units in the last place of 1, and its left tail within t² + 8 units of its own.
#pragma once

#include "kernels/elementary.hpp"

namespace refgss::REFGSS_ISA {

template <class T> struct tail_terms;
template <> struct tail_terms<float> {
    static constexpr float a = 4;
    static constexpr float powers[] = {
        6.284778726e-01f, -6.617832039e-02f, -3.172065559e-02f, 7.014909404e-02f, -5.832450284e-02f,
        2.888430198e-02f, -7.261616287e-03f, -6.741509602e-04f, 1.013508412e-03f, -1.034157821e-04f,
        -8.981977331e-05f, 1.728419925e-05f};
};
template <> struct tail_terms<double> {
    static constexpr double a = 5;
    static constexpr double powers[] = {
        0.6208209264948372, -0.07005241362061797, -0.004193708178283503, 0.04764866133894936,
        -0.05715904897193632, 0.04439886132870013, -0.025178554836524574, 0.010208851393676345,
        -0.002461265123834788, -4.460030780266498e-05, 0.0002828892433957549,
        -7.621075257472876e-05, -1.6747184839246814e-05, 1.3338613897077853e-05,
        1.796148853799146e-07, -1.9498418996263504e-06, 1.4974376663828855e-07,
        2.9388690467947457e-07, -3.3482574070033583e-08, -4.624288392708219e-08,
        4.921535004894923e-09, 6.541765540337946e-09, -4.904711855293028e-10,
        -5.642360677623607e-10, 2.392182592167399e-11};
};

template <class T> REFGSS_INLINE vec<T> select(typename lanes_of<T>::integers mask, vec<T> yes, vec<T> no) {
    using bits = typename lanes_of<T>::integers;
    return typename vec<T>::raw((mask & (bits)yes.v) | (~mask & (bits)no.v));
}

/// e^x for x <= 0, with 0 below -87; 2 units.
REFGSS_INLINE vec<float> exp(vec<float> x) {
    using F = vec<float>;
    using bits = lanes_of<float>::integers;
    const F magic(0x1.8p23f);
    F shifted = fma(x, F(0x1.715476p0f), magic), k = shifted - magic;
    bits n = (bits)shifted.v - (bits)magic.v;
    F r = fma(k, F(-0x1.62e4p-1f), x);
    r = fma(k, F(-0x1.7f7d1cp-20f), r);
    F y(1.0f / 5040);
    for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) y = fma(y, r, F(c));
    y = y * F((F::raw)((n + 127) << 23));
    return select<float>((bits)(x.v < F(-87.0f).v), F(0.0f), y);
}

/// Φ(x), and e^{-x²/2}.
template <class T> REFGSS_INLINE vec<T> normal_cdf(vec<T> x, vec<T>& gauss) {
    using V = vec<T>;
    using bits = typename lanes_of<T>::integers;
    bits negative = (bits)(x.v < V(T(0)).v);
    V t = select<T>(negative, -x, x);
    t = select<T>((bits)(t.v > V(T(40)).v), V(T(40)), t);  // Q is 0 long before; keeps ∞ out
    V half = t * V(T(0.5));
    V square = t * half;
    V rest = fma(t, half, -square);  // of the rounded square: what the exponent would lose
    gauss = exp(-square) * (V(T(1)) - rest);
    V q = (t - V(tail_terms<T>::a)) / (t + V(tail_terms<T>::a));
    constexpr int terms = sizeof(tail_terms<T>::powers) / sizeof(T);
    V p(tail_terms<T>::powers[terms - 1]);
#pragma GCC unroll 32
    for (int k = terms - 2; k >= 0; --k) p = fma(p, q, V(tail_terms<T>::powers[k]));
    V tail = gauss * p / fma(t, V(T(1.4142135623730951)), V(T(1)));
    return select<T>(negative, tail, V(T(1)) - tail);
}

}  // namespace refgss::REFGSS_ISA
