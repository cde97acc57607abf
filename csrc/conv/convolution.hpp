// convolution.hpp: the causal convolution on typed views (GSS-CNV), for the rest of the library.
#pragma once

#include <memory>
#include <vector>

#include "core/array.hpp"
#include "core/scratch.hpp"

namespace refgss {

/// y[b,l,h] = Σ_j k[h,j] u[b,l-j,h]: u (B,L,H), k (H,Lk) -> y (B,L,H).
template <class T>
void causal_conv(const view<const T, 3>& u, const view<const T, 2>& k, const view<T, 3>& y);

/// Its gradients: dy (B,L,H) -> du (B,L,H), dk (H,Lk).
template <class T>
void causal_conv_vjp(const view<const T, 3>& u, const view<const T, 2>& k, const view<const T, 3>& dy,
                     const view<T, 3>& du, const view<T, 2>& dk);

template <class T> struct prepared_range;  // prepared.hpp
template <class T> using prepared_ranges = std::vector<std::shared_ptr<const prepared_range<T>>>;

/// A kernel (H,Lk) transformed once, for signals of at most `length` steps.
template <class T> class spectrum {
public:
    spectrum(const view<const T, 2>& k, int64_t length);
    int64_t channels() const { return channels_; }
    int64_t length() const { return length_; }
    void convolve(const view<const T, 3>& u, const view<T, 3>& y) const;

private:
    int64_t channels_, length_;
    prepared_ranges<T> ranges_;
    std::vector<T> taps_;  // (H,Lk)
};

}  // namespace refgss
