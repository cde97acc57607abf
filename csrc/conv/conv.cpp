// conv.cpp: the entries of the convolution: checks, then loops over strips.
#include "conv/method.hpp"
#include "core/array.hpp"
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

/// Channels side by side.  A strip's spectrum is `ready`, or made from k and used while it is in
/// cache.  A thread takes a run of signals at a time.  sums: those of all strips and signals, which
/// go on, or nullptr for sums that begin at zero.
template <class T>
void convolve_strips(const method<T>& how, const spectra<T>* ready, const view<const T, 2>& k,
                     const view<T, 3>& u, const view<T, 3>& y, T* sums) {
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
        if (!ready) how.prepare(item, k, f.spectrum, f.work, &f.in);
        while (now.signal < end) {
            piece next{now.signal, now.step + how.steps()};
            if (next.step >= length) next = {now.signal + 1, 0};
            const int64_t i = now.signal / batch;
            const T* kernel = ready ? (*ready)[i] : f.spectrum;
            T* sum = sums ? sums + now.signal * how.sum_size() : f.sum;
            if (!sums && now.step == 0) std::fill_n(sum, how.sum_size(), T(0));
            const panel<T> target = how.template rows_of_strip<T>(y, now.signal % batch, i);
            f.pass(kernel, sum, steps_of(target, now.step, steps_at(now)),
                   [&] { next.signal < end ? expect(next) : f.expect_nothing(); });
            now = next;
        }
    });
    parallel_for(slots, slots, [&](int64_t slot, int) { flows[slot].finish(); });
}

/// Single channels, as above.
template <class T>
void convolve_rows(const method<T>& how, const spectra<T>* ready, const view<const T, 2>& k,
                   const view<T, 3>& u, const view<T, 3>& y, T* sums) {
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
                if (!ready) how.prepare(first + i, k, spectrum, work, nullptr);
                const T* kernel = ready ? (*ready)[first + i] : spectrum;
                if (sums)
                    sum = sums + ((first + i) * batch + b) * how.sum_size();
                else
                    std::fill_n(sum, how.sum_size(), T(0));
                for (int64_t l = 0; l < length; l += how.steps(), x += how.steps())
                    how.apply(kernel, x, std::min(how.steps(), length - l), sum, x, work, {});
            });
            area.scatter(y, b, first, count);
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
        const bool few = slots_for(how.strips) < slots_for(how.strips * batch);
        if (how.rows ? batch == 1 : !few)
            run(how, nullptr, part, in, out, nullptr);
        else
            run(how, std::make_unique<spectra<T>>(how, part).get(), part, in, out, nullptr);
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
                         const view<T, 3>& dy, const view<T, 3>& du, const view<T, 2>& dk) {
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
        how.prepare(i, k, kernel, work, &u_in);
        std::fill_n(sum, size, T(0));
        for (int64_t b = 0; b < batch; ++b) {
            how.table.copy(u_in);
            dy_in = coming(dy, b, now);
            how.table.forward(how.plan(), u_room, scale, other, {&dy_in, &du_out});
            how.table.copy(dy_in);
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
                       const view<T, 3>& dy, const view<T, 3>& du, const view<T, 2>& dk) {
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
                if (b == 0) {
                    how.prepare(first + i, k, kernel, work, nullptr);
                    std::fill_n(sum, size, T(0));
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
               const view<T, 3>& du, const view<T, 2>& dk) {
    const int64_t length = u.shape[1], taps = std::min(k.shape[1], length);
    const auto why = purpose::gradient;
    for (const channel_range& r : method<T>::ranges(u.shape[2], taps, length, why)) {
        const method<T> how(r, taps, length, why);
        (how.rows ? gradients_of_rows<T> : gradients_of_strips<T>)(
            how, part_of(u, r), part_of(k, r), part_of(dy.reversed(1), r),
            part_of(du.reversed(1), r), part_of(dk, r));
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
void check_handle(const void* handle) {
    if (handle == nullptr) throw error{REFGSS_ERROR_VALUE, "the handle is NULL: make one first"};
}

template <class T> void fill_zero(const view<T, 3>& y) {
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
        check_output(*y, "y", {u, k});
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
        check_output(*du, "du", {u, k, dy, dk});
        check_output(*dk, "dk", {u, k, dy});
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

struct refgss_conv_stream {
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

    void convolve(const view<T, 3>& u, const view<T, 3>& y, T* sums) const {
        const auto in = part_of(u, range), out = part_of(y, range);
        if (how.direct)
            convolve_direct(how, ready, in, out);
        else if (how.rows)
            convolve_rows(how, &ready, {}, in, out, sums);
        else
            convolve_strips(how, &ready, {}, in, out, sums);
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
        : channels_(k.shape[0]), length_(length), ranges_(prepare<T>(k, length, purpose::whole)) {}

    void convolve(const refgss_array& u, const refgss_array& y) const override {
        if (u.dtype != dtype_of<T>)
            throw error{REFGSS_ERROR_TYPE, "u has another dtype than the kernel: convert it"};
        check_axis("u", "H", u.shape[2], channels_);
        if (u.shape[1] > length_)
            throw error{REFGSS_ERROR_VALUE,
                        "u is longer than the spectrum's length: make one for more steps"};
        const auto in = typed<T, 3>(u), out = typed<T, 3>(y);
        if (out.size() == 0) return;
        for (const auto& r : ranges_) r->convolve(in, out, nullptr);
    }

private:
    int64_t channels_, length_;
    std::vector<std::unique_ptr<prepared_range<T>>> ranges_;
};

template <class T> class stream final : public refgss_conv_stream {
public:
    stream(const view<const T, 2>& k, int64_t batch)
        : channels_(k.shape[0]), batch_(batch), ranges_(prepare<T>(k, 0, purpose::stream)) {
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
        const auto in = typed<T, 3>(u), out = typed<T, 3>(y);
        if (out.size() == 0) return;
        for (size_t i = 0; i < ranges_.size(); ++i)
            ranges_[i]->convolve(in, out, sums_[i]->data());
    }

private:
    int64_t channels_, batch_;
    std::vector<std::unique_ptr<prepared_range<T>>> ranges_;
    std::vector<std::unique_ptr<scratch<T>>> sums_;  // of each range: the running sums
};

}  // namespace
}  // namespace refgss

int32_t refgss_spectrum_new(const refgss_array* k, int64_t length, refgss_spectrum** spectrum) {
    return guarded([&] {
        check_handle(spectrum);
        *spectrum = nullptr;
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
        check_handle(spectrum);
        check_signals(u, y);
        check_output(*y, "y", {u});
        spectrum->convolve(*u, *y);
    });
}

int32_t refgss_conv_stream_new(const refgss_array* k, int64_t batch, refgss_conv_stream** handle) {
    return guarded([&] {
        check_handle(handle);
        *handle = nullptr;
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
    return guarded([&] {
        check_handle(stream);
        check_signals(u, y);
        check_output(*y, "y", {u});
        stream->push(*u, *y);
    });
}
