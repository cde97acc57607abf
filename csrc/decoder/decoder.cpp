// decoder.cpp: the states of a decoder between its tokens, and the decoder at the ABI.
#include "decoder/decoder.hpp"

namespace refgss::decoding {

void decoder::read_out(size_t i) {
    const layer& l = model_->layers[i];
    memory& m = layers_[i];
    const int64_t block = model_->block, H = model_->channels, N = model_->states;
    const int64_t stride = m.readout.stride();
    if (!l.blocks) {
        auto from = as_const(state_of(m));
        view<float, 3> to{m.readout.data(), {batch_, block, H}, {block * stride, stride, 1}};
        return l.map->read_out(l.map->sorted(&from, batch_), to, false);
    }
    grid weighted(batch_ * H, 2 * N), y(batch_ * H, block);
    for_rows(batch_ * H, [&](int64_t r) {
        const float *x = m.state.row(r), *w = l.blocks.weights.data() + r % H * 2 * N;
        float* to = weighted.row(r);
        for (int64_t n = 0; n < N; ++n) {
            to[n] = w[n] * x[n] - w[N + n] * x[N + n];
            to[N + n] = w[n] * x[N + n] + w[N + n] * x[n];
        }
    });
    multiply(*l.blocks.to_output, batch_ * H, weighted, y);
    for_rows(batch_ * block, [&](int64_t i) {
        for (int64_t h = 0; h < H; ++h) m.readout.row(i)[h] = y.row(i / block * H + h)[i % block];
    });
}

/// The states after the pending inputs.
grid decoder::moved(const layer& l, const memory& m) const {
    const int64_t block = model_->block, H = model_->channels, N = model_->states;
    grid x = m.state;
    if (filled_ == 0) return x;
    if (!l.blocks) {
        auto from = state_of(m);
        std::vector<double> sorted = l.map->sorted(&from, batch_);
        l.map->advance(sorted, seen(m));
        l.map->unsorted(sorted, {x.data(), {batch_, H, N, 2}, {H * x.stride(), x.stride(), 1, N}});
        return x;
    }
    grid u(batch_ * H, block), sum(batch_ * H, 2 * N);
    for_rows(batch_ * H, [&](int64_t r) {
        for (int64_t j = 0; j < filled_; ++j)
            u.row(r)[j] = m.inputs.row(r / H * block + filled_ - 1 - j)[r % H];
    });
    multiply(*l.blocks.to_state, batch_ * H, u, sum);
    std::vector<double> power = l.blocks.last;
    for (int64_t n = 0; n < N && filled_ < block; ++n) {
        const complex a = l.blocks.power(n, filled_);
        power[n] = a.real(), power[N + n] = a.imag();
    }
    for_rows(batch_ * H, [&](int64_t r) {
        float* to = x.row(r);
        const float* s = sum.row(r);
        for (int64_t n = 0; n < N; ++n) {  // in binary64: an error of Ā^block would add up
            const double re = to[n], im = to[N + n];
            to[n] = static_cast<float>(power[n] * re - power[N + n] * im + s[n]);
            to[N + n] = static_cast<float>(power[n] * im + power[N + n] * re + s[N + n]);
        }
    });
    return x;
}

/// Moves the states over the pending inputs.  They are rounded to binary32 here and nowhere else.
void decoder::advance() {
    if (filled_ == 0) return;
    for (size_t i = 0; i < layers_.size(); ++i)
        layers_[i].state = moved(model_->layers[i], layers_[i]);
    filled_ = 0;
    for (size_t i = 0; i < layers_.size(); ++i) read_out(i);
}

void decoder::state(view<float, 4> out, bool before_pending) const {
    const int64_t H = model_->channels, N = model_->states;
    for (int64_t i = 0; i < depth(); ++i) {
        const memory& m = layers_[i];
        const grid x = before_pending ? m.state : moved(model_->layers[i], m);
        for (int64_t r = 0; r < batch_ * H; ++r)
            for (int64_t n = 0; n < 2 * N; ++n)
                *out.at(i * batch_ + r / H, r % H, n % N, n / N) = x.row(r)[n];
    }
}

void decoder::pending(view<float, 3> out) const {
    for (int64_t r = 0; r < out.shape[0]; ++r)
        for (int64_t n = 0; n < filled_; ++n)
            for (int64_t h = 0; h < out.shape[2]; ++h)
                *out.at(r, n, h) =
                    layers_[r / batch_].inputs.row(r % batch_ * model_->block + n)[h];
}

void decoder::restore(view<const float, 4> state, const view<const float, 3>* pending,
                      int64_t position) {
    filled_ = pending ? pending->shape[1] : 0;
    position_ = position;
    for (int64_t i = 0; i < depth(); ++i) {
        memory& m = layers_[i];
        const int64_t H = model_->channels, N = model_->states;
        for (int64_t r = 0; r < batch_ * H; ++r)
            for (int64_t n = 0; n < 2 * N; ++n)
                m.state.row(r)[n] = *state.at(i * batch_ + r / H, r % H, n % N, n / N);
        for (int64_t b = 0; b < batch_; ++b)
            for (int64_t n = 0; n < filled_; ++n)
                for (int64_t h = 0; h < model_->channels; ++h)
                    m.inputs.row(b * model_->block + n)[h] = *pending->at(i * batch_ + b, n, h);
        read_out(i);
    }
}

}  // namespace refgss::decoding

using namespace refgss;
using namespace refgss::decoding;

// ---- The ABI ------------------------------------------------------------------------------------

/// The handle of the ABI.
struct refgss_decoder : decoder {
    using decoder::decoder;
};

namespace {

/// f(decoder), refusing a handle that is NULL.
template <class Decoder, class F> int32_t with(Decoder* decoder, F&& f) {
    return guarded([&] {
        if (decoder == nullptr)
            throw error{REFGSS_ERROR_VALUE, "the handle is NULL: make one first"};
        f(*decoder);
    });
}

void check_given(const int64_t* tokens, const char* name, int64_t count) {
    if (count < 0) throw error{REFGSS_ERROR_VALUE, "length must not be negative"};
    if (tokens == nullptr && count > 0)
        throw error{REFGSS_ERROR_VALUE, std::string(name) + " is NULL: pass an array"};
}

template <class T>
view<T, 4> states_of(const decoder& d, const refgss_array* a) {
    return shaped<T, 4>(a, "state", d.depth() * d.batch(), d.of().channels, d.of().states, int64_t(2));
}

}  // namespace

int32_t refgss_decoder_new(const refgss_lm_params* params, int64_t batch, int64_t block,
                           refgss_decoder** decoder) {
    return guarded([&] {
        if (params == nullptr || params->layers == nullptr)
            throw error{REFGSS_ERROR_VALUE, "the parameters are NULL: pass some"};
        if (batch < 0 || block < 1)
            throw error{REFGSS_ERROR_VALUE, "a decoder needs batch >= 0 and block >= 1"};
        auto made = std::make_unique<refgss_decoder>(std::make_shared<model>(*params, block), batch);
        *decoder = made.release();
    });
}

int32_t refgss_decoder_fork(const refgss_decoder* decoder, refgss_decoder** fork) {
    return with(decoder, [&](const refgss_decoder& d) { *fork = new refgss_decoder(d); });
}

int32_t refgss_decoder_fresh(const refgss_decoder* decoder, int64_t batch, refgss_decoder** fresh) {
    return with(decoder, [&](const refgss_decoder& d) {
        if (batch < 0) throw error{REFGSS_ERROR_VALUE, "a decoder needs batch >= 0"};
        *fresh = new refgss_decoder(d.weights(), batch);
    });
}

void refgss_decoder_free(refgss_decoder* decoder) { delete decoder; }

int32_t refgss_decoder_step(refgss_decoder* decoder, const int64_t* tokens,
                            const refgss_array* logits) {
    return with(decoder, [&](refgss_decoder& d) {
        check_given(tokens, "tokens", d.batch());
        auto out = shaped<float, 2>(logits, "logits", d.batch(), d.of().vocabulary);
        check_output(*logits, "logits", {});
        d.step(tokens, out);
    });
}

int32_t refgss_decoder_prefill(refgss_decoder* decoder, const int64_t* tokens, int64_t length,
                               const refgss_array* logits) {
    return with(decoder, [&](refgss_decoder& d) {
        check_given(tokens, "tokens", length);
        if (logits == nullptr) throw error{REFGSS_ERROR_VALUE, "logits is NULL: pass an array"};
        check_array(logits, "logits", logits->rank == 3 ? 3 : 2);
        check_output(*logits, "logits", {});
        d.prefill(tokens, length, logits);
    });
}

int32_t refgss_decoder_loss(refgss_decoder* decoder, const int64_t* tokens, const int64_t* targets,
                            int64_t length, const refgss_array* loss) {
    return with(decoder, [&](refgss_decoder& d) {
        check_given(tokens, "tokens", length), check_given(targets, "targets", length);
        auto out = shaped<double, 2>(loss, "loss", d.batch(), length);
        check_output(*loss, "loss", {});
        d.loss(tokens, targets, length, out);
    });
}

int32_t refgss_decoder_state(const refgss_decoder* decoder, const refgss_array* state) {
    return with(decoder, [&](const refgss_decoder& d) { d.state(states_of<float>(d, state), false); });
}

int64_t refgss_decoder_pending(const refgss_decoder* decoder) {
    return decoder ? decoder->filled() : 0;
}

int64_t refgss_decoder_position(const refgss_decoder* decoder) {
    return decoder ? decoder->position() : 0;
}

int32_t refgss_decoder_snapshot(const refgss_decoder* decoder, const refgss_array* state,
                                const refgss_array* pending) {
    return with(decoder, [&](const refgss_decoder& d) {
        auto x = states_of<float>(d, state);
        auto u = shaped<float, 3>(pending, "pending", d.depth() * d.batch(), d.filled(), d.of().channels);
        check_output(*state, "state", {pending}), check_output(*pending, "pending", {state});
        d.state(x, true);
        d.pending(u);
    });
}

int32_t refgss_decoder_restore(refgss_decoder* decoder, const refgss_array* state,
                               const refgss_array* pending, int64_t position) {
    return with(decoder, [&](refgss_decoder& d) {
        auto x = states_of<const float>(d, state);
        if (position < 0 || position > d.of().span)
            throw error{REFGSS_ERROR_VALUE, "position must not be negative, nor beyond dss-softmax's length"};
        if (pending == nullptr) return d.restore(x, nullptr, position);
        auto u = checked<const float, 3>(pending, "pending");
        check_axis("pending", "axis 0", u.shape[0], d.depth() * d.batch());
        check_axis("pending", "H", u.shape[2], d.of().channels);
        if (u.shape[1] >= d.of().block)
            throw error{REFGSS_ERROR_VALUE, "pending has more steps than the decoder's block: use the "
                                            "block with which it was saved"};
        d.restore(x, &u, position);
    });
}
