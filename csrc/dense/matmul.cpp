#include "dense/matmul.hpp"

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/dispatch.hpp"
#include "core/scratch.hpp"
#include "core/threads.hpp"

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

/// The panels of a block of terms.
template <class T> class packed_block {
    const matmul_kernels<T>& kernel_;
    int64_t line_;  // bytes
    std::vector<line_mark> rows_, columns_;

public:
    const bool in_place;  // b
    int parts;            // of numbers of b

    packed_block(const matmul_kernels<T>& kernel, view<const T, 2> a, view<const T, 2> b)
        : kernel_(kernel), line_(kernel.line_bytes(a.shape[1])), rows_(a.shape[0]), columns_(b.shape[1]),
          // a few rows read b once: in place where its rows are contiguous, and panels are whole
          in_place(kernel.plain && a.shape[0] <= matmul_few && b.stride[1] == 1 &&
                   b.shape[1] % kernel.panel_columns == 0),
          a_(sized(whole(a.shape[0], kernel.panel_rows), line_)),
          b_(in_place ? 0 : sized(whole(b.shape[1], kernel.panel_columns), line_)) {
        const int64_t k = a.shape[1], height = kernel.panel_rows, width = kernel.panel_columns;
        const chunks of_a(a.shape[0], k, height, a.stride[1] == 1);
        const chunks of_b(b.shape[1], k, width, b.stride[1] != 1);
        const int64_t items = of_a.count() + (in_place ? 0 : of_b.count());
        std::atomic<int> most{1};
        parallel_for(items, slots_for(items), [&](int64_t item, int) {
            if (item < of_a.count()) {
                const auto [first, lines, k0, terms] = of_a[item];
                kernel.pack_rows(slice(slice(a, 0, first, lines), 1, k0, terms),
                                 a_.data() + first * line_ + k0 * height * kernel.bytes,
                                 height * line_, rows_.data() + first);
                return;
            }
            const auto [first, lines, k0, terms] = of_b[item - of_a.count()];
            const int found = kernel.pack_columns(
                slice(slice(b, 0, k0, terms), 1, first, lines),
                b_.data() + first * line_ + k0 * width * kernel.bytes, width * line_,
                columns_.data() + first);
            for (int seen = most; seen < found && !most.compare_exchange_weak(seen, found);) {}
        });
        parts = most;
    }
    const char* row(int64_t i) const { return a_.data() + i * line_; }
    const char* column(int64_t j) const { return b_.data() + j * line_; }
    /// Rows and columns that the kernels cannot take.
    bool row_falls_back(int64_t i) const { return !kernel_.can_multiply(rows_[i]); }
    bool column_falls_back(int64_t j) const { return columns_[j].too_large; }
    bool falls_back() const {
        for (size_t i = 0; i < rows_.size(); ++i)
            if (row_falls_back(i)) return true;
        for (size_t j = 0; j < columns_.size(); ++j)
            if (column_falls_back(j)) return true;
        return false;
    }

private:
    static int64_t whole(int64_t lines, int64_t panel) { return (lines + panel - 1) / panel * panel; }

    scratch<char> a_, b_;
};

/// A block of terms.
template <class T>
void multiply_block(const matmul_kernels<T>& kernel, view<const T, 2> a, view<const T, 2> b,
                    view<T, 2> c, bool add) {
    const int64_t M = c.shape[0], N = c.shape[1], k = a.shape[1];
    const int64_t width = kernel.panel_columns, across = matmul_panels * width;
    const packed_block<T> packed(kernel, a, b);
    const bool falls_back = packed.falls_back();
    scratch<T> copy(falls_back ? sized(M, N) : 0);
    const view<T, 2> other{copy.data(), {M, N}, {N, 1}};
    if (falls_back) {
        if (add) copy_where(as_const(c), other, [](int64_t, int64_t) { return true; });
        multiply_block(*kernel.fallback, a, b, other, add);
    }
    const int64_t groups = (N + across - 1) / across;
    const int64_t items = groups * ((M + matmul_height - 1) / matmul_height);
    parallel_for(items, slots_for(items), [&](int64_t item, int) {
        const int64_t i = item / groups * matmul_height, j = item % groups * across;
        const int64_t rows = std::min(matmul_height, M - i), columns = std::min(across, N - j);
        const auto to = slice(slice(c, 0, i, rows), 1, j, columns);
        if (packed.in_place)
            kernel.multiply(k, packed.row(i), b.data + j, b.stride[0], width, 1, to, add);
        else
            kernel.multiply(k, packed.row(i), packed.column(j), width, k * width, packed.parts, to, add);
    });
    if (falls_back)
        copy_where(as_const(other), c, [&](int64_t i, int64_t j) {
            return packed.row_falls_back(i) || packed.column_falls_back(j);
        });
}

}  // namespace

template <class T> void matmul(view<const T, 2> a, view<const T, 2> b, view<T, 2> c, bool add) {
    const int64_t M = c.shape[0], N = c.shape[1], K = a.shape[1];
    const int64_t depth = matmul_kernels_for<T>(M, K).depth;
    if (M == 0 || N == 0) return;
    if (K == 0 && !add)
        for (int64_t i = 0; i < M; ++i)
            for (int64_t j = 0; j < N; ++j) *c.at(i, j) = T(0);
    for (int64_t k0 = 0, k = 0; k0 < K; k0 += k, add = true) {
        k = std::min(depth, K - k0);
        multiply_block(matmul_kernels_for<T>(M, k), slice(a, 1, k0, k), slice(b, 0, k0, k), c, add);
    }
}

template void matmul(view<const float, 2>, view<const float, 2>, view<float, 2>, bool);
template void matmul(view<const double, 2>, view<const double, 2>, view<double, 2>, bool);

}  // namespace refgss
