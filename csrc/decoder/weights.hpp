// weights.hpp: from the arrays of a language model to what a decoder keeps: its own copies, in the
// order in which they are read.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/dispatch.hpp"
#include "decoder/grid.hpp"
#include "layers/pointwise.hpp"

namespace refgss::decoding {

using matrix = std::shared_ptr<const weight_matrix>;

/// A matrix (rows, columns) of float32, bf16 or int8, `scale` belonging to int8.
matrix read_matrix(const refgss_array* a, const refgss_array* scale, const std::string& name,
                   int64_t rows, int64_t columns, bool transposed = false);

/// A vector of parameters, padded by zeros to whole tiles; all zeros where `a` is NULL and may be.
std::vector<float> read_vector(const refgss_array* a, const std::string& name, int64_t width);
std::vector<float> read_optional(const refgss_array* a, const std::string& name, int64_t width);

/// The length of an axis of weights that have `rank` axes.
int64_t axis_of(const refgss_array* a, const std::string& name, int rank, int axis);

/// A LayerNorm, or an RMS norm, which has no bias; or none, of width 0.
struct norm {
    std::vector<float> weight, bias;
    int64_t width = 0;
    float eps = 0;
    bool centred = true;

    norm() = default;
    norm(const refgss_array* w, const refgss_array* b, const std::string& name, int64_t n, double e)
        : weight(read_vector(w, name + ".weight", n)), bias(read_vector(b, name + ".bias", n)),
          width(n), eps(static_cast<float>(e)) {}
    norm(const refgss_array* w, const std::string& name, int64_t n, double e)
        : weight(read_vector(w, name + ".weight", n)), width(n), eps(static_cast<float>(e)), centred(false) {}
    explicit operator bool() const { return width > 0; }
    void operator()(const float* x, float* y) const {
        auto& kernel = kernels<pointwise_kernels<float>>();
        if (centred) kernel.layer_norm(width, x, weight.data(), bias.data(), eps, y);
        else kernel.rms_norm(width, x, weight.data(), eps, y);
    }
};

}  // namespace refgss::decoding
