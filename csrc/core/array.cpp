#include "core/array.hpp"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>

namespace refgss {
namespace {

[[noreturn]] void fail(refgss_status status, std::string sentence) {
    throw error{status, std::move(sentence)};
}

int64_t item_size(const refgss_array& a) { return a.dtype == REFGSS_F32 ? 4 : 8; }

bool is_empty(const refgss_array& a) {
    return std::any_of(a.shape, a.shape + a.rank, [](int64_t n) { return n == 0; });
}

/// The first byte of the array and the byte after its last; both zero where it is empty.
std::pair<uintptr_t, uintptr_t> byte_range(const refgss_array& a) {
    if (is_empty(a)) return {0, 0};
    int64_t low = 0, high = 1;
    for (int i = 0; i < a.rank; ++i) {
        int64_t extent = (a.shape[i] - 1) * a.stride[i];
        (extent < 0 ? low : high) += extent;
    }
    auto base = reinterpret_cast<uintptr_t>(a.data);
    return {base + low * item_size(a), base + high * item_size(a)};
}

}  // namespace

void check_array(const refgss_array* array, const char* name, int rank) {
    std::string who = name;
    if (array == nullptr) fail(REFGSS_ERROR_VALUE, who + " is NULL: pass an array");
    const refgss_array& a = *array;
    if (a.dtype != REFGSS_F32 && a.dtype != REFGSS_F64)
        fail(REFGSS_ERROR_TYPE, who + " has an unknown dtype: use float32 or float64");
    if (a.rank != rank)
        fail(REFGSS_ERROR_VALUE, who + " has " + std::to_string(a.rank) + " axes: it needs " +
                                     std::to_string(rank));
    int64_t span = 0;
    for (int i = 0; i < rank; ++i) {
        if (a.shape[i] < 0) fail(REFGSS_ERROR_VALUE, who + " has an axis of negative length");
        int64_t extent;
        if (a.shape[i] > 0 && (__builtin_mul_overflow(a.shape[i] - 1, a.stride[i], &extent) ||
                               extent == INT64_MIN ||
                               __builtin_add_overflow(span, std::abs(extent), &span)))
            fail(REFGSS_ERROR_VALUE, who + " spans more bytes than can be addressed");
    }
    if (is_empty(a)) return;
    if (span >= INT64_MAX / 16)
        fail(REFGSS_ERROR_VALUE, who + " spans more bytes than can be addressed");
    if (a.data == nullptr) fail(REFGSS_ERROR_VALUE, who + " has no data");
    if (reinterpret_cast<uintptr_t>(a.data) % item_size(a))
        fail(REFGSS_ERROR_VALUE, who + " is not aligned to its elements: copy it first");
}

void check_same_dtype(const refgss_array& first, const refgss_array& second, const char* name) {
    if (first.dtype != second.dtype)
        fail(REFGSS_ERROR_TYPE,
             std::string(name) + " has another dtype than the first argument: convert one of them");
}

void check_output(const refgss_array& output, const char* name,
                  std::initializer_list<const refgss_array*> others) {
    if (is_empty(output)) return;
    // From the smallest stride on, each axis must step over all that the finer axes reach.
    bool taken[REFGSS_MAX_RANK] = {};
    int64_t reach = 0;
    for (int round = 0; round < output.rank; ++round) {
        int axis = -1;
        for (int i = 0; i < output.rank; ++i)
            if (!taken[i] && (axis < 0 || std::abs(output.stride[i]) < std::abs(output.stride[axis])))
                axis = i;
        taken[axis] = true;
        if (output.shape[axis] == 1) continue;
        if (std::abs(output.stride[axis]) <= reach)
            fail(REFGSS_ERROR_VALUE, std::string(name) + " is an output whose elements overlap");
        reach += std::abs(output.stride[axis]) * (output.shape[axis] - 1);
    }
    auto mine = byte_range(output);
    for (const refgss_array* other : others) {
        if (other == nullptr) continue;
        auto theirs = byte_range(*other);
        if (mine.first < theirs.second && theirs.first < mine.second)
            fail(REFGSS_ERROR_VALUE,
                 std::string(name) + " is an output and shares memory with another argument");
    }
}

void check_axis(const char* name, const char* axis, int64_t length, int64_t expected) {
    if (length != expected)
        fail(REFGSS_ERROR_VALUE, std::string(name) + " has " + axis + " = " +
                                     std::to_string(length) + ": it must be " +
                                     std::to_string(expected));
}

}  // namespace refgss
