// panel.hpp: rows of an array into vectors of one step each, and back, whatever the strides.
#pragma once

#include "conv/conv.hpp"
#include "core/simd.hpp"

namespace refgss::REFGSS_ISA {

/// How many of the steps first .. first+count-1 exist.
template <class T> REFGSS_INLINE int steps_inside(const panel<T>& x, int64_t first, int count) {
    const int64_t rest = x.length - first;
    return rest >= count ? count : rest > 0 ? static_cast<int>(rest) : 0;
}

template <class T> REFGSS_INLINE bool is_tile(int64_t time_stride, int steps) {
    return steps == vec<T>::lanes && (time_stride == 1 || time_stride == -1);
}

/// out[i] = step first + i, one row a lane, for i < count <= lanes; zero where there is no such row
/// or step.
template <class T>
REFGSS_INLINE void fetch(const panel<const T>& x, int64_t first, int count, vec<T>* out) {
    constexpr int lanes = vec<T>::lanes;
    const int steps = steps_inside(x, first, count);
    const T* p = x.data + first * x.time_stride;
    if (x.lane_stride == 1 && x.lanes == lanes) {  // channels last: a load a step
        for (int i = 0; i < steps; ++i) out[i] = load(p + i * x.time_stride);
    } else if (is_tile<T>(x.time_stride, steps)) {  // time last
        vec<T> tile[lanes];
        const bool reversed = x.time_stride < 0;
        const T* start = reversed ? p - (lanes - 1) : p;
#pragma GCC unroll 16
        for (int lane = 0; lane < lanes; ++lane)
            tile[lane] = lane < x.lanes ? load(start + lane * x.lane_stride) : vec<T>(T(0));
        transpose(tile);
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) out[reversed ? lanes - 1 - i : i] = tile[i];
    } else if (x.lane_stride == 1) {
        for (int i = 0; i < steps; ++i) out[i] = load_some(p + i * x.time_stride, x.lanes);
    } else {
        for (int i = 0; i < steps; ++i) {
            T row[lanes] = {};
            for (int lane = 0; lane < x.lanes; ++lane)
                row[lane] = p[i * x.time_stride + lane * x.lane_stride];
            out[i] = load(row);
        }
    }
    for (int i = steps; i < count; ++i) out[i] = T(0);
}

/// The steps first + i = in[i] that exist.
template <class T>
REFGSS_INLINE void put(const panel<T>& y, int64_t first, int count, const vec<T>* in) {
    constexpr int lanes = vec<T>::lanes;
    const int steps = steps_inside(y, first, count);
    T* p = y.data + first * y.time_stride;
    if (y.lane_stride == 1 && y.lanes == lanes) {
        if (y.where == locality::far)
            for (int i = 0; i < steps; ++i) stream(p + i * y.time_stride, in[i]);
        else
            for (int i = 0; i < steps; ++i) store(p + i * y.time_stride, in[i]);
    } else if (is_tile<T>(y.time_stride, steps)) {
        vec<T> tile[lanes];
        const bool reversed = y.time_stride < 0;
        T* start = reversed ? p - (lanes - 1) : p;
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) tile[i] = in[reversed ? lanes - 1 - i : i];
        transpose(tile);
#pragma GCC unroll 16
        for (int lane = 0; lane < lanes; ++lane)
            if (lane < y.lanes) store(start + lane * y.lane_stride, tile[lane]);
    } else if (y.lane_stride == 1) {
        for (int i = 0; i < steps; ++i) store_some(p + i * y.time_stride, in[i], y.lanes);
    } else {
        for (int i = 0; i < steps; ++i)
            for (int lane = 0; lane < y.lanes; ++lane)
                p[i * y.time_stride + lane * y.lane_stride] = in[i][lane];
    }
}

}  // namespace refgss::REFGSS_ISA
