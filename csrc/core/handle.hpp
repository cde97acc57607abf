// handle.hpp: what every handle of the ABI refuses: NULL, a second thread, and use after a failure that
// left it in no known place.
#pragma once

#include <atomic>
#include <memory>
#include <utility>
#include <variant>

#include "core/status.hpp"

namespace refgss {

/// What a handle of two types holds: an Object<float> or an Object<double>.
template <template <class> class Object> class either {
public:
    template <class T> explicit either(std::unique_ptr<Object<T>> made) : held_(std::move(made)) {}
    /// f(object), of whichever type it is.
    template <class F> void visit(F&& f) const {
        std::visit([&](const auto& object) { f(*object); }, held_);
    }
    /// The object of this type, or nullptr.
    template <class T> Object<T>* get() const {
        const auto* object = std::get_if<std::unique_ptr<Object<T>>>(&held_);
        return object ? object->get() : nullptr;
    }

private:
    std::variant<std::unique_ptr<Object<float>>, std::unique_ptr<Object<double>>> held_;
};

/// A handle that a call changes.
class changing_handle {
public:
    changing_handle() = default;
    changing_handle(const changing_handle&) {}  // a copy is free, and whole

    /// f(), while all others are refused.
    template <class F> void alone(F&& f) const {
        if (busy_.exchange(true, std::memory_order_acquire))
            throw error{REFGSS_ERROR_BUSY, "the handle is in use by another thread: wait for its call to "
                                           "return, or make a handle for each thread"};
        const struct release {
            std::atomic<bool>& busy;
            ~release() { busy.store(false, std::memory_order_release); }
        } at_the_end{busy_};
        f();
    }

private:
    mutable std::atomic<bool> busy_{false};
};

/// f(*handle), alone; every entry that takes such a handle is one call of this.
template <class Handle, class F> int32_t alone_with(Handle* handle, F&& f) {
    return guarded([&] { need(handle, "the handle")->alone([&] { f(*handle); }); });
}

}  // namespace refgss
