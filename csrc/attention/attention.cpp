// attention.cpp: attention, a block of queries of one head at a time, keys tile by tile, with the softmax
// formed online (GSS-ATT-18).  A result depends neither on the number of threads nor on how a
// sequence is cut into calls.
#include <cmath>
#include <limits>
#include <memory>

#include "attention/window.hpp"
#include "core/dispatch.hpp"

namespace refgss {

sight sight_of(const window& see, int64_t t, int queries, int64_t s, int keys) {
    sight tile;
    tile.queries = queries, tile.keys = keys;
    const auto inside = [&](int64_t position) {
        return static_cast<int>(std::clamp<int64_t>(position - s, 0, keys));
    };
    for (int i = 0; i < queries; ++i) {
        tile.key_from[i] = inside(see.first(t + i));
        tile.key_to[i] = inside(see.end(t + i));
    }
    for (int r = 0, from = 0, to = 0; r < keys; ++r) {
        while (from < queries && tile.key_to[from] <= r) ++from;
        while (to < queries && tile.key_from[to] <= r) ++to;
        tile.query_from[r] = std::min(from, to), tile.query_to[r] = to;
    }
    return tile;
}

namespace {

/// Some queries of a head.
struct query_block {
    int64_t b, h, from, to;  // positions
};

template <class T> std::vector<query_block> blocks_of(const attention_input<T>& in) {
    std::vector<query_block> blocks;
    const int64_t size = in.see.block();
    for (int64_t b = 0; b < in.B; ++b)
        for (int64_t h = 0; h < in.heads; ++h)
            for (int64_t t = in.start[b], to; t < in.start[b] + in.L; t = to) {
                to = std::min((t / size + 1) * size, in.start[b] + in.L);
                blocks.push_back({b, h, t, to});
            }
    return blocks;
}

/// What a thread needs for a block: queries and outputs of all its tiles, one tile of keys.
template <class T> class forward_space {
public:
    const attention_kernels<T>& kernel = kernels<attention_kernels<T>>();
    const int panels;      // of the width of a head
    const int64_t width;   // in whole panels
    const int64_t queries_each, outputs_each;

    forward_space(int64_t D, int64_t block)
        : panels(static_cast<int>(whole_panels(D, kernel.columns) / kernel.columns)),
          width(int64_t(panels) * kernel.columns), queries_each(sized(tile_queries, D)),
          outputs_each(sized(tile_queries, width)), tiles_(whole_panels(block, tile_queries) / tile_queries),
          queries_(sized(tiles_, queries_each)), outputs_(sized(tiles_, outputs_each)),
          keys_(sized(tile_keys + kernel.key_rows, D) + 64), values_(sized(tile_keys, width)),
          s_((tile_keys + kernel.key_rows) * tile_queries), sums_(tiles_) {}

    T* queries(int64_t tile) { return queries_.data() + tile * queries_each; }
    T* outputs(int64_t tile) { return outputs_.data() + tile * outputs_each; }
    softmax_sums<T>& sums(int64_t tile) { return sums_[tile]; }
    T* keys() { return keys_.data(); }
    T* values() { return values_.data(); }
    T* s() { return s_.data(); }
    row_pointers<T> rows;

private:
    int64_t tiles_;
    scratch<T> queries_, outputs_, keys_, values_, s_;
    std::vector<softmax_sums<T>> sums_;
};

template <class T>
void attend(const attention_input<T>& in, const padded_bias<T>& bias, const query_block& block,
            forward_space<T>& space, view<T, 4> y) {
    const int64_t D = in.D, start = in.start[block.b];
    const auto& kernel = space.kernel;
    const auto keys = in.row_keys(block.b, block.h / in.heads_each());
    const auto values = in.row_values(block.b, block.h / in.heads_each());
    const auto count = [&](int64_t t) { return static_cast<int>(std::min<int64_t>(tile_queries, block.to - t)); };

    const int64_t tiles = whole_panels(block.to - block.from, tile_queries) / tile_queries;
    for (int64_t t = block.from, tile = 0; t < block.to; t += tile_queries, ++tile) {
        const auto row = [&](int64_t i) { return in.q.at(block.b, t + i - start, block.h); };
        prefetch_rows(count(t), 0, 1, D, row);
        kernel.pack_queries(count(t), D, space.rows.of(count(t), row), space.queries(tile));
        std::fill_n(space.outputs(tile), space.outputs_each, T(0));
        softmax_sums<T>& sums = space.sums(tile);
        std::fill_n(sums.maximum, tile_queries, -std::numeric_limits<T>::infinity());
        std::fill_n(sums.sum, tile_queries, T(0));
    }
    for (int64_t s = in.see.first(block.from), next; s < in.see.end(block.to - 1); s = next) {
        next = std::min(in.see.cut(s), in.see.end(block.to - 1));
        if (stopping()) return;
        const int many = static_cast<int>(next - s);
        kernel.pack_keys(many, D, space.rows.of(many, [&](int r) { return keys.at(s + r); }), space.keys());
        const bool finite =
            kernel.pack_rows(many, tile_keys, D, space.rows.of(many, [&](int r) { return values.at(s + r); }),
                             space.values());
        const int64_t then = std::min(in.see.cut(next), in.see.end(block.to - 1)) - next;
        for (int64_t t = block.from, tile = 0; t < block.to; t += tile_queries, ++tile) {
            prefetch_rows(then, tile, tiles, D, [&](int64_t r) { return keys.at(next + r); });
            prefetch_rows(then, tile, tiles, D, [&](int64_t r) { return values.at(next + r); });
            const sight seen = sight_of(in.see, t, count(t), s, many);
            if (!anything_seen(seen)) continue;
            softmax_sums<T>& sums = space.sums(tile);
            kernel.products(seen, D, space.keys(), space.queries(tile), space.s());
            kernel.weigh(seen, {in.scale[block.h], bias.at(block.h, t, s)}, space.s(), nullptr, sums);
            kernel.rescale(count(t), space.width, sums.factor, space.outputs(tile));
            kernel.to_queries(seen, !finite, space.s(), space.panels, space.values(), space.outputs(tile));
        }
    }
    for (int64_t t = block.from, tile = 0; t < block.to; t += tile_queries, ++tile)
        for (int i = 0; i < count(t); ++i) {
            const bool sees = in.see.end(t + i) > in.see.first(t + i);
            const T sum = sees ? space.sums(tile).sum[i] : T(1);
            kernel.divide(D, space.outputs(tile) + i * space.width, sum,
                          y.at(block.b, t + i - start, block.h, int64_t(0)));
        }
}

}  // namespace

template <class T> void attention(const attention_input<T>& in, const view<T, 4>& y) {
    const std::vector<query_block> blocks = blocks_of(in);
    const padded_bias<T> bias(in);
    const int slots = slots_for(blocks.size());
    std::vector<std::unique_ptr<forward_space<T>>> spaces(slots);
    for (auto& space : spaces)
        space = std::make_unique<forward_space<T>>(in.D, std::min(in.see.block(), in.L));
    parallel_for(blocks.size(), slots,
                 [&](int64_t item, int slot) { attend(in, bias, blocks[item], *spaces[slot], y); });
}

template <class T>
void keep_keys(const attention_input<T>& in, const view<T, 4>& keys, const view<T, 4>& values) {
    const int64_t S = in.see.slots();
    parallel_for(in.B, slots_for(in.B), [&](int64_t b, int) {
        const int64_t next = in.start[b] + in.L, first = in.see.first(next);
        for (int64_t s = next - S; s < next; ++s) {
            if (s % 256 == 0 && stopping()) return;
            const int64_t slot = s < 0 ? s + S : in.next_slot(b, s);
            for (int64_t g = 0; g < in.groups; ++g) {
                T *key = keys.at(b, slot, g, int64_t(0)), *value = values.at(b, slot, g, int64_t(0));
                if (s < first) {
                    std::fill_n(key, in.D, T(0)), std::fill_n(value, in.D, T(0));
                } else {
                    std::copy_n(in.row_keys(b, g).at(s), in.D, key);
                    std::copy_n(in.row_values(b, g).at(s), in.D, value);
                }
            }
        }
    });
}

template void attention(const attention_input<float>&, const view<float, 4>&);
template void attention(const attention_input<double>&, const view<double, 4>&);
template void keep_keys(const attention_input<float>&, const view<float, 4>&, const view<float, 4>&);
template void keep_keys(const attention_input<double>&, const view<double, 4>&, const view<double, 4>&);

}  // namespace refgss
