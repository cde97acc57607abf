// stream.hpp: the convolution of a signal that arrives in chunks.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "conv/prepared.hpp"
#include "conv/scaled_row.hpp"

namespace refgss {

/// A kernel whose rows are calm, and the powers of two by which they were divided.
template <class T> struct calm_kernel {
    std::vector<T> values;
    std::vector<int> exponents;
    view<const T, 2> rows;

    explicit calm_kernel(const view<const T, 2>& k) : exponents(k.shape[0], 0), rows(k) {
        for (int64_t h = 0; h < k.shape[0]; ++h) {
            scaled_row<T> row(k.at(h, 0), k.shape[1], k.stride[1]);
            if (row.finite && !row.calm) exponents[h] = row.exponent;
        }
        if (std::none_of(exponents.begin(), exponents.end(), [](int e) { return e != 0; })) return;
        values.resize(k.size());
        rows = {values.data(), {k.shape[0], k.shape[1]}, {k.shape[1], 1}};
        for (int64_t h = 0; h < k.shape[0]; ++h)
            for (int64_t j = 0; j < k.shape[1]; ++j)
                values[h * k.shape[1] + j] = std::ldexp(*k.at(h, j), -exponents[h]);
    }
};

/// The rows (B,H) of the running sums are held as multiples of 2^exponent, which is 0 unless the numbers
/// that they come from are not calm: then the chunk is divided by it, and the result multiplied.
template <class T> class conv_stream {
public:
    conv_stream(const view<const T, 2>& k, int64_t batch) : conv_stream(calm_kernel<T>(k), batch) {}

    conv_stream(const calm_kernel<T>& k, int64_t batch)
        : channels_(k.rows.shape[0]), batch_(batch),
          ranges_(prepare<T>(k.rows, 0, purpose::stream)), kernel_exponents_(k.exponents),
          exponents_(sized(batch, channels_), 0), largest_(exponents_.size()) {
        for (const auto& r : ranges_) {
            const int64_t size = sized(sized(r->plan.strips, batch), r->plan.sum_size());
            sums_.push_back(std::make_unique<scratch<T>>(size));
            std::fill_n(sums_.back()->data(), size, T(0));
        }
    }

    int64_t batch() const { return batch_; }
    int64_t channels() const { return channels_; }

    void push(const view<const T, 3>& in, const view<T, 3>& out) {
        if (torn_)
            throw error{REFGSS_ERROR_VALUE, "a push was interrupted, and the stream is at no known step: "
                                            "make a new one"};
        if (out.size() == 0) return;
        const bool multiplied = choose_exponents(in);
        std::vector<T> copy(multiplied ? in.size() : 0);
        torn_ = true;  // until all sums have gone on
        if (multiplied) {
            const view<T, 3> scaled{copy.data(),
                                    {batch_, in.shape[1], channels_},
                                    {in.shape[1] * channels_, channels_, 1}};
            multiply(in, scaled, [&](int64_t row, int64_t) { return -exponents_[row]; });
            advance(as_const(scaled), out);
            multiply(as_const(out), out, [&](int64_t row, int64_t h) {
                return exponents_[row] + kernel_exponents_[h];
            });
        } else {
            advance(in, out);
        }
        torn_ = false;
    }

private:
    void advance(const view<const T, 3>& in, const view<T, 3>& out) {
        for (size_t i = 0; i < ranges_.size(); ++i)
            ranges_[i]->convolve(in, out, sums_[i]->data(), nullptr);
    }

    /// For each row the exponent by which chunk and past are calm; whether any differs from 0.
    bool choose_exponents(const view<const T, 3>& in) {
        by_columns([&](int64_t b, int64_t first, int64_t end) {
            T* largest = largest_.data() + b * channels_;
            std::fill(largest + first, largest + end, T(0));
            for (int64_t l = 0; l < in.shape[1] && !stopping(); ++l)
                for (int64_t h = first; h < end; ++h)
                    largest[h] = std::max(largest[h], std::abs(*in.at(b, l, h)));
        });
        bool any = false;
        for (size_t i = 0; i < ranges_.size(); ++i)
            for (int64_t b = 0; b < batch_; ++b)
                for (int64_t c = 0; c < ranges_[i]->range.count; ++c) {
                    const int64_t h = ranges_[i]->range.first + c, row = b * channels_ + h;
                    if (!is_calm(largest_[row]) || exponents_[row] != 0)
                        rescale(*ranges_[i], sums_[i]->data(), b, c, row);
                    any = any || exponents_[row] != 0 || kernel_exponents_[h] != 0;
                }
        return any;
    }

    /// A row whose chunk or whose past is not calm: the larger of both decides, and the past follows.
    void rescale(const prepared_range<T>& r, T* sums, int64_t b, int64_t c, int64_t row) {
        const int64_t width = r.plan.width, strip = c / width, count = 2 * r.plan.steps();
        T* sum = sums + (strip * batch_ + b) * r.plan.sum_size() + c % width;
        T past = 0;
        for (int64_t l = 0; l < count; ++l) past = std::max(past, std::abs(sum[l * width]));
        if (!std::isfinite(past) || !std::isfinite(largest_[row])) return;
        int of_past = INT32_MIN / 2, of_chunk = INT32_MIN / 2;
        if (past != 0) std::frexp(past, &of_past), of_past += exponents_[row];
        if (largest_[row] != 0) std::frexp(largest_[row], &of_chunk);
        const int most = std::max(of_past, of_chunk);
        const bool calm = std::abs(most) < calm_exponent<T> || (past == 0 && largest_[row] == 0);
        const int exponent = calm ? 0 : most, change = exponents_[row] - exponent;
        if (change == 0) return;
        for (int64_t l = 0; l < count; ++l) sum[l * width] = std::ldexp(sum[l * width], change);
        exponents_[row] = exponent;
    }

    /// body(b, first, end) for some channels of each signal.
    template <class Body> void by_columns(const Body& body) const {
        constexpr int64_t some = 64;
        const int64_t parts = (channels_ + some - 1) / some, items = sized(batch_, parts);
        parallel_for(items, slots_for(items), [&](int64_t item, int) {
            const int64_t first = item % parts * some;
            body(item / parts, first, std::min(first + some, channels_));
        });
    }

    template <class Exponent>
    void multiply(const view<const T, 3>& from, const view<T, 3>& to, Exponent exponent) const {
        by_columns([&](int64_t b, int64_t first, int64_t end) {
            for (int64_t l = 0; l < from.shape[1] && !stopping(); ++l)
                for (int64_t h = first; h < end; ++h)
                    *to.at(b, l, h) = std::ldexp(*from.at(b, l, h), exponent(b * channels_ + h, h));
        });
    }

    int64_t channels_, batch_;
    bool torn_ = false;
    prepared_ranges<T> ranges_;
    std::vector<int> kernel_exponents_;  // (H)
    std::vector<int> exponents_;         // (B,H)
    std::vector<T> largest_;             // (B,H), of a chunk
    std::vector<std::unique_ptr<scratch<T>>> sums_;  // of each range: the running sums
};

}  // namespace refgss
