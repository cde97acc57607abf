// matmul.hpp: c = a b, or c += a b, for views with any strides.
//
// Each element is a sum over k in a fixed order, blocked by `matmul_depth`: the result depends
// neither on the number of threads nor on which rows are multiplied together.
#pragma once

#include "array.hpp"

namespace refgss {

constexpr int64_t matmul_depth = 512;   // terms in a block: panels of b stay in the second-level cache
constexpr int64_t matmul_height = 96;   // rows in an item
constexpr int64_t matmul_panels = 16;   // panels of columns in an item

template <class T> struct matmul_kernels {
    int panel_columns;
    /// A panel of b (k, columns) as k rows of panel_columns, padded by zeros.
    void (*pack)(view<const T, 2> b, int64_t first, int64_t k, T* panel);
    /// c[rows, columns] of one item: a (rows, k), packed panels with rows `stride` apart.
    void (*multiply)(view<const T, 2> a, const T* b, int64_t stride, int64_t panel_step,
                     view<T, 2> c, bool add, T* scratch);
};
template <class T> constexpr int64_t matmul_scratch = matmul_height * (matmul_depth + 64);

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
