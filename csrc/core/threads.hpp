// threads.hpp: one pool for the process, and loops over independent items.
//
// Items are claimed one by one.  Each must write memory of its own and may not depend on who runs
// it, so that results are the same for any number of threads: sums across items are made in a fixed
// order afterwards.  The processor's mode is left alone: subnormal numbers count (GSS-ACC-7).
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace refgss {

int thread_count();
void set_thread_count(int threads);

/// Asked about every 20 ms of a call, on the calling thread; non-zero stops the call.
using interrupt_check = int32_t (*)();
void set_interrupt_check(interrupt_check check);

/// What a loop runs: run(context, item, slot).
struct loop_body {
    void (*run)(const void* context, int64_t item, int slot);
    const void* context;
};
void run_loop(int64_t items, int slots, loop_body body, bool brief);

/// How many threads a loop of so many items is worth; the driver allocates scratch for as many.
int slots_for(int64_t items);

/// body(item, slot) for each item in [0, items): slot < slots tells concurrent calls apart, for
/// scratch memory.  body must not throw.  Throws `error` with REFGSS_ERROR_INTERRUPTED.
/// Called inside an item, or while another thread uses the pool, it runs on the calling thread; so it
/// does where it is `brief`, and may end before sleeping threads wake.
template <class Body>
void parallel_for(int64_t items, int slots, const Body& body, bool brief = false) {
    run_loop(items, slots, {[](const void* context, int64_t item, int slot) {
                         (*static_cast<const Body*>(context))(item, slot);
                     },
                     &body},
             brief);
}

constexpr int64_t rows_of_item = 16;  // of an item: a row alone is less work than claiming it
constexpr int64_t items_of_rows(int64_t rows) { return (rows + rows_of_item - 1) / rows_of_item; }

/// body(row) or body(row, slot) for rows, in parallel; there are slots_for(items_of_rows(rows)) slots.
template <class Body> void for_rows(int64_t rows, const Body& body, bool brief = false) {
    const int64_t items = items_of_rows(rows);
    const auto some = [&](int64_t item, int slot) {
        const int64_t end = std::min(rows, (item + 1) * rows_of_item);
        for (int64_t i = item * rows_of_item; i < end; ++i) {
            if constexpr (std::is_invocable_v<const Body&, int64_t, int>) body(i, slot);
            else body(i);
        }
    };
    parallel_for(items, slots_for(items), some, brief);
}

/// For work outside of loops: throws `error` where the interrupt check says stop.
void check_interrupt();
/// For an item that is long: whether it may end at once, for the loop will throw.
bool stopping();
/// No interruption for the life of the object: what must be done whole, and is short.
class uninterrupted {
public:
    uninterrupted();
    ~uninterrupted();
    uninterrupted(const uninterrupted&) = delete;
    uninterrupted& operator=(const uninterrupted&) = delete;
};

/// f(i) for i in [0, count), one after the other; may be interrupted.
template <class F> void serial_for(int64_t count, F&& f) {
    constexpr int64_t some = 4096;
    for (int64_t i = 0; i < count; ++i) {
        if (i % some == some - 1) check_interrupt();
        f(i);
    }
}

}  // namespace refgss
