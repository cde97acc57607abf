// fft.hpp: transforms of complex vectors, one transform in each lane, in place.
#pragma once

#include "conv/conv.hpp"
#include "core/simd.hpp"
#include "core/threads.hpp"

namespace refgss::REFGSS_ISA {

/// Sign -1: z_k <- sum_r z_r exp(-2 pi i r k / R), the way forward; +1: the way back, unscaled.
template <int Sign, class T> REFGSS_INLINE cvec<T> turn(cvec<T> a) {  // exp(Sign pi i / 2) a
    if constexpr (Sign > 0) return {-a.im, a.re};
    return {a.im, -a.re};
}
template <class T> REFGSS_INLINE cvec<T> add_scaled(cvec<T> a, vec<T> s, cvec<T> b) {
    return {fma(s, b.re, a.re), fma(s, b.im, a.im)};
}

/// The transform of z, given z_r + z_(r+R/2) and z_r - z_(r+R/2): an even R begins with these.
template <int Sign, class T>
REFGSS_INLINE void dft_of_pairs(const cvec<T> (&sum)[1], const cvec<T> (&difference)[1],
                                cvec<T> (&z)[2]) {
    z[0] = sum[0], z[1] = difference[0];
}
template <int Sign, class T>
REFGSS_INLINE void dft_of_pairs(const cvec<T> (&sum)[2], const cvec<T> (&difference)[2],
                                cvec<T> (&z)[4]) {
    const cvec<T> across = turn<Sign>(difference[1]);
    z[0] = sum[0] + sum[1], z[1] = difference[0] + across;
    z[2] = sum[0] - sum[1], z[3] = difference[0] - across;
}

template <int Sign, class T> REFGSS_INLINE void dft(cvec<T> (&z)[2]) {
    cvec<T> sum = z[0] + z[1], difference = z[0] - z[1];
    z[0] = sum, z[1] = difference;
}

template <int Sign, class T> REFGSS_INLINE void dft(cvec<T> (&z)[3]) {
    const vec<T> half = T(-0.5), sine = T(0.866025403784438646763723170752936183);
    cvec<T> sum = z[1] + z[2], across = turn<Sign>(z[1] - z[2]);
    cvec<T> middle = add_scaled(z[0], half, sum);
    z[0] = z[0] + sum;
    z[1] = add_scaled(middle, sine, across);
    z[2] = add_scaled(middle, -sine, across);
}

template <int Sign, class T> REFGSS_INLINE void dft(cvec<T> (&z)[4]) {
    cvec<T> a = z[0] + z[2], b = z[0] - z[2], c = z[1] + z[3], d = turn<Sign>(z[1] - z[3]);
    z[0] = a + c, z[1] = b + d, z[2] = a - c, z[3] = b - d;
}

template <int Sign, class T> REFGSS_INLINE void dft(cvec<T> (&z)[5]) {
    const vec<T> c1 = T(0.309016994374947424102293417182819059),  // cos and sin of 1/5, 2/5 turn
        c2 = T(-0.809016994374947424102293417182819059),
        s1 = T(0.951056516295153572116439333379382143),
        s2 = T(0.587785252292473129168705954639072769);
    cvec<T> a = z[1] + z[4], b = z[2] + z[3];
    cvec<T> c = turn<Sign>(z[1] - z[4]), d = turn<Sign>(z[2] - z[3]);
    cvec<T> e = add_scaled(add_scaled(z[0], c1, a), c2, b);
    cvec<T> f = add_scaled(add_scaled(z[0], c2, a), c1, b);
    cvec<T> g = add_scaled(cvec<T>{s1 * c.re, s1 * c.im}, s2, d);
    cvec<T> h = add_scaled(cvec<T>{s2 * c.re, s2 * c.im}, -s1, d);
    z[0] = z[0] + (a + b);
    z[1] = e + g, z[4] = e - g, z[2] = f + h, z[3] = f - h;
}

template <int Sign, class T>
REFGSS_INLINE void dft_of_pairs(const cvec<T> (&sum)[4], const cvec<T> (&difference)[4],
                                cvec<T> (&z)[8]) {
    const vec<T> s = T(0.707106781186547524400844362104849039);
    cvec<T> even[4], odd[4];
    dft_of_pairs<Sign>({sum[0], sum[2]}, {difference[0], difference[2]}, even);
    dft_of_pairs<Sign>({sum[1], sum[3]}, {difference[1], difference[3]}, odd);
    cvec<T> one = odd[1] + turn<Sign>(odd[1]);    // exp(Sign pi i / 4) / s
    cvec<T> three = turn<Sign>(odd[3]) - odd[3];  // exp(Sign 3 pi i / 4) / s
    cvec<T> two = turn<Sign>(odd[2]);
    z[0] = even[0] + odd[0], z[4] = even[0] - odd[0];
    z[1] = add_scaled(even[1], s, one), z[5] = add_scaled(even[1], -s, one);
    z[2] = even[2] + two, z[6] = even[2] - two;
    z[3] = add_scaled(even[3], s, three), z[7] = add_scaled(even[3], -s, three);
}

template <int Sign, class T>
REFGSS_INLINE void dft_of_pairs(const cvec<T> (&sum)[8], const cvec<T> (&difference)[8],
                                cvec<T> (&z)[16]) {
    constexpr T c = T(0.923879532511286756128183189396788287),  // cos and sin of a 16th of a turn
        s = T(0.382683432365089771728459984030398867), h = T(0.707106781186547524400844362104849039);
    constexpr T re[4][4] = {{1, 1, 1, 1}, {1, c, h, s}, {1, h, 0, -h}, {1, s, -h, -c}};
    constexpr T im[4][4] = {{0, 0, 0, 0}, {0, s, h, c}, {0, h, 1, h}, {0, c, h, -s}};
    cvec<T> column[4][4];
    for (int i = 0; i < 4; ++i) {
        dft_of_pairs<Sign>({sum[i], sum[i + 4]}, {difference[i], difference[i + 4]}, column[i]);
        for (int k = 1; k < 4; ++k)
            if (i > 0) column[i][k] = column[i][k] * cvec<T>{re[i][k], Sign * im[i][k]};
    }
    for (int k = 0; k < 4; ++k) {
        cvec<T> row[4] = {column[0][k], column[1][k], column[2][k], column[3][k]};
        dft<Sign>(row);
        for (int r = 0; r < 4; ++r) z[k + 4 * r] = row[r];
    }
}

template <int Sign, int R, class T> REFGSS_INLINE void dft_by_pairs(cvec<T> (&z)[R]) {
    cvec<T> sum[R / 2], difference[R / 2];
#pragma GCC unroll 8
    for (int r = 0; r < R / 2; ++r)
        sum[r] = z[r] + z[r + R / 2], difference[r] = z[r] - z[r + R / 2];
    dft_of_pairs<Sign>(sum, difference, z);
}
template <int Sign, class T> REFGSS_INLINE void dft(cvec<T> (&z)[8]) { dft_by_pairs<Sign>(z); }
template <int Sign, class T> REFGSS_INLINE void dft(cvec<T> (&z)[16]) { dft_by_pairs<Sign>(z); }

template <class T> REFGSS_INLINE cvec<T> broadcast(const T* complex) {
    return {vec<T>(complex[0]), vec<T>(complex[1])};
}

/// One pass forward over the columns of x, and its inverse (times R) on the way back.
template <int R, class T> void pass_forward(cvec<T>* x, int64_t columns, const T* twiddles) {
    for (int64_t j = 0; j < columns; ++j, twiddles += 2 * (R - 1)) {
        cvec<T> z[R];
        for (int r = 0; r < R; ++r) z[r] = x[j + r * columns];
        dft<-1>(z);
        x[j] = z[0];
        for (int k = 1; k < R; ++k) x[j + k * columns] = z[k] * broadcast(twiddles + 2 * (k - 1));
    }
}
template <int R, class T> void pass_back(cvec<T>* x, int64_t columns, const T* twiddles) {
    for (int64_t j = 0; j < columns; ++j, twiddles += 2 * (R - 1)) {
        cvec<T> z[R];
        z[0] = x[j];
        for (int k = 1; k < R; ++k)
            z[k] = times_conj(x[j + k * columns], broadcast(twiddles + 2 * (k - 1)));
        dft<+1>(z);
        for (int r = 0; r < R; ++r) x[j + r * columns] = z[r];
    }
}

/// What is done to blocks of R neighbouring points where the passes forward end.  A leaf finds its
/// partners in other arrays by its distance from the start of x.
template <class T> struct scale_leaves {  // forward alone, times a scale
    vec<T> scale;
    template <int R> REFGSS_INLINE void run(cvec<T>* x) const {
        cvec<T> z[R];
        for (int r = 0; r < R; ++r) z[r] = x[r];
        dft<-1>(z);
        for (int r = 0; r < R; ++r) x[r] = {scale * z[r].re, scale * z[r].im};
    }
};
template <class T> struct multiply_leaves {  // forward, product with a spectrum, back
    const cvec<T>* start;
    const cvec<T>* spectrum;
    template <int R> REFGSS_INLINE void run(cvec<T>* x) const {
        const cvec<T>* s = spectrum + (x - start);
        cvec<T> z[R];
        for (int r = 0; r < R; ++r) z[r] = x[r];
        dft<-1>(z);
        for (int r = 0; r < R; ++r) z[r] = z[r] * s[r];
        dft<+1>(z);
        for (int r = 0; r < R; ++r) x[r] = z[r];
    }
};
template <class T> struct gradient_leaves {  // the same, and sum += x other on the way
    const cvec<T>* start;
    const cvec<T>* spectrum;
    const cvec<T>* other;
    cvec<T>* sum;
    template <int R> REFGSS_INLINE void run(cvec<T>* x) const {
        const int64_t at = x - start;
        cvec<T> z[R];
        for (int r = 0; r < R; ++r) z[r] = x[r];
        dft<-1>(z);
        for (int r = 0; r < R; ++r) sum[at + r] = sum[at + r] + z[r] * other[at + r];
        for (int r = 0; r < R; ++r) z[r] = z[r] * spectrum[at + r];
        dft<+1>(z);
        for (int r = 0; r < R; ++r) x[r] = z[r];
    }
};
template <class T> struct return_leaves {  // back alone
    template <int R> REFGSS_INLINE void run(cvec<T>* x) const {
        cvec<T> z[R];
        for (int r = 0; r < R; ++r) z[r] = x[r];
        dft<+1>(z);
        for (int r = 0; r < R; ++r) x[r] = z[r];
    }
};

template <int R, class T>
void pass(bool forward, cvec<T>* x, int64_t columns, const T* twiddles) {
    forward ? pass_forward<R>(x, columns, twiddles) : pass_back<R>(x, columns, twiddles);
}
template <class T> void pass(int radix, bool forward, cvec<T>* x, int64_t columns, const T* w) {
    switch (radix) {
        case 3: return pass<3>(forward, x, columns, w);
        case 4: return pass<4>(forward, x, columns, w);
        case 5: return pass<5>(forward, x, columns, w);
        default: return pass<8>(forward, x, columns, w);
    }
}

constexpr int64_t long_transform = 1 << 16;  // points, of which some may be left for an interruption

/// `blocks` neighbouring transforms.  Depth first, so that a sub-transform goes forward, meets its
/// leaves and comes back while it is in cache.
template <bool Forward, bool Back, class T, class Leaves>
void transform(const fft_pass<T>* level, cvec<T>* x, int64_t blocks, const Leaves& leaves) {
    const int radix = level->radix;
    const int64_t columns = level->columns;
    if (columns == 1) {
        if (radix == 16)
            for (; blocks > 0; --blocks, x += 16) leaves.template run<16>(x);
        else if (radix == 8)
            for (; blocks > 0; --blocks, x += 8) leaves.template run<8>(x);
        else
            for (; blocks > 0; --blocks, x += 4) leaves.template run<4>(x);
        return;
    }
    for (; blocks > 0; --blocks, x += radix * columns) {
        if (radix * columns >= long_transform && stopping()) return;
        if (Forward) pass(radix, true, x, columns, level->twiddles.data());
        transform<Forward, Back>(level + 1, x, radix, leaves);
        if (Back) pass(radix, false, x, columns, level->twiddles.data());
    }
}

}  // namespace refgss::REFGSS_ISA
