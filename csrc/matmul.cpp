#include "matmul.hpp"

#include <algorithm>

#include "dispatch.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace refgss {

template <class T> void matmul(view<const T, 2> a, view<const T, 2> b, view<T, 2> c, bool add) {
    auto& kernel = kernels<matmul_kernels<T>>();
    int64_t M = c.shape[0], N = c.shape[1], K = a.shape[1], width = kernel.panel_columns;
    if (M == 0 || N == 0) return;
    if (K == 0 && !add)
        for (int64_t i = 0; i < M; ++i)
            for (int64_t j = 0; j < N; ++j) *c.at(i, j) = T(0);
    int64_t panels = (N + width - 1) / width, groups = (panels + matmul_panels - 1) / matmul_panels;
    int64_t blocks = (M + matmul_height - 1) / matmul_height;
    // A few rows read b once: in place where its rows are contiguous, and panels are whole.
    bool in_place = M <= 4 && b.stride[1] == 1 && N % width == 0;
    int64_t depth = std::min(K, matmul_depth);
    int slots = slots_for(groups * blocks);
    scratch<T> packed(in_place ? 0 : sized(panels * width, depth));
    scratch<T> work(slots * matmul_scratch<T>);
    for (int64_t k0 = 0; k0 < K; k0 += matmul_depth) {
        int64_t k = std::min(matmul_depth, K - k0);
        auto a_block = slice(a, 1, k0, k), b_block = slice(b, 0, k0, k);
        if (!in_place)
            parallel_for(panels, slots_for(panels), [&](int64_t p, int) {
                kernel.pack(b_block, p * width, k, packed.data() + p * k * width);
            });
        parallel_for(groups * blocks, slots, [&](int64_t item, int slot) {
            int64_t i = item / groups * matmul_height, p = item % groups * matmul_panels;
            int64_t rows = std::min(matmul_height, M - i);
            int64_t columns = std::min(matmul_panels * width, N - p * width);
            auto to = slice(slice(c, 0, i, rows), 1, p * width, columns);
            auto from = slice(a_block, 0, i, rows);
            const T* panel = in_place ? b_block.data + p * width : packed.data() + p * k * width;
            kernel.multiply(from, panel, in_place ? b_block.stride[0] : width,
                            in_place ? width : k * width, to, add || k0 > 0,
                            work.data() + slot * matmul_scratch<T>);
        });
    }
}

template void matmul(view<const float, 2>, view<const float, 2>, view<float, 2>, bool);
template void matmul(view<const double, 2>, view<const double, 2>, view<double, 2>, bool);

}  // namespace refgss
