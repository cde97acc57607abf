// Attention, a tile of queries by keys at a time: products, softmax, and sums of rows.
#include "attention/attention.hpp"

#include <limits>

#include "core/dispatch.hpp"
#include "core/tile.hpp"
#include "kernels/normal.hpp"

namespace refgss {
namespace REFGSS_ISA {
namespace {

/// Rows into panels of `Width`, number after number.  A store of a whole register may run into what comes
/// later: the panels are followed by room for one.
template <class T, int Width>
void pack_across(int rows, int64_t width, const T* const* from, T* panels) {
    constexpr int lanes = vec<T>::lanes, parts = (Width + lanes - 1) / lanes;
    for (int first = 0; first < rows; first += Width, panels += Width * width) {
        const int count = rows - first < Width ? rows - first : Width;
        const T* const* row = from + first;
        int64_t d = 0;
        for (; d + lanes <= width; d += lanes) {
            vec<T> square[parts][lanes];
            for (int part = 0; part < parts; ++part) {
#pragma GCC unroll 16
                for (int i = 0; i < lanes; ++i)
                    square[part][i] = part * lanes + i < count ? load(row[part * lanes + i] + d)
                                                               : vec<T>(T(0));
                transpose(square[part]);
            }
            for (int j = 0; j < lanes; ++j)
                for (int part = 0; part < parts; ++part)
                    store(panels + (d + j) * Width + part * lanes, square[part][j]);
        }
        for (; d < width; ++d)
            for (int i = 0; i < Width; ++i)
                panels[d * Width + i] = i < count ? row[i][d] : T(0);
    }
}

template <class T>
bool pack_rows(int rows, int most, int64_t width, const T* const* from, T* panels) {
    constexpr int lanes = vec<T>::lanes, columns = tile_columns<T>;
    vec<T> odd(T(0));  // x - x is 0, or NaN
    for (int r = 0; r < rows; ++r) {
        T* to = panels + r * columns;
        for (int64_t first = 0; first < width; first += columns, to += most * columns) {
            if (first + columns <= width) {
                store(to, load(from[r] + first)), store(to + lanes, load(from[r] + first + lanes));
            } else {
                for (int64_t j = 0; j < columns; ++j)
                    to[j] = first + j < width ? from[r][first + j] : T(0);
            }
            const vec<T> a = load(to), b = load(to + lanes);
            odd = odd + (a - a) + (b - b);
        }
    }
    bool finite = true;
    for (int k = 0; k < lanes; ++k) finite = finite && odd[k] == T(0);
    return finite;
}

template <class T>
void products(const sight& tile, int64_t width, const T* keys, const T* queries, T* s) {
    constexpr int columns = tile_columns<T>;
    for (int i = 0; i < tile.queries; i += columns, queries += columns * width) {
        const int last = i + columns < tile.queries ? i + columns : tile.queries;
        const int end = tile.key_to[last - 1];
        for (int r = tile.key_from[i] / tile_rows * tile_rows; r < end; r += tile_rows)
            packed_product<T, tile_rows>(width, keys + r * width, queries, columns,
                                         s + r * tile_queries + i, tile_queries, false);
    }
}

/// A register of queries: rows of keys that some of them see, and those that all of them see.
struct seen_rows {
    int first, full, partial, end;
    seen_rows(const sight& tile, int i, int last)
        : first(tile.key_from[i]), full(tile.key_from[last]), partial(tile.key_to[i]),
          end(tile.key_to[last]) {
        if (full > partial) full = partial = end;
    }
};

/// f(r, who) for the rows that some query of a register sees, where who(yes, no) is `yes` in the lanes of
/// those that do.
template <class T, class F>
REFGSS_INLINE void for_seen(const sight& tile, int i, const seen_rows& rows, F&& f) {
    constexpr int lanes = vec<T>::lanes;
    T from[lanes], to[lanes];
    for (int k = 0; k < lanes; ++k) {
        const int query = i + k < tile.queries ? i + k : tile.queries - 1;
        from[k] = T(tile.key_from[query]), to[k] = T(tile.key_to[query]);
    }
    const vec<T> first = load(from), end = load(to);
    const auto some = [&](int r) {
        const vec<T> row{T(r)};
        return [&first, &end, row](vec<T> yes, vec<T> no) {
            using bits = typename lanes_of<T>::integers;
            return select<T>((bits)(row.v >= first.v) & (bits)(row.v < end.v), yes, no);
        };
    };
    for (int r = rows.first; r < rows.full; ++r) f(r, some(r));
    for (int r = rows.full; r < rows.partial; ++r) f(r, [](vec<T> yes, vec<T>) { return yes; });
    for (int r = rows.partial; r < rows.end; ++r) f(r, some(r));
}

/// Where no query of the register sees a key that another of the tile sees.
template <class T> REFGSS_INLINE void clear_unseen(const sight& tile, const seen_rows& rows, T* s) {
    const int end = tile.key_to[tile.queries - 1];
    for (int r = tile.key_from[0]; r < rows.first; ++r) store(s + r * tile_queries, vec<T>(T(0)));
    for (int r = rows.end; r < end; ++r) store(s + r * tile_queries, vec<T>(T(0)));
}

/// scale product - less, and the bias: with `less` the maximum, what softmax takes e to the power of.
template <class T>
REFGSS_INLINE vec<T> logit(const logit_map<T>& map, vec<T> product, int offset, vec<T> less) {
    if (map.bias) return fma(product, vec<T>(map.scale), load(map.bias + offset)) - less;
    return fma(product, vec<T>(map.scale), -less);
}
/// NaN is less than everything.
template <class T> REFGSS_INLINE vec<T> greater(vec<T> a, vec<T> b) {
    return typename vec<T>::raw(a.v > b.v ? a.v : b.v);
}

template <class T>
void weigh(const sight& tile, const logit_map<T>& map, T* s, const T* second, softmax_sums<T>& sums) {
    using V = vec<T>;
    using bits = typename lanes_of<T>::integers;
    const V lowest(-std::numeric_limits<T>::infinity()), zero(T(0));
    for (int i = 0; i < tile.queries; i += V::lanes) {
        const int last = i + V::lanes < tile.queries ? i + V::lanes : tile.queries;
        const seen_rows rows(tile, i, last - 1);
        const V before = load(sums.maximum + i);
        V most = before;
        for_seen<T>(tile, i, rows, [&](int r, auto who) {
            const V a = logit(map, load(s + r * tile_queries + i), i - r, zero);
            most = greater<T>(who(a, lowest), most);
        });
        const V top = select<T>((bits)(most.v == lowest.v), zero, most);  // nothing seen so far
        const V factor = exp(before - top);
        V sum(T(0)), along(T(0));
        for_seen<T>(tile, i, rows, [&](int r, auto who) {
            T* at = s + r * tile_queries + i;
            const V p = who(exp(logit(map, load(at), i - r, top)), zero);
            sum = sum + p;
            if (second) along = along + who(p * load(second + r * tile_queries + i), zero);
            else store(at, p);
        });
        if (!second) clear_unseen(tile, rows, s + i);
        store(sums.maximum + i, most);
        store(sums.factor + i, factor);
        store(sums.sum + i, load(sums.sum + i) * factor + sum);
        if (second) store(sums.along + i, load(sums.along + i) * factor + along);
    }
}

template <class T>
void differentiate(const sight& tile, const logit_map<T>& map, T* s, T* ds,
                   const softmax_sums<T>& sums, T* diagonals) {
    using V = vec<T>;
    for (int i = 0; i < tile.queries; i += V::lanes) {
        const int last = i + V::lanes < tile.queries ? i + V::lanes : tile.queries;
        const seen_rows rows(tile, i, last - 1);
        const V most = load(sums.maximum + i), inverse = load(sums.sum + i), along = load(sums.along + i);
        for_seen<T>(tile, i, rows, [&](int r, auto who) {
            T *at = s + r * tile_queries + i, *d = ds + r * tile_queries + i;
            const V p = who(exp(logit(map, load(at), i - r, most)) * inverse, V(T(0)));
            const V dp = who(p * (load(d) - along), V(T(0)));
            store(at, p);
            store(d, dp);
            if (diagonals == nullptr) return;
            T* sum = diagonals + (i - r);
            if (last - i == V::lanes) store(sum, load(sum) + dp);
            else store_some(sum, load_some(sum, last - i) + dp, last - i);
        });
        clear_unseen(tile, rows, s + i);
        clear_unseen(tile, rows, ds + i);
    }
}

/// out[a][:] += Σ_b s[a][b] rows[b][:] for first <= a < lines; a may be queries or keys, b the other.
template <class T, int LineStep, int TermStep>
void add_rows(int first_line, int lines, const int* from, const int* to, bool exact, const T* s, int panels,
              const T* rows, int most, T* out) {
    constexpr int columns = tile_columns<T>;
    const int64_t width = int64_t(panels) * columns;
    for (int panel = 0; panel < panels; ++panel, rows += most * columns, out += columns)
        for (int i = first_line, height; i < lines; i += height) {
            const int left = exact ? 1 : lines - i;
            auto product = packed_product<T, 1, LineStep, TermStep>;
            height = 1;
            if (left >= tile_rows) product = packed_product<T, tile_rows, LineStep, TermStep>, height = tile_rows;
            else if (left >= 4) product = packed_product<T, 4, LineStep, TermStep>, height = 4;
            else if (left >= 2) product = packed_product<T, 2, LineStep, TermStep>, height = 2;
            const int first = from[i], terms = to[i + height - 1] - first;
            if (terms > 0)
                product(terms, s + i * LineStep + first * TermStep, rows + first * columns, columns,
                        out + i * width, width, true);
        }
}

template <class T>
void to_queries(const sight& tile, bool exact, const T* s, int panels, const T* rows, T* out) {
    add_rows<T, 1, tile_queries>(0, tile.queries, tile.key_from, tile.key_to, exact, s, panels, rows,
                                 tile_keys, out);
}
template <class T>
void to_keys(const sight& tile, bool exact, const T* s, int panels, const T* rows, T* out) {
    const int first = tile.key_from[0], end = tile.key_to[tile.queries - 1];  // others have no products
    add_rows<T, tile_queries, 1>(first, end, tile.query_from, tile.query_to, exact, s, panels, rows,
                                 tile_queries, out);
}

template <class T> void rescale(int queries, int64_t width, const T* factor, T* out) {
    for (int i = 0; i < queries; ++i, out += width) {
        if (factor[i] == T(1)) continue;
        const vec<T> f(factor[i]);
        for (int64_t d = 0; d < width; d += vec<T>::lanes) store(out + d, load(out + d) * f);
    }
}

template <class T> void divide(int64_t width, const T* from, T divisor, T* to) {
    constexpr int lanes = vec<T>::lanes;
    int64_t d = 0;
    for (; d + lanes <= width; d += lanes) store(to + d, load(from + d) / vec<T>(divisor));
    for (; d < width; ++d) to[d] = from[d] / divisor;
}

// ---- one query ----------------------------------------------------------------------------------

/// Σ x, in a fixed order.
REFGSS_INLINE float sum_of_lanes(vec<float> x) {
    float s = 0;
    for (int k = 0; k < vec<float>::lanes; ++k) s += x[k];
    return s;
}

template <int Rows>
REFGSS_INLINE void dot_rows(int64_t width, const float* keys, const float* q, float* products) {
    constexpr int lanes = vec<float>::lanes;
    vec<float> sum[Rows];
    for (int r = 0; r < Rows; ++r) sum[r] = vec<float>(0.0f);
    int64_t d = 0;
    for (; d + lanes <= width; d += lanes) {
        const vec<float> x = load(q + d);
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) sum[r] = fma(x, load(keys + r * width + d), sum[r]);
    }
    for (int r = 0; r < Rows; ++r) {
        products[r] = sum_of_lanes(sum[r]);
        for (int64_t j = d; j < width; ++j) products[r] += q[j] * keys[r * width + j];
    }
}

void query_logits(int64_t count, int64_t width, const float* keys, const float* q, float scale,
                  const float* bias, float* a) {
    constexpr int rows = 8;
    int64_t s = 0;
    for (; s + rows <= count; s += rows) dot_rows<rows>(width, keys + s * width, q, a + s);
    for (; s < count; ++s) dot_rows<1>(width, keys + s * width, q, a + s);
    for (s = 0; s < count; ++s) a[s] = a[s] * scale + (bias ? bias[-s] : 0.0f);
}

float query_weights(int64_t count, float* a) {
    using F = vec<float>;
    float most = -std::numeric_limits<float>::infinity();
    for (int64_t s = 0; s < count; ++s) most = a[s] > most ? a[s] : most;
    F sum(0.0f);
    for (int64_t s = 0; s < count; s += F::lanes) {
        const int some = count - s < F::lanes ? static_cast<int>(count - s) : F::lanes;
        F e = exp(load_some(a + s, some) - F(most));
        for (int k = some; k < F::lanes; ++k) e.set(k, 0.0f);
        store_some(a + s, e, some);
        sum = sum + e;
    }
    return sum_of_lanes(sum);
}

void query_add(int64_t count, int64_t width, const float* values, const float* a, float* y) {
    constexpr int lanes = vec<float>::lanes, columns = 4;
    int64_t d = 0;
    for (; d + columns * lanes <= width; d += columns * lanes) {
        vec<float> sum[columns];
        for (int j = 0; j < columns; ++j) sum[j] = load(y + d + j * lanes);
        for (int64_t s = 0; s < count; ++s) {
            const vec<float> w(a[s]);
#pragma GCC unroll 4
            for (int j = 0; j < columns; ++j)
                sum[j] = fma(w, load(values + s * width + d + j * lanes), sum[j]);
        }
        for (int j = 0; j < columns; ++j) store(y + d + j * lanes, sum[j]);
    }
    for (; d < width; ++d)
        for (int64_t s = 0; s < count; ++s) y[d] += a[s] * values[s * width + d];
}

template <class T>
constexpr attention_kernels<T> of_tiles{
    tile_rows, tile_columns<T>, pack_across<T, tile_rows>, pack_across<T, tile_columns<T>>, pack_rows<T>,
    products<T>, weigh<T>, differentiate<T>, to_queries<T>, to_keys<T>, rescale<T>, divide<T>};

}  // namespace
}  // namespace REFGSS_ISA

using namespace REFGSS_ISA;
REFGSS_TABLE(query_kernels, {query_logits, query_weights, query_add})
REFGSS_TABLE(attention_kernels<float>, of_tiles<float>)
REFGSS_TABLE(attention_kernels<double>, of_tiles<double>)

}  // namespace refgss
