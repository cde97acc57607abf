// kernel.cpp: Λ, discretisation and kernel at the C ABI, with their gradients.
#include "ssm/kernel.hpp"

using namespace refgss;

namespace {

/// The (groups, N, 2) view of an array that is (N,2) where Δ is a scalar and (H,N,2) otherwise.
template <class T>
view<T, 3> grouped(const refgss_array* a, const char* name, const parameters& p) {
    const auto count = static_cast<int64_t>(p.lam.size());
    const auto groups = static_cast<int64_t>(p.delta.re.size());
    if (!p.delta.shared()) return shaped<T, 3>(a, name, groups, count, int64_t(2));
    auto v = shaped<T, 2>(a, name, count, int64_t(2));
    return {v.data, {1, count, 2}, {0, v.stride[0], v.stride[1]}};
}

void check_softmax_length(const parameters& p, int64_t length) {
    if (is_softmax(p.form) && length > p.form.length)
        throw error{REFGSS_ERROR_VALUE, "the kernel is longer than the softmax is normalised over"};
}

}  // namespace

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
            gss_lambda<T>(va, vb, imag_is_exp, out);
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
            gss_lambda_vjp<T>(va, vb, d, imag_is_exp, oa, ob);
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
            if (out.size() > 0) ssm_kernel<T>(p, vc, out);
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
            ssm_kernel_vjp<T>(p, vc, vdk, {dlam, dc, ddelta});
        });
    });
}
