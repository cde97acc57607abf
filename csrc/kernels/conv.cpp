// The convolution's kernels: entry and exit of the right-angle transform, and the direct sum.
#include "conv.hpp"

#include "dispatch.hpp"
#include "fft.hpp"
#include "panel.hpp"
#include "simd.hpp"

namespace refgss {
namespace REFGSS_ISA {

// ---- entry: twist, first radix, and the load that belongs to them --------------------------------

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

/// Where the steps of a convolution go: to y, or onto a running sum of 2n steps.
template <class T> struct to_panel {
    static constexpr bool whole = false;  // steps n .. 2n-1 are not wanted
    panel<T> y;

    REFGSS_INLINE void put_one(int64_t step, vec<T> x) const {
        store(y.data + step * y.time_stride, x);
    }
};
template <class T> struct to_sum {
    static constexpr bool whole = true;
    T* sum;

    REFGSS_INLINE void add(int64_t first, int count, const vec<T>* x) const {
        T* at = sum + first * vec<T>::lanes;
        for (int i = 0; i < count; ++i, at += vec<T>::lanes) store(at, load(at) + x[i]);
    }
};

/// Whether the steps of the tile of `lanes` columns from j0 on are loaded and stored where they are
/// used: those of a small array, channels last, that has them all.  Others pass through a tile in
/// cache; for a large array that keeps neighbours in memory together.
template <class T, class S>
REFGSS_INLINE bool in_place(const fft_plan<T>& plan, const panel<S>& x, int64_t j0) {
    constexpr int lanes = vec<T>::lanes;
    return !x.large && x.lane_stride == 1 && x.lanes == lanes && j0 + lanes <= plan.columns &&
           plan.length - plan.columns + j0 + lanes <= x.length;
}

template <bool InPlace, class T>
REFGSS_INLINE void enter_tile(const fft_plan<T>& plan, const panel<const T>& x, int64_t j0,
                              int count, cvec<T>* out) {
    constexpr int R = 8, lanes = vec<T>::lanes;
    const int64_t columns = plan.columns;
    vec<T> rows[R][lanes];
    if (!InPlace)
        for (int r = 0; r < R; ++r) fetch(x, j0 + r * columns, count, rows[r]);
    const T* w = &plan.entry[2 * R * j0];
    const T* p = x.data + j0 * x.time_stride;
    const int64_t step = columns * x.time_stride;
    for (int i = 0; i < count; ++i, w += 2 * R, p += x.time_stride) {
        vec<T> real[R];
        cvec<T> z[R];
        for (int r = 0; r < R; ++r) {
            real[r] = InPlace ? load(p + r * step) : rows[r][i];
            expect(x, j0 + lanes + r * columns, i);
        }
        twisted_dft(z, real, plan.twist.data());
        for (int k = 0; k < R; ++k) out[j0 + i + k * columns] = z[k] * broadcast(w + 2 * k);
    }
}

template <class T>
void enter_channels(const fft_plan<T>& plan, const panel<const T>& x, cvec<T>* out) {
    constexpr int lanes = vec<T>::lanes;
    for (int64_t j0 = 0; j0 < plan.columns; j0 += lanes) {
        const int64_t rest = plan.columns - j0;
        if (in_place(plan, x, j0))
            enter_tile<true>(plan, x, j0, lanes, out);
        else
            enter_tile<false>(plan, x, j0, rest < lanes ? static_cast<int>(rest) : lanes, out);
    }
}

template <bool InPlace, class T, class Sink>
REFGSS_INLINE void leave_tile(const fft_plan<T>& plan, const cvec<T>* x, int64_t j0, int count,
                              const Sink& sink) {
    constexpr int R = 8, lanes = vec<T>::lanes;
    const int64_t columns = plan.columns;
    vec<T> rows[R][lanes], beyond[R][lanes];
    const T* w = &plan.entry[2 * R * j0];
    for (int i = 0; i < count; ++i, w += 2 * R) {
        cvec<T> z[R];
        for (int k = 0; k < R; ++k)
            z[k] = times_conj(x[j0 + i + k * columns], broadcast(w + 2 * k));
        dft<+1>(z);
        for (int r = 0; r < R; ++r) {
            const vec<T> real = untwist_re(z[r], &plan.twist[2 * r]);
            if constexpr (InPlace)
                sink.put_one(j0 + i + r * columns, real);
            else
                rows[r][i] = real;
            if (Sink::whole) beyond[r][i] = untwist_im(z[r], &plan.twist[2 * r]);
        }
    }
    if (InPlace) return;
    for (int r = 0; r < R; ++r) {
        const int64_t first = j0 + r * columns;
        if constexpr (Sink::whole) {
            sink.add(first, count, rows[r]);
            sink.add(first + plan.length, count, beyond[r]);
        } else {
            put(sink.y, first, count, rows[r]);
        }
    }
}

template <class T, class Sink>
void leave_channels(const fft_plan<T>& plan, const cvec<T>* x, const Sink& sink) {
    constexpr int lanes = vec<T>::lanes;
    for (int64_t j0 = 0; j0 < plan.columns; j0 += lanes) {
        const int64_t rest = plan.columns - j0;
        if constexpr (!Sink::whole)
            if (in_place(plan, sink.y, j0)) {
                leave_tile<true>(plan, x, j0, lanes, sink);
                continue;
            }
        leave_tile<false>(plan, x, j0, rest < lanes ? static_cast<int>(rest) : lanes, sink);
    }
    after_streaming();
}

/// One row: the lanes of a vector are `lanes` steps in a row until the transposition, and
/// sub-transforms after it.
template <class T>
void enter_segments(const fft_plan<T>& plan, const panel<const T>& x, cvec<T>* out) {
    constexpr int R = vec<T>::lanes;
    const T* w = plan.entry.data();
    for (int64_t j = 0; j < plan.columns; j += R) {
        vec<T> real[R], re[R], im[R];
        cvec<T> z[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) real[r] = fetch_row(x, j + r * plan.columns);
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
            const int64_t first = j + r * plan.columns;
            const vec<T> real = untwist_re(z[r], &plan.twist[2 * r]);
            if constexpr (Sink::whole) {
                T* at = sink.sum + first;
                store(at, load(at) + real);
                at += plan.length;
                store(at, load(at) + untwist_im(z[r], &plan.twist[2 * r]));
            } else {
                put_row(sink.y, first, real);
            }
        }
    }
}

template <class T> void enter(const fft_plan<T>& plan, const panel<const T>& x, cvec<T>* out) {
    plan.lanes_are == layout::channels ? enter_channels(plan, x, out)
                                       : enter_segments(plan, x, out);
}
template <class T, class Sink>
void leave(const fft_plan<T>& plan, const cvec<T>* x, const Sink& sink) {
    plan.lanes_are == layout::channels ? leave_channels(plan, x, sink)
                                       : leave_segments(plan, x, sink);
}

/// Neighbouring sub-transforms; in segments there is one in each lane.
template <bool Forward, bool Back, class T, class Leaves>
void subtransforms(const fft_plan<T>& plan, cvec<T>* x, const Leaves& leaves) {
    transform<Forward, Back>(plan.passes.data(), x, plan.points / plan.columns, leaves);
}

template <class T> cvec<T>* points(T* memory) { return reinterpret_cast<cvec<T>*>(memory); }
template <class T> const cvec<T>* points(const T* memory) {
    return reinterpret_cast<const cvec<T>*>(memory);
}

// ---- the table ---------------------------------------------------------------------------------

template <class T> void forward(const fft_plan<T>& plan, panel<const T> x, T scale, T* spectrum) {
    enter(plan, x, points(spectrum));
    subtransforms<true, false>(plan, points(spectrum), scale_leaves<T>{scale});
}

template <class T, class Sink>
void convolve_to(const fft_plan<T>& plan, const panel<const T>& u, const T* spectrum,
                 const Sink& sink, cvec<T>* work) {
    enter(plan, u, work);
    subtransforms<true, true>(plan, work, multiply_leaves<T>{work, points(spectrum)});
    leave(plan, work, sink);
}

template <class T>
void convolve(const fft_plan<T>& plan, panel<const T> u, const T* spectrum, panel<T> y, T* work) {
    convolve_to(plan, u, spectrum, to_panel<T>{y}, points(work));
}

template <class T>
void convolve_block(const fft_plan<T>& plan, panel<const T> u, const T* spectrum, T* sum,
                    panel<T> y, T* work) {
    constexpr int lanes = vec<T>::lanes;
    convolve_to(plan, u, spectrum, to_sum<T>{sum}, points(work));
    const int64_t width = plan.lanes_are == layout::channels ? lanes : 1;
    for (int64_t l = 0; l < y.length; l += lanes) {
        const int count = y.length - l < lanes ? static_cast<int>(y.length - l) : lanes;
        vec<T> rows[lanes];
        if (width == 1) {
            put_row(y, l, load_some(sum + l, count));
            continue;
        }
        for (int i = 0; i < count; ++i) rows[i] = load(sum + (l + i) * lanes);
        put(y, l, count, rows);
    }
    const int64_t kept = 2 * plan.length - y.length;
    std::memmove(sum, sum + y.length * width, kept * width * sizeof(T));
    std::memset(sum + kept * width, 0, y.length * width * sizeof(T));
}

template <class T>
void convolve_gradient(const fft_plan<T>& plan, panel<const T> dy, const T* spectrum,
                       const T* u_spectrum, T* sum, panel<T> du, T* work) {
    cvec<T>* x = points(work);
    enter(plan, dy, x);
    subtransforms<true, true>(
        plan, x, gradient_leaves<T>{x, points(spectrum), points(u_spectrum), points(sum)});
    leave(plan, x, to_panel<T>{du});
}

template <class T> void inverse(const fft_plan<T>& plan, T* spectrum, panel<T> y) {
    subtransforms<false, true>(plan, points(spectrum), return_leaves<T>{});
    leave(plan, points(spectrum), to_panel<T>{y});
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

template <class T> void copy(panel<const T> from, panel<T> to) {
    constexpr int lanes = vec<T>::lanes;
    for (int first = 0; first < from.lanes; first += lanes) {
        panel<const T> in = from;
        panel<T> out = to;
        in.data += first * in.lane_stride;
        out.data += first * out.lane_stride;
        in.lanes = out.lanes = from.lanes - first < lanes ? from.lanes - first : lanes;
        for (int64_t l = 0; l < from.length; l += lanes) {
            vec<T> rows[lanes];
            fetch(in, l, lanes, rows);
            put(out, l, lanes, rows);
        }
    }
}

}  // namespace REFGSS_ISA

#define REFGSS_CONV(T)                                                                            \
    {vec<T>::lanes, forward<T>, convolve<T>, convolve_block<T>, convolve_gradient<T>, inverse<T>, \
     taps<T>, direct<T>, copy<T>}
using namespace REFGSS_ISA;
REFGSS_TABLE(conv_kernels<float>, REFGSS_CONV(float))
REFGSS_TABLE(conv_kernels<double>, REFGSS_CONV(double))

}  // namespace refgss
