#include "matmul.hpp"

#include <algorithm>

#include "dispatch.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace refgss {

template <class T> void matmul(view<const T, 2> a, view<const T, 2> b, view<T, 2> c, bool add) {
    auto& kernel = kernels<matmul_kernels<T>>();
    const int64_t M = c.shape[0], N = c.shape[1], K = a.shape[1];
    const int64_t width = kernel.panel_columns, height = kernel.panel_rows;
    if (M == 0 || N == 0) return;
    if (K == 0 && !add)
        for (int64_t i = 0; i < M; ++i)
            for (int64_t j = 0; j < N; ++j) *c.at(i, j) = T(0);
    const int64_t panels = (N + width - 1) / width, rows = (M + height - 1) / height;
    const int64_t groups = (panels + matmul_panels - 1) / matmul_panels;
    const int64_t blocks = (M + matmul_height - 1) / matmul_height;
    // A few rows read b once: in place where its rows are contiguous, and panels are whole.
    const bool in_place = M <= 4 && b.stride[1] == 1 && N % width == 0;
    const int64_t depth = std::min(K, matmul_depth<T>);
    scratch<T> packed_b(in_place ? 0 : sized(panels * width, depth));
    scratch<T> packed_a(sized(rows * height, depth));
    for (int64_t k0 = 0; k0 < K; k0 += matmul_depth<T>) {
        const int64_t k = std::min(matmul_depth<T>, K - k0);
        const auto a_block = slice(a, 1, k0, k), b_block = slice(b, 0, k0, k);
        const int64_t packs = rows + (in_place ? 0 : panels);
        parallel_for(packs, slots_for(packs), [&](int64_t p, int) {
            if (p < rows)
                kernel.pack_rows(a_block, p * height, k, packed_a.data() + p * k * height);
            else
                kernel.pack_columns(b_block, (p - rows) * width, k,
                                    packed_b.data() + (p - rows) * k * width);
        });
        parallel_for(groups * blocks, slots_for(groups * blocks), [&](int64_t item, int) {
            const int64_t i = item / groups * matmul_height, p = item % groups * matmul_panels;
            const int64_t columns = std::min(matmul_panels * width, N - p * width);
            auto to = slice(slice(c, 0, i, std::min(matmul_height, M - i)), 1, p * width, columns);
            const T* panel = in_place ? b_block.data + p * width : packed_b.data() + p * k * width;
            kernel.multiply(k, packed_a.data() + i * k, panel, in_place ? b_block.stride[0] : width,
                            in_place ? width : k * width, to, add || k0 > 0);
        });
    }
}

template void matmul(view<const float, 2>, view<const float, 2>, view<float, 2>, bool);
template void matmul(view<const double, 2>, view<const double, 2>, view<double, 2>, bool);

}  // namespace refgss
