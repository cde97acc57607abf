// panel.hpp: rows of an array into vectors of one step each, and back, whatever the strides.
#pragma once

#include "conv.hpp"
#include "simd.hpp"

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
        if (y.large)
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

/// Asks for part i of the `lanes` steps from `first` on, ahead of their use: neighbours in time, or in
/// channels, lie far apart, and no hardware foresees them.
template <class T> REFGSS_INLINE void expect(const panel<const T>& x, int64_t first, int i) {
    const int64_t step = x.lane_stride == 1 ? first + i : first;
    if (step >= x.length) return;
    const T* p = x.data + step * x.time_stride;
    if (x.lane_stride != 1) return __builtin_prefetch(p + (i < x.lanes ? i : 0) * x.lane_stride);
    __builtin_prefetch(p);
    __builtin_prefetch(p + x.lanes - 1);  // of another cache line, where rows start within one
}

/// Steps first .. first+lanes-1 of the panel's only row, one step a lane.
template <class T> REFGSS_INLINE vec<T> fetch_row(const panel<const T>& x, int64_t first) {
    constexpr int lanes = vec<T>::lanes;
    const int64_t rest = x.length - first;
    if (x.time_stride == 1 && rest >= lanes) return load(x.data + first);
    T row[lanes] = {};
    for (int i = 0; i < lanes && i < rest; ++i) row[i] = x.data[(first + i) * x.time_stride];
    return load(row);
}
template <class T> REFGSS_INLINE void put_row(const panel<T>& y, int64_t first, vec<T> in) {
    constexpr int lanes = vec<T>::lanes;
    const int64_t rest = y.length - first;
    if (y.time_stride == 1 && rest >= lanes) return store(y.data + first, in);
    for (int i = 0; i < lanes && i < rest; ++i) y.data[(first + i) * y.time_stride] = in[i];
}

}  // namespace refgss::REFGSS_ISA
