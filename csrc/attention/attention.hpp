// attention.hpp: tiles of queries by keys (GSS-ATT): what the driver and the kernels agree on.
//
// The products of a tile are held transposed, s[key][query]: queries lie in the lanes, so that a maximum
// or a sum over keys is one of registers, and the weights are in the order in which values are added up.
#pragma once

#include <cstdint>

namespace refgss {

constexpr int tile_queries = 96;  // whole panels of rows and of columns of every instruction set
constexpr int tile_keys = 128;    // one run of terms (core/tile.hpp)
constexpr int bias_margin = 32;   // distances before 0 and after the last, that lanes may read

/// What sees what in a tile, counted from its first query and key: the query i sees the keys from
/// key_from[i] up to key_to[i], the key r is seen by the queries from query_from[r] up to query_to[r].
/// None of these ever falls.
struct sight {
    int queries, keys;
    int key_from[tile_queries], key_to[tile_queries];
    int query_from[tile_keys], query_to[tile_keys];
};

/// Of a head: products are multiplied by `scale`, and bias[i - r] is added where there is one.
template <class T> struct logit_map {
    T scale;
    const T* bias;
};

/// By query: the maximum so far, the sums of e^(a - maximum) and of that times the second product, and
/// what the last tile multiplied older sums by.
template <class T> struct softmax_sums {
    T maximum[tile_queries], sum[tile_queries], along[tile_queries], factor[tile_queries];
};

/// One query and a run of keys, each `width` numbers, one after another.
struct query_kernels {
    /// a[s] = scale keys[s]·q, and bias[-s] more where there is one.
    void (*logits)(int64_t count, int64_t width, const float* keys, const float* q, float scale,
                   const float* bias, float* a);
    /// a becomes e^(a - its largest); the sum.
    float (*weights)(int64_t count, float* a);
    /// y += Σ a[s] values[s].
    void (*add)(int64_t count, int64_t width, const float* values, const float* a, float* y);
};

template <class T> struct attention_kernels {
    int key_rows, columns;  // in a panel
    /// panels[p][d][i] = number d of row i of panel p: rows of keys (key_rows) and of queries (columns).
    void (*pack_keys)(int rows, int64_t width, const T* const* from, T* panels);
    void (*pack_queries)(int rows, int64_t width, const T* const* from, T* panels);
    /// panels[p][r][j] = number p columns + j of row r, `most` rows a panel.  Whether all are finite.
    bool (*pack_rows)(int rows, int most, int64_t width, const T* const* from, T* panels);

    /// s[r][i] = Σ_d keys[r][d] queries[i][d], where seen.
    void (*products)(const sight& tile, int64_t width, const T* keys, const T* queries, T* s);
    /// s becomes e^(a - maximum), 0 where not seen.  With `second`: its sums too, and s stays.
    void (*weigh)(const sight& tile, const logit_map<T>& map, T* s, const T* second, softmax_sums<T>& sums);
    /// s becomes P, the weights, and ds, dP so far, P (dP - along); both 0 where not seen.  The sums are
    /// those of all tiles, `sum` inverted.  Adds ds[r][i] to diagonals[i - r], where that is not null.
    void (*differentiate)(const sight& tile, const logit_map<T>& map, T* s, T* ds,
                          const softmax_sums<T>& sums, T* diagonals);
    /// out[i][:] += Σ_r s[r][i] rows[r][:], and out[r][:] += Σ_i s[r][i] rows[i][:]; `panels` of columns.
    /// Exact: nothing that is not seen is multiplied, not even by 0.
    void (*to_queries)(const sight& tile, bool exact, const T* s, int panels, const T* rows, T* out);
    void (*to_keys)(const sight& tile, bool exact, const T* s, int panels, const T* rows, T* out);
    /// out[i][:] *= factor[i].
    void (*rescale)(int queries, int64_t width, const T* factor, T* out);
    /// to[:] = from[:]/divisor.
    void (*divide)(int64_t width, const T* from, T divisor, T* to);
};

}  // namespace refgss
