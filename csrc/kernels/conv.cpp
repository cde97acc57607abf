// The convolution's kernels: entry and exit of the right-angle transform, copies that are done
// meanwhile, and the direct sum.
#include "conv/conv.hpp"

#include "core/dispatch.hpp"
#include "core/simd.hpp"
#include "kernels/fft.hpp"
#include "kernels/panel.hpp"

namespace refgss {
namespace REFGSS_ISA {

// ---- entry and exit: twist, first radix, and the loads and stores that belong to them ----------

/// x_r real -> z_k = sum_r x_r w^(r columns) exp(-2 pi i r k / R).  Twist and first additions are
/// one operation: fewer roundings.
template <int R, class T>
REFGSS_INLINE void twisted_dft(cvec<T> (&z)[R], const vec<T> (&x)[R], const T* twist) {
    cvec<T> sum[R / 2], difference[R / 2];
#pragma GCC unroll 8
    for (int r = 0; r < R / 2; ++r) {
        const vec<T> re = x[r] * twist[2 * r], im = x[r] * twist[2 * r + 1], far = x[r + R / 2];
        const vec<T> far_re = twist[R + 2 * r], far_im = twist[R + 2 * r + 1];
        sum[r] = {fma(far, far_re, re), fma(far, far_im, im)};
        difference[r] = {fnma(far, far_re, re), fnma(far, far_im, im)};
    }
    dft_of_pairs<-1>(sum, difference, z);
}
/// The way back: the real and the imaginary part of z_r w^-(r columns).
template <class T> REFGSS_INLINE vec<T> untwist_re(cvec<T> z, const T* twist) {
    return fma(z.im, vec<T>(twist[1]), z.re * twist[0]);
}
template <class T> REFGSS_INLINE vec<T> untwist_im(cvec<T> z, const T* twist) {
    return fnma(z.re, vec<T>(twist[1]), z.im * twist[0]);
}

/// Where the steps of a convolution go: in place of the signal, or onto a running sum of 2n steps.
template <class T> struct to_signal {
    static constexpr bool whole = false;  // steps n .. 2n-1 are not wanted
    T* y;
    REFGSS_INLINE void put(int64_t at, vec<T> x) const { store(y + at, x); }
};
template <class T> struct to_sum {
    static constexpr bool whole = true;
    T* sum;
    REFGSS_INLINE void put(int64_t at, vec<T> x) const { store(sum + at, load(sum + at) + x); }
};

template <class T> void enter_channels(const fft_plan<T>& plan, const T* x, cvec<T>* out) {
    constexpr int R = 8, lanes = vec<T>::lanes;
    const int64_t columns = plan.columns;
    const T* w = plan.entry.data();
    for (int64_t j = 0; j < columns; ++j, w += 2 * R) {
        vec<T> real[R];
        cvec<T> z[R];
        for (int r = 0; r < R; ++r) real[r] = load(x + (j + r * columns) * lanes);
        twisted_dft(z, real, plan.twist.data());
        for (int k = 0; k < R; ++k) out[j + k * columns] = z[k] * broadcast(w + 2 * k);
    }
}

template <class T, class Sink>
void leave_channels(const fft_plan<T>& plan, const cvec<T>* x, const Sink& sink) {
    constexpr int R = 8, lanes = vec<T>::lanes;
    const int64_t columns = plan.columns;
    const T* w = plan.entry.data();
    for (int64_t j = 0; j < columns; ++j, w += 2 * R) {
        cvec<T> z[R];
        for (int k = 0; k < R; ++k) z[k] = times_conj(x[j + k * columns], broadcast(w + 2 * k));
        dft<+1>(z);
        for (int r = 0; r < R; ++r) {
            const int64_t step = j + r * columns;
            sink.put(step * lanes, untwist_re(z[r], &plan.twist[2 * r]));
            if (Sink::whole)
                sink.put((step + plan.length) * lanes, untwist_im(z[r], &plan.twist[2 * r]));
        }
    }
}

/// One row: the lanes of a vector are `lanes` steps in a row until the transposition, and
/// sub-transforms after it.
template <class T> void enter_segments(const fft_plan<T>& plan, const T* x, cvec<T>* out) {
    constexpr int R = vec<T>::lanes;
    const T* w = plan.entry.data();
    for (int64_t j = 0; j < plan.columns; j += R) {
        vec<T> real[R], re[R], im[R];
        cvec<T> z[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) real[r] = load(x + j + r * plan.columns);
        twisted_dft(z, real, plan.twist.data());
#pragma GCC unroll 16
        for (int k = 0; k < R; ++k, w += 2 * R) {
            z[k] = z[k] * cvec<T>{load(w), load(w + R)};
            re[k] = z[k].re, im[k] = z[k].im;
        }
        transpose(re);
        transpose(im);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) out[j + i] = {re[i], im[i]};
    }
}

template <class T, class Sink>
void leave_segments(const fft_plan<T>& plan, const cvec<T>* x, const Sink& sink) {
    constexpr int R = vec<T>::lanes;
    const T* w = plan.entry.data();
    for (int64_t j = 0; j < plan.columns; j += R) {
        vec<T> re[R], im[R];
        cvec<T> z[R];
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) re[i] = x[j + i].re, im[i] = x[j + i].im;
        transpose(re);
        transpose(im);
#pragma GCC unroll 16
        for (int k = 0; k < R; ++k, w += 2 * R)
            z[k] = times_conj(cvec<T>{re[k], im[k]}, cvec<T>{load(w), load(w + R)});
        dft<+1>(z);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const int64_t step = j + r * plan.columns;
            sink.put(step, untwist_re(z[r], &plan.twist[2 * r]));
            if (Sink::whole) sink.put(step + plan.length, untwist_im(z[r], &plan.twist[2 * r]));
        }
    }
}

template <class T> void enter(const fft_plan<T>& plan, const T* x, cvec<T>* out) {
    plan.lanes_are == layout::channels ? enter_channels(plan, x, out)
                                       : enter_segments(plan, x, out);
}
template <class T, class Sink>
void leave(const fft_plan<T>& plan, const cvec<T>* x, const Sink& sink) {
    plan.lanes_are == layout::channels ? leave_channels(plan, x, sink)
                                       : leave_segments(plan, x, sink);
}

// ---- copies ------------------------------------------------------------------------------------

/// A panel whose whole tiles are vectors one stride apart: of a step each, or of a row each.
template <class S> bool by_step(const panel<S>& x) {
    return x.lane_stride == 1 && x.lanes == vec<std::remove_const_t<S>>::lanes;
}
template <class S> bool by_row(const panel<S>& x) {
    return x.time_stride == 1 && x.lanes == vec<std::remove_const_t<S>>::lanes;
}

template <bool Transposed, class T>
REFGSS_INLINE void copy_tile(const T* from, int64_t apart, T* to, int64_t to_apart, bool streamed) {
    constexpr int lanes = vec<T>::lanes;
    vec<T> tile[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) tile[i] = load(from + i * apart);
    if constexpr (Transposed) transpose(tile);
    if (streamed)
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) stream(to + i * to_apart, tile[i]);
    else
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) store(to + i * to_apart, tile[i]);
}

/// The next tile.  Of rows in time one begins on a cache line, or each line would be needed twice.
template <class T> void copy_next(tile_copy<T>& e) {
    constexpr int lanes = vec<T>::lanes, ahead = 128;  // steps: what second-level prefetching needs
    const panel<const T>& from = e.from;
    const panel<T>& to = e.to;
    const bool steps_in = by_step(from), steps_out = by_step(to);
    const bool tiled = (steps_in || by_row(from)) && (steps_out || by_row(to));
    const T* source = from.data + e.done * from.time_stride;
    int count = lanes;
    if (tiled && !steps_in)
        count -= static_cast<int>(reinterpret_cast<uintptr_t>(source) / sizeof(T) % lanes);
    const int64_t end = e.done + count;
    if (tiled && count == lanes && end <= from.length && end <= to.length) {
        T* target = to.data + e.done * to.time_stride;
        const int64_t apart = steps_in ? from.time_stride : from.lane_stride;
        const int64_t to_apart = steps_out ? to.time_stride : to.lane_stride;
        if (from.where != locality::near) {
            const T* later = source + ahead * from.time_stride;
            for (int i = 0; i < lanes; ++i) __builtin_prefetch(later + i * apart, 0, 2);
            if ((reinterpret_cast<uintptr_t>(source) | apart * sizeof(T)) % 64 != 0)  // two lines each
                for (int i = 0; i < lanes; ++i)
                    __builtin_prefetch(later + i * apart + (lanes - 1), 0, 2);
        }
        if (to.where == locality::anywhere)
            for (int i = 0; i < lanes; ++i)
                __builtin_prefetch(target + ahead * to.time_stride + i * to_apart, 1, 2);
        const bool streamed = to.where == locality::far;
        if (steps_in == steps_out)
            copy_tile<false>(source, apart, target, to_apart, streamed);
        else
            copy_tile<true>(source, apart, target, to_apart, streamed);
    } else {
        vec<T> rows[lanes];
        fetch(from, e.done, count, rows);
        put(to, e.done, count, rows);
    }
    e.done = end;
}

template <class T> void copy(tile_copy<T>& rest) {
    while (rest.done < rest.to.length) copy_next(rest);
    if (rest.to.where == locality::far) after_streaming();
}

template <class T> void largest(int64_t count, const T* x, T* magnitudes) {
    constexpr int lanes = vec<T>::lanes;
    typename vec<T>::raw low{}, high{};  // two chains, and no magnitudes before the end
    for (int64_t i = 0; i < count; ++i) {
        const typename vec<T>::raw v = load(x + i * lanes).v;
        low = v < low ? v : low;
        high = v > high ? v : high;
    }
    low = -low;
    store(magnitudes, vec<T>(low > high ? low : high));
}

/// Leaves with background_copies in between.
template <class T, class Leaves> struct and_errands {
    Leaves leaves;
    background_copies<T> list;
    mutable int points = 0;  // since the last tile

    template <int R> REFGSS_INLINE void run(cvec<T>* x) const {
        leaves.template run<R>(x);
        points += R;
        if (points < vec<T>::lanes) return;
        points -= vec<T>::lanes;
        for (tile_copy<T>* e : {list.in, list.out})
            if (e != nullptr && e->done < e->to.length) copy_next(*e);
    }
};

// ---- the transform -----------------------------------------------------------------------------

/// Neighbouring sub-transforms; in segments there is one in each lane.
template <bool Forward, bool Back, class T, class Leaves>
void subtransforms(const fft_plan<T>& plan, cvec<T>* x, const Leaves& leaves,
                   background_copies<T> meanwhile = {}) {
    const int64_t blocks = plan.points / plan.columns;
    if (meanwhile.in == nullptr && meanwhile.out == nullptr)
        transform<Forward, Back>(plan.passes.data(), x, blocks, leaves);
    else
        transform<Forward, Back>(plan.passes.data(), x, blocks,
                                 and_errands<T, Leaves>{leaves, meanwhile});
    if (meanwhile.out != nullptr) copy(*meanwhile.out);
}

template <class T> cvec<T>* points(T* memory) { return reinterpret_cast<cvec<T>*>(memory); }
template <class T> const cvec<T>* points(const T* memory) {
    return reinterpret_cast<const cvec<T>*>(memory);
}

// ---- the table ---------------------------------------------------------------------------------

template <class T>
void forward(const fft_plan<T>& plan, const T* x, T scale, T* spectrum, background_copies<T> meanwhile) {
    enter(plan, x, points(spectrum));
    subtransforms<true, false>(plan, points(spectrum), scale_leaves<T>{scale}, meanwhile);
}

template <class T, class Sink>
void convolve_to(const Sink& sink, const fft_plan<T>& plan, const T* u, const T* spectrum, T* work,
                 background_copies<T> meanwhile) {
    cvec<T>* x = points(work);
    enter(plan, u, x);
    subtransforms<true, true>(plan, x, multiply_leaves<T>{x, points(spectrum)}, meanwhile);
    leave(plan, x, sink);
}

template <class T>
void convolve(const fft_plan<T>& plan, const T* u, const T* spectrum, T* y, T* work,
              background_copies<T> meanwhile) {
    convolve_to(to_signal<T>{y}, plan, u, spectrum, work, meanwhile);
}

template <class T>
void convolve_block(const fft_plan<T>& plan, const T* u, int64_t steps, const T* spectrum, T* sum,
                    T* y, T* work, background_copies<T> meanwhile) {
    convolve_to(to_sum<T>{sum}, plan, u, spectrum, work, meanwhile);
    const int64_t width = plan.lanes_are == layout::channels ? vec<T>::lanes : 1;
    const int64_t out = steps * width, kept = 2 * plan.length * width - out;
    std::memcpy(y, sum, out * sizeof(T));
    std::memmove(sum, sum + out, kept * sizeof(T));
    std::memset(sum + kept, 0, out * sizeof(T));
}

template <class T>
void convolve_gradient(const fft_plan<T>& plan, const T* u, const T* spectrum, const T* other,
                       T* sum, T* y, T* work, background_copies<T> meanwhile) {
    cvec<T>* x = points(work);
    enter(plan, u, x);
    subtransforms<true, true>(
        plan, x, gradient_leaves<T>{x, points(spectrum), points(other), points(sum)}, meanwhile);
    leave(plan, x, to_signal<T>{y});
}

template <class T> void inverse(const fft_plan<T>& plan, T* spectrum, T* x) {
    subtransforms<false, true>(plan, points(spectrum), return_leaves<T>{});
    leave(plan, points(spectrum), to_signal<T>{x});
}

template <class T> void taps(panel<const T> k, int64_t count, T* taps) {
    constexpr int lanes = vec<T>::lanes;
    for (int64_t l = 0; l < count; l += lanes) {
        vec<T> rows[lanes];
        const int some = count - l < lanes ? static_cast<int>(count - l) : lanes;
        fetch(k, l, some, rows);
        for (int i = 0; i < some; ++i) store(taps + (l + i) * lanes, rows[i]);
    }
}

/// A window of the signal in vectors, `count` - 1 steps of history and a block of new ones; tiles of
/// eight outputs, each tap loaded once a tile.
template <class T> void direct(panel<const T> u, const T* taps, int64_t count, panel<T> y) {
    constexpr int lanes = vec<T>::lanes, tile = 8, block = 64;
    static_assert(block % tile == 0 && block % lanes == 0);
    vec<T> window[direct_taps + block];
    vec<T>* fresh = window + count;  // step `first` of the signal; steps before it lie before it
    for (int64_t i = 0; i < count; ++i) window[i] = T(0);
    for (int64_t first = 0; first < u.length; first += block) {
        for (int i = 0; i < block; i += lanes) fetch(u, first + i, lanes, fresh + i);
        vec<T> rows[block];
        for (int i = 0; i < block; i += tile) {
            vec<T> sum[tile];
            for (auto& s : sum) s = T(0);
            for (int64_t j = 0; j < count; ++j) {
                const vec<T> tap = load(taps + j * lanes);
                for (int x = 0; x < tile; ++x) sum[x] = fma(tap, fresh[i + x - j], sum[x]);
            }
            for (int x = 0; x < tile; ++x) rows[i + x] = sum[x];
        }
        for (int i = 0; i < block; i += lanes) put(y, first + i, lanes, rows + i);
        for (int64_t i = 0; i < count; ++i) window[i] = window[block + i];
    }
}

}  // namespace REFGSS_ISA

#define REFGSS_CONV(T)                                                                            \
    {vec<T>::lanes, forward<T>, convolve<T>, convolve_block<T>, convolve_gradient<T>, inverse<T>, \
     taps<T>, direct<T>, copy<T>, largest<T>}
using namespace REFGSS_ISA;
REFGSS_TABLE(conv_kernels<float>, REFGSS_CONV(float))
REFGSS_TABLE(conv_kernels<double>, REFGSS_CONV(double))

}  // namespace refgss
