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

/// Bytes of an element; 0 for an unknown dtype.
int64_t item_size(const refgss_array& a) {
    switch (a.dtype) {
        case REFGSS_F32: return 4;
        case REFGSS_F64: return 8;
        case REFGSS_BF16: return 2;
        case REFGSS_I8: return 1;
        default: return 0;
    }
}

bool is_empty(const refgss_array& a) {
    return std::any_of(a.shape, a.shape + a.rank, [](int64_t n) { return n == 0; });
}

constexpr int64_t most = INT64_MAX / 16;  // elements, so that their bytes can be counted

/// The number of elements, and what the strides span; axes without length count as 1, so that a
/// product of any axes can be formed.
void check_extent(const refgss_array& a, const std::string& who) {
    int64_t elements = 1, span = 0;
    for (int i = 0; i < a.rank; ++i) {
        if (a.shape[i] < 0) fail(REFGSS_ERROR_VALUE, who + " has an axis of negative length");
        if (a.shape[i] < 2) continue;
        int64_t extent;
        if (__builtin_mul_overflow(elements, a.shape[i], &elements) || elements > most)
            fail(REFGSS_ERROR_VALUE, who + " has more elements than can be counted");
        if (__builtin_mul_overflow(a.shape[i] - 1, a.stride[i], &extent) || extent == INT64_MIN ||
            __builtin_add_overflow(span, std::abs(extent), &span) || span > most)
            fail(REFGSS_ERROR_VALUE, who + " spans more bytes than can be addressed");
    }
}

/// All that can be wrong with a view by itself.
void check_sound(const refgss_array& a, const std::string& who) {
    if (item_size(a) == 0)
        fail(REFGSS_ERROR_TYPE, who + " has an unknown dtype: use float32 or float64");
    if (a.rank < 0 || a.rank > REFGSS_MAX_RANK)
        fail(REFGSS_ERROR_VALUE, who + " has " + std::to_string(a.rank) + " axes: the most is " +
                                     std::to_string(REFGSS_MAX_RANK));
    check_extent(a, who);
    if (is_empty(a)) return;
    if (a.data == nullptr) fail(REFGSS_ERROR_VALUE, who + " has no data");
    if (reinterpret_cast<uintptr_t>(a.data) % item_size(a))
        fail(REFGSS_ERROR_VALUE, who + " is not aligned to its elements: copy it first");
}

/// The first byte of the array and the byte after its last; both zero where it is empty.
std::pair<uintptr_t, uintptr_t> byte_range(const refgss_array& a) {
    if (is_empty(a)) return {0, 0};
    int64_t low = 0, high = 1;
    for (int i = 0; i < a.rank; ++i) {
        const int64_t extent = a.shape[i] < 2 ? 0 : (a.shape[i] - 1) * a.stride[i];
        (extent < 0 ? low : high) += extent;
    }
    auto base = reinterpret_cast<uintptr_t>(a.data);
    return {base + low * item_size(a), base + high * item_size(a)};
}

/// From the smallest stride on, each axis must step over all that the finer axes reach.
bool elements_overlap(const refgss_array& a) {
    bool taken[REFGSS_MAX_RANK];
    int64_t reach = 0;
    int left = 0;
    for (int i = 0; i < a.rank; ++i) left += !(taken[i] = a.shape[i] == 1);
    for (; left > 0; --left) {
        int axis = -1;
        for (int i = 0; i < a.rank; ++i)
            if (!taken[i] && (axis < 0 || std::abs(a.stride[i]) < std::abs(a.stride[axis])))
                axis = i;
        taken[axis] = true;
        if (std::abs(a.stride[axis]) <= reach) return true;
        reach += std::abs(a.stride[axis]) * (a.shape[axis] - 1);
    }
    return false;
}

}  // namespace

void check_array(const refgss_array* array, const char* name, int rank) {
    const std::string who = name;
    if (array == nullptr) fail(REFGSS_ERROR_VALUE, who + " is NULL: pass an array");
    if (array->dtype != REFGSS_F32 && array->dtype != REFGSS_F64)
        fail(REFGSS_ERROR_TYPE, who + " has an unknown dtype: use float32 or float64");
    if (array->rank != rank)
        fail(REFGSS_ERROR_VALUE, who + " has " + std::to_string(array->rank) +
                                     " axes: it needs " + std::to_string(rank));
    check_sound(*array, who);
}

void check_weights(const refgss_array* array, const std::string& name, int rank) {
    if (array == nullptr) fail(REFGSS_ERROR_VALUE, name + " is NULL: pass an array");
    if (array->rank != rank)
        fail(REFGSS_ERROR_VALUE, name + " has " + std::to_string(array->rank) +
                                     " axes: it needs " + std::to_string(rank));
    check_sound(*array, name);
}

void check_same_dtype(const refgss_array& first, const refgss_array& second, const char* name) {
    if (first.dtype != second.dtype)
        fail(REFGSS_ERROR_TYPE,
             std::string(name) + " has another dtype than the first argument: convert one of them");
}

void check_outputs(const std::vector<named_array>& outputs, const std::vector<named_array>& inputs) {
    for (size_t i = 0; i < outputs.size(); ++i) {
        const named_array& out = outputs[i];
        if (out.array == nullptr) continue;
        check_sound(*out.array, out.name);
        if (is_empty(*out.array)) continue;
        if (elements_overlap(*out.array))
            fail(REFGSS_ERROR_VALUE, out.name + " is an output whose elements overlap");
        const auto mine = byte_range(*out.array);
        const auto meet = [&](const named_array& other) {
            if (other.array == nullptr) return;
            check_sound(*other.array, other.name);
            const auto theirs = byte_range(*other.array);
            if (mine.first < theirs.second && theirs.first < mine.second)
                fail(REFGSS_ERROR_VALUE,
                     out.name + " is an output and shares memory with " + other.name);
        };
        for (size_t k = 0; k < i; ++k) meet(outputs[k]);
        for (const named_array& other : inputs) meet(other);
    }
}

void check_axis(const char* name, const char* axis, int64_t length, int64_t expected) {
    if (length != expected)
        fail(REFGSS_ERROR_VALUE, std::string(name) + " has " + axis + " = " +
                                     std::to_string(length) + ": it must be " +
                                     std::to_string(expected));
}

}  // namespace refgss
