// conv.hpp: what the drivers of the convolution (conv.cpp) and its kernels (kernels/conv.cpp)
// share.
//
// The right-angle convolution.  Let w = exp(i pi / 2n).  The length-n circular convolution of w^l u
// and w^l k, times w^-l, is y[l] + i y[l+n], where y is the linear convolution of u and k, each of
// at most n steps: the factor w^n = i keeps apart what wraps round.  No zero padding, and nothing to
// untangle.  The twist w^l is part of the first pass, and w^-l of the last.
//
// The transform decimates in frequency on the way forward and in time on the way back, so that the
// product is taken in permuted order and no bits are reversed.  Each lane of a vector carries a
// transform of its own, so that a row's NaN stays in its row:
//
//   channels  the lanes are neighbouring channels; entry radix 8, then eight sub-transforms
//   segments  one row; its entry pass, of radix `lanes`, leaves sub-transform i in lane i
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace refgss {

constexpr int64_t direct_taps = 64;  // above, transforms are faster

enum class layout { channels, segments };

/// One pass: butterflies of `radix` on columns that are `columns` apart, then the twiddle factors
/// exp(-2 pi i j k / (radix columns)) for column j and k = 1 .. radix-1, (re, im) each.
template <class T> struct fft_pass {
    int radix;
    int64_t columns;
    std::vector<T> twiddles;
};

template <class T> struct fft_plan {
    layout lanes_are;
    int64_t length;     // n
    int entry_radix;
    int64_t points;     // vectors of complex numbers that the transform occupies
    int64_t columns;    // n / entry_radix, the length of a sub-transform
    // twist and twiddle factors of the entry: exp(-2 pi i j (k - 1/4) / n) for column j and
    // k = 0 .. entry_radix-1; [j][k][re, im], or for segments [j / lanes][k][re, im][j % lanes]
    std::vector<T> entry;
    std::vector<T> twist;  // exp(i pi r / 2 entry_radix), r = 0 .. entry_radix-1, (re, im) each
    std::vector<fft_pass<T>> passes;  // the last has one column and no factors
};

/// The smallest supported transform of at least `length` points.
int64_t good_length(layout lanes_are, int lanes, int64_t length);

/// The plan for a good length; made once, kept for the life of the process.
template <class T>
std::shared_ptr<const fft_plan<T>> plan_for(layout lanes_are, int lanes, int64_t length);

/// Where rows lie: in the cache of whoever works on them, anywhere, or in an array that no cache
/// holds, and which is therefore written past the cache.
enum class locality { near, anywhere, far };

/// Rows side by side, each a sequence of `length` steps.
template <class T> struct panel {
    T* data;
    int64_t length, time_stride, lane_stride;
    int lanes;
    locality where;
};
template <class T> panel<const T> as_input(const panel<T>& x) {
    return {x.data, x.length, x.time_stride, x.lane_stride, x.lanes, x.where};
}

/// A copy that is done tile by tile: to = from, of as many rows (at most `lanes`); zero where
/// `from` has no such step.
template <class T> struct tile_copy {
    panel<const T> from{};
    panel<T> to{};
    int64_t done = 0;  // steps
};
/// What a transform does between its leaves, so that memory is waited for while there is arithmetic
/// to do: a tile of each for every `lanes` points.  It may leave a rest.
template <class T> struct background_copies {
    tile_copy<T>*in, *out;  // or nullptr
};

/// A transform's signal is n steps in one piece on a cache line: a vector a step where the lanes
/// are channels, else a row.  Work areas and spectra are points of one complex vector each: 2 x
/// lanes scalars.  `meanwhile.in` may overwrite the signal that is read, and `meanwhile.out` is
/// brought to its end before a result is written, whose place it may empty.
template <class T> struct conv_kernels {
    int lanes;
    /// The spectrum of x, times `scale`.
    void (*forward)(const fft_plan<T>& plan, const T* x, T scale, T* spectrum,
                    background_copies<T> meanwhile);
    /// y = the first n steps of the convolution of u with the kernel; y may be u.
    void (*convolve)(const fft_plan<T>& plan, const T* u, const T* spectrum, T* y, T* work,
                     background_copies<T> meanwhile);
    /// The same for a block of a longer signal: adds 2n steps to sum, moves the first `steps` out
    /// to y and the rest forward.
    void (*convolve_block)(const fft_plan<T>& plan, const T* u, int64_t steps, const T* spectrum,
                           T* sum, T* y, T* work, background_copies<T> meanwhile);
    /// One signal of a batch, for the gradients: y = u convolved with the kernel, and sum += the
    /// spectra of u and of the other multiplied.
    void (*convolve_gradient)(const fft_plan<T>& plan, const T* u, const T* spectrum,
                              const T* other, T* sum, T* y, T* work, background_copies<T> meanwhile);
    /// x = the first n steps of what has this spectrum (overwritten).
    void (*inverse)(const fft_plan<T>& plan, T* spectrum, T* x);
    /// The first `count` taps of k, one vector each.
    void (*taps)(panel<const T> k, int64_t count, T* taps);
    /// y by the definition, for at most `direct_taps` taps.
    void (*direct)(panel<const T> u, const T* taps, int64_t count, panel<T> y);
    /// What is left of the copy.
    void (*copy)(tile_copy<T>& rest);
    /// The largest magnitude in each lane of `count` vectors; a NaN is not larger.
    void (*largest)(int64_t count, const T* x, T* magnitudes);
};

}  // namespace refgss
