// positions.hpp: the rotation of pairs, and the bucket of a distance.
#pragma once

#include "core/array.hpp"

namespace refgss {

/// y = x (B,L,H,D) turned by `sign` times r base^(-2j/D), r (B,L); y may be x.
template <class T>
void turn(view<const T, 4> x, const int64_t* r, double base, int32_t pairing, T sign, view<T, 4> y);

constexpr int64_t t5_buckets = 32;
/// GSS-ATT-5.
int64_t t5_bucket(int64_t distance);

}  // namespace refgss
