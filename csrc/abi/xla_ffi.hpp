// xla_ffi.hpp: the calling convention of XLA's custom calls, as much of it as our handlers read.
//
// XLA hands a handler one frame: borrowed operands, results to fill, and named attributes.  The
// convention is a binary interface with append-only structures, so that the library needs no header
// of XLA to be built; tests/xla/test_ffi.py compares every offset below with the header that JAX
// installs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace refgss::xla {

constexpr int32_t major_version = 0, minor_version = 1;

struct extension {
    size_t size;
    int32_t kind;  // metadata_extension::metadata_kind, or others, which are passed over
    extension* next;
};

struct version {
    size_t size;
    extension* extensions;
    int32_t major, minor;
};

/// What XLA asks of a handler, in a frame of its own, before it uses it.
struct metadata {
    size_t size;
    version api;
    uint32_t traits;
};
struct metadata_extension {
    static constexpr int32_t metadata_kind = 1;
    extension base;
    metadata* answer;
};

enum element : int32_t { s32 = 4, s64 = 5, f32 = 11, f64 = 12, c64 = 15, c128 = 18 };

struct buffer {
    size_t size;
    extension* extensions;
    int32_t dtype;  // enum element
    void* data;
    int64_t rank;
    int64_t* shape;  // row-major
};

struct buffers {
    size_t size;
    extension* extensions;
    int64_t count;
    int32_t* kinds;
    void** items;  // buffer*
};

struct text {
    const char* characters;
    size_t length;
};
struct scalar {
    int32_t dtype;
    void* value;
};
struct attributes {
    static constexpr int32_t scalar_kind = 3;
    size_t size;
    extension* extensions;
    int64_t count;
    int32_t* kinds;
    text** names;
    void** values;  // scalar* where the kind says so
};

struct failure;  // XLA's
struct failure_request {
    static constexpr int32_t invalid_argument = 3, resource_exhausted = 8, internal = 13;
    size_t size;
    extension* extensions;
    const char* sentence;
    int32_t code;
};

struct runtime {
    size_t size;
    extension* extensions;
    version api;
    const void* internals;
    failure* (*fail)(failure_request*);
};

struct frame {
    static constexpr int32_t execute = 3;
    size_t size;
    extension* extensions;
    const runtime* xla;
    void* context;
    int32_t stage;
    buffers operands, results;
    attributes options;
};

}  // namespace refgss::xla
