// Products of a few rows with tiles of weights: see gemv.hpp.
#include "dense/gemv.hpp"

#include "core/dispatch.hpp"
#include "kernels/elementary.hpp"

namespace refgss {
namespace REFGSS_ISA {
namespace {

using F = vec<float>;
using words = lanes_of<float>::integers;

constexpr int lanes = F::lanes;
constexpr int registers = gemv_width / lanes;              // of one row of a tile
constexpr int half = registers / 2;
constexpr int together = registers < 4 ? registers : 4;    // that are summed at the same time
constexpr int chains = lanes == 16 ? 4 : 2;                // of sums that do not wait for each other
constexpr int64_t ahead = 4096;                            // bytes: the prefetcher stops at each page

REFGSS_INLINE words words_at(const unsigned char* p) {
    words w;
    std::memcpy(&w, p, sizeof w);
    return w;
}

/// Byte `at` of each word, as the most significant of a number: times 2^24.
REFGSS_INLINE F byte_of(words w, int at) {
    const int top = static_cast<int>(0xff000000u);
    if (at == 3) return __builtin_convertvector(w & top, F::raw);
#if defined(__AVX512F__)  // one shuffle in place of a shift and a mask; 0x80 puts a zero
    const __m512i bytes = _mm512_maskz_broadcast_i32x4(
        0xffff, _mm_setr_epi32(0x00808080, 0x04808080, 0x08808080, 0x0c808080));
    const __m512i chosen = _mm512_add_epi32(bytes, _mm512_set1_epi32(at << 24));
    return __builtin_convertvector((words)_mm512_shuffle_epi8((__m512i)w, chosen), F::raw);
#else
    return __builtin_convertvector((w << (24 - 8 * at)) & top, F::raw);
#endif
}

/// get(run, i, k): numbers k lanes .. of row i of a run.
template <weight_format Format> struct tile_format;
template <> struct tile_format<weight_format::f32> {
    static constexpr int64_t row_bytes = 128, run = 128, head = 0;
    static REFGSS_INLINE F get(const unsigned char* p, int64_t i, int k) {
        return load(reinterpret_cast<const float*>(p + i * row_bytes) + k * lanes);
    }
};
template <> struct tile_format<weight_format::bf16> {
    static constexpr int64_t row_bytes = 64, run = 128, head = 0;
    static REFGSS_INLINE F get(const unsigned char* p, int64_t i, int k) {
        words w = words_at(p + i * row_bytes + k % half * sizeof w);
        return (F::raw)(k < half ? w << 16 : w & static_cast<int>(0xffff0000u));
    }
};
template <> struct tile_format<weight_format::int8> {
    static constexpr int64_t row_bytes = 32, run = scale_block, head = 64;
    static REFGSS_INLINE F get(const unsigned char* p, int64_t i, int k) {
        words w = words_at(p + i / 2 * 2 * row_bytes + k % half * sizeof w);
        return byte_of(w, static_cast<int>(i % 2 * 2) + k / half);
    }
    /// The scales of a run, of which the numbers are 2^24 times too large.
    static REFGSS_INLINE F scale(const unsigned char* p, int k) {
        return tile_format<weight_format::bf16>::get(p, 0, k);
    }
};

/// sum[r][k] = Σ x[r][i] W[i][k] over the first `count` rows of a run.
template <weight_format Format, int Rows>
REFGSS_INLINE void run_product(const unsigned char* run, int64_t count, int first,
                               const float* const* x, F (&sum)[Rows][together]) {
    using format = tile_format<Format>;
    F s[chains][Rows][together];
#pragma GCC unroll 4
    for (int c = 0; c < chains; ++c)
        for (auto& of_row : s[c])
            for (F& v : of_row) v = F(0.0f);
    auto add = [&](int64_t i, int c) {
#pragma GCC unroll 4
        for (int k = 0; k < together; ++k) {
            F weight = format::get(run + i * format::row_bytes, c, first + k);
#pragma GCC unroll 4
            for (int r = 0; r < Rows; ++r) s[c][r][k] = fma(F(x[r][i + c]), weight, s[c][r][k]);
        }
    };
    int64_t i = 0;
    for (; i + chains <= count; i += chains) {
        const unsigned char* next = run + i * format::row_bytes + ahead;
#pragma GCC unroll 8
        for (int64_t line = 0; line < chains * format::row_bytes; line += 64)
            __builtin_prefetch(next + line);
#pragma GCC unroll 4
        for (int c = 0; c < chains; ++c) add(i, c);
    }
#pragma GCC unroll 4
    for (int c = 0; c < chains - 1; ++c)
        if (i + c < count) add(i, c);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int k = 0; k < together; ++k) {
            if constexpr (chains == 4)
                sum[r][k] = (s[0][r][k] + s[1][r][k]) + (s[2][r][k] + s[3][r][k]);
            else
                sum[r][k] = s[0][r][k] + s[1][r][k];
        }
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
                        t = fma(sum[r][k] * F(0x1p-24f), format::scale(tile, first + k), t);
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
#if defined(__AVX512F__)  // 32 registers hold the sums of 2 rows
        if (rows >= 2) some = product_rows<Format, 2>, count = 2;
#endif
        const float* from[2];
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
        for (int k = 0; k < registers; ++k) {
            F w = format::get(block + format::head, i % format::run, k);
            if constexpr (format::head > 0) w = w * F(0x1p-24f) * format::scale(block, k);
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
