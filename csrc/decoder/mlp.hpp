// mlp.hpp: the activation of an MLP (GSS-HYB-3).
#pragma once

#include <cmath>

#include "decoder/layer.hpp"

namespace refgss::decoding {

inline float activation(int32_t mlp, float x) {
    if (mlp == REFGSS_MLP_RELU) return x > 0 ? x : x != x ? x : 0.0f;
    const float inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);
    return 0.5f * x * (1.0f + std::tanh(inner));
}

/// m = act(m), times the gate where there is one.
inline void activate(int32_t mlp, int64_t count, float* m, const float* gate) {
    if (mlp == REFGSS_MLP_GELU || mlp == REFGSS_MLP_GLU)
        kernels<pointwise_kernels<float>>().gelu(count, m, m);
    else
        for (int64_t j = 0; j < count; ++j) m[j] = activation(mlp, m[j]);
    if (gate)
        for (int64_t j = 0; j < count; ++j) m[j] *= gate[j];
}

}  // namespace refgss::decoding
