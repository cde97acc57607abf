// For sanitize.sh: the address sanitizer's own `new` ends the process where memory is refused, and so
// hides what the library does then.
#include <cstdlib>
#include <new>

void* operator new(std::size_t size) {
    void* const memory = size >> 36 ? nullptr : std::malloc(size ? size : 1);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}
