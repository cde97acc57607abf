#include "core/dispatch.hpp"

#include <cstdlib>
#include <string>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core/status.hpp"

namespace refgss {
namespace {

#if !defined(REFGSS_UP_TO_AVX2)
/// Whether this processor has AMX with bfloat16 and the system lets this process use it.
bool tiles_allowed() {
#if defined(__x86_64__) && defined(__linux__) && defined(REFGSS_AMX)
    unsigned a, b, c, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
    constexpr int request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return (d & amx_bf16) && (d & amx_tile) && syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
    return false;
#endif
}
#endif

isa widest() {
#if defined(__x86_64__) && !defined(REFGSS_UP_TO_AVX2)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return tiles_allowed() ? isa::amx : isa::avx512;
#endif
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return isa::avx2;
#endif
    return isa::baseline;
}

isa chosen() {
    const char* name = std::getenv("REFGSS_SIMD");
    if (name == nullptr || *name == '\0') return widest();
    for (isa set : {isa::baseline, isa::avx2, isa::avx512, isa::amx}) {
        if (isa_name(set) != std::string(name)) continue;
        if (set > widest())
            throw error{REFGSS_ERROR_VALUE, std::string("REFGSS_SIMD=") + name +
                                                ": this processor stops at " + isa_name(widest())};
        return set;
    }
    throw error{REFGSS_ERROR_VALUE, std::string("REFGSS_SIMD=") + name +
                                        " is unknown: use baseline, avx2, avx512 or amx"};
}

}  // namespace

isa active_isa() {
    static const isa set = chosen();  // a throw leaves it unset: every call reports the error
    return set;
}

const char* isa_name(isa set) {
    switch (set) {
        case isa::amx: return "amx";
        case isa::avx512: return "avx512";
        case isa::avx2: return "avx2";
        case isa::baseline: break;
    }
    return "baseline";
}

}  // namespace refgss
