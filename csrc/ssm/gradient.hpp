// gradient.hpp: the gradients of scan and kernel with respect to Λ, C and Δ.
#pragma once

#include "ssm/arguments.hpp"

namespace refgss {

/// Where dΛ (N,2), dC (H,N,2) and dΔ of Δ's shape go; checked by check_modes_outputs.
struct ssm_gradients {
    const refgss_array *dlam, *dc, *ddelta;
};

/// dy (B,L,H), dstate (B,H,N,2) or nullptr, which means zeros -> du, dstate0 unless it is nullptr, and the
/// gradients.
template <class T>
void ssm_scan_vjp(const ssm_arguments<T>& in, view<const T, 3> u, const view<const T, 4>* state,
                  view<const T, 3> dy, const view<const T, 4>* dstate, view<T, 3> du,
                  const view<T, 4>* dstate0, const ssm_gradients& gradients);

}  // namespace refgss
