// Spreading, the real transform and the window's division, a channel in each lane.
#include "conv/nonuniform.hpp"

#include "core/dispatch.hpp"
#include "core/simd.hpp"
#include "kernels/fft.hpp"
#include "kernels/panel.hpp"

namespace refgss {
namespace REFGSS_ISA {
namespace {

template <class T>
void samples(const nonuniform_plan<T>& plan, const int32_t* start, const bin_share<T>* shares,
             const T* weights, panel<T> y, bool add, T* work) {
    constexpr int lanes = vec<T>::lanes, width = window_width<T>;
    const int64_t J = plan.block;
    cvec<T>* bins = reinterpret_cast<cvec<T>*>(work);
    cvec<T>* z = bins + bin_count<T>(J);

    for (int64_t b = 0; b < bin_count<T>(J); ++b) {
        vec<T> rr(T(0)), ii(T(0)), ri(T(0)), ir(T(0));
        for (int32_t s = start[b]; s < start[b + 1]; ++s) {
            const T* w = weights + 2 * lanes * static_cast<int64_t>(shares[s].mode);
            const vec<T> re = load(w), im = load(w + lanes), x = shares[s].re, y = shares[s].im;
            rr = fma(re, x, rr), ii = fma(im, y, ii), ri = fma(re, y, ri), ir = fma(im, x, ir);
        }
        bins[b] = {rr - ii, ri + ir};
    }

    // the spectrum of a real signal: what lies beyond either end is the conjugate of what lies within
    cvec<T>* low = bins + width;
    cvec<T>* high = low + J;
    for (int k = 0; k <= width; ++k) {
        low[k] = low[k] + conj(low[-k]);
        high[-k] = high[-k] + conj(high[k]);
    }
    // even samples are the real, odd ones the imaginary parts of a transform of half the length
    for (int64_t k = 0; k < J; ++k) {
        const cvec<T> a = low[k], b = conj(low[J - k]), t = broadcast(&plan.turn[2 * k]);
        z[plan.position[k]] = (a + b) + times_i((a - b) * t);
    }
    transform<false, true>(plan.passes.data(), z, 1, return_leaves<T>{});

    for (int64_t i = 0; i < J && i < y.length; i += lanes) {
        const int count = y.length - i < lanes ? static_cast<int>(y.length - i) : lanes;
        const cvec<T>* from = z + (i < J / 2 ? J + (i - J / 2) / 2 : (i - J / 2) / 2);
        vec<T> rows[lanes], before[lanes];
        for (int q = 0; q < lanes; q += 2) {
            rows[q] = from[q / 2].re * plan.gain[i + q];
            rows[q + 1] = from[q / 2].im * plan.gain[i + q + 1];
        }
        if (add) {
            fetch(as_input(y), i, count, before);
            for (int q = 0; q < count; ++q) rows[q] = rows[q] + before[q];
        }
        put(y, i, count, rows);
    }
}

}  // namespace
}  // namespace REFGSS_ISA

using namespace REFGSS_ISA;
REFGSS_TABLE(nonuniform_kernels<float>, {vec<float>::lanes, samples<float>})
REFGSS_TABLE(nonuniform_kernels<double>, {vec<double>::lanes, samples<double>})

}  // namespace refgss
