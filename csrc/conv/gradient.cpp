// gradient.cpp: the gradients of the convolution.
#include <algorithm>
#include <cmath>
#include <vector>

#include "conv/convolution.hpp"
#include "conv/plan.hpp"
#include "conv/scaled_row.hpp"

namespace refgss {
namespace {

/// du is the convolution of dy with k in reversed time.  dk[j] is step L-1-j of the convolution of
/// reversed dy with u, summed over the batch before the one transform back.
template <class T>
void gradient_of_taps(const conv_plan<T>& plan, int64_t strip, T* sum, T* signal, int64_t length,
                      const view<T, 2>& dk) {
    plan.table.inverse(plan.fft(), sum, signal);
    const int64_t first = plan.first(strip), taps = plan.taps;
    tile_copy<T> e{steps_of(as_input(plan.signal(signal)), length - taps, taps),
                {dk.at(first, taps - 1), taps, -dk.stride[1], dk.stride[0], plan.count(strip),
                 locality::anywhere},
                0};
    plan.table.copy(e);
}

template <class T>
void gradients_of_strips(const conv_plan<T>& plan, const view<const T, 3>& u, const view<const T, 2>& k,
                         const view<const T, 3>& dy, const view<T, 3>& du, const view<T, 2>& dk,
                         signal_flags& wild) {
    const int64_t batch = u.shape[0], length = u.shape[1];
    const int64_t size = plan.spectrum_size, room = plan.steps() * plan.width;
    const int64_t area = 4 * size + 3 * room;
    const int slots = slots_for(plan.strips);
    scratch<T> memory(sized(slots, area));
    parallel_for(plan.strips, slots, [&](int64_t i, int slot) {
        T *kernel = memory.data() + slot * area, *sum = kernel + size, *other = sum + size,
          *work = other + size, *u_room = work + size, *now = u_room + room, *before = now + room;
        const T scale = T(1) / static_cast<T>(plan.steps());
        const auto coming = [&](const view<const T, 3>& x, int64_t b, T* to) {
            return tile_copy<T>{plan.template rows_of_strip<const T>(x, b, i), plan.signal(to), 0};
        };
        tile_copy<T> u_in = coming(u, 0, u_room), dy_in, du_out;
        T taps[64], largest[64];
        plan.prepare(i, k, kernel, work, taps, &u_in);
        std::fill_n(sum, size, T(0));
        for (int64_t b = 0; b < batch && !stopping(); ++b) {
            plan.table.copy(u_in);
            plan.magnitudes(u_room, largest);
            if (!plan.calm(taps, largest)) wild[i] = 1;
            dy_in = coming(dy, b, now);
            plan.table.forward(plan.fft(), u_room, scale, other, {&dy_in, &du_out});
            plan.table.copy(dy_in);
            plan.magnitudes(now, largest);
            if (!plan.calm(taps, largest)) wild[i] = 1;
            u_in = b + 1 < batch ? coming(u, b + 1, u_room) : tile_copy<T>{};
            plan.table.convolve_gradient(plan.fft(), now, kernel, other, sum, now, work,
                                        {&u_in, nullptr});
            du_out = {as_input(steps_of(plan.signal(now), 0, length)),
                      plan.template rows_of_strip<T>(du, b, i), 0};
            std::swap(now, before);
        }
        plan.table.copy(du_out);
        gradient_of_taps(plan, i, sum, work, length, dk);
    });
}

template <class T>
void gradients_of_rows(const conv_plan<T>& plan, const view<const T, 3>& u, const view<const T, 2>& k,
                       const view<const T, 3>& dy, const view<T, 3>& du, const view<T, 2>& dk,
                       signal_flags& wild) {
    const int64_t batch = u.shape[0], length = u.shape[1], size = plan.spectrum_size;
    row_buffer<T> area(plan, length), cotangent(plan, length);
    const int slots = slots_for(area.at_once);
    const bool wait = batch > 1;  // a row's kernel and sum, for its next signal
    scratch<T> memory(sized(slots, 2 * size)), kept(sized(wait ? area.at_once : slots, 2 * size));
    for (int64_t first = 0; first < plan.strips; first += area.at_once) {
        const int64_t count = std::min(area.at_once, plan.strips - first);
        for (int64_t b = 0; b < batch; ++b) {
            area.gather(u, b, first, count);
            cotangent.gather(dy, b, first, count);
            parallel_for(count, slots, [&](int64_t i, int slot) {
                T *other = memory.data() + slot * 2 * size, *work = other + size,
                  *kernel = kept.data() + (wait ? i : slot) * 2 * size, *sum = kernel + size;
                T taps[64], largest[64];
                if (b == 0) {
                    plan.prepare(first + i, k, kernel, work, taps, nullptr);
                    if (!is_calm(*taps)) wild[first + i] = 1;
                    std::fill_n(sum, size, T(0));
                }
                for (const T* row : {area.row(i), cotangent.row(i)}) {
                    plan.magnitudes(row, largest);
                    if (!is_calm(*largest)) wild[first + i] = 1;
                }
                const T scale = T(1) / static_cast<T>(plan.steps());
                plan.table.forward(plan.fft(), area.row(i), scale, other, {});
                plan.table.convolve_gradient(plan.fft(), cotangent.row(i), kernel, other, sum,
                                            cotangent.row(i), work, {});
                if (b + 1 == batch) gradient_of_taps(plan, first + i, sum, work, length, dk);
            });
            cotangent.scatter(du, b, first, count);
        }
    }
}

/// As `convolve_wild`, where dy, du are in reversed time.
template <class T>
void gradients_wild(const conv_plan<T>& plan, const signal_flags& wild, const view<const T, 3>& u,
                    const view<const T, 2>& k, const view<const T, 3>& dy, const view<T, 3>& du,
                    const view<T, 2>& dk) {
    const int64_t batch = u.shape[0], length = u.shape[1], taps = dk.shape[1];
    for (int64_t strip = 0; strip < static_cast<int64_t>(wild.size()); ++strip) {
        if (!wild[strip]) continue;
        for (int64_t h = plan.first(strip); h < plan.first(strip) + plan.count(strip); ++h) {
            scaled_row<T> kernel(k.at(h, 0), taps, k.stride[1]);
            bool calm = kernel.calm, finite = kernel.finite;
            for (int64_t b = 0; b < batch; ++b)
                for (const view<const T, 3>* x : {&u, &dy}) {
                    const scaled_row<T> row(x->at(b, 0, h), length, x->stride[1]);
                    calm = calm && row.calm, finite = finite && row.finite;
                }
            if (calm || !finite) continue;
            std::vector<double> sum(taps, 0.0);
            for (int64_t b = 0; b < batch; ++b) {
                scaled_row<T> signal(u.at(b, 0, h), length, u.stride[1]);
                scaled_row<T> cotangent(dy.at(b, 0, h), length, dy.stride[1]);
                scaled_row<T> to_signal = signal, to_kernel = kernel;
                causal_conv_vjp(as_const(signal.signal()), as_const(kernel.kernel()),
                                as_const(cotangent.signal().reversed(1)),
                                to_signal.signal().reversed(1), to_kernel.kernel());
                for (int64_t l = 0; l < length; ++l)
                    *du.at(b, l, h) = std::ldexp(to_signal.values[l], cotangent.exponent + kernel.exponent);
                for (int64_t j = 0; j < taps; ++j)
                    sum[j] += std::ldexp(static_cast<double>(to_kernel.values[j]),
                                         signal.exponent + cotangent.exponent);
            }
            for (int64_t j = 0; j < taps; ++j) *dk.at(h, j) = static_cast<T>(sum[j]);
        }
    }
}

}  // namespace

template <class T>
void causal_conv_vjp(const view<const T, 3>& u, const view<const T, 2>& k, const view<const T, 3>& dy,
                     const view<T, 3>& du, const view<T, 2>& dk) {
    fill_zero(dk);  // taps that no output has seen
    if (du.size() == 0) return;
    if (dk.size() == 0) return fill_zero(du);
    const int64_t length = u.shape[1], taps = std::min(k.shape[1], length);
    const auto why = purpose::gradient;
    for (const channel_range& r : conv_plan<T>::ranges(u.shape[2], taps, length, why)) {
        const conv_plan<T> plan(r, taps, length, why);
        const auto in = part_of(u, r), back = part_of(dy.reversed(1), r);
        const auto out = part_of(du.reversed(1), r);
        signal_flags wild(plan.strips, 0);
        (plan.rows ? gradients_of_rows<T> : gradients_of_strips<T>)(plan, in, part_of(k, r), back, out,
                                                                   part_of(dk, r), wild);
        view<T, 2> seen = part_of(dk, r);
        seen.shape[1] = taps;
        gradients_wild(plan, wild, in, part_of(k, r), back, out, seen);
    }
}

template void causal_conv_vjp(const view<const float, 3>&, const view<const float, 2>&,
                              const view<const float, 3>&, const view<float, 3>&, const view<float, 2>&);
template void causal_conv_vjp(const view<const double, 3>&, const view<const double, 2>&,
                              const view<const double, 3>&, const view<double, 3>&,
                              const view<double, 2>&);

}  // namespace refgss
