// gemv.hpp: matrices in the order in which decoding reads them, and their products.
//
// A token costs one pass over all weights, so that decoding is as fast as memory is.  A matrix (I,O) is
// kept as tiles of 32 columns; a tile is contiguous and is read once, from its first byte to its last:
//
//   f32   I rows of 32 numbers
//   bf16  I rows of 16 words, column j in the low half and column j + 16 in the high half
//   int8  for each 32 rows: their 32 scales, as a row of bf16; then 16 pairs of rows i, i + 1 as 16 words,
//         whose bytes are columns j and j + 16 of row i, then of row i + 1
//
// A number of bf16 is the upper half of a float.  An int8 stands for itself times its scale, which a float
// holds exactly.  Rows and columns that pad the last tile are zero.
//
// Sums run over 128 rows (int8: 32) in 2 or 4 chains, every second or fourth row; then over these.  Results depend
// neither on the number of threads nor on which rows x are multiplied together.
#pragma once

#include <string>

#include "core/array.hpp"
#include "core/scratch.hpp"
#include "dense/matmul.hpp"

namespace refgss {

enum class weight_format { f32, bf16, int8 };

constexpr int64_t gemv_width = 32;  // columns of a tile
constexpr int64_t scale_block = 32;  // rows that share a scale

constexpr int64_t whole_tiles(int64_t columns) { return (columns + gemv_width - 1) / gemv_width; }

struct gemv_kernels {
    /// to[r][0..32) = Σ_i x[r][i] W[i][·] of one tile; by format.
    void (*product[3])(const unsigned char* tile, int64_t depth, int64_t rows, const float* x,
                       int64_t x_stride, float* to, int64_t to_stride);
    /// W[first .. first+count-1][·] of one tile, 32 floats a row; first is a multiple of 32.
    void (*unpack[3])(const unsigned char* tile, int64_t first, int64_t count, float* to);
    /// to[0..32) = start + d u_last + Σ_{j<=last} taps_j u_{last-j}: rows of taps and u `stride` apart.
    void (*recent)(int64_t last, int64_t stride, const float* taps, const float* u,
                   const float* start, const float* d, float* to);
};

/// What a matrix is made from: numbers of one format at any strides, and the scales of int8.
struct matrix_source {
    const void* data;
    weight_format format;
    int64_t rows, columns, row_stride, column_stride;
    const uint16_t* scale;  // bf16 (rows / 32, columns)
    int64_t scale_row_stride, scale_column_stride;

    /// `a` is (rows, columns) of float, bf16 or int8; `scale` belongs to int8, and only to it.
    static matrix_source of(const refgss_array* a, const refgss_array* scale, const char* name,
                            int64_t rows, int64_t columns, bool transposed = false);
};

class weight_matrix {
public:
    explicit weight_matrix(const matrix_source& from);

    weight_format format() const { return format_; }
    int64_t rows() const { return rows_; }
    int64_t columns() const { return columns_; }
    int64_t tiles() const { return whole_tiles(columns_); }
    int64_t bytes() const { return tiles() * tile_bytes_; }
    const unsigned char* tile(int64_t t) const { return data_.data() + t * tile_bytes_; }
    /// Column o, as `rows` floats.
    void column(int64_t o, float* to) const;
    /// y (M,O) = x (M,I) W for many rows at once, which are `x_stride` and `y_stride` apart.  Rows
    /// of y are padded to whole tiles.
    void multiply(int64_t rows, const float* x, int64_t x_stride, float* y, int64_t y_stride) const;

private:
    void multiply_by(const matmul_kernels<float>& product, int64_t rows, const float* x,
                     int64_t x_stride, float* y, int64_t y_stride, line_mark* marks) const;

    weight_format format_;
    int64_t rows_, columns_, tile_bytes_;
    float largest_ = 0;  // magnitude of a weight, where products have a limit
    scratch<unsigned char> data_;
};

}  // namespace refgss
