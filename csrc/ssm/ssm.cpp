#include "ssm/ssm.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/calm.hpp"
#include "core/dispatch.hpp"
#include "core/scratch.hpp"
#include "core/threads.hpp"

namespace refgss {
namespace {

/// Steps of a piece: a kernel of at most 2^23 taps over all channels.
int64_t piece_for(int64_t length, int64_t channels) {
    int64_t limit = std::max<int64_t>(1024, (int64_t(1) << 23) / std::max<int64_t>(channels, 1));
    return std::min(length, limit);
}

template <class T> view<T, 3> time_slice(view<T, 3> v, int64_t first, int64_t count) {
    if (count > 0) v.data += first * v.stride[1];
    v.shape[1] = count;
    return v;
}

/// A row (b,h) with a step that is not calm, and the first one that is not finite; L where there is none.
struct wild_row {
    int64_t b, h, first, not_finite;
};
template <class T> std::vector<wild_row> wild_rows(view<const T, 3> u) {
    const int64_t B = u.shape[0], L = u.shape[1], H = u.shape[2];
    const T most = calm_limit<T>();
    std::vector<T> wild(sized(B, H), T(0));
    parallel_for(B, slots_for(B), [&](int64_t b, int) {
        T* found = wild.data() + b * H;
        for (int64_t l = 0; l < L; ++l) {
            across(u, b, l, [&](int64_t h, T x) { found[h] += std::abs(x) <= most ? T(0) : T(1); });
        }
    });
    std::vector<wild_row> rows;
    for (int64_t r = 0; r < static_cast<int64_t>(wild.size()); ++r) {
        if (wild[r] == T(0)) continue;
        wild_row row{r / H, r % H, L, L};
        for (int64_t l = L - 1; l >= 0; --l) {
            const T x = *u.at(row.b, l, row.h);
            if (!(std::abs(x) <= most)) row.first = l;
            if (!std::isfinite(x)) row.not_finite = l;
        }
        rows.push_back(row);
    }
    return rows;
}

}  // namespace

template <class T>
std::vector<double> mode_weights(const sorted_modes& modes, const std::vector<complex>& factors,
                                 view<const T, 3> c) {
    const int64_t H = c.shape[0], N = c.shape[1], row = padded(modes.set.count);
    std::vector<double> weights(sized(H, 2 * row), 0);
    if (weights.empty()) return weights;
    parallel_for(H, slots_for(H), [&](int64_t h, int) {
        double *re = weights.data() + h * 2 * row, *im = re + row;
        const complex* factor = factors.data() + (modes.set.groups == 1 ? 0 : h * N);
        for (int64_t k = 0; k < modes.set.count; ++k) {
            int64_t n = modes.order[k];
            const T* value = c.at(h, n, int64_t(0));
            double x = value[0], y = value[c.stride[2]];
            re[k] = x * factor[n].real() - y * factor[n].imag();
            im[k] = x * factor[n].imag() + y * factor[n].real();
        }
    });
    return weights;
}
template std::vector<double> mode_weights(const sorted_modes&, const std::vector<complex>&,
                                          view<const float, 3>);
template std::vector<double> mode_weights(const sorted_modes&, const std::vector<complex>&,
                                          view<const double, 3>);

template <class T>
ssm<T>::ssm(parameters p, view<const T, 3> c, int64_t length, int64_t limit)
    : parameters_(std::move(p)), channels_(c.shape[0]),
      piece_(limit > 0 ? limit : piece_for(length, c.shape[0])),
      discrete_(discretize(parameters_)), modes_(sort_modes(parameters_, discrete_)) {
    const int64_t N = states();
    if (parameters_.delta.rank > 0) check_axis("delta", "H", discrete_.groups, channels_);
    check_axis("c", "N", c.shape[1], discrete_.count);
    std::vector<complex> factors = discrete_.bbar;
    for (complex& b : factors) b *= parameters_.scale();
    weights_ = mode_weights<T>(modes_, factors, c);
    find_exponents();
    for (size_t i = 0; i < factors.size(); ++i) factors[i] *= discrete_.abar[i];
    next_weights_ = mode_weights<T>(modes_, factors, c);
    step_.resize(sized(2 * discrete_.groups + channels_, 2 * N));
    T* weight = step_.data() + discrete_.groups * 4 * N;
    for (int64_t g = 0; g < discrete_.groups; ++g)
        for (int64_t n = 0; n < N; ++n) {
            complex a = discrete_.abar[g * N + n];
            T *re = step_.data() + g * 4 * N + 2 * n, *im = re + 2 * N;
            re[0] = re[1] = static_cast<T>(a.real());
            im[0] = static_cast<T>(-a.imag()), im[1] = static_cast<T>(a.imag());
        }
    parallel_for(channels_, slots_for(channels_), [&](int64_t h, int) {
        const double* from = weights_.data() + h * 2 * row();
        for (int64_t k = 0; k < N; ++k) {
            T* to = weight + (h * N + modes_.order[k]) * 2;
            to[0] = static_cast<T>(std::ldexp(from[k], -exponent(h)));
            to[1] = static_cast<T>(std::ldexp(from[row() + k], -exponent(h)));
        }
    });
    make_kernel();
}

template <class T>
ssm<T>::ssm(const ssm& other, int64_t length)
    : ssm(other) {
    piece_ = length, taps_first_ = true, spectrum_ = nullptr;
    exponents_.clear();  // who takes taps one by one takes them as they are
    make_kernel();
}

/// Of the weights of each channel: a kernel that is not calm would be nothing, or infinite, in T.
template <class T> void ssm<T>::find_exponents() {
    std::vector<int> exponents(channels_, 0);
    for (int64_t h = 0; h < channels_; ++h) {
        const double* w = weights_.data() + h * 2 * row();
        double most = 0;
        for (int64_t i = 0; i < 2 * row(); ++i) most = std::max(most, std::abs(w[i]));
        if (!is_calm(static_cast<T>(most)) && std::isfinite(most)) std::frexp(most, &exponents[h]);
    }
    if (std::any_of(exponents.begin(), exponents.end(), [](int e) { return e != 0; }))
        exponents_ = std::move(exponents);
}

template <class T> void ssm<T>::make_kernel() {
    kernel_.resize(sized(channels_, piece_));
    auto k = kernel();
    view<T, 3> samples{kernel_.data(), {1, piece_, channels_}, {0, k.stride[1], k.stride[0]}};
    if (exponents_.empty()) return synthesize(modes_.set, weights_.data(), samples, false);
    std::vector<double> scaled = weights_;
    for (int64_t i = 0; i < static_cast<int64_t>(scaled.size()); ++i)
        scaled[i] = std::ldexp(scaled[i], -exponent(i / (2 * row())));
    synthesize(modes_.set, scaled.data(), samples, false);
}

template <class T> void ssm<T>::prepare() {
    if (piece_ == 0 || channels_ == 0) return;
    spectrum_ = std::make_shared<const spectrum<T>>(kernel(), piece_);
}

template <class T>
std::vector<double> ssm<T>::sorted(const view<const T, 4>* state, int64_t batch) const {
    std::vector<double> x(sized(sized(batch, channels_), 2 * row()), 0);
    if (state == nullptr) return x;
    parallel_for(batch * channels_, slots_for(batch * channels_), [&](int64_t r, int) {
        const T* from = state->at(r / channels_, r % channels_, int64_t(0), int64_t(0));
        for (int64_t k = 0; k < states(); ++k)
            for (int part = 0; part < 2; ++part)
                x[(r * 2 + part) * row() + k] =
                    from[modes_.order[k] * state->stride[2] + part * state->stride[3]];
    });
    return x;
}

template <class T> void ssm<T>::unsorted(const std::vector<double>& x, view<T, 4> state) const {
    const int64_t rows = state.shape[0] * channels_;
    const uninterrupted whole;  // it may be the state that the call began with
    parallel_for(rows, slots_for(rows), [&](int64_t r, int) {
        T* to = state.at(r / channels_, r % channels_, int64_t(0), int64_t(0));
        for (int64_t k = 0; k < states(); ++k)
            for (int part = 0; part < 2; ++part)
                to[modes_.order[k] * state.stride[2] + part * state.stride[3]] =
                    settled<T>(x[(r * 2 + part) * row() + k]);
    });
}

template <class T> std::vector<double> ssm<T>::power(int64_t n) const {
    std::vector<double> p(sized(discrete_.groups, 2 * row()), 0);
    parallel_for(discrete_.groups, slots_for(discrete_.groups), [&](int64_t g, int) {
        for (int64_t k = 0; k < states(); ++k) {
            complex z(modes_.set.re[g * row() + k], modes_.set.im[g * row() + k]);
            complex a = std::exp(z * static_cast<double>(n));
            p[g * 2 * row() + k] = a.real(), p[(g * 2 + 1) * row() + k] = a.imag();
        }
    });
    return p;
}

namespace {
/// product[k] = a[k] b[k], complex rows with real parts and imaginary parts `row` apart.
void multiply(const double* a, const double* b, int64_t row, double* product) {
    for (int64_t k = 0; k < row; ++k) {
        double re = a[k] * b[k] - a[row + k] * b[row + k];
        double im = a[k] * b[row + k] + a[row + k] * b[k];
        product[k] = re, product[row + k] = im;
    }
}
}  // namespace

template <class T>
void ssm<T>::read_out(const std::vector<double>& x, view<T, 3> signal, bool add) const {
    std::vector<double> w(x.size());
    const int64_t rows = signal.shape[0] * channels_;
    parallel_for(rows, slots_for(rows), [&](int64_t r, int) {
        multiply(x.data() + r * 2 * row(), next_weights_.data() + r % channels_ * 2 * row(), row(),
                 w.data() + r * 2 * row());
    });
    synthesize(modes_.set, w.data(), signal, add);
}

template <class T> void ssm<T>::advance(std::vector<double>& x, view<const T, 3> u) const {
    std::vector<double> p = power(u.shape[1]);
    const int64_t rows = u.shape[0] * channels_;
    parallel_for(rows, slots_for(rows), [&](int64_t r, int) {
        int64_t g = discrete_.groups == 1 ? 0 : r % channels_;
        double* row_of_x = x.data() + r * 2 * row();
        multiply(row_of_x, p.data() + g * 2 * row(), row(), row_of_x);
    });
    analyze(modes_.set, u.reversed(1), moment::none, x.data(), true);
}

/// y times 2^exponent, channel by channel.
template <class T> void ssm<T>::unscale(view<T, 3> y) const {
    if (exponents_.empty()) return;
    for (int64_t h = 0; h < channels_; ++h)
        for (int64_t b = 0; exponents_[h] != 0 && b < y.shape[0]; ++b)
            for (int64_t l = 0; l < y.shape[1]; ++l)
                *y.at(b, l, h) = std::ldexp(*y.at(b, l, h), exponents_[h]);
}

/// y = K * u for one row of a signal that ends after `count` steps.
template <class T>
void ssm<T>::convolve_start(view<const T, 3> u, int64_t b, int64_t h, int64_t count, T* y,
                            int64_t stride) const {
    const view<const T, 2> k = kernel();
    const view<const T, 3> signal{u.at(b, int64_t(0), h), {1, count, 1}, {0, u.stride[1], 0}};
    const view<const T, 2> taps{k.at(h, int64_t(0)), {1, count}, {0, k.stride[1]}};
    causal_conv(signal, taps, view<T, 3>{y, {1, count, 1}, {0, stride, 0}});
    for (int64_t l = 0; l < count && exponent(h) != 0; ++l)
        y[l * stride] = std::ldexp(y[l * stride], exponent(h));
}

/// y = K * u.  A transform carries a large step back in time: what comes before the first step that is
/// not calm is the convolution without it, and from the first that is not finite on, y is NaN (GSS-NFI-10).
template <class T> void ssm<T>::convolve(view<const T, 3> u, view<T, 3> y) const {
    const int64_t L = u.shape[1];
    view<const T, 2> k = kernel();
    k.shape[1] = L;
    spectrum_ ? spectrum_->convolve(u, y) : causal_conv(u, k, y);
    unscale(y);
    for (const wild_row& r : wild_rows(u)) {
        T* row = y.at(r.b, int64_t(0), r.h);
        if (r.not_finite < L) {
            convolve_start(u, r.b, r.h, r.not_finite, row, y.stride[1]);
            for (int64_t l = r.not_finite; l < L; ++l) row[l * y.stride[1]] = static_cast<T>(NAN);
        }
        convolve_start(u, r.b, r.h, r.first, row, y.stride[1]);
    }
}

template <class T>
void ssm<T>::convolve_vjp(view<const T, 3> u, view<const T, 3> dy, view<T, 3> du,
                          view<T, 2> dk) const {
    causal_conv_vjp(u, kernel(), dy, du, dk);
    unscale(du);
}

template <class T>
void ssm<T>::apply(view<const T, 3> u, const view<const T, 4>* state, view<T, 3> y,
                   const view<T, 4>* state_out) const {
    const int64_t B = u.shape[0], L = u.shape[1];
    if (channels_ == 0 || (y.size() == 0 && state_out == nullptr)) return;
    if (L == 1) return step(u, state, y, state_out);
    if (states() == 0)  // a sum over nothing, whatever u is (GSS-NFI-14)
        return serial_for(B, [&](int64_t b) {
            for (int64_t l = 0; l < L; ++l)
                for (int64_t h = 0; h < channels_; ++h) *y.at(b, l, h) = T(0);
        });
    if (piece_ == 0 && L > 0) return ssm(*this, piece_for(L, channels_)).apply(u, state, y, state_out);
    std::vector<double> x = sorted(state, B);
    bool at_rest = state == nullptr;
    for (int64_t first = 0; first < L;) {
        int64_t n = std::min(piece_, L - first);
        auto u_piece = time_slice(u, first, n);
        auto y_piece = time_slice(y, first, n);
        convolve(u_piece, y_piece);
        if (!at_rest) read_out(x, y_piece, true);
        first += n;
        if (first < L || state_out != nullptr) advance(x, u_piece);
        at_rest = false;
    }
    if (state_out != nullptr) unsorted(x, *state_out);
}

template <class T>
void ssm<T>::step(view<const T, 3> u, const view<const T, 4>* state, view<T, 3> y,
                  const view<T, 4>* state_out) const {
    auto& kernel = kernels<step_kernels<T>>();
    const int64_t N = states(), H = channels_, rows = u.shape[0] * H;
    const int slots = slots_for(rows);
    const T* weight = step_.data() + discrete_.groups * 4 * N;
    scratch<T> buffer(sized(slots, 4 * N));
    // a row of states is worked on in place where it is contiguous, in a buffer otherwise
    auto dense = [&](auto* v) { return v != nullptr && v->stride[2] == 2 && v->stride[3] == 1; };
    const bool dense_in = dense(state), dense_out = dense(state_out);
    constexpr int64_t together = 16;
    const int64_t items = (rows + together - 1) / together;
    const auto steps = [&](int64_t item, int slot) {
        T *in = buffer.data() + slot * 4 * N, *out = in + 2 * N;
        for (int64_t r = item * together; r < std::min(rows, (item + 1) * together); ++r) {
            int64_t b = r / H, h = r % H, g = discrete_.groups == 1 ? 0 : h;
            const T* from = in;
            T* to = out;
            if (dense_in) from = state->at(b, h, int64_t(0), int64_t(0));
            else
                for (int64_t n = 0; n < 2 * N; ++n)
                    in[n] = state == nullptr ? T(0) : *state->at(b, h, n / 2, n % 2);
            if (dense_out) to = state_out->at(b, h, int64_t(0), int64_t(0));
            const T* abar = step_.data() + g * 4 * N;
            *y.at(b, int64_t(0), h) = kernel.step(N, abar, abar + 2 * N, weight + h * 2 * N,
                                                  *u.at(b, int64_t(0), h), from, to);
            if (exponent(h) != 0) {
                T& out_y = *y.at(b, int64_t(0), h);
                out_y = std::ldexp(out_y, exponent(h));
            }
            if (!dense_out && state_out != nullptr)
                for (int64_t n = 0; n < 2 * N; ++n) *state_out->at(b, h, n / 2, n % 2) = to[n];
        }
    };
    std::optional<uninterrupted> whole;
    if (state && state_out && state->data == state_out->data) whole.emplace();
    parallel_for(items, slots_for(items), steps, true);
}

template class ssm<float>;
template class ssm<double>;

}  // namespace refgss
