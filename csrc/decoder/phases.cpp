#include "decoder/phases.hpp"

#include <algorithm>
#include <thread>

#include "core/threads.hpp"

namespace refgss::decoding {
namespace {

// A phase lasts some microseconds, a check a few nanoseconds: whoever has waited so long waits for a
// thread that lost its processor, and gives its own away.
constexpr int checks_before_yield = 5000;

}  // namespace

void phases::seal() {
    int64_t most = 0;
    for (const phase& p : phases_) most = std::max(most, p.items);
    slots_ = slots_for(most);
    claimed_ = std::vector<counter>(phases_.size() * slots_);
    done_ = std::vector<counter>(phases_.size());
}

void phases::run() {
    for (auto* counters : {&claimed_, &done_})
        for (counter& c : *counters) c.value.store(0, std::memory_order_relaxed);
    parallel_for(slots_, slots_, [&](int64_t, int slot) { work(slot); });
}

void phases::work(int slot) {
    for (size_t p = 0; p < phases_.size(); ++p) {
        const int64_t count = phases_[p].items;
        for (int k = 0; k < slots_; ++k) {
            const int64_t share = (slot + k) % slots_;
            const int64_t first = count * share / slots_, end = count * (share + 1) / slots_;
            auto& next = claimed_[p * slots_ + share].value;
            for (int64_t i; first + next.load(std::memory_order_relaxed) < end &&
                            (i = first + next.fetch_add(1, std::memory_order_relaxed)) < end;) {
                phases_[p].run(i, slot);
                done_[p].value.fetch_add(1, std::memory_order_release);
            }
        }
        for (int checks = 0; done_[p].value.load(std::memory_order_acquire) < count;)
            if (++checks > checks_before_yield) std::this_thread::yield();
    }
}

}  // namespace refgss::decoding
