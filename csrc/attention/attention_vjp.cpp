// attention_vjp.cpp: the gradient of attention (GSS-ATT-9): the weights of a tile of queries are formed
// again, from the logits of all its keys; then each tile of keys gives its part of dq, dk and dv.
#include <limits>
#include <memory>

#include "attention/window.hpp"
#include "core/dispatch.hpp"

namespace refgss {
namespace {

// Of keys: how many stay packed while a segment is worked on, and have their logits kept while a tile of
// queries is.  Others are packed, and formed, again.
constexpr int64_t most_packed = 16, most_formed = 32;

/// Positions of a row whose queries see no keys but these.
struct segment {
    int64_t b, from, to;  // of keys
    int64_t query_from, query_to;
};

std::vector<segment> segments_of(const attention_shape& in) {
    std::vector<segment> found;
    for (int64_t b = 0; b < in.B; ++b) {
        const int64_t start = in.start[b], end = start + in.L;
        if (in.see.visible == window::everything) {
            found.push_back({b, 0, in.keys, start, end});
            continue;
        }
        const int64_t from = in.see.first(start);
        const int64_t size = in.see.in_chunks() ? std::max(in.see.chunk, in.see.block()) : end - from;
        for (int64_t s = from, to; s < end; s = to) {
            to = std::min(end, s + size);
            found.push_back({b, s, to, std::max(s, start), to});
        }
    }
    return found;
}

/// Tiles of keys of a segment, packed once where there are few.
template <class T> class key_tiles {
public:
    struct tile {
        int64_t from;
        int many;
        bool finite;
        const T *keys, *values, *rows;
    };
    key_tiles(const attention_kernels<T>& kernel, int64_t D, int64_t width, int64_t tiles)
        : kernel_(kernel), D_(D), places_(std::min(tiles, most_packed)),
          across_(sized(tile_keys + kernel.key_rows, D) + 64), along_(sized(tile_keys, width)),
          keys_(sized(places_, across_)), values_(sized(places_, across_)), rows_(sized(places_, along_)),
          packed_(places_) {}

    void begin(const window& see, const segment& part, row_of_keys<const T> keys, row_of_keys<const T> values) {
        from_keys_ = keys, from_values_ = values;
        cuts_.clear();
        for (int64_t s = part.from; s < part.to; s = std::min(see.cut(s), part.to)) cuts_.push_back(s);
        cuts_.push_back(part.to);
        for (tile& t : packed_) t.from = -1;
    }
    int64_t count() const { return static_cast<int64_t>(cuts_.size()) - 1; }
    int64_t from(int64_t i) const { return cuts_[i]; }
    int64_t to(int64_t i) const { return cuts_[i + 1]; }
    const tile& operator[](int64_t i) {
        const int64_t place = i % places_;
        tile& t = packed_[place];
        if (t.from == cuts_[i]) return t;
        t.from = cuts_[i], t.many = static_cast<int>(cuts_[i + 1] - cuts_[i]);
        T *keys = keys_.data() + place * across_, *values = values_.data() + place * across_;
        T* rows = rows_.data() + place * along_;
        t.keys = keys, t.values = values, t.rows = rows;
        const T* const* from = pointers_.of(t.many, [&](int r) { return from_keys_.at(t.from + r); });
        kernel_.pack_keys(t.many, D_, from, keys);
        t.finite = kernel_.pack_rows(t.many, tile_keys, D_, from, rows);
        from = pointers_.of(t.many, [&](int r) { return from_values_.at(t.from + r); });
        kernel_.pack_keys(t.many, D_, from, values);
        return t;
    }

private:
    const attention_kernels<T>& kernel_;
    int64_t D_, places_, across_, along_;
    scratch<T> keys_, values_, rows_;
    std::vector<tile> packed_;
    std::vector<int64_t> cuts_;
    row_of_keys<const T> from_keys_{}, from_values_{};
    row_pointers<T> pointers_;
};

/// What a thread needs.
template <class T> struct gradient_space {
    static constexpr int64_t diagonal = tile_keys + tile_queries;
    const attention_kernels<T>& kernel = kernels<attention_kernels<T>>();
    const int panels;
    const int64_t width, of_tile, tiles;
    key_tiles<T> keys;
    scratch<T> queries, dqueries, rows, drows, s, ds, dq, dk, dv;
    std::vector<T> diagonals;
    softmax_sums<T> sums;
    row_pointers<T> pointers;

    gradient_space(int64_t D, int64_t longest)
        : panels(static_cast<int>(whole_panels(D, kernel.columns) / kernel.columns)),
          width(int64_t(panels) * kernel.columns), of_tile((tile_keys + kernel.key_rows) * tile_queries),
          tiles(longest / (tile_keys / 2) + 2), keys(kernel, D, width, tiles), queries(sized(tile_queries, D)),
          dqueries(sized(tile_queries, D)), rows(sized(tile_queries, width)),
          drows(sized(tile_queries, width)), s(places() * of_tile), ds(places() * of_tile),
          dq(sized(tile_queries, width)), dk(sized(longest, width)), dv(sized(longest, width)),
          diagonals(diagonal + bias_margin) {}
    int64_t places() const { return std::min(tiles, most_formed); }
};

/// What the gradients of biases and scales are made of, by head of queries: the sum of dS over each
/// distance, and at last Σ dS q k.
struct logit_sums {
    double* row;
    int64_t distances;
    double* of(int64_t each) const { return row + each * (distances + 1); }
};

/// The gradient of one segment and one head of keys; `sums` may have no rows.
template <class T> class segment_gradient {
public:
    segment_gradient(const attention_input<T>& in, const padded_bias<T>& bias,
                     const attention_gradient<T>& to, const with_rows<T>& dy, const segment& part,
                     int64_t g, gradient_space<T>& space, logit_sums sums)
        : in_(in), bias_(bias), to_(to), part_(part), g_(g), space_(space), dy_(dy), sums_(sums) {}

    void run() {
        space_.keys.begin(in_.see, part_, in_.row_keys(part_.b, g_), in_.row_values(part_.b, g_));
        const int64_t size = (part_.to - part_.from) * space_.width;
        std::fill_n(space_.dk.data(), size, T(0));
        std::fill_n(space_.dv.data(), size, T(0));
        for (int64_t each = 0; each < in_.heads_each(); ++each)
            for (int64_t t = part_.query_from; t < part_.query_to; t += tile_queries) {
                if (stopping()) return;
                query_tile(each, t);
            }
        write(space_.dk.data(), in_.scale[g_ * in_.heads_each()], to_.dk, to_.dstate_k, to_.dstate0_k);
        write(space_.dv.data(), T(1), to_.dv, to_.dstate_v, to_.dstate0_v);
    }

private:
    using key_tile = typename key_tiles<T>::tile;

    /// The products of a tile of keys, anew or as they were kept.
    struct place {
        T *s, *ds;
        bool kept;
    };
    place place_of(int64_t tile) const {
        const int64_t i = tile - first_;
        const bool kept = i < space_.places() - 1;  // the last place serves all others
        const int64_t at = (kept ? i : space_.places() - 1) * space_.of_tile;
        return {space_.s.data() + at, space_.ds.data() + at, kept};
    }
    void form(const sight& seen, const key_tile& keys, const place& at) {
        space_.kernel.products(seen, in_.D, keys.keys, space_.queries.data(), at.s);
        space_.kernel.products(seen, in_.D, keys.values, space_.dqueries.data(), at.ds);
    }

    void query_tile(int64_t each, int64_t t) {
        const auto& kernel = space_.kernel;
        const int64_t b = part_.b, h = g_ * in_.heads_each() + each, start = in_.start[b];
        const int many = static_cast<int>(std::min<int64_t>(tile_queries, part_.query_to - t));
        const T* const* from = space_.pointers.of(many, [&](int i) { return in_.q.at(b, t + i - start, h); });
        kernel.pack_queries(many, in_.D, from, space_.queries.data());
        const bool finite = kernel.pack_rows(many, tile_queries, in_.D, from, space_.rows.data());
        from = space_.pointers.of(many, [&](int i) { return dy_.at(b, t + i - start, h); });
        kernel.pack_queries(many, in_.D, from, space_.dqueries.data());
        const bool dfinite = kernel.pack_rows(many, tile_queries, in_.D, from, space_.drows.data());
        std::fill_n(space_.dq.data(), many * space_.width, T(0));

        const int64_t low = in_.see.first(t), high = in_.see.end(t + many - 1);
        for (first_ = 0; first_ < space_.keys.count() && space_.keys.to(first_) <= low;) ++first_;
        sum_up(h, t, many, high);
        for (int64_t tile = first_; tile < space_.keys.count() && space_.keys.from(tile) < high; ++tile) {
            if (stopping()) return;
            const key_tile& keys = space_.keys[tile];
            const sight seen = sight_of(in_.see, t, many, keys.from, keys.many);
            if (!anything_seen(seen)) continue;
            const place at = place_of(tile);
            if (!at.kept) form(seen, keys, at);
            const logit_map<T> map{in_.scale[h], bias_.at(h, t, keys.from)};
            const bool by_distance = sums_.row && in_.has_bias();
            T* diagonals = by_distance ? space_.diagonals.data() + tile_keys : nullptr;
            std::fill(space_.diagonals.begin(), space_.diagonals.end(), T(0));
            kernel.differentiate(seen, map, at.s, at.ds, space_.sums, diagonals);
            if (by_distance) add_diagonals(each, t - keys.from);
            const int64_t row = (keys.from - part_.from) * space_.width;
            kernel.to_keys(seen, !dfinite, at.s, space_.panels, space_.drows.data(), space_.dv.data() + row);
            kernel.to_keys(seen, !finite, at.ds, space_.panels, space_.rows.data(), space_.dk.data() + row);
            kernel.to_queries(seen, !keys.finite, at.ds, space_.panels, keys.rows, space_.dq.data());
        }
        for (int i = 0; i < many; ++i) {
            const T* dq = space_.dq.data() + i * space_.width;
            T* out = to_.dq.at(b, t + i - start, h, int64_t(0));
            for (int64_t d = 0; d < in_.D; ++d) out[d] = in_.scale[h] * dq[d];
        }
        if (sums_.row == nullptr) return;
        double& along = sums_.of(each)[sums_.distances];  // Σ dS q k = Σ q dq, before dq is scaled
        for (int i = 0; i < many; ++i) {
            const T *query = in_.q.at(b, t + i - start, h), *dq = space_.dq.data() + i * space_.width;
            for (int64_t d = 0; d < in_.D; ++d)
                along += static_cast<double>(query[d]) * static_cast<double>(dq[d]);
        }
    }

    /// The softmax of each query over all of its keys, and Σ P dP.
    void sum_up(int64_t h, int64_t t, int many, int64_t high) {
        softmax_sums<T>& sums = space_.sums;
        std::fill_n(sums.maximum, tile_queries, -std::numeric_limits<T>::infinity());
        std::fill_n(sums.sum, tile_queries, T(0));
        std::fill_n(sums.along, tile_queries, T(0));
        for (int64_t tile = first_; tile < space_.keys.count() && space_.keys.from(tile) < high; ++tile) {
            if (stopping()) return;
            const key_tile& keys = space_.keys[tile];
            const sight seen = sight_of(in_.see, t, many, keys.from, keys.many);
            if (!anything_seen(seen)) continue;
            const place at = place_of(tile);
            form(seen, keys, at);
            space_.kernel.weigh(seen, {in_.scale[h], bias_.at(h, t, keys.from)}, at.s, at.ds, sums);
        }
        for (int i = 0; i < tile_queries; ++i) {
            sums.along[i] /= sums.sum[i];
            sums.sum[i] = 1 / sums.sum[i];
        }
    }

    void add_diagonals(int64_t each, int64_t distance) {
        double* row = sums_.of(each);
        for (int64_t j = 0; j < space_.diagonal; ++j) {
            const int64_t n = distance + j - tile_keys;
            if (n >= 0 && n < in_.distances()) row[n] += static_cast<double>(space_.diagonals[j]);
        }
    }

    /// Gradients of the keys, or of the values, to where these came from, with the cotangents of their slots.
    void write(const T* sums, T scale, const view<T, 4>& fresh, const view<const T, 4>& dstate,
               const view<T, 4>& dstate0) {
        const int64_t b = part_.b, start = in_.start[b], S = in_.see.slots();
        const int64_t kept = in_.see.first(start + in_.L);
        for (int64_t s = part_.from; s < part_.to; ++s, sums += space_.width) {
            T* out = s >= start ? fresh.at(b, s - start, g_, int64_t(0))
                     : dstate0.data ? dstate0.at(b, s % S, g_, int64_t(0)) : nullptr;
            if (out == nullptr) continue;
            const T* more = dstate.data && s >= kept ? dstate.at(b, in_.next_slot(b, s), g_, int64_t(0)) : nullptr;
            for (int64_t d = 0; d < in_.D; ++d)
                out[d] = scale * sums[d] + (more ? more[d * dstate.stride[3]] : T(0));
        }
    }

    const attention_input<T>& in_;
    const padded_bias<T>& bias_;
    const attention_gradient<T>& to_;
    const segment part_;
    const int64_t g_;
    gradient_space<T>& space_;
    const with_rows<T>& dy_;
    const logit_sums sums_;
    int64_t first_ = 0;  // the first tile of keys that the queries see
};

template <class T> void clear(const view<T, 4>& v) {
    for (int64_t i = 0; v.data && i < v.shape[0] * v.shape[1] * v.shape[2]; ++i)
        std::fill_n(v.at(i / v.shape[2] / v.shape[1], i / v.shape[2] % v.shape[1], i % v.shape[2], int64_t(0)),
                    v.shape[3], T(0));
}

/// dbias and dscale of a head, from its sums.
template <class T>
void of_logits(const attention_input<T>& in, const attention_gradient<T>& to, int64_t h,
               const std::vector<double>& sum) {
    const int64_t M = in.distances(), columns = to.dbias.data ? to.dbias.shape[1] : 0;
    for (int64_t n = 0; n < columns; ++n)
        *to.dbias.at(h, n) = static_cast<T>(n < M ? static_cast<double>(in.bias_scale(h)) * sum[n] : 0.0);
    if (to.dscale.data == nullptr) return;
    double along = sum[M];
    for (int64_t n = 0; n < M && in.has_bias(); ++n) along += static_cast<double>(*in.bias.at(h, n)) * sum[n];
    *to.dscale.at(h) = static_cast<T>(along);
}

}  // namespace

/// Heads and runs of segments are worked on at a time; what they add to dbias is summed in order.
template <class T> void attention_vjp(const attention_input<T>& in, const attention_gradient<T>& to) {
    clear(to.dstate0_k), clear(to.dstate0_v);
    const std::vector<segment> segments = segments_of(in);
    const int64_t count = segments.size(), G = in.groups, M = in.distances(), each = in.heads_each();
    const bool logits = to.dbias.data || to.dscale.data;
    const int64_t parts = logits ? std::min(count, std::max<int64_t>(1, 64 / G)) : count;
    const int64_t sums_each = logits ? sized(each, M + 1) : 0;
    std::vector<double> sums(sized(sized(G, parts), sums_each), 0.0);
    int64_t longest = 0;
    for (const segment& part : segments) longest = std::max(longest, part.to - part.from);
    const padded_bias<T> bias(in);
    const with_rows<T> dy(to.dy);
    const int slots = slots_for(G * parts);
    std::vector<std::unique_ptr<gradient_space<T>>> spaces(slots);
    for (auto& space : spaces) space = std::make_unique<gradient_space<T>>(in.D, longest);
    parallel_for(G * parts, slots, [&](int64_t item, int slot) {
        const int64_t g = item / parts, part = item % parts;
        const logit_sums mine{logits ? sums.data() + item * sums_each : nullptr, M};
        for (int64_t i = part * count / parts; i < (part + 1) * count / parts; ++i)
            segment_gradient<T>(in, bias, to, dy, segments[i], g, *spaces[slot], mine).run();
    });
    for (int64_t h = 0; h < in.heads && logits; ++h) {
        std::vector<double> sum(M + 1, 0.0);
        for (int64_t part = 0; part < parts; ++part) {
            const double* row = sums.data() + (h / each * parts + part) * sums_each + h % each * (M + 1);
            for (int64_t n = 0; n <= M; ++n) sum[n] += row[n];
        }
        of_logits(in, to, h, sum);
    }
}
template void attention_vjp(const attention_input<float>&, const attention_gradient<float>&);
template void attention_vjp(const attention_input<double>&, const attention_gradient<double>&);

}  // namespace refgss
