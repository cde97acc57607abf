// matmul.hpp: c = a b, or c += a b, for views with any strides.
//
// Each element is a sum over k in a fixed order, blocked by `matmul_depth`: the result depends
// neither on the number of threads nor on which rows are multiplied together.
#pragma once

#include "array.hpp"

namespace refgss {

// terms in a block: the panels of an item stay in the second-level cache
template <class T> constexpr int64_t matmul_depth = 4096 / sizeof(T);
constexpr int64_t matmul_height = 192;  // rows in an item: whole panels of every instruction set
constexpr int64_t matmul_panels = 16;   // panels of columns in an item

template <class T> struct matmul_kernels {
    int panel_rows, panel_columns;
    /// A panel of a (rows, k) as k columns of panel_rows, and of b (k, columns) as k rows of
    /// panel_columns; both padded by zeros.
    void (*pack_rows)(view<const T, 2> a, int64_t first, int64_t k, T* panel);
    void (*pack_columns)(view<const T, 2> b, int64_t first, int64_t k, T* panel);
    /// c of one item: panels of a one after another; those of b have rows `stride` apart, and are
    /// `panel_step` apart.  k > 0.
    void (*multiply)(int64_t k, const T* a, const T* b, int64_t stride, int64_t panel_step,
                     view<T, 2> c, bool add);
};

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
