// kernel.hpp: Λ, kernels and discretised modes, from views to views.
#pragma once

#include "ssm/gradient.hpp"

namespace refgss {

template <class T> void put(view<T, 2> to, int64_t n, complex value) {
    *to.at(n, int64_t(0)) = static_cast<T>(value.real());
    *to.at(n, int64_t(1)) = static_cast<T>(value.imag());
}
template <class T> complex get(view<const T, 2> from, int64_t n) {
    return {*from.at(n, int64_t(0)), *from.at(n, int64_t(1))};
}

/// Throws unless dΔ has the shape and type of Δ.
template <class T> void check_steps(const parameters& p, const refgss_array* ddelta) {
    check_array(ddelta, "ddelta", p.delta.rank);
    if (ddelta->dtype != dtype_of<T>)
        throw error{REFGSS_ERROR_TYPE,
                    "ddelta has another dtype than the first argument: convert one of them"};
    const auto rows = static_cast<int64_t>(p.delta.re.size());
    if (p.delta.rank > 0) check_axis("ddelta", "H", ddelta->shape[0], rows);
    if (p.delta.rank > 1) check_axis("ddelta", "its last axis", ddelta->shape[1], 2);
}

template <class T>
void put_steps(const parameters& p, const std::vector<double>& step, const refgss_array* ddelta) {
    const int64_t columns = p.delta.rank == 2 ? 2 : 1;
    const int64_t rows = static_cast<int64_t>(step.size()) / columns;
    auto* to = static_cast<T*>(ddelta->data);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
            to[(rows > 1 ? i * ddelta->stride[0] : 0) + (j ? ddelta->stride[1] : 0)] =
                static_cast<T>(step[i * columns + j]);
}

/// a, b (N) -> lam (N,2), and back.
template <class T>
void gss_lambda(view<const T, 1> a, view<const T, 1> b, bool imag_is_exp, view<T, 2> lam);
template <class T>
void gss_lambda_vjp(view<const T, 1> a, view<const T, 1> b, view<const T, 2> dlam, bool imag_is_exp,
                    view<T, 1> da, view<T, 1> db);

/// c (H,N,2) -> k (H,L); dk (H,L) -> the gradients.
template <class T> void ssm_kernel(const parameters& p, view<const T, 3> c, view<T, 2> k);
template <class T>
void ssm_kernel_vjp(const parameters& p, view<const T, 3> c, view<const T, 2> dk,
                    const ssm_gradients& gradients);

}  // namespace refgss
