// xla.cpp: ops of refgss.h as custom calls inside XLA's programs; refgss/xla/ffi.py is their caller.
//
// A gradient takes the operands of its op, what the op kept, and the cotangents; it returns one result
// for each operand of the op.  A complex array is one of complex numbers.  An operand that may be
// missing is announced by an option of its name, 0 or 1; all options are binary64 numbers.
#include <algorithm>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "abi/xla_ffi.hpp"
#include "core/status.hpp"
#include "refgss.h"

using namespace refgss;

namespace {

/// The arrays and options of one call.
class call {
public:
    explicit call(const xla::frame& frame)
        : options_(frame.options), operands_(frame.operands), results_(frame.results) {}

    /// The next operand or result.
    const refgss_array* in() { return array(next(operands_, operand_)); }
    const refgss_array* out() { return array(next(results_, result_)); }
    /// The next operand, of whole numbers.
    std::vector<int64_t> integers_in() {
        const xla::buffer& b = next(operands_, operand_);
        if (b.rank != 1 || (b.dtype != xla::s32 && b.dtype != xla::s64))
            throw error{REFGSS_ERROR_TYPE, "whole numbers of a custom call must be a row of int32 or int64"};
        if (b.dtype == xla::s32) return copied<int32_t>(b);
        return copied<int64_t>(b);
    }
    /// The same where it is there, else NULL.
    const refgss_array* in_if(bool there) { return there ? in() : nullptr; }
    const refgss_array* out_if(bool there) { return there ? out() : nullptr; }
    /// The same as a matrix: all axes but the last are rows.
    const refgss_array* rows_in() { return as_rows(array(next(operands_, operand_))); }
    const refgss_array* rows_out() { return as_rows(array(next(results_, result_))); }

    double option(const char* name) const {
        for (int64_t i = 0; i < options_.count; ++i) {
            const xla::text& n = *options_.names[i];
            if (n.length != std::strlen(name) || std::memcmp(n.characters, name, n.length) != 0)
                continue;
            const auto* s = static_cast<const xla::scalar*>(options_.values[i]);
            if (options_.kinds[i] != xla::attributes::scalar_kind || s->dtype != xla::f64) break;
            return *static_cast<const double*>(s->value);
        }
        throw error{REFGSS_ERROR_VALUE, std::string(name) + " must be a binary64 attribute"};
    }
    bool has(const char* name) const { return option(name) != 0; }
    refgss_form form() const {
        return {static_cast<int32_t>(option("method")), static_cast<int32_t>(option("pairs")),
                option("form_eps"), static_cast<int64_t>(option("form_length"))};
    }
    refgss_window window() const {
        return {static_cast<int64_t>(option("chunk")), static_cast<int32_t>(option("visible")),
                has("unscaled")};
    }

private:
    static const xla::buffer& next(const xla::buffers& from, int64_t& at) {
        if (at == from.count)
            throw error{REFGSS_ERROR_VALUE, "the custom call has too few operands or results"};
        return *static_cast<const xla::buffer*>(from.items[at++]);
    }

    refgss_array* array(const xla::buffer& b) { return &arrays_.emplace_back(array_of(b)); }

    template <class T> static std::vector<int64_t> copied(const xla::buffer& b) {
        const auto* from = static_cast<const T*>(b.data);
        return {from, from + b.shape[0]};
    }

    static refgss_array array_of(const xla::buffer& b) {
        const bool complex = b.dtype == xla::c64 || b.dtype == xla::c128;
        const int64_t rank = b.rank + complex;
        if (!complex && b.dtype != xla::f32 && b.dtype != xla::f64)
            throw error{REFGSS_ERROR_TYPE, "an operand of a custom call must be float or complex"};
        // pointwise maps take any rank: leading axes become one
        const int64_t merged = std::max<int64_t>(0, rank - REFGSS_MAX_RANK);
        refgss_array a{};
        a.data = b.data, a.rank = static_cast<int32_t>(rank - merged);
        a.dtype = b.dtype == xla::f32 || b.dtype == xla::c64 ? REFGSS_F32 : REFGSS_F64;
        for (int64_t axis = 0; axis < rank; ++axis) {
            const int64_t length = axis < b.rank ? b.shape[axis] : 2;
            int64_t& merge = a.shape[std::max<int64_t>(0, axis - merged)];
            merge = axis == 0 || axis > merged ? length : merge * length;
        }
        for (int64_t axis = a.rank - 1, step = 1; axis >= 0; step *= a.shape[axis--])
            a.stride[axis] = step;
        return a;
    }

    static const refgss_array* as_rows(refgss_array* a) {
        const int64_t width = a->rank ? a->shape[a->rank - 1] : 1;
        int64_t rows = 1;
        for (int32_t axis = 0; axis + 1 < a->rank; ++axis) rows *= a->shape[axis];
        *a = {a->data, a->dtype, 2, {rows, width}, {width, 1}};
        return a;
    }

    const xla::attributes& options_;
    const xla::buffers &operands_, &results_;
    int64_t operand_ = 0, result_ = 0;
    std::deque<refgss_array> arrays_;  // those handed out
};

xla::failure* failed(const xla::frame& frame, int32_t status) {
    int32_t code = xla::failure_request::internal;
    if (status == REFGSS_ERROR_TYPE || status == REFGSS_ERROR_VALUE)
        code = xla::failure_request::invalid_argument;
    if (status == REFGSS_ERROR_MEMORY) code = xla::failure_request::resource_exhausted;
    xla::failure_request request{sizeof request, nullptr, refgss_last_error(), code};
    return frame.xla->fail(&request);
}

/// Answers XLA's question about a handler, or runs the op.
template <class Op> xla::failure* handle(const xla::frame& frame, Op op) {
    for (xla::extension* e = frame.extensions; e != nullptr; e = e->next) {
        if (e->kind != xla::metadata_extension::metadata_kind) continue;
        xla::metadata& answer = *reinterpret_cast<xla::metadata_extension*>(e)->answer;
        answer.api.major = xla::major_version, answer.api.minor = xla::minor_version;
        answer.traits = 0;
        return nullptr;
    }
    if (frame.stage != xla::frame::execute) return nullptr;
    const int32_t status = guarded([&] {
        call c(frame);
        require(op(c));
    });
    return status == REFGSS_OK ? nullptr : failed(frame, status);
}

/// The parameters of a layer, as operands or as results: `next` and `next_if` fetch them.
template <class Next, class NextIf>
refgss_gss_layer_params gss_params(const call& c, Next next, NextIf next_if) {
    refgss_gss_layer_params p{};
    for (auto* field : {&p.norm_weight, &p.norm_bias, &p.w_v, &p.w_u}) *field = next();
    for (auto* field : {&p.ssm_norm_weight, &p.ssm_norm_bias}) *field = next_if(c.has("ssm_norm"));
    for (auto* field : {&p.lam_a, &p.lam_b, &p.c, &p.d, &p.w_uc, &p.w_o}) *field = next();
    p.b_o = next_if(c.has("bias"));
    p.eps = c.option("eps"), p.imag_is_exp = c.has("imag_is_exp");
    return p;
}
refgss_gss_layer_params gss_params_in(call& c) {
    return gss_params(c, [&] { return c.in(); }, [&](bool there) { return c.in_if(there); });
}

template <class Next, class NextIf>
refgss_dss_layer_params dss_params(const call& c, Next next, NextIf next_if) {
    refgss_dss_layer_params p{};
    for (auto* field : {&p.norm_weight, &p.norm_bias, &p.lam_a, &p.lam_b, &p.c, &p.d, &p.log_delta, &p.w_o})
        *field = next();
    p.b_o = next_if(c.has("bias"));
    p.form = c.form(), p.eps = c.option("eps"), p.imag_is_exp = c.has("imag_is_exp");
    return p;
}
refgss_dss_layer_params dss_params_in(call& c) {
    return dss_params(c, [&] { return c.in(); }, [&](bool there) { return c.in_if(there); });
}

/// The state of attention, where there is one.
struct state_operands {
    explicit state_operands(call& c) : k(c.in_if(c.has("state"))), v(c.in_if(c.has("state"))) {
        if (k != nullptr) t = c.integers_in();
    }
    const int64_t* tokens() const { return k != nullptr ? t.data() : nullptr; }

    const refgss_array *k, *v;
    std::vector<int64_t> t;
};

}  // namespace

// A handler: the body computes a status from `c`, fetching operands and results in order.
#define HANDLER(name)                                                                              \
    static int32_t run_##name(call& c);                                                            \
    extern "C" REFGSS_API xla::failure* refgss_xla_##name(const xla::frame* frame) {               \
        return handle(*frame, run_##name);                                                         \
    }                                                                                              \
    static int32_t run_##name(call& c)

HANDLER(causal_conv) {
    auto *u = c.in(), *k = c.in();
    return refgss_causal_conv(u, k, c.out());
}

HANDLER(causal_conv_vjp) {
    auto *u = c.in(), *k = c.in(), *dy = c.in(), *du = c.out(), *dk = c.out();
    return refgss_causal_conv_vjp(u, k, dy, du, dk);
}

HANDLER(ssm_kernel) {
    auto *lam = c.in(), *weights = c.in(), *delta = c.in();
    const refgss_form form = c.form();
    return refgss_ssm_kernel(lam, weights, delta, &form, c.out());
}

HANDLER(ssm_kernel_vjp) {
    auto *lam = c.in(), *weights = c.in(), *delta = c.in(), *dk = c.in();
    auto *dlam = c.out(), *dc = c.out(), *ddelta = c.out();
    const refgss_form form = c.form();
    return refgss_ssm_kernel_vjp(lam, weights, dk, delta, &form, dlam, dc, ddelta);
}

HANDLER(ssm_scan) {
    auto *u = c.in(), *lam = c.in(), *weights = c.in(), *delta = c.in();
    auto *state = c.in_if(c.has("state")), *y = c.out(), *state_out = c.out();
    const refgss_form form = c.form();
    return refgss_ssm_scan(u, lam, weights, state, delta, &form, y, state_out);
}

HANDLER(ssm_scan_vjp) {
    auto *u = c.in(), *lam = c.in(), *weights = c.in(), *delta = c.in();
    auto *state = c.in_if(c.has("state")), *dy = c.in(), *dstate = c.in_if(c.has("dstate"));
    auto *du = c.out(), *dlam = c.out(), *dc = c.out(), *ddelta = c.out();
    auto* dstate0 = c.out_if(c.has("state"));
    const refgss_form form = c.form();
    return refgss_ssm_scan_vjp(u, lam, weights, state, dy, dstate, delta, &form, du, dlam, dc,
                               dstate0, ddelta);
}

HANDLER(layer_norm) {
    auto *x = c.rows_in(), *weight = c.in(), *bias = c.in();
    return refgss_layer_norm(x, weight, bias, c.option("eps"), c.rows_out());
}

HANDLER(layer_norm_vjp) {
    auto *x = c.rows_in(), *weight = c.in();
    c.in();  // the bias has no part in its gradient
    auto *dy = c.rows_in(), *dx = c.rows_out(), *dweight = c.out(), *dbias = c.out();
    return refgss_layer_norm_vjp(x, weight, dy, c.option("eps"), dx, dweight, dbias);
}

HANDLER(rms_norm) {
    auto *x = c.rows_in(), *weight = c.in();
    return refgss_rms_norm(x, weight, c.option("eps"), c.rows_out());
}

HANDLER(rms_norm_vjp) {
    auto *x = c.rows_in(), *weight = c.in(), *dy = c.rows_in(), *dx = c.rows_out();
    return refgss_rms_norm_vjp(x, weight, dy, c.option("eps"), dx, c.out());
}

HANDLER(gelu) {
    auto* x = c.rows_in();
    return refgss_gelu(x, c.rows_out());
}

HANDLER(gelu_vjp) {
    auto *x = c.rows_in(), *dy = c.rows_in();
    return refgss_gelu_vjp(x, dy, c.rows_out());
}

HANDLER(dense) {
    auto *x = c.rows_in(), *weight = c.in(), *bias = c.in_if(c.has("bias"));
    return refgss_dense(x, weight, bias, c.rows_out());
}

HANDLER(dense_vjp) {
    auto *x = c.rows_in(), *weight = c.in();
    c.in_if(c.has("bias"));
    auto *dy = c.rows_in(), *dx = c.rows_out(), *dweight = c.out(), *dbias = c.out_if(c.has("bias"));
    return refgss_dense_vjp(x, weight, dy, dx, dweight, dbias);
}

// the state's t is an operand alone: what it becomes is known without a kernel
HANDLER(attention) {
    auto *q = c.in(), *k = c.in(), *v = c.in(), *bias = c.in_if(c.has("bias"));
    const state_operands state(c);
    const refgss_window window = c.window();
    auto *y = c.out(), *k_out = c.out(), *v_out = c.out();
    std::vector<int64_t> t_out(q->shape[0] + 1);  // one more, for an address where there are no rows
    return refgss_attention(q, k, v, bias, state.k, state.v, state.tokens(), &window, y, k_out, v_out,
                            t_out.data());
}

HANDLER(attention_vjp) {
    auto *q = c.in(), *k = c.in(), *v = c.in(), *bias = c.in_if(c.has("bias"));
    const state_operands state(c);
    auto *dy = c.in(), *dk_out = c.in_if(c.has("dstate")), *dv_out = c.in_if(c.has("dstate"));
    const refgss_window window = c.window();
    auto *dq = c.out(), *dk = c.out(), *dv = c.out(), *dbias = c.out_if(c.has("bias"));
    auto *dk0 = c.out_if(c.has("state")), *dv0 = c.out_if(c.has("state"));
    return refgss_attention_vjp(q, k, v, bias, state.k, state.v, state.tokens(), dy, dk_out, dv_out,
                                &window, dq, dk, dv, dbias, dk0, dv0);
}

HANDLER(gss_layer) {
    const refgss_gss_layer_params p = gss_params_in(c);
    auto *x = c.in(), *state = c.in_if(c.has("state")), *y = c.out(), *state_out = c.out();
    return refgss_gss_layer(&p, nullptr, x, state, y, state_out);
}

HANDLER(gss_layer_keeping) {
    const refgss_gss_layer_params p = gss_params_in(c);
    auto *x = c.in(), *state = c.in_if(c.has("state")), *y = c.out(), *state_out = c.out();
    const refgss_gss_layer_kept kept{c.out(), c.out(), c.out(), c.out()};
    return refgss_gss_layer_keeping(&p, x, state, y, state_out, &kept);
}

HANDLER(gss_layer_vjp) {
    const refgss_gss_layer_params p = gss_params_in(c);
    auto *x = c.in(), *state = c.in_if(c.has("state"));
    const refgss_gss_layer_kept kept{c.in(), c.in(), c.in(), c.in()};
    auto *dy = c.in(), *dstate = c.in_if(c.has("dstate"));
    const refgss_gss_layer_params d = gss_params(
        c, [&] { return c.out(); }, [&](bool there) { return c.out_if(there); });
    auto *dx = c.out(), *dstate0 = c.out_if(c.has("state"));
    return refgss_gss_layer_vjp(&p, x, state, &kept, dy, dstate, &d, dx, dstate0);
}

HANDLER(dss_layer) {
    const refgss_dss_layer_params p = dss_params_in(c);
    auto *x = c.in(), *state = c.in_if(c.has("state")), *y = c.out(), *state_out = c.out();
    return refgss_dss_layer(&p, nullptr, x, state, y, state_out);
}

HANDLER(dss_layer_vjp) {
    const refgss_dss_layer_params p = dss_params_in(c);
    auto *x = c.in(), *state = c.in_if(c.has("state"));
    auto *dy = c.in(), *dstate = c.in_if(c.has("dstate"));
    const refgss_dss_layer_params d = dss_params(
        c, [&] { return c.out(); }, [&](bool there) { return c.out_if(there); });
    auto *dx = c.out(), *dstate0 = c.out_if(c.has("state"));
    return refgss_dss_layer_vjp(&p, x, state, dy, dstate, &d, dx, dstate0);
}
