// pointwise.cpp: norms and GELU over rows, and sums of rows.
#include "layers/pointwise.hpp"

#include <algorithm>

#include "core/dispatch.hpp"
#include "core/scratch.hpp"
#include "core/threads.hpp"

namespace refgss {

template <class T> rows_of<T>::rows_of(view<const T, 2> v)
    : data_(v.data), count_(v.shape[0]), width_(v.shape[1]), stride_(v.stride[0]) {
    if (v.stride[1] == 1 || v.shape[1] <= 1) return;
    copy_.resize(v.size());
    serial_for(count_, [&](int64_t i) {
        for (int64_t j = 0; j < width_; ++j) copy_[i * width_ + j] = *v.at(i, j);
    });
    data_ = copy_.data(), stride_ = width_;
}
template class rows_of<float>;
template class rows_of<double>;

namespace {

/// For sums over rows: blocks of rows, which add up in memory of their own.
struct blocks_of_rows {
    const int64_t rows, height = std::max<int64_t>(64, (rows + 255) / 256);
    const int64_t count = (rows + height - 1) / height;

    explicit blocks_of_rows(int64_t rows) : rows(rows) {}
    /// f(block, row)
    template <class F> void for_each(const F& f) const {
        parallel_for(count, slots_for(count), [&](int64_t block, int) {
            for (int64_t i = block * height; i < std::min(rows, (block + 1) * height); ++i) f(block, i);
        });
    }
};

}  // namespace

template <class T>
void layer_norm(view<const T, 2> x, const T* weight, const T* bias, double eps, view<T, 2> y) {
    auto& kernel = kernels<pointwise_kernels<T>>();
    for_rows(x.shape[0], [&](int64_t i) {
        kernel.layer_norm(x.shape[1], x.data + i * x.stride[0], weight, bias, static_cast<T>(eps),
                          y.data + i * y.stride[0]);
    });
}

template <class T>
void layer_norm_vjp(view<const T, 2> x, const T* weight, view<const T, 2> dy, double eps, view<T, 2> dx,
                    view<T, 1> dweight, view<T, 1> dbias) {
    const int64_t M = x.shape[0], E = x.shape[1];
    auto& kernel = kernels<pointwise_kernels<T>>();
    const blocks_of_rows parts(M);
    std::vector<T> sums(sized(parts.count, 2 * E), T(0));
    parts.for_each([&](int64_t block, int64_t i) {
        T* sum = sums.data() + block * 2 * E;
        kernel.layer_norm_vjp(E, x.data + i * x.stride[0], weight, dy.data + i * dy.stride[0],
                              static_cast<T>(eps), dx.data + i * dx.stride[0], sum, sum + E);
    });
    sum_rows<T>({sums.data(), {parts.count, E}, {2 * E, 1}}, dweight);
    sum_rows<T>({sums.data() + E, {parts.count, E}, {2 * E, 1}}, dbias);
}

template <class T>
void rms_norm_vjp(view<const T, 2> x, const T* weight, view<const T, 2> dy, double eps, view<T, 2> dx,
                  view<T, 1> dweight) {
    const int64_t M = x.shape[0], E = x.shape[1];
    auto& kernel = kernels<pointwise_kernels<T>>();
    const blocks_of_rows parts(M);
    std::vector<T> sums(sized(parts.count, E), T(0));
    parts.for_each([&](int64_t block, int64_t i) {
        kernel.rms_norm_vjp(E, x.data + i * x.stride[0], weight, dy.data + i * dy.stride[0],
                            static_cast<T>(eps), dx.data + i * dx.stride[0], sums.data() + block * E);
    });
    sum_rows<T>({sums.data(), {parts.count, E}, {E, 1}}, dweight);
}

template <class T> void gelu(view<const T, 2> x, view<T, 2> y) {
    auto& kernel = kernels<pointwise_kernels<T>>();
    for_rows(x.shape[0], [&](int64_t i) {
        kernel.gelu(x.shape[1], x.data + i * x.stride[0], y.data + i * y.stride[0]);
    });
}

/// Blocks of 64 rows, then over blocks: the order is fixed.
template <class T> void sum_rows(view<const T, 2> x, view<T, 1> sum) {
    constexpr int64_t width = 256, block = 64;
    const int64_t items = (x.shape[1] + width - 1) / width;
    parallel_for(items, slots_for(items), [&](int64_t item, int) {
        const int64_t first = item * width, count = std::min(width, x.shape[1] - first);
        double total[width] = {};
        for (int64_t i0 = 0; i0 < x.shape[0]; i0 += block) {
            if (i0 % (block << 10) == 0 && stopping()) return;
            T part[width] = {};
            for (int64_t i = i0; i < std::min(x.shape[0], i0 + block); ++i) {
                const T* row = x.data + i * x.stride[0] + first * x.stride[1];
                for (int64_t j = 0; j < count; ++j) part[j] += row[j * x.stride[1]];
            }
            for (int64_t j = 0; j < count; ++j) total[j] += static_cast<double>(part[j]);
        }
        for (int64_t j = 0; j < count; ++j) *sum.at(first + j) = static_cast<T>(total[j]);
    });
}

template void sum_rows(view<const float, 2>, view<float, 1>);
template void sum_rows(view<const double, 2>, view<double, 1>);
template void layer_norm(view<const float, 2>, const float*, const float*, double, view<float, 2>);
template void layer_norm(view<const double, 2>, const double*, const double*, double, view<double, 2>);
template void layer_norm_vjp(view<const float, 2>, const float*, view<const float, 2>, double, view<float, 2>,
                             view<float, 1>, view<float, 1>);
template void layer_norm_vjp(view<const double, 2>, const double*, view<const double, 2>, double,
                             view<double, 2>, view<double, 1>, view<double, 1>);
template void rms_norm_vjp(view<const float, 2>, const float*, view<const float, 2>, double, view<float, 2>,
                           view<float, 1>);
template void rms_norm_vjp(view<const double, 2>, const double*, view<const double, 2>, double, view<double, 2>,
                           view<double, 1>);
template void gelu(view<const float, 2>, view<float, 2>);
template void gelu(view<const double, 2>, view<double, 2>);

}  // namespace refgss

