// arguments.hpp: the arguments that ops on state-space maps share, from arrays to views.
#pragma once

#include "ssm/ssm.hpp"

namespace refgss {

/// Λ, C and Δ of an op on signals, checked.
template <class T> struct ssm_arguments {
    view<const T, 3> c;
    parameters p;

    ssm_arguments(const refgss_array* lam, const refgss_array* c_array, const refgss_array* delta,
                  const refgss_form* form)
        : c(checked<const T, 3>(c_array, "c")),
          p(parameters_of<T>(lam, delta, form, false, c.shape[0])) {
        check_axis("c", "N", c.shape[1], static_cast<int64_t>(p.lam.size()));
        check_axis("c", "its last axis", c.shape[2], 2);
    }
    void check_length(int64_t length) const {
        if (is_softmax(p.form) && length > p.form.length)
            throw error{REFGSS_ERROR_VALUE,
                        "the signal is longer than the softmax is normalised over"};
    }
};

template <class T, int R> struct optional_view {
    view<T, R> v;
    bool present = false;
    const view<T, R>* get() const { return present ? &v : nullptr; }
};

/// A state (B,H,N,2) that may be NULL.
template <class T>
optional_view<T, 4> state_of(const refgss_array* a, const char* name, int64_t B, int64_t H, int64_t N) {
    if (a == nullptr) return {};
    return {shaped<T, 4>(a, name, B, H, N, int64_t(2)), true};
}

}  // namespace refgss
