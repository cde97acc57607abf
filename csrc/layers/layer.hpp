// layer.hpp: what the layers (layer.cpp) and their gradients (layer_vjp.cpp) share.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/scratch.hpp"
#include "core/threads.hpp"
#include "dense/matmul.hpp"
#include "layers/pointwise.hpp"
#include "ssm/kernel.hpp"

namespace refgss {

constexpr int64_t tile_height = 1152;  // rows that are worked on from norm to projection

template <class T> using matrix = view<T, 2>;
template <class T> matrix<T> packed(T* data, int64_t rows, int64_t columns) {
    return {data, {rows, columns}, {columns, 1}};
}
template <class T> view<T, 3> sequences(T* data, int64_t B, int64_t L, int64_t width) {
    return {data, {B, L, width}, {L * width, width, 1}};
}

/// f(first, rows) for tiles of rows, one after the other.
template <class F> void for_tiles(int64_t rows, F&& f) {
    for (int64_t i = 0; i < rows; i += tile_height) f(i, std::min(tile_height, rows - i));
}

/// f(i, j) for all elements, rows in parallel.
template <class F> void for_each(int64_t rows, int64_t columns, F&& f) {
    for_rows(rows, [&](int64_t i) {
        for (int64_t j = 0; j < columns; ++j) f(i, j);
    });
}

/// Rows of x (B,L,E) as one matrix; a copy where they are not that already.
template <class T> class flat {
public:
    explicit flat(view<const T, 3> x) : rows_(x.shape[0] * x.shape[1]), width_(x.shape[2]) {
        bool is_flat = x.stride[2] == 1 && x.stride[1] == width_ &&
                       (x.shape[0] == 1 || x.stride[0] == x.shape[1] * width_);
        data_ = x.data;
        if (is_flat) return;
        copy_.resize(x.size());
        for_each(rows_, width_, [&](int64_t i, int64_t j) {
            copy_[i * width_ + j] = *x.at(i / x.shape[1], i % x.shape[1], j);
        });
        data_ = copy_.data();
    }
    matrix<const T> rows(int64_t first, int64_t count) const {
        return packed(data_ + first * width_, count, width_);
    }

private:
    std::vector<T> copy_;
    const T* data_;
    int64_t rows_, width_;
};

/// The sizes and weights of a GSS layer, checked.
template <class T> struct gss_arrays {
    int64_t B, L, E, F, H, N, M;
    matrix<const T> w_v, w_u, w_uc, w_o;
    vectors<T> norm, bias, skip;
    bool ssm_norm;

    gss_arrays(const refgss_gss_layer_params& p, const view<const T, 3>& x)
        : B(x.shape[0]), L(x.shape[1]), E(x.shape[2]), F(checked<const T, 2>(p.w_v, "w_v").shape[1]),
          H(checked<const T, 2>(p.w_u, "w_u").shape[1]),
          N(checked<const T, 1>(p.lam_a, "ssm.a").shape[0]), M(B * L),
          w_v(shaped<const T, 2>(p.w_v, "w_v", E, F)), w_u(shaped<const T, 2>(p.w_u, "w_u", E, H)),
          w_uc(shaped<const T, 2>(p.w_uc, "w_uc", H, F)),
          w_o(shaped<const T, 2>(p.w_o, "w_o", F, E)), norm(p.norm_weight, "norm.weight", E),
          bias(p.norm_bias, "norm.bias", E), skip(p.d, "ssm.d", H),
          ssm_norm(p.ssm_norm_weight != nullptr) {}
};

/// Δ = e^{log Δ}, (E) or (E,2).
template <class T> class dss_steps {
public:
    dss_steps(const refgss_array* log_delta, int64_t E) {
        if (log_delta == nullptr)
            throw error{REFGSS_ERROR_VALUE, "log_delta is NULL: pass an array"};
        const int64_t columns = log_delta->rank == 2 ? 2 : 1;
        check_array(log_delta, "log_delta", static_cast<int>(columns));
        if (log_delta->dtype != dtype_of<T>)
            throw error{REFGSS_ERROR_TYPE, "log_delta has another dtype than x: convert it"};
        check_axis("log_delta", "E", log_delta->shape[0], E);
        const T* from = static_cast<const T*>(log_delta->data);
        for (int64_t i = 0; i < log_delta->shape[0]; ++i)
            for (int64_t j = 0; j < columns; ++j)
                steps_.push_back(static_cast<T>(std::exp(double(
                    from[i * log_delta->stride[0] + (j ? log_delta->stride[1] : 0)]))));
        array_ = {steps_.data(), dtype_of<T>, log_delta->rank, {E, columns}, {columns, 1}};
    }
    dss_steps(const dss_steps&) = delete;
    const refgss_array* array() const { return &array_; }
    const std::vector<T>& values() const { return steps_; }

private:
    std::vector<T> steps_;
    refgss_array array_;
};

/// Λ of a layer, (N,2).
template <class T> class lambda_of {
public:
    lambda_of(const refgss_array* lam_a, const refgss_array* lam_b, int32_t imag_is_exp) {
        const auto a = checked<const T, 1>(lam_a, "ssm.a");
        const int64_t N = a.shape[0];
        values_.resize(2 * N);
        array_ = {values_.data(), dtype_of<T>, 2, {N, 2}, {2, 1}};
        gss_lambda<T>(a, shaped<const T, 1>(lam_b, "ssm.b", N), imag_is_exp, typed<T, 2>(array_));
    }
    lambda_of(const lambda_of&) = delete;
    const refgss_array* array() const { return &array_; }

private:
    std::vector<T> values_;
    refgss_array array_;
};

constexpr refgss_form gss_form{REFGSS_ZOH, 0, 0, 0};
template <class T> refgss_array unit_step(T* one) {
    *one = 1;
    return {one, dtype_of<T>, 0, {}, {}};
}

/// What a GSS layer keeps for its gradient; all (M, .), rows contiguous.
template <class T> struct gss_kept {
    matrix<T> v, u, y, uc;  // h W_v, h W_u, the SSM with its skip, y W_uc
};

/// x (B,L,E) -> y (B,L,E) and state_out, unless they are NULL; what is kept is written there if it is asked
/// for.  `prepared` is the layer's map, or nullptr: then one is made for the call.
template <class T>
void gss_forward(const refgss_gss_layer_params& p, const ssm<T>* prepared, const refgss_array* x,
                 const refgss_array* state, const refgss_array* y, const refgss_array* state_out,
                 const gss_kept<T>* kept);
template <class T>
void dss_forward(const refgss_dss_layer_params& p, const ssm<T>* prepared, const refgss_array* x,
                 const refgss_array* state, const refgss_array* y, const refgss_array* state_out);

/// dy (B,L,E) and dstate, or NULL -> dx (B,L,E), dstate0 unless it is NULL, and the arrays of `d`.
template <class T>
void gss_vjp(const refgss_gss_layer_params& p, const refgss_array* x, const refgss_array* state,
             const gss_kept<T>& kept, const refgss_array* dy, const refgss_array* dstate,
             const refgss_gss_layer_params& d, const refgss_array* dx, const refgss_array* dstate0);
template <class T>
void dss_vjp(const refgss_dss_layer_params& p, const refgss_array* x, const refgss_array* state,
             const refgss_array* dy, const refgss_array* dstate, const refgss_dss_layer_params& d,
             const refgss_array* dx, const refgss_array* dstate0);

}  // namespace refgss
