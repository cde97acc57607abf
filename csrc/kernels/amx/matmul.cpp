// The matrix product of binary32 on AMX, whose tiles multiply bfloat16 and add up in binary32.
//
// A number x is the sum of three of bfloat16, x0 + x1 + x2, each the rounded rest: 24 bits, exactly.
// Of the nine products of a and b six are added up: first the five small ones of all terms, then all
// a0 b0, so that no more is rounded at full size than in any other sum.  What a1 b2 and a2 b1 would add
// is below 2⁻²⁴ |a b|, as much as a rounding.  A sum of four products has room for that, one that is
// alone has not: rows with fewer numbers that are not zero are marked, and where b has zeros these
// two are added up, too.  a2 b2 is below 2⁻³² |a b|.
//
// bfloat16 has the exponents of binary32, but its subnormals are lost: all numbers are scaled by 2⁴⁰,
// and the last bit of the smallest stays normal.  Those from 2¹⁹ on could overflow then: their rows and
// columns are marked.
#include "core/dispatch.hpp"
#include "core/simd.hpp"
#include "dense/matmul.hpp"

namespace refgss {
namespace REFGSS_ISA {
namespace {

constexpr int side = 16;                // rows of a tile, and its columns of binary32
constexpr int slab = 32;                // terms in a tile
constexpr int parts = 3;                // numbers of bfloat16 in one of binary32
constexpr int with_zeros = parts + 1;   // of b, among numbers of three parts
constexpr int tile_size = side * slab;  // a tile in numbers of bfloat16
constexpr int panel = 2 * side;         // rows of a and columns of b that meet in registers
constexpr int64_t depth = 512;          // terms in a block
constexpr float limit = 0x1p19f;        // sums of products of scaled numbers do not overflow

using part = uint16_t;

/// Where rows .. x columns .. of a matrix are contiguous rows: in place if they are, else in `copy`,
/// with zeros outside.
struct block {
    const float* data;
    int64_t stride;

    template <int Rows, int Columns>
    block(view<const float, 2> m, int64_t row, int64_t column, float (&copy)[Rows][Columns])
        : data(m.data + row * m.stride[0] + column * m.stride[1]), stride(m.stride[0]) {
        const int64_t rows = m.shape[0] - row, columns = m.shape[1] - column;
        const bool whole = rows >= Rows && columns >= Columns;
        if (whole && m.stride[1] == 1) return;
        if (whole && m.stride[0] == 1) {
            for (int i = 0; i < Rows; i += side)
                for (int j = 0; j < Columns; j += side) {
                    vec<float> square[side];
#pragma GCC unroll 16
                    for (int x = 0; x < side; ++x) square[x] = load(data + i + (j + x) * m.stride[1]);
                    transpose(square);
#pragma GCC unroll 16
                    for (int x = 0; x < side; ++x) store(&copy[i + x][j], square[x]);
                }
        } else {
            for (int i = 0; i < Rows; ++i)
                for (int j = 0; j < Columns; ++j)
                    copy[i][j] = i < rows && j < columns ? data[i * stride + j * m.stride[1]] : 0.f;
        }
        data = copy[0], stride = Columns;
    }
    vec<float> operator()(int row, int column) const { return load(data + row * stride + column); }
};

/// Where |x| is at least the limit; not where x is NaN, which passes through products as it should.
REFGSS_INLINE __mmask16 too_large(vec<float> x) {
    return _mm512_cmp_ps_mask(_mm512_abs_ps((__m512)x.v), _mm512_set1_ps(limit), _CMP_GE_OQ);
}
REFGSS_INLINE __mmask16 not_zero(vec<float> x) {
    return _mm512_cmp_ps_mask((__m512)x.v, _mm512_setzero_ps(), _CMP_NEQ_UQ);
}
REFGSS_INLINE void mark(line_mark* at) { __atomic_store_n(&at->too_large, 1, __ATOMIC_RELAXED); }

/// The parts of 2 x 16 numbers.  Forms with a mask, for the others read an undefined register.
REFGSS_INLINE vec<float> widened(__m256i x) {
    const __m512i words = _mm512_maskz_cvtepu16_epi32(0xffff, x);
    return vec<float>((vec<float>::raw)_mm512_maskz_slli_epi32(0xffff, words, 16));
}
REFGSS_INLINE void split(vec<float> low, vec<float> high, __m512i (&out)[parts]) {
    const vec<float> scale(0x1p40f);
    low = low * scale, high = high * scale;
#pragma GCC unroll 3
    for (int p = 0; p < parts; ++p) {
        out[p] = (__m512i)_mm512_cvtne2ps_pbh((__m512)high.v, (__m512)low.v);
        low = low - widened(_mm512_maskz_extracti64x4_epi64(0xff, out[p], 0));
        high = high - widened(_mm512_maskz_extracti64x4_epi64(0xff, out[p], 1));
    }
}

/// Where the tiles of a slab begin, in the panel that is `offset` bytes from the first.
part* tiles_at(void* panels, int64_t offset, int64_t term) {
    return reinterpret_cast<part*>(static_cast<char*>(panels) + offset) + term * panel * parts;
}

/// Tiles of panels: for each slab, each part, the two blocks of `side` rows.
void pack_rows(view<const float, 2> a, void* to, int64_t panel_bytes, line_mark* marks) {
    alignas(64) float copy[side][slab];
    for (int64_t first = 0; first < a.shape[0]; first += panel) {
        int numbers[panel] = {};  // that are not zero
        for (int64_t s = 0; s < a.shape[1]; s += slab) {
            part* out = tiles_at(to, first / panel * panel_bytes, s);
            for (int half = 0; half < 2; ++half) {
                const block from(a, first + half * side, s, copy);
                for (int i = 0; i < side; ++i) {
                    __m512i row[parts];
                    const vec<float> low = from(i, 0), high = from(i, side);
                    split(low, high, row);
                    numbers[half * side + i] +=
                        __builtin_popcount(not_zero(low)) + __builtin_popcount(not_zero(high));
                    if (too_large(low) | too_large(high)) mark(marks + first + half * side + i);
                    for (int p = 0; p < parts; ++p)
                        _mm512_store_si512(out + (2 * p + half) * tile_size + i * slab, row[p]);
                }
            }
        }
        for (int i = 0; i < panel && first + i < a.shape[0]; ++i)  // others have other terms
            __atomic_fetch_add(&marks[first + i].numbers, numbers[i], __ATOMIC_RELAXED);
    }
}

/// The same for columns of b: a row of a tile has two terms of each column side by side.  Numbers that
/// were of bfloat16 have one part.
int pack_columns(view<const float, 2> b, void* to, int64_t panel_bytes, line_mark* marks) {
    alignas(64) uint16_t zip[2 * side];
    for (uint16_t i = 0; i < side; ++i) zip[2 * i] = i, zip[2 * i + 1] = i + side;
    const __m512i order = _mm512_load_si512(zip);
    alignas(64) float copy[slab][side];
    __m512i second = _mm512_setzero_si512(), third = second;
    bool zeros = false;
    for (int64_t s = 0; s < b.shape[0]; s += slab)
        for (int64_t first = 0; first < b.shape[1]; first += panel) {
            part* out = tiles_at(to, first / panel * panel_bytes, s);
            for (int half = 0; half < 2; ++half) {
                const block from(b, s, first + half * side, copy);
                __mmask16 large = 0;
                const int64_t columns = b.shape[1] - first - half * side;
                const auto there = static_cast<__mmask16>(
                    columns >= side ? 0xffff : columns > 0 ? (1 << columns) - 1 : 0);
                for (int i = 0; i < side; ++i) {
                    __m512i pair[parts];
                    const vec<float> low = from(2 * i, 0), high = from(2 * i + 1, 0);
                    split(low, high, pair);
                    large |= too_large(low) | too_large(high);
                    zeros |= s + 2 * i < b.shape[0] && (there & ~not_zero(low));
                    zeros |= s + 2 * i + 1 < b.shape[0] && (there & ~not_zero(high));
                    second = _mm512_or_si512(second, pair[1]), third = _mm512_or_si512(third, pair[2]);
                    for (int p = 0; p < parts; ++p)
                        _mm512_store_si512(out + (2 * p + half) * tile_size + i * slab,
                                           _mm512_maskz_permutexvar_epi16(~0u, order, pair[p]));
                }
                for (int j = 0; large; ++j, large >>= 1)
                    if (large & 1) mark(marks + first + half * side + j);
            }
        }
    if (_mm512_test_epi32_mask(third, third)) return zeros ? with_zeros : parts;
    return _mm512_test_epi32_mask(second, second) ? 2 : 1;
}

struct tile_configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
    tile_configuration() {
        for (int i = 0; i < 8; ++i) row_bytes[i] = 64, rows[i] = side;
    }
};

/// Lines that are fetched while a product runs: of the next panel of b, whose latency is that of the
/// third-level cache, and of c.
struct errand {
    const char *b, *c;
    int64_t c_stride;
    int c_rows;

    /// A slab's share, where b's panel lasts for `matmul_height` rows.
    REFGSS_INLINE void run() {
        constexpr int lines = 2 * parts * tile_size * sizeof(part) / 64 * panel / matmul_height;
        for (int i = 0; i < lines; ++i, b += 64) _mm_prefetch(b, _MM_HINT_T1);
        for (int i = 0; i < 4 && c_rows > 0; ++i, --c_rows, c += c_stride) {
            _mm_prefetch(c, _MM_HINT_T0);
            _mm_prefetch(c + 64, _MM_HINT_T0);
        }
    }
};

/// sum (2, 2, side, side) of a panel of a and one of b, whose numbers have so many parts.
template <int Parts> void panel_product(int64_t k, const part* a, const part* b, float* sum, errand fetch) {
    // tiles 0 to 3 are the sums, 4 and 5 a part of a, 6 and 7 one of b
    auto load_a = [&](int p) {
        _tile_loadd(4, a + (2 * p) * tile_size, 2 * slab);
        _tile_loadd(5, a + (2 * p + 1) * tile_size, 2 * slab);
    };
    auto load_b = [&](int p) {
        _tile_loadd(6, b + (2 * p) * tile_size, 2 * slab);
        _tile_loadd(7, b + (2 * p + 1) * tile_size, 2 * slab);
    };
    auto multiply = []() {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    };
    const int64_t step = 2 * parts * tile_size, end = (k + slab - 1) / slab * step;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t s = 0; s < end; s += step, a += step, b += step) {  // one part changes at a time
        fetch.run();
        load_a(2);
        if constexpr (Parts == 2 || Parts == with_zeros) load_b(1), multiply();
        load_b(0), multiply();
        load_a(1), multiply();
        if constexpr (Parts >= 2) {
            load_b(1), multiply();
            load_a(0), multiply();
        }
        if constexpr (Parts >= parts) load_b(2), multiply();
        if constexpr (Parts == with_zeros) load_a(1), multiply();
    }
    a -= end, b -= end;
    for (int64_t s = 0; s < end; s += step, a += step, b += step) load_a(0), load_b(0), multiply();
    _tile_stored(0, sum, 4 * side);
    _tile_stored(1, sum + side * side, 4 * side);
    _tile_stored(2, sum + 2 * side * side, 4 * side);
    _tile_stored(3, sum + 3 * side * side, 4 * side);
}

/// `count` numbers of c, which has none beside them where it is strided.
REFGSS_INLINE void put(float* to, int64_t stride, int count, vec<float> x, bool add) {
    if (stride == 1) return store_some(to, add ? load_some(to, count) + x : x, count);
    for (int i = 0; i < count; ++i) to[i * stride] = add ? to[i * stride] + x[i] : x[i];
}

void multiply(int64_t k, const void* packed_a, const void* packed_b, int64_t, int64_t, int used,
              view<float, 2> c, bool add) {
    const auto product = used == 1       ? panel_product<1>
                         : used == 2     ? panel_product<2>
                         : used == parts ? panel_product<parts>
                                         : panel_product<with_zeros>;
    const tile_configuration configuration;
    _tile_loadconfig(&configuration);
    const int64_t size = (k + slab - 1) / slab * 2 * parts * tile_size;  // of a panel
    const auto* a = static_cast<const part*>(packed_a);
    const auto* b = static_cast<const part*>(packed_b);
    for (int64_t j = 0; j < c.shape[1]; j += panel, b += size)
        for (int64_t i = 0; i < c.shape[0]; i += panel) {
            const int rows = c.shape[0] - i < panel ? c.shape[0] - i : panel;
            float* to = c.at(i, j);
            const part* next = b + size + i * size / matmul_height;
            alignas(64) float sum[2][2][side][side];
            product(k, a + i / panel * size, b, sum[0][0][0],
                    {reinterpret_cast<const char*>(next), reinterpret_cast<const char*>(to),
                     c.stride[0] * 4, rows});
            for (int r = 0; r < rows; ++r, to += c.stride[0])
                for (int half = 0; half < 2; ++half) {
                    const int64_t left = c.shape[1] - j - half * side;
                    const int count = left <= 0 ? 0 : left < side ? left : side;
                    put(to + half * side * c.stride[1], c.stride[1], count,
                        load(sum[r / side][half][r % side]) * vec<float>(0x1p-80f), add);
                }
        }
    _tile_release();
}

}  // namespace
}  // namespace REFGSS_ISA

using namespace REFGSS_ISA;
template <> const matmul_kernels<float>& table<matmul_kernels<float>, isa::avx512>();
REFGSS_TABLE(matmul_kernels<float>,
             {panel, panel, depth, slab, parts * sizeof(part), false, pack_rows, pack_columns, multiply,
              &table<matmul_kernels<float>, isa::avx512>(), panel, slab + 1, limit, 4})

}  // namespace refgss
