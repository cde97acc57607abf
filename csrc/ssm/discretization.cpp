#include "ssm/discretization.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "core/scratch.hpp"
#include "core/threads.hpp"

namespace refgss {
namespace {

constexpr double pi = 3.14159265358979323846;

[[noreturn]] void refuse(const char* sentence) { throw error{REFGSS_ERROR_VALUE, sentence}; }

/// e^z - 1, without cancellation.
complex exp_minus_one(complex z) {
    double half = std::sin(z.imag() / 2);
    return {std::expm1(z.real()) * std::cos(z.imag()) - 2 * half * half,
            std::exp(z.real()) * std::sin(z.imag())};
}

/// (e^z - 1)/z, without cancellation.
complex phi(complex z) { return z == 0.0 ? 1 : exp_minus_one(z) / z; }

/// φ'(z) = Σ (k+1)/(k+2)! z^k, summed where |z| < 1.
complex phi_slope(complex z) {
    if (std::abs(z) >= 1) return (std::exp(z) - phi(z)) / z;
    complex sum = 0;
    double factorial = 1;
    double terms[20];
    for (int k = 0; k < 20; ++k) terms[k] = (k + 1) / (factorial *= k + 2);
    for (int k = 19; k >= 0; --k) sum = sum * z + terms[k];
    return sum;
}

complex reduced(complex z) {
    constexpr double low = 2.4492935982947064e-16;  // 2π is the double 2*pi and this
    double turns = std::nearbyint(z.imag() / (2 * pi));
    return {z.real(), turns == 0 ? z.imag() : std::fma(-turns, low, std::fma(-turns, 2 * pi, z.imag()))};
}

/// The mode as a decaying one: softmax sums a growing mode from its last, largest term.
complex falling(complex z) { return z.real() > 0 ? -z : z; }

/// σ = Σ_{r<L} e^{zr} = L φ(zL)/φ(z), z = falling and reduced modulo 2πi, and σ'.
complex softmax_sum(complex z, double length) { return length * phi(z * length) / phi(z); }
complex softmax_slope(complex z, double length, complex sum) {
    if (std::abs(z) >= 1)  // σ' is e^z or so: the form below would cancel
        return (length * std::exp(z * length) - sum * std::exp(z)) / exp_minus_one(z);
    return (length * length * phi_slope(z * length) - sum * phi_slope(z)) / phi(z);
}

complex clamped_reciprocal(complex lam, double eps) {
    return std::conj(lam) / std::max(std::norm(lam), eps);
}

/// r(x) = conj(x)/(|x|² + ε), and what it makes of dr (GSS-GRD-15).
complex shifted_reciprocal(complex x, double eps) { return std::conj(x) / (std::norm(x) + eps); }
complex shifted_reciprocal_vjp(complex x, double eps, complex dr) {
    double size = std::norm(x) + eps;
    complex r = x / size;
    return eps / size / size * std::conj(dr) - r * r * dr;
}

/// log Ā.  Under bilinear 2 artanh(z/2), exact where |Ā| is near 1; Ā = 0 becomes e^-100000.
complex log_transition(const parameters& p, complex z) {
    if (p.form.method != REFGSS_BILINEAR) return reduced(z);
    double x = z.real() / 2, y = z.imag() / 2;
    double re = 0.5 * std::log1p(4 * x / ((1 - x) * (1 - x) + y * y));
    double im = std::atan2(2 * y, (1 - x) * (1 + x) - y * y);
    return {std::max(re, -1e5), im};
}

complex input_weight(const parameters& p, complex lam, complex z, double delta) {
    switch (p.form.method) {
        case REFGSS_ZOH: return delta * phi(z);
        case REFGSS_BILINEAR: return delta / (1.0 - z / 2.0);
        case REFGSS_DSS_EXP: return z * phi(z) * clamped_reciprocal(lam, p.form.eps);
        case REFGSS_DSS_EXP_SHIFTED: return z * phi(z) * shifted_reciprocal(lam, p.form.eps);
        default: break;
    }
    const double length = static_cast<double>(p.form.length);
    z = reduced(falling(z));
    if (p.form.method == REFGSS_DSS_SOFTMAX) return 1.0 / (lam * softmax_sum(z, length));
    if (p.form.method == REFGSS_DSS_SOFTMAX_SHIFTED_SUM)
        return shifted_reciprocal(softmax_sum(z, length), p.form.eps) / lam;
    return exp_minus_one(z) *
           shifted_reciprocal(exp_minus_one(z * length) * lam, p.form.eps);
}

/// What dB̄ makes of z and, not through z, of Λ, under the dss methods (GSS-GRD-3, 13 and 15).
struct weight_gradient {
    complex dz, dlam;
};
weight_gradient exp_weight_vjp(const parameters& p, complex lam, complex z, complex db) {
    const double eps = p.form.eps;
    const complex dr = std::conj(z * phi(z)) * db;  // B̄ = (e^z - 1) r(Λ)
    if (p.form.method == REFGSS_DSS_EXP_SHIFTED)
        return {std::conj(std::exp(z) * shifted_reciprocal(lam, eps)) * db,
                shifted_reciprocal_vjp(lam, eps, dr)};
    return {std::conj(std::exp(z) * clamped_reciprocal(lam, eps)) * db,
            std::norm(lam) <= eps ? std::conj(dr) / eps : -dr / (std::conj(lam) * std::conj(lam))};
}
weight_gradient softmax_weight_vjp(const parameters& p, complex lam, complex z, complex b, complex db) {
    const double length = static_cast<double>(p.form.length), eps = p.form.eps;
    const double sign = z.real() > 0 ? -1 : 1;
    z = reduced(falling(z));
    if (p.form.method != REFGSS_DSS_SOFTMAX_SHIFTED) {
        complex sum = softmax_sum(z, length), slope = sign * softmax_slope(z, length, sum);
        if (p.form.method == REFGSS_DSS_SOFTMAX)  // B̄ = 1/(Λ σ(z))
            return {-std::conj(b * slope / sum) * db, -std::conj(b / lam) * db};
        complex dsum = shifted_reciprocal_vjp(sum, eps, db / std::conj(lam));  // B̄ = r(σ(z))/Λ
        return {std::conj(slope) * dsum, -std::conj(b / lam) * db};
    }
    // B̄ = (e^z - 1) r((e^{zR} - 1) Λ)
    complex first = exp_minus_one(z), last = exp_minus_one(z * length), x = last * lam;
    complex dx = shifted_reciprocal_vjp(x, eps, std::conj(first) * db);
    complex dz = std::conj(std::exp(z) * shifted_reciprocal(x, eps)) * db +
                 length * std::conj(std::exp(z * length) * lam) * dx;
    return {sign * dz, std::conj(last) * dx};
}

}  // namespace

std::vector<complex> transition_slopes(const parameters& p, const discretization& d) {
    std::vector<complex> slopes = d.abar;  // of e^z
    if (p.form.method == REFGSS_BILINEAR)
        for (size_t i = 0; i < slopes.size(); ++i) {
            complex pole = 1.0 / (1.0 - d.z[i] / 2.0);
            slopes[i] = pole * pole;
        }
    return slopes;
}

template <class T>
parameters parameters_of(const refgss_array* lam, const refgss_array* delta, const refgss_form* form,
                         bool may_grow, int64_t channels) {
    if (form == nullptr) refuse("form is NULL: pass a refgss_form");
    parameters p;
    p.form = *form;
    if (form->method < REFGSS_ZOH || form->method > REFGSS_DSS_SOFTMAX_SHIFTED_SUM)
        refuse("form has an unknown method: use one of enum refgss_method");
    const bool softmax = is_softmax(*form);
    if (form->method >= REFGSS_DSS_EXP && form->method != REFGSS_DSS_SOFTMAX &&
        !(form->eps > 0 && std::isfinite(form->eps)))
        refuse("dss-exp and the shifted methods need a finite eps > 0");
    if (softmax && form->length < 1)
        refuse("dss-softmax needs the length over which it is normalised, at least 1");
    check_array(lam, "lam", 2);
    if (lam->dtype != dtype_of<T>)
        throw error{REFGSS_ERROR_TYPE,
                    "lam has another dtype than the first argument: convert one of them"};
    check_axis("lam", "its last axis", lam->shape[1], 2);
    auto values = typed<const T, 2>(*lam);
    p.lam.reserve(values.shape[0]);
    serial_for(values.shape[0], [&](int64_t n) {
        complex v(*values.at(n, int64_t(0)), *values.at(n, int64_t(1)));
        bool grows = v.real() > 0 && !(may_grow && softmax);
        if (!std::isfinite(v.real()) || !std::isfinite(v.imag()) || grows)
            refuse("Re lam must be finite and not positive (GSS-DIS-6)");
        if (softmax && v == 0.0) refuse("lam must not be 0 under dss-softmax (GSS-DIS-8)");
        p.lam.push_back(v);
    });
    if (delta == nullptr || delta->rank < 0 || delta->rank > 2)
        refuse("delta must be a scalar, (H,) or (H,2)");
    check_array(delta, "delta", delta->rank);
    check_same_dtype(*lam, *delta, "delta");
    p.delta.rank = delta->rank;
    if (channels >= 0 && delta->rank > 0) check_axis("delta", "H", delta->shape[0], channels);
    if (delta->rank == 2 && (delta->shape[1] != 2 || form->method < REFGSS_DSS_EXP))
        refuse("delta (H,2), steps of their own for Re and Im, belongs to the dss methods only");
    const T* d = static_cast<const T*>(delta->data);
    const int64_t steps = delta->rank == 0 ? 1 : delta->shape[0];
    p.delta.re.reserve(steps), p.delta.im.reserve(steps);
    serial_for(steps, [&](int64_t h) {
        const T* row = d + (delta->rank ? h * delta->stride[0] : 0);
        p.delta.re.push_back(row[0]);
        p.delta.im.push_back(delta->rank == 2 ? row[delta->stride[1]] : row[0]);
        for (double step : {p.delta.re.back(), p.delta.im.back()})
            if (!(step > 0) || !std::isfinite(step))
                refuse("every step delta must be positive and finite (GSS-NFI-3)");
    });
    return p;
}
template parameters parameters_of<float>(const refgss_array*, const refgss_array*,
                                         const refgss_form*, bool, int64_t);
template parameters parameters_of<double>(const refgss_array*, const refgss_array*,
                                          const refgss_form*, bool, int64_t);

discretization discretize(const parameters& p) {
    discretization d;
    d.groups = static_cast<int64_t>(p.delta.re.size()), d.count = static_cast<int64_t>(p.lam.size());
    d.z.resize(sized(d.groups, d.count)), d.abar.resize(d.z.size()), d.bbar.resize(d.z.size());
    parallel_for(d.groups, slots_for(d.groups), [&](int64_t g, int) {
        for (int64_t n = 0; n < d.count; ++n) {
            complex z(p.delta.re[g] * p.lam[n].real(), p.delta.im[g] * p.lam[n].imag());
            int64_t i = g * d.count + n;
            d.z[i] = z;
            d.abar[i] = p.form.method == REFGSS_BILINEAR ? (1.0 + z / 2.0) / (1.0 - z / 2.0)
                                                         : std::exp(z);
            d.bbar[i] = input_weight(p, p.lam[n], z, p.delta.re[g]);
        }
    });
    return d;
}

sorted_modes sort_modes(const parameters& p, const discretization& d, bool growing) {
    sorted_modes s;
    for (int64_t n = 0; n < d.count; ++n)
        if ((p.lam[n].real() > 0) == growing) s.order.push_back(n);
    std::stable_sort(s.order.begin(), s.order.end(), [&](int64_t a, int64_t b) {
        return std::abs(p.lam[a].real()) < std::abs(p.lam[b].real());
    });
    s.set.groups = d.groups, s.set.count = static_cast<int64_t>(s.order.size());
    int64_t row = padded(s.set.count);
    s.set.re.assign(sized(d.groups, row), 0), s.set.im.assign(s.set.re.size(), 0);
    parallel_for(d.groups, slots_for(d.groups), [&](int64_t g, int) {
        for (int64_t k = 0; k < s.set.count; ++k) {
            complex z = log_transition(p, falling(d.z[g * d.count + s.order[k]]));
            s.set.re[g * row + k] = z.real(), s.set.im[g * row + k] = z.imag();
        }
    });
    return s;
}

void discretize_vjp(const parameters& p, const discretization& d, const std::vector<complex>& dbbar,
                    std::vector<complex> dz, std::vector<complex>& dlam,
                    std::vector<double>& ddelta) {
    dlam.assign(d.count, 0);
    ddelta.assign(p.delta.rank == 2 ? 2 * d.groups : d.groups, 0);
    const bool separate = p.delta.rank == 2;
    for (int64_t g = 0; g < d.groups; ++g) {
        double delta = p.delta.re[g], step_re = 0, step_im = 0, direct = 0;
        for (int64_t n = 0; n < d.count; ++n) {
            complex lam = p.lam[n], z = d.z[g * d.count + n];
            complex db = dbbar[g * d.count + n], &through_z = dz[g * d.count + n];
            switch (p.form.method) {
                case REFGSS_ZOH:  // B̄ = Δ φ(z)
                    through_z += std::conj(delta * phi_slope(z)) * db;
                    direct += (std::conj(phi(z)) * db).real();
                    break;
                case REFGSS_BILINEAR: {  // B̄ = Δ/(1 - z/2)
                    complex pole = 1.0 / (1.0 - z / 2.0);
                    through_z += std::conj(delta / 2 * pole * pole) * db;
                    direct += (std::conj(pole) * db).real();
                    break;
                }
                default: {
                    weight_gradient w =
                        is_softmax(p.form)
                            ? softmax_weight_vjp(p, lam, z, d.bbar[g * d.count + n], db)
                            : exp_weight_vjp(p, lam, z, db);
                    through_z += w.dz, dlam[n] += w.dlam;
                }
            }
            dlam[n] += complex(p.delta.re[g] * through_z.real(), p.delta.im[g] * through_z.imag());
            step_re += through_z.real() * lam.real(), step_im += through_z.imag() * lam.imag();
        }
        if (separate) ddelta[2 * g] = step_re, ddelta[2 * g + 1] = step_im;
        else ddelta[g] = direct + step_re + step_im;
    }
}

}  // namespace refgss
