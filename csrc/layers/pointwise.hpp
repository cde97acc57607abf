// pointwise.hpp: norms, gates, GELU and their gradients, a row or a run of elements at a time.
#pragma once

#include <vector>

#include "core/array.hpp"

namespace refgss {

/// The gate of a state (GSS-BRT-13): what is kept is σ(f + shift), what is taken σ(i - 1), or without i the
/// rest.
template <class T> struct recurrent_gate {
    const T *f, *i;
    T shift;
};

template <class T> struct pointwise_kernels {
    /// y = (x - mean)/√(var + ε) weight + bias; the variance is the mean squared deviation.
    void (*layer_norm)(int64_t width, const T* x, const T* weight, const T* bias, T eps, T* y);
    /// dx; adds to dweight and dbias.
    void (*layer_norm_vjp)(int64_t width, const T* x, const T* weight, const T* dy, T eps, T* dx,
                           T* dweight, T* dbias);
    /// y = x/√(mean(x²) + ε) weight, and its gradient: dx; adds to dweight.
    void (*rms_norm)(int64_t width, const T* x, const T* weight, T eps, T* y);
    void (*rms_norm_vjp)(int64_t width, const T* x, const T* weight, const T* dy, T eps, T* dx, T* dweight);
    /// y = x/√(Σ x² + ε), and its gradient.
    void (*l2_normalize)(int64_t width, const T* x, T eps, T* y);
    void (*l2_normalize_vjp)(int64_t width, const T* x, const T* dy, T eps, T* dx);
    /// y = s keep + z take, and its gradients; di where there is an i.
    void (*mix)(int64_t count, const recurrent_gate<T>& gate, const T* s, const T* z, T* y);
    void (*mix_vjp)(int64_t count, const recurrent_gate<T>& gate, const T* s, const T* z, const T* dout, T* ds,
                    T* dz, T* df, T* di);
    void (*gelu)(int64_t count, const T* x, T* y);
    void (*gelu_vjp)(int64_t count, const T* x, const T* dy, T* dx);
    /// y = a GELU(x), the gated product; y may be x.
    void (*gate)(int64_t count, const T* a, const T* x, T* y);
    /// Its gradient, d in: da, and dx in place of d; and the product itself, y.
    void (*gate_vjp)(int64_t count, const T* a, const T* x, T* d, T* da, T* y);
};

/// A vector of parameters, contiguous.
template <class T> struct vectors {
    std::vector<T> values;
    vectors(const refgss_array* a, const char* name, int64_t width) : values(width) {
        auto v = shaped<const T, 1>(a, name, width);
        for (int64_t i = 0; i < width; ++i) values[i] = *v.at(i);
    }
    const T* data() const { return values.data(); }
};

/// A matrix with contiguous rows: the view itself, or a copy of it.
template <class T> class rows_of {
public:
    explicit rows_of(view<const T, 2> v);
    const T* operator[](int64_t i) const { return data_ + i * stride_; }
    view<const T, 2> matrix() const { return {data_, {count_, width_}, {stride_, 1}}; }

private:
    std::vector<T> copy_;
    const T* data_;
    int64_t count_, width_, stride_;
};

/// y may be x.  All rows are contiguous.
template <class T>
void layer_norm(view<const T, 2> x, const T* weight, const T* bias, double eps, view<T, 2> y);
template <class T> void gelu(view<const T, 2> x, view<T, 2> y);
/// dx may not be dy.
template <class T>
void layer_norm_vjp(view<const T, 2> x, const T* weight, view<const T, 2> dy, double eps, view<T, 2> dx,
                    view<T, 1> dweight, view<T, 1> dbias);
template <class T>
void rms_norm_vjp(view<const T, 2> x, const T* weight, view<const T, 2> dy, double eps, view<T, 2> dx,
                  view<T, 1> dweight);
/// sum[j] = Σ_i x[i][j].
template <class T> void sum_rows(view<const T, 2> x, view<T, 1> sum);

}  // namespace refgss
