// One step of the recurrence: memory is read and written once, in order.
#include <limits>

#include "core/dispatch.hpp"
#include "core/simd.hpp"
#include "ssm/ssm.hpp"

namespace refgss {
namespace REFGSS_ISA {
namespace {

/// (re, im) pairs to (im, re) pairs.
template <class T, size_t... I>
REFGSS_INLINE vec<T> swap_pairs(vec<T> a, std::index_sequence<I...>) {
    return typename vec<T>::raw(__builtin_shufflevector(a.v, a.v, (I ^ 1)...));
}

/// A state is a result: zero below the smallest normal number (GSS-ACC-7), or it would decay for ever among
/// the subnormal ones, where processors are slow.
template <class T> REFGSS_INLINE vec<T> settled(vec<T> x) {
    constexpr T least = std::numeric_limits<T>::min();
    const typename vec<T>::raw size = x.v < 0 ? -x.v : x.v;
    return typename vec<T>::raw(size < least ? typename vec<T>::raw{} : x.v);
}

template <class T>
T step(int64_t count, const T* abar_re, const T* abar_im, const T* weight, T u, const T* state,
       T* next) {
    constexpr int lanes = vec<T>::lanes;
    constexpr auto all = std::make_index_sequence<lanes>();
    const int64_t length = 2 * count;
    vec<T> input, sum[4] = {T(0), T(0), T(0), T(0)};
    for (int i = 0; i < lanes; ++i) input.set(i, i % 2 ? T(0) : u);
    auto advance = [&](vec<T> x, vec<T> re, vec<T> im) {
        return fma(swap_pairs(x, all), im, fma(x, re, input));
    };
    int64_t i = 0;
    for (; i + 4 * lanes <= length; i += 4 * lanes)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
            const int64_t at = i + k * lanes;
            vec<T> x = advance(load(state + at), load(abar_re + at), load(abar_im + at));
            store(next + at, settled(x));
            sum[k] = fma(x, load(weight + at), sum[k]);
        }
    for (; i < length; i += lanes) {
        const int some = length - i < lanes ? static_cast<int>(length - i) : lanes;
        vec<T> x = advance(load_some(state + i, some), load_some(abar_re + i, some),
                           load_some(abar_im + i, some));
        store_some(next + i, settled(x), some);
        for (int k = some; k < lanes; ++k) x.set(k, T(0));  // lanes beyond hold u
        sum[0] = fma(x, load_some(weight + i, some), sum[0]);
    }
    vec<T> total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    T y = 0;
    for (int k = 0; k < lanes; k += 2) y += total[k] - total[k + 1];
    return y;
}

}  // namespace
}  // namespace REFGSS_ISA

REFGSS_TABLE(step_kernels<float>, {REFGSS_ISA::step<float>})
REFGSS_TABLE(step_kernels<double>, {REFGSS_ISA::step<double>})

}  // namespace refgss
