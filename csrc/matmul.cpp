#include "matmul.hpp"

#include <algorithm>
#include <atomic>
#include <vector>

#include "dispatch.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace refgss {

namespace {

/// What is packed at a time of so many lines (rows of a, columns of b) of k terms: a panel where
/// terms are contiguous, else some terms of many panels.
class chunks {
public:
    struct chunk {
        int64_t first, lines, term, terms;
    };
    chunks(int64_t lines, int64_t k, int64_t panel, bool contiguous_terms)
        : lines_(lines), k_(k), lines_each_(contiguous_terms ? panel : panel * matmul_panels),
          terms_each_(contiguous_terms ? k : std::min<int64_t>(k, 32)),
          along_((k + terms_each_ - 1) / terms_each_) {}
    int64_t count() const { return (lines_ + lines_each_ - 1) / lines_each_ * along_; }
    chunk operator[](int64_t i) const {
        const int64_t first = i / along_ * lines_each_, term = i % along_ * terms_each_;
        return {first, std::min(lines_each_, lines_ - first), term, std::min(terms_each_, k_ - term)};
    }

private:
    int64_t lines_, k_, lines_each_, terms_each_, along_;
};

template <class T, class F> void copy_where(view<const T, 2> from, view<T, 2> to, const F& here) {
    parallel_for(to.shape[0], slots_for(to.shape[0]), [&](int64_t i, int) {
        for (int64_t j = 0; j < to.shape[1]; ++j)
            if (here(i, j)) *to.at(i, j) = *from.at(i, j);
    });
}

/// A block of terms.
template <class T>
void multiply_block(const matmul_kernels<T>& kernel, view<const T, 2> a, view<const T, 2> b,
                    view<T, 2> c, bool add) {
    const int64_t M = c.shape[0], N = c.shape[1], k = a.shape[1];
    const int64_t width = kernel.panel_columns, height = kernel.panel_rows;
    const int64_t panels = (N + width - 1) / width, rows = (M + height - 1) / height;
    const int64_t groups = (panels + matmul_panels - 1) / matmul_panels;
    const int64_t blocks = (M + matmul_height - 1) / matmul_height;
    // A few rows read b once: in place where its rows are contiguous, and panels are whole.
    const bool in_place = kernel.plain && M <= matmul_few && b.stride[1] == 1 && N % width == 0;
    const int64_t line = kernel.line_bytes(k);
    scratch<char> packed_a(sized(rows * height, line));
    scratch<char> packed_b(in_place ? 0 : sized(panels * width, line));
    const chunks of_a(M, k, height, a.stride[1] == 1), of_b(N, k, width, b.stride[1] != 1);
    std::vector<char> odd_rows(kernel.plain ? 0 : M), odd_columns(kernel.plain ? 0 : N);
    const int64_t packs = of_a.count() + (in_place ? 0 : of_b.count());
    std::atomic<int> parts{1};
    parallel_for(packs, slots_for(packs), [&](int64_t item, int) {
        const bool is_a = item < of_a.count();
        const auto [first, lines, k0, terms] = is_a ? of_a[item] : of_b[item - of_a.count()];
        if (is_a)
            return kernel.pack_rows(slice(slice(a, 0, first, lines), 1, k0, terms),
                                    packed_a.data() + first * line + k0 * height * kernel.bytes,
                                    height * line, odd_rows.data() + first);
        const int found = kernel.pack_columns(slice(slice(b, 0, k0, terms), 1, first, lines),
                                              packed_b.data() + first * line + k0 * width * kernel.bytes,
                                              width * line, odd_columns.data() + first);
        for (int seen = parts; seen < found && !parts.compare_exchange_weak(seen, found);) {}
    });
    // rows and columns that these kernels cannot take: by the others, on a copy
    auto some = [](const std::vector<char>& marks) {
        return std::find(marks.begin(), marks.end(), 1) != marks.end();
    };
    const bool odd = some(odd_rows) || some(odd_columns);
    scratch<T> copy(odd ? sized(M, N) : 0);
    const view<T, 2> other{copy.data(), {M, N}, {N, 1}};
    if (odd) {
        if (add) copy_where(as_const(c), other, [](int64_t, int64_t) { return true; });
        multiply_block(*kernel.otherwise, a, b, other, add);
    }
    parallel_for(groups * blocks, slots_for(groups * blocks), [&](int64_t item, int) {
        const int64_t i = item / groups * matmul_height, p = item % groups * matmul_panels;
        const int64_t columns = std::min(matmul_panels * width, N - p * width);
        auto to = slice(slice(c, 0, i, std::min(matmul_height, M - i)), 1, p * width, columns);
        if (in_place)
            kernel.multiply(k, packed_a.data() + i * line, b.data + p * width, b.stride[0], width, 1, to,
                            add);
        else
            kernel.multiply(k, packed_a.data() + i * line, packed_b.data() + p * width * line, width,
                            k * width, parts, to, add);
    });
    if (odd)
        copy_where(as_const(other), c, [&](int64_t i, int64_t j) { return odd_rows[i] || odd_columns[j]; });
}

}  // namespace

template <class T> void matmul(view<const T, 2> a, view<const T, 2> b, view<T, 2> c, bool add) {
    const int64_t M = c.shape[0], N = c.shape[1], K = a.shape[1];
    auto& kernel = matmul_kernels_for<T>(M, K);
    if (M == 0 || N == 0) return;
    if (K == 0 && !add)
        for (int64_t i = 0; i < M; ++i)
            for (int64_t j = 0; j < N; ++j) *c.at(i, j) = T(0);
    for (int64_t k0 = 0, k = 0; k0 < K; k0 += k, add = true) {
        k = std::min(kernel.depth, K - k0);
        multiply_block(kernel, slice(a, 1, k0, k), slice(b, 0, k0, k), c, add);
    }
}

template void matmul(view<const float, 2>, view<const float, 2>, view<float, 2>, bool);
template void matmul(view<const double, 2>, view<const double, 2>, view<double, 2>, bool);

}  // namespace refgss
