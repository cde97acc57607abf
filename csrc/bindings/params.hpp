// params.hpp: the parameters of a layer kind, from arrays by the names that files and ops give them.
//
// `Arrays` is anything with p[name], NULL where there is no such array.
#pragma once

#include "bindings/numpy.hpp"

/// (method, pairs, eps, length), as refgss.native.state_space.form_tuple makes it.
inline refgss_form form_of(const py::tuple& form) {
    return {form[0].cast<int32_t>(), form[1].cast<bool>(), form[2].cast<double>(),
            form[3].cast<int64_t>()};
}

template <class Arrays>
refgss_gss_layer_params gss_params(Arrays&& p, bool imag_is_exp, double eps) {
    return {p["norm.weight"], p["norm.bias"], p["w_v"], p["w_u"], p["ssm.norm.weight"],
            p["ssm.norm.bias"], p["ssm.a"], p["ssm.b"], p["ssm.c"], p["ssm.d"], p["w_uc"], p["w_o"],
            p["b_o"], eps, imag_is_exp};
}
template <class Arrays>
refgss_dss_layer_params dss_params(Arrays&& p, bool imag_is_exp, double eps, const refgss_form& form) {
    return {p["norm.weight"], p["norm.bias"], p["ssm.a"], p["ssm.b"], p["ssm.c"], p["ssm.d"],
            p["ssm.log_delta"], p["w_o"], p["b_o"], form, eps, imag_is_exp};
}
