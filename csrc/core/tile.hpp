// tile.hpp: the inner product of every matrix product here: a tile of rows × 2 registers held in
// registers while k runs.
#pragma once

#include "core/simd.hpp"

namespace refgss::REFGSS_ISA {

#if defined(__AVX512F__)
constexpr int tile_rows = 12;  // 24 sums, 2 columns and a broadcast fill 32 registers
#else
constexpr int tile_rows = 6;
#endif
template <class T> constexpr int tile_columns = 2 * vec<T>::lanes;

constexpr int64_t run_length = 128;  // terms that are added up before they meet the others

/// sum[i][:] = (0 or sum[i][:]) + Σ_k a[i][k] b[k][:], rows of b `stride` apart, those of sum
/// `columns` apart.  Sums of runs of k, in order: results do not depend on how rows are put into tiles,
/// and errors grow with the length of a run and the number of runs, not with their product.
template <class T, int Rows>
void tile_product(int64_t terms, const T* const* a, const T* b, int64_t stride, T* sum,
                  int64_t columns, bool add) {
    constexpr int lanes = vec<T>::lanes;
    for (int64_t first = 0; first < terms || !add; first += run_length, add = true) {
        const int64_t end = terms - first < run_length ? terms : first + run_length;
        vec<T> s[Rows][2];
#pragma GCC unroll 12
        for (int i = 0; i < Rows; ++i) s[i][0] = s[i][1] = vec<T>(T(0));
        for (int64_t k = first; k < end; ++k, b += stride) {
            vec<T> b0 = load(b), b1 = load(b + lanes);
#pragma GCC unroll 12
            for (int i = 0; i < Rows; ++i) {
                vec<T> x(a[i][k]);
                s[i][0] = fma(x, b0, s[i][0]);
                s[i][1] = fma(x, b1, s[i][1]);
            }
        }
#pragma GCC unroll 12
        for (int i = 0; i < Rows; ++i) {
            T* to = sum + i * columns;
            store(to, add ? load(to) + s[i][0] : s[i][0]);
            store(to + lanes, add ? load(to + lanes) + s[i][1] : s[i][1]);
        }
    }
}

/// The same for 1 to tile_rows rows; entries of a beyond `rows` are ignored.
template <class T>
inline void tile_product(int rows, int64_t terms, const T* const* a, const T* b, int64_t stride,
                         T* sum, int64_t columns, bool add) {
    while (rows > 0) {
        auto product = tile_product<T, 1>;
        int height = 1;
        if (rows >= tile_rows) product = tile_product<T, tile_rows>, height = tile_rows;
        else if (rows >= 4) product = tile_product<T, 4>, height = 4;
        else if (rows >= 2) product = tile_product<T, 2>, height = 2;
        product(terms, a, b, stride, sum, columns, add);
        a += height, sum += height * columns, rows -= height;
    }
}

/// s = Σ_k a[k][:] b[k][:], rows of b `stride` apart.
template <class T, int Rows, int RowStep, int TermStep>
REFGSS_INLINE void packed_run(int64_t terms, const T* a, const T* b, int64_t stride, vec<T> (&s)[Rows][2]) {
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) s[i][0] = s[i][1] = vec<T>(T(0));
    for (int64_t k = 0; k < terms; ++k, a += TermStep, b += stride) {
        const vec<T> b0 = load(b), b1 = load(b + vec<T>::lanes);
#pragma GCC unroll 12
        for (int i = 0; i < Rows; ++i) {
            const vec<T> x(a[i * RowStep]);
            s[i][0] = fma(x, b0, s[i][0]);
            s[i][1] = fma(x, b1, s[i][1]);
        }
    }
}

/// sum (Rows, 2 registers) = (0 or sum) + Σ_k a[k][:] b[k][:], rows of b `stride` apart, in runs.  They
/// meet beside the sum, whose rows may lie a power of two apart: then a cache holds few of them.  Numbers
/// of a that differ by a row, or by a term, lie so many apart: as in a packed panel, unless told.
template <class T, int Rows, int RowStep = 1, int TermStep = tile_rows>
void packed_product(int64_t terms, const T* a, const T* b, int64_t stride, T* sum, int64_t columns,
                    bool add) {
    constexpr int lanes = vec<T>::lanes;
    if (terms <= run_length) {  // the registers hold all
        vec<T> s[Rows][2];
        packed_run<T, Rows, RowStep, TermStep>(terms, a, b, stride, s);
#pragma GCC unroll 12
        for (int i = 0; i < Rows; ++i) {
            T* to = sum + i * columns;
            store(to, add ? load(to) + s[i][0] : s[i][0]);
            store(to + lanes, add ? load(to + lanes) + s[i][1] : s[i][1]);
        }
        return;
    }
    vec<T> total[Rows][2];
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) {
        T* to = sum + i * columns;
        total[i][0] = add ? load(to) : vec<T>(T(0));
        total[i][1] = add ? load(to + lanes) : vec<T>(T(0));
    }
    for (int64_t first = 0; first < terms; first += run_length) {
        const int64_t count = terms - first < run_length ? terms - first : run_length;
        vec<T> s[Rows][2];
        packed_run<T, Rows, RowStep, TermStep>(count, a + first * TermStep, b + first * stride, stride, s);
#pragma GCC unroll 12
        for (int i = 0; i < Rows; ++i) {
            total[i][0] = total[i][0] + s[i][0];
            total[i][1] = total[i][1] + s[i][1];
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i) {
        T* to = sum + i * columns;
        store(to, total[i][0]);
        store(to + lanes, total[i][1]);
    }
}

}  // namespace refgss::REFGSS_ISA
