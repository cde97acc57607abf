// scaled_row.hpp: rows that are not calm, as multiples of powers of two.
#pragma once

#include <cmath>
#include <vector>

#include "core/array.hpp"
#include "core/calm.hpp"

namespace refgss {

/// Which signals, strip * batch + b, are not calm.
using signal_flags = std::vector<unsigned char>;

/// A row of n numbers times 2^-exponent, the largest near 1.
template <class T> struct scaled_row {
    std::vector<T> values;
    int exponent = 0;
    bool finite = true, calm;

    scaled_row(const T* from, int64_t count, int64_t stride) : values(count) {
        T most = 0;
        for (int64_t i = 0; i < count; ++i) {
            const T x = values[i] = from[i * stride];
            finite = finite && std::isfinite(x);
            most = std::max(most, std::abs(x));
        }
        calm = finite && is_calm(most);
        if (!finite || most == 0) return;
        std::frexp(most, &exponent);
        for (T& x : values) x = std::ldexp(x, -exponent);
    }
    view<T, 3> signal() { return {values.data(), {1, size(), 1}, {size(), 1, 1}}; }
    view<T, 2> kernel() { return {values.data(), {1, size()}, {size(), 1}}; }
    int64_t size() const { return static_cast<int64_t>(values.size()); }
};

}  // namespace refgss
