#include "dispatch.hpp"

#include <cstdlib>
#include <string>

#include "status.hpp"

namespace refgss {
namespace {

isa widest() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return isa::avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return isa::avx2;
#endif
    return isa::baseline;
}

isa chosen() {
    const char* name = std::getenv("REFGSS_SIMD");
    if (name == nullptr || *name == '\0') return widest();
    for (isa set : {isa::baseline, isa::avx2, isa::avx512}) {
        if (isa_name(set) != std::string(name)) continue;
        if (set > widest())
            throw error{REFGSS_ERROR_VALUE, std::string("REFGSS_SIMD=") + name +
                                                ": this processor stops at " + isa_name(widest())};
        return set;
    }
    throw error{REFGSS_ERROR_VALUE, std::string("REFGSS_SIMD=") + name +
                                        " is unknown: use baseline, avx2 or avx512"};
}

}  // namespace

isa active_isa() {
    static const isa set = chosen();  // a throw leaves it unset: every call reports the error
    return set;
}

const char* isa_name(isa set) {
    switch (set) {
        case isa::avx512: return "avx512";
        case isa::avx2: return "avx2";
        case isa::baseline: break;
    }
    return "baseline";
}

}  // namespace refgss
