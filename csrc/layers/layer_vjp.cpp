// layer_vjp.cpp: the gradients of the GSS layer and of the DSS layer (GSS-GRD-10).
//
// As in the layers, wide rows are worked on some hundreds at a time.  What the forward pass kept is
// read where there is such, and computed anew otherwise.
#include "core/dispatch.hpp"
#include "layers/layer.hpp"

namespace refgss {
namespace {

/// A matrix or a vector of gradients; rows contiguous where it is a matrix.
template <class T, class... N>
auto gradient(const refgss_array* a, const char* name, N... lengths) {
    return shaped<T, sizeof...(N)>(a, name, lengths...);
}

/// dx, dweight and dbias of the norm of rows; dx may not be dy.
template <class T>
void norm_vjp(const matrix<const T>& x, const std::vector<T>& weight, const matrix<const T>& dy,
              double eps, const matrix<T>& dx, const refgss_array* dweight,
              const refgss_array* dbias) {
    const int64_t width = x.shape[1];
    layer_norm_vjp<T>(x, weight.data(), dy, eps, dx, gradient<T>(dweight, "dweight", width),
                      gradient<T>(dbias, "dbias", width));
}

/// dD = Σ dy u, and du += D dy.
template <class T>
void skip_vjp(const vectors<T>& skip, const matrix<const T>& u, const matrix<const T>& dy,
              const matrix<T>& du, const refgss_array* dd) {
    const int64_t M = u.shape[0], H = u.shape[1];
    scratch<T> product(sized(M, H));
    for_each(M, H, [&](int64_t i, int64_t h) {
        product.data()[i * H + h] = dy.data[i * H + h] * u.data[i * H + h];
        du.data[i * H + h] += skip.values[h] * dy.data[i * H + h];
    });
    sum_rows<T>(packed<const T>(product.data(), M, H), gradient<T>(dd, "dd", H));
}

/// The parameters of the state-space model of a layer, or their gradients.
struct map_params {
    const refgss_array *lam_a, *lam_b, *c;
};

/// The SSM and Λ: u, dy -> du and the gradients of Λ's parameters, C and Δ.
template <class T>
void map_vjp(const map_params& p, int32_t imag_is_exp, const refgss_array* delta,
             const refgss_form& form, view<const T, 3> u, const refgss_array* state,
             view<const T, 3> dy, const refgss_array* dstate, view<T, 3> du, const map_params& d,
             const refgss_array* ddelta, const refgss_array* dstate0) {
    const lambda_of<T> lam(p.lam_a, p.lam_b, imag_is_exp);
    const ssm_arguments<T> in(lam.array(), p.c, delta, &form);
    const int64_t B = u.shape[0], H = u.shape[2], N = in.c.shape[1];
    check_axis("u", "H", H, in.c.shape[0]);
    in.check_length(u.shape[1]);
    const auto from = state_of<const T>(state, "state", B, H, N);
    const auto cotangent = state_of<const T>(dstate, "dstate", B, H, N);
    const auto to = state_of<T>(dstate0, "dstate0", B, H, N);
    std::vector<T> dlam_data(2 * N);
    const refgss_array dlam{dlam_data.data(), dtype_of<T>, 2, {N, 2}, {2, 1}};
    check_modes_outputs<T>(in.p, in.c, &dlam, d.c, ddelta);
    const auto da = gradient<T>(d.lam_a, "dlam_a", N), db = gradient<T>(d.lam_b, "dlam_b", N);
    ssm_scan_vjp<T>(in, u, from.get(), dy, cotangent.get(), du, to.get(), {&dlam, d.c, ddelta});
    gss_lambda_vjp<T>(typed<const T, 1>(*p.lam_a), typed<const T, 1>(*p.lam_b),
                      typed<const T, 2>(dlam), imag_is_exp, da, db);
}

/// Rows of x (M,E) plus those of dy, where dx has any strides.
template <class T>
void put_dx(const matrix<const T>& dx, const flat<T>& dy, const view<T, 3>& out) {
    const int64_t E = dx.shape[1], L = out.shape[1];
    for_rows(dx.shape[0], [&](int64_t i) {
        const T* more = dy.rows(i, 1).data;
        for (int64_t e = 0; e < E; ++e)
            *out.at(i / L, i % L, e) = dx.data[i * E + e] + more[e];
    });
}

/// The gated product, out = (uc ⊙ GELU(v)) W_o + b: dout -> dy (M,H), what reaches h by v (M,E), and the
/// gradients of W_v, W_uc, W_o.
template <class T>
void gated_product_vjp(const refgss_gss_layer_params& p, const gss_arrays<T>& g, const flat<T>& rows,
                       const gss_kept<T>& kept, const flat<T>& cotangents, T* h_data,
                       const matrix<T>& dy, const matrix<T>& dh, const refgss_gss_layer_params& d) {
    const int64_t E = g.E, F = g.F, H = g.H, M = g.M, height = std::min(tile_height, M);
    auto dw_v = gradient<T>(d.w_v, "dw_v", E, F), dw_uc = gradient<T>(d.w_uc, "dw_uc", H, F);
    auto dw_o = gradient<T>(d.w_o, "dw_o", F, E);
    auto& kernel = kernels<pointwise_kernels<T>>();
    scratch<T> dv_data(sized(height, F)), duc_data(sized(height, F)), uv_data(sized(height, F));
    for_tiles(M, [&](int64_t first, int64_t count) {
        const bool add = first > 0;
        auto dout = cotangents.rows(first, count);
        auto dv = packed(dv_data.data(), count, F), duc = packed(duc_data.data(), count, F);
        auto uv = packed(uv_data.data(), count, F), h = packed(h_data, count, E);
        auto v = slice(kept.v, 0, first, count), uc = slice(kept.uc, 0, first, count);
        auto y = slice(kept.y, 0, first, count);
        matmul<T>(dout, transposed(g.w_o), dv, false);
        for_rows(count, [&](int64_t i) {
            kernel.gate_vjp(F, uc.data + i * F, v.data + i * F, dv.data + i * F, duc.data + i * F,
                            uv.data + i * F);
        });
        matmul<T>(transposed(as_const(uv)), dout, dw_o, add);
        matmul<T>(as_const(duc), transposed(g.w_uc), slice(dy, 0, first, count), false);
        matmul<T>(transposed(as_const(y)), as_const(duc), dw_uc, add);
        layer_norm<T>(rows.rows(first, count), g.norm.data(), g.bias.data(), p.eps, h);
        matmul<T>(as_const(dv), transposed(g.w_v), slice(dh, 0, first, count), false);
        matmul<T>(transposed(as_const(h)), as_const(dv), dw_v, add);
    });
    if (M == 0)
        for (auto* w : {&dw_v, &dw_uc, &dw_o}) fill_zero(*w);
    if (d.b_o != nullptr) sum_rows<T>(cotangents.rows(0, M), gradient<T>(d.b_o, "db_o", E));
}

/// u = GELU(h W_u), h = norm(x): du (M,H), after GELU, and dh by the gate -> dx (B,L,E), and the gradients
/// of W_u and the norm.
template <class T>
void inputs_vjp(const refgss_gss_layer_params& p, const gss_arrays<T>& g, const flat<T>& rows,
                const gss_kept<T>& kept, const flat<T>& cotangents, T* h_data, const matrix<T>& du,
                const matrix<T>& dh, const refgss_gss_layer_params& d, const view<T, 3>& dx_out) {
    const int64_t E = g.E, H = g.H, M = g.M;
    auto dw_u = gradient<T>(d.w_u, "dw_u", E, H);
    auto& kernel = kernels<pointwise_kernels<T>>();
    for_rows(M, [&](int64_t i) {
        kernel.gelu_vjp(H, kept.u.data + i * H, du.data + i * H, du.data + i * H);
    });
    for_tiles(M, [&](int64_t first, int64_t count) {
        auto h = packed(h_data, count, E);
        auto from = as_const(slice(du, 0, first, count));
        layer_norm<T>(rows.rows(first, count), g.norm.data(), g.bias.data(), p.eps, h);
        matmul<T>(from, transposed(g.w_u), slice(dh, 0, first, count), true);
        matmul<T>(transposed(as_const(h)), from, dw_u, first > 0);
    });
    if (M == 0) fill_zero(dw_u);
    scratch<T> dx_data(sized(M, E));
    auto dx = packed(dx_data.data(), M, E);
    norm_vjp<T>(rows.rows(0, M), g.norm.values, as_const(dh), p.eps, dx, d.norm_weight, d.norm_bias);
    put_dx<T>(as_const(dx), cotangents, dx_out);
}

}  // namespace

template <class T>
void gss_vjp(const refgss_gss_layer_params& p, const refgss_array* x, const refgss_array* state,
             const gss_kept<T>& kept, const refgss_array* dy_array, const refgss_array* dstate,
             const refgss_gss_layer_params& d, const refgss_array* dx_array,
             const refgss_array* dstate0) {
    auto vx = checked<const T, 3>(x, "x");
    const gss_arrays<T> g(p, vx);
    const int64_t B = g.B, L = g.L, E = g.E, H = g.H, M = g.M;
    auto dx_out = shaped<T, 3>(dx_array, "dx", B, L, E);
    const flat<T> rows(vx), cotangents(shaped<const T, 3>(dy_array, "dy", B, L, E));
    scratch<T> h_data(sized(std::min(tile_height, M), E)), dh_data(sized(M, E)), dy_data(sized(M, H));
    auto dh = packed(dh_data.data(), M, E), dy = packed(dy_data.data(), M, H);
    gated_product_vjp(p, g, rows, kept, cotangents, h_data.data(), dy, dh, d);

    // the SSM
    scratch<T> act_data(sized(M, H)), u_data(g.ssm_norm ? sized(M, H) : 0), du_data(sized(M, H));
    auto act = packed(act_data.data(), M, H), du = packed(du_data.data(), M, H), u = act;
    gelu<T>(as_const(kept.u), act);
    std::vector<T> norm_weight;
    if (g.ssm_norm) {
        u = packed(u_data.data(), M, H);
        norm_weight = vectors<T>(p.ssm_norm_weight, "ssm.norm.weight", H).values;
        vectors<T> shift(p.ssm_norm_bias, "ssm.norm.bias", H);
        layer_norm<T>(as_const(act), norm_weight.data(), shift.data(), p.eps, u);
    }
    T one, unused;
    refgss_array delta = unit_step<T>(&one), ddelta = unit_step<T>(&unused);
    map_vjp<T>({p.lam_a, p.lam_b, p.c}, p.imag_is_exp, &delta, gss_form,
               as_const(sequences(u.data, B, L, H)), state, as_const(sequences(dy.data, B, L, H)),
               dstate, sequences(du.data, B, L, H), {d.lam_a, d.lam_b, d.c}, &ddelta, dstate0);
    skip_vjp<T>(g.skip, as_const(u), as_const(dy), du, d.d);
    if (g.ssm_norm) {
        norm_vjp<T>(as_const(act), norm_weight, as_const(du), p.eps, dy, d.ssm_norm_weight,
                    d.ssm_norm_bias);
        std::swap(du, dy);
    }
    inputs_vjp(p, g, rows, kept, cotangents, h_data.data(), du, dh, d, dx_out);
}

template <class T>
void dss_vjp(const refgss_dss_layer_params& p, const refgss_array* x, const refgss_array* state,
             const refgss_array* dy_array, const refgss_array* dstate,
             const refgss_dss_layer_params& d, const refgss_array* dx_array,
             const refgss_array* dstate0) {
    auto vx = checked<const T, 3>(x, "x");
    const int64_t B = vx.shape[0], L = vx.shape[1], E = vx.shape[2], M = B * L;
    auto w_o = shaped<const T, 2>(p.w_o, "w_o", E, E);
    vectors<T> norm(p.norm_weight, "norm.weight", E), bias(p.norm_bias, "norm.bias", E);
    vectors<T> skip(p.d, "ssm.d", E);
    auto dx_out = shaped<T, 3>(dx_array, "dx", B, L, E);
    const dss_steps<T> delta(p.log_delta, E);
    flat<T> rows(vx), cotangents(shaped<const T, 3>(dy_array, "dy", B, L, E));
    auto dout = cotangents.rows(0, M);

    // forward: u = norm(x), y = SSM(u) + D u
    scratch<T> u_data(sized(M, E)), y_data(sized(M, E)), act_data(sized(M, E)), dy_data(sized(M, E));
    auto u = packed(u_data.data(), M, E), y = packed(y_data.data(), M, E);
    auto act = packed(act_data.data(), M, E), dy = packed(dy_data.data(), M, E);
    layer_norm<T>(rows.rows(0, M), norm.data(), bias.data(), p.eps, u);
    {
        const lambda_of<T> lam(p.lam_a, p.lam_b, p.imag_is_exp);
        const ssm_arguments<T> in(lam.array(), p.c, delta.array(), &p.form);
        in.check_length(L);
        const ssm<T> map(in.p, in.c, L == 1 ? 0 : L);
        const auto from = state_of<const T>(state, "state", B, E, map.states());
        map.apply(as_const(sequences(u.data, B, L, E)), from.get(), sequences(y.data, B, L, E), nullptr);
    }
    for_each(M, E, [&](int64_t i, int64_t e) {
        y.data[i * E + e] += skip.values[e] * u.data[i * E + e];
    });
    gelu<T>(as_const(y), act);

    // backward: out = GELU(y) W_o + b
    matmul<T>(transposed(as_const(act)), dout, gradient<T>(d.w_o, "dw_o", E, E), false);
    if (d.b_o != nullptr) sum_rows<T>(dout, gradient<T>(d.b_o, "db_o", E));
    matmul<T>(dout, transposed(w_o), dy, false);
    auto& kernel = kernels<pointwise_kernels<T>>();
    for_rows(M, [&](int64_t i) {
        kernel.gelu_vjp(E, y.data + i * E, dy.data + i * E, dy.data + i * E);
    });
    auto du = act;  // no longer needed
    map_vjp<T>({p.lam_a, p.lam_b, p.c}, p.imag_is_exp, delta.array(), p.form,
               as_const(sequences(u.data, B, L, E)), state, as_const(sequences(dy.data, B, L, E)),
               dstate, sequences(du.data, B, L, E), {d.lam_a, d.lam_b, d.c}, d.log_delta, dstate0);
    auto* steps = static_cast<T*>(d.log_delta->data);  // d log Δ = Δ dΔ
    const int64_t columns = d.log_delta->rank == 2 ? 2 : 1;
    for (int64_t i = 0; i < E; ++i)
        for (int64_t j = 0; j < columns; ++j)
            steps[i * d.log_delta->stride[0] + (j ? d.log_delta->stride[1] : 0)] *=
                delta.values()[i * columns + j];
    skip_vjp<T>(skip, as_const(u), as_const(dy), du, d.d);
    norm_vjp<T>(rows.rows(0, M), norm.values, as_const(du), p.eps, y, d.norm_weight, d.norm_bias);
    put_dx<T>(as_const(y), cotangents, dx_out);
}

#define REFGSS_LAYER_GRADIENTS(T)                                                                   \
    template void gss_vjp(const refgss_gss_layer_params&, const refgss_array*, const refgss_array*, \
                          const gss_kept<T>&, const refgss_array*, const refgss_array*,             \
                          const refgss_gss_layer_params&, const refgss_array*, const refgss_array*); \
    template void dss_vjp<T>(const refgss_dss_layer_params&, const refgss_array*,                   \
                             const refgss_array*, const refgss_array*, const refgss_array*,         \
                             const refgss_dss_layer_params&, const refgss_array*,                   \
                             const refgss_array*);
REFGSS_LAYER_GRADIENTS(float)
REFGSS_LAYER_GRADIENTS(double)

}  // namespace refgss
