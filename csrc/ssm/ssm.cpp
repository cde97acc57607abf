#include "ssm/ssm.hpp"

#include <algorithm>
#include <cmath>

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

/// The first step of each row (b,h) that is not finite; L where all are.
template <class T> std::vector<int64_t> finite_until(view<const T, 3> u) {
    const int64_t B = u.shape[0], L = u.shape[1], H = u.shape[2];
    std::vector<int64_t> until(B * H, L);
    parallel_for(B, slots_for(B), [&](int64_t b, int) {
        std::vector<T> sum(H, T(0));
        for (int64_t l = 0; l < L; ++l) {
            const T* row = u.at(b, l, int64_t(0));
            if (u.stride[2] == 1)
                for (int64_t h = 0; h < H; ++h) sum[h] += row[h] * T(0);
            else
                for (int64_t h = 0; h < H; ++h) sum[h] += row[h * u.stride[2]] * T(0);
        }
        for (int64_t h = 0; h < H; ++h)
            for (int64_t l = 0; sum[h] != T(0) && l < until[b * H + h]; ++l)
                if (!std::isfinite(*u.at(b, l, h))) until[b * H + h] = l;
    });
    return until;
}

}  // namespace

template <class T>
std::vector<double> mode_weights(const sorted_modes& modes, const std::vector<complex>& factors,
                                 view<const T, 3> c) {
    const int64_t H = c.shape[0], N = c.shape[1], row = padded(modes.set.count);
    std::vector<double> weights(sized(H, 2 * row), 0);
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
    for (size_t i = 0; i < factors.size(); ++i) factors[i] *= discrete_.abar[i];
    next_weights_ = mode_weights<T>(modes_, factors, c);
    step_.resize(sized(discrete_.groups, 4 * N) + sized(channels_, 2 * N));
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
            to[0] = static_cast<T>(from[k]), to[1] = static_cast<T>(from[row() + k]);
        }
    });
    make_kernel();
}

template <class T>
ssm<T>::ssm(const ssm& other, int64_t length)
    : ssm(other) {
    piece_ = length, taps_first_ = true, spectrum_ = nullptr;
    make_kernel();
}

template <class T> void ssm<T>::make_kernel() {
    kernel_.resize(sized(channels_, piece_));
    auto k = kernel();
    view<T, 3> samples{kernel_.data(), {1, piece_, channels_}, {0, k.stride[1], k.stride[0]}};
    synthesize(modes_.set, weights_.data(), samples, false);
}

template <class T> void ssm<T>::prepare() {
    if (piece_ == 0 || channels_ == 0) return;
    refgss_spectrum* made = nullptr;
    refgss_array k = to_array(kernel());
    require(refgss_spectrum_new(&k, piece_, &made));
    spectrum_.reset(made, refgss_spectrum_free);
}

template <class T>
std::vector<double> ssm<T>::sorted(const view<const T, 4>* state, int64_t batch) const {
    std::vector<double> x(sized(batch * channels_, 2 * row()), 0);
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
    parallel_for(rows, slots_for(rows), [&](int64_t r, int) {
        T* to = state.at(r / channels_, r % channels_, int64_t(0), int64_t(0));
        for (int64_t k = 0; k < states(); ++k)
            for (int part = 0; part < 2; ++part)
                to[modes_.order[k] * state.stride[2] + part * state.stride[3]] =
                    static_cast<T>(x[(r * 2 + part) * row() + k]);
    });
}

template <class T> std::vector<double> ssm<T>::power(int64_t n) const {
    std::vector<double> p(discrete_.groups * 2 * row(), 0);
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

/// y = K * u, and where u is not finite, exact before and NaN from then on (GSS-NFI).
template <class T> void ssm<T>::convolve(view<const T, 3> u, view<T, 3> y) const {
    const int64_t L = u.shape[1], H = channels_;
    view<const T, 2> k = kernel();
    k.shape[1] = L;
    refgss_array au = to_array(u), ak = to_array(k), ay = to_array(y);
    require(spectrum_ ? refgss_spectrum_conv(spectrum_.get(), &au, &ay)
                      : refgss_causal_conv(&au, &ak, &ay));
    std::vector<int64_t> until = finite_until(u);
    for (int64_t r = 0; r < static_cast<int64_t>(until.size()); ++r) {
        if (until[r] == L) continue;
        int64_t b = r / H, h = r % H;
        view<const T, 3> head{u.at(b, int64_t(0), h), {1, until[r], 1}, {0, u.stride[1], 0}};
        view<T, 3> out{y.at(b, int64_t(0), h), {1, until[r], 1}, {0, y.stride[1], 0}};
        view<const T, 2> row{k.at(h, int64_t(0)), {1, until[r]}, {0, 1}};
        refgss_array a1 = to_array(head), a2 = to_array(row), a3 = to_array(out);
        require(refgss_causal_conv(&a1, &a2, &a3));
        for (int64_t l = until[r]; l < L; ++l) *y.at(b, l, h) = static_cast<T>(NAN);
    }
}

template <class T>
void ssm<T>::convolve_vjp(view<const T, 3> u, view<const T, 3> dy, view<T, 3> du,
                          view<T, 2> dk) const {
    auto k = kernel();
    refgss_array au = to_array(u), ak = to_array(k), ady = to_array(dy), adu = to_array(du),
                 adk = to_array(dk);
    require(refgss_causal_conv_vjp(&au, &ak, &ady, &adu, &adk));
}

template <class T>
void ssm<T>::apply(view<const T, 3> u, const view<const T, 4>* state, view<T, 3> y,
                   const view<T, 4>* state_out) const {
    const int64_t B = u.shape[0], L = u.shape[1];
    if (L == 1) return step(u, state, y, state_out);
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
    scratch<T> buffer(slots * 4 * N);
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
            if (!dense_out && state_out != nullptr)
                for (int64_t n = 0; n < 2 * N; ++n) *state_out->at(b, h, n / 2, n % 2) = to[n];
        }
    };
    parallel_for(items, slots_for(items), steps, true);
}

template class ssm<float>;
template class ssm<double>;

}  // namespace refgss
