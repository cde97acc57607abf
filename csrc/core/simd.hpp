// simd.hpp: vec<T>, as many lanes of T as one register of the instruction set in use.
//
// A kernel is written once, as a template over vec<T>; the formula is the code.  The build compiles
// each kernel file once per instruction set, with REFGSS_ISA naming it (baseline, avx2, avx512, amx),
// and everything in namespace refgss::REFGSS_ISA.  Rules for a kernel file:
//
//  - Nothing but code from such namespaces and plain arrays: a standard container instantiated here
//    could be the copy that the linker keeps, and would then run on processors without AVX.
//  - Contraction is off (-ffp-contract=off): fma() where one rounding is meant, * and + elsewhere.
//    Without hardware FMA, fma() rounds twice; no result may rely on a single rounding.
//  - No allocation, no exception, no thread: a kernel works on one item of a partition that its
//    driver (compiled once) made.  NaN and infinity behave as IEEE 754 says.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef REFGSS_ISA
#define REFGSS_ISA baseline
#endif

#if defined(__AVX512F__)
#define REFGSS_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define REFGSS_VECTOR_BYTES 32
#else
#define REFGSS_VECTOR_BYTES 16
#endif

#define REFGSS_INLINE inline __attribute__((always_inline))

namespace refgss::REFGSS_ISA {

template <class T> struct register_of;
template <> struct register_of<float> {
    typedef float type __attribute__((vector_size(REFGSS_VECTOR_BYTES)));
};
template <> struct register_of<double> {
    typedef double type __attribute__((vector_size(REFGSS_VECTOR_BYTES)));
};

template <class T> struct vec {
    static constexpr int lanes = REFGSS_VECTOR_BYTES / sizeof(T);
    using raw = typename register_of<T>::type;
    raw v;

    vec() = default;
    REFGSS_INLINE vec(raw r) : v(r) {}
    REFGSS_INLINE vec(T s) : v(s - raw{}) {}  // x - 0 is x, the sign of zero included

    REFGSS_INLINE T operator[](int lane) const { return v[lane]; }
    REFGSS_INLINE void set(int lane, T s) { v[lane] = s; }

    friend REFGSS_INLINE vec operator+(vec a, vec b) { return a.v + b.v; }
    friend REFGSS_INLINE vec operator-(vec a, vec b) { return a.v - b.v; }
    friend REFGSS_INLINE vec operator*(vec a, vec b) { return a.v * b.v; }
    friend REFGSS_INLINE vec operator/(vec a, vec b) { return a.v / b.v; }
    friend REFGSS_INLINE vec operator-(vec a) { return -a.v; }
};

/// Loads and stores need the alignment of T only.
template <class T> REFGSS_INLINE vec<T> load(const T* p) {
    vec<T> r;
    std::memcpy(&r, p, sizeof r);
    return r;
}
template <class T> REFGSS_INLINE void store(T* p, vec<T> a) { std::memcpy(p, &a, sizeof a); }

/// A store that does not bring the line into cache, where a vector is a whole line on a line: for
/// outputs larger than the cache, which would be read from memory only to be overwritten.
/// `after_streaming` comes before anybody else may read them.
template <class T> REFGSS_INLINE void stream(T* p, vec<T> a) {
#if defined(__AVX512F__)
    if (reinterpret_cast<uintptr_t>(p) % 64 == 0)
        return _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)a.v);
#endif
    store(p, a);
}
REFGSS_INLINE void after_streaming() {
#if defined(__AVX512F__)
    _mm_sfence();
#endif
}

/// The first `count` lanes; the others are zero and are not read.
template <class T> REFGSS_INLINE vec<T> load_some(const T* p, int count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        return (typename vec<T>::raw)_mm512_maskz_loadu_ps((1u << count) - 1, p);
    else
        return (typename vec<T>::raw)_mm512_maskz_loadu_pd((1u << count) - 1, p);
#else
    vec<T> r{T(0)};
    for (int i = 0; i < count; ++i) r.set(i, p[i]);
    return r;
#endif
}
template <class T> REFGSS_INLINE void store_some(T* p, vec<T> a, int count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        _mm512_mask_storeu_ps(p, (1u << count) - 1, (__m512)a.v);
    else
        _mm512_mask_storeu_pd(p, (1u << count) - 1, (__m512d)a.v);
#else
    for (int i = 0; i < count; ++i) p[i] = a[i];
#endif
}

/// a b + c, and c - a b.
#if defined(__AVX512F__)
REFGSS_INLINE vec<float> fma(vec<float> a, vec<float> b, vec<float> c) {
    return (vec<float>::raw)_mm512_fmadd_ps(a.v, b.v, c.v);
}
REFGSS_INLINE vec<double> fma(vec<double> a, vec<double> b, vec<double> c) {
    return (vec<double>::raw)_mm512_fmadd_pd(a.v, b.v, c.v);
}
#elif defined(__FMA__)
REFGSS_INLINE vec<float> fma(vec<float> a, vec<float> b, vec<float> c) {
    return (vec<float>::raw)_mm256_fmadd_ps(a.v, b.v, c.v);
}
REFGSS_INLINE vec<double> fma(vec<double> a, vec<double> b, vec<double> c) {
    return (vec<double>::raw)_mm256_fmadd_pd(a.v, b.v, c.v);
}
#elif defined(__aarch64__)
REFGSS_INLINE vec<float> fma(vec<float> a, vec<float> b, vec<float> c) {
    return (vec<float>::raw)vfmaq_f32((float32x4_t)c.v, (float32x4_t)a.v, (float32x4_t)b.v);
}
REFGSS_INLINE vec<double> fma(vec<double> a, vec<double> b, vec<double> c) {
    return (vec<double>::raw)vfmaq_f64((float64x2_t)c.v, (float64x2_t)a.v, (float64x2_t)b.v);
}
#else
template <class T> REFGSS_INLINE vec<T> fma(vec<T> a, vec<T> b, vec<T> c) { return a * b + c; }
#endif
template <class T> REFGSS_INLINE vec<T> fnma(vec<T> a, vec<T> b, vec<T> c) { return fma(-a, b, c); }

/// tile[i][j] <-> tile[j][i].  Round by round, rows a power of two apart exchange blocks of lanes of
/// that width: the low halves of a pair of blocks go to one row, the high halves to the other.
template <int Width, class T, int... Lane>
REFGSS_INLINE void exchange(vec<T>& a, vec<T>& b, std::integer_sequence<int, Lane...>) {
    constexpr int lanes = vec<T>::lanes;
    auto low = __builtin_shufflevector(a.v, b.v, (Lane & Width ? lanes + Lane - Width : Lane)...);
    auto high = __builtin_shufflevector(a.v, b.v, (Lane & Width ? lanes + Lane : Lane + Width)...);
    a = vec<T>(low);
    b = vec<T>(high);
}
template <int Width = 1, class T, int Lanes> REFGSS_INLINE void transpose(vec<T> (&tile)[Lanes]) {
    static_assert(Lanes == vec<T>::lanes);
    if constexpr (Width < Lanes) {
#pragma GCC unroll 16
        for (int i = 0; i < Lanes; ++i)
            if (!(i & Width))
                exchange<Width>(tile[i], tile[i + Width], std::make_integer_sequence<int, Lanes>());
        transpose<2 * Width>(tile);
    }
}

/// One complex number in each lane.
template <class T> struct cvec {
    vec<T> re, im;

    friend REFGSS_INLINE cvec operator+(cvec a, cvec b) { return {a.re + b.re, a.im + b.im}; }
    friend REFGSS_INLINE cvec operator-(cvec a, cvec b) { return {a.re - b.re, a.im - b.im}; }
    friend REFGSS_INLINE cvec operator*(cvec a, cvec b) {
        return {fnma(a.im, b.im, a.re * b.re), fma(a.im, b.re, a.re * b.im)};
    }
};
template <class T> REFGSS_INLINE cvec<T> conj(cvec<T> a) { return {a.re, -a.im}; }
template <class T> REFGSS_INLINE cvec<T> times_i(cvec<T> a) { return {-a.im, a.re}; }
/// a conj(b), without a negation.
template <class T> REFGSS_INLINE cvec<T> times_conj(cvec<T> a, cvec<T> b) {
    return {fma(a.im, b.im, a.re * b.re), fnma(a.re, b.im, a.im * b.re)};
}

}  // namespace refgss::REFGSS_ISA
