// numpy.hpp: NumPy arrays to the views of the C ABI, and statuses to exceptions.  No casts, no copies:
// an array of the wrong type, rank or alignment is an error.  Outputs are fresh, C-contiguous and on a
// cache line.  The GIL is released for the length of every kernel.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <new>
#include <string>
#include <vector>

#include "refgss.h"

namespace py = pybind11;

[[noreturn]] inline void type_error(const std::string& sentence) { throw py::type_error(sentence); }

/// The view of a NumPy array; a complex array gains a trailing axis of two.
inline refgss_array view(const py::object& object, const char* name) {
    if (!py::isinstance<py::array>(object))
        type_error(std::string(name) + " is not a NumPy array: convert it with numpy.asarray");
    auto array = py::reinterpret_borrow<py::array>(object);
    const char kind = array.dtype().kind(), order = array.dtype().byteorder();
    const auto size = array.itemsize();
    const bool is_complex = kind == 'c' && (size == 8 || size == 16);
    if (!(is_complex || (kind == 'f' && (size == 4 || size == 8))) || (order != '=' && order != '|'))
        type_error(std::string(name) + " has dtype " + std::string(py::str(array.dtype())) +
                   ": use float32 or float64 (complex64 or complex128 where it is complex)");
    const py::ssize_t element = is_complex ? size / 2 : size;
    refgss_array a{};
    a.data = const_cast<void*>(array.data());
    a.dtype = element == 4 ? REFGSS_F32 : REFGSS_F64;
    a.rank = static_cast<int32_t>(array.ndim()) + is_complex;
    if (a.rank > REFGSS_MAX_RANK)
        throw py::value_error(std::string(name) + " has too many axes: " +
                              std::to_string(array.ndim()));
    for (py::ssize_t i = 0; i < array.ndim(); ++i) {
        if (array.shape(i) > 1 && array.strides(i) % element)
            throw py::value_error(std::string(name) +
                                  " has strides that are no multiple of its elements: copy it first");
        a.shape[i] = array.shape(i);
        a.stride[i] = array.strides(i) / element;
    }
    if (is_complex) a.shape[a.rank - 1] = 2, a.stride[a.rank - 1] = 1;
    return a;
}

/// A new array of this shape; its data starts a cache line.
inline py::array fresh(int32_t dtype, const std::vector<py::ssize_t>& shape, bool is_complex = false) {
    const size_t item = (dtype == REFGSS_F32 ? 4 : 8) * (is_complex ? 2 : 1);
    size_t bytes = item;
    for (py::ssize_t n : shape)
        if (__builtin_mul_overflow(bytes, static_cast<size_t>(n), &bytes)) throw std::bad_alloc();
    py::array base(py::dtype("u1"), std::vector<py::ssize_t>{static_cast<py::ssize_t>(bytes + 64)});
    auto* start = static_cast<char*>(base.mutable_data());
    start += (64 - reinterpret_cast<uintptr_t>(start) % 64) % 64;
    const char* name = is_complex ? (dtype == REFGSS_F32 ? "c8" : "c16")
                                  : (dtype == REFGSS_F32 ? "f4" : "f8");
    return py::array(py::dtype(name), shape, start, base);
}

/// Turns a status into the Python exception.  Holds the GIL.
inline void check(int32_t status) {
    switch (status) {
        case REFGSS_OK: return;
        case REFGSS_ERROR_TYPE: throw py::type_error(refgss_last_error());
        case REFGSS_ERROR_VALUE: throw py::value_error(refgss_last_error());
        case REFGSS_ERROR_MEMORY:
            PyErr_SetString(PyExc_MemoryError, refgss_last_error());
            throw py::error_already_set();
        case REFGSS_ERROR_INTERRUPTED:
            if (!PyErr_Occurred()) PyErr_SetNone(PyExc_KeyboardInterrupt);
            throw py::error_already_set();
        default: throw std::runtime_error(refgss_last_error());  // REFGSS_ERROR_BUSY too
    }
}

/// check(f()), with the GIL released around f.
template <class F> void call(F&& f) {
    int32_t status;
    {
        py::gil_scoped_release released;
        status = f();
    }
    check(status);
}

inline std::vector<py::ssize_t> shape_of(const refgss_array& a) { return {a.shape, a.shape + a.rank}; }

/// An argument; None becomes NULL.
class in {
public:
    in(const py::object& object, const char* name) : present_(!object.is_none()) {
        if (present_) a_ = view(object, name);
    }
    operator const refgss_array*() const { return present_ ? &a_ : nullptr; }
    const refgss_array* operator->() const { return &a_; }
    /// Length of an axis; 0 where the rank is too small, which the library will refuse.
    py::ssize_t axis(int i) const { return i < a_.rank ? a_.shape[i] : 0; }

private:
    bool present_;
    refgss_array a_{};
};

/// A fresh result.
class out {
public:
    out(int32_t dtype, const std::vector<py::ssize_t>& shape, bool is_complex = false)
        : array_(fresh(dtype, shape, is_complex)), a_(view(array_, "an output")) {}
    operator const refgss_array*() const { return &a_; }
    py::array array() const { return array_; }

private:
    py::array array_;
    refgss_array a_;
};

using object = const py::object&;
using lengths = std::vector<py::ssize_t>;

inline lengths shape(const in& a) { return shape_of(*static_cast<const refgss_array*>(a)); }
