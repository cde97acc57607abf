#include "dense/gemv.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/dispatch.hpp"
#include "core/threads.hpp"
#include "dense/matmul.hpp"

namespace refgss {
namespace {

constexpr int64_t rows_together = 4 * matmul_height;  // for which a panel is unpacked once
constexpr int64_t tiles_together = 8;  // panels that are packed, then used by rows while these are in cache

constexpr int64_t scales_bytes = gemv_width * 2, block_bytes = scales_bytes + scale_block * gemv_width;

int64_t tile_size(weight_format format, int64_t rows) {
    switch (format) {
        case weight_format::f32: return rows * gemv_width * 4;
        case weight_format::bf16: return rows * gemv_width * 2;
        case weight_format::int8: break;
    }
    return (rows + scale_block - 1) / scale_block * block_bytes;
}

/// Where bf16 column j of a row of 32 stands.
constexpr int64_t half_of(int64_t j) { return j < gemv_width / 2 ? 2 * j : 2 * (j - gemv_width / 2) + 1; }

/// Where int8 row i and column j of a block of 32 rows stands.
constexpr int64_t byte_of(int64_t i, int64_t j) {
    return scales_bytes + i / 2 * 2 * gemv_width + j % 16 * 4 + i % 2 * 2 + j / 16;
}

float widened(uint16_t upper) {
    uint32_t bits = static_cast<uint32_t>(upper) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

/// One tile, whose memory is zero, from columns first .. of `from`.
void pack(const matrix_source& from, int64_t first, unsigned char* tile) {
    const int64_t count = std::min(gemv_width, from.columns - first);
    auto index = [&](int64_t i, int64_t j) {
        return i * from.row_stride + (first + j) * from.column_stride;
    };
    for (int64_t i = 0; i < from.rows; ++i)
        for (int64_t j = 0; j < count; ++j) {
            if (from.format == weight_format::f32) {
                std::memcpy(tile + (i * gemv_width + j) * 4,
                            static_cast<const float*>(from.data) + index(i, j), 4);
            } else if (from.format == weight_format::bf16) {
                std::memcpy(tile + (i * gemv_width + half_of(j)) * 2,
                            static_cast<const uint16_t*>(from.data) + index(i, j), 2);
            } else {
                unsigned char* block = tile + i / scale_block * block_bytes;
                if (i % scale_block == 0)
                    std::memcpy(block + half_of(j) * 2,
                                from.scale + i / scale_block * from.scale_row_stride +
                                    (first + j) * from.scale_column_stride, 2);
                std::memcpy(block + byte_of(i % scale_block, j),
                            static_cast<const int8_t*>(from.data) + index(i, j), 1);
            }
        }
}

/// Throws unless `a` is a matrix (rows, columns) of `dtype` with data.
void check_matrix(const refgss_array* a, const std::string& name, int32_t dtype, int64_t rows,
                  int64_t columns) {
    auto fail = [&](refgss_status status, const std::string& why) {
        throw error{status, name + why};
    };
    check_weights(a, name, 2);
    if (a->dtype != dtype) fail(REFGSS_ERROR_TYPE, " has the wrong dtype: scales are bf16");
    if (a->shape[0] != rows || a->shape[1] != columns)
        fail(REFGSS_ERROR_VALUE, " must have shape (" + std::to_string(rows) + ", " +
                                     std::to_string(columns) + ")");
}

}  // namespace

matrix_source matrix_source::of(const refgss_array* a, const refgss_array* scale, const char* name,
                                int64_t rows, int64_t columns, bool transposed) {
    if (a == nullptr) throw error{REFGSS_ERROR_VALUE, std::string(name) + " is NULL: pass an array"};
    matrix_source m{};
    switch (a->dtype) {
        case REFGSS_F32: m.format = weight_format::f32; break;
        case REFGSS_BF16: m.format = weight_format::bf16; break;
        case REFGSS_I8: m.format = weight_format::int8; break;
        default:
            throw error{REFGSS_ERROR_TYPE,
                        std::string(name) + " has an unknown dtype: use float32, bf16 or int8"};
    }
    auto shape = [&](int64_t r, int64_t c, const refgss_array* x, const std::string& who) {
        check_matrix(x, who, x == a ? a->dtype : REFGSS_BF16, transposed ? c : r, transposed ? r : c);
    };
    shape(rows, columns, a, name);
    const int row = transposed ? 1 : 0, column = 1 - row;
    m.data = a->data, m.rows = rows, m.columns = columns;
    m.row_stride = a->stride[row], m.column_stride = a->stride[column];
    if ((scale != nullptr) != (m.format == weight_format::int8))
        throw error{REFGSS_ERROR_VALUE,
                    std::string(name) + (scale ? " has scales and is not int8" : " is int8 and has no scales")};
    if (scale == nullptr) return m;
    shape((rows + scale_block - 1) / scale_block, columns, scale, std::string(name) + ".scale");
    m.scale = static_cast<const uint16_t*>(scale->data);
    m.scale_row_stride = scale->stride[row], m.scale_column_stride = scale->stride[column];
    return m;
}

weight_matrix::weight_matrix(const matrix_source& from)
    : format_(from.format), rows_(from.rows), columns_(from.columns),
      tile_bytes_(tile_size(from.format, from.rows)),
      data_(sized(whole_tiles(from.columns), tile_bytes_)) {
    const bool limited = kernels<matmul_kernels<float>>().fallback != nullptr;
    const int64_t numbers = limited ? sized(rows_, gemv_width) : 0;
    const int slots = slots_for(tiles());
    scratch<float> unpacked(sized(slots, numbers));
    std::vector<float> largest(slots, 0.0f);
    parallel_for(tiles(), slots, [&](int64_t t, int slot) {
        unsigned char* to = data_.data() + t * tile_bytes_;
        std::memset(to, 0, tile_bytes_);
        pack(from, t * gemv_width, to);
        if (!limited) return;
        float* w = unpacked.data() + slot * numbers;
        kernels<gemv_kernels>().unpack[static_cast<int>(format_)](to, 0, rows_, w);
        for (int64_t i = 0; i < numbers; ++i)
            largest[slot] = std::max(largest[slot], std::abs(w[i]));  // NaN is not larger
    });
    for (float w : largest) largest_ = std::max(largest_, w);
}

void weight_matrix::column(int64_t o, float* to) const {
    const unsigned char* from = tile(o / gemv_width);
    const int64_t j = o % gemv_width;
    auto half = [](const unsigned char* row, int64_t column) {
        uint16_t bits;
        std::memcpy(&bits, row + 2 * half_of(column), 2);
        return widened(bits);
    };
    for (int64_t i = 0; i < rows_; ++i) {
        if (format_ == weight_format::f32) {
            std::memcpy(to + i, from + (i * gemv_width + j) * 4, 4);
        } else if (format_ == weight_format::bf16) {
            to[i] = half(from + i * gemv_width * 2, j);
        } else {
            const unsigned char* block = from + i / scale_block * block_bytes;
            auto q = static_cast<int8_t>(block[byte_of(i % scale_block, j)]);
            to[i] = static_cast<float>(q) * half(block, j);
        }
    }
}

void weight_matrix::multiply(int64_t M, const float* x, int64_t x_stride, float* y,
                             int64_t y_stride) const {
    auto* kernel = &matmul_kernels_for<float>(M, rows_);
    if (largest_ >= kernel->limit) kernel = kernel->fallback;
    std::vector<line_mark> marks(M);
    multiply_by(*kernel, M, x, x_stride, y, y_stride, marks.data());
    for (int64_t i = 0; i < M; ++i) {  // runs of marked rows, as if they were alone
        int64_t end = i;
        while (end < M && !kernel->can_multiply(marks[end])) ++end;
        if (end == i) continue;
        multiply_by(*kernel->fallback, end - i, x + i * x_stride, x_stride, y + i * y_stride, y_stride,
                    marks.data());
        i = end;
    }
}

void weight_matrix::multiply_by(const matmul_kernels<float>& product, int64_t M, const float* x,
                                int64_t x_stride, float* y, int64_t y_stride, line_mark* marks) const {
    auto unpack = kernels<gemv_kernels>().unpack[static_cast<int>(format_)];
    const int64_t height = product.panel_rows, panels = (M + height - 1) / height;
    const int64_t depth = std::min(rows_, product.depth), most = product.line_bytes(depth);
    const bool numbers_in_place = format_ == weight_format::f32;
    const int64_t group = product.plain ? 1 : std::min(tiles_together, tiles());
    const int64_t blocks = (M + rows_together - 1) / rows_together;
    const int64_t items = (tiles() + group - 1) / group * blocks;
    const int slots = slots_for(items);
    scratch<char> rows(sized(panels * height, most));
    scratch<float> numbers(numbers_in_place ? 0 : sized(slots, depth * gemv_width));
    scratch<char> packed(product.plain ? 0 : sized(slots, group * most * gemv_width));
    for (int64_t k0 = 0; k0 < rows_; k0 += product.depth) {
        const int64_t k = std::min(product.depth, rows_ - k0), line = product.line_bytes(k);
        const view<const float, 2> from{x + k0, {M, k}, {x_stride, 1}};
        parallel_for(panels, slots_for(panels), [&](int64_t p, int) {
            product.pack_rows(slice(from, 0, p * height, std::min(height, M - p * height)),
                              rows.data() + p * height * line, 0, marks + p * height);
        });
        parallel_for(items, slots, [&](int64_t item, int slot) {
            const int64_t first = item % blocks * rows_together, end = std::min(M, first + rows_together);
            const int64_t t0 = item / blocks * group, t1 = std::min(tiles(), t0 + group);
            const void* panel[tiles_together];
            int parts[tiles_together] = {};
            for (int64_t t = t0; t < t1; ++t) {
                const float* weights = reinterpret_cast<const float*>(tile(t)) + k0 * gemv_width;
                if (!numbers_in_place) {
                    float* to = numbers.data() + slot * depth * gemv_width;
                    unpack(tile(t), k0, k, to);
                    weights = to;
                }
                panel[t - t0] = weights;
                if (product.plain) continue;
                line_mark unused[gemv_width];
                char* to = packed.data() + (slot * group + t - t0) * most * gemv_width;
                parts[t - t0] = product.pack_columns({weights, {k, gemv_width}, {gemv_width, 1}}, to, 0,
                                                     unused);
                panel[t - t0] = to;
            }
            for (int64_t i = first; i < end; i += matmul_height)
                for (int64_t t = t0; t < t1; ++t) {
                    view<float, 2> to{y + i * y_stride + t * gemv_width,
                                      {std::min(matmul_height, end - i), gemv_width}, {y_stride, 1}};
                    product.multiply(k, rows.data() + i * line, panel[t - t0], gemv_width,
                                     product.panel_columns, parts[t - t0], to, k0 > 0);
                }
        });
    }
}

}  // namespace refgss
