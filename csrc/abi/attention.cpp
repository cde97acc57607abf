// attention.cpp: attention, rotations and biases of distance at the C ABI.
#include <cmath>

#include "abi/attention_arguments.hpp"
#include "attention/positions.hpp"

using namespace refgss;

namespace {

attention_shape shape_in_window(const refgss_array* q, const refgss_array* k, const int64_t* state_t,
                                const refgss_window* w) {
    attention_shape s = shape_of(q, k);
    need(w, "the window");
    check_axis("k", "axis 1", s.keys, s.L);
    if (w->visible < REFGSS_VISIBLE_CHUNK || w->visible > REFGSS_VISIBLE_STRICT)
        refuse("the visibility of the window is unknown: use one of enum refgss_visible");
    if (w->chunk < 1 || w->chunk > INT64_MAX / 64) refuse("the chunk of the window must be positive");
    s.see = {w->chunk, w->visible};
    s.start.assign(s.B, 0);
    for (int64_t b = 0; state_t && b < s.B; ++b) {
        s.start[b] = state_t[b];
        if (s.start[b] < 0 || s.start[b] > INT64_MAX / 4) refuse("state_t must not be negative");
        if (s.see.in_chunks() && s.start[b] >= s.see.chunk) refuse("state_t must be less than the chunk");
    }
    return s;
}

template <class T>
attention_input<T> input_of(const attention_shape& s, const refgss_array* q, const refgss_array* k,
                            const refgss_array* v, const refgss_array* bias, const refgss_array* state_k,
                            const refgss_array* state_v, const int64_t* state_t, const refgss_window* w) {
    const auto given = arrays_of<T>(s, q, k, v, bias, state_k, state_v);
    if ((state_k != nullptr) != (state_t != nullptr))
        refuse("a state has all of its parts, or each is NULL");
    const T scale = w->unscaled ? T(1) : static_cast<T>(1 / std::sqrt(static_cast<double>(s.D)));
    return attention_input<T>(s, given, std::vector<T>(s.heads, scale));
}

/// B integers as an array, for the check of what shares memory; NULL where they are.
class whole_numbers {
public:
    whole_numbers(const int64_t* data, int64_t B)
        : array_{const_cast<int64_t*>(data), REFGSS_F64, 1, {B}, {1}} {}
    operator const refgss_array*() const { return array_.data ? &array_ : nullptr; }

private:
    refgss_array array_;
};

/// (B,H,D) as (B,1,H,D); another rank stays, and is refused.
class one_token {
public:
    one_token(const refgss_array* a) : given_(a) {
        if (a == nullptr || a->rank != 3) return;
        array_ = *a, given_ = &array_;
        array_.rank = 4, array_.shape[1] = 1, array_.stride[1] = 0;
        for (int i = 1; i < 3; ++i) array_.shape[i + 1] = a->shape[i], array_.stride[i + 1] = a->stride[i];
    }
    one_token(const one_token&) = delete;
    operator const refgss_array*() const { return given_; }

private:
    const refgss_array* given_;
    refgss_array array_;
};

}  // namespace

int32_t refgss_attention(const refgss_array* q, const refgss_array* k, const refgss_array* v,
                         const refgss_array* bias, const refgss_array* state_k, const refgss_array* state_v,
                         const int64_t* state_t, const refgss_window* window, const refgss_array* y,
                         const refgss_array* state_k_out, const refgss_array* state_v_out,
                         int64_t* state_t_out) {
    return guarded([&] {
        check_array(q, "q", 4);
        with_scalar(*q, [&](auto scalar) {
            using T = decltype(scalar);
            const attention_shape s = shape_in_window(q, k, state_t, window);
            const auto in = input_of<T>(s, q, k, v, bias, state_k, state_v, state_t, window);
            const auto out = rows_out<T>(y, "y", s.B, s.L, s.heads, s.D);
            const int64_t S = s.see.slots();
            const auto keys = rows_out<T>(state_k_out, "state_k_out", s.B, S, s.groups, s.D);
            const auto values = rows_out<T>(state_v_out, "state_v_out", s.B, S, s.groups, s.D);
            const whole_numbers t(state_t, s.B), t_out(need(state_t_out, "state_t_out"), s.B);
            check_outputs({{y, "y"}, {state_k_out, "state_k_out"}, {state_v_out, "state_v_out"},
                           {t_out, "state_t_out"}},
                          {{q, "q"}, {k, "k"}, {v, "v"}, {bias, "bias"}, {state_k, "state_k"},
                           {state_v, "state_v"}, {t, "state_t"}});
            attention(in, out);
            keep_keys(in, keys, values);
            for (int64_t b = 0; b < s.B; ++b) {
                const int64_t next = s.start[b] + s.L;
                state_t_out[b] = s.see.in_chunks() ? next % s.see.chunk : next;
            }
        });
    });
}

int32_t refgss_attention_vjp(const refgss_array* q, const refgss_array* k, const refgss_array* v,
                             const refgss_array* bias, const refgss_array* state_k,
                             const refgss_array* state_v, const int64_t* state_t, const refgss_array* dy,
                             const refgss_array* dstate_k, const refgss_array* dstate_v,
                             const refgss_window* window, const refgss_array* dq, const refgss_array* dk,
                             const refgss_array* dv, const refgss_array* dbias,
                             const refgss_array* dstate0_k, const refgss_array* dstate0_v) {
    return guarded([&] {
        check_array(q, "q", 4);
        with_scalar(*q, [&](auto scalar) {
            using T = decltype(scalar);
            const attention_shape s = shape_in_window(q, k, state_t, window);
            const auto in = input_of<T>(s, q, k, v, bias, state_k, state_v, state_t, window);
            auto to = gradient_of<T>(s, dy, dstate_k, dstate_v, dq, dk, dv, dstate0_k, dstate0_v);
            if (bias) to.dbias = shaped<T, 2>(dbias, "dbias", s.heads, in.bias.shape[1]);
            const whole_numbers t(state_t, s.B);
            check_outputs({{dq, "dq"}, {dk, "dk"}, {dv, "dv"}, {bias ? dbias : nullptr, "dbias"},
                           {dstate0_k, "dstate0_k"}, {dstate0_v, "dstate0_v"}},
                          {{q, "q"}, {k, "k"}, {v, "v"}, {bias, "bias"}, {state_k, "state_k"},
                           {state_v, "state_v"}, {t, "state_t"}, {dy, "dy"}, {dstate_k, "dstate_k"},
                           {dstate_v, "dstate_v"}});
            attention_vjp(in, to);
        });
    });
}

int32_t refgss_attention_step(const refgss_array* q, const refgss_array* k, const refgss_array* v,
                              const refgss_array* bias, const refgss_array* state_k,
                              const refgss_array* state_v, const int64_t* state_t,
                              const refgss_window* window, const refgss_array* y,
                              const refgss_array* state_k_out, const refgss_array* state_v_out,
                              int64_t* state_t_out) {
    const one_token q1(q), k1(k), v1(v), y1(y);
    return refgss_attention(q1, k1, v1, bias, state_k, state_v, state_t, window, y1, state_k_out,
                            state_v_out, state_t_out);
}

int32_t refgss_attention_step_vjp(const refgss_array* q, const refgss_array* k, const refgss_array* v,
                                  const refgss_array* bias, const refgss_array* state_k,
                                  const refgss_array* state_v, const int64_t* state_t,
                                  const refgss_array* dy, const refgss_array* dstate_k,
                                  const refgss_array* dstate_v, const refgss_window* window,
                                  const refgss_array* dq, const refgss_array* dk, const refgss_array* dv,
                                  const refgss_array* dbias, const refgss_array* dstate0_k,
                                  const refgss_array* dstate0_v) {
    const one_token q1(q), k1(k), v1(v), dy1(dy), dq1(dq), dk1(dk), dv1(dv);
    return refgss_attention_vjp(q1, k1, v1, bias, state_k, state_v, state_t, dy1, dstate_k, dstate_v,
                                window, dq1, dk1, dv1, dbias, dstate0_k, dstate0_v);
}

namespace {

int32_t rope(const refgss_array* x, const int64_t* r, double base, int32_t pairing, int sign,
             const refgss_array* y, const char* in, const char* out) {
    return guarded([&] {
        check_array(x, in, 4);
        if (x->shape[3] % 2) refuse("the last axis is odd: its numbers are turned in pairs");
        if (!(base > 0) || !std::isfinite(base)) refuse("base must be positive and finite");
        if (pairing != REFGSS_PAIRING_HALF && pairing != REFGSS_PAIRING_INTERLEAVED)
            refuse("the pairing is unknown: use one of enum refgss_pairing");
        if (x->shape[0] * x->shape[1] > 0) need(r, "r");
        with_scalar(*x, [&](auto scalar) {
            using T = decltype(scalar);
            const auto to = shaped<T, 4>(y, out, x->shape[0], x->shape[1], x->shape[2], x->shape[3]);
            check_outputs({{y, out}}, {{x, in}});
            turn<T>(checked<const T, 4>(x, in), r, base, pairing, T(sign), to);
        });
    });
}

}  // namespace

int32_t refgss_rope(const refgss_array* x, const int64_t* r, double base, int32_t pairing,
                    const refgss_array* y) {
    return rope(x, r, base, pairing, 1, y, "x", "y");
}
int32_t refgss_rope_vjp(const int64_t* r, const refgss_array* dy, double base, int32_t pairing,
                        const refgss_array* dx) {
    return rope(dy, r, base, pairing, -1, dx, "dy", "dx");
}

int32_t refgss_t5_bias(const refgss_array* table, const refgss_array* bias) {
    return guarded([&] {
        check_array(table, "table", 2), check_array(bias, "bias", 2);
        with_scalar(*table, [&](auto scalar) {
            using T = decltype(scalar);
            const int64_t H = table->shape[0], M = bias->shape[1];
            const auto from = shaped<const T, 2>(table, "table", H, t5_buckets);
            const auto to = shaped<T, 2>(bias, "bias", H, M);
            check_outputs({{bias, "bias"}}, {{table, "table"}});
            serial_for(M, [&](int64_t n) {
                for (int64_t h = 0; h < H; ++h) *to.at(h, n) = *from.at(h, t5_bucket(n));
            });
        });
    });
}

int32_t refgss_t5_bias_vjp(const refgss_array* dbias, const refgss_array* dtable) {
    return guarded([&] {
        check_array(dbias, "dbias", 2);
        with_scalar(*dbias, [&](auto scalar) {
            using T = decltype(scalar);
            const int64_t H = dbias->shape[0], M = dbias->shape[1];
            const auto from = checked<const T, 2>(dbias, "dbias");
            const auto to = shaped<T, 2>(dtable, "dtable", H, t5_buckets);
            check_outputs({{dtable, "dtable"}}, {{dbias, "dbias"}});
            for (int64_t h = 0; h < H; ++h) {
                double sums[t5_buckets] = {};
                serial_for(M, [&](int64_t n) { sums[t5_bucket(n)] += static_cast<double>(*from.at(h, n)); });
                for (int64_t k = 0; k < t5_buckets; ++k) *to.at(h, k) = static_cast<T>(sums[k]);
            }
        });
    });
}
