// block_recurrent.cpp: attention to a window, and to or from a state (GSS-BRT), at the C ABI.
#include <cmath>

#include "abi/attention_arguments.hpp"

using namespace refgss;

namespace {

/// The same heads of queries and of keys.
attention_shape shape_of_heads(const refgss_array* q, const refgss_array* k) {
    attention_shape s = shape_of(q, k);
    check_axis("k", "axis 2", s.groups, s.heads);
    s.in_order = true;
    return s;
}

/// Tokens to the window before them: the state's keys have the positions before W.
attention_shape shape_in_window(const refgss_array* q, const refgss_array* k, int64_t window) {
    attention_shape s = shape_of_heads(q, k);
    check_axis("k", "axis 1", s.keys, s.L);
    if (window < 1 || window > INT64_MAX / 64) refuse("the window must be at least 1");
    s.see = {window, REFGSS_VISIBLE_STRICT};
    s.start.assign(s.B, window);
    return s;
}

attention_shape shape_of_all(const refgss_array* q, const refgss_array* k) {
    attention_shape s = shape_of_heads(q, k);
    s.see = {s.keys, refgss::window::everything};
    s.start.assign(s.B, 0);
    return s;
}

/// |scale| of each head, or 1/√D.
template <class T> std::vector<T> scales_of(const attention_shape& s, const refgss_array* scale) {
    if (scale == nullptr)
        return std::vector<T>(s.heads, static_cast<T>(1 / std::sqrt(static_cast<double>(s.D))));
    const auto given = shaped<const T, 1>(scale, "scale", s.heads);
    std::vector<T> sizes(s.heads);
    for (int64_t h = 0; h < s.heads; ++h) sizes[h] = std::abs(*given.at(h));
    return sizes;
}

/// The gradient of |scale| as that of the scale, which is 0 at 0 (GSS-BRT-20).
template <class T> void of_sign(const refgss_array* scale, const view<T, 1>& dscale) {
    if (scale == nullptr) return;
    const auto given = typed<const T, 1>(*scale);
    for (int64_t h = 0; h < dscale.shape[0]; ++h) {
        const T size = *given.at(h);
        *dscale.at(h) = size > 0 ? *dscale.at(h) : size < 0 ? -*dscale.at(h) : size;
    }
}

}  // namespace

int32_t refgss_window_attention(const refgss_array* q, const refgss_array* k, const refgss_array* v,
                                const refgss_array* bias, const refgss_array* scale,
                                const refgss_array* state_k, const refgss_array* state_v, int64_t window,
                                const refgss_array* y, const refgss_array* state_k_out,
                                const refgss_array* state_v_out) {
    return guarded([&] {
        check_array(q, "q", 4);
        with_scalar(*q, [&](auto scalar) {
            using T = decltype(scalar);
            const attention_shape s = shape_in_window(q, k, window);
            const attention_input<T> in(s, arrays_of<T>(s, q, k, v, bias, state_k, state_v),
                                        scales_of<T>(s, scale), scale != nullptr);
            const auto out = rows_out<T>(y, "y", s.B, s.L, s.heads, s.D);
            const auto keys = rows_out<T>(state_k_out, "state_k_out", s.B, window, s.heads, s.D);
            const auto values = rows_out<T>(state_v_out, "state_v_out", s.B, window, s.heads, s.D);
            check_outputs({{y, "y"}, {state_k_out, "state_k_out"}, {state_v_out, "state_v_out"}},
                          {{q, "q"}, {k, "k"}, {v, "v"}, {bias, "bias"}, {scale, "scale"},
                           {state_k, "state_k"}, {state_v, "state_v"}});
            attention(in, out);
            keep_keys(in, keys, values);
        });
    });
}

int32_t refgss_window_attention_vjp(const refgss_array* q, const refgss_array* k, const refgss_array* v,
                                    const refgss_array* bias, const refgss_array* scale,
                                    const refgss_array* state_k, const refgss_array* state_v,
                                    const refgss_array* dy, const refgss_array* dstate_k,
                                    const refgss_array* dstate_v, int64_t window, const refgss_array* dq,
                                    const refgss_array* dk, const refgss_array* dv, const refgss_array* dbias,
                                    const refgss_array* dscale, const refgss_array* dstate0_k,
                                    const refgss_array* dstate0_v) {
    return guarded([&] {
        check_array(q, "q", 4);
        with_scalar(*q, [&](auto scalar) {
            using T = decltype(scalar);
            const attention_shape s = shape_in_window(q, k, window);
            const attention_input<T> in(s, arrays_of<T>(s, q, k, v, bias, state_k, state_v),
                                        scales_of<T>(s, scale), scale != nullptr);
            auto to = gradient_of<T>(s, dy, dstate_k, dstate_v, dq, dk, dv, dstate0_k, dstate0_v);
            if (bias) to.dbias = shaped<T, 2>(dbias, "dbias", s.heads, in.bias.shape[1]);
            if (scale) to.dscale = shaped<T, 1>(dscale, "dscale", s.heads);
            check_outputs({{dq, "dq"}, {dk, "dk"}, {dv, "dv"}, {bias ? dbias : nullptr, "dbias"},
                           {scale ? dscale : nullptr, "dscale"}, {dstate0_k, "dstate0_k"},
                           {dstate0_v, "dstate0_v"}},
                          {{q, "q"}, {k, "k"}, {v, "v"}, {bias, "bias"}, {scale, "scale"},
                           {state_k, "state_k"}, {state_v, "state_v"}, {dy, "dy"}, {dstate_k, "dstate_k"},
                           {dstate_v, "dstate_v"}});
            attention_vjp(in, to);
            of_sign<T>(scale, to.dscale);
        });
    });
}

int32_t refgss_state_attention(const refgss_array* q, const refgss_array* k, const refgss_array* v,
                               const refgss_array* scale, const refgss_array* y) {
    return guarded([&] {
        check_array(q, "q", 4);
        with_scalar(*q, [&](auto scalar) {
            using T = decltype(scalar);
            const attention_shape s = shape_of_all(q, k);
            const attention_input<T> in(s, arrays_of<T>(s, q, k, v, nullptr, nullptr, nullptr),
                                        scales_of<T>(s, scale));
            const auto out = rows_out<T>(y, "y", s.B, s.L, s.heads, s.D);
            check_outputs({{y, "y"}}, {{q, "q"}, {k, "k"}, {v, "v"}, {scale, "scale"}});
            attention(in, out);
        });
    });
}

int32_t refgss_state_attention_vjp(const refgss_array* q, const refgss_array* k, const refgss_array* v,
                                   const refgss_array* scale, const refgss_array* dy, const refgss_array* dq,
                                   const refgss_array* dk, const refgss_array* dv, const refgss_array* dscale) {
    return guarded([&] {
        check_array(q, "q", 4);
        with_scalar(*q, [&](auto scalar) {
            using T = decltype(scalar);
            const attention_shape s = shape_of_all(q, k);
            const attention_input<T> in(s, arrays_of<T>(s, q, k, v, nullptr, nullptr, nullptr),
                                        scales_of<T>(s, scale));
            auto to = gradient_of<T>(s, dy, nullptr, nullptr, dq, dk, dv, nullptr, nullptr);
            if (scale) to.dscale = shaped<T, 1>(dscale, "dscale", s.heads);
            check_outputs({{dq, "dq"}, {dk, "dk"}, {dv, "dv"}, {scale ? dscale : nullptr, "dscale"}},
                          {{q, "q"}, {k, "k"}, {v, "v"}, {scale, "scale"}, {dy, "dy"}});
            attention_vjp(in, to);
            of_sign<T>(scale, to.dscale);
        });
    });
}
