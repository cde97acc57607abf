// nonuniform.hpp: samples of many slow modes by one FFT (Dutt and Rokhlin's nonuniform transform).
//
// Over a block of J steps around its middle c, a mode that decays little is nearly a line of a
// spectrum:  e^{z m} φ̂(m) ≈ Σ_k φ(x - k) e^{2πi k m / M},  z = 2πi x / M, M = 2J, |m| <= J/2, where φ
// is a window of `width` bins, continued analytically for the imaginary part of x that decay is.  So
// Re Σ_n w_n e^{z_n m} is the spreading of weights onto J+1 bins, one real FFT, and a division by φ̂:
// O(N + J log J) a block and channel where the sum takes O(N J).
//
// φ(t) = e^{β(√(1 - (2t/width)²) - 1)} (Barnett, Magland and af Klinteberg).  For |Re z| J <= 2 the
// largest relative error of a mode is less than 2^-24 (width 12), or 2^-41 (width 18).
#pragma once

#include <complex>
#include <cstdint>
#include <memory>
#include <vector>

#include "conv/conv.hpp"

namespace refgss {

constexpr int64_t nonuniform_block = 512;  // J
constexpr double nonuniform_decay = 2;     // |Re z| J at most
template <class T> constexpr int window_width = sizeof(T) == 4 ? 12 : 18;

template <class T> struct nonuniform_plan {
    int64_t block;                    // J
    std::vector<fft_pass<T>> passes;  // of a transform of J points
    std::vector<int32_t> position;    // where its way back expects bin k
    std::vector<T> turn;              // e^{2πi k / M} for k < J, (re, im) each
    std::vector<T> gain;              // 1/(2 φ̂(m)) for m = -J/2 .. J/2 - 1
};
/// Made once, kept for the life of the process.
template <class T> const nonuniform_plan<T>& plan_nonuniform();

/// φ at width points: at x - k for k = first .. first + width - 1.
template <class T>
void window(std::complex<double> x, int64_t* first, std::complex<double>* values);

/// A share of mode `mode` in a bin.
template <class T> struct bin_share {
    int32_t mode;
    T re, im;
};

/// Bins -width .. J + width: those beyond the ends are folded back.
template <class T> constexpr int64_t bin_count(int64_t block) {
    return block + 1 + 2 * window_width<T>;
}

template <class T> struct nonuniform_kernels {
    int lanes;
    /// y = the block's samples, or y += them.  shares[start[b]] .. shares[start[b+1]-1] belong to bin
    /// b; weights are [mode][re, im][lane]; work: bin_count + J complex vectors.
    void (*samples)(const nonuniform_plan<T>& plan, const int32_t* start, const bin_share<T>* shares,
                    const T* weights, panel<T> y, bool add, T* work);
};

}  // namespace refgss
