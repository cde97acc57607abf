#include "core/scratch.hpp"

#include <cstdlib>
#include <mutex>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace refgss {
namespace {

constexpr size_t cache_line = 64, huge_page = size_t(1) << 21;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t most_kept = 0;  // each block by itself, for its bounds to be seen
#else
constexpr size_t most_kept = size_t(1) << 26;
#endif
constexpr size_t least_kept = size_t(1) << 16;  // smaller ones the allocator keeps

/// Blocks that are not in use.  Whoever finds the lock taken does without: a child may inherit it
/// so.
class spare_blocks {
public:
    /// A block of at least so many bytes that does not waste half of itself, or none.
    memory_block take(size_t bytes) {
        std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        if (!lock) return {};
        for (memory_block& b : blocks_)
            if (b.bytes >= bytes && b.bytes / 2 <= bytes) {
                kept_ -= b.bytes;
                return std::exchange(b, memory_block{});
            }
        return {};
    }
    /// Keeps the block, in place of the oldest where there is no room; false if it cannot.
    bool keep(memory_block block) {
        if (block.bytes > most_kept) return false;
        std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        if (!lock) return false;
        memory_block* place;
        do {
            place = &blocks_[next_++ % places];
            std::free(place->data);
            kept_ -= std::exchange(*place, memory_block{}).bytes;
        } while (kept_ + block.bytes > most_kept);
        *place = block;
        kept_ += block.bytes;
        return true;
    }

private:
    std::mutex mutex_;
    static constexpr unsigned places = 16;
    memory_block blocks_[places];
    unsigned next_ = 0;
    size_t kept_ = 0;  // bytes
};
spare_blocks& spares() {
    static auto* spares = new spare_blocks;  // workers may outlive static destructors
    return *spares;
}

}  // namespace

memory_block take_memory(size_t bytes) {
    if (bytes > SIZE_MAX / 4) throw std::bad_alloc();
    const size_t alignment = bytes < huge_page ? cache_line : huge_page;
    bytes = (bytes + alignment) / alignment * alignment;
    if (bytes >= least_kept)
        if (const memory_block spare = spares().take(bytes); spare.data != nullptr) return spare;
    void* data = std::aligned_alloc(alignment, bytes);
    if (data == nullptr) throw std::bad_alloc();
#if defined(__linux__)
    if (alignment == huge_page) madvise(data, bytes, MADV_HUGEPAGE);
#endif
    return {data, bytes};
}

void return_memory(memory_block block) {
    if (block.bytes < least_kept || !spares().keep(block)) std::free(block.data);
}

}  // namespace refgss
