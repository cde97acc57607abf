// array.hpp: from the untyped views of the ABI to typed, checked ones.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "core/status.hpp"
#include "refgss.h"

namespace refgss {

template <class T> constexpr int32_t dtype_of = sizeof(T) == 4 ? REFGSS_F32 : REFGSS_F64;

/// A view of T with R axes; strides count elements.
template <class T, int R> struct view {
    T* data;
    int64_t shape[R];
    int64_t stride[R];

    template <class... I> T* at(I... index) const {
        static_assert(sizeof...(I) == R);
        int64_t offset = 0, axis = 0;
        ((offset += index * stride[axis++]), ...);
        return data + offset;
    }
    int64_t size() const {
        int64_t n = 1;
        for (int64_t s : shape) n *= s;
        return n;
    }
    /// The same elements with an axis walked backwards.
    view reversed(int axis) const {
        view r = *this;
        if (r.size() == 0) return r;
        r.data += (shape[axis] - 1) * stride[axis];
        r.stride[axis] = -stride[axis];
        return r;
    }
};

/// Throws unless `array` is present and has a known dtype, `rank` axes, a sound shape, aligned data,
/// a number of elements that can be counted and a byte range that can be addressed.  A product of any of
/// its axes does not overflow; products of axes of several arrays are `sized` (scratch.hpp).
void check_array(const refgss_array* array, const char* name, int rank);
/// The same for weights of a decoder, which may be bf16 or int8.
void check_weights(const refgss_array* array, const std::string& name, int rank);
/// Throws unless the dtypes agree.
void check_same_dtype(const refgss_array& first, const refgss_array& second, const char* name);

/// An argument and what to call it; it may be absent, NULL.
struct named_array {
    const refgss_array* array;
    std::string name;
};
/// Throws unless no two elements of an output coincide, and its bytes meet those of no other output
/// and of no input.
void check_outputs(const std::vector<named_array>& outputs, const std::vector<named_array>& inputs);
/// Throws unless an axis has the length that another argument demands.
void check_axis(const char* name, const char* axis, int64_t length, int64_t expected);

template <class T, int R> view<const T, R> as_const(const view<T, R>& v) {
    view<const T, R> c;
    c.data = v.data;
    for (int i = 0; i < R; ++i) c.shape[i] = v.shape[i], c.stride[i] = v.stride[i];
    return c;
}

/// The ABI's form of a view, and the reverse; the checks have been made.
template <class T, int R> refgss_array to_array(const view<T, R>& v) {
    refgss_array a{};
    a.data = const_cast<std::remove_const_t<T>*>(v.data);
    a.dtype = dtype_of<std::remove_const_t<T>>, a.rank = R;
    for (int i = 0; i < R; ++i) a.shape[i] = v.shape[i], a.stride[i] = v.stride[i];
    return a;
}
template <class T, int R> view<T, R> typed(const refgss_array& a) {
    view<T, R> v;
    v.data = static_cast<T*>(a.data);
    for (int i = 0; i < R; ++i) v.shape[i] = a.shape[i], v.stride[i] = a.stride[i];
    return v;
}

/// y = 0, and k = 0.
template <class T> void fill_zero(const view<T, 3>& y) {
    if (y.size() == 0) return;
    for (int64_t b = 0; b < y.shape[0]; ++b)
        for (int64_t l = 0; l < y.shape[1]; ++l)
            for (int64_t h = 0; h < y.shape[2]; ++h) *y.at(b, l, h) = T(0);
}
template <class T> void fill_zero(const view<T, 2>& k) {
    fill_zero(view<T, 3>{k.data, {1, k.shape[0], k.shape[1]}, {0, k.stride[0], k.stride[1]}});
}

/// The typed view of an argument of the ABI, with the checks that all of them share.
template <class T, int R> view<T, R> checked(const refgss_array* a, const char* name) {
    check_array(a, name, R);
    if (a->dtype != dtype_of<T>)
        throw error{REFGSS_ERROR_TYPE, std::string(name) + " has another dtype than the first "
                                                           "argument: convert one of them"};
    return typed<T, R>(*a);
}
/// The same with its shape known.
template <class T, int R, class... N>
view<T, R> shaped(const refgss_array* a, const char* name, N... lengths) {
    static_assert(sizeof...(N) == R);
    auto v = checked<T, R>(a, name);
    int axis = 0;
    static const char* const names[] = {"axis 0", "axis 1", "axis 2", "axis 3"};
    ((check_axis(name, names[axis], v.shape[axis], lengths), ++axis), ...);
    return v;
}

/// Calls f(T()) with the scalar type of the array.
template <class F> void with_scalar(const refgss_array& a, F&& f) {
    if (a.dtype == REFGSS_F32) return f(float());
    return f(double());
}

}  // namespace refgss
