// fft_plan.cpp: lengths, radices and twiddle factors.
#include <cmath>
#include <map>
#include <mutex>
#include <tuple>
#include <type_traits>
#include <utility>

#include <pthread.h>

#include "conv/conv.hpp"
#include "conv/nonuniform.hpp"
#include "core/threads.hpp"

namespace refgss {
namespace {

/// exp(2 pi i p / q), rounded once from a wider type: the angle is reduced to an eighth of a turn
/// in integers, so that its error does not grow with p.
template <class T> void root_of_unity(int64_t p, int64_t q, T& re, T& im) {
    using wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;
    p %= q;
    if (p < 0) p += q;
    const int64_t octant = 8 * p / q;
    const int64_t rest = 8 * p - octant * q;  // in [0, q): an eighth of a turn is q
    const int64_t reduced = octant % 2 ? q - rest : rest;
    const wide angle = static_cast<wide>(0.785398163397448309615660845819875721L) *
                       static_cast<wide>(reduced) / static_cast<wide>(q);
    const wide c = std::cos(angle), s = std::sin(angle);
    const wide real[] = {c, s, -s, -c, -c, -s, s, c}, imag[] = {s, c, c, s, -s, -c, -c, -s};
    re = static_cast<T>(real[octant]);
    im = static_cast<T>(imag[octant]);
}

/// The radices of a sub-transform of `length` = 2^a, 3 2^a or 5 2^a (a >= 2): eights where possible,
/// and last, where no factors are needed, 8, 4, or 16 in place of two fours.
std::vector<int> radices(int64_t length) {
    std::vector<int> list;
    for (int odd : {3, 5})
        if (length % odd == 0) list.push_back(odd), length /= odd;
    int fours = 0;
    while (__builtin_ctzll(length) % 3) length /= 4, ++fours;  // at most two
    for (; length > 1; length /= 8) list.push_back(8);
    if (fours > 0) list.push_back(fours == 2 ? 16 : 4);
    return list;
}

int entry_radix(layout lanes_are, int lanes) { return lanes_are == layout::segments ? lanes : 8; }

template <class T> std::vector<fft_pass<T>> passes_of(int64_t length) {
    std::vector<fft_pass<T>> passes;
    for (int r : radices(length)) {
        fft_pass<T> pass{r, length / r, {}};
        if (pass.columns > 1) pass.twiddles.resize(2 * pass.columns * (r - 1));
        T* at = pass.twiddles.data();
        serial_for(pass.columns > 1 ? pass.columns : 0, [&](int64_t j) {
            for (int k = 1; k < r; ++k, at += 2) root_of_unity(-j * k, length, at[0], at[1]);
        });
        length = pass.columns;
        passes.push_back(std::move(pass));
    }
    return passes;
}

template <class T> fft_plan<T> make_plan(layout lanes_are, int lanes, int64_t n) {
    fft_plan<T> plan;
    plan.lanes_are = lanes_are;
    plan.length = n;
    const int radix = plan.entry_radix = entry_radix(lanes_are, lanes);
    plan.columns = n / radix;
    plan.points = lanes_are == layout::segments ? plan.columns : n;
    plan.entry.resize(2 * n);
    const int width = lanes_are == layout::segments ? lanes : 1;
    serial_for(plan.columns, [&](int64_t j) {
        for (int k = 0; k < radix; ++k) {
            T* at = &plan.entry[2 * ((j / width) * radix + k) * width + j % width];
            root_of_unity(-j * (4 * k - 1), 4 * n, at[0], at[width]);
        }
    });
    plan.twist.resize(2 * radix);
    for (int r = 0; r < radix; ++r)
        root_of_unity(r, 4 * radix, plan.twist[2 * r], plan.twist[2 * r + 1]);
    plan.passes = passes_of<T>(plan.columns);
    return plan;
}

/// φ at t, a complex distance in bins.
template <class T> std::complex<double> window_at(std::complex<double> t) {
    constexpr double width = window_width<T>, beta = 2.3 * width;
    const std::complex<double> s = 2.0 / width * t;
    return std::exp(beta * (std::sqrt(1.0 - s * s) - 1.0));
}

template <class T> nonuniform_plan<T> make_nonuniform_plan(int64_t J) {
    nonuniform_plan<T> plan;
    plan.block = J;
    plan.passes = passes_of<T>(J);
    for (int64_t k = 0; k < J; ++k) {
        int64_t bin = k, at = 0;  // decimation in frequency: digit by digit
        for (const fft_pass<T>& pass : plan.passes)
            at += bin % pass.radix * pass.columns, bin /= pass.radix;
        plan.position.push_back(static_cast<int32_t>(at));
    }
    plan.turn.resize(2 * J);
    for (int64_t k = 0; k < J; ++k) root_of_unity(k, 2 * J, plan.turn[2 * k], plan.turn[2 * k + 1]);
    // φ̂ by the midpoint rule in t = width/2 sin θ, whose integrand is smooth and periodic
    constexpr int points = 256;
    constexpr double pi = 3.14159265358979323846, half = window_width<T> / 2.0;
    for (int64_t m = -J / 2; m < J / 2; ++m) {
        double sum = 0;
        for (int i = 0; i < points; ++i) {
            const double angle = pi * (i + 0.5) / points - pi / 2, t = half * std::sin(angle);
            sum += window_at<T>(t).real() * std::cos(pi * t * static_cast<double>(m) / J) *
                   half * std::cos(angle) * pi / points;
        }
        plan.gain.push_back(static_cast<T>(0.5 / sum));
    }
    return plan;
}

std::mutex& plans_mutex() {
    static std::mutex* mutex = [] {  // a child must not inherit it locked
        pthread_atfork([] { plans_mutex().lock(); }, [] { plans_mutex().unlock(); },
                       [] { plans_mutex().unlock(); });
        return new std::mutex;
    }();
    return *mutex;
}

}  // namespace

int64_t good_length(layout lanes_are, int lanes, int64_t length) {
    // a sub-transform has at least 4 points, and in segments a whole tile of them
    const int64_t least = lanes_are == layout::segments ? 4 * lanes * lanes : 32;
    int64_t best = 64;
    while (best < length || best < least) best *= 2;
    for (int64_t odd : {3, 5}) {
        int64_t n = odd * least;
        while (n < length) n *= 2;
        if (n < best && n % entry_radix(lanes_are, lanes) == 0) best = n;
    }
    return best;
}

template <class T>
std::shared_ptr<const fft_plan<T>> plan_for(layout lanes_are, int lanes, int64_t length) {
    static std::map<std::tuple<layout, int, int64_t>, std::shared_ptr<const fft_plan<T>>> plans;
    const auto known = [&](std::shared_ptr<const fft_plan<T>> made) {
        std::lock_guard<std::mutex> lock(plans_mutex());
        auto& plan = plans[{lanes_are, lanes, length}];
        return plan ? plan : plan = std::move(made);
    };
    if (auto plan = known(nullptr)) return plan;
    // it may be long, and be interrupted: not while the mutex is held, for the check takes another one
    return known(std::make_shared<const fft_plan<T>>(make_plan<T>(lanes_are, lanes, length)));
}
template <class T> const nonuniform_plan<T>& plan_nonuniform() {
    static const nonuniform_plan<T>* plan = nullptr;
    std::lock_guard<std::mutex> lock(plans_mutex());
    if (!plan) plan = new nonuniform_plan<T>(make_nonuniform_plan<T>(nonuniform_block));
    return *plan;
}
template const nonuniform_plan<float>& plan_nonuniform<float>();
template const nonuniform_plan<double>& plan_nonuniform<double>();

template <class T>
void window(std::complex<double> x, int64_t* first, std::complex<double>* values) {
    *first = static_cast<int64_t>(std::ceil(x.real() - window_width<T> / 2.0));
    for (int k = 0; k < window_width<T>; ++k)
        values[k] = window_at<T>(x - static_cast<double>(*first + k));
}
template void window<float>(std::complex<double>, int64_t*, std::complex<double>*);
template void window<double>(std::complex<double>, int64_t*, std::complex<double>*);

template std::shared_ptr<const fft_plan<float>> plan_for<float>(layout, int, int64_t);
template std::shared_ptr<const fft_plan<double>> plan_for<double>(layout, int, int64_t);

}  // namespace refgss
