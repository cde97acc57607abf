// calm.hpp: magnitudes that transforms take as they are.
#pragma once

#include <cmath>

namespace refgss {

/// A transform of numbers up to 2^calm_exponent, by one of another such signal, does not overflow; and
/// where the largest number of each is at least 2^-calm_exponent, what is lost below the smallest normal
/// number is far less than what GSS-ACC-5 grants.  Others are rare, and are multiplied by powers of two.
template <class T> constexpr int calm_exponent = sizeof(T) == 4 ? 40 : 300;
template <class T> T calm_limit() {
    static const T most = std::ldexp(T(1), calm_exponent<T>);
    return most;
}
template <class T> bool is_calm(T largest) {
    return largest == 0 || (largest >= 1 / calm_limit<T>() && largest <= calm_limit<T>());
}
/// e for which 2^-e times the largest magnitude is near 1; 0 where that is calm, or not finite.
template <class T> int wild_exponent(T largest) {
    int exponent = 0;
    if (!is_calm(largest) && std::isfinite(largest)) std::frexp(largest, &exponent);
    return exponent;
}

}  // namespace refgss
