// Products of a few rows with tiles of weights: see gemv.hpp.
#include "gemv.hpp"

#include "dispatch.hpp"
#include "elementary.hpp"

namespace refgss {
namespace REFGSS_ISA {
namespace {

using F = vec<float>;
using words = lanes_of<float>::integers;
typedef int8_t small __attribute__((vector_size(REFGSS_VECTOR_BYTES / 4)));

constexpr int lanes = F::lanes;
constexpr int registers = gemv_width / lanes;              // of one row of a tile
constexpr int together = registers < 4 ? registers : 4;    // that are summed at the same time
constexpr int64_t ahead = 2048;                            // bytes: the prefetcher stops at each page

template <weight_format Format> struct tile_format;
template <> struct tile_format<weight_format::f32> {
    static constexpr int64_t row_bytes = 128, run = 128, head = 0;
    static REFGSS_INLINE F get(const unsigned char* row, int k) {
        return load(reinterpret_cast<const float*>(row) + k * lanes);
    }
};
template <> struct tile_format<weight_format::bf16> {
    static constexpr int64_t row_bytes = 64, run = 128, head = 0;
    static REFGSS_INLINE F get(const unsigned char* row, int k) {
        const bool upper = k >= registers / 2;
        words w;
        std::memcpy(&w, row + (upper ? k - registers / 2 : k) * sizeof w, sizeof w);
        return (F::raw)(upper ? w & static_cast<int>(0xffff0000u) : w << 16);
    }
};
template <> struct tile_format<weight_format::int8> {
    static constexpr int64_t row_bytes = 32, run = scale_block, head = 64;
    static REFGSS_INLINE F get(const unsigned char* row, int k) {
        small q;
        std::memcpy(&q, row + k * sizeof q, sizeof q);
        return __builtin_convertvector(__builtin_convertvector(q, words), F::raw);
    }
};

/// sum[r][k] = Σ x[r][i] W[i][k] over `count` rows of W from `row` on.
template <weight_format Format, int Rows>
REFGSS_INLINE void run_product(const unsigned char* row, int64_t count, int first,
                               const float* const* x, F (&sum)[Rows][together]) {
    using format = tile_format<Format>;
    F s[2][Rows][together];
    for (auto& chain : s)
        for (auto& of_row : chain)
            for (F& v : of_row) v = F(0.0f);
    auto add = [&](int chain, int64_t i) {
        const unsigned char* w = row + i * format::row_bytes;
        __builtin_prefetch(w + ahead);
        if constexpr (format::row_bytes > 64) __builtin_prefetch(w + ahead + 64);
#pragma GCC unroll 4
        for (int k = 0; k < together; ++k) {
            F weight = format::get(w, first + k);
#pragma GCC unroll 4
            for (int r = 0; r < Rows; ++r) s[chain][r][k] = fma(F(x[r][i]), weight, s[chain][r][k]);
        }
    };
    int64_t i = 0;
    for (; i + 2 <= count; i += 2) add(0, i), add(1, i + 1);
    if (i < count) add(0, i);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int k = 0; k < together; ++k) sum[r][k] = s[0][r][k] + s[1][r][k];
}

template <weight_format Format, int Rows>
void product_rows(const unsigned char* tile, int64_t depth, const float* const* from, float* to,
                  int64_t to_stride) {
    using format = tile_format<Format>;
    const float* x[Rows];
    for (int r = 0; r < Rows; ++r) x[r] = from[r];
    F total[Rows][registers];
    for (auto& row : total)
        for (F& v : row) v = F(0.0f);
    for (int64_t done = 0; done < depth; done += format::run) {
        const int64_t count = depth - done < format::run ? depth - done : format::run;
        for (int first = 0; first < registers; first += together) {
            F sum[Rows][together];
            run_product<Format, Rows>(tile + format::head, count, first, x, sum);
            for (int r = 0; r < Rows; ++r)
                for (int k = 0; k < together; ++k) {
                    F& t = total[r][first + k];
                    if constexpr (format::head > 0)
                        t = fma(sum[r][k], tile_format<weight_format::bf16>::get(tile, first + k), t);
                    else
                        t = t + sum[r][k];
                }
        }
        for (int r = 0; r < Rows; ++r) x[r] += format::run;
        tile += format::head + format::run * format::row_bytes;
    }
    for (int r = 0; r < Rows; ++r)
        for (int k = 0; k < registers; ++k) store(to + r * to_stride + k * lanes, total[r][k]);
}

template <weight_format Format>
void product(const unsigned char* tile, int64_t depth, int64_t rows, const float* x,
             int64_t x_stride, float* to, int64_t to_stride) {
    while (rows > 0) {
        auto some = product_rows<Format, 1>;
        int64_t count = 1;
#if defined(__AVX512F__)  // 32 registers hold the sums of 4 rows
        if (rows >= 4) some = product_rows<Format, 4>, count = 4;
        else if (rows >= 2) some = product_rows<Format, 2>, count = 2;
#endif
        const float* from[4];
        for (int64_t r = 0; r < count; ++r) from[r] = x + r * x_stride;
        some(tile, depth, from, to, to_stride);
        x += count * x_stride, to += count * to_stride, rows -= count;
    }
}

template <weight_format Format>
void unpack(const unsigned char* tile, int64_t first, int64_t count, float* to) {
    using format = tile_format<Format>;
    constexpr int64_t run_bytes = format::head + format::run * format::row_bytes;
    for (int64_t i = first; i < first + count; ++i, to += gemv_width) {
        const unsigned char* block = tile + i / format::run * run_bytes;
        const unsigned char* row = block + format::head + i % format::run * format::row_bytes;
        for (int k = 0; k < registers; ++k) {
            F w = format::get(row, k);
            if constexpr (format::head > 0) w = w * tile_format<weight_format::bf16>::get(block, k);
            store(to + k * lanes, w);
        }
    }
}

void recent(int64_t last, int64_t stride, const float* taps, const float* u, const float* start,
            const float* d, float* to) {
    F sum[registers];
    for (int k = 0; k < registers; ++k) sum[k] = load(start + k * lanes);
    for (int64_t j = last; j >= 0; --j)  // small taps first
#pragma GCC unroll 8
        for (int k = 0; k < registers; ++k)
            sum[k] = fma(load(taps + j * stride + k * lanes),
                         load(u + (last - j) * stride + k * lanes), sum[k]);
    for (int k = 0; k < registers; ++k)
        store(to + k * lanes, fma(load(d + k * lanes), load(u + last * stride + k * lanes), sum[k]));
}

}  // namespace
}  // namespace REFGSS_ISA

using namespace REFGSS_ISA;
REFGSS_TABLE(gemv_kernels,
             {{product<weight_format::f32>, product<weight_format::bf16>, product<weight_format::int8>},
              {unpack<weight_format::f32>, unpack<weight_format::bf16>, unpack<weight_format::int8>},
              recent})

}  // namespace refgss
