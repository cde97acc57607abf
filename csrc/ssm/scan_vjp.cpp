// scan_vjp.cpp: the gradient of a scan (GSS-GRD-5).
#include <algorithm>
#include <cmath>

#include "core/calm.hpp"
#include "core/scratch.hpp"
#include "core/threads.hpp"
#include "ssm/gradient.hpp"

namespace refgss {
namespace {

/// A signal (B,L,H) whose channels are multiples of powers of two where they are not calm: products of two
/// small numbers would be lost before they meet large ones.
template <class T> class calm_signal {
public:
    view<const T, 3> v;
    std::vector<int> exponents;  // of each channel

    explicit calm_signal(view<const T, 3> x) : v(x), exponents(x.shape[2], 0) {
        const int64_t B = x.shape[0], L = x.shape[1], H = x.shape[2];
        std::vector<T> most(sized(B, H), T(0));
        parallel_for(B, slots_for(B), [&](int64_t b, int) {
            T* m = most.data() + b * H;
            for (int64_t l = 0; l < L; ++l)
                across(x, b, l, [&](int64_t h, T v) { m[h] = std::abs(v) > m[h] ? std::abs(v) : m[h]; });
        });
        bool calm = true;
        for (int64_t h = 0; h < H; ++h) {
            T all = 0;
            for (int64_t b = 0; b < B; ++b) all = std::max(all, most[b * H + h]);
            calm = calm && (exponents[h] = wild_exponent(all)) == 0;
        }
        if (calm) return;
        copy_.resize(x.size());
        v = {copy_.data(), {B, L, H}, {L * H, H, 1}};
        serial_for(B * L, [&](int64_t i) {
            for (int64_t h = 0; h < H; ++h)
                copy_[i * H + h] = std::ldexp(*x.at(i / L, i % L, h), -exponents[h]);
        });
    }
    calm_signal(const calm_signal&) = delete;

private:
    std::vector<T> copy_;
};

/// s_1, s_2, ...
template <class T> view<const T, 3> later(view<const T, 3> s) {
    if (s.shape[1] > 0) s.data += s.stride[1], s.shape[1] -= 1;
    return s;
}

/// The analysis of a signal whose channels were divided by 2^exponents; nothing where it is not wanted.
template <class T>
std::vector<double> analyzed(const ssm<T>& map, bool wanted, view<const T, 3> s, moment weighting,
                             const std::vector<int>& exponents) {
    const int64_t H = map.channels(), row = map.row();
    std::vector<double> sum(wanted ? sized(sized(s.shape[0], H), 2 * row) : 0);
    if (!wanted) return sum;
    analyze(map.modes().set, s, weighting, sum.data());
    for (int64_t r = 0; r < s.shape[0] * H; ++r)
        for (int64_t i = 0; exponents[r % H] != 0 && i < 2 * row; ++i)
            sum[r * 2 * row + i] = std::ldexp(sum[r * 2 * row + i], exponents[r % H]);
    return sum;
}

/// The sums over time that the gradient of a mode is made of, in the order of the modes.
struct time_sums {
    std::vector<double> k0, k1;  // Σ dk_l Ā^l, Σ l dk_l Ā^{l-1}           (H,2,row)
    std::vector<double> y0, y1;  // Σ dy_l Ā^l, Σ (l+1) dy_l Ā^l           (B,H,2,row), or none
    std::vector<double> u1;      // Σ (l+1) u_{L-2-l} Ā^l                  (B,H,2,row), or none
    std::vector<double> x, dx;   // the states before, the cotangents after (B,H,2,row)
};

/// Through the kernel: du, and the sums over dK.
template <class T>
void through_kernel(const ssm<T>& map, const calm_signal<T>& u, const calm_signal<T>& dy, view<T, 3> du,
                    time_sums& sums) {
    const int64_t B = du.shape[0], L = du.shape[1], H = du.shape[2];
    std::vector<T> dk_data(sized(H, L));
    const view<T, 2> dk{dk_data.data(), {H, L}, {L, 1}};
    map.convolve_vjp(u.v, dy.v, du, dk);
    std::vector<int> both(H);
    for (int64_t h = 0; h < H; ++h) {
        both[h] = u.exponents[h] + dy.exponents[h];
        for (int64_t i = 0; dy.exponents[h] != 0 && i < B * L; ++i)
            *du.at(i / L, i % L, h) = std::ldexp(*du.at(i / L, i % L, h), dy.exponents[h]);
    }
    const view<const T, 3> samples{dk.data, {1, L, H}, {0, 1, L}};
    sums.k0 = analyzed(map, true, samples, moment::none, both);
    sums.k1 = analyzed(map, true, later(samples), moment::first, both);
}

/// Through the states: dstate reaches u by Re conj(dx) Ā^{L-1-l}.
template <class T>
void through_states(const ssm<T>& map, const std::vector<double>& dx, view<T, 3> du) {
    std::vector<double> conjugate = dx;
    const int64_t row = map.row(), rows = static_cast<int64_t>(dx.size()) / (2 * row);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < row; ++k) conjugate[(2 * r + 1) * row + k] *= -1;
    synthesize(map.modes().set, conjugate.data(), du.reversed(1), true);
}

template <class T> bool all_zero(const view<const T, 4>& v) {
    if (v.size() == 0) return true;
    bool zero = true;
    serial_for(v.shape[0], [&](int64_t b) {
        for (int64_t h = 0; h < v.shape[1] && zero; ++h)
            for (int64_t n = 0; n < v.shape[2]; ++n)
                for (int64_t i = 0; i < 2; ++i) zero = zero && *v.at(b, h, n, i) == T(0);
    });
    return zero;
}

/// What an absent state or cotangent would add is not computed.
template <class T>
void scan_vjp(const ssm_arguments<T>& in, view<const T, 3> u, const view<const T, 4>* state,
              view<const T, 3> dy, const view<const T, 4>* dstate, view<T, 3> du,
              const view<T, 4>* dstate0, const ssm_gradients& gradients) {
    const int64_t B = u.shape[0], L = u.shape[1], H = u.shape[2], N = in.c.shape[1];
    const ssm<T> map(in.p, in.c, L, L);
    const discretization& d = map.discrete();
    const int64_t row = map.row();
    time_sums s;
    {
        const calm_signal<T> signal(u), cotangent(dy);
        through_kernel(map, signal, cotangent, du, s);
        s.x = map.sorted(state, B), s.dx = map.sorted(dstate, B);
        if (dstate) through_states(map, s.dx, du);
        const auto& of_dy = cotangent.exponents;
        s.y0 = analyzed(map, state || dstate0, cotangent.v, moment::none, of_dy);
        s.y1 = analyzed(map, state != nullptr, cotangent.v, moment::first, of_dy);
        s.u1 = analyzed(map, dstate != nullptr, later(signal.v.reversed(1)), moment::first,
                        signal.exponents);
    }
    const std::vector<double> last = map.power(L), before = map.power(std::max<int64_t>(L - 1, 0));
    const std::vector<complex> slopes = transition_slopes(in.p, d);
    std::vector<double> next(dstate0 ? s.x.size() : 0);
    std::vector<complex> dweight(sized(H, N)), dz(dweight.size());
    parallel_for(H, slots_for(H), [&](int64_t h, int) {
        auto at = [&](const std::vector<double>& v, int64_t r, int64_t k) {
            return complex(v[2 * r * row + k], v[(2 * r + 1) * row + k]);
        };
        for (int64_t k = 0; k < N; ++k) {
            int64_t n = map.modes().order[k], g = d.groups == 1 ? 0 : h;
            complex a = d.at(d.abar, h, n), w = at(map.weights(), h, k);
            complex sum = at(s.k0, h, k), slope = times(w, at(s.k1, h, k));
            for (int64_t b = 0; b < B && (state || dstate || dstate0); ++b) {
                int64_t r = b * H + h;
                complex x0 = at(s.x, r, k), dxn = std::conj(at(s.dx, r, k));
                complex carried = s.y0.empty() ? 0 : times(a, at(s.y0, r, k));  // Σ dy_l Ā^{l+1}
                if (dstate) slope += times(dxn, at(s.u1, r, k));
                if (state) {
                    sum += times(x0, carried);
                    slope += times(times(w, x0), at(s.y1, r, k));
                    if (L > 0)
                        slope += static_cast<double>(L) * times(at(before, g, k), times(x0, dxn));
                }
                if (!dstate0) continue;
                complex back = std::conj(times(w, carried) + times(at(last, g, k), dxn));
                next[2 * r * row + k] = back.real(), next[(2 * r + 1) * row + k] = back.imag();
            }
            dweight[h * N + n] = std::conj(sum);
            dz[h * N + n] = std::conj(times(slope, d.at(slopes, h, n)));
        }
    });
    if (dstate0) map.unsorted(next, *dstate0);
    modes_vjp<T>(in.p, d, in.c, dweight, dz, gradients.dlam, gradients.dc, gradients.ddelta);
}

}  // namespace

template <class T>
void ssm_scan_vjp(const ssm_arguments<T>& in, view<const T, 3> u, const view<const T, 4>* state,
                  view<const T, 3> dy, const view<const T, 4>* dstate, view<T, 3> du,
                  const view<T, 4>* dstate0, const ssm_gradients& gradients) {
    if (u.shape[2] == 0 || in.c.shape[1] == 0 || (u.size() == 0 && dstate0 == nullptr))
        return no_gradients<T>(in.p, du, gradients.dlam, gradients.dc, gradients.ddelta);
    if (dstate && all_zero(*dstate)) dstate = nullptr;
    scan_vjp(in, u, state, dy, dstate, du, dstate0, gradients);
}
template void ssm_scan_vjp(const ssm_arguments<float>&, view<const float, 3>,
                           const view<const float, 4>*, view<const float, 3>,
                           const view<const float, 4>*, view<float, 3>, const view<float, 4>*,
                           const ssm_gradients&);
template void ssm_scan_vjp(const ssm_arguments<double>&, view<const double, 3>,
                           const view<const double, 4>*, view<const double, 3>,
                           const view<const double, 4>*, view<double, 3>, const view<double, 4>*,
                           const ssm_gradients&);

}  // namespace refgss
