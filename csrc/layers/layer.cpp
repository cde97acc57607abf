// layer.cpp: the GSS layer and the DSS layer (GSS-LAY).
//
// Rows are worked on some hundreds at a time, from the norm to the output projection, so that the gate,
// four times as wide as the model, never travels through memory whole.
#include "layers/layer.hpp"

#include <optional>

#include "core/dispatch.hpp"

namespace refgss {
namespace {

/// The map of a layer: the given one, or one made for this call.
template <class T> class map_of {
public:
    map_of(const ssm<T>* prepared, const refgss_array* lam_a, const refgss_array* lam_b,
           const refgss_array* c, int32_t imag_is_exp, const refgss_array* delta,
           const refgss_form& form, int64_t length)
        : map_(prepared) {
        if (prepared != nullptr) return;
        const lambda_of<T> lam(lam_a, lam_b, imag_is_exp);
        const ssm_arguments<T> in(lam.array(), c, delta, &form);
        if (length <= 1) length = 0;  // a step needs no kernel
        in.check_length(length);
        made_.emplace(in.p, in.c, length);
        made_->prepare();
        map_ = &*made_;
    }
    map_of(const map_of&) = delete;

    void apply(view<T, 3> u, const refgss_array* state, view<T, 3> y,
               const refgss_array* state_out) const {
        const int64_t B = u.shape[0], H = map_->channels(), N = map_->states();
        check_axis("u", "H", u.shape[2], H);
        const auto from = state_of<const T>(state, "state", B, H, N);
        const auto to = state_of<T>(state_out, "state_out", B, H, N);
        map_->apply(as_const(u), from.get(), y, to.get());
    }

private:
    const ssm<T>* map_;
    std::optional<ssm<T>> made_;
};

/// The bias of an output projection, zeros where it has none.
template <class T> std::vector<T> bias_of(const refgss_array* b_o, int64_t E) {
    if (b_o == nullptr) return std::vector<T>(E, T(0));
    return vectors<T>(b_o, "b_o", E).values;
}

/// h = norm(x) and u = GELU(h W_u), normed once more if asked: (M,H).
template <class T>
void gss_inputs(const refgss_gss_layer_params& p, const gss_arrays<T>& g, const flat<T>& rows, T* h_data,
                T* u_data, const gss_kept<T>* kept) {
    const int64_t E = g.E, H = g.H;
    struct norm {
        vectors<T> weight, bias;
    };
    std::optional<norm> inner;
    if (g.ssm_norm)
        inner.emplace(norm{{p.ssm_norm_weight, "ssm.norm.weight", H}, {p.ssm_norm_bias, "ssm.norm.bias", H}});
    for_tiles(g.M, [&](int64_t first, int64_t count) {
        auto h = packed(h_data, count, E);
        auto u = packed(u_data + first * H, count, H);
        auto u_in = kept ? slice(kept->u, 0, first, count) : u;
        layer_norm<T>(rows.rows(first, count), g.norm.data(), g.bias.data(), p.eps, h);
        matmul<T>(as_const(h), g.w_u, u_in, false);
        gelu<T>(as_const(u_in), u);
        if (inner) layer_norm<T>(as_const(u), inner->weight.data(), inner->bias.data(), p.eps, u);
    });
}

/// out = (y W_uc ⊙ GELU(h W_v)) W_o + b + x, where y = SSM(u) + D u is in `s`.
template <class T>
void gated_outputs(const refgss_gss_layer_params& p, const gss_arrays<T>& g, const flat<T>& rows,
                   T* h_data, const T* s, const refgss_array* y, const gss_kept<T>* kept) {
    const int64_t L = g.L, E = g.E, F = g.F, H = g.H, height = std::min(tile_height, g.M);
    auto& kernel = kernels<pointwise_kernels<T>>();
    const std::vector<T> shift = bias_of<T>(p.b_o, E);
    scratch<T> v_data(sized(height, F)), uc_data(sized(height, F)), o_data(y ? sized(height, E) : 0);
    view<T, 3> out{};
    if (y) out = typed<T, 3>(*y);
    for_tiles(g.M, [&](int64_t first, int64_t count) {
        auto h = packed(h_data, count, E), o = packed(o_data.data(), count, E);
        auto gated = packed(v_data.data(), count, F);
        auto v = kept ? slice(kept->v, 0, first, count) : gated;
        auto uc = kept ? slice(kept->uc, 0, first, count) : packed(uc_data.data(), count, F);
        auto in = rows.rows(first, count);
        layer_norm<T>(in, g.norm.data(), g.bias.data(), p.eps, h);
        matmul<T>(as_const(h), g.w_v, v, false);
        matmul<T>(packed<const T>(s + first * H, count, H), g.w_uc, uc, false);
        if (!y) return;
        for_rows(count, [&](int64_t i) {
            kernel.gate(F, uc.data + i * F, v.data + i * F, gated.data + i * F);
        });
        matmul<T>(as_const(gated), g.w_o, o, false);
        for_each(count, E, [&](int64_t i, int64_t e) {
            int64_t row = first + i;
            *out.at(row / L, row % L, e) = o.data[i * E + e] + shift[e] + in.data[i * E + e];
        });
    });
}

}  // namespace

template <class T>
void gss_forward(const refgss_gss_layer_params& p, const ssm<T>* prepared, const refgss_array* x,
                 const refgss_array* state, const refgss_array* y, const refgss_array* state_out,
                 const gss_kept<T>* kept) {
    auto vx = checked<const T, 3>(x, "x");
    const gss_arrays<T> g(p, vx);
    const int64_t B = g.B, L = g.L, H = g.H, M = g.M;
    const flat<T> rows(vx);
    scratch<T> u_data(sized(M, H)), s_data(kept ? 0 : sized(M, H));
    scratch<T> h_data(sized(std::min(tile_height, M), g.E));
    T *u = u_data.data(), *s = kept ? kept->y.data : s_data.data();
    gss_inputs(p, g, rows, h_data.data(), u, kept);
    T one;
    refgss_array delta = unit_step<T>(&one);
    map_of<T> map(prepared, p.lam_a, p.lam_b, p.c, p.imag_is_exp, &delta, gss_form, L);
    map.apply(sequences(u, B, L, H), state, sequences(s, B, L, H), state_out);
    for_each(M, H, [&](int64_t i, int64_t h) { s[i * H + h] += g.skip.values[h] * u[i * H + h]; });
    gated_outputs(p, g, rows, h_data.data(), s, y, kept);
}

template <class T>
void dss_forward(const refgss_dss_layer_params& p, const ssm<T>* prepared, const refgss_array* x,
                 const refgss_array* state, const refgss_array* y, const refgss_array* state_out) {
    auto vx = checked<const T, 3>(x, "x");
    const int64_t B = vx.shape[0], L = vx.shape[1], E = vx.shape[2], M = B * L;
    auto w_o = shaped<const T, 2>(p.w_o, "w_o", E, E);
    vectors<T> norm(p.norm_weight, "norm.weight", E), bias(p.norm_bias, "norm.bias", E);
    vectors<T> skip(p.d, "ssm.d", E);
    auto out = shaped<T, 3>(y, "y", B, L, E);
    const dss_steps<T> delta(p.log_delta, E);

    // u = norm(x); y = GELU(SSM(u) + D u)
    flat<T> rows(vx);
    scratch<T> u_data(sized(M, E)), s_data(sized(M, E)), o_data(sized(M, E));
    auto u2 = packed(u_data.data(), M, E), s2 = packed(s_data.data(), M, E);
    layer_norm<T>(rows.rows(0, M), norm.data(), bias.data(), p.eps, u2);
    map_of<T> map(prepared, p.lam_a, p.lam_b, p.c, p.imag_is_exp, delta.array(), p.form, L);
    map.apply(sequences(u2.data, B, L, E), state, sequences(s2.data, B, L, E), state_out);
    for_each(M, E, [&](int64_t i, int64_t e) {
        s2.data[i * E + e] += skip.values[e] * u2.data[i * E + e];
    });
    gelu<T>(as_const(s2), s2);

    // out = y W_o + b + x
    auto o = packed(o_data.data(), M, E);
    matmul<T>(as_const(s2), w_o, o, false);
    const std::vector<T> shift = bias_of<T>(p.b_o, E);
    auto in = rows.rows(0, M);
    for_each(M, E, [&](int64_t i, int64_t e) {
        *out.at(i / L, i % L, e) = o.data[i * E + e] + shift[e] + in.data[i * E + e];
    });
}

#define REFGSS_LAYERS(T)                                                                            \
    template void gss_forward(const refgss_gss_layer_params&, const ssm<T>*, const refgss_array*,   \
                              const refgss_array*, const refgss_array*, const refgss_array*,        \
                              const gss_kept<T>*);                                                  \
    template void dss_forward(const refgss_dss_layer_params&, const ssm<T>*, const refgss_array*,   \
                              const refgss_array*, const refgss_array*, const refgss_array*);
REFGSS_LAYERS(float)
REFGSS_LAYERS(double)

}  // namespace refgss
