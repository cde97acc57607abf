// conv_method.hpp: how a convolution is carried out, chosen from shapes alone and never from the
// number of threads.
//
// A strip is a group of neighbouring channels that one thread works on: one transform with a channel
// in each lane, or channel by channel (see conv.hpp) from rows gathered in cache.  A signal that is
// long against its kernel is cut into blocks whose responses are added up, as is a stream.
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

/// The steps of channels first .. first+count-1 of u[b].
template <class S, class T>
panel<S> rows_of(const view<T, 3>& u, int64_t b, int64_t first, int count) {
    constexpr int64_t cached = int64_t(1) << 23;  // bytes
    return {u.at(b, 0, first), u.shape[1], u.stride[1], u.stride[2], count,
            u.size() > cached / static_cast<int64_t>(sizeof(T))};
}
/// The steps first .. first+length-1 of rows.
template <class T> panel<T> steps_of(panel<T> rows, int64_t first, int64_t length) {
    rows.data += first * rows.time_stride;
    rows.length = length;
    return rows;
}

struct strip {
    int64_t first;  // channel
    int count;
    bool direct;  // by the definition, without a transform
    layout lanes_are;

    int transforms() const { return lanes_are == layout::segments ? count : 1; }
    /// The rows that transform t carries.
    template <class T> panel<T> transform_of(panel<T> rows, int t) const {
        if (transforms() == 1) return rows;
        rows.data += t * rows.lane_stride;
        rows.lanes = 1;
        return rows;
    }
};

/// Room for rows with time last: each starts a cache line, and as an odd one of those it needs, for
/// rows a power of two apart would share cache sets.
template <class T> int64_t row_pitch(int64_t length) {
    constexpr int64_t line = 64 / sizeof(T);
    return ((length + line - 1) / line | 1) * line;
}
template <class T> panel<T> rows_in(T* room, int64_t length, int count) {
    return {room, length, 1, row_pitch<T>(length), count, false};
}

template <class T> class method;

/// The rows that a strip takes one by one, with time last: a copy in `room`, in cache, unless they lie
/// so already.  Convolved rows may take the place of the copy.
template <class T> class gathered {
public:
    gathered(const method<T>& how, const strip& s, panel<const T> u, T* room)
        : rows_(u), room_(rows_in(room, u.length, u.lanes)),
          copied_(s.lanes_are == layout::segments && u.time_stride != 1) {
        if (!copied_) return;
        how.table.copy(u, room_);
        rows_ = as_input(room_);
    }
    bool copied() const { return copied_; }
    panel<const T> rows() const { return rows_; }
    panel<T> room() const { return room_; }

private:
    panel<const T> rows_;
    panel<T> room_;
    bool copied_;
};

/// How a kernel of so many taps on so many channels meets signals of so many steps.
template <class T> class method {
public:
    const conv_kernels<T>& table = kernels<conv_kernels<T>>();
    std::vector<strip> strips;

    method(int64_t channels, int64_t taps, int64_t length, purpose why)
        : taps_(why == purpose::stream ? taps : std::min(taps, length)),
          direct_(why == purpose::whole && taps_ <= direct_taps),
          blocked_(why == purpose::stream || (why == purpose::whole && 2 * taps_ <= length)) {
        block_ = blocked_ ? taps_ : length;
        if (block_ > INT32_MAX)
            throw error{REFGSS_ERROR_VALUE, "the convolution has more than 2^31 - 1 steps: split it"};
        choose_strips(channels);
        if (blocked_ && !direct_) {  // a transform has room for more steps than there are taps
            block_ = INT64_MAX;
            for (const strip& s : strips) block_ = std::min(block_, plan(s).length);
        }
    }

    const fft_plan<T>& plan(const strip& s) const {
        return *plans_[s.lanes_are == layout::segments];
    }
    /// Scalars of one spectrum; a strip has one for each of its transforms.
    int64_t spectrum_size(const strip& s) const {
        return s.direct ? sized(taps_, table.lanes) : sized(plan(s).points, 2 * table.lanes);
    }
    /// Scalars of the running sum of a transform's blocks: 2n steps.
    int64_t sum_size(const strip& s) const { return blocked_ && !s.direct ? spectrum_size(s) : 0; }
    /// Scalars of the gathered rows of a block.
    int64_t room_size(const strip& s) const {
        return s.lanes_are == layout::segments ? sized(row_pitch<T>(block_), s.count) : 0;
    }
    /// The largest of a size over the strips: that of a thread's area.
    template <class Size> int64_t largest(const Size& size) const {
        int64_t most = 0;
        for (const strip& s : strips) most = std::max(most, size(s));
        return most;
    }
    int64_t work_size(const strip& s) const {
        return s.direct ? 0 : spectrum_size(s) + room_size(s);
    }

    /// The spectra of all transforms of the strip.
    void prepare(const strip& s, const view<const T, 2>& k, T* spectrum) const {
        const panel<const T> rows{k.at(s.first, 0), taps_, k.stride[1], k.stride[0], s.count, false};
        if (s.direct) return table.taps(rows, taps_, spectrum);
        const T scale = T(1) / static_cast<T>(plan(s).length);
        for (int t = 0; t < s.transforms(); ++t)
            table.forward(plan(s), s.transform_of(rows, t), scale, spectrum + t * spectrum_size(s));
    }

    /// u -> y for the channels of the strip, in the work area.  The sums of its transforms go on from
    /// what earlier steps have left there.
    void apply(const strip& s, const T* spectrum, panel<const T> u, panel<T> y, T* sums,
               T* work) const {
        if (s.direct) return table.direct(u, spectrum, taps_, y);
        for (int64_t l = 0; l < u.length; l += block_) {
            const int64_t steps = std::min(block_, u.length - l);
            const panel<T> target = steps_of(y, l, steps);
            const gathered<T> in(*this, s, steps_of(u, l, steps), work + spectrum_size(s));
            const panel<T> out = in.copied() ? in.room() : target;
            for (int t = 0; t < s.transforms(); ++t) {
                const panel<const T> from = s.transform_of(in.rows(), t);
                const panel<T> to = s.transform_of(out, t);
                const T* kernel = spectrum + t * spectrum_size(s);
                if (blocked_)
                    table.convolve_block(plan(s), from, kernel, sums + t * sum_size(s), to, work);
                else
                    table.convolve(plan(s), from, kernel, to, work);
            }
            if (in.copied()) table.copy(as_input(out), target);
        }
    }

private:
    // Few channels are transformed row by row from this length on, to share them out among threads
    // and to keep a transform in cache; many are faster side by side at any length (measured).
    static constexpr int64_t by_rows = 8192;

    void choose_strips(int64_t channels) {
        const int64_t least = 4 * table.lanes * table.lanes;  // shorter rows fill no tile
        const bool few = channels * static_cast<int64_t>(sizeof(T)) < 4 * 64;  // cache lines a step
        int64_t whole = channels;
        int width = table.lanes;
        if (!direct_ && few && block_ >= std::max(least, by_rows)) {
            whole = 0;
            width = 1;
        } else if (!direct_ && block_ >= least && 2 * (channels % width) <= width) {
            whole = channels - channels % width;  // a strip half empty would take longer
        }
        const auto add = [&](int64_t first, int64_t last, layout lanes_are) {
            if (first == last) return;
            for (int64_t h = first; h < last; h += width)
                strips.push_back({h, static_cast<int>(std::min<int64_t>(width, last - h)), direct_,
                                  lanes_are});
            const bool segments = lanes_are == layout::segments;
            if (!direct_)
                plans_[segments] = plan_for<T>(lanes_are, table.lanes,
                                               good_length(lanes_are, table.lanes, block_));
        };
        add(0, whole, layout::channels);
        add(whole, channels, layout::segments);
    }

    int64_t taps_, block_;  // steps that one transform takes
    bool direct_, blocked_;
    std::shared_ptr<const fft_plan<T>> plans_[2];  // by layout
};

/// Signals for strips.  Where these are single channels of many, the channels are copied with time
/// last, all at once: a cache line holds a step of several.
template <class T> class signals {
public:
    signals(const method<T>& how, const view<T, 3>& array) : how_(how), array_(array), rows_(array) {
        const int64_t batch = array.shape[0], length = array.shape[1], channels = array.shape[2];
        const bool single = !how.strips.empty() && how.strips.front().count == 1;
        if (!single || channels == 1 || array.stride[1] == 1) return;
        const int64_t pitch = row_pitch<T>(length);
        copy_ = std::make_unique<scratch<T>>(sized(sized(batch, channels), pitch));
        rows_ = {copy_->data(), {batch, length, channels}, {channels * pitch, 1, pitch}};
    }
    template <class S> panel<S> steps(const strip& s, int64_t b) const {
        return rows_of<S>(rows_, b, s.first, s.count);
    }
    /// Fills the copy from the array, or the array from the copy.
    void gather() const { move(array_, rows_); }
    void scatter() const { move(rows_, array_); }

private:
    void move(const view<T, 3>& from, const view<T, 3>& to) const {
        if (!copy_) return;
        constexpr int64_t block = 4096;
        const int64_t length = from.shape[1], blocks = (length + block - 1) / block;
        const int64_t items = from.shape[0] * blocks;
        const int count = static_cast<int>(from.shape[2]);
        parallel_for(items, slots_for(items), [&](int64_t item, int) {
            const int64_t b = item / blocks, l = item % blocks * block;
            const int64_t steps = std::min(block, length - l);
            how_.table.copy(steps_of(rows_of<const T>(from, b, 0, count), l, steps),
                            steps_of(rows_of<T>(to, b, 0, count), l, steps));
        });
    }

    const method<T>& how_;
    view<T, 3> array_, rows_;
    std::unique_ptr<scratch<T>> copy_;
};

/// The spectra of all strips, one after another.
template <class T> class spectra {
public:
    spectra(const method<T>& how, const view<const T, 2>& k) : memory_(lay_out(how)) {
        const int64_t strips = static_cast<int64_t>(how.strips.size());
        parallel_for(strips, slots_for(strips), [&](int64_t i, int) {
            const strip& s = how.strips[i];
            how.prepare(s, k, memory_.data() + offsets_[i]);
        });
    }
    const T* operator[](int64_t strip) const { return memory_.data() + offsets_[strip]; }

private:
    int64_t lay_out(const method<T>& how) {
        int64_t size = 0;
        for (const strip& s : how.strips) {
            offsets_.push_back(size);
            size += sized(how.spectrum_size(s), s.transforms());
        }
        return size;
    }
    std::vector<int64_t> offsets_;
    scratch<T> memory_;
};

}  // namespace refgss
