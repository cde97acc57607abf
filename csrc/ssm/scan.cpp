// scan.cpp: the recurrence at the ABI: scan, its gradient, one step, a prepared map and the stepper.
#include <algorithm>
#include <cmath>

#include "core/calm.hpp"
#include "core/handle.hpp"
#include "core/scratch.hpp"
#include "core/threads.hpp"
#include "ssm/ssm.hpp"

using namespace refgss;

namespace {

template <class T> struct arguments {
    view<const T, 3> c;
    parameters p;

    arguments(const refgss_array* lam, const refgss_array* c_array, const refgss_array* delta,
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

/// A state (B,H,N,2) that may be NULL.
template <class T>
optional_view<T, 4> state_of(const refgss_array* a, const char* name, int64_t B, int64_t H, int64_t N) {
    if (a == nullptr) return {};
    return {shaped<T, 4>(a, name, B, H, N, int64_t(2)), true};
}

/// (B,H) as (B,1,H).
template <class T> view<T, 3> one_step(view<T, 2> v) {
    return {v.data, {v.shape[0], 1, v.shape[1]}, {v.stride[0], 0, v.stride[1]}};
}

/// Whether a scan has no output; its states are checked.
template <class T>
bool nothing_to_do(const arguments<T>& in, view<const T, 3> u, const refgss_array* state,
                   const refgss_array* state_out) {
    const int64_t B = u.shape[0], H = in.c.shape[0], N = in.c.shape[1];
    check_axis("u", "H", u.shape[2], H);
    state_of<const T>(state, "state", B, H, N);
    const auto to = state_of<T>(state_out, "state_out", B, H, N);
    return u.size() == 0 && (!to.present || to.v.size() == 0);
}

template <class T>
void scan(const ssm<T>& map, view<const T, 3> u, const refgss_array* state, view<T, 3> y,
          const refgss_array* state_out) {
    const int64_t B = u.shape[0], H = map.channels(), N = map.states();
    check_axis("u", "H", u.shape[2], H);
    auto from = state_of<const T>(state, "state", B, H, N);
    auto to = state_of<T>(state_out, "state_out", B, H, N);
    map.apply(u, from.get(), y, to.get());
}

/// Whether a state is overwritten by the next one.
bool in_place(const refgss_array* state, const refgss_array* state_out) {
    return state != nullptr && state_out != nullptr && state->data == state_out->data &&
           state->rank == state_out->rank &&
           std::equal(state->stride, state->stride + REFGSS_MAX_RANK, state_out->stride);
}

/// No output may meet an input; only state_out may be state.
void check_scan_outputs(const refgss_array* u, const refgss_array* state, const refgss_array* y,
                        const refgss_array* state_out, std::vector<named_array> inputs = {}) {
    inputs.push_back({u, "u"});
    if (!in_place(state, state_out)) inputs.push_back({state, "state"});
    check_outputs({{y, "y"}, {state_out, "state_out"}}, inputs);
}

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

/// What an absent state or cotangent would add is not computed.
template <class T>
void scan_vjp(const arguments<T>& in, view<const T, 3> u, const view<const T, 4>* state,
              view<const T, 3> dy, const view<const T, 4>* dstate, view<T, 3> du,
              const view<T, 4>* dstate0, const refgss_array* dlam, const refgss_array* dc,
              const refgss_array* ddelta) {
    const int64_t B = u.shape[0], L = u.shape[1], H = u.shape[2], N = in.c.shape[1];
    ssm<T> map(in.p, in.c, L, L);
    const discretization& d = map.discrete();
    const int64_t row = map.row(), rows = B * H;

    // through the kernel: du, and dK
    std::vector<T> dk_data(sized(H, L));
    view<T, 2> dk{dk_data.data(), {H, L}, {L, 1}};
    const calm_signal<T> signal(u), cotangent(dy);
    map.convolve_vjp(signal.v, cotangent.v, du, dk);
    std::vector<int> both(H);
    for (int64_t h = 0; h < H; ++h) {
        both[h] = signal.exponents[h] + cotangent.exponents[h];
        for (int64_t i = 0; cotangent.exponents[h] != 0 && i < B * L; ++i)
            *du.at(i / L, i % L, h) = std::ldexp(*du.at(i / L, i % L, h), cotangent.exponents[h]);
    }
    view<const T, 3> samples{dk.data, {1, L, H}, {0, 1, L}};
    auto later = [](view<const T, 3> s) {  // s_1, s_2, ...
        if (s.shape[1] > 0) s.data += s.stride[1], s.shape[1] -= 1;
        return s;
    };
    auto analyzed = [&](bool wanted, view<const T, 3> s, moment weighting, const std::vector<int>& exponents) {
        std::vector<double> sum(wanted ? sized(sized(s.shape[0], H), 2 * row) : 0);
        if (!wanted) return sum;
        analyze(map.modes().set, s, weighting, sum.data());
        for (int64_t r = 0; r < s.shape[0] * H; ++r)
            for (int64_t i = 0; exponents[r % H] != 0 && i < 2 * row; ++i)
                sum[r * 2 * row + i] = std::ldexp(sum[r * 2 * row + i], exponents[r % H]);
        return sum;
    };
    const auto k0 = analyzed(true, samples, moment::none, both);          // Σ dk Ā^l
    const auto k1 = analyzed(true, later(samples), moment::first, both);  // Σ l dk Ā^{l-1}

    // through the states: dstate reaches u by Re conj(dx) Ā^{L-1-l}
    const std::vector<double> x = map.sorted(state, B), dx = map.sorted(dstate, B);
    if (dstate) {
        std::vector<double> conjugate = dx;
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t k = 0; k < row; ++k) conjugate[(2 * r + 1) * row + k] *= -1;
        synthesize(map.modes().set, conjugate.data(), du.reversed(1), true);
    }
    const auto& of_dy = cotangent.exponents;
    const auto y0 = analyzed(state || dstate0, cotangent.v, moment::none, of_dy);  // Σ dy_l Ā^l
    const auto y1 = analyzed(state, cotangent.v, moment::first, of_dy);            // Σ (l+1) dy_l Ā^l
    const auto u1 =
        analyzed(dstate, later(signal.v.reversed(1)), moment::first, signal.exponents);

    std::vector<double> last = map.power(L), before = map.power(std::max<int64_t>(L - 1, 0));
    const std::vector<complex> slopes = transition_slopes(in.p, d);
    std::vector<double> next(dstate0 ? x.size() : 0);
    std::vector<complex> dweight(sized(H, N)), dz(dweight.size());
    parallel_for(H, slots_for(H), [&](int64_t h, int) {
        auto at = [&](const std::vector<double>& v, int64_t r, int64_t k) {
            return complex(v[2 * r * row + k], v[(2 * r + 1) * row + k]);
        };
        for (int64_t k = 0; k < N; ++k) {
            int64_t n = map.modes().order[k], g = d.groups == 1 ? 0 : h;
            complex a = d.at(d.abar, h, n), w = at(map.weights(), h, k);
            complex sum = at(k0, h, k), slope = times(w, at(k1, h, k));
            for (int64_t b = 0; b < B && (state || dstate || dstate0); ++b) {
                int64_t r = b * H + h;
                complex x0 = at(x, r, k), dxn = std::conj(at(dx, r, k));
                complex carried = y0.empty() ? 0 : times(a, at(y0, r, k));  // Σ dy_l Ā^{l+1}
                if (dstate) slope += times(dxn, at(u1, r, k));
                if (state) {
                    sum += times(x0, carried);
                    slope += times(times(w, x0), at(y1, r, k));
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
    modes_vjp<T>(in.p, d, in.c, dweight, dz, dlam, dc, ddelta);
}

}  // namespace

int32_t refgss_ssm_scan(const refgss_array* u, const refgss_array* lam, const refgss_array* c,
                        const refgss_array* state, const refgss_array* delta,
                        const refgss_form* form, const refgss_array* y,
                        const refgss_array* state_out) {
    return guarded([&] {
        check_array(u, "u", 3);
        with_scalar(*u, [&](auto scalar) {
            using T = decltype(scalar);
            arguments<T> in(lam, c, delta, form);
            auto vu = checked<const T, 3>(u, "u");
            auto vy = shaped<T, 3>(y, "y", vu.shape[0], vu.shape[1], vu.shape[2]);
            in.check_length(vu.shape[1]);
            check_scan_outputs(u, state, y, state_out, {{lam, "lam"}, {c, "c"}, {delta, "delta"}});
            if (nothing_to_do(in, vu, state, state_out)) return;
            scan<T>(ssm<T>(in.p, in.c, vu.shape[1] == 1 ? 0 : vu.shape[1]), vu, state, vy, state_out);
        });
    });
}

int32_t refgss_ssm_step(const refgss_array* u, const refgss_array* lam, const refgss_array* c,
                        const refgss_array* state, const refgss_array* delta,
                        const refgss_form* form, const refgss_array* y,
                        const refgss_array* state_out) {
    return guarded([&] {
        check_array(u, "u", 2);
        with_scalar(*u, [&](auto scalar) {
            using T = decltype(scalar);
            arguments<T> in(lam, c, delta, form);
            auto vu = checked<const T, 2>(u, "u");
            auto vy = shaped<T, 2>(y, "y", vu.shape[0], vu.shape[1]);
            check_scan_outputs(u, state, y, state_out, {{lam, "lam"}, {c, "c"}, {delta, "delta"}});
            if (nothing_to_do(in, one_step(vu), state, state_out)) return;
            scan<T>(ssm<T>(in.p, in.c, 0), one_step(vu), state, one_step(vy), state_out);
        });
    });
}

int32_t refgss_ssm_scan_vjp(const refgss_array* u, const refgss_array* lam, const refgss_array* c,
                            const refgss_array* state, const refgss_array* dy,
                            const refgss_array* dstate, const refgss_array* delta,
                            const refgss_form* form, const refgss_array* du,
                            const refgss_array* dlam, const refgss_array* dc,
                            const refgss_array* dstate0, const refgss_array* ddelta) {
    return guarded([&] {
        check_array(u, "u", 3);
        with_scalar(*u, [&](auto scalar) {
            using T = decltype(scalar);
            arguments<T> in(lam, c, delta, form);
            auto vu = checked<const T, 3>(u, "u");
            const int64_t B = vu.shape[0], L = vu.shape[1], H = vu.shape[2], N = in.c.shape[1];
            check_axis("u", "H", H, in.c.shape[0]);
            in.check_length(L);
            auto from = state_of<const T>(state, "state", B, H, N);
            auto cotangent = state_of<const T>(dstate, "dstate", B, H, N);
            auto to = state_of<T>(dstate0, "dstate0", B, H, N);
            auto vdy = shaped<const T, 3>(dy, "dy", B, L, H);
            auto vdu = shaped<T, 3>(du, "du", B, L, H);
            check_modes_outputs<T>(in.p, in.c, dlam, dc, ddelta);
            check_outputs({{du, "du"}, {dlam, "dlam"}, {dc, "dc"}, {dstate0, "dstate0"},
                           {ddelta, "ddelta"}},
                          {{u, "u"}, {lam, "lam"}, {c, "c"}, {state, "state"}, {dy, "dy"},
                           {dstate, "dstate"}, {delta, "delta"}});
            if (H == 0 || N == 0 || (vu.size() == 0 && dstate0 == nullptr))
                return no_gradients<T>(in.p, vdu, dlam, dc, ddelta);
            cotangent.present = cotangent.present && !all_zero(cotangent.v);
            scan_vjp<T>(in, vu, from.get(), vdy, cotangent.get(), vdu, to.get(), dlam, dc, ddelta);
        });
    });
}

// ---- The prepared map ---------------------------------------------------------------------------

struct refgss_ssm {
    std::unique_ptr<ssm<float>> f32;
    std::unique_ptr<ssm<double>> f64;
    template <class F> void visit(F&& f) const { f32 ? f(*f32) : f(*f64); }
};

int32_t refgss_ssm_new(const refgss_array* lam, const refgss_array* c, const refgss_array* delta,
                       const refgss_form* form, int64_t length, refgss_ssm** result) {
    return guarded([&] {
        *need(result, "ssm") = nullptr;
        check_array(lam, "lam", 2);
        if (length < 0) throw error{REFGSS_ERROR_VALUE, "length must not be negative"};
        with_scalar(*lam, [&](auto scalar) {
            using T = decltype(scalar);
            arguments<T> in(lam, c, delta, form);
            in.check_length(length);
            auto made = std::make_unique<refgss_ssm>();
            auto map = std::make_unique<ssm<T>>(in.p, in.c, length);
            map->prepare();
            if constexpr (sizeof(T) == 4) made->f32 = std::move(map);
            else made->f64 = std::move(map);
            *result = made.release();
        });
    });
}

void refgss_ssm_free(refgss_ssm* handle) { delete handle; }

int32_t refgss_ssm_apply(const refgss_ssm* handle, const refgss_array* u, const refgss_array* state,
                         const refgss_array* y, const refgss_array* state_out) {
    return guarded([&] {
        need(handle, "the handle")->visit([&](auto& map) {
            using T = typename std::decay_t<decltype(map)>::scalar;
            auto vu = checked<const T, 3>(u, "u");
            auto vy = shaped<T, 3>(y, "y", vu.shape[0], vu.shape[1], vu.shape[2]);
            check_scan_outputs(u, state, y, state_out);
            scan<T>(map, vu, state, vy, state_out);
        });
    });
}

// ---- Decoding -----------------------------------------------------------------------------------

namespace {

/// Between updates of the state x, y_i = readout_i + Σ_{j<=i} K_j u_{i-j}.
template <class T> class stepper {
public:
    stepper(const ssm<T>& map, int64_t batch, int64_t block, const view<const T, 4>* state)
        : map_(map, block), batch_(batch), block_(block),
          inputs_(sized(sized(batch, block), map.channels())) {
        begin_block(map_.sorted(state, batch));
    }
    void step(view<const T, 2> u, view<T, 2> y) {
        const int64_t H = map_.channels();
        view<const T, 2> k = map_.kernel();
        const int64_t taps = map_.states() ? filled_ + 1 : 0;  // a sum over nothing is 0 (GSS-NFI-14)
        for (int64_t b = 0; b < batch_; ++b) {
            if (b % 64 == 63) check_interrupt();
            T *in = inputs_.data() + b * block_ * H, *now = in + filled_ * H;
            for (int64_t h = 0; h < H; ++h) now[h] = *u.at(b, h);
            sum_.assign(readout_.data() + (b * block_ + filled_) * H,
                        readout_.data() + (b * block_ + filled_ + 1) * H);
            for (int64_t j = 0; j < taps; ++j) {  // taps as (block, H): see ssm
                const T *tap = k.data + j * k.stride[1], *then = in + (filled_ - j) * H;
                for (int64_t h = 0; h < H; ++h) sum_[h] += tap[h] * then[h];
            }
            for (int64_t h = 0; h < H; ++h) *y.at(b, h) = sum_[h];
        }
        if (filled_ + 1 == block_)
            begin_block(moved(block_));
        else
            ++filled_;
    }
    void state(view<T, 4> out) const { map_.unsorted(moved(filled_), out); }
    int64_t batch() const { return batch_; }
    const ssm<T>& map() const { return map_; }

private:
    /// The states after the first `count` inputs of the block.
    std::vector<double> moved(int64_t count) const {
        const int64_t H = map_.channels();
        std::vector<double> x = x_;
        map_.advance(x, {inputs_.data(), {batch_, count, H}, {block_ * H, H, 1}});
        return x;
    }
    /// All of it or, where that fails, nothing.
    void begin_block(std::vector<double> x) {
        const int64_t H = map_.channels();
        std::vector<T> readout(inputs_.size());
        map_.read_out(x, {readout.data(), {batch_, block_, H}, {block_ * H, H, 1}}, false);
        x_.swap(x), readout_.swap(readout), filled_ = 0;
    }

    ssm<T> map_;
    int64_t batch_, block_, filled_ = 0;
    std::vector<double> x_;
    std::vector<T> inputs_, readout_, sum_;
};

}  // namespace

struct refgss_stepper : changing_handle {
    std::unique_ptr<stepper<float>> f32;
    std::unique_ptr<stepper<double>> f64;
    template <class F> void visit(F&& f) const { f32 ? f(*f32) : f(*f64); }
};

int32_t refgss_stepper_new(const refgss_ssm* handle, int64_t batch, int64_t block,
                           const refgss_array* state, refgss_stepper** result) {
    return guarded([&] {
        *need(result, "stepper") = nullptr;
        if (batch < 0 || block < 1)
            throw error{REFGSS_ERROR_VALUE, "a stepper needs batch >= 0 and block >= 1"};
        need(handle, "the handle")->visit([&](auto& map) {
            using T = typename std::decay_t<decltype(map)>::scalar;
            auto from = state_of<const T>(state, "state", batch, map.channels(), map.states());
            auto made = std::make_unique<refgss_stepper>();
            auto steps = std::make_unique<stepper<T>>(map, batch, block, from.get());
            if constexpr (sizeof(T) == 4) made->f32 = std::move(steps);
            else made->f64 = std::move(steps);
            *result = made.release();
        });
    });
}

void refgss_stepper_free(refgss_stepper* handle) { delete handle; }

int32_t refgss_stepper_step(refgss_stepper* handle, const refgss_array* u, const refgss_array* y) {
    return alone_with(handle, [&](refgss_stepper& either) {
        either.visit([&](auto& steps) {
            using T = typename std::decay_t<decltype(steps.map())>::scalar;
            const int64_t B = steps.batch(), H = steps.map().channels();
            auto from = shaped<const T, 2>(u, "u", B, H);
            auto to = shaped<T, 2>(y, "y", B, H);
            check_outputs({{y, "y"}}, {{u, "u"}});
            steps.step(from, to);
        });
    });
}

int32_t refgss_stepper_state(const refgss_stepper* handle, const refgss_array* state_out) {
    return alone_with(handle, [&](const refgss_stepper& either) {
        either.visit([&](auto& steps) {
            using T = typename std::decay_t<decltype(steps.map())>::scalar;
            auto& map = steps.map();
            auto to = shaped<T, 4>(state_out, "state_out", steps.batch(), map.channels(),
                                   map.states(), int64_t(2));
            check_outputs({{state_out, "state_out"}}, {});
            steps.state(to);
        });
    });
}
