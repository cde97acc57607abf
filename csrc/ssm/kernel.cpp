// kernel.cpp: the kernel of a state-space map and its gradient, and gradients of modes.
#include <cmath>

#include "core/scratch.hpp"
#include "core/threads.hpp"
#include "ssm/kernel.hpp"

namespace refgss {
namespace {

/// Decaying modes run forwards from l = 0; growing ones, of a softmax, backwards from l = L - 1,
/// where they are e^{-z (length - L)}.
struct direction {
    bool growing;
    sorted_modes modes;
};
std::vector<direction> directions(const parameters& p, const discretization& d) {
    std::vector<direction> all{{false, sort_modes(p, d, false)}};
    direction growing{true, sort_modes(p, d, true)};
    if (growing.modes.set.count > 0) all.push_back(growing);
    return all;
}
complex ending(const parameters& p, const direction& side, complex z, int64_t length) {
    return side.growing ? std::exp(-z * static_cast<double>(p.form.length - length)) : complex(1);
}

}  // namespace

template <class T>
void ssm_kernel(const parameters& p, view<const T, 3> c, view<T, 2> k) {
    const int64_t H = k.shape[0], L = k.shape[1];
    discretization d = discretize(p);
    for (const direction& side : directions(p, d)) {
        std::vector<complex> scaled = d.bbar;
        for (size_t i = 0; i < scaled.size(); ++i) scaled[i] *= p.scale() * ending(p, side, d.z[i], L);
        std::vector<double> weights = mode_weights<T>(side.modes, scaled, c);
        view<T, 3> samples{k.data, {1, L, H}, {0, k.stride[1], k.stride[0]}};
        synthesize(side.modes.set, weights.data(), side.growing ? samples.reversed(1) : samples,
                   side.growing);
    }
}

template void ssm_kernel(const parameters&, view<const float, 3>, view<float, 2>);
template void ssm_kernel(const parameters&, view<const double, 3>, view<double, 2>);

/// With S0 = Σ dk_l Ā^l and S1 = Σ l dk_l Ā^{l-1}: dC̃ = conj S0 and dz = conj(C̃ S1 ∂Ā/∂z).
template <class T>
void ssm_kernel_vjp(const parameters& p, view<const T, 3> c, view<const T, 2> dk,
                    const ssm_gradients& gradients) {
    const discretization d = discretize(p);
    const int64_t H = dk.shape[0], L = dk.shape[1], N = d.count;
    std::vector<complex> dweight(sized(H, N), 0), dz(dweight.size(), 0);
    const auto finish = [&] {
        modes_vjp<T>(p, d, c, dweight, dz, gradients.dlam, gradients.dc, gradients.ddelta);
    };
    if (L == 0) return finish();
    const std::vector<complex> slopes = transition_slopes(p, d);
    view<const T, 3> samples{dk.data, {1, L, H}, {0, dk.stride[1], dk.stride[0]}};
    for (const direction& side : directions(p, d)) {
        const int64_t row = padded(side.modes.set.count);
        std::vector<double> s0(sized(H, 2 * row)), s1(s0.size());
        auto signal = side.growing ? samples.reversed(1) : samples, later = signal;
        later.data += signal.stride[1], later.shape[1] = L - 1;
        analyze(side.modes.set, signal, moment::none, s0.data());
        analyze(side.modes.set, later, moment::first, s1.data());
        parallel_for(H, slots_for(H), [&](int64_t h, int) {
            for (int64_t m = 0; m < side.modes.set.count; ++m) {
                int64_t n = side.modes.order[m], at = h * 2 * row + m;
                complex sum(s0[at], s0[at + row]), slope(s1[at], s1[at + row]);
                if (side.growing) {  // powers e^{-z (length - L + l)}
                    complex z = d.at(d.z, h, n), end = ending(p, side, z, L);
                    sum *= end;
                    slope = -(end * std::exp(-z) * slope +
                              static_cast<double>(p.form.length - L) * sum);
                } else {
                    slope = times(slope, slopes[(d.groups == 1 ? 0 : h * N) + n]);
                }
                complex value(*c.at(h, n, int64_t(0)), *c.at(h, n, int64_t(1)));
                complex weight = times(p.scale() * d.at(d.bbar, h, n), value);
                dweight[h * N + n] = std::conj(sum);
                dz[h * N + n] = std::conj(times(weight, slope));
            }
        });
    }
    finish();
}
template void ssm_kernel_vjp(const parameters&, view<const float, 3>, view<const float, 2>,
                             const ssm_gradients&);
template void ssm_kernel_vjp(const parameters&, view<const double, 3>, view<const double, 2>,
                             const ssm_gradients&);

template <class T>
void check_modes_outputs(const parameters& p, view<const T, 3> c, const refgss_array* dlam,
                         const refgss_array* dc, const refgss_array* ddelta) {
    shaped<T, 2>(dlam, "dlam", c.shape[1], int64_t(2));
    shaped<T, 3>(dc, "dc", c.shape[0], c.shape[1], int64_t(2));
    check_steps<T>(p, ddelta);
}
template void check_modes_outputs(const parameters&, view<const float, 3>, const refgss_array*,
                                  const refgss_array*, const refgss_array*);
template void check_modes_outputs(const parameters&, view<const double, 3>, const refgss_array*,
                                  const refgss_array*, const refgss_array*);

template <class T>
void no_gradients(const parameters& p, view<T, 3> du, const refgss_array* dlam, const refgss_array* dc,
                  const refgss_array* ddelta) {
    auto zero = [](const view<T, 3>& v) {
        for (int64_t i = 0; v.size() > 0 && i < v.shape[0]; ++i)
            for (int64_t j = 0; j < v.shape[1]; ++j)
                for (int64_t k = 0; k < v.shape[2]; ++k) *v.at(i, j, k) = T(0);
    };
    zero(du), zero(typed<T, 3>(*dc));
    zero({static_cast<T*>(dlam->data), {1, dlam->shape[0], 2}, {0, dlam->stride[0], dlam->stride[1]}});
    put_steps<T>(p, std::vector<double>(p.delta.re.size() * (p.delta.rank == 2 ? 2 : 1), 0.0), ddelta);
}
template void no_gradients(const parameters&, view<float, 3>, const refgss_array*, const refgss_array*,
                           const refgss_array*);
template void no_gradients(const parameters&, view<double, 3>, const refgss_array*, const refgss_array*,
                           const refgss_array*);

template <class T>
void modes_vjp(const parameters& p, const discretization& d, view<const T, 3> c,
               const std::vector<complex>& dweight, const std::vector<complex>& dz,
               const refgss_array* dlam, const refgss_array* dc, const refgss_array* ddelta) {
    const int64_t H = c.shape[0], N = c.shape[1];
    auto out_c = shaped<T, 3>(dc, "dc", H, N, int64_t(2));
    std::vector<complex> group_b(sized(d.groups, N), 0), group_z(group_b.size(), 0);
    for (int64_t h = 0; h < H; ++h)
        for (int64_t n = 0; n < N; ++n) {
            complex w = p.scale() * dweight[h * N + n];
            complex v = times(std::conj(d.at(d.bbar, h, n)), w);
            *out_c.at(h, n, int64_t(0)) = static_cast<T>(v.real());
            *out_c.at(h, n, int64_t(1)) = static_cast<T>(v.imag());
            complex c_conj(*c.at(h, n, int64_t(0)), -*c.at(h, n, int64_t(1)));
            int64_t to = (d.groups == 1 ? 0 : h) * N + n;
            group_b[to] += times(c_conj, w), group_z[to] += dz[h * N + n];
        }
    std::vector<complex> lam;
    std::vector<double> delta;
    discretize_vjp(p, d, group_b, group_z, lam, delta);
    auto out_lam = shaped<T, 2>(dlam, "dlam", N, int64_t(2));
    for (int64_t n = 0; n < N; ++n) put(out_lam, n, lam[n]);
    put_steps<T>(p, delta, ddelta);
}
template void modes_vjp(const parameters&, const discretization&, view<const float, 3>,
                        const std::vector<complex>&, const std::vector<complex>&,
                        const refgss_array*, const refgss_array*, const refgss_array*);
template void modes_vjp(const parameters&, const discretization&, view<const double, 3>,
                        const std::vector<complex>&, const std::vector<complex>&,
                        const refgss_array*, const refgss_array*, const refgss_array*);

template <class T>
void gss_lambda(view<const T, 1> a, view<const T, 1> b, bool imag_is_exp, view<T, 2> lam) {
    for (int64_t n = 0; n < a.shape[0]; ++n) {
        const double im = *b.at(n);
        put(lam, n, {-std::exp(double(*a.at(n))), imag_is_exp ? std::exp(im) : im});
    }
}
template void gss_lambda(view<const float, 1>, view<const float, 1>, bool, view<float, 2>);
template void gss_lambda(view<const double, 1>, view<const double, 1>, bool, view<double, 2>);

template <class T>
void gss_lambda_vjp(view<const T, 1> a, view<const T, 1> b, view<const T, 2> dlam, bool imag_is_exp,
                    view<T, 1> da, view<T, 1> db) {
    for (int64_t n = 0; n < a.shape[0]; ++n) {
        const complex g = get(dlam, n);
        *da.at(n) = static_cast<T>(-std::exp(double(*a.at(n))) * g.real());
        *db.at(n) = static_cast<T>((imag_is_exp ? std::exp(double(*b.at(n))) : 1) * g.imag());
    }
}
template void gss_lambda_vjp(view<const float, 1>, view<const float, 1>, view<const float, 2>, bool,
                             view<float, 1>, view<float, 1>);
template void gss_lambda_vjp(view<const double, 1>, view<const double, 1>, view<const double, 2>, bool,
                             view<double, 1>, view<double, 1>);

}  // namespace refgss
