// scratch.hpp: memory for the length of one call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace refgss {

struct memory_block {
    void* data = nullptr;
    size_t bytes = 0;
};
/// Uninitialised memory on a cache line; large blocks on huge pages where the system has them,
/// which spares most page faults.  What is returned may be kept for later calls, 64 MiB in all: the
/// system would clear each page anew.  Throws std::bad_alloc.
memory_block take_memory(size_t bytes);
void return_memory(memory_block block);

/// `count` uninitialised elements.  Throws std::bad_alloc, also where the size overflows.
template <class T> class scratch {
public:
    explicit scratch(int64_t count) {
        size_t bytes;
        if (count < 0 || __builtin_mul_overflow(static_cast<size_t>(count), sizeof(T), &bytes))
            throw std::bad_alloc();
        block_ = take_memory(bytes);
    }
    ~scratch() { return_memory(block_); }
    scratch(const scratch&) = delete;
    scratch& operator=(const scratch&) = delete;

    T* data() { return static_cast<T*>(block_.data); }
    const T* data() const { return static_cast<const T*>(block_.data); }

private:
    memory_block block_;
};

/// a b, or std::bad_alloc where that overflows: sizes of scratch are products of shapes.
inline int64_t sized(int64_t a, int64_t b) {
    int64_t product;
    if (__builtin_mul_overflow(a, b, &product)) throw std::bad_alloc();
    return product;
}

}  // namespace refgss
