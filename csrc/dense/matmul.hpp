// matmul.hpp: c = a b, or c += a b, for views with any strides.
//
// Each element is a sum over k in a fixed order, in blocks: the result depends neither on the number
// of threads nor on which rows are multiplied together, apart from few (`least_rows`) or many.
#pragma once

#include "core/array.hpp"
#include "core/dispatch.hpp"

namespace refgss {

constexpr int64_t matmul_height = 192;  // rows in an item: whole panels of every instruction set
constexpr int64_t matmul_panels = 16;   // panels of columns in an item
constexpr int64_t matmul_few = 4;       // rows that are not worth a copy of b

/// What packing finds out about a row or a column: how many numbers are not zero (rows), and
/// whether one is too large.
struct line_mark {
    int32_t numbers, too_large;
};

template <class T> struct matmul_kernels {
    int panel_rows, panel_columns;
    int64_t depth;    // terms in a block: the panels of an item stay in the second-level cache
    int slab, bytes;  // terms in a panel are padded to whole slabs; bytes of a number there
    bool plain;       // a panel of b is rows of numbers as they are, and may be read in place
    /// Rows of a (M, k) as panels of k columns of panel_rows, and columns of b (k, N) as panels of k
    /// rows of panel_columns, padded by zeros; panels are `panel_bytes` apart.  Rows are counted, and
    /// those with a magnitude of `limit` or more marked, several threads at a time.  Numbers of b may
    /// be kept in parts: how `multiply` may treat them.
    void (*pack_rows)(view<const T, 2> a, void* panels, int64_t panel_bytes, line_mark* marks);
    int (*pack_columns)(view<const T, 2> b, void* panels, int64_t panel_bytes, line_mark* marks);
    /// c of one item: panels of a one after another; those of b have rows `stride` apart, and are
    /// `panel_step` apart, in numbers; parts: the largest that they were packed with.  k > 0.
    void (*multiply)(int64_t k, const void* a, const void* b, int64_t stride, int64_t panel_step,
                     int parts, view<T, 2> c, bool add);
    /// What multiplies where there are fewer rows or terms, marked rows and columns, and rows of fewer numbers
    /// that are not zero; or null.
    const matmul_kernels* fallback;
    int64_t least_rows, least_terms;
    T limit;
    int least_numbers;

    bool can_multiply(const line_mark& row) const {
        return !row.too_large && (row.numbers == 0 || row.numbers >= least_numbers);
    }

    /// Of a row of a or a column of b in its panel.
    int64_t line_bytes(int64_t k) const { return (k + slab - 1) / slab * slab * bytes; }
};

#if defined(REFGSS_AMX)
template <> constexpr bool has_amx<matmul_kernels<float>> = true;
#endif

/// The kernels for products of M rows and K terms.
template <class T> const matmul_kernels<T>& matmul_kernels_for(int64_t M, int64_t K) {
    auto& kernel = kernels<matmul_kernels<T>>();
    const bool small = M < kernel.least_rows || K < kernel.least_terms;
    return small && kernel.fallback ? *kernel.fallback : kernel;
}

/// a (M,K), b (K,N), c (M,N); c's memory meets neither's.
template <class T> void matmul(view<const T, 2> a, view<const T, 2> b, view<T, 2> c, bool add);

template <class T> view<T, 2> slice(view<T, 2> v, int axis, int64_t first, int64_t count) {
    v.data += first * v.stride[axis];
    v.shape[axis] = count;
    return v;
}
template <class T> view<T, 2> transposed(view<T, 2> v) {
    return {v.data, {v.shape[1], v.shape[0]}, {v.stride[1], v.stride[0]}};
}

}  // namespace refgss
