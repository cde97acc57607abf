// scratch.hpp: memory for the length of one call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace refgss {

/// `count` uninitialised elements on a cache line; large ones on huge pages where the system has
/// them, which spares most page faults.  Throws std::bad_alloc, also where the size overflows.
template <class T> class scratch {
public:
    explicit scratch(int64_t count) {
        size_t bytes;
        if (count < 0 || __builtin_mul_overflow(static_cast<size_t>(count), sizeof(T), &bytes) ||
            bytes > SIZE_MAX / 4)
            throw std::bad_alloc();
        size_t alignment = bytes < huge_page ? cache_line : huge_page;
        bytes = (bytes + alignment) / alignment * alignment;
        data_ = static_cast<T*>(std::aligned_alloc(alignment, bytes));
        if (data_ == nullptr) throw std::bad_alloc();
#if defined(__linux__)
        if (alignment == huge_page) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
    }
    ~scratch() { std::free(data_); }
    scratch(const scratch&) = delete;
    scratch& operator=(const scratch&) = delete;

    T* data() { return data_; }
    const T* data() const { return data_; }

private:
    static constexpr size_t cache_line = 64, huge_page = size_t(1) << 21;
    T* data_;
};

/// a b, or std::bad_alloc where that overflows: sizes of scratch are products of shapes.
inline int64_t sized(int64_t a, int64_t b) {
    int64_t product;
    if (__builtin_mul_overflow(a, b, &product)) throw std::bad_alloc();
    return product;
}

}  // namespace refgss
