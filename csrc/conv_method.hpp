// conv_method.hpp: how a convolution is carried out, chosen from shapes alone.
//
// A strip is what one transform carries: neighbouring channels, or a single one (see conv.hpp).  A
// signal that is long against its kernel is cut into blocks whose responses are added up, as is a
// stream.  Nothing here depends on the number of threads.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "array.hpp"
#include "conv.hpp"
#include "dispatch.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace refgss {

enum class purpose { whole, stream, gradient };

struct strip {
    int64_t first;  // channel
    int count;
    bool direct;  // by the definition, without a transform
    layout lanes_are;
};

/// The steps of channels first .. first+count-1 of u[b].
template <class S, class T>
panel<S> rows_of(const view<T, 3>& u, int64_t b, int64_t first, int count) {
    return {u.at(b, 0, first), u.shape[1], u.stride[1], u.stride[2], count};
}
/// The steps first .. first+length-1 of rows.
template <class T> panel<T> steps_of(panel<T> rows, int64_t first, int64_t length) {
    rows.data += first * rows.time_stride;
    rows.length = length;
    return rows;
}

/// How a kernel of so many taps on so many channels meets signals of so many steps.
template <class T> class method {
public:
    const conv_kernels<T>& table = kernels<conv_kernels<T>>();
    std::vector<strip> strips;

    method(int64_t channels, int64_t taps, int64_t length, purpose why)
        : taps_(why == purpose::stream ? taps : std::min(taps, length)),
          direct_(why == purpose::whole && taps_ <= direct_taps),
          blocked_(why == purpose::stream || (why == purpose::whole && 2 * taps_ <= length)) {
        const int64_t steps = blocked_ ? taps_ : length;
        if (steps > (int64_t(1) << 40)) throw std::bad_alloc();
        const int64_t n = good_length(layout::channels, table.lanes, steps);
        const int64_t split = direct_ ? channels : neighbours(channels, n);
        for (int64_t h = 0; h < split; h += table.lanes)
            strips.push_back({h, static_cast<int>(std::min<int64_t>(table.lanes, split - h)),
                              direct_, layout::channels});
        for (int64_t h = split; h < channels; ++h)
            strips.push_back({h, 1, false, layout::segments});
        if (direct_) return;
        if (split > 0) plans_[0] = plan_for<T>(layout::channels, table.lanes, n);
        if (split < channels)
            plans_[1] = plan_for<T>(layout::segments, table.lanes,
                                    good_length(layout::segments, table.lanes, steps));
    }

    const fft_plan<T>& plan(const strip& s) const {
        return *plans_[s.lanes_are == layout::segments];
    }
    /// Scalars of a spectrum of this strip.
    int64_t spectrum_size(const strip& s) const {
        return s.direct ? sized(taps_, table.lanes) : sized(plan(s).points, 2 * table.lanes);
    }
    /// Scalars of the running sum of its blocks, which a stream keeps: 2n steps of its channels.
    int64_t sum_size(const strip& s) const { return blocked_ && !s.direct ? spectrum_size(s) : 0; }

    int64_t largest_spectrum() const {
        int64_t size = 0;
        for (const strip& s : strips) size = std::max(size, spectrum_size(s));
        return size;
    }
    /// Scalars that `apply` works in: a transform and a running sum.
    int64_t largest_work() const {
        return direct_ ? 0 : sized(blocked_ ? 2 : 1, largest_spectrum());
    }

    void prepare(const strip& s, const view<const T, 2>& k, T* spectrum) const {
        const panel<const T> rows{k.at(s.first, 0), taps_, k.stride[1], k.stride[0], s.count};
        if (s.direct) return table.taps(rows, taps_, spectrum);
        table.forward(plan(s), rows, T(1) / static_cast<T>(plan(s).length), spectrum);
    }

    /// u -> y for the channels of the strip.
    void apply(const strip& s, const T* spectrum, panel<const T> u, panel<T> y, T* work) const {
        if (s.direct) return table.direct(u, spectrum, taps_, y);
        if (!blocked_) return table.convolve(plan(s), u, spectrum, y, work);
        T* sum = work + spectrum_size(s);
        std::fill_n(sum, sum_size(s), T(0));
        apply_blocks(s, spectrum, u, y, sum, work);
    }
    /// The same, going on from what `sum` holds of earlier steps.
    void apply_blocks(const strip& s, const T* spectrum, panel<const T> u, panel<T> y, T* sum,
                      T* work) const {
        const int64_t block = plan(s).length;
        for (int64_t l = 0; l < u.length; l += block) {
            const int64_t steps = std::min(block, u.length - l);
            table.convolve_block(plan(s), steps_of(u, l, steps), spectrum, sum,
                                 steps_of(y, l, steps), work);
        }
    }

private:
    /// How many channels go in strips of neighbours; the others are taken one by one.
    int64_t neighbours(int64_t channels, int64_t n) const {
        if (n < 4 * table.lanes * table.lanes) return channels;
        if (n >= segments_from) return 0;
        const int64_t rest = channels % table.lanes;
        return 2 * rest > table.lanes ? channels : channels - rest;
    }
    static constexpr int64_t segments_from = int64_t(1) << 18;

    int64_t taps_;
    bool direct_, blocked_;
    std::shared_ptr<const fft_plan<T>> plans_[2];  // by layout
};

/// Signals of which the channels that are taken one by one lie with time last: a copy of those
/// channels, where the array has them otherwise.
template <class T> class signals {
public:
    signals(const method<T>& how, const view<T, 3>& array)
        : how_(how), array_(array), rows_(array), first_(array.shape[2]) {
        for (const strip& s : how.strips)
            if (s.lanes_are == layout::segments) first_ = std::min(first_, s.first);
        const int64_t batch = array.shape[0], length = array.shape[1];
        const int64_t count = array.shape[2] - first_;
        if (count == 0 || array.stride[1] == 1) return;
        const int64_t pitch = length + 64 / sizeof(T);  // rows a power of two apart share cache sets
        copy_ = std::make_unique<scratch<T>>(sized(sized(batch, count), pitch));
        rows_ = {copy_->data(), {batch, length, count}, {count * pitch, 1, pitch}};
    }
    template <class S> panel<S> steps(const strip& s, int64_t b) const {
        if (copy_ && s.lanes_are == layout::segments)
            return rows_of<S>(rows_, b, s.first - first_, s.count);
        return rows_of<S>(array_, b, s.first, s.count);
    }
    /// Fills the copy from the array, or the array from the copy.
    void gather() const { move(true); }
    void scatter() const { move(false); }

private:
    void move(bool gathers) const {
        if (!copy_) return;
        constexpr int64_t block = 4096;
        const int64_t length = rows_.shape[1], count = rows_.shape[2], lanes = how_.table.lanes;
        const int64_t blocks = (length + block - 1) / block, groups = (count + lanes - 1) / lanes;
        const int64_t items = rows_.shape[0] * groups * blocks;
        parallel_for(items, slots_for(items), [&](int64_t item, int) {
            const int64_t h = item / blocks % groups * lanes;
            const int64_t b = item / blocks / groups, l = item % blocks * block;
            const int width = static_cast<int>(std::min(lanes, count - h));
            const int64_t steps = std::min(block, length - l);
            const auto outside = steps_of(rows_of<T>(array_, b, first_ + h, width), l, steps);
            const auto inside = steps_of(rows_of<T>(rows_, b, h, width), l, steps);
            how_.table.copy(as_input(gathers ? outside : inside), gathers ? inside : outside);
        });
    }

    const method<T>& how_;
    view<T, 3> array_, rows_;
    int64_t first_;  // channel of the copy
    std::unique_ptr<scratch<T>> copy_;
};

/// The spectra of a kernel's strips, one after another.
template <class T> class spectra {
public:
    spectra(const method<T>& how, const view<const T, 2>& k) : memory_(lay_out(how)) {
        const int64_t strips = static_cast<int64_t>(how.strips.size());
        parallel_for(strips, slots_for(strips), [&](int64_t i, int) {
            how.prepare(how.strips[i], k, memory_.data() + offsets_[i]);
        });
    }
    const T* operator[](int64_t strip) const { return memory_.data() + offsets_[strip]; }

private:
    int64_t lay_out(const method<T>& how) {
        int64_t size = 0;
        for (const strip& s : how.strips) {
            offsets_.push_back(size);
            size += how.spectrum_size(s);
        }
        return size;
    }
    std::vector<int64_t> offsets_;
    scratch<T> memory_;
};

}  // namespace refgss
