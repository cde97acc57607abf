// The matrix product: panels of a and b, tiles of c.
#include "dense/matmul.hpp"

#include <limits>

#include "core/dispatch.hpp"
#include "core/tile.hpp"

namespace refgss {
namespace REFGSS_ISA {
namespace {

template <class T> void pack_panel_of_columns(view<const T, 2> b, T* panel) {
    constexpr int width = tile_columns<T>, lanes = vec<T>::lanes;
    const int64_t k = b.shape[0], columns = b.shape[1] < width ? b.shape[1] : width;
    if (columns < width) std::memset(panel, 0, k * width * sizeof(T));
    if (b.stride[1] == 1) {
        for (int64_t i = 0; i < k; ++i)
            std::memcpy(panel + i * width, b.data + i * b.stride[0], columns * sizeof(T));
        return;
    }
    int64_t i = 0;
    if (b.stride[0] == 1 && columns == width)
        for (; i + lanes <= k; i += lanes)
            for (int half = 0; half < width; half += lanes) {
                vec<T> square[lanes];
#pragma GCC unroll 16
                for (int j = 0; j < lanes; ++j) square[j] = load(b.data + (half + j) * b.stride[1] + i);
                transpose(square);
#pragma GCC unroll 16
                for (int j = 0; j < lanes; ++j) store(panel + (i + j) * width + half, square[j]);
            }
    for (; i < k; ++i)
        for (int64_t j = 0; j < columns; ++j)
            panel[i * width + j] = b.data[i * b.stride[0] + j * b.stride[1]];
}

/// Where lanes exceed rows, a store of a whole register runs into the next row, which comes later.
template <class T> void pack_panel_of_rows(view<const T, 2> a, T* panel) {
    constexpr int lanes = vec<T>::lanes;
    const int64_t k = a.shape[1], rows = a.shape[0] < tile_rows ? a.shape[0] : tile_rows;
    if (rows < tile_rows) std::memset(panel, 0, k * tile_rows * sizeof(T));
    int64_t j = 0;
    if (rows == tile_rows && a.stride[0] == 1) {
        for (; j < k; ++j)
            std::memcpy(panel + j * tile_rows, a.data + j * a.stride[1], tile_rows * sizeof(T));
    } else if constexpr (lanes >= tile_rows) {
        if (rows == tile_rows && a.stride[1] == 1)
            for (; j + 2 * lanes <= k; j += lanes) {
                vec<T> square[lanes];
#pragma GCC unroll 16
                for (int i = 0; i < lanes; ++i)
                    square[i] = i < tile_rows ? load(a.data + i * a.stride[0] + j) : vec<T>(T(0));
                transpose(square);
#pragma GCC unroll 16
                for (int i = 0; i < lanes; ++i) store(panel + (j + i) * tile_rows, square[i]);
            }
    }
    for (; j < k; ++j)
        for (int64_t i = 0; i < rows; ++i)
            panel[j * tile_rows + i] = a.data[i * a.stride[0] + j * a.stride[1]];
}

template <class T>
int pack_columns(view<const T, 2> b, void* to, int64_t panel_bytes, line_mark*) {
    for (int64_t j = 0; j < b.shape[1]; j += tile_columns<T>) {
        pack_panel_of_columns(slice(b, 1, j, b.shape[1] - j), static_cast<T*>(to));
        to = static_cast<char*>(to) + panel_bytes;
    }
    return 1;
}
template <class T>
void pack_rows(view<const T, 2> a, void* to, int64_t panel_bytes, line_mark*) {
    for (int64_t i = 0; i < a.shape[0]; i += tile_rows) {
        pack_panel_of_rows(slice(a, 0, i, a.shape[0] - i), static_cast<T*>(to));
        to = static_cast<char*>(to) + panel_bytes;
    }
}

template <class T>
void multiply(int64_t k, const void* packed_a, const void* packed_b, int64_t stride,
              int64_t panel_step, int, view<T, 2> c, bool add) {
    constexpr int width = tile_columns<T>;
    const T *a = static_cast<const T*>(packed_a), *b = static_cast<const T*>(packed_b);
    const int64_t rows = c.shape[0], columns = c.shape[1];
    for (int64_t j = 0; j < columns; j += width, b += panel_step) {
        const int64_t room = columns - j < width ? columns - j : width;
        for (int64_t i = 0; i < rows;) {
            const int64_t inside = i % tile_rows, left = rows - i;
            auto product = packed_product<T, 1>;
            int height = 1;
            if (inside == 0 && left >= tile_rows) product = packed_product<T, tile_rows>, height = tile_rows;
            else if (left >= 4) product = packed_product<T, 4>, height = 4;
            else if (left >= 2) product = packed_product<T, 2>, height = 2;
            const T* from = a + (i - inside) * k + inside;
            T* out = c.data + i * c.stride[0] + j * c.stride[1];
            i += height;
            if (room == width && c.stride[1] == 1) {
                product(k, from, b, stride, out, c.stride[0], add);
                continue;
            }
            T sum[tile_rows * width];
            product(k, from, b, stride, sum, width, false);
            for (int r = 0; r < height; ++r)
                for (int s = 0; s < room; ++s) {
                    T& to = out[r * c.stride[0] + s * c.stride[1]];
                    to = add ? to + sum[r * width + s] : sum[r * width + s];
                }
        }
    }
}

}  // namespace
}  // namespace REFGSS_ISA

using namespace REFGSS_ISA;
template <class T> constexpr int64_t depth = 4096 / sizeof(T);
template <class T> constexpr T unlimited = std::numeric_limits<T>::quiet_NaN();  // no x >= NaN
REFGSS_TABLE(matmul_kernels<float>,
             {tile_rows, tile_columns<float>, depth<float>, 1, sizeof(float), true, pack_rows<float>,
              pack_columns<float>, multiply<float>, nullptr, 0, 0, unlimited<float>, 0})
REFGSS_TABLE(matmul_kernels<double>,
             {tile_rows, tile_columns<double>, depth<double>, 1, sizeof(double), true, pack_rows<double>,
              pack_columns<double>, multiply<double>, nullptr, 0, 0,
              unlimited<double>, 0})

}  // namespace refgss
