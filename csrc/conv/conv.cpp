// conv.cpp: the entries of the convolution: checks, then loops over strips.
#include <algorithm>
#include <cmath>
#include <vector>

#include "conv/method.hpp"
#include "core/array.hpp"
#include "core/handle.hpp"
#include "core/scratch.hpp"
#include "core/threads.hpp"

namespace refgss {
namespace {

/// By the definition.
template <class T>
void convolve_direct(const method<T>& how, const spectra<T>& taps, const view<T, 3>& u,
                     const view<T, 3>& y) {
    const int64_t batch = u.shape[0], items = sized(how.strips, batch);
    parallel_for(items, slots_for(items), [&](int64_t item, int) {
        const int64_t i = item / batch, b = item % batch;
        how.table.direct(how.template rows_of_strip<const T>(u, b, i), taps[i], how.taps,
                         how.template rows_of_strip<T>(y, b, i));
    });
}

/// Which signals, strip * batch + b, are not calm.
using signal_flags = std::vector<unsigned char>;

/// Channels side by side.  A strip's spectrum is `ready`, or made from k and used while it is in
/// cache.  A thread takes a run of signals at a time.  sums: those of all strips and signals, which
/// go on, or nullptr for sums that begin at zero.
template <class T>
void convolve_strips(const method<T>& how, const spectra<T>* ready, const view<const T, 2>& k,
                     const view<T, 3>& u, const view<T, 3>& y, T* sums, signal_flags& wild) {
    const int64_t batch = u.shape[0], length = u.shape[1], all = sized(how.strips, batch);
    const int64_t run = ready ? std::max<int64_t>(all / (4 * thread_count()), 1) : batch;
    const int64_t items = (all + run - 1) / run, size = flow<T>::size(how);
    const int slots = slots_for(items);
    scratch<T> memory(sized(slots, size));
    std::vector<flow<T>> flows(slots);
    for (int slot = 0; slot < slots; ++slot) flows[slot].use(how, memory.data() + slot * size);

    struct piece {
        int64_t signal, step;  // strip * batch + b
    };
    const auto steps_at = [&](const piece& p) { return std::min(how.steps(), length - p.step); };
    parallel_for(items, slots, [&](int64_t item, int slot) {
        flow<T>& f = flows[slot];
        const auto expect = [&](const piece& p) {
            const int64_t i = p.signal / batch, b = p.signal % batch;
            const auto rows = how.template rows_of_strip<const T>(u, b, i);
            f.expect(steps_of(rows, p.step, steps_at(p)));
        };
        const int64_t end = std::min((item + 1) * run, all);
        piece now{item * run, 0};
        expect(now);
        if (!ready) how.prepare(item, k, f.spectrum, f.work, f.kernel_largest, &f.in);
        while (now.signal < end && !stopping()) {
            piece next{now.signal, now.step + how.steps()};
            if (next.step >= length) next = {now.signal + 1, 0};
            const int64_t i = now.signal / batch;
            const T* kernel = ready ? (*ready)[i] : f.spectrum;
            T* sum = sums ? sums + now.signal * how.sum_size() : f.sum;
            if (!sums && now.step == 0) std::fill_n(sum, how.sum_size(), T(0));
            const panel<T> target = how.template rows_of_strip<T>(y, now.signal % batch, i);
            f.pass(kernel, sum, steps_of(target, now.step, steps_at(now)),
                   [&] { next.signal < end ? expect(next) : f.expect_nothing(); });
            if (!how.calm(ready ? ready->largest(i) : f.kernel_largest, f.largest))
                wild[now.signal] = 1;
            now = next;
        }
    });
    parallel_for(slots, slots, [&](int64_t slot, int) { flows[slot].finish(); });
}

/// Single channels, as above.
template <class T>
void convolve_rows(const method<T>& how, const spectra<T>* ready, const view<const T, 2>& k,
                   const view<T, 3>& u, const view<T, 3>& y, T* sums, signal_flags& wild) {
    const int64_t batch = u.shape[0], length = u.shape[1];
    const int64_t size = 2 * how.spectrum_size + how.sum_size();
    rows_area<T> area(how, length);
    const int slots = slots_for(area.at_once);
    scratch<T> memory(sized(slots, size));
    for (int64_t first = 0; first < how.strips; first += area.at_once)
        for (int64_t b = 0; b < batch; ++b) {
            const int64_t count = std::min(area.at_once, how.strips - first);
            area.gather(u, b, first, count);
            parallel_for(count, slots, [&](int64_t i, int slot) {
                T *work = memory.data() + slot * size, *spectrum = work + how.spectrum_size,
                  *sum = spectrum + how.spectrum_size, *x = area.row(i);
                T made[64], largest[64];
                if (!ready) how.prepare(first + i, k, spectrum, work, made, nullptr);
                if (stopping()) return;
                const T* kernel = ready ? (*ready)[first + i] : spectrum;
                const T* taps_largest = ready ? ready->largest(first + i) : made;
                if (sums)
                    sum = sums + ((first + i) * batch + b) * how.sum_size();
                else
                    std::fill_n(sum, how.sum_size(), T(0));
                for (int64_t l = 0; l < length && !stopping(); l += how.steps(), x += how.steps()) {
                    how.magnitudes(x, largest);
                    if (!how.calm(taps_largest, largest)) wild[(first + i) * batch + b] = 1;
                    how.apply(kernel, x, std::min(how.steps(), length - l), sum, x, work, {});
                }
            });
            area.scatter(y, b, first, count);
        }
}

template <class T>
void convolve(const view<T, 3>& u, const view<const T, 2>& k, const view<T, 3>& y);

// ---- Rows that are not calm ---------------------------------------------------------------------

/// A row of n numbers times 2^-exponent, the largest near 1.
template <class T> struct scaled_row {
    std::vector<T> values;
    int exponent = 0;
    bool finite = true, calm;

    scaled_row(const T* from, int64_t count, int64_t stride) : values(count) {
        T most = 0;
        for (int64_t i = 0; i < count; ++i) {
            const T x = values[i] = from[i * stride];
            finite = finite && std::isfinite(x);
            most = std::max(most, std::abs(x));
        }
        calm = finite && is_calm(most);
        if (!finite || most == 0) return;
        std::frexp(most, &exponent);
        for (T& x : values) x = std::ldexp(x, -exponent);
    }
    view<T, 3> signal() { return {values.data(), {1, size(), 1}, {size(), 1, 1}}; }
    view<T, 2> kernel() { return {values.data(), {1, size()}, {size(), 1}}; }
    int64_t size() const { return static_cast<int64_t>(values.size()); }
};

/// The rows that are not calm once more, one by one, as multiples of powers of two; their neighbours in a
/// strip keep their bits.  A row that is not finite stays as it is (GSS-NFI-8).
template <class T>
void convolve_wild(const method<T>& how, const signal_flags& wild, const view<const T, 2>& k,
                   const view<T, 3>& u, const view<T, 3>& y) {
    const int64_t batch = u.shape[0], length = u.shape[1];
    for (int64_t at = 0; at < static_cast<int64_t>(wild.size()); ++at) {
        if (!wild[at]) continue;
        const int64_t b = at % batch, first = how.first(at / batch);
        for (int64_t h = first; h < first + how.count(at / batch); ++h) {
            scaled_row<T> signal(u.at(b, 0, h), length, u.stride[1]);
            scaled_row<T> taps(k.at(h, 0), std::min(k.shape[1], length), k.stride[1]);
            if (!signal.finite || !taps.finite || (signal.calm && taps.calm)) continue;
            scaled_row<T> result = signal;
            convolve(signal.signal(), as_const(taps.kernel()), result.signal());
            for (int64_t l = 0; l < length; ++l)
                *y.at(b, l, h) = std::ldexp(result.values[l], signal.exponent + taps.exponent);
        }
    }
}

template <class T>
void convolve(const view<T, 3>& u, const view<const T, 2>& k, const view<T, 3>& y) {
    const int64_t batch = u.shape[0];
    const auto why = purpose::whole;
    for (const channel_range& r : method<T>::ranges(u.shape[2], k.shape[1], u.shape[1], why)) {
        const method<T> how(r, k.shape[1], u.shape[1], why);
        const auto part = part_of(k, r);
        const auto in = part_of(u, r), out = part_of(y, r);
        if (how.direct) {
            convolve_direct(how, spectra<T>(how, part), in, out);
            continue;
        }
        const auto run = how.rows ? convolve_rows<T> : convolve_strips<T>;
        // a spectrum is used while it is in cache, unless that occupies too few threads
        const bool few = slots_for(how.strips) < slots_for(sized(how.strips, batch));
        signal_flags wild(sized(how.strips, batch), 0);
        if (how.rows ? batch == 1 : !few)
            run(how, nullptr, part, in, out, nullptr, wild);
        else
            run(how, std::make_unique<spectra<T>>(how, part).get(), part, in, out, nullptr, wild);
        convolve_wild(how, wild, part, in, out);
    }
}

/// du is the convolution of dy with k in reversed time.  dk[j] is step L-1-j of the convolution of
/// reversed dy with u, summed over the batch before the one transform back.
template <class T>
void gradient_of_taps(const method<T>& how, int64_t strip, T* sum, T* signal, int64_t length,
                      const view<T, 2>& dk) {
    how.table.inverse(how.plan(), sum, signal);
    const int64_t first = how.first(strip), taps = how.taps;
    errand<T> e{steps_of(as_input(how.signal(signal)), length - taps, taps),
                {dk.at(first, taps - 1), taps, -dk.stride[1], dk.stride[0], how.count(strip),
                 place::anywhere},
                0};
    how.table.copy(e);
}

template <class T>
void gradients_of_strips(const method<T>& how, const view<T, 3>& u, const view<const T, 2>& k,
                         const view<T, 3>& dy, const view<T, 3>& du, const view<T, 2>& dk,
                         signal_flags& wild) {
    const int64_t batch = u.shape[0], length = u.shape[1];
    const int64_t size = how.spectrum_size, room = how.steps() * how.width;
    const int64_t area = 4 * size + 3 * room;
    const int slots = slots_for(how.strips);
    scratch<T> memory(sized(slots, area));
    parallel_for(how.strips, slots, [&](int64_t i, int slot) {
        T *kernel = memory.data() + slot * area, *sum = kernel + size, *other = sum + size,
          *work = other + size, *u_room = work + size, *now = u_room + room, *before = now + room;
        const T scale = T(1) / static_cast<T>(how.steps());
        const auto coming = [&](const view<T, 3>& x, int64_t b, T* to) {
            return errand<T>{how.template rows_of_strip<const T>(x, b, i), how.signal(to), 0};
        };
        errand<T> u_in = coming(u, 0, u_room), dy_in, du_out;
        T taps[64], largest[64];
        how.prepare(i, k, kernel, work, taps, &u_in);
        std::fill_n(sum, size, T(0));
        for (int64_t b = 0; b < batch && !stopping(); ++b) {
            how.table.copy(u_in);
            how.magnitudes(u_room, largest);
            if (!how.calm(taps, largest)) wild[i] = 1;
            dy_in = coming(dy, b, now);
            how.table.forward(how.plan(), u_room, scale, other, {&dy_in, &du_out});
            how.table.copy(dy_in);
            how.magnitudes(now, largest);
            if (!how.calm(taps, largest)) wild[i] = 1;
            u_in = b + 1 < batch ? coming(u, b + 1, u_room) : errand<T>{};
            how.table.convolve_gradient(how.plan(), now, kernel, other, sum, now, work,
                                        {&u_in, nullptr});
            du_out = {as_input(steps_of(how.signal(now), 0, length)),
                      how.template rows_of_strip<T>(du, b, i), 0};
            std::swap(now, before);
        }
        how.table.copy(du_out);
        gradient_of_taps(how, i, sum, work, length, dk);
    });
}

template <class T>
void gradients_of_rows(const method<T>& how, const view<T, 3>& u, const view<const T, 2>& k,
                       const view<T, 3>& dy, const view<T, 3>& du, const view<T, 2>& dk,
                       signal_flags& wild) {
    const int64_t batch = u.shape[0], length = u.shape[1], size = how.spectrum_size;
    rows_area<T> area(how, length), cotangent(how, length);
    const int slots = slots_for(area.at_once);
    const bool wait = batch > 1;  // a row's kernel and sum, for its next signal
    scratch<T> memory(sized(slots, 2 * size)), kept(sized(wait ? area.at_once : slots, 2 * size));
    for (int64_t first = 0; first < how.strips; first += area.at_once) {
        const int64_t count = std::min(area.at_once, how.strips - first);
        for (int64_t b = 0; b < batch; ++b) {
            area.gather(u, b, first, count);
            cotangent.gather(dy, b, first, count);
            parallel_for(count, slots, [&](int64_t i, int slot) {
                T *other = memory.data() + slot * 2 * size, *work = other + size,
                  *kernel = kept.data() + (wait ? i : slot) * 2 * size, *sum = kernel + size;
                T taps[64], largest[64];
                if (b == 0) {
                    how.prepare(first + i, k, kernel, work, taps, nullptr);
                    if (!is_calm(*taps)) wild[first + i] = 1;
                    std::fill_n(sum, size, T(0));
                }
                for (const T* row : {area.row(i), cotangent.row(i)}) {
                    how.magnitudes(row, largest);
                    if (!is_calm(*largest)) wild[first + i] = 1;
                }
                const T scale = T(1) / static_cast<T>(how.steps());
                how.table.forward(how.plan(), area.row(i), scale, other, {});
                how.table.convolve_gradient(how.plan(), cotangent.row(i), kernel, other, sum,
                                            cotangent.row(i), work, {});
                if (b + 1 == batch) gradient_of_taps(how, first + i, sum, work, length, dk);
            });
            cotangent.scatter(du, b, first, count);
        }
    }
}

template <class T>
void gradients(const view<T, 3>& u, const view<const T, 2>& k, const view<T, 3>& dy,
               const view<T, 3>& du, const view<T, 2>& dk);

/// As `convolve_wild`, where dy, du are in reversed time.
template <class T>
void gradients_wild(const method<T>& how, const signal_flags& wild, const view<T, 3>& u,
                    const view<const T, 2>& k, const view<T, 3>& dy, const view<T, 3>& du,
                    const view<T, 2>& dk) {
    const int64_t batch = u.shape[0], length = u.shape[1], taps = dk.shape[1];
    for (int64_t strip = 0; strip < static_cast<int64_t>(wild.size()); ++strip) {
        if (!wild[strip]) continue;
        for (int64_t h = how.first(strip); h < how.first(strip) + how.count(strip); ++h) {
            scaled_row<T> kernel(k.at(h, 0), taps, k.stride[1]);
            bool calm = kernel.calm, finite = kernel.finite;
            for (int64_t b = 0; b < batch; ++b)
                for (const view<T, 3>* x : {&u, &dy}) {
                    const scaled_row<T> row(x->at(b, 0, h), length, x->stride[1]);
                    calm = calm && row.calm, finite = finite && row.finite;
                }
            if (calm || !finite) continue;
            std::vector<double> sum(taps, 0.0);
            for (int64_t b = 0; b < batch; ++b) {
                scaled_row<T> signal(u.at(b, 0, h), length, u.stride[1]);
                scaled_row<T> cotangent(dy.at(b, 0, h), length, dy.stride[1]);
                scaled_row<T> to_signal = signal, to_kernel = kernel;
                gradients(signal.signal(), as_const(kernel.kernel()),
                          cotangent.signal().reversed(1), to_signal.signal().reversed(1),
                          to_kernel.kernel());
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

template <class T>
void gradients(const view<T, 3>& u, const view<const T, 2>& k, const view<T, 3>& dy,
               const view<T, 3>& du, const view<T, 2>& dk) {
    const int64_t length = u.shape[1], taps = std::min(k.shape[1], length);
    const auto why = purpose::gradient;
    for (const channel_range& r : method<T>::ranges(u.shape[2], taps, length, why)) {
        const method<T> how(r, taps, length, why);
        const auto in = part_of(u, r), back = part_of(dy.reversed(1), r);
        const auto out = part_of(du.reversed(1), r);
        signal_flags wild(how.strips, 0);
        (how.rows ? gradients_of_rows<T> : gradients_of_strips<T>)(how, in, part_of(k, r), back, out,
                                                                   part_of(dk, r), wild);
        view<T, 2> seen = part_of(dk, r);
        seen.shape[1] = taps;
        gradients_wild(how, wild, in, part_of(k, r), back, out, seen);
    }
}

// ---- checks ------------------------------------------------------------------------------------

/// `other` must be as u (B,L,H) is.
void check_like_signal(const refgss_array& u, const refgss_array* other, const char* name) {
    check_array(other, name, 3);
    check_same_dtype(u, *other, name);
    const char* axes[] = {"B", "L", "H"};
    for (int i = 0; i < 3; ++i) check_axis(name, axes[i], other->shape[i], u.shape[i]);
}
void check_kernel(const refgss_array& u, const refgss_array* k, const char* name) {
    check_array(k, name, 2);
    check_same_dtype(u, *k, name);
    check_axis(name, "H", k->shape[0], u.shape[2]);
}
void check_signals(const refgss_array* u, const refgss_array* y) {
    check_array(u, "u", 3);
    check_like_signal(*u, y, "y");
}
template <class T> void fill_zero(const view<T, 3>& y) {
    if (y.size() == 0) return;
    for (int64_t b = 0; b < y.shape[0]; ++b)
        for (int64_t l = 0; l < y.shape[1]; ++l)
            for (int64_t h = 0; h < y.shape[2]; ++h) *y.at(b, l, h) = T(0);
}
template <class T> void fill_zero(const view<T, 2>& k) {
    fill_zero(view<T, 3>{k.data, {1, k.shape[0], k.shape[1]}, {0, k.stride[0], k.stride[1]}});
}

}  // namespace
}  // namespace refgss

using namespace refgss;

int32_t refgss_causal_conv(const refgss_array* u, const refgss_array* k, const refgss_array* y) {
    return guarded([&] {
        check_signals(u, y);
        check_kernel(*u, k, "k");
        check_outputs({{y, "y"}}, {{u, "u"}, {k, "k"}});
        with_scalar(*u, [&](auto scalar) {
            using T = decltype(scalar);
            const auto out = typed<T, 3>(*y);
            if (out.size() == 0) return;
            if (k->shape[1] == 0) return fill_zero(out);
            convolve(typed<T, 3>(*u), typed<const T, 2>(*k), out);
        });
    });
}

int32_t refgss_causal_conv_vjp(const refgss_array* u, const refgss_array* k,
                               const refgss_array* dy, const refgss_array* du,
                               const refgss_array* dk) {
    return guarded([&] {
        check_array(u, "u", 3);
        check_kernel(*u, k, "k");
        check_like_signal(*u, dy, "dy");
        check_like_signal(*u, du, "du");
        check_kernel(*u, dk, "dk");
        check_axis("dk", "Lk", dk->shape[1], k->shape[1]);
        check_outputs({{du, "du"}, {dk, "dk"}}, {{u, "u"}, {k, "k"}, {dy, "dy"}});
        with_scalar(*u, [&](auto scalar) {
            using T = decltype(scalar);
            const auto du_out = typed<T, 3>(*du);
            const auto dk_out = typed<T, 2>(*dk);
            fill_zero(dk_out);  // taps that no output has seen
            if (du_out.size() == 0) return;
            if (dk_out.size() == 0) return fill_zero(du_out);
            gradients(typed<T, 3>(*u), typed<const T, 2>(*k), typed<T, 3>(*dy), du_out, dk_out);
        });
    });
}

// ---- a kernel transformed once, and a signal in chunks ------------------------------------------

struct refgss_spectrum {
    virtual ~refgss_spectrum() = default;
    virtual void convolve(const refgss_array& u, const refgss_array& y) const = 0;
};

struct refgss_conv_stream : changing_handle {
    virtual ~refgss_conv_stream() = default;
    virtual void push(const refgss_array& u, const refgss_array& y) = 0;
};

namespace refgss {
namespace {

/// A range of channels, its method and its spectra.
template <class T> struct prepared_range {
    channel_range range;
    method<T> how;
    spectra<T> ready;

    prepared_range(const channel_range& r, const view<const T, 2>& k, int64_t length, purpose why)
        : range(r), how(r, k.shape[1], length, why), ready(how, part_of(k, r)) {}

    /// sums: those of a stream, or nullptr.  k: the kernel, for signals that are not calm; a stream has
    /// none, and multiplies their rows by powers of two itself.
    void convolve(const view<T, 3>& u, const view<T, 3>& y, T* sums, const view<const T, 2>* k) const {
        const auto in = part_of(u, range), out = part_of(y, range);
        if (how.direct) return convolve_direct(how, ready, in, out);
        signal_flags wild(sized(how.strips, u.shape[0]), 0);
        (how.rows ? convolve_rows<T> : convolve_strips<T>)(how, &ready, {}, in, out, sums, wild);
        if (k) convolve_wild(how, wild, part_of(*k, range), in, out);
    }
};

template <class T>
std::vector<std::unique_ptr<prepared_range<T>>> prepare(const view<const T, 2>& k, int64_t length,
                                                        purpose why) {
    std::vector<std::unique_ptr<prepared_range<T>>> list;
    for (const channel_range& r : method<T>::ranges(k.shape[0], k.shape[1], length, why))
        list.push_back(std::make_unique<prepared_range<T>>(r, k, length, why));
    return list;
}

template <class T> class prepared final : public refgss_spectrum {
public:
    prepared(const view<const T, 2>& k, int64_t length)
        : channels_(k.shape[0]), length_(length), ranges_(prepare<T>(k, length, purpose::whole)),
          taps_(sized(k.shape[0], k.shape[1])) {
        for (int64_t h = 0; h < k.shape[0]; ++h)
            for (int64_t j = 0; j < k.shape[1]; ++j) taps_[h * k.shape[1] + j] = *k.at(h, j);
    }

    void convolve(const refgss_array& u, const refgss_array& y) const override {
        if (u.dtype != dtype_of<T>)
            throw error{REFGSS_ERROR_TYPE, "u has another dtype than the kernel: convert it"};
        check_axis("u", "H", u.shape[2], channels_);
        if (u.shape[1] > length_)
            throw error{REFGSS_ERROR_VALUE,
                        "u is longer than the spectrum's length: make one for more steps"};
        const auto in = typed<T, 3>(u), out = typed<T, 3>(y);
        if (out.size() == 0) return;
        const int64_t count = channels_ ? static_cast<int64_t>(taps_.size()) / channels_ : 0;
        const view<const T, 2> k{taps_.data(), {channels_, count}, {count, 1}};
        for (const auto& r : ranges_) r->convolve(in, out, nullptr, &k);
    }

private:
    int64_t channels_, length_;
    std::vector<std::unique_ptr<prepared_range<T>>> ranges_;
    std::vector<T> taps_;  // (H,Lk)
};

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
template <class T> class stream final : public refgss_conv_stream {
public:
    stream(const view<const T, 2>& k, int64_t batch) : stream(calm_kernel<T>(k), batch) {}

    stream(const calm_kernel<T>& k, int64_t batch)
        : channels_(k.rows.shape[0]), batch_(batch),
          ranges_(prepare<T>(k.rows, 0, purpose::stream)), kernel_exponents_(k.exponents),
          exponents_(sized(batch, channels_), 0), largest_(exponents_.size()) {
        for (const auto& r : ranges_) {
            const int64_t size = sized(sized(r->how.strips, batch), r->how.sum_size());
            sums_.push_back(std::make_unique<scratch<T>>(size));
            std::fill_n(sums_.back()->data(), size, T(0));
        }
    }

    void push(const refgss_array& u, const refgss_array& y) override {
        if (u.dtype != dtype_of<T>)
            throw error{REFGSS_ERROR_TYPE, "u has another dtype than the kernel: convert it"};
        check_axis("u", "B", u.shape[0], batch_);
        check_axis("u", "H", u.shape[2], channels_);
        if (torn_)
            throw error{REFGSS_ERROR_VALUE, "a push was interrupted, and the stream is at no known step: "
                                            "make a new one"};
        const auto in = typed<T, 3>(u), out = typed<T, 3>(y);
        if (out.size() == 0) return;
        const bool multiplied = choose_exponents(in);
        std::vector<T> copy(multiplied ? in.size() : 0);
        torn_ = true;  // until all sums have gone on
        if (multiplied) {
            const view<T, 3> scaled{copy.data(),
                                    {batch_, in.shape[1], channels_},
                                    {in.shape[1] * channels_, channels_, 1}};
            multiply(in, scaled, [&](int64_t row, int64_t) { return -exponents_[row]; });
            advance(scaled, out);
            multiply(out, out, [&](int64_t row, int64_t h) {
                return exponents_[row] + kernel_exponents_[h];
            });
        } else {
            advance(in, out);
        }
        torn_ = false;
    }

private:
    void advance(const view<T, 3>& in, const view<T, 3>& out) {
        for (size_t i = 0; i < ranges_.size(); ++i)
            ranges_[i]->convolve(in, out, sums_[i]->data(), nullptr);
    }

    /// For each row the exponent by which chunk and past are calm; whether any differs from 0.
    bool choose_exponents(const view<T, 3>& in) {
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
        const int64_t width = r.how.width, strip = c / width, count = 2 * r.how.steps();
        T* sum = sums + (strip * batch_ + b) * r.how.sum_size() + c % width;
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
    void multiply(const view<T, 3>& from, const view<T, 3>& to, Exponent exponent) const {
        by_columns([&](int64_t b, int64_t first, int64_t end) {
            for (int64_t l = 0; l < from.shape[1] && !stopping(); ++l)
                for (int64_t h = first; h < end; ++h)
                    *to.at(b, l, h) = std::ldexp(*from.at(b, l, h), exponent(b * channels_ + h, h));
        });
    }

    int64_t channels_, batch_;
    bool torn_ = false;
    std::vector<std::unique_ptr<prepared_range<T>>> ranges_;
    std::vector<int> kernel_exponents_;  // (H)
    std::vector<int> exponents_;         // (B,H)
    std::vector<T> largest_;             // (B,H), of a chunk
    std::vector<std::unique_ptr<scratch<T>>> sums_;  // of each range: the running sums
};

}  // namespace
}  // namespace refgss

int32_t refgss_spectrum_new(const refgss_array* k, int64_t length, refgss_spectrum** spectrum) {
    return guarded([&] {
        *need(spectrum, "spectrum") = nullptr;
        check_array(k, "k", 2);
        if (length < 0) throw error{REFGSS_ERROR_VALUE, "length is negative: use at least 0"};
        with_scalar(*k, [&](auto scalar) {
            using T = decltype(scalar);
            *spectrum = new prepared<T>(typed<const T, 2>(*k), length);
        });
    });
}

void refgss_spectrum_free(refgss_spectrum* spectrum) { delete spectrum; }

int32_t refgss_spectrum_conv(const refgss_spectrum* spectrum, const refgss_array* u,
                             const refgss_array* y) {
    return guarded([&] {
        need(spectrum, "the handle");
        check_signals(u, y);
        check_outputs({{y, "y"}}, {{u, "u"}});
        spectrum->convolve(*u, *y);
    });
}

int32_t refgss_conv_stream_new(const refgss_array* k, int64_t batch, refgss_conv_stream** handle) {
    return guarded([&] {
        *need(handle, "stream") = nullptr;
        check_array(k, "k", 2);
        if (batch < 0) throw error{REFGSS_ERROR_VALUE, "batch is negative: use at least 0"};
        with_scalar(*k, [&](auto scalar) {
            using T = decltype(scalar);
            *handle = new stream<T>(typed<const T, 2>(*k), batch);
        });
    });
}

void refgss_conv_stream_free(refgss_conv_stream* stream) { delete stream; }

int32_t refgss_conv_stream_push(refgss_conv_stream* stream, const refgss_array* u,
                                const refgss_array* y) {
    return alone_with(stream, [&](refgss_conv_stream& s) {
        check_signals(u, y);
        check_outputs({{y, "y"}}, {{u, "u"}});
        s.push(*u, *y);
    });
}
