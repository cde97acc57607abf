// layer.cpp: the GSS layer and the DSS layer (GSS-LAY).
//
// Rows are worked on some hundreds at a time, from the norm to the output projection, so that the gate,
// four times as wide as the model, never travels through memory whole.
#include <algorithm>
#include <cmath>

#include "dispatch.hpp"
#include "matmul.hpp"
#include "pointwise.hpp"
#include "scratch.hpp"
#include "ssm.hpp"
#include "threads.hpp"

using namespace refgss;

namespace {

constexpr int64_t tile_height = 1024;

template <class T> using matrix = view<T, 2>;
template <class T> matrix<T> packed(T* data, int64_t rows, int64_t columns) {
    return {data, {rows, columns}, {columns, 1}};
}

template <class T> struct vectors {
    std::vector<T> values;
    vectors(const refgss_array* a, const char* name, int64_t width) : values(width) {
        auto v = shaped<const T, 1>(a, name, width);
        for (int64_t i = 0; i < width; ++i) values[i] = *v.at(i);
    }
    const T* data() const { return values.data(); }
};

/// f(first, rows) for tiles of rows, one after the other.
template <class F> void for_tiles(int64_t rows, F&& f) {
    for (int64_t i = 0; i < rows; i += tile_height) f(i, std::min(tile_height, rows - i));
}

/// y[i][:] = f(i, j, ...) for all elements, rows in parallel.
template <class F> void for_each(int64_t rows, int64_t columns, F&& f) {
    constexpr int64_t some = 16;
    const int64_t items = (rows + some - 1) / some;
    parallel_for(items, slots_for(items), [&](int64_t item, int) {
        for (int64_t i = item * some; i < std::min(rows, (item + 1) * some); ++i)
            for (int64_t j = 0; j < columns; ++j) f(i, j);
    });
}

/// Rows of x (B,L,E) as one matrix; a copy where they are not that already.
template <class T> class flat {
public:
    explicit flat(view<const T, 3> x) : rows_(x.shape[0] * x.shape[1]), width_(x.shape[2]) {
        bool is_flat = x.stride[2] == 1 && x.stride[1] == width_ &&
                       (x.shape[0] == 1 || x.stride[0] == x.shape[1] * width_);
        data_ = x.data;
        if (is_flat) return;
        copy_.resize(x.size());
        for_each(rows_, width_, [&](int64_t i, int64_t j) {
            copy_[i * width_ + j] = *x.at(i / x.shape[1], i % x.shape[1], j);
        });
        data_ = copy_.data();
    }
    matrix<const T> rows(int64_t first, int64_t count) const {
        return packed(data_ + first * width_, count, width_);
    }

private:
    std::vector<T> copy_;
    const T* data_;
    int64_t rows_, width_;
};

/// Re Λ, Im Λ, H and N of a layer; the map is the given one, or made for this call.
template <class T> class map_of {
public:
    map_of(const refgss_ssm* prepared, const refgss_array* a, const refgss_array* b,
           const refgss_array* c, int32_t imag_is_exp, const refgss_array* delta,
           const refgss_form& form, int64_t length)
        : prepared_(prepared) {
        if (prepared != nullptr) return;
        std::vector<T> lam(2 * a->shape[0]);
        refgss_array l{lam.data(), dtype_of<T>, 2, {a->shape[0], 2}, {2, 1}};
        require(refgss_gss_lambda(a, b, imag_is_exp, &l));
        require(refgss_ssm_new(&l, c, delta, &form, length > 1 ? length : 0, &made_));
    }
    ~map_of() { refgss_ssm_free(made_); }
    map_of(const map_of&) = delete;
    map_of& operator=(const map_of&) = delete;

    void apply(view<T, 3> u, const refgss_array* state, view<T, 3> y,
               const refgss_array* state_out) const {
        refgss_array au = to_array(u), ay = to_array(y);
        require(refgss_ssm_apply(prepared_ ? prepared_ : made_, &au, state, &ay, state_out));
    }

private:
    const refgss_ssm* prepared_;
    refgss_ssm* made_ = nullptr;
};

template <class T>
void gss_layer(const refgss_gss_layer_params& p, const refgss_ssm* prepared, const refgss_array* x,
               const refgss_array* state, const refgss_array* y, const refgss_array* state_out) {
    auto vx = checked<const T, 3>(x, "x");
    const int64_t B = vx.shape[0], L = vx.shape[1], E = vx.shape[2], M = B * L;
    auto w_v = checked<const T, 2>(p.w_v, "w_v"), w_u = checked<const T, 2>(p.w_u, "w_u");
    auto w_uc = checked<const T, 2>(p.w_uc, "w_uc"), w_o = checked<const T, 2>(p.w_o, "w_o");
    const int64_t F = w_v.shape[1], H = w_u.shape[1];
    check_axis("w_v", "rows", w_v.shape[0], E), check_axis("w_u", "rows", w_u.shape[0], E);
    check_axis("w_uc", "rows", w_uc.shape[0], H), check_axis("w_uc", "columns", w_uc.shape[1], F);
    check_axis("w_o", "rows", w_o.shape[0], F), check_axis("w_o", "columns", w_o.shape[1], E);
    vectors<T> norm(p.norm_weight, "norm.weight", E), bias(p.norm_bias, "norm.bias", E);
    vectors<T> skip(p.d, "ssm.d", H);
    auto out = shaped<T, 3>(y, "y", B, L, E);
    check_output(*y, "y", {x});

    flat<T> rows(vx);
    scratch<T> u_data(sized(M, H)), s_data(sized(M, H));
    const int64_t height = std::min(tile_height, M);
    scratch<T> h_data(sized(height, E)), v_data(sized(height, F)), uc_data(sized(height, F));

    // h = norm(x); u = GELU(h W_u), normed once more if asked
    for_tiles(M, [&](int64_t first, int64_t count) {
        auto h = packed(h_data.data(), count, E);
        auto u = packed(u_data.data() + first * H, count, H);
        layer_norm<T>(rows.rows(first, count), norm.data(), bias.data(), p.eps, h);
        matmul<T>(as_const(h), w_u, u, false);
        gelu<T>(as_const(u), u);
        if (p.ssm_norm_weight == nullptr) return;
        vectors<T> weight(p.ssm_norm_weight, "ssm.norm.weight", H);
        vectors<T> shift(p.ssm_norm_bias, "ssm.norm.bias", H);
        layer_norm<T>(as_const(u), weight.data(), shift.data(), p.eps, u);
    });

    // y = SSM(u) + D u
    T one = 1;
    refgss_array delta{&one, dtype_of<T>, 0, {}, {}};
    map_of<T> map(prepared, p.a, p.b, p.c, p.imag_is_exp, &delta, {REFGSS_ZOH, 0, 0, 0}, L);
    view<T, 3> u{u_data.data(), {B, L, H}, {L * H, H, 1}}, s{s_data.data(), {B, L, H}, {L * H, H, 1}};
    map.apply(u, state, s, state_out);
    for_each(M, H, [&](int64_t i, int64_t h) {
        s_data.data()[i * H + h] += skip.values[h] * u_data.data()[i * H + h];
    });

    // out = (y W_uc ⊙ GELU(h W_v)) W_o + b + x
    auto& kernel = kernels<pointwise_kernels<T>>();
    std::vector<T> shift(E, T(0));
    if (p.b_o != nullptr) shift = vectors<T>(p.b_o, "b_o", E).values;
    scratch<T> o_data(sized(height, E));
    for_tiles(M, [&](int64_t first, int64_t count) {
        auto h = packed(h_data.data(), count, E), o = packed(o_data.data(), count, E);
        auto v = packed(v_data.data(), count, F), uc = packed(uc_data.data(), count, F);
        auto in = rows.rows(first, count);
        layer_norm<T>(in, norm.data(), bias.data(), p.eps, h);
        matmul<T>(as_const(h), w_v, v, false);
        matmul<T>(packed<const T>(s_data.data() + first * H, count, H), w_uc, uc, false);
        parallel_for(count, slots_for(count), [&](int64_t i, int) {
            kernel.gate(F, uc.data + i * F, v.data + i * F);
        });
        matmul<T>(as_const(v), w_o, o, false);
        for_each(count, E, [&](int64_t i, int64_t e) {
            int64_t row = first + i;
            *out.at(row / L, row % L, e) = o.data[i * E + e] + shift[e] + in.data[i * E + e];
        });
    });
}

template <class T>
void dss_layer(const refgss_dss_layer_params& p, const refgss_ssm* prepared, const refgss_array* x,
               const refgss_array* state, const refgss_array* y, const refgss_array* state_out) {
    auto vx = checked<const T, 3>(x, "x");
    const int64_t B = vx.shape[0], L = vx.shape[1], E = vx.shape[2], M = B * L;
    auto w_o = shaped<const T, 2>(p.w_o, "w_o", E, E);
    vectors<T> norm(p.norm_weight, "norm.weight", E), bias(p.norm_bias, "norm.bias", E);
    vectors<T> skip(p.d, "ssm.d", E);
    auto out = shaped<T, 3>(y, "y", B, L, E);
    check_output(*y, "y", {x});
    if (p.log_delta == nullptr) throw error{REFGSS_ERROR_VALUE, "log_delta is NULL: pass an array"};
    std::vector<T> steps;  // Δ = e^{log Δ}, (E) or (E,2)
    const int64_t columns = p.log_delta->rank == 2 ? 2 : 1;
    check_array(p.log_delta, "log_delta", static_cast<int>(columns));
    check_same_dtype(*x, *p.log_delta, "log_delta");
    for (int64_t i = 0; i < p.log_delta->shape[0]; ++i)
        for (int64_t j = 0; j < columns; ++j)
            steps.push_back(static_cast<T>(std::exp(double(
                static_cast<const T*>(p.log_delta->data)[i * p.log_delta->stride[0] +
                                                         j * p.log_delta->stride[1]]))));
    refgss_array delta{steps.data(), dtype_of<T>, p.log_delta->rank, {E, columns}, {columns, 1}};

    // u = norm(x); y = GELU(SSM(u) + D u)
    flat<T> rows(vx);
    scratch<T> u_data(sized(M, E)), s_data(sized(M, E)), o_data(sized(M, E));
    auto u2 = packed(u_data.data(), M, E), s2 = packed(s_data.data(), M, E);
    layer_norm<T>(rows.rows(0, M), norm.data(), bias.data(), p.eps, u2);
    map_of<T> map(prepared, p.a, p.b, p.c, p.imag_is_exp, &delta, p.form, L);
    map.apply({u2.data, {B, L, E}, {L * E, E, 1}}, state, {s2.data, {B, L, E}, {L * E, E, 1}},
              state_out);
    for_each(M, E, [&](int64_t i, int64_t e) {
        s2.data[i * E + e] += skip.values[e] * u2.data[i * E + e];
    });
    gelu<T>(as_const(s2), s2);

    // out = y W_o + b + x
    auto o = packed(o_data.data(), M, E);
    matmul<T>(as_const(s2), w_o, o, false);
    std::vector<T> shift(E, T(0));
    if (p.b_o != nullptr) shift = vectors<T>(p.b_o, "b_o", E).values;
    auto in = rows.rows(0, M);
    for_each(M, E, [&](int64_t i, int64_t e) {
        *out.at(i / L, i % L, e) = o.data[i * E + e] + shift[e] + in.data[i * E + e];
    });
}

}  // namespace

int32_t refgss_gss_layer(const refgss_gss_layer_params* params, const refgss_ssm* ssm,
                         const refgss_array* x, const refgss_array* state, const refgss_array* y,
                         const refgss_array* state_out) {
    return guarded([&] {
        check_array(x, "x", 3);
        with_scalar(*x, [&](auto scalar) {
            gss_layer<decltype(scalar)>(*params, ssm, x, state, y, state_out);
        });
    });
}

int32_t refgss_dss_layer(const refgss_dss_layer_params* params, const refgss_ssm* ssm,
                         const refgss_array* x, const refgss_array* state, const refgss_array* y,
                         const refgss_array* state_out) {
    return guarded([&] {
        check_array(x, "x", 3);
        with_scalar(*x, [&](auto scalar) {
            dss_layer<decltype(scalar)>(*params, ssm, x, state, y, state_out);
        });
    });
}
