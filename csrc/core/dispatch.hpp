// dispatch.hpp: one table of functions per kernel file and instruction set, chosen at run time.
//
// The header of a kernel declares its table, a struct of function pointers:
//     template <class T> struct conv_kernels { void (*convolve)(const conv_job<T>&, ...); };
// The kernel file, compiled once per instruction set, ends with one definition per scalar type:
//     template <> const conv_kernels<float>& table<conv_kernels<float>, this_isa>() { ... }
// (REFGSS_TABLE writes it), and a driver calls
//     kernels<conv_kernels<float>>().convolve(job, ...);
#pragma once

#ifndef REFGSS_ISA
#define REFGSS_ISA baseline
#endif

namespace refgss {

enum class isa { baseline, avx2, avx512, amx };

/// The widest instruction set of this processor, or the one that REFGSS_SIMD names.  Throws where
/// that is unknown or not supported here.
isa active_isa();
const char* isa_name(isa set);

template <class Table, isa I> const Table& table();
/// Whether a table has functions for AMX; the others have those of AVX-512 there.
template <class Table> constexpr bool has_amx = false;

template <class Table> const Table& kernels() {
#if defined(__x86_64__)
    switch (active_isa()) {
#if !defined(REFGSS_UP_TO_AVX2)  // a build under sanitizers has no more
        case isa::amx:
            if constexpr (has_amx<Table>) return table<Table, isa::amx>();
            return table<Table, isa::avx512>();
        case isa::avx512: return table<Table, isa::avx512>();
#else
        case isa::amx:
        case isa::avx512:
#endif
        case isa::avx2: return table<Table, isa::avx2>();
        case isa::baseline: break;
    }
#endif
    return table<Table, isa::baseline>();
}

#define REFGSS_TABLE(Table, ...)                                   \
    template <> const Table& table<Table, isa::REFGSS_ISA>() {     \
        static const Table functions = __VA_ARGS__;                \
        return functions;                                          \
    }

}  // namespace refgss
