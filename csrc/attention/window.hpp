// window.hpp: which positions a query sees, where keys lie, and the checked arguments of attention.
#pragma once

#include <algorithm>
#include <vector>

#include "attention/attention.hpp"
#include "core/array.hpp"
#include "core/scratch.hpp"
#include "core/threads.hpp"

namespace refgss {

/// Positions count the tokens of a row (GSS-ATT-1, GSS-ATT-2); under REFGSS_CHUNK, from the beginning of
/// the first chunk that the call meets.
struct window {
    int64_t chunk;
    int32_t visible;

    bool in_chunks() const { return visible == REFGSS_VISIBLE_CHUNK; }
    /// The query at t sees first(t) up to end(t), without the latter.
    int64_t first(int64_t t) const {
        switch (visible) {
            case REFGSS_VISIBLE_CHUNK: return t - t % chunk;
            case REFGSS_VISIBLE_SLIDING: return t < chunk ? 0 : t - chunk + 1;
            case REFGSS_VISIBLE_LOOK1: return t < 2 * chunk ? 0 : t - t % chunk - chunk;
            default: return t < chunk ? 0 : t - chunk;
        }
    }
    int64_t end(int64_t t) const { return visible == REFGSS_VISIBLE_STRICT ? t : t + 1; }
    int64_t slots() const { return visible == REFGSS_VISIBLE_LOOK1 ? 2 * chunk : chunk; }
    int64_t distances() const {
        return visible == REFGSS_VISIBLE_LOOK1     ? 2 * chunk
               : visible == REFGSS_VISIBLE_STRICT ? chunk + 1
                                                  : chunk;
    }
    /// Where the tile of keys ends that has s: the same cuts in every call, so that outputs do not depend
    /// on how a sequence is cut into calls.  No chunk that fits is cut.
    int64_t cut(int64_t s) const {
        if (!in_chunks()) return (s / tile_keys + 1) * tile_keys;
        if (chunk <= tile_keys) {
            const int64_t whole = tile_keys / chunk * chunk;
            return (s / whole + 1) * whole;
        }
        const int64_t start = s - s % chunk;
        return start + std::min(chunk, ((s - start) / tile_keys + 1) * tile_keys);
    }
    /// Positions that one item of work has: whole chunks, where these are short.
    int64_t block() const {
        constexpr int64_t usual = 512;
        return in_chunks() && chunk <= usual ? usual / chunk * chunk : usual;
    }
};

/// An array whose last axis is contiguous: the view itself, or a copy of it.
template <class T> class with_rows {
public:
    explicit with_rows(view<const T, 4> v) : v_(v) {
        const int64_t B = v.shape[0], L = v.shape[1], H = v.shape[2], D = v.shape[3];
        if (v.stride[3] == 1 || D < 2) return;
        copy_.resize(v.size());
        v_ = {copy_.data(), {B, L, H, D}, {L * H * D, H * D, D, 1}};
        serial_for(B * L * H, [&](int64_t i) {
            const T* row = v.at(i / H / L, i / H % L, i % H, int64_t(0));
            for (int64_t d = 0; d < D; ++d) copy_[i * D + d] = row[d * v.stride[3]];
        });
    }
    with_rows(const with_rows&) = delete;
    const T* at(int64_t b, int64_t l, int64_t h) const { return v_.at(b, l, h, int64_t(0)); }
    int64_t stride(int axis) const { return v_.stride[axis]; }

private:
    view<const T, 4> v_;
    std::vector<T> copy_;
};

/// The keys or the values of a row, those of its state among them; those of the head g at width D.
template <class T> struct row_of_keys {
    T* old;      // of the slot 0
    T* fresh;    // of the first token of the call
    int64_t slot_stride, stride, slots, start;

    T* at(int64_t s) const { return s < start ? old + s % slots * slot_stride : fresh + (s - start) * stride; }
};

/// What the arrays of a call must be like, by their shapes.
struct attention_shape {
    window see;
    int64_t B, L, heads, groups, D;
    std::vector<int64_t> start;  // the position of the first token, by row

    /// q (B,L,Hq,D), k (B,L,G,D), t (B) or NULL.
    attention_shape(const refgss_array* q, const refgss_array* k, const int64_t* state_t,
                    const refgss_window* w);
    int64_t heads_each() const { return heads / groups; }
    /// Distances that a bias is kept of.
    int64_t distances() const { return std::min(see.distances(), see.slots() + L); }
};

/// q (B,L,Hq,D), k, v (B,L,G,D), bias (Hq,M), and the state, checked.
template <class T> struct attention_input : attention_shape {
    T scale;
    with_rows<T> q, k, v;
    const bool has_bias, has_state;
    view<const T, 2> bias{};

    attention_input(const refgss_array* q, const refgss_array* k, const refgss_array* v,
                    const refgss_array* bias, const refgss_array* state_k, const refgss_array* state_v,
                    const int64_t* state_t, const refgss_window* w);
    row_of_keys<const T> keys(int64_t b, int64_t g) const { return row(k, state_k_, b, g); }
    row_of_keys<const T> values(int64_t b, int64_t g) const { return row(v, state_v_, b, g); }

private:
    with_rows<T> state_k_, state_v_;

    row_of_keys<const T> row(const with_rows<T>& fresh, const with_rows<T>& old, int64_t b, int64_t g) const {
        return {has_state ? old.at(b, 0, g) : nullptr, L ? fresh.at(b, 0, g) : nullptr, old.stride(1),
                fresh.stride(1), see.slots(), start[b]};
    }
};

/// An output of four axes, the last contiguous.
template <class T>
view<T, 4> rows_out(const refgss_array* a, const char* name, int64_t B, int64_t L, int64_t H, int64_t D) {
    auto v = shaped<T, 4>(a, name, B, L, H, D);
    if (v.stride[3] != 1 && D > 1)
        throw error{REFGSS_ERROR_VALUE, std::string(name) + " must have a contiguous last axis"};
    return v;
}

/// B integers as an array, for the check of what shares memory; NULL where they are.
class whole_numbers {
public:
    whole_numbers(const int64_t* data, int64_t B)
        : array_{const_cast<int64_t*>(data), REFGSS_F64, 1, {B}, {1}} {}
    operator const refgss_array*() const { return array_.data ? &array_ : nullptr; }

private:
    refgss_array array_;
};

/// (B,H,D) as (B,1,H,D); another rank stays, and is refused.
class one_token {
public:
    one_token(const refgss_array* a) : given_(a) {
        if (a == nullptr || a->rank != 3) return;
        array_ = *a, given_ = &array_;
        array_.rank = 4, array_.shape[1] = 1, array_.stride[1] = 0;
        for (int i = 1; i < 3; ++i) array_.shape[i + 1] = a->shape[i], array_.stride[i + 1] = a->stride[i];
    }
    one_token(const one_token&) = delete;
    operator const refgss_array*() const { return given_; }

private:
    const refgss_array* given_;
    refgss_array array_;
};

/// The biases of all heads, with margins.
template <class T> class padded_bias {
public:
    explicit padded_bias(const attention_input<T>& in)
        : row_(in.distances() + 2 * bias_margin), values_(in.has_bias ? in.heads * row_ : 0, T(0)) {
        if (in.has_bias)
            for (int64_t h = 0; h < in.heads; ++h)
                for (int64_t n = 0; n < in.distances(); ++n)
                    values_[h * row_ + bias_margin + n] = *in.bias.at(h, n);
    }
    /// Of the query at t, of the key at s.
    const T* at(int64_t h, int64_t t, int64_t s) const {
        return values_.empty() ? nullptr : values_.data() + h * row_ + bias_margin + (t - s);
    }

private:
    int64_t row_;
    std::vector<T> values_;
};

/// The queries from t on and the keys from s on.
sight sight_of(const window& see, int64_t t, int queries, int64_t s, int keys);
inline bool anything_seen(const sight& tile) { return tile.key_to[tile.queries - 1] > tile.key_from[0]; }

/// Rows of some tokens, into panels.
template <class T> class row_pointers {
public:
    template <class F> const T* const* of(int count, const F& at) {
        for (int i = 0; i < count; ++i) rows_[i] = at(i);
        return rows_;
    }

private:
    const T* rows_[tile_keys > tile_queries ? tile_keys : tile_queries];
};

/// Rows of one head lie far apart: no processor foresees the next ones, so they are called for, a share
/// of them, while others are worked on.
template <class F> void prefetch_rows(int64_t rows, int64_t share, int64_t shares, int64_t width, const F& at) {
    for (int64_t r = rows * share / shares; r < rows * (share + 1) / shares; ++r) {
        const auto* row = at(r);
        for (int64_t d = 0; d < width; d += 64 / sizeof(*row)) __builtin_prefetch(row + d, 0, 2);
    }
}

inline int64_t whole_panels(int64_t lines, int64_t panel) { return (lines + panel - 1) / panel * panel; }

}  // namespace refgss
