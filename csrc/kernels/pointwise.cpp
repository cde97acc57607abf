#include "layers/pointwise.hpp"

#include <cmath>

#include "core/dispatch.hpp"
#include "kernels/normal.hpp"

namespace refgss {
namespace REFGSS_ISA {
namespace {

/// f(i, count) over `length` elements, a register at a time.
template <class T, class F> REFGSS_INLINE void by_registers(int64_t length, F&& f) {
    constexpr int lanes = vec<T>::lanes;
    int64_t i = 0;
    for (; i + lanes <= length; i += lanes) f(i, lanes);
    if (i < length) f(i, static_cast<int>(length - i));
}
template <class T> REFGSS_INLINE vec<T> take(const T* p, int count) {
    return count == vec<T>::lanes ? load(p) : load_some(p, count);
}
template <class T> REFGSS_INLINE void put(T* p, vec<T> a, int count) {
    count == vec<T>::lanes ? store(p, a) : store_some(p, a, count);
}

/// Σ f(i, count), in four chains; lanes beyond `count` must be zero.
template <class T, class F> REFGSS_INLINE T total(int64_t length, F&& f) {
    vec<T> sum[4] = {T(0), T(0), T(0), T(0)};
    by_registers<T>(length, [&](int64_t i, int count) {
        vec<T>& s = sum[i / vec<T>::lanes % 4];
        s = s + f(i, count);
    });
    vec<T> all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    T s = 0;
    for (int k = 0; k < vec<T>::lanes; ++k) s += all[k];
    return s;
}

template <class T> struct moments {
    T mean, scale;
};
template <class T> moments<T> moments_of(int64_t width, const T* x, T eps) {
    T mean = total<T>(width, [&](int64_t i, int n) { return take(x + i, n); }) / T(width);
    T square = total<T>(width, [&](int64_t i, int n) {
        vec<T> d = take(x + i, n) - vec<T>(mean);
        for (int k = n; k < vec<T>::lanes; ++k) d.set(k, T(0));
        return d * d;
    });
    return {mean, T(1) / std::sqrt(square / T(width) + eps)};
}

template <class T>
void layer_norm(int64_t width, const T* x, const T* weight, const T* bias, T eps, T* y) {
    moments<T> m = moments_of(width, x, eps);
    by_registers<T>(width, [&](int64_t i, int n) {
        vec<T> normal = (take(x + i, n) - vec<T>(m.mean)) * vec<T>(m.scale);
        put(y + i, fma(normal, take(weight + i, n), take(bias + i, n)), n);
    });
}

/// With g = dy weight: dx = (g - mean(g) - x̂ mean(g x̂)) / √(var + ε).
template <class T>
void layer_norm_vjp(int64_t width, const T* x, const T* weight, const T* dy, T eps, T* dx,
                    T* dweight, T* dbias) {
    moments<T> m = moments_of(width, x, eps);
    auto normal = [&](int64_t i, int n) {
        return (take(x + i, n) - vec<T>(m.mean)) * vec<T>(m.scale);
    };
    auto g = [&](int64_t i, int n) { return take(dy + i, n) * take(weight + i, n); };
    T mean = total<T>(width, g) / T(width);
    T along = total<T>(width, [&](int64_t i, int n) { return g(i, n) * normal(i, n); }) / T(width);
    by_registers<T>(width, [&](int64_t i, int n) {
        vec<T> xhat = normal(i, n), d = take(dy + i, n);
        put(dx + i, (g(i, n) - vec<T>(mean) - xhat * vec<T>(along)) * vec<T>(m.scale), n);
        put(dweight + i, fma(d, xhat, take(dweight + i, n)), n);
        put(dbias + i, take(dbias + i, n) + d, n);
    });
}

template <class T> T root_mean_square_inverse(int64_t width, const T* x, T eps) {
    T square = total<T>(width, [&](int64_t i, int n) {
        const vec<T> v = take(x + i, n);
        return v * v;
    });
    return T(1) / std::sqrt(square / T(width) + eps);
}

template <class T> void rms_norm(int64_t width, const T* x, const T* weight, T eps, T* y) {
    const vec<T> scale(root_mean_square_inverse(width, x, eps));
    by_registers<T>(width, [&](int64_t i, int n) {
        put(y + i, take(x + i, n) * scale * take(weight + i, n), n);
    });
}

/// With g = dy weight: dx = (g - x̂ mean(g x̂)) / √(mean(x²) + ε).
template <class T>
void rms_norm_vjp(int64_t width, const T* x, const T* weight, const T* dy, T eps, T* dx, T* dweight) {
    const vec<T> scale(root_mean_square_inverse(width, x, eps));
    auto normal = [&](int64_t i, int n) { return take(x + i, n) * scale; };
    auto g = [&](int64_t i, int n) { return take(dy + i, n) * take(weight + i, n); };
    const T along = total<T>(width, [&](int64_t i, int n) { return g(i, n) * normal(i, n); }) / T(width);
    by_registers<T>(width, [&](int64_t i, int n) {
        const vec<T> xhat = normal(i, n);
        put(dx + i, (g(i, n) - xhat * vec<T>(along)) * scale, n);
        put(dweight + i, fma(take(dy + i, n), xhat, take(dweight + i, n)), n);
    });
}

template <class T> T inverse_length(int64_t width, const T* x, T eps) {
    const T square = total<T>(width, [&](int64_t i, int n) {
        const vec<T> v = take(x + i, n);
        return v * v;
    });
    return T(1) / std::sqrt(square + eps);
}

template <class T> void l2_normalize(int64_t width, const T* x, T eps, T* y) {
    const vec<T> scale(inverse_length(width, x, eps));
    by_registers<T>(width, [&](int64_t i, int n) { put(y + i, take(x + i, n) * scale, n); });
}

/// dx = (dy - x̂ Σ dy x̂)/√(Σ x² + ε).
template <class T> void l2_normalize_vjp(int64_t width, const T* x, const T* dy, T eps, T* dx) {
    const vec<T> scale(inverse_length(width, x, eps));
    const vec<T> along(total<T>(width, [&](int64_t i, int n) { return take(dy + i, n) * (take(x + i, n) * scale); }));
    by_registers<T>(width, [&](int64_t i, int n) {
        put(dx + i, (take(dy + i, n) - take(x + i, n) * scale * along) * scale, n);
    });
}

/// σ(x), and σ(-x): 1/(1 + e^-|x|) and e^-|x| times that, which do not overflow.
template <class T> REFGSS_INLINE vec<T> sigmoid(vec<T> x, vec<T>& of_minus) {
    using bits = typename lanes_of<T>::integers;
    const bits negative = (bits)(x.v < vec<T>(T(0)).v);
    const vec<T> small = exp(select<T>(negative, x, -x)), large = vec<T>(T(1)) / (vec<T>(T(1)) + small);
    of_minus = select<T>(negative, large, small * large);
    return select<T>(negative, small * large, large);
}

/// What is kept and what is taken (GSS-BRT-13), and 1 less each of these.
template <class T> struct shares {
    vec<T> keep, lost, take, left;
    REFGSS_INLINE shares(const recurrent_gate<T>& g, int64_t at, int n) {
        keep = sigmoid(REFGSS_ISA::take(g.f + at, n) + vec<T>(g.shift), lost);
        if (g.i) take = sigmoid(REFGSS_ISA::take(g.i + at, n) - vec<T>(T(1)), left);
        else take = lost, left = keep;
    }
};

template <class T>
void mix(int64_t length, const recurrent_gate<T>& g, const T* s, const T* z, T* y) {
    by_registers<T>(length, [&](int64_t at, int n) {
        const shares<T> of(g, at, n);
        put(y + at, fma(take(s + at, n), of.keep, take(z + at, n) * of.take), n);
    });
}

template <class T>
void mix_vjp(int64_t length, const recurrent_gate<T>& g, const T* s, const T* z, const T* dout, T* ds, T* dz,
             T* df, T* di) {
    by_registers<T>(length, [&](int64_t at, int n) {
        const shares<T> of(g, at, n);
        const vec<T> d = take(dout + at, n), by_s = d * of.keep, by_z = d * of.take;
        put(ds + at, by_s, n), put(dz + at, by_z, n);
        if (g.i) {
            put(df + at, by_s * take(s + at, n) * of.lost, n);
            put(di + at, by_z * take(z + at, n) * of.left, n);
            return;
        }
        put(df + at, (take(s + at, n) - take(z + at, n)) * by_s * of.take, n);
    });
}

template <class T> void gelu(int64_t length, const T* x, T* y) {
    by_registers<T>(length, [&](int64_t i, int n) {
        vec<T> v = take(x + i, n), gauss;
        put(y + i, v * normal_cdf(v, gauss), n);
    });
}

/// dx = (Φ(x) + x e^{-x²/2}/√(2π)) dy.
template <class T> void gelu_vjp(int64_t length, const T* x, const T* dy, T* dx) {
    by_registers<T>(length, [&](int64_t i, int n) {
        vec<T> v = take(x + i, n), gauss, cdf = normal_cdf(v, gauss);
        put(dx + i, fma(v * gauss, vec<T>(T(0.3989422804014327)), cdf) * take(dy + i, n), n);
    });
}

template <class T> void gate(int64_t length, const T* a, const T* x, T* y) {
    by_registers<T>(length, [&](int64_t i, int n) {
        vec<T> v = take(x + i, n), gauss;
        put(y + i, take(a + i, n) * (v * normal_cdf(v, gauss)), n);
    });
}

template <class T> void gate_vjp(int64_t length, const T* a, const T* x, T* d, T* da, T* y) {
    by_registers<T>(length, [&](int64_t i, int n) {
        vec<T> v = take(x + i, n), gauss, cdf = normal_cdf(v, gauss), g = v * cdf;
        vec<T> in = take(d + i, n), other = take(a + i, n);
        put(da + i, in * g, n);
        put(y + i, other * g, n);
        put(d + i, in * other * fma(v * gauss, vec<T>(T(0.3989422804014327)), cdf), n);
    });
}

}  // namespace
}  // namespace REFGSS_ISA

using namespace REFGSS_ISA;
REFGSS_TABLE(pointwise_kernels<float>, {layer_norm<float>, layer_norm_vjp<float>, rms_norm<float>,
                                        rms_norm_vjp<float>, l2_normalize<float>, l2_normalize_vjp<float>,
                                        mix<float>, mix_vjp<float>, gelu<float>, gelu_vjp<float>,
                                        gate<float>, gate_vjp<float>})
REFGSS_TABLE(pointwise_kernels<double>, {layer_norm<double>, layer_norm_vjp<double>, rms_norm<double>,
                                         rms_norm_vjp<double>, l2_normalize<double>,
                                         l2_normalize_vjp<double>, mix<double>, mix_vjp<double>,
                                         gelu<double>, gelu_vjp<double>, gate<double>, gate_vjp<double>})

}  // namespace refgss
