// window.hpp: which positions a query sees, where keys lie, and attention itself, on checked arguments.
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
    static constexpr int32_t everything = 0;  // beside enum refgss_visible: all of `chunk` keys (GSS-BRT-9)

    int64_t chunk;
    int32_t visible;

    bool in_chunks() const { return visible == REFGSS_VISIBLE_CHUNK; }
    /// The query at t sees first(t) up to end(t), without the latter.
    int64_t first(int64_t t) const {
        switch (visible) {
            case REFGSS_VISIBLE_CHUNK: return t - t % chunk;
            case REFGSS_VISIBLE_SLIDING: return t < chunk ? 0 : t - chunk + 1;
            case REFGSS_VISIBLE_LOOK1: return t < 2 * chunk ? 0 : t - t % chunk - chunk;
            case everything: return 0;
            default: return t < chunk ? 0 : t - chunk;
        }
    }
    int64_t end(int64_t t) const {
        return visible == everything ? chunk : visible == REFGSS_VISIBLE_STRICT ? t : t + 1;
    }
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

/// Sizes of a call.
struct attention_shape {
    window see;
    int64_t B, L, heads, groups, D;
    int64_t keys;                // new ones: L, or those that are all seen
    std::vector<int64_t> start;  // the position of the first token, by row
    /// Of a state: whether its last slot has the last key, and there are keys, zeros, without a state; or
    /// the slot of a key is its position modulo the slots.
    bool in_order = false;

    int64_t heads_each() const { return heads / groups; }
    /// Distances that a bias is kept of.
    int64_t distances() const { return std::min(see.distances(), see.slots() + L); }
    /// The slot of the key at s in the next state of row b.
    int64_t next_slot(int64_t b, int64_t s) const {
        return in_order ? s - (start[b] + L - see.slots()) : s % see.slots();
    }
};

/// q (B,L,Hq,D), k, v (B,keys,G,D), bias (Hq,M), and the state (B,S,G,D); bias and state have no data where
/// there is none.
template <class T> struct attention_arrays {
    view<const T, 4> q, k, v;
    view<const T, 2> bias{};
    view<const T, 4> state_k{}, state_v{};
};

template <class T> struct attention_input : attention_shape {
    with_rows<T> q, k, v;
    const view<const T, 2> bias;
    const std::vector<T> scale;  // of each head, which multiplies products
    const bool bias_too;         // whether it multiplies the bias

    attention_input(const attention_shape& shape, const attention_arrays<T>& given, std::vector<T> scales,
                    bool bias_is_scaled = false)
        : attention_shape(shape), q(given.q), k(given.k), v(given.v), bias(given.bias),
          scale(std::move(scales)), bias_too(bias_is_scaled), has_state_(given.state_k.data != nullptr),
          state_k_(given.state_k), state_v_(given.state_v), zeros_(D, T(0)) {}
    row_of_keys<const T> row_keys(int64_t b, int64_t g) const { return row(k, state_k_, b, g); }
    row_of_keys<const T> row_values(int64_t b, int64_t g) const { return row(v, state_v_, b, g); }
    bool has_bias() const { return bias.data != nullptr; }
    /// What multiplies the bias of a head.
    T bias_scale(int64_t h) const { return bias_too ? scale[h] : T(1); }

private:
    const bool has_state_;
    const with_rows<T> state_k_, state_v_;
    const std::vector<T> zeros_;  // the key at all positions before the first token

    row_of_keys<const T> row(const with_rows<T>& fresh, const with_rows<T>& old, int64_t b, int64_t g) const {
        return {has_state_ ? old.at(b, 0, g) : zeros_.data(), keys ? fresh.at(b, 0, g) : nullptr,
                has_state_ ? old.stride(1) : 0, fresh.stride(1), see.slots(), start[b]};
    }
};

/// y = Σ softmax(q k scale + bias) v over the keys that a query sees (GSS-ATT-3, GSS-BRT-4).
template <class T> void attention(const attention_input<T>& in, const view<T, 4>& y);
/// The keys and the values that the next token can see, each in its slot, and zeros (GSS-ATT-7).
template <class T>
void keep_keys(const attention_input<T>& in, const view<T, 4>& keys, const view<T, 4>& values);

/// dy, the cotangents of the state, and gradients; without data where there are none, or not asked for.
template <class T> struct attention_gradient {
    view<const T, 4> dy;
    view<T, 4> dq, dk, dv;
    view<const T, 4> dstate_k{}, dstate_v{};
    view<T, 4> dstate0_k{}, dstate0_v{};
    view<T, 2> dbias{};
    view<T, 1> dscale{};  // of the sizes that `scale` has
};
template <class T> void attention_vjp(const attention_input<T>& in, const attention_gradient<T>& to);

/// The biases of all heads, with margins.
template <class T> class padded_bias {
public:
    explicit padded_bias(const attention_input<T>& in)
        : row_(in.distances() + 2 * bias_margin), values_(in.has_bias() ? sized(in.heads, row_) : 0, T(0)) {
        if (in.has_bias())
            for (int64_t h = 0; h < in.heads; ++h)
                for (int64_t n = 0; n < in.distances(); ++n)
                    values_[h * row_ + bias_margin + n] = in.bias_scale(h) * *in.bias.at(h, n);
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
