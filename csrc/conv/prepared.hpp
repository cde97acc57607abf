// prepared.hpp: a kernel transformed for many signals.
#pragma once

#include "conv/convolution.hpp"
#include "conv/plan.hpp"

namespace refgss {

/// A range of channels, its plan and its spectra.
template <class T> struct prepared_range {
    channel_range range;
    conv_plan<T> plan;
    spectra<T> ready;

    prepared_range(const channel_range& r, const view<const T, 2>& k, int64_t length, purpose why)
        : range(r), plan(r, k.shape[1], length, why), ready(plan, part_of(k, r)) {}

    /// sums: those of a stream, or nullptr.  k: the kernel, for signals that are not calm; a stream has
    /// none, and multiplies their rows by powers of two itself.
    void convolve(const view<const T, 3>& u, const view<T, 3>& y, T* sums,
                  const view<const T, 2>* k) const;
};

template <class T>
prepared_ranges<T> prepare(const view<const T, 2>& k, int64_t length, purpose why);

}  // namespace refgss
