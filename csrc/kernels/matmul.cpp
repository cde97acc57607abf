// The matrix product: panels of b, tiles of c.
#include "dispatch.hpp"
#include "matmul.hpp"
#include "tile.hpp"

namespace refgss {
namespace REFGSS_ISA {
namespace {

template <class T> void pack(view<const T, 2> b, int64_t first, int64_t k, T* panel) {
    constexpr int width = tile_columns<T>;
    int64_t columns = b.shape[1] - first < width ? b.shape[1] - first : width;
    const T* from = b.data + first * b.stride[1];
    if (columns < width) std::memset(panel, 0, k * width * sizeof(T));
    if (b.stride[1] == 1) {
        for (int64_t i = 0; i < k; ++i)
            std::memcpy(panel + i * width, from + i * b.stride[0], columns * sizeof(T));
        return;
    }
    for (int64_t j = 0; j < columns; ++j)
        for (int64_t i = 0; i < k; ++i)
            panel[i * width + j] = from[i * b.stride[0] + j * b.stride[1]];
}

template <class T>
void multiply(view<const T, 2> a, const T* b, int64_t stride, int64_t panel_step, view<T, 2> c,
              bool add, T* scratch) {
    constexpr int width = tile_columns<T>;
    int64_t rows = a.shape[0], k = a.shape[1], columns = c.shape[1];
    const T* row[matmul_height];
    for (int64_t i = 0; i < rows; ++i) row[i] = a.data + i * a.stride[0];
    if (a.stride[1] != 1) {
        T* copy = scratch + tile_rows * width;
        for (int64_t j = 0; j < k; ++j)
            for (int64_t i = 0; i < rows; ++i)
                copy[i * k + j] = a.data[i * a.stride[0] + j * a.stride[1]];
        for (int64_t i = 0; i < rows; ++i) row[i] = copy + i * k;
    }
    for (int64_t j = 0; j < columns; j += width, b += panel_step)
        for (int64_t i = 0; i < rows; i += tile_rows) {
            int height = rows - i < tile_rows ? int(rows - i) : tile_rows;
            int64_t room = columns - j < width ? columns - j : width;
            T* out = c.data + i * c.stride[0] + j * c.stride[1];
            if (room == width && c.stride[1] == 1) {
                tile_product(height, k, row + i, b, stride, out, c.stride[0], add);
                continue;
            }
            tile_product(height, k, row + i, b, stride, scratch, width, false);
            for (int r = 0; r < height; ++r)
                for (int s = 0; s < room; ++s) {
                    T& to = out[r * c.stride[0] + s * c.stride[1]];
                    to = add ? to + scratch[r * width + s] : scratch[r * width + s];
                }
        }
}

}  // namespace
}  // namespace REFGSS_ISA

using namespace REFGSS_ISA;
REFGSS_TABLE(matmul_kernels<float>, {tile_columns<float>, pack<float>, multiply<float>})
REFGSS_TABLE(matmul_kernels<double>, {tile_columns<double>, pack<double>, multiply<double>})

}  // namespace refgss
