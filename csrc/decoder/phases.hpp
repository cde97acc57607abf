// phases.hpp: work in phases, which threads go through together.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

namespace refgss::decoding {

/// Independent items, each of which writes memory of its own.  `slot` tells concurrent calls apart.
struct phase {
    int64_t items;
    std::function<void(int64_t item, int slot)> run;
};

/// No item of a phase begins before all items of the phase before it are done.  Threads that are there
/// claim items, each from its own share first, and the caller waits for no thread that has not come; a
/// barrier would make it wait.
class phases {
public:
    /// Adds a phase; the last one is followed by `seal`.
    void add(phase p) { phases_.push_back(std::move(p)); }
    void seal();
    /// Runs all of them.  Allocates nothing.
    void run();

private:
    struct alignas(64) counter {  // on a cache line of its own
        std::atomic<int64_t> value{0};
    };
    void work(int slot);

    std::vector<phase> phases_;
    int slots_ = 1;
    std::vector<counter> claimed_, done_;  // (phases, slots) items of each share, and (phases)
};

}  // namespace refgss::decoding
