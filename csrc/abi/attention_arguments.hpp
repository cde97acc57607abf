// attention_arguments.hpp: what the entries of attention ask of their arrays.
#pragma once

#include "attention/window.hpp"

namespace refgss {

[[noreturn]] inline void refuse(const char* why) { throw error{REFGSS_ERROR_VALUE, why}; }

/// B, L, the heads and D of q (B,L,Hq,D) and k (B,keys,G,D).
inline attention_shape shape_of(const refgss_array* q, const refgss_array* k) {
    check_array(q, "q", 4), check_array(k, "k", 4);
    attention_shape s{};
    s.B = q->shape[0], s.L = q->shape[1], s.heads = q->shape[2], s.D = q->shape[3];
    s.keys = k->shape[1], s.groups = k->shape[2];
    if (s.D < 1) refuse("q must have a last axis that is not empty");
    if (s.groups < 1 || s.heads < 1 || s.heads % s.groups)
        refuse("the heads of k must divide those of q, and there must be one at least");
    return s;
}

/// An output of four axes, the last contiguous; nothing where it is absent and may be.
template <class T>
view<T, 4> rows_out(const refgss_array* a, const char* name, int64_t B, int64_t L, int64_t H, int64_t D,
                    bool optional = false) {
    if (a == nullptr && optional) return {};
    auto v = shaped<T, 4>(a, name, B, L, H, D);
    if (v.stride[3] != 1 && D > 1)
        throw error{REFGSS_ERROR_VALUE, std::string(name) + " must have a contiguous last axis"};
    return v;
}

/// q, k, v, a bias of as many distances as are seen or more, and the state.
template <class T>
attention_arrays<T> arrays_of(const attention_shape& s, const refgss_array* q, const refgss_array* k,
                              const refgss_array* v, const refgss_array* bias,
                              const refgss_array* state_k, const refgss_array* state_v) {
    attention_arrays<T> in{checked<const T, 4>(q, "q"), shaped<const T, 4>(k, "k", s.B, s.keys, s.groups, s.D),
                           shaped<const T, 4>(v, "v", s.B, s.keys, s.groups, s.D)};
    if ((state_k == nullptr) != (state_v == nullptr))
        refuse("a state has all of its parts, or each is NULL");
    const int64_t S = s.see.slots();
    if (state_k) in.state_k = shaped<const T, 4>(state_k, "state_k", s.B, S, s.groups, s.D);
    if (state_v) in.state_v = shaped<const T, 4>(state_v, "state_v", s.B, S, s.groups, s.D);
    if (bias == nullptr) return in;
    in.bias = checked<const T, 2>(bias, "bias");
    check_axis("bias", "heads", in.bias.shape[0], s.heads);
    if (in.bias.shape[1] < s.see.distances())
        refuse("the bias is too short for the distances of the window");
    return in;
}

/// dy, the cotangents of the state, and what the gradients of these and of q, k and v are written to.
template <class T>
attention_gradient<T> gradient_of(const attention_shape& s, const refgss_array* dy,
                                  const refgss_array* dstate_k, const refgss_array* dstate_v,
                                  const refgss_array* dq, const refgss_array* dk, const refgss_array* dv,
                                  const refgss_array* dstate0_k, const refgss_array* dstate0_v) {
    const int64_t S = s.see.slots();
    attention_gradient<T> to{shaped<const T, 4>(dy, "dy", s.B, s.L, s.heads, s.D),
                             rows_out<T>(dq, "dq", s.B, s.L, s.heads, s.D),
                             rows_out<T>(dk, "dk", s.B, s.keys, s.groups, s.D),
                             rows_out<T>(dv, "dv", s.B, s.keys, s.groups, s.D)};
    if (dstate_k) to.dstate_k = shaped<const T, 4>(dstate_k, "dstate_k", s.B, S, s.groups, s.D);
    if (dstate_v) to.dstate_v = shaped<const T, 4>(dstate_v, "dstate_v", s.B, S, s.groups, s.D);
    to.dstate0_k = rows_out<T>(dstate0_k, "dstate0_k", s.B, S, s.groups, s.D, true);
    to.dstate0_v = rows_out<T>(dstate0_v, "dstate0_v", s.B, S, s.groups, s.D, true);
    return to;
}

}  // namespace refgss
