// conv.cpp: the convolution at the C ABI.
#include <memory>

#include "conv/convolution.hpp"
#include "conv/stream.hpp"
#include "core/handle.hpp"

using namespace refgss;

struct refgss_spectrum {
    either<spectrum> made;
};

struct refgss_conv_stream : changing_handle {
    explicit refgss_conv_stream(either<conv_stream> stream) : made(std::move(stream)) {}
    either<conv_stream> made;
};

namespace {

/// `other` must be as u (B,L,H) is.
void check_like_signal(const refgss_array& u, const refgss_array* other, const char* name) {
    check_array(other, name, 3);
    check_same_dtype(u, *other, name);
    const char* axes[] = {"B", "L", "H"};
    for (int i = 0; i < 3; ++i) check_axis(name, axes[i], other->shape[i], u.shape[i]);
}
void check_kernel(const refgss_array& u, const refgss_array* k, const char* name) {
    check_array(k, name, 2);
    check_same_dtype(u, *k, name);
    check_axis(name, "H", k->shape[0], u.shape[2]);
}
void check_signals(const refgss_array* u, const refgss_array* y) {
    check_array(u, "u", 3);
    check_like_signal(*u, y, "y");
}

/// u as a signal for a kernel of this type.
template <template <class> class Object, class T>
view<const T, 3> as_kernel(const Object<T>&, const refgss_array& u) {
    if (u.dtype != dtype_of<T>)
        throw error{REFGSS_ERROR_TYPE, "u has another dtype than the kernel: convert it"};
    return typed<const T, 3>(u);
}
template <class T> view<T, 3> typed_like(const view<const T, 3>&, const refgss_array& y) {
    return typed<T, 3>(y);
}

}  // namespace

int32_t refgss_causal_conv(const refgss_array* u, const refgss_array* k, const refgss_array* y) {
    return guarded([&] {
        check_signals(u, y);
        check_kernel(*u, k, "k");
        check_outputs({{y, "y"}}, {{u, "u"}, {k, "k"}});
        with_scalar(*u, [&](auto scalar) {
            using T = decltype(scalar);
            causal_conv(typed<const T, 3>(*u), typed<const T, 2>(*k), typed<T, 3>(*y));
        });
    });
}

int32_t refgss_causal_conv_vjp(const refgss_array* u, const refgss_array* k,
                               const refgss_array* dy, const refgss_array* du,
                               const refgss_array* dk) {
    return guarded([&] {
        check_array(u, "u", 3);
        check_kernel(*u, k, "k");
        check_like_signal(*u, dy, "dy");
        check_like_signal(*u, du, "du");
        check_kernel(*u, dk, "dk");
        check_axis("dk", "Lk", dk->shape[1], k->shape[1]);
        check_outputs({{du, "du"}, {dk, "dk"}}, {{u, "u"}, {k, "k"}, {dy, "dy"}});
        with_scalar(*u, [&](auto scalar) {
            using T = decltype(scalar);
            causal_conv_vjp(typed<const T, 3>(*u), typed<const T, 2>(*k), typed<const T, 3>(*dy),
                            typed<T, 3>(*du), typed<T, 2>(*dk));
        });
    });
}

int32_t refgss_spectrum_new(const refgss_array* k, int64_t length, refgss_spectrum** handle) {
    return guarded([&] {
        *need(handle, "spectrum") = nullptr;
        check_array(k, "k", 2);
        if (length < 0) throw error{REFGSS_ERROR_VALUE, "length is negative: use at least 0"};
        with_scalar(*k, [&](auto scalar) {
            using T = decltype(scalar);
            *handle = new refgss_spectrum{either<spectrum>(
                std::make_unique<spectrum<T>>(typed<const T, 2>(*k), length))};
        });
    });
}

void refgss_spectrum_free(refgss_spectrum* handle) { delete handle; }

int32_t refgss_spectrum_conv(const refgss_spectrum* handle, const refgss_array* u,
                             const refgss_array* y) {
    return guarded([&] {
        need(handle, "the handle");
        check_signals(u, y);
        check_outputs({{y, "y"}}, {{u, "u"}});
        handle->made.visit([&](const auto& s) {
            const auto in = as_kernel(s, *u);
            check_axis("u", "H", in.shape[2], s.channels());
            if (in.shape[1] > s.length())
                throw error{REFGSS_ERROR_VALUE,
                            "u is longer than the spectrum's length: make one for more steps"};
            s.convolve(in, typed_like(in, *y));
        });
    });
}

int32_t refgss_conv_stream_new(const refgss_array* k, int64_t batch, refgss_conv_stream** handle) {
    return guarded([&] {
        *need(handle, "stream") = nullptr;
        check_array(k, "k", 2);
        if (batch < 0) throw error{REFGSS_ERROR_VALUE, "batch is negative: use at least 0"};
        with_scalar(*k, [&](auto scalar) {
            using T = decltype(scalar);
            *handle = new refgss_conv_stream(either<conv_stream>(
                std::make_unique<conv_stream<T>>(typed<const T, 2>(*k), batch)));
        });
    });
}

void refgss_conv_stream_free(refgss_conv_stream* stream) { delete stream; }

int32_t refgss_conv_stream_push(refgss_conv_stream* stream, const refgss_array* u,
                                const refgss_array* y) {
    return alone_with(stream, [&](refgss_conv_stream& s) {
        check_signals(u, y);
        check_outputs({{y, "y"}}, {{u, "u"}});
        s.made.visit([&](auto& stream) {
            const auto in = as_kernel(stream, *u);
            check_axis("u", "B", in.shape[0], stream.batch());
            check_axis("u", "H", in.shape[2], stream.channels());
            stream.push(in, typed_like(in, *y));
        });
    });
}
