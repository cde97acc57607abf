// layer_vjp.cpp: the gradients of the GSS layer and of the DSS layer (GSS-GRD-10).
//
// As in the layers, wide rows are worked on some hundreds at a time.  What the forward pass kept is
// read where there is such, and computed anew otherwise.
#include "core/dispatch.hpp"
#include "layers/layer.hpp"

using namespace refgss;

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
    refgss_array ax = to_array(x), ady = to_array(dy), adx = to_array(dx);
    refgss_array aw{const_cast<T*>(weight.data()), dtype_of<T>, 1, {x.shape[1]}, {1}};
    require(refgss_layer_norm_vjp(&ax, &aw, &ady, eps, &adx, dweight, dbias));
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

/// The SSM and Λ: u, dy -> du and the gradients of a, b, c (and Δ).
template <class T>
void map_vjp(const refgss_array* a, const refgss_array* b, const refgss_array* c,
             int32_t imag_is_exp, const refgss_array* delta, const refgss_form& form,
             view<const T, 3> u, const refgss_array* state, view<const T, 3> dy,
             const refgss_array* dstate, view<T, 3> du, const refgss_array* da,
             const refgss_array* db, const refgss_array* dc, const refgss_array* ddelta,
             const refgss_array* dstate0) {
    const lambda_of<T> lam(a, b, imag_is_exp);
    std::vector<T> dlam_data(2 * a->shape[0]);
    refgss_array dlam{dlam_data.data(), dtype_of<T>, 2, {a->shape[0], 2}, {2, 1}};
    refgss_array au = to_array(u), ady = to_array(dy), adu = to_array(du);
    require(refgss_ssm_scan_vjp(&au, lam.array(), c, state, &ady, dstate, delta, &form, &adu, &dlam,
                                dc, dstate0, ddelta));
    require(refgss_gss_lambda_vjp(a, b, &dlam, imag_is_exp, da, db));
}

/// Rows of x (M,E) plus those of dy, where dx has any strides.
template <class T>
void put_dx(const matrix<const T>& dx, const flat<T>& dy, const view<T, 3>& out) {
    const int64_t E = dx.shape[1], L = out.shape[1];
    for_each_row(dx.shape[0], [&](int64_t i) {
        const T* more = dy.rows(i, 1).data;
        for (int64_t e = 0; e < E; ++e)
            *out.at(i / L, i % L, e) = dx.data[i * E + e] + more[e];
    });
}

template <class T>
void gss_vjp(const refgss_gss_layer_params& p, const refgss_array* x, const refgss_array* state,
             const gss_kept<T>& kept, const refgss_array* dy_array, const refgss_array* dstate,
             const refgss_gss_layer_params& d, const refgss_array* dx_array,
             const refgss_array* dstate0) {
    auto vx = checked<const T, 3>(x, "x");
    const gss_arrays<T> g(p, vx);
    const int64_t B = g.B, L = g.L, E = g.E, F = g.F, H = g.H, M = g.M;
    auto dx_out = shaped<T, 3>(dx_array, "dx", B, L, E);
    auto dw_v = gradient<T>(d.w_v, "dw_v", E, F), dw_u = gradient<T>(d.w_u, "dw_u", E, H);
    auto dw_uc = gradient<T>(d.w_uc, "dw_uc", H, F), dw_o = gradient<T>(d.w_o, "dw_o", F, E);
    flat<T> rows(vx), cotangents(shaped<const T, 3>(dy_array, "dy", B, L, E));
    auto& kernel = kernels<pointwise_kernels<T>>();
    const int64_t height = std::min(tile_height, M);
    scratch<T> h_data(sized(height, E)), dh_data(sized(M, E)), dy_data(sized(M, H));
    auto dh = packed(dh_data.data(), M, E), dy = packed(dy_data.data(), M, H);

    // the gated product: out = (uc ⊙ GELU(v)) W_o + b
    {
        scratch<T> dv_data(sized(height, F)), duc_data(sized(height, F)), uv_data(sized(height, F));
        for_tiles(M, [&](int64_t first, int64_t count) {
            const bool add = first > 0;
            auto dout = cotangents.rows(first, count);
            auto dv = packed(dv_data.data(), count, F), duc = packed(duc_data.data(), count, F);
            auto uv = packed(uv_data.data(), count, F), h = packed(h_data.data(), count, E);
            auto v = slice(kept.v, 0, first, count), uc = slice(kept.uc, 0, first, count);
            auto y = slice(kept.y, 0, first, count);
            matmul<T>(dout, transposed(g.w_o), dv, false);
            for_each_row(count, [&](int64_t i) {
                kernel.gate_vjp(F, uc.data + i * F, v.data + i * F, dv.data + i * F,
                                duc.data + i * F, uv.data + i * F);
            });
            matmul<T>(transposed(as_const(uv)), dout, dw_o, add);
            matmul<T>(as_const(duc), transposed(g.w_uc), slice(dy, 0, first, count), false);
            matmul<T>(transposed(as_const(y)), as_const(duc), dw_uc, add);
            layer_norm<T>(rows.rows(first, count), g.norm.data(), g.bias.data(), p.eps, h);
            matmul<T>(as_const(dv), transposed(g.w_v), slice(dh, 0, first, count), false);
            matmul<T>(transposed(as_const(h)), as_const(dv), dw_v, add);
        });
        if (M == 0)
            for (auto* w : {&dw_v, &dw_uc, &dw_o}) matmul<T>(packed<const T>(nullptr, w->shape[0], 0),
                                                            packed<const T>(nullptr, 0, w->shape[1]),
                                                            *w, false);
    }
    if (d.b_o != nullptr) sum_rows<T>(cotangents.rows(0, M), gradient<T>(d.b_o, "db_o", E));

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
    map_vjp<T>(p.lam_a, p.lam_b, p.c, p.imag_is_exp, &delta, gss_form,
               as_const(sequences(u.data, B, L, H)), state, as_const(sequences(dy.data, B, L, H)),
               dstate, sequences(du.data, B, L, H), d.lam_a, d.lam_b, d.c, &ddelta, dstate0);
    skip_vjp<T>(g.skip, as_const(u), as_const(dy), du, d.d);

    // u = GELU(h W_u), normed once more if asked; h = norm(x)
    if (g.ssm_norm) {
        norm_vjp<T>(as_const(act), norm_weight, as_const(du), p.eps, dy, d.ssm_norm_weight,
                    d.ssm_norm_bias);
        std::swap(du, dy);
    }
    for_each_row(M, [&](int64_t i) {
        kernel.gelu_vjp(H, kept.u.data + i * H, du.data + i * H, du.data + i * H);
    });
    for_tiles(M, [&](int64_t first, int64_t count) {
        auto h = packed(h_data.data(), count, E);
        auto from = as_const(slice(du, 0, first, count));
        layer_norm<T>(rows.rows(first, count), g.norm.data(), g.bias.data(), p.eps, h);
        matmul<T>(from, transposed(g.w_u), slice(dh, 0, first, count), true);
        matmul<T>(transposed(as_const(h)), from, dw_u, first > 0);
    });
    if (M == 0)
        matmul<T>(packed<const T>(nullptr, E, 0), packed<const T>(nullptr, 0, H), dw_u, false);
    scratch<T> dx_data(sized(M, E));
    auto dx = packed(dx_data.data(), M, E);
    norm_vjp<T>(rows.rows(0, M), g.norm.values, as_const(dh), p.eps, dx, d.norm_weight, d.norm_bias);
    put_dx<T>(as_const(dx), cotangents, dx_out);
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
        refgss_array au = to_array(sequences(u.data, B, L, E));
        refgss_array ay = to_array(sequences(y.data, B, L, E));
        require(refgss_ssm_scan(&au, lam.array(), p.c, state, delta.array(), &p.form, &ay, nullptr));
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
    for_each_row(M, [&](int64_t i) {
        kernel.gelu_vjp(E, y.data + i * E, dy.data + i * E, dy.data + i * E);
    });
    auto du = act;  // no longer needed
    map_vjp<T>(p.lam_a, p.lam_b, p.c, p.imag_is_exp, delta.array(), p.form,
               as_const(sequences(u.data, B, L, E)), state, as_const(sequences(dy.data, B, L, E)),
               dstate, sequences(du.data, B, L, E), d.lam_a, d.lam_b, d.c, d.log_delta, dstate0);
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

/// The kept arrays as matrices; they must be whole.
template <class T> gss_kept<T> kept_of(const refgss_gss_layer_kept& k, const refgss_array& x,
                                       int64_t F, int64_t H) {
    const int64_t B = x.shape[0], L = x.shape[1];
    auto whole = [&](const refgss_array* a, const char* name, int64_t width) {
        auto v = shaped<T, 3>(a, name, B, L, width);
        bool dense = v.size() == 0 || ((v.stride[2] == 1 || width == 1) && v.stride[1] == width &&
                                       (B == 1 || v.stride[0] == L * width));
        if (!dense)
            throw error{REFGSS_ERROR_VALUE, std::string(name) + " must be contiguous: it is kept"};
        return packed(v.data, B * L, width);
    };
    return {whole(k.v, "kept v", F), whole(k.u, "kept u", H), whole(k.y, "kept y", H),
            whole(k.uc, "kept uc", F)};
}

/// The checks of a gradient; dparams has the arrays of params.
template <class Params>
void check_vjp(const Params* params, const Params* dparams, const refgss_array* x,
               std::vector<named_array> inputs, std::vector<named_array> outputs) {
    const std::vector<named_array> given = arrays_of(*need(params, "params"));
    const std::vector<named_array> made = arrays_of(*need(dparams, "dparams"));
    for (size_t i = 0; i < given.size(); ++i) {
        if ((given[i].array == nullptr) != (made[i].array == nullptr))
            throw error{REFGSS_ERROR_VALUE, "dparams must have the arrays that params has"};
        outputs.push_back({made[i].array, "the gradient of " + made[i].name});
    }
    check_layer(x, params->eps, outputs, std::move(inputs), given);
}

}  // namespace

int32_t refgss_gss_layer_keeping(const refgss_gss_layer_params* params, const refgss_array* x,
                                 const refgss_array* state, const refgss_array* y,
                                 const refgss_array* state_out, const refgss_gss_layer_kept* kept) {
    return guarded([&] {
        need(kept, "kept");
        need(params, "params");
        check_layer(x, params->eps,
                    {{y, "y"}, {state_out, "state_out"}, {kept->v, "kept v"}, {kept->u, "kept u"},
                     {kept->y, "kept y"}, {kept->uc, "kept uc"}},
                    {{state, "state"}}, arrays_of(*params));
        with_scalar(*x, [&](auto scalar) {
            using T = decltype(scalar);
            const gss_arrays<T> g(*params, typed<const T, 3>(*x));
            shaped<T, 3>(y, "y", g.B, g.L, g.E);
            const gss_kept<T> keep = kept_of<T>(*kept, *x, g.F, g.H);
            gss_forward<T>(*params, nullptr, x, state, y, state_out, &keep);
        });
    });
}

int32_t refgss_gss_layer_vjp(const refgss_gss_layer_params* params, const refgss_array* x,
                             const refgss_array* state, const refgss_gss_layer_kept* kept,
                             const refgss_array* dy, const refgss_array* dstate,
                             const refgss_gss_layer_params* dparams, const refgss_array* dx,
                             const refgss_array* dstate0) {
    return guarded([&] {
        static constexpr refgss_gss_layer_kept none{};
        const refgss_gss_layer_kept& had = kept ? *kept : none;
        check_vjp(params, dparams, x,
                  {{state, "state"}, {dy, "dy"}, {dstate, "dstate"}, {had.v, "kept v"},
                   {had.u, "kept u"}, {had.y, "kept y"}, {had.uc, "kept uc"}},
                  {{dx, "dx"}, {dstate0, "dstate0"}});
        with_scalar(*x, [&](auto scalar) {
            using T = decltype(scalar);
            const gss_arrays<T> g(*params, typed<const T, 3>(*x));
            if (kept != nullptr)
                return gss_vjp<T>(*params, x, state, kept_of<T>(*kept, *x, g.F, g.H), dy, dstate,
                                  *dparams, dx, dstate0);
            scratch<T> v(sized(g.M, g.F)), u(sized(g.M, g.H)), y(sized(g.M, g.H)),
                uc(sized(g.M, g.F));
            const gss_kept<T> keep{packed(v.data(), g.M, g.F), packed(u.data(), g.M, g.H),
                                   packed(y.data(), g.M, g.H), packed(uc.data(), g.M, g.F)};
            gss_forward<T>(*params, nullptr, x, state, nullptr, nullptr, &keep);
            gss_vjp<T>(*params, x, state, keep, dy, dstate, *dparams, dx, dstate0);
        });
    });
}

int32_t refgss_dss_layer_vjp(const refgss_dss_layer_params* params, const refgss_array* x,
                             const refgss_array* state, const refgss_array* dy,
                             const refgss_array* dstate, const refgss_dss_layer_params* dparams,
                             const refgss_array* dx, const refgss_array* dstate0) {
    return guarded([&] {
        check_vjp(params, dparams, x, {{state, "state"}, {dy, "dy"}, {dstate, "dstate"}},
                  {{dx, "dx"}, {dstate0, "dstate0"}});
        with_scalar(*x, [&](auto scalar) {
            dss_vjp<decltype(scalar)>(*params, x, state, dy, dstate, *dparams, dx, dstate0);
        });
    });
}
