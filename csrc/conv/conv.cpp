// conv.cpp: whole signals through transforms, a strip at a time.
#include <algorithm>
#include <cmath>
#include <vector>

#include "conv/convolution.hpp"
#include "conv/prepared.hpp"
#include "conv/scaled_row.hpp"

namespace refgss {
namespace {

/// By the definition.
template <class T>
void convolve_direct(const conv_plan<T>& plan, const spectra<T>& taps, const view<const T, 3>& u,
                     const view<T, 3>& y) {
    const int64_t batch = u.shape[0], items = sized(plan.strips, batch);
    parallel_for(items, slots_for(items), [&](int64_t item, int) {
        const int64_t i = item / batch, b = item % batch;
        plan.table.direct(plan.template rows_of_strip<const T>(u, b, i), taps[i], plan.taps,
                         plan.template rows_of_strip<T>(y, b, i));
    });
}

/// Channels side by side.  A strip's spectrum is `ready`, or made from k and used while it is in
/// cache.  A thread takes a run of signals at a time.  sums: those of all strips and signals, which
/// go on, or nullptr for sums that begin at zero.
template <class T>
void convolve_strips(const conv_plan<T>& plan, const spectra<T>* ready, const view<const T, 2>& k,
                     const view<const T, 3>& u, const view<T, 3>& y, T* sums, signal_flags& wild) {
    const int64_t batch = u.shape[0], length = u.shape[1], all = sized(plan.strips, batch);
    const int64_t run = ready ? std::max<int64_t>(all / (4 * thread_count()), 1) : batch;
    const int64_t items = (all + run - 1) / run, size = pipeline<T>::size(plan);
    const int slots = slots_for(items);
    scratch<T> memory(sized(slots, size));
    std::vector<pipeline<T>> pipelines(slots);
    for (int slot = 0; slot < slots; ++slot) pipelines[slot].use(plan, memory.data() + slot * size);

    struct piece {
        int64_t signal, step;  // strip * batch + b
    };
    const auto steps_at = [&](const piece& p) { return std::min(plan.steps(), length - p.step); };
    parallel_for(items, slots, [&](int64_t item, int slot) {
        pipeline<T>& f = pipelines[slot];
        const auto expect = [&](const piece& p) {
            const int64_t i = p.signal / batch, b = p.signal % batch;
            const auto rows = plan.template rows_of_strip<const T>(u, b, i);
            f.expect(steps_of(rows, p.step, steps_at(p)));
        };
        const int64_t end = std::min((item + 1) * run, all);
        piece now{item * run, 0};
        expect(now);
        if (!ready) plan.prepare(item, k, f.spectrum, f.work, f.kernel_largest, &f.in);
        while (now.signal < end && !stopping()) {
            piece next{now.signal, now.step + plan.steps()};
            if (next.step >= length) next = {now.signal + 1, 0};
            const int64_t i = now.signal / batch;
            const T* kernel = ready ? (*ready)[i] : f.spectrum;
            T* sum = sums ? sums + now.signal * plan.sum_size() : f.sum;
            if (!sums && now.step == 0) std::fill_n(sum, plan.sum_size(), T(0));
            const panel<T> target = plan.template rows_of_strip<T>(y, now.signal % batch, i);
            f.pass(kernel, sum, steps_of(target, now.step, steps_at(now)),
                   [&] { next.signal < end ? expect(next) : f.expect_nothing(); });
            if (!plan.calm(ready ? ready->largest(i) : f.kernel_largest, f.largest))
                wild[now.signal] = 1;
            now = next;
        }
    });
    parallel_for(slots, slots, [&](int64_t slot, int) { pipelines[slot].finish(); });
}

/// Single channels, as above.
template <class T>
void convolve_rows(const conv_plan<T>& plan, const spectra<T>* ready, const view<const T, 2>& k,
                   const view<const T, 3>& u, const view<T, 3>& y, T* sums, signal_flags& wild) {
    const int64_t batch = u.shape[0], length = u.shape[1];
    const int64_t size = 2 * plan.spectrum_size + plan.sum_size();
    row_buffer<T> area(plan, length);
    const int slots = slots_for(area.at_once);
    scratch<T> memory(sized(slots, size));
    for (int64_t first = 0; first < plan.strips; first += area.at_once)
        for (int64_t b = 0; b < batch; ++b) {
            const int64_t count = std::min(area.at_once, plan.strips - first);
            area.gather(u, b, first, count);
            parallel_for(count, slots, [&](int64_t i, int slot) {
                T *work = memory.data() + slot * size, *spectrum = work + plan.spectrum_size,
                  *sum = spectrum + plan.spectrum_size, *x = area.row(i);
                T made[64], largest[64];
                if (!ready) plan.prepare(first + i, k, spectrum, work, made, nullptr);
                if (stopping()) return;
                const T* kernel = ready ? (*ready)[first + i] : spectrum;
                const T* taps_largest = ready ? ready->largest(first + i) : made;
                if (sums)
                    sum = sums + ((first + i) * batch + b) * plan.sum_size();
                else
                    std::fill_n(sum, plan.sum_size(), T(0));
                for (int64_t l = 0; l < length && !stopping(); l += plan.steps(), x += plan.steps()) {
                    plan.magnitudes(x, largest);
                    if (!plan.calm(taps_largest, largest)) wild[(first + i) * batch + b] = 1;
                    plan.apply(kernel, x, std::min(plan.steps(), length - l), sum, x, work, {});
                }
            });
            area.scatter(y, b, first, count);
        }
}

// ---- Rows that are not calm ---------------------------------------------------------------------

/// The rows that are not calm once more, one by one, as multiples of powers of two; their neighbours in a
/// strip keep their bits.  A row that is not finite stays as it is (GSS-NFI-8).
template <class T>
void convolve_wild(const conv_plan<T>& plan, const signal_flags& wild, const view<const T, 2>& k,
                   const view<const T, 3>& u, const view<T, 3>& y) {
    const int64_t batch = u.shape[0], length = u.shape[1];
    for (int64_t at = 0; at < static_cast<int64_t>(wild.size()); ++at) {
        if (!wild[at]) continue;
        const int64_t b = at % batch, first = plan.first(at / batch);
        for (int64_t h = first; h < first + plan.count(at / batch); ++h) {
            scaled_row<T> signal(u.at(b, 0, h), length, u.stride[1]);
            scaled_row<T> taps(k.at(h, 0), std::min(k.shape[1], length), k.stride[1]);
            if (!signal.finite || !taps.finite || (signal.calm && taps.calm)) continue;
            scaled_row<T> result = signal;
            causal_conv(as_const(signal.signal()), as_const(taps.kernel()), result.signal());
            for (int64_t l = 0; l < length; ++l)
                *y.at(b, l, h) = std::ldexp(result.values[l], signal.exponent + taps.exponent);
        }
    }
}

}  // namespace

template <class T>
void causal_conv(const view<const T, 3>& u, const view<const T, 2>& k, const view<T, 3>& y) {
    const int64_t batch = u.shape[0];
    if (y.size() == 0) return;
    if (k.shape[1] == 0) return fill_zero(y);
    const auto why = purpose::whole;
    for (const channel_range& r : conv_plan<T>::ranges(u.shape[2], k.shape[1], u.shape[1], why)) {
        const conv_plan<T> plan(r, k.shape[1], u.shape[1], why);
        const auto part = part_of(k, r);
        const auto in = part_of(u, r), out = part_of(y, r);
        if (plan.direct) {
            convolve_direct(plan, spectra<T>(plan, part), in, out);
            continue;
        }
        const auto run = plan.rows ? convolve_rows<T> : convolve_strips<T>;
        // a spectrum is used while it is in cache, unless that occupies too few threads
        const bool few = slots_for(plan.strips) < slots_for(sized(plan.strips, batch));
        signal_flags wild(sized(plan.strips, batch), 0);
        if (plan.rows ? batch == 1 : !few)
            run(plan, nullptr, part, in, out, nullptr, wild);
        else
            run(plan, std::make_unique<spectra<T>>(plan, part).get(), part, in, out, nullptr, wild);
        convolve_wild(plan, wild, part, in, out);
    }
}

template <class T>
void prepared_range<T>::convolve(const view<const T, 3>& u, const view<T, 3>& y, T* sums,
                                 const view<const T, 2>* k) const {
    const auto in = part_of(u, range);
    const auto out = part_of(y, range);
    if (plan.direct) return convolve_direct(plan, ready, in, out);
    signal_flags wild(sized(plan.strips, u.shape[0]), 0);
    (plan.rows ? convolve_rows<T> : convolve_strips<T>)(plan, &ready, {}, in, out, sums, wild);
    if (k) convolve_wild(plan, wild, part_of(*k, range), in, out);
}

template <class T>
prepared_ranges<T> prepare(const view<const T, 2>& k, int64_t length, purpose why) {
    prepared_ranges<T> list;
    for (const channel_range& r : conv_plan<T>::ranges(k.shape[0], k.shape[1], length, why))
        list.push_back(std::make_shared<const prepared_range<T>>(r, k, length, why));
    return list;
}

template <class T>
spectrum<T>::spectrum(const view<const T, 2>& k, int64_t length)
    : channels_(k.shape[0]), length_(length), ranges_(prepare<T>(k, length, purpose::whole)),
      taps_(sized(k.shape[0], k.shape[1])) {
    for (int64_t h = 0; h < k.shape[0]; ++h)
        for (int64_t j = 0; j < k.shape[1]; ++j) taps_[h * k.shape[1] + j] = *k.at(h, j);
}

template <class T>
void spectrum<T>::convolve(const view<const T, 3>& u, const view<T, 3>& y) const {
    if (y.size() == 0) return;
    const int64_t count = channels_ ? static_cast<int64_t>(taps_.size()) / channels_ : 0;
    const view<const T, 2> k{taps_.data(), {channels_, count}, {count, 1}};
    for (const auto& r : ranges_) r->convolve(u, y, nullptr, &k);
}

template void causal_conv(const view<const float, 3>&, const view<const float, 2>&, const view<float, 3>&);
template void causal_conv(const view<const double, 3>&, const view<const double, 2>&,
                          const view<double, 3>&);
template struct prepared_range<float>;
template struct prepared_range<double>;
template prepared_ranges<float> prepare(const view<const float, 2>&, int64_t, purpose);
template prepared_ranges<double> prepare(const view<const double, 2>&, int64_t, purpose);
template class spectrum<float>;
template class spectrum<double>;

}  // namespace refgss
