// ssm.hpp: a discretised state-space map, and its scan.
//
// Over a piece of n steps,  y = K * u + Re C̃ Ā^{l+1} x_0  and  x_n = Ā^n x_0 + Σ Ā^{n-1-l} u_l: a
// convolution, a synthesis and an analysis.  Pieces bound the memory; states between them are binary64.
#pragma once

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "conv/convolution.hpp"
#include "ssm/discretization.hpp"

namespace refgss {

/// f(h, u[b,l,h]) for all channels, in a loop that compilers vectorise where they are neighbours.
template <class T, class F> void across(const view<const T, 3>& u, int64_t b, int64_t l, F&& f) {
    const T* row = u.at(b, l, int64_t(0));
    if (u.stride[2] == 1)
        for (int64_t h = 0; h < u.shape[2]; ++h) f(h, row[h]);
    else
        for (int64_t h = 0; h < u.shape[2]; ++h) f(h, row[h * u.stride[2]]);
}

/// A state is a result: below the smallest normal number it is zero (GSS-ACC-7), or it would decay for
/// ever among the subnormal ones, where processors are slow.
template <class T> T settled(double x) {
    return std::abs(x) < static_cast<double>(std::numeric_limits<T>::min()) ? T(0) : static_cast<T>(x);
}

/// C times factors (groups, N), as weights (H, 2, row) in the order of the modes.
template <class T>
std::vector<double> mode_weights(const sorted_modes& modes, const std::vector<complex>& factors,
                                 view<const T, 3> c);

/// A complex gradient with respect to z and C̃ (H,N), in the order of Λ -> dΛ, dC, dΔ (GSS-GRD-4).
template <class T>
void modes_vjp(const parameters& p, const discretization& d, view<const T, 3> c,
               const std::vector<complex>& dweight, const std::vector<complex>& dz,
               const refgss_array* dlam, const refgss_array* dc, const refgss_array* ddelta);

/// Throws unless these three are fit to hold that.
template <class T>
void check_modes_outputs(const parameters& p, view<const T, 3> c, const refgss_array* dlam,
                         const refgss_array* dc, const refgss_array* ddelta);

/// Gradients of sums over nothing: zeros.
template <class T>
void no_gradients(const parameters& p, view<T, 3> du, const refgss_array* dlam, const refgss_array* dc,
                  const refgss_array* ddelta);

template <class T> class ssm {
public:
    using scalar = T;
    /// Kernel and pieces of at most `length` steps, and of at most `limit` if that is given.
    ssm(parameters p, view<const T, 3> c, int64_t length, int64_t limit = 0);
    /// The same map with another length, its kernel channels last.
    ssm(const ssm& other, int64_t length);
    /// Transforms the kernel, for scans that repeat.
    void prepare();

    int64_t channels() const { return channels_; }
    int64_t states() const { return modes_.set.count; }
    const sorted_modes& modes() const { return modes_; }
    const discretization& discrete() const { return discrete_; }
    const std::vector<double>& weights() const { return weights_; }  // C̃ (H,2,row)
    int64_t row() const { return padded(states()); }

    /// K (H, piece); where the weights of channel h are not calm, 2^-exponent(h) K.
    view<const T, 2> kernel() const {
        if (taps_first_) return {kernel_.data(), {channels_, piece_}, {1, channels_}};
        return {kernel_.data(), {channels_, piece_}, {piece_, 1}};
    }
    int exponent(int64_t h) const { return exponents_.empty() ? 0 : exponents_[h]; }
    /// du and dK of y = K * u.
    void convolve_vjp(view<const T, 3> u, view<const T, 3> dy, view<T, 3> du, view<T, 2> dk) const;

    void apply(view<const T, 3> u, const view<const T, 4>* state, view<T, 3> y,
               const view<T, 4>* state_out) const;

    /// States as (B,H,2,row) in the order of the modes, and back.
    std::vector<double> sorted(const view<const T, 4>* state, int64_t batch) const;
    void unsorted(const std::vector<double>& x, view<T, 4> state) const;
    /// Ā^n (groups, 2, row).
    std::vector<double> power(int64_t n) const;
    /// Adds Re C̃ Ā^{l+1} x_0 to the signal, or sets it to that.
    void read_out(const std::vector<double>& x, view<T, 3> signal, bool add) const;
    /// x <- Ā^n x + Σ Ā^{n-1-l} u_l.
    void advance(std::vector<double>& x, view<const T, 3> u) const;

private:
    void find_exponents();
    void make_kernel();
    void step(view<const T, 3> u, const view<const T, 4>* state, view<T, 3> y,
              const view<T, 4>* state_out) const;
    void convolve(view<const T, 3> u, view<T, 3> y) const;
    void convolve_start(view<const T, 3> u, int64_t b, int64_t h, int64_t count, T* y, int64_t stride) const;
    void unscale(view<T, 3> y) const;

    parameters parameters_;
    int64_t channels_, piece_;
    discretization discrete_;
    sorted_modes modes_;
    bool taps_first_ = false;
    std::vector<double> weights_, next_weights_;  // C̃ and C̃ Ā (H,2,row)
    std::vector<int> exponents_;  // of the kernel and of the weights of a step; empty where all are 0
    std::vector<T> step_;  // see step_kernels
    std::vector<T> kernel_;
    std::shared_ptr<const spectrum<T>> spectrum_;
};

/// One step of all states of a row: x' = Ā x + u, and y = Re Σ C̃ x'.  Complex numbers interleaved;
/// Ā as (re, re) pairs and as (-im, im) pairs.
template <class T> struct step_kernels {
    T (*step)(int64_t count, const T* abar_re, const T* abar_im, const T* weight, T u,
              const T* state, T* next);
};

}  // namespace refgss
