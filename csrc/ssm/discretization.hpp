// discretization.hpp: (Λ, Δ) -> z = ΔΛ -> Ā, B̄, in binary64 whatever the type of the arrays (GSS-DIS,
// GSS-ACC-2), and back.  Work of O(N), or O(H N) where each channel has a step of its own.
#pragma once

#include <complex>
#include <vector>

#include "core/array.hpp"
#include "ssm/modes.hpp"

namespace refgss {

using complex = std::complex<double>;

/// a b by the formula.  operator* also recovers infinities, at several times the price.
inline complex times(complex a, complex b) {
    return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
}

/// Δ: one for all (scalar), one a channel (H), or one each for Re and Im (H,2).
struct step_size {
    std::vector<double> re, im;  // one entry, or H
    int rank;
    bool shared() const { return rank == 0; }
};

/// Whether the kernel is normalised over form.length steps.
inline bool is_softmax(const refgss_form& form) {
    return form.method == REFGSS_DSS_SOFTMAX || form.method == REFGSS_DSS_SOFTMAX_SHIFTED ||
           form.method == REFGSS_DSS_SOFTMAX_SHIFTED_SUM;
}

struct parameters {
    std::vector<complex> lam;  // (N)
    step_size delta;
    refgss_form form;
    double scale() const { return form.pairs ? 2 : 1; }
};

/// Checks Λ, Δ and the form as GSS-DIS-6 and GSS-DIS-8 say.  Only a kernel may have Re Λ > 0.
/// `channels`: H where another argument has said it.
template <class T>
parameters parameters_of(const refgss_array* lam, const refgss_array* delta, const refgss_form* form,
                         bool may_grow = false, int64_t channels = -1);

/// Modes in their order of decay.
struct sorted_modes {
    mode_set set;
    std::vector<int64_t> order;  // index in Λ of each
};

struct discretization {
    int64_t groups, count;        // groups: 1, or H
    std::vector<complex> z, abar, bbar;  // (groups, N)
    const complex& at(const std::vector<complex>& x, int64_t h, int64_t n) const {
        return x[(groups == 1 ? 0 : h) * count + n];
    }
};
discretization discretize(const parameters& p);

/// log Ā of the modes with Re Λ <= 0; or log Ā^-1 of those with Re Λ > 0.
sorted_modes sort_modes(const parameters& p, const discretization& d, bool growing = false);

/// ∂Ā/∂z (groups, N).
std::vector<complex> transition_slopes(const parameters& p, const discretization& d);

/// dB̄ and what else reaches z, dz (groups, N), -> dΛ (N), and dΔ (1, H or 2H).
void discretize_vjp(const parameters& p, const discretization& d, const std::vector<complex>& dbbar,
                    std::vector<complex> dz, std::vector<complex>& dlam,
                    std::vector<double>& ddelta);

}  // namespace refgss
