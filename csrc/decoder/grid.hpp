// grid.hpp: rows of float32 that are padded to whole tiles of weights.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/scratch.hpp"
#include "core/threads.hpp"
#include "dense/gemv.hpp"

namespace refgss::decoding {

constexpr int64_t padded_width(int64_t width) { return whole_tiles(width) * gemv_width; }

/// Rows side by side, each padded to whole tiles; the padding is finite and never seen.
class grid {
public:
    grid() : grid(0, 0) {}
    grid(int64_t rows, int64_t width)
        : stride_(padded_width(width)), values_(sized(rows, stride_), 0.0f) {}
    float* row(int64_t i) { return values_.data() + i * stride_; }
    const float* row(int64_t i) const { return values_.data() + i * stride_; }
    float* data() { return values_.data(); }
    const float* data() const { return values_.data(); }
    int64_t stride() const { return stride_; }

private:
    int64_t stride_;
    std::vector<float> values_;
};

/// The first `rows` rows of y = x W.
inline void multiply(const weight_matrix& w, int64_t rows, const grid& x, grid& y) {
    w.multiply(rows, x.data(), x.stride(), y.data(), y.stride());
}

}  // namespace refgss::decoding
