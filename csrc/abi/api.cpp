// api.cpp: the entries of refgss.h that belong to no op.
#include "refgss.h"

#include <cstring>

#include "core/dispatch.hpp"
#include "core/status.hpp"
#include "core/threads.hpp"

namespace refgss {
namespace {
thread_local char last_error[512] = "";
}

void set_last_error(const char* sentence) noexcept {
    std::strncpy(last_error, sentence, sizeof last_error - 1);
}
}  // namespace refgss

using namespace refgss;

int32_t refgss_abi_version(void) { return REFGSS_ABI_VERSION; }

const char* refgss_name(void) { return "librefgss"; }
const char* refgss_version(void) { return REFGSS_VERSION; }

const char* refgss_last_error(void) { return last_error; }

int32_t refgss_get_num_threads(void) {
    int32_t threads = 0;
    guarded([&] { threads = thread_count(); });
    return threads;
}

int32_t refgss_set_num_threads(int32_t threads) {
    return guarded([&] { set_thread_count(threads); });
}

const char* refgss_simd(void) {
    const char* name = nullptr;
    guarded([&] { name = isa_name(active_isa()); });
    return name;
}

int32_t refgss_set_interrupt_check(int32_t (*check)(void)) {
    return guarded([&] { set_interrupt_check(check); });
}
