// pointwise.cpp: norms, GELU, gates and the dense map at the C ABI, with their gradients.
#include <memory>

#include "core/dispatch.hpp"
#include "core/scratch.hpp"
#include "core/threads.hpp"
#include "dense/matmul.hpp"
#include "layers/pointwise.hpp"

using namespace refgss;

namespace {

/// An output with contiguous rows; others are refused.
template <class T>
view<T, 2> output(const refgss_array* a, const char* name, int64_t rows, int64_t width) {
    auto v = shaped<T, 2>(a, name, rows, width);
    if (v.stride[1] != 1 && v.shape[1] > 1)
        throw error{REFGSS_ERROR_VALUE, std::string(name) + " must have contiguous rows"};
    return v;
}

/// What every norm asks of x and ε.
void check_norm(const refgss_array* x, double eps) {
    check_array(x, "x", 2);
    if (!(eps > 0)) throw error{REFGSS_ERROR_VALUE, "eps must be positive"};
    if (x->shape[1] == 0) throw error{REFGSS_ERROR_VALUE, "x must have a last axis that is not empty"};
}

}  // namespace

int32_t refgss_layer_norm(const refgss_array* x, const refgss_array* weight,
                          const refgss_array* bias, double eps, const refgss_array* y) {
    return guarded([&] {
        check_norm(x, eps);
        with_scalar(*x, [&](auto scalar) {
            using T = decltype(scalar);
            const int64_t M = x->shape[0], E = x->shape[1];
            auto out = output<T>(y, "y", M, E);
            check_outputs({{y, "y"}}, {{x, "x"}, {weight, "weight"}, {bias, "bias"}});
            const vectors<T> w(weight, "weight", E), b(bias, "bias", E);
            rows_of<T> rows(checked<const T, 2>(x, "x"));
            layer_norm<T>(rows.matrix(), w.data(), b.data(), eps, out);
        });
    });
}

int32_t refgss_layer_norm_vjp(const refgss_array* x, const refgss_array* weight,
                              const refgss_array* dy, double eps, const refgss_array* dx,
                              const refgss_array* dweight, const refgss_array* dbias) {
    return guarded([&] {
        check_norm(x, eps);
        with_scalar(*x, [&](auto scalar) {
            using T = decltype(scalar);
            const int64_t M = x->shape[0], E = x->shape[1];
            auto out = output<T>(dx, "dx", M, E);
            auto out_weight = shaped<T, 1>(dweight, "dweight", E);
            auto out_bias = shaped<T, 1>(dbias, "dbias", E);
            const auto vx = checked<const T, 2>(x, "x"), vdy = shaped<const T, 2>(dy, "dy", M, E);
            check_outputs({{dx, "dx"}, {dweight, "dweight"}, {dbias, "dbias"}},
                          {{x, "x"}, {weight, "weight"}, {dy, "dy"}});
            const vectors<T> w(weight, "weight", E);
            rows_of<T> rows(vx), cotangents(vdy);
            layer_norm_vjp<T>(rows.matrix(), w.data(), cotangents.matrix(), eps, out, out_weight, out_bias);
        });
    });
}

int32_t refgss_rms_norm(const refgss_array* x, const refgss_array* weight, double eps, const refgss_array* y) {
    return guarded([&] {
        check_norm(x, eps);
        with_scalar(*x, [&](auto scalar) {
            using T = decltype(scalar);
            const int64_t M = x->shape[0], E = x->shape[1];
            auto out = output<T>(y, "y", M, E);
            const auto vx = checked<const T, 2>(x, "x");
            check_outputs({{y, "y"}}, {{x, "x"}, {weight, "weight"}});
            const vectors<T> w(weight, "weight", E);
            rows_of<T> rows(vx);
            auto& kernel = kernels<pointwise_kernels<T>>();
            for_rows(M, [&](int64_t i) {
                kernel.rms_norm(E, rows[i], w.data(), static_cast<T>(eps), out.data + i * out.stride[0]);
            });
        });
    });
}

int32_t refgss_rms_norm_vjp(const refgss_array* x, const refgss_array* weight, const refgss_array* dy,
                            double eps, const refgss_array* dx, const refgss_array* dweight) {
    return guarded([&] {
        check_norm(x, eps);
        with_scalar(*x, [&](auto scalar) {
            using T = decltype(scalar);
            const int64_t M = x->shape[0], E = x->shape[1];
            auto out = output<T>(dx, "dx", M, E);
            auto out_weight = shaped<T, 1>(dweight, "dweight", E);
            const auto vx = checked<const T, 2>(x, "x"), vdy = shaped<const T, 2>(dy, "dy", M, E);
            check_outputs({{dx, "dx"}, {dweight, "dweight"}}, {{x, "x"}, {weight, "weight"}, {dy, "dy"}});
            const vectors<T> w(weight, "weight", E);
            rows_of<T> rows(vx), cotangents(vdy);
            rms_norm_vjp<T>(rows.matrix(), w.data(), cotangents.matrix(), eps, out, out_weight);
        });
    });
}

int32_t refgss_l2_normalize(const refgss_array* x, double eps, const refgss_array* y) {
    return guarded([&] {
        check_norm(x, eps);
        with_scalar(*x, [&](auto scalar) {
            using T = decltype(scalar);
            auto out = output<T>(y, "y", x->shape[0], x->shape[1]);
            check_outputs({{y, "y"}}, {{x, "x"}});
            rows_of<T> rows(checked<const T, 2>(x, "x"));
            auto& kernel = kernels<pointwise_kernels<T>>();
            for_rows(x->shape[0], [&](int64_t i) {
                kernel.l2_normalize(x->shape[1], rows[i], static_cast<T>(eps), out.data + i * out.stride[0]);
            });
        });
    });
}

int32_t refgss_l2_normalize_vjp(const refgss_array* x, const refgss_array* dy, double eps,
                                const refgss_array* dx) {
    return guarded([&] {
        check_norm(x, eps);
        with_scalar(*x, [&](auto scalar) {
            using T = decltype(scalar);
            const int64_t M = x->shape[0], D = x->shape[1];
            auto out = output<T>(dx, "dx", M, D);
            const auto vx = checked<const T, 2>(x, "x"), vdy = shaped<const T, 2>(dy, "dy", M, D);
            check_outputs({{dx, "dx"}}, {{x, "x"}, {dy, "dy"}});
            rows_of<T> rows(vx), cotangents(vdy);
            auto& kernel = kernels<pointwise_kernels<T>>();
            for_rows(M, [&](int64_t i) {
                kernel.l2_normalize_vjp(D, rows[i], cotangents[i], static_cast<T>(eps),
                                        out.data + i * out.stride[0]);
            });
        });
    });
}

namespace {

/// s and z (M,E), and what the gate is made of: f (E) where it is fixed, else (M,E), and i.
template <class T> struct gate_input {
    const rows_of<T> s, z;
    const std::vector<T> fixed;
    const std::unique_ptr<rows_of<T>> f, i;
    const T shift;

    gate_input(const refgss_array* s_, const refgss_array* z_, const refgss_array* f_, const refgss_array* i_,
               int32_t kind)
        : s(checked<const T, 2>(s_, "s")), z(rows(z_, "z", s_)),
          fixed(kind == REFGSS_GATE_FIXED ? vectors<T>(f_, "f", s_->shape[1]).values : std::vector<T>()),
          f(kind == REFGSS_GATE_FIXED ? nullptr : std::make_unique<rows_of<T>>(rows(f_, "f", s_))),
          i(kind == REFGSS_GATE_LSTM ? std::make_unique<rows_of<T>>(rows(i_, "i", s_)) : nullptr),
          shift(kind == REFGSS_GATE_FIXED ? T(0) : T(1)) {}
    recurrent_gate<T> gate(int64_t row) const {
        return {f ? (*f)[row] : fixed.data(), i ? (*i)[row] : nullptr, shift};
    }

private:
    static view<const T, 2> rows(const refgss_array* a, const char* name, const refgss_array* like) {
        return shaped<const T, 2>(a, name, like->shape[0], like->shape[1]);
    }
};

void check_gate(const refgss_array* s, const refgss_array* i, int32_t kind) {
    check_array(s, "s", 2);
    if (kind < REFGSS_GATE_FIXED || kind > REFGSS_GATE_FULL)
        throw error{REFGSS_ERROR_VALUE, "the kind of the gate is unknown: use one of enum refgss_gate_kind"};
    if ((i != nullptr) != (kind == REFGSS_GATE_LSTM))
        throw error{REFGSS_ERROR_VALUE, "i belongs to REFGSS_GATE_LSTM, and only to it"};
}

}  // namespace

int32_t refgss_gate(const refgss_array* s, const refgss_array* z, const refgss_array* f, const refgss_array* i,
                    int32_t kind, const refgss_array* y) {
    return guarded([&] {
        check_gate(s, i, kind);
        with_scalar(*s, [&](auto scalar) {
            using T = decltype(scalar);
            const int64_t M = s->shape[0], E = s->shape[1];
            auto out = output<T>(y, "y", M, E);
            const gate_input<T> in(s, z, f, i, kind);
            check_outputs({{y, "y"}}, {{s, "s"}, {z, "z"}, {f, "f"}, {i, "i"}});
            auto& kernel = kernels<pointwise_kernels<T>>();
            for_rows(M, [&](int64_t m) {
                kernel.mix(E, in.gate(m), in.s[m], in.z[m], out.data + m * out.stride[0]);
            });
        });
    });
}

int32_t refgss_gate_vjp(const refgss_array* s, const refgss_array* z, const refgss_array* f,
                        const refgss_array* i, const refgss_array* dout, int32_t kind, const refgss_array* ds,
                        const refgss_array* dz, const refgss_array* df, const refgss_array* di) {
    return guarded([&] {
        check_gate(s, i, kind);
        with_scalar(*s, [&](auto scalar) {
            using T = decltype(scalar);
            const int64_t M = s->shape[0], E = s->shape[1];
            const bool fixed = kind == REFGSS_GATE_FIXED;
            auto to_s = output<T>(ds, "ds", M, E), to_z = output<T>(dz, "dz", M, E);
            view<T, 2> to_f{}, to_i{};
            if (fixed) shaped<T, 1>(df, "df", E);
            else to_f = output<T>(df, "df", M, E);
            if (i) to_i = output<T>(di, "di", M, E);
            const gate_input<T> in(s, z, f, i, kind);
            const rows_of<T> cotangents(shaped<const T, 2>(dout, "dout", M, E));
            check_outputs({{ds, "ds"}, {dz, "dz"}, {df, "df"}, {i ? di : nullptr, "di"}},
                          {{s, "s"}, {z, "z"}, {f, "f"}, {i, "i"}, {dout, "dout"}});
            scratch<T> by_row(fixed ? sized(M, E) : 0);  // df before it is summed over rows
            if (fixed) to_f = {by_row.data(), {M, E}, {E, 1}};
            auto& kernel = kernels<pointwise_kernels<T>>();
            for_rows(M, [&](int64_t m) {
                kernel.mix_vjp(E, in.gate(m), in.s[m], in.z[m], cotangents[m], to_s.data + m * to_s.stride[0],
                               to_z.data + m * to_z.stride[0], to_f.data + m * to_f.stride[0],
                               i ? to_i.data + m * to_i.stride[0] : nullptr);
            });
            if (fixed) sum_rows<T>(as_const(to_f), typed<T, 1>(*df));
        });
    });
}

int32_t refgss_gelu(const refgss_array* x, const refgss_array* y) {
    return guarded([&] {
        check_array(x, "x", 2);
        with_scalar(*x, [&](auto scalar) {
            using T = decltype(scalar);
            auto out = output<T>(y, "y", x->shape[0], x->shape[1]);
            check_outputs({{y, "y"}}, {{x, "x"}});
            if (out.size() == 0) return;
            rows_of<T> rows(checked<const T, 2>(x, "x"));
            gelu<T>(rows.matrix(), out);
        });
    });
}

int32_t refgss_gelu_vjp(const refgss_array* x, const refgss_array* dy, const refgss_array* dx) {
    return guarded([&] {
        check_array(x, "x", 2);
        with_scalar(*x, [&](auto scalar) {
            using T = decltype(scalar);
            const int64_t M = x->shape[0], E = x->shape[1];
            auto out = output<T>(dx, "dx", M, E);
            const auto vx = checked<const T, 2>(x, "x"), vdy = shaped<const T, 2>(dy, "dy", M, E);
            check_outputs({{dx, "dx"}}, {{x, "x"}, {dy, "dy"}});
            if (out.size() == 0) return;
            rows_of<T> rows(vx), d(vdy);
            auto& kernel = kernels<pointwise_kernels<T>>();
            for_rows(M, [&](int64_t i) {
                kernel.gelu_vjp(E, rows[i], d[i], out.data + i * out.stride[0]);
            });
        });
    });
}

int32_t refgss_dense(const refgss_array* x, const refgss_array* weight, const refgss_array* bias,
                     const refgss_array* y) {
    return guarded([&] {
        check_array(x, "x", 2);
        with_scalar(*x, [&](auto scalar) {
            using T = decltype(scalar);
            auto in = checked<const T, 2>(x, "x"), w = checked<const T, 2>(weight, "weight");
            check_axis("weight", "rows", w.shape[0], in.shape[1]);
            auto out = shaped<T, 2>(y, "y", in.shape[0], w.shape[1]);
            const std::vector<T> b = bias ? vectors<T>(bias, "bias", w.shape[1]).values : std::vector<T>();
            check_outputs({{y, "y"}}, {{x, "x"}, {weight, "weight"}, {bias, "bias"}});
            if (out.size() == 0) return;
            matmul<T>(in, w, out, false);
            if (bias == nullptr) return;
            for_rows(out.shape[0], [&](int64_t i) {
                for (int64_t j = 0; j < out.shape[1]; ++j) *out.at(i, j) += b[j];
            });
        });
    });
}

int32_t refgss_dense_vjp(const refgss_array* x, const refgss_array* weight, const refgss_array* dy,
                         const refgss_array* dx, const refgss_array* dweight,
                         const refgss_array* dbias) {
    return guarded([&] {
        check_array(x, "x", 2);
        with_scalar(*x, [&](auto scalar) {
            using T = decltype(scalar);
            auto in = checked<const T, 2>(x, "x"), w = checked<const T, 2>(weight, "weight");
            const int64_t M = in.shape[0], I = in.shape[1], O = w.shape[1];
            check_axis("weight", "rows", w.shape[0], I);
            auto d = shaped<const T, 2>(dy, "dy", M, O);
            auto out_x = shaped<T, 2>(dx, "dx", M, I);
            auto out_w = shaped<T, 2>(dweight, "dweight", I, O);
            if (dbias != nullptr) shaped<T, 1>(dbias, "dbias", O);
            check_outputs({{dx, "dx"}, {dweight, "dweight"}, {dbias, "dbias"}},
                          {{x, "x"}, {weight, "weight"}, {dy, "dy"}});
            matmul<T>(d, transposed(w), out_x, false);
            matmul<T>(transposed(in), d, out_w, false);
            if (dbias != nullptr) sum_rows<T>(d, typed<T, 1>(*dbias));
        });
    });
}
