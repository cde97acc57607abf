// plan.hpp: how a convolution is carried out, chosen from shapes alone and never from the
// number of threads.
//
// A strip is what one transform takes: neighbouring channels, one in each lane, or a single channel
// in segments (see conv.hpp).  A signal that is long against its kernel is cut into blocks whose
// responses are added up, as is a stream.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "conv/conv.hpp"
#include "core/array.hpp"
#include "core/calm.hpp"
#include "core/dispatch.hpp"
#include "core/scratch.hpp"
#include "core/threads.hpp"

namespace refgss {

enum class purpose { whole, stream, gradient };

constexpr int64_t cached = int64_t(1) << 22;  // bytes: what may stay in a last-level cache

/// Neighbouring channels that are treated alike.
struct channel_range {
    int64_t first, count;
    layout lanes_are;
};

/// The steps of channels first .. first+count-1 of u[b].
template <class S, class T>
panel<S> rows_of(const view<T, 3>& u, int64_t b, int64_t first, int count) {
    return {u.at(b, 0, first), u.shape[1], u.stride[1], u.stride[2], count,
            u.size() > cached / static_cast<int64_t>(sizeof(T)) ? locality::far : locality::anywhere};
}
/// The steps first .. first+length-1 of rows.
template <class T> panel<T> steps_of(panel<T> rows, int64_t first, int64_t length) {
    rows.data += first * rows.time_stride;
    rows.length = length;
    return rows;
}
/// The channels of a range.
template <class T> view<T, 3> part_of(view<T, 3> u, const channel_range& r) {
    u.data += r.first * u.stride[2];
    u.shape[2] = r.count;
    return u;
}
template <class T> view<T, 2> part_of(view<T, 2> k, const channel_range& r) {
    k.data += r.first * k.stride[0];
    k.shape[0] = r.count;
    return k;
}

/// How a kernel of so many taps on a range of channels meets signals of so many steps.
template <class T> class conv_plan {
public:
    const conv_kernels<T>& table = kernels<conv_kernels<T>>();

    conv_plan(const channel_range& range, int64_t taps, int64_t length, purpose why)
        : direct(is_direct(taps, length, why)), blocked(is_blocked(taps, length, why)),
          rows(range.lanes_are == layout::segments), lanes(table.lanes),
          width(rows ? 1 : table.lanes), strips((range.count + width - 1) / width),
          taps(why == purpose::stream ? taps : std::min(taps, length)), channels_(range.count) {
        const int64_t n = block(taps, length, why);
        if (!direct) fft_ = plan_for<T>(range.lanes_are, table.lanes,
                                         good_length(range.lanes_are, table.lanes, n));
        spectrum_size = direct ? sized(this->taps, lanes) : sized(fft().points, 2 * lanes);
    }

    /// Ranges of channels, neighbours in each lane or in segments: at most one of each.
    static std::vector<channel_range> ranges(int64_t channels, int64_t taps, int64_t length,
                                             purpose why) {
        const int64_t lanes = kernels<conv_kernels<T>>().lanes, steps = block(taps, length, why);
        // Neighbours take no shuffles.  But few channels are shared out among threads one by one,
        // and a vector most of whose lanes are empty takes as long as a full one.
        int64_t whole = channels;
        if (!is_direct(taps, length, why) && steps >= 4 * lanes * lanes) {  // shorter fill no tile
            const bool few = channels * static_cast<int64_t>(sizeof(T)) < 4 * 64;  // cache lines
            if (few && steps >= 8192)
                whole = 0;
            else if (2 * (channels % lanes) <= lanes)
                whole = channels - channels % lanes;
        }
        std::vector<channel_range> list;
        if (whole > 0) list.push_back({0, whole, layout::channels});
        if (whole < channels) list.push_back({whole, channels - whole, layout::segments});
        return list;
    }

    const bool direct;   // by the definition, without a transform
    const bool blocked;  // into transforms that are shorter than the signal
    const bool rows;     // strips are single channels in segments
    const int64_t lanes, width, strips;  // width: channels of a strip, scalars of a step
    const int64_t taps;
    int64_t spectrum_size;  // scalars of a spectrum, of work, and of the running sum of blocks

    const fft_plan<T>& fft() const { return *fft_; }
    int64_t steps() const { return fft_->length; }
    int64_t sum_size() const { return blocked ? spectrum_size : 0; }

    int64_t first(int64_t strip) const { return strip * width; }
    int count(int64_t strip) const {
        return static_cast<int>(std::min(width, channels_ - first(strip)));
    }
    template <class S, class A> panel<S> rows_of_strip(const A& u, int64_t b, int64_t strip) const {
        return rows_of<S>(u, b, first(strip), count(strip));
    }
    /// A strip's signal as rows, of which those that no channel has are zero.
    template <class S> panel<S> signal(S* data) const {
        return {data, steps(), width, 1, static_cast<int>(width), locality::near};
    }

    /// `largest`: the magnitudes of the kernel in each lane.
    void prepare(int64_t strip, const view<const T, 2>& k, T* spectrum, T* work, T* largest,
                 tile_copy<T>* meanwhile) const {
        const panel<const T> taps_in{k.at(first(strip), 0), taps,         k.stride[1],
                                     k.stride[0],           count(strip), locality::anywhere};
        if (direct) return table.taps(taps_in, taps, spectrum);
        tile_copy<T> copy{taps_in, signal(work), 0};
        table.copy(copy);
        magnitudes(work, largest);
        table.forward(fft(), work, T(1) / static_cast<T>(steps()), spectrum, {meanwhile, nullptr});
    }
    /// The largest magnitude in each lane of a signal in its buffer; of a single channel in the first.
    void magnitudes(const T* x, T* largest) const {
        table.largest(steps() * width / lanes, x, largest);
        if (rows) *largest = *std::max_element(largest, largest + lanes);
    }
    /// Whether a transform of such numbers neither overflows nor loses small ones: then all that it rounds
    /// is below what GSS-ACC-5 grants.
    bool calm(const T* kernel, const T* signal) const {
        for (int64_t i = 0; i < width; ++i)
            if (!is_calm(kernel[i]) || !is_calm(signal[i])) return false;
        return true;
    }

    /// At most a transform's steps.  The sum of a signal goes on from block to block.
    void apply(const T* spectrum, const T* u, int64_t steps, T* sum, T* y, T* work,
               background_copies<T> meanwhile) const {
        if (blocked)
            table.convolve_block(fft(), u, steps, spectrum, sum, y, work, meanwhile);
        else
            table.convolve(fft(), u, spectrum, y, work, meanwhile);
    }

private:
    static bool is_direct(int64_t taps, int64_t length, purpose why) {
        return why == purpose::whole && std::min(taps, length) <= direct_taps;
    }
    static bool is_blocked(int64_t taps, int64_t length, purpose why) {
        return why == purpose::stream || (why == purpose::whole && 2 * taps <= length);
    }
    static int64_t block(int64_t taps, int64_t length, purpose why) {
        const int64_t steps = is_blocked(taps, length, why) ? taps : length;
        if (steps > INT32_MAX)
            throw error{REFGSS_ERROR_VALUE,
                        "the convolution has more than 2^31 - 1 steps: split it"};
        return steps;
    }

    int64_t channels_;
    std::shared_ptr<const fft_plan<T>> fft_;
};

/// The spectra (or taps) of all strips, one after another.
template <class T> class spectra {
public:
    spectra(const conv_plan<T>& plan, const view<const T, 2>& k)
        : size_(plan.spectrum_size), memory_(sized(plan.strips, size_)), lanes_(plan.lanes),
          largest_(sized(plan.strips, plan.lanes), T(0)) {
        const int slots = slots_for(plan.strips);
        scratch<T> work(sized(slots, size_));
        parallel_for(plan.strips, slots, [&](int64_t i, int slot) {
            plan.prepare(i, k, memory_.data() + i * size_, work.data() + slot * size_,
                        largest_.data() + i * lanes_, nullptr);
        });
    }
    const T* operator[](int64_t strip) const { return memory_.data() + strip * size_; }
    const T* largest(int64_t strip) const { return largest_.data() + strip * lanes_; }

private:
    int64_t size_;
    scratch<T> memory_;
    int64_t lanes_;
    std::vector<T> largest_;
};

/// Signals with channels side by side: how those of one thread pass through transforms.  While one
/// is transformed the next comes in and the result before it goes out.
template <class T> class pipeline {
public:
    static int64_t size(const conv_plan<T>& plan) {  // scalars of memory
        return 2 * plan.spectrum_size + plan.sum_size() + 2 * plan.steps() * plan.width;
    }
    void use(const conv_plan<T>& plan, T* memory) {
        conv_ = &plan;
        spectrum = memory, work = spectrum + plan.spectrum_size, sum = work + plan.spectrum_size;
        u_ = sum + plan.sum_size(), y_ = u_ + plan.steps() * plan.width;
    }

    T *spectrum, *work, *sum;
    T kernel_largest[64], largest[64];  // magnitudes in each lane: of the kernel, and of what passed last
    tile_copy<T> in, out;

    void expect(panel<const T> rows) { in = {rows, conv_->signal(u_), 0}; }
    void expect_nothing() { in = {}; }
    /// What was expected, convolved, to rows; `next()` says what to expect then.
    template <class Next>
    void pass(const T* kernel, T* running, panel<T> rows, const Next& next) {
        conv_->table.copy(in);
        conv_->magnitudes(u_, largest);
        next();
        conv_->apply(kernel, u_, rows.length, running, y_, work, {&in, &out});
        out = {as_input(steps_of(conv_->signal(y_), 0, rows.length)), rows, 0};
    }
    void finish() { conv_->table.copy(out); }

private:
    const conv_plan<T>* conv_;
    T *u_, *y_;
};

/// Single channels in segments: rows that all threads copy in the order in which the array lies in
/// memory, for one by one they would touch each of its pages.
template <class T> class row_buffer {
public:
    row_buffer(const conv_plan<T>& plan, int64_t length)
        : conv_(plan), steps_(sized((length + plan.steps() - 1) / plan.steps(), plan.steps())),
          pitch_(row_pitch(steps_)) {
        const int64_t groups = most / sized(sized(pitch_, sizeof(T)), plan.lanes);
        at_once = std::min(std::max<int64_t>(groups, 1) * plan.lanes, plan.strips);
        if (at_once * pitch_ > cached / static_cast<int64_t>(sizeof(T))) where_ = locality::far;
        memory_ = std::make_unique<scratch<T>>(sized(at_once, pitch_));
    }
    int64_t at_once;  // rows

    T* row(int64_t i) { return memory_->data() + i * pitch_; }
    /// Rows 0 .. count-1 from channels of u[b], with zeros up to whole transforms; and back.
    void gather(const view<const T, 3>& u, int64_t b, int64_t channel, int64_t count) {
        in_tiles(count, steps_, [&](int64_t i, int lanes, int64_t l, int64_t steps) {
            const panel<const T> from = rows_of<const T>(u, b, channel + i, lanes);
            const int64_t there = std::max<int64_t>(std::min(steps, from.length - l), 0);
            tile_copy<T> e{steps_of(from, l, there), steps_of(rows(i, lanes), l, steps), 0};
            conv_.table.copy(e);
        });
    }
    void scatter(const view<T, 3>& u, int64_t b, int64_t channel, int64_t count) {
        in_tiles(count, u.shape[1], [&](int64_t i, int lanes, int64_t l, int64_t steps) {
            tile_copy<T> e{steps_of(as_input(rows(i, lanes)), l, steps),
                        steps_of(rows_of<T>(u, b, channel + i, lanes), l, steps), 0};
            conv_.table.copy(e);
        });
    }

private:
    static constexpr int64_t most = int64_t(1) << 25;  // bytes
    /// As an odd number of cache lines: rows a power of two apart would share cache sets.
    static int64_t row_pitch(int64_t steps) {
        constexpr int64_t line = 64 / sizeof(T);
        return ((steps + line - 1) / line | 1) * line;
    }
    panel<T> rows(int64_t i, int count) { return {row(i), steps_, 1, pitch_, count, where_}; }
    template <class Copy> void in_tiles(int64_t count, int64_t length, const Copy& copy) {
        constexpr int64_t block = 256;
        const int64_t items = (length + block - 1) / block;
        parallel_for(items, slots_for(items), [&](int64_t item, int) {
            const int64_t l = item * block, steps = std::min(block, length - l);
            for (int64_t i = 0; i < count; i += conv_.lanes)
                copy(i, static_cast<int>(std::min(conv_.lanes, count - i)), l, steps);
        });
    }

    const conv_plan<T>& conv_;
    int64_t steps_, pitch_;
    locality where_ = locality::anywhere;
    std::unique_ptr<scratch<T>> memory_;
};

}  // namespace refgss
