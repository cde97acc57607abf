// layers.cpp: the layers at the C ABI, with their gradients.
#include "layers/layer.hpp"

#include "abi/ssm.hpp"

using namespace refgss;

namespace {

/// The arrays of a layer, by the names of the header; absent ones are NULL.
std::vector<named_array> arrays_of(const refgss_gss_layer_params& p) {
    return {{p.norm_weight, "norm_weight"}, {p.norm_bias, "norm_bias"}, {p.w_v, "w_v"},
            {p.w_u, "w_u"}, {p.ssm_norm_weight, "ssm_norm_weight"},
            {p.ssm_norm_bias, "ssm_norm_bias"}, {p.lam_a, "lam_a"}, {p.lam_b, "lam_b"}, {p.c, "c"}, {p.d, "d"},
            {p.w_uc, "w_uc"}, {p.w_o, "w_o"}, {p.b_o, "b_o"}};
}
std::vector<named_array> arrays_of(const refgss_dss_layer_params& p) {
    return {{p.norm_weight, "norm_weight"}, {p.norm_bias, "norm_bias"}, {p.lam_a, "lam_a"}, {p.lam_b, "lam_b"},
            {p.c, "c"}, {p.d, "d"}, {p.log_delta, "log_delta"}, {p.w_o, "w_o"}, {p.b_o, "b_o"}};
}

/// What each entry of a layer asks first: x (B,L,E), E > 0, and what is written meets nothing else.
void check_layer(const refgss_array* x, double eps, const std::vector<named_array>& outputs,
                 std::vector<named_array> inputs, const std::vector<named_array>& params) {
    check_array(x, "x", 3);
    if (x->shape[2] == 0)
        throw error{REFGSS_ERROR_VALUE, "x must have a last axis that is not empty"};
    if (!(eps > 0)) throw error{REFGSS_ERROR_VALUE, "eps must be positive"};
    inputs.push_back({x, "x"});
    inputs.insert(inputs.end(), params.begin(), params.end());
    check_outputs(outputs, inputs);
}

/// The map in a handle, of the type of x; nullptr where there is no handle.
template <class T> const ssm<T>* map_of_type(const refgss_ssm* handle) {
    if (handle == nullptr) return nullptr;
    if (const ssm<T>* map = handle->made.get<T>()) return map;
    throw error{REFGSS_ERROR_TYPE, "the ssm has another dtype than x: prepare one of the dtype of x"};
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

int32_t refgss_gss_layer(const refgss_gss_layer_params* params, const refgss_ssm* ssm,
                         const refgss_array* x, const refgss_array* state, const refgss_array* y,
                         const refgss_array* state_out) {
    return guarded([&] {
        need(params, "params");
        check_layer(x, params->eps, {{y, "y"}, {state_out, "state_out"}},
                    {{state, "state"}}, arrays_of(*params));
        with_scalar(*x, [&](auto scalar) {
            using T = decltype(scalar);
            shaped<T, 3>(y, "y", x->shape[0], x->shape[1], x->shape[2]);
            gss_forward<T>(*params, map_of_type<T>(ssm), x, state, y, state_out, nullptr);
        });
    });
}

int32_t refgss_dss_layer(const refgss_dss_layer_params* params, const refgss_ssm* ssm,
                         const refgss_array* x, const refgss_array* state, const refgss_array* y,
                         const refgss_array* state_out) {
    return guarded([&] {
        need(params, "params");
        check_layer(x, params->eps, {{y, "y"}, {state_out, "state_out"}},
                    {{state, "state"}}, arrays_of(*params));
        with_scalar(*x, [&](auto scalar) {
            using T = decltype(scalar);
            dss_forward<T>(*params, map_of_type<T>(ssm), x, state, y, state_out);
        });
    });
}

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
