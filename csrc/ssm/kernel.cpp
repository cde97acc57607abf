// kernel.cpp: parameters, discretisation and kernel at the ABI, with their gradients.
#include <cmath>

#include "core/scratch.hpp"
#include "core/threads.hpp"
#include "ssm/ssm.hpp"

namespace refgss {
namespace {

template <class T> void put(view<T, 2> to, int64_t n, complex value) {
    *to.at(n, int64_t(0)) = static_cast<T>(value.real());
    *to.at(n, int64_t(1)) = static_cast<T>(value.imag());
}
template <class T> complex get(view<const T, 2> from, int64_t n) {
    return {*from.at(n, int64_t(0)), *from.at(n, int64_t(1))};
}

/// The (groups, N, 2) view of an array that is (N,2) where Δ is a scalar and (H,N,2) otherwise.
template <class T>
view<T, 3> grouped(const refgss_array* a, const char* name, const parameters& p) {
    const auto count = static_cast<int64_t>(p.lam.size());
    const auto groups = static_cast<int64_t>(p.delta.re.size());
    if (!p.delta.shared()) return shaped<T, 3>(a, name, groups, count, int64_t(2));
    auto v = shaped<T, 2>(a, name, count, int64_t(2));
    return {v.data, {1, count, 2}, {0, v.stride[0], v.stride[1]}};
}

/// Throws unless dΔ has the shape and type of Δ.
template <class T> void check_steps(const parameters& p, const refgss_array* ddelta) {
    check_array(ddelta, "ddelta", p.delta.rank);
    if (ddelta->dtype != dtype_of<T>)
        throw error{REFGSS_ERROR_TYPE,
                    "ddelta has another dtype than the first argument: convert one of them"};
    const auto rows = static_cast<int64_t>(p.delta.re.size());
    if (p.delta.rank > 0) check_axis("ddelta", "H", ddelta->shape[0], rows);
    if (p.delta.rank > 1) check_axis("ddelta", "its last axis", ddelta->shape[1], 2);
}

template <class T>
void put_steps(const parameters& p, const std::vector<double>& step, const refgss_array* ddelta) {
    const int64_t columns = p.delta.rank == 2 ? 2 : 1;
    const int64_t rows = static_cast<int64_t>(step.size()) / columns;
    auto* to = static_cast<T*>(ddelta->data);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
            to[(rows > 1 ? i * ddelta->stride[0] : 0) + (j ? ddelta->stride[1] : 0)] =
                static_cast<T>(step[i * columns + j]);
}

void check_softmax_length(const parameters& p, int64_t length) {
    if (is_softmax(p.form) && length > p.form.length)
        throw error{REFGSS_ERROR_VALUE, "the kernel is longer than the softmax is normalised over"};
}

/// Decaying modes run forwards from l = 0; growing ones, of a softmax, backwards from l = L - 1,
/// where they are e^{-z (length - L)}.
struct half {
    bool growing;
    sorted_modes modes;
};
std::vector<half> halves(const parameters& p, const discretization& d) {
    std::vector<half> all{{false, sort_modes(p, d, false)}};
    half growing{true, sort_modes(p, d, true)};
    if (growing.modes.set.count > 0) all.push_back(growing);
    return all;
}
complex ending(const parameters& p, const half& side, complex z, int64_t length) {
    return side.growing ? std::exp(-z * static_cast<double>(p.form.length - length)) : complex(1);
}

template <class T>
void kernel(const parameters& p, view<const T, 3> c, view<T, 2> k) {
    const int64_t H = k.shape[0], L = k.shape[1];
    discretization d = discretize(p);
    for (const half& side : halves(p, d)) {
        std::vector<complex> scaled = d.bbar;
        for (size_t i = 0; i < scaled.size(); ++i) scaled[i] *= p.scale() * ending(p, side, d.z[i], L);
        std::vector<double> weights = mode_weights<T>(side.modes, scaled, c);
        view<T, 3> samples{k.data, {1, L, H}, {0, k.stride[1], k.stride[0]}};
        synthesize(side.modes.set, weights.data(), side.growing ? samples.reversed(1) : samples,
                   side.growing);
    }
}

/// With S0 = Σ dk_l Ā^l and S1 = Σ l dk_l Ā^{l-1}: dC̃ = conj S0 and dz = conj(C̃ S1 ∂Ā/∂z).
template <class T>
void kernel_vjp(const parameters& p, view<const T, 3> c, view<const T, 2> dk,
                std::vector<complex>& dweight, std::vector<complex>& dz, const discretization& d) {
    const int64_t H = dk.shape[0], L = dk.shape[1], N = d.count;
    dweight.assign(sized(H, N), 0), dz.assign(sized(H, N), 0);
    if (L == 0) return;
    const std::vector<complex> slopes = transition_slopes(p, d);
    view<const T, 3> samples{dk.data, {1, L, H}, {0, dk.stride[1], dk.stride[0]}};
    for (const half& side : halves(p, d)) {
        const int64_t row = padded(side.modes.set.count);
        std::vector<double> s0(sized(H, 2 * row)), s1(s0.size());
        auto signal = side.growing ? samples.reversed(1) : samples, later = signal;
        later.data += signal.stride[1], later.shape[1] = L - 1;
        analyze(side.modes.set, signal, moment::none, s0.data());
        analyze(side.modes.set, later, moment::first, s1.data());
        parallel_for(H, slots_for(H), [&](int64_t h, int) {
            for (int64_t m = 0; m < side.modes.set.count; ++m) {
                int64_t n = side.modes.order[m], at = h * 2 * row + m;
                complex sum(s0[at], s0[at + row]), slope(s1[at], s1[at + row]);
                if (side.growing) {  // powers e^{-z (length - L + l)}
                    complex z = d.at(d.z, h, n), end = ending(p, side, z, L);
                    sum *= end;
                    slope = -(end * std::exp(-z) * slope +
                              static_cast<double>(p.form.length - L) * sum);
                } else {
                    slope = times(slope, slopes[(d.groups == 1 ? 0 : h * N) + n]);
                }
                complex value(*c.at(h, n, int64_t(0)), *c.at(h, n, int64_t(1)));
                complex weight = times(p.scale() * d.at(d.bbar, h, n), value);
                dweight[h * N + n] = std::conj(sum);
                dz[h * N + n] = std::conj(times(weight, slope));
            }
        });
    }
}

}  // namespace

template <class T>
void check_modes_outputs(const parameters& p, view<const T, 3> c, const refgss_array* dlam,
                         const refgss_array* dc, const refgss_array* ddelta) {
    shaped<T, 2>(dlam, "dlam", c.shape[1], int64_t(2));
    shaped<T, 3>(dc, "dc", c.shape[0], c.shape[1], int64_t(2));
    check_steps<T>(p, ddelta);
}
template void check_modes_outputs(const parameters&, view<const float, 3>, const refgss_array*,
                                  const refgss_array*, const refgss_array*);
template void check_modes_outputs(const parameters&, view<const double, 3>, const refgss_array*,
                                  const refgss_array*, const refgss_array*);

template <class T>
void no_gradients(const parameters& p, view<T, 3> du, const refgss_array* dlam, const refgss_array* dc,
                  const refgss_array* ddelta) {
    auto zero = [](const view<T, 3>& v) {
        for (int64_t i = 0; v.size() > 0 && i < v.shape[0]; ++i)
            for (int64_t j = 0; j < v.shape[1]; ++j)
                for (int64_t k = 0; k < v.shape[2]; ++k) *v.at(i, j, k) = T(0);
    };
    zero(du), zero(typed<T, 3>(*dc));
    zero({static_cast<T*>(dlam->data), {1, dlam->shape[0], 2}, {0, dlam->stride[0], dlam->stride[1]}});
    put_steps<T>(p, std::vector<double>(p.delta.re.size() * (p.delta.rank == 2 ? 2 : 1), 0.0), ddelta);
}
template void no_gradients(const parameters&, view<float, 3>, const refgss_array*, const refgss_array*,
                           const refgss_array*);
template void no_gradients(const parameters&, view<double, 3>, const refgss_array*, const refgss_array*,
                           const refgss_array*);

template <class T>
void modes_vjp(const parameters& p, const discretization& d, view<const T, 3> c,
               const std::vector<complex>& dweight, const std::vector<complex>& dz,
               const refgss_array* dlam, const refgss_array* dc, const refgss_array* ddelta) {
    const int64_t H = c.shape[0], N = c.shape[1];
    auto out_c = shaped<T, 3>(dc, "dc", H, N, int64_t(2));
    std::vector<complex> group_b(sized(d.groups, N), 0), group_z(group_b.size(), 0);
    for (int64_t h = 0; h < H; ++h)
        for (int64_t n = 0; n < N; ++n) {
            complex w = p.scale() * dweight[h * N + n];
            complex v = times(std::conj(d.at(d.bbar, h, n)), w);
            *out_c.at(h, n, int64_t(0)) = static_cast<T>(v.real());
            *out_c.at(h, n, int64_t(1)) = static_cast<T>(v.imag());
            complex c_conj(*c.at(h, n, int64_t(0)), -*c.at(h, n, int64_t(1)));
            int64_t to = (d.groups == 1 ? 0 : h) * N + n;
            group_b[to] += times(c_conj, w), group_z[to] += dz[h * N + n];
        }
    std::vector<complex> lam;
    std::vector<double> delta;
    discretize_vjp(p, d, group_b, group_z, lam, delta);
    auto out_lam = shaped<T, 2>(dlam, "dlam", N, int64_t(2));
    for (int64_t n = 0; n < N; ++n) put(out_lam, n, lam[n]);
    put_steps<T>(p, delta, ddelta);
}
template void modes_vjp(const parameters&, const discretization&, view<const float, 3>,
                        const std::vector<complex>&, const std::vector<complex>&,
                        const refgss_array*, const refgss_array*, const refgss_array*);
template void modes_vjp(const parameters&, const discretization&, view<const double, 3>,
                        const std::vector<complex>&, const std::vector<complex>&,
                        const refgss_array*, const refgss_array*, const refgss_array*);

}  // namespace refgss

using namespace refgss;

int32_t refgss_gss_lambda(const refgss_array* a, const refgss_array* b, int32_t imag_is_exp,
                          const refgss_array* lam) {
    return guarded([&] {
        check_array(a, "a", 1);
        with_scalar(*a, [&](auto scalar) {
            using T = decltype(scalar);
            const int64_t N = a->shape[0];
            auto va = checked<const T, 1>(a, "a"), vb = shaped<const T, 1>(b, "b", N);
            auto out = shaped<T, 2>(lam, "lam", N, int64_t(2));
            check_outputs({{lam, "lam"}}, {{a, "a"}, {b, "b"}});
            for (int64_t n = 0; n < N; ++n) {
                double im = *vb.at(n);
                put(out, n, {-std::exp(double(*va.at(n))), imag_is_exp ? std::exp(im) : im});
            }
        });
    });
}

int32_t refgss_gss_lambda_vjp(const refgss_array* a, const refgss_array* b,
                              const refgss_array* dlam, int32_t imag_is_exp,
                              const refgss_array* da, const refgss_array* db) {
    return guarded([&] {
        check_array(a, "a", 1);
        with_scalar(*a, [&](auto scalar) {
            using T = decltype(scalar);
            const int64_t N = a->shape[0];
            auto va = checked<const T, 1>(a, "a"), vb = shaped<const T, 1>(b, "b", N);
            auto d = shaped<const T, 2>(dlam, "dlam", N, int64_t(2));
            auto oa = shaped<T, 1>(da, "da", N), ob = shaped<T, 1>(db, "db", N);
            check_outputs({{da, "da"}, {db, "db"}}, {{a, "a"}, {b, "b"}, {dlam, "dlam"}});
            for (int64_t n = 0; n < N; ++n) {
                complex g = get(d, n);
                *oa.at(n) = static_cast<T>(-std::exp(double(*va.at(n))) * g.real());
                *ob.at(n) = static_cast<T>((imag_is_exp ? std::exp(double(*vb.at(n))) : 1) * g.imag());
            }
        });
    });
}

int32_t refgss_discretize(const refgss_array* lam, const refgss_array* delta,
                          const refgss_form* form, const refgss_array* abar,
                          const refgss_array* bbar) {
    return guarded([&] {
        check_array(lam, "lam", 2);
        with_scalar(*lam, [&](auto scalar) {
            using T = decltype(scalar);
            parameters p = parameters_of<T>(lam, delta, form);
            auto a = grouped<T>(abar, "abar", p), b = grouped<T>(bbar, "bbar", p);
            check_outputs({{abar, "abar"}, {bbar, "bbar"}}, {{lam, "lam"}, {delta, "delta"}});
            discretization d = discretize(p);
            for (int64_t g = 0; g < d.groups; ++g)
                for (int64_t n = 0; n < d.count; ++n) {
                    put<T>({a.at(g, n, int64_t(0)), {1, 2}, {0, a.stride[2]}}, 0,
                           d.abar[g * d.count + n]);
                    put<T>({b.at(g, n, int64_t(0)), {1, 2}, {0, b.stride[2]}}, 0,
                           d.bbar[g * d.count + n]);
                }
        });
    });
}

int32_t refgss_discretize_vjp(const refgss_array* lam, const refgss_array* delta,
                              const refgss_array* dabar, const refgss_array* dbbar,
                              const refgss_form* form, const refgss_array* dlam,
                              const refgss_array* ddelta) {
    return guarded([&] {
        check_array(lam, "lam", 2);
        with_scalar(*lam, [&](auto scalar) {
            using T = decltype(scalar);
            parameters p = parameters_of<T>(lam, delta, form);
            auto a = grouped<const T>(dabar, "dabar", p), b = grouped<const T>(dbbar, "dbbar", p);
            auto to = shaped<T, 2>(dlam, "dlam", lam->shape[0], int64_t(2));
            check_steps<T>(p, ddelta);
            check_outputs({{dlam, "dlam"}, {ddelta, "ddelta"}},
                          {{lam, "lam"}, {delta, "delta"}, {dabar, "dabar"}, {dbbar, "dbbar"}});
            discretization d = discretize(p);
            const std::vector<complex> slopes = transition_slopes(p, d);
            std::vector<complex> db(d.z.size()), dz(d.z.size()), out_lam;
            for (int64_t g = 0; g < d.groups; ++g)
                for (int64_t n = 0; n < d.count; ++n) {
                    int64_t i = g * d.count + n;
                    db[i] = {*b.at(g, n, int64_t(0)), *b.at(g, n, int64_t(1))};
                    dz[i] = std::conj(slopes[i]) *
                            complex(*a.at(g, n, int64_t(0)), *a.at(g, n, int64_t(1)));
                }
            std::vector<double> step;
            discretize_vjp(p, d, db, dz, out_lam, step);
            for (int64_t n = 0; n < d.count; ++n) put(to, n, out_lam[n]);
            put_steps<T>(p, step, ddelta);
        });
    });
}

int32_t refgss_ssm_kernel(const refgss_array* lam, const refgss_array* c,
                          const refgss_array* delta, const refgss_form* form,
                          const refgss_array* k) {
    return guarded([&] {
        check_array(lam, "lam", 2);
        with_scalar(*lam, [&](auto scalar) {
            using T = decltype(scalar);
            auto vc = checked<const T, 3>(c, "c");
            parameters p = parameters_of<T>(lam, delta, form, true, vc.shape[0]);
            check_axis("c", "N", vc.shape[1], lam->shape[0]);
            check_axis("c", "its last axis", vc.shape[2], 2);
            auto out = checked<T, 2>(k, "k");
            check_axis("k", "H", out.shape[0], vc.shape[0]);
            check_outputs({{k, "k"}}, {{lam, "lam"}, {c, "c"}, {delta, "delta"}});
            check_softmax_length(p, out.shape[1]);
            if (out.size() > 0) kernel<T>(p, vc, out);
        });
    });
}

int32_t refgss_ssm_kernel_vjp(const refgss_array* lam, const refgss_array* c,
                              const refgss_array* dk, const refgss_array* delta,
                              const refgss_form* form, const refgss_array* dlam,
                              const refgss_array* dc, const refgss_array* ddelta) {
    return guarded([&] {
        check_array(lam, "lam", 2);
        with_scalar(*lam, [&](auto scalar) {
            using T = decltype(scalar);
            auto vc = checked<const T, 3>(c, "c");
            parameters p = parameters_of<T>(lam, delta, form, true, vc.shape[0]);
            check_axis("c", "N", vc.shape[1], lam->shape[0]);
            check_axis("c", "its last axis", vc.shape[2], 2);
            auto vdk = checked<const T, 2>(dk, "dk");
            check_axis("dk", "H", vdk.shape[0], vc.shape[0]);
            check_softmax_length(p, vdk.shape[1]);
            check_modes_outputs<T>(p, vc, dlam, dc, ddelta);
            check_outputs({{dlam, "dlam"}, {dc, "dc"}, {ddelta, "ddelta"}},
                          {{lam, "lam"}, {c, "c"}, {dk, "dk"}, {delta, "delta"}});
            if (vc.size() == 0) return no_gradients<T>(p, {}, dlam, dc, ddelta);
            discretization d = discretize(p);
            std::vector<complex> dweight, dz;
            kernel_vjp<T>(p, vc, vdk, dweight, dz, d);
            modes_vjp<T>(p, d, vc, dweight, dz, dlam, dc, ddelta);
        });
    });
}
