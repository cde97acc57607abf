// conv.cpp: the entries of the convolution: checks, then loops over strips.
#include "array.hpp"
#include "conv_method.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace refgss {
namespace {

/// Scalars of a thread's area: what all spectra, or all running sums, of one strip take at most.
template <class T> int64_t largest_spectra(const method<T>& how) {
    return how.largest([&](const strip& s) { return sized(how.spectrum_size(s), s.transforms()); });
}
template <class T> int64_t largest_sums(const method<T>& how) {
    return how.largest([&](const strip& s) { return sized(how.sum_size(s), s.transforms()); });
}
template <class T> int64_t largest_work(const method<T>& how) {
    return how.largest([&](const strip& s) { return how.work_size(s); });
}

/// A strip at a time; its spectra are used while they are in cache.
template <class T>
void convolve_strips(const method<T>& how, const view<T, 3>& u, const view<const T, 2>& k,
                     const view<T, 3>& y) {
    const int64_t strips = static_cast<int64_t>(how.strips.size());
    const signals<T> in(how, u), out(how, y);
    in.gather();
    const int slots = slots_for(strips);
    const int64_t kernels = largest_spectra(how), sums = largest_sums(how);
    const int64_t area = kernels + sums + largest_work(how);
    scratch<T> memory(sized(slots, area));
    parallel_for(strips, slots, [&](int64_t i, int slot) {
        const strip& s = how.strips[i];
        T *kernel = memory.data() + slot * area, *sum = kernel + kernels, *work = sum + sums;
        how.prepare(s, k, kernel);
        for (int64_t b = 0; b < u.shape[0]; ++b) {
            std::fill_n(sum, sums, T(0));
            how.apply(s, kernel, in.template steps<const T>(s, b), out.template steps<T>(s, b), sum,
                      work);
        }
    });
    out.scatter();
}

/// With the spectra ready, the signals of a batch are independent too.
template <class T>
void convolve_prepared(const method<T>& how, const spectra<T>& ready, const view<T, 3>& u,
                       const view<T, 3>& y) {
    const int64_t batch = u.shape[0], items = static_cast<int64_t>(how.strips.size()) * batch;
    const signals<T> in(how, u), out(how, y);
    in.gather();
    const int slots = slots_for(items);
    const int64_t sums = largest_sums(how), area = sums + largest_work(how);
    scratch<T> memory(sized(slots, area));
    parallel_for(items, slots, [&](int64_t item, int slot) {
        const strip& s = how.strips[item / batch];
        const int64_t b = item % batch;
        T* sum = memory.data() + slot * area;
        std::fill_n(sum, sums, T(0));
        how.apply(s, ready[item / batch], in.template steps<const T>(s, b),
                  out.template steps<T>(s, b), sum, sum + sums);
    });
    out.scatter();
}

template <class T>
void convolve(const view<T, 3>& u, const view<const T, 2>& k, const view<T, 3>& y) {
    const method<T> how(u.shape[2], k.shape[1], u.shape[1], purpose::whole);
    const int64_t strips = static_cast<int64_t>(how.strips.size());
    if (slots_for(strips) < slots_for(strips * u.shape[0]))  // too few strips for the threads
        return convolve_prepared(how, spectra<T>(how, k), u, y);
    convolve_strips(how, u, k, y);
}

/// du is the convolution of dy with k in reversed time.  dk[j] is step L-1-j of the convolution of
/// reversed dy with u, summed over the batch before the one transform back.
template <class T>
void gradients(const view<T, 3>& u, const view<const T, 2>& k, const view<T, 3>& dy,
               const view<T, 3>& du, const view<T, 2>& dk) {
    const int64_t length = u.shape[1], taps = std::min(k.shape[1], length);
    const method<T> how(u.shape[2], taps, length, purpose::gradient);
    const signals<T> in(how, u), cotangent(how, dy.reversed(1)), out(how, du.reversed(1));
    in.gather();
    cotangent.gather();
    const int64_t strips = static_cast<int64_t>(how.strips.size());
    const int64_t all = largest_spectra(how), one = how.largest([&](const strip& s) {
        return how.spectrum_size(s);
    });
    const int64_t room = how.largest([&](const strip& s) { return how.room_size(s); });
    const int64_t area = 2 * all + 2 * one + 2 * room + sized(how.table.lanes, row_pitch<T>(length));
    const int slots = slots_for(strips);
    scratch<T> memory(sized(slots, area));
    parallel_for(strips, slots, [&](int64_t i, int slot) {
        const strip& s = how.strips[i];
        const fft_plan<T>& plan = how.plan(s);
        const int64_t size = how.spectrum_size(s);
        T *kernel = memory.data() + slot * area, *sum = kernel + all, *signal = sum + all,
          *work = signal + one, *u_room = work + one, *y_room = u_room + room,
          *taps_room = y_room + room;
        how.prepare(s, k, kernel);
        std::fill_n(sum, size * s.transforms(), T(0));
        for (int64_t b = 0; b < u.shape[0]; ++b) {
            const gathered<T> u_rows(how, s, in.template steps<const T>(s, b), u_room);
            const gathered<T> y_rows(how, s, cotangent.template steps<const T>(s, b), y_room);
            const panel<T> target = out.template steps<T>(s, b);
            const panel<T> du_rows = y_rows.copied() ? y_rows.room() : target;
            for (int t = 0; t < s.transforms(); ++t) {
                how.table.forward(plan, s.transform_of(u_rows.rows(), t), T(1), signal);
                how.table.convolve_gradient(plan, s.transform_of(y_rows.rows(), t),
                                            kernel + t * size, signal, sum + t * size,
                                            s.transform_of(du_rows, t), work);
            }
            if (y_rows.copied()) how.table.copy(as_input(du_rows), target);
        }
        const T scale = T(1) / static_cast<T>(plan.length);
        for (int t = 0; t < s.transforms(); ++t) {
            const panel<T> rows = rows_in(taps_room, length, s.transforms() > 1 ? 1 : s.count);
            how.table.inverse(plan, sum + t * size, rows);
            for (int lane = 0; lane < rows.lanes; ++lane)
                for (int64_t j = 0; j < taps; ++j)
                    *dk.at(s.first + t + lane, j) =
                        scale * taps_room[lane * rows.lane_stride + length - 1 - j];
        }
    });
    out.scatter();
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

template <class T> class prepared final : public refgss_spectrum {
public:
    prepared(const view<const T, 2>& k, int64_t length)
        : channels_(k.shape[0]), length_(length),
          how_(channels_, k.shape[1], length, purpose::whole), ready_(how_, k) {}

    void convolve(const refgss_array& u, const refgss_array& y) const override {
        if (u.dtype != dtype_of<T>)
            throw error{REFGSS_ERROR_TYPE, "u has another dtype than the kernel: convert it"};
        check_axis("u", "H", u.shape[2], channels_);
        if (u.shape[1] > length_)
            throw error{REFGSS_ERROR_VALUE,
                        "u is longer than the spectrum's length: make one for more steps"};
        const auto out = typed<T, 3>(y);
        if (out.size() > 0) convolve_prepared(how_, ready_, typed<T, 3>(u), out);
    }

private:
    int64_t channels_, length_;
    method<T> how_;
    spectra<T> ready_;
};

template <class T> class stream final : public refgss_conv_stream {
public:
    stream(const view<const T, 2>& k, int64_t batch)
        : channels_(k.shape[0]), batch_(batch), how_(channels_, k.shape[1], 0, purpose::stream),
          ready_(how_, k), size_(largest_sums(how_)), sums_(sized(size_, items())) {
        std::fill_n(sums_.data(), size_ * items(), T(0));
    }

    void push(const refgss_array& u, const refgss_array& y) override {
        if (u.dtype != dtype_of<T>)
            throw error{REFGSS_ERROR_TYPE, "u has another dtype than the kernel: convert it"};
        check_axis("u", "B", u.shape[0], batch_);
        check_axis("u", "H", u.shape[2], channels_);
        const auto target = typed<T, 3>(y);
        if (target.size() == 0) return;
        const signals<T> in(how_, typed<T, 3>(u)), out(how_, target);
        in.gather();
        const int slots = slots_for(items());
        const int64_t work = largest_work(how_);
        scratch<T> memory(sized(slots, work));
        parallel_for(items(), slots, [&](int64_t item, int slot) {
            const strip& s = how_.strips[item / batch_];
            const int64_t b = item % batch_;
            how_.apply(s, ready_[item / batch_], in.template steps<const T>(s, b),
                       out.template steps<T>(s, b), sums_.data() + item * size_,
                       memory.data() + slot * work);
        });
        out.scatter();
    }

private:
    int64_t items() const { return sized(static_cast<int64_t>(how_.strips.size()), batch_); }

    int64_t channels_, batch_;
    method<T> how_;
    spectra<T> ready_;
    int64_t size_;  // scalars of one strip's running sums
    scratch<T> sums_;
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
