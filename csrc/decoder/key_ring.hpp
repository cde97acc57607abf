// key_ring.hpp: the keys and values that a decoder remembers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/scratch.hpp"

namespace refgss::decoding {

/// Keys and values of B sequences, in the order (B,G,slots,D), and how many tokens each has read.
class key_ring {
public:
    key_ring(int64_t batch, int64_t groups, int64_t slots, int64_t D)
        : groups_(groups), slots_(slots), D_(D), keys_(sized(sized(batch, groups), sized(slots, D))),
          values_(keys_.size()), tokens(batch, 0) {}

    float* key(int64_t b, int64_t g, int64_t s) { return keys_.data() + place(b, g, s); }
    float* value(int64_t b, int64_t g, int64_t s) { return values_.data() + place(b, g, s); }
    /// f(first, count) for the runs of neighbours among the positions from `from` up to `to`.
    template <class F> void runs(int64_t from, int64_t to, F&& f) const {
        for (int64_t s = from, next; s < to; s = next) {
            next = std::min(to, s + slots_ - s % slots_);
            f(s, next - s);
        }
    }

private:
    int64_t place(int64_t b, int64_t g, int64_t s) const {
        return ((b * groups_ + g) * slots_ + s % slots_) * D_;
    }
    int64_t groups_, slots_, D_;
    std::vector<float> keys_, values_;

public:
    std::vector<int64_t> tokens;  // at the last advance
};

}  // namespace refgss::decoding
