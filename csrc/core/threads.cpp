#include "core/threads.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/status.hpp"

namespace refgss {
namespace {

constexpr int spins_before_sleep = 4000;  // some tens of microseconds: shorter than a wake-up

using steady = std::chrono::steady_clock;
constexpr auto wake_up = std::chrono::microseconds(150);   // what calling sleepers may cost
constexpr auto trial = std::chrono::microseconds(15);      // by then the length of a loop is known
constexpr auto seldom = std::chrono::milliseconds(1);      // between loops
constexpr int alone_at_most = 4;                           // loops in a row that are not seldom

void pause_briefly() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

constexpr auto patience = std::chrono::milliseconds(20);  // between two questions of a call

std::atomic<interrupt_check> check_for_interrupt{nullptr};
thread_local bool inside_item = false;
thread_local int uninterrupted_depth = 0, calls_inside = 0;
thread_local steady::time_point last_asked;  // since then this call has not asked

/// Whether the interrupt check says stop, asked now and then.
bool asked_to_stop() {
    const interrupt_check check = uninterrupted_depth ? nullptr : check_for_interrupt.load();
    if (check == nullptr) return false;
    const auto now = steady::now();
    if (now - last_asked < patience) return false;
    last_asked = now;
    return check() != 0;
}

[[noreturn]] void throw_interrupted() { throw error{REFGSS_ERROR_INTERRUPTED, "interrupted"}; }

/// One loop in progress, shared by the threads that work on it.  Each begins with a range of its own,
/// the same one in every loop of this size, for what it has in cache may be needed again; then it
/// helps the others.
class loop {
public:
    loop(int64_t items, int slots, loop_body body)
        : slots(slots), items_(items), body_(body), ranges_(new range[slots]) {
        for (int64_t i = 0; i < slots; ++i) {
            ranges_[i].next = i * items / slots;
            ranges_[i].end = (i + 1) * items / slots;
        }
    }
    bool finished() const {
        for (int i = 0; i < slots; ++i)
            if (ranges_[i].next < ranges_[i].end) return stopped;
        return true;
    }

    /// Takes items until there are none.  On trial: or until others, once awake, would be of help.
    void work(int slot, bool asks, bool on_trial = false) {
        const bool nested = inside_item;
        inside_item = true;
        const working here(this, asks);
        const auto started = steady::now();
        int64_t done = 0;
        for (int other = 0; other < slots; ++other) {
            range& r = ranges_[(slot + other) % slots];
            for (int64_t item; !stopped.load(std::memory_order_relaxed) &&
                               (item = r.next.fetch_add(1, std::memory_order_relaxed)) < r.end;) {
                body_.run(body_.context, item, slot);
                ++done;
                if (on_trial) {
                    const auto spent = steady::now() - started;
                    if (spent > trial && spent * (items_ - done) > wake_up * done) {
                        inside_item = nested;
                        return;
                    }
                }
                if (asks && asked_to_stop()) stopped = true;
            }
        }
        inside_item = nested;
    }

    /// Asked by an item that is long.
    static bool stopping() {
        const working* here = working::innermost;
        if (here == nullptr) return false;
        if (here->asks && asked_to_stop()) here->at->stopped = true;
        return here->at->stopped;
    }

    const int slots;
    std::atomic<bool> stopped{false};

private:
    /// The loop that this thread works on.
    struct working {
        working(loop* at, bool asks) : at(at), asks(asks), outer(innermost) { innermost = this; }
        ~working() { innermost = outer; }
        working(const working&) = delete;
        loop* const at;
        const bool asks;
        const working* const outer;
        static thread_local const working* innermost;
    };
    struct alignas(64) range {
        std::atomic<int64_t> next;
        int64_t end;
    };
    int64_t items_;
    loop_body body_;
    std::unique_ptr<range[]> ranges_;
};

thread_local const loop::working* loop::working::innermost = nullptr;

/// Workers that sleep until a loop is published.  One loop at a time: its caller owns the pool.
class pool {
public:
    explicit pool(int threads) {
        for (int slot = 1; slot < threads; ++slot)
            workers_.emplace_back([this, slot] { serve(slot); });
    }
    ~pool() {
        closing_ = true;
        publish(nullptr);
        for (auto& w : workers_) w.join();
    }

    /// Sleepers are not called for a loop that proves short, unless loops follow one another.
    void run(loop& job, bool brief) {
        if (steady::now() - last_ > seldom) alone_ = 0;
        if (brief && awake_ == 0 && alone_++ < alone_at_most) job.work(0, true, true);
        if (!job.finished()) share(job);
        last_ = steady::now();
    }

private:
    void share(loop& job) {
        publish(&job);
        job.work(0, true);
        for (int spin = 0; spin < spins_before_sleep && busy_.load() > 0; ++spin) pause_briefly();
        std::unique_lock<std::mutex> lock(mutex_);
        job_ = nullptr;  // a worker that wakes only now has missed it, and is not waited for
        finished_.wait(lock, [this] { return busy_ == 0; });
    }

    void publish(loop* job) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            job_ = job;
            round_.fetch_add(1);
        }
        published_.notify_all();
    }

    void serve(int slot) {
        std::unique_lock<std::mutex> lock(mutex_);
        for (uint64_t seen = 0; !closing_;) {
            lock.unlock();
            ++awake_;
            for (int spin = 0; spin < spins_before_sleep && round_.load() == seen; ++spin)
                pause_briefly();
            --awake_;
            lock.lock();
            published_.wait(lock, [&] { return round_.load() != seen; });
            seen = round_.load();
            loop* job = job_;
            if (job == nullptr || slot >= job->slots) continue;
            ++busy_;
            lock.unlock();
            job->work(slot, false);
            lock.lock();
            if (--busy_ == 0) finished_.notify_one();
        }
    }

    std::mutex mutex_;  // guards job_, and busy_ against sleepers
    std::condition_variable published_, finished_;
    std::atomic<uint64_t> round_{0};
    std::atomic<bool> closing_{false};
    loop* job_ = nullptr;
    std::atomic<int> busy_{0}, awake_{0};  // at work; waiting without sleep
    steady::time_point last_;              // when a loop ended
    int alone_ = 0;                        // loops in a row that began without the workers
    std::vector<std::thread> workers_;
};

/// The pool and who may use it.  Made anew in a forked child, whose workers do not exist.
struct process_state {
    std::mutex owner;
    std::unique_ptr<pool> workers;
    std::atomic<int> threads{0};
};

int threads_from_environment() {
    int all = std::max(1u, std::thread::hardware_concurrency());
    const char* text = std::getenv("REFGSS_NUM_THREADS");
    if (text == nullptr || *text == '\0') return all;
    char* end;
    long threads = std::strtol(text, &end, 10);
    if (*end != '\0' || threads < 1 || threads > 1024)
        throw error{REFGSS_ERROR_VALUE, std::string("REFGSS_NUM_THREADS=") + text +
                                            " is not a number of threads: use 1 to 1024"};
    return static_cast<int>(threads);
}

process_state*& current() {
    static process_state* state = [] {
        pthread_atfork(nullptr, nullptr, [] {
            int threads = current()->threads;
            current() = new process_state;  // the old one may be locked for ever: let it leak
            current()->threads = threads;
        });
        return new process_state;  // never freed: workers may outlive static destructors
    }();
    return state;
}

}  // namespace

int thread_count() {
    process_state& state = *current();
    if (state.threads == 0) state.threads = threads_from_environment();
    return state.threads;
}

void set_thread_count(int threads) {
    if (threads < 1 || threads > 1024)
        throw error{REFGSS_ERROR_VALUE, "the number of threads must be between 1 and 1024"};
    process_state& state = *current();
    std::lock_guard<std::mutex> owner(state.owner);
    state.workers.reset();
    state.threads = threads;
}

void set_interrupt_check(interrupt_check check) { check_for_interrupt = check; }

int slots_for(int64_t items) {
    if (inside_item || items < 2) return 1;
    return static_cast<int>(std::min<int64_t>(items, thread_count()));
}

void run_loop(int64_t items, int slots, loop_body body, bool brief) {
    process_state& state = *current();
    bool alone = items < 2 || slots < 2 || inside_item;
    loop job(items, alone ? 1 : slots, body);
    std::unique_lock<std::mutex> owner(state.owner, std::defer_lock);
    if (alone || !owner.try_lock()) {
        job.work(0, !inside_item);
    } else {
        if (!state.workers) state.workers = std::make_unique<pool>(thread_count());
        state.workers->run(job, brief);
    }
    if (job.stopped) throw_interrupted();
}

call_scope::call_scope() {
    if (calls_inside++ == 0) last_asked = steady::now();
}
call_scope::~call_scope() { --calls_inside; }
bool stopping() { return loop::stopping(); }
void check_interrupt() {
    if (!inside_item && asked_to_stop()) throw_interrupted();
}
uninterrupted::uninterrupted() { ++uninterrupted_depth; }
uninterrupted::~uninterrupted() { --uninterrupted_depth; }

}  // namespace refgss
