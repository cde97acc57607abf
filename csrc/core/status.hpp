// status.hpp: errors inside the library are exceptions of type `error`; at the C ABI `guarded`
// turns them into a status and one sentence per thread.
#pragma once

#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "refgss.h"

namespace refgss {

struct error {
    refgss_status status;
    std::string sentence;
};

/// Remembers the sentence that refgss_last_error() returns on this thread.  Never allocates.
void set_last_error(const char* sentence) noexcept;

/// The length of a call of the ABI; the interrupt check is asked 20 ms from its beginning on.
class call_scope {  // threads.cpp
public:
    call_scope();
    ~call_scope();
    call_scope(const call_scope&) = delete;
    call_scope& operator=(const call_scope&) = delete;
};

/// Runs f; every entry of the ABI is one call of this.
template <class F> int32_t guarded(F&& f) noexcept {
    try {
        const call_scope call;
        f();
        return REFGSS_OK;
    } catch (const error& e) {
        set_last_error(e.sentence.c_str());
        return e.status;
    } catch (const std::bad_alloc&) {
        set_last_error("not enough memory for the workspace: use a shorter length or fewer threads");
        return REFGSS_ERROR_MEMORY;
    } catch (const std::exception& e) {
        set_last_error(e.what());
        return REFGSS_ERROR_INTERNAL;
    }
}

/// Throws unless the caller has passed something.
template <class P> P* need(P* pointer, const char* name) {
    if (pointer == nullptr)
        throw error{REFGSS_ERROR_VALUE, std::string(name) + " is NULL: pass one"};
    return pointer;
}

/// For calls of the ABI from within: a failure travels on as an exception.
inline void require(int32_t status) {
    if (status != REFGSS_OK) throw error{static_cast<refgss_status>(status), refgss_last_error()};
}

}  // namespace refgss
