// decoder.cpp: the states of a decoder between its tokens, and the decoder at the ABI.
#include "decoder/decoder.hpp"

#include "core/scratch.hpp"

namespace refgss::decoding {

/// What the states (B H, 2N) of a layer add to the outputs of a block, (B block, H).
grid decoder::read_out(const layer& l, const grid& states) const {
    const int64_t block = model_->block, H = model_->channels, N = model_->states;
    grid readout(sized(batch_, block), H);
    const int64_t stride = readout.stride();
    if (!l.blocks) {
        auto from = state_of(states);
        view<float, 3> to{readout.data(), {batch_, block, H}, {block * stride, stride, 1}};
        l.map->read_out(l.map->sorted(&from, batch_), to, false);
        return readout;
    }
    grid weighted(batch_ * H, 2 * N), y(batch_ * H, block);
    for_rows(batch_ * H, [&](int64_t r) {
        const float *x = states.row(r), *w = l.blocks.weights.data() + r % H * 2 * N;
        float* to = weighted.row(r);
        for (int64_t n = 0; n < N; ++n) {
            to[n] = w[n] * x[n] - w[N + n] * x[N + n];
            to[N + n] = w[n] * x[N + n] + w[N + n] * x[n];
        }
    });
    multiply(*l.blocks.to_output, batch_ * H, weighted, y);
    for_rows(batch_ * block, [&](int64_t i) {
        for (int64_t h = 0; h < H; ++h) readout.row(i)[h] = y.row(i / block * H + h)[i % block];
    });
    return readout;
}

/// The states after the first `count` inputs of the block.  They are rounded to binary32 here and
/// nowhere else.
grid decoder::moved(const layer& l, const memory& m, int64_t count) const {
    const int64_t block = model_->block, H = model_->channels, N = model_->states;
    grid x = m.state;
    if (count == 0) return x;
    if (!l.blocks) {
        auto from = state_of(m.state);
        std::vector<double> sorted = l.map->sorted(&from, batch_);
        l.map->advance(sorted, seen(m, count));
        l.map->unsorted(sorted, state_of(x));
        return x;
    }
    grid u(batch_ * H, block), sum(batch_ * H, 2 * N);
    for_rows(batch_ * H, [&](int64_t r) {
        for (int64_t j = 0; j < count; ++j)
            u.row(r)[j] = m.inputs.row(r / H * block + count - 1 - j)[r % H];
    });
    multiply(*l.blocks.to_state, batch_ * H, u, sum);
    std::vector<double> power = l.blocks.last;
    for (int64_t n = 0; n < N && count < block; ++n) {
        const complex a = l.blocks.power(n, count);
        power[n] = a.real(), power[N + n] = a.imag();
    }
    for_rows(batch_ * H, [&](int64_t r) {
        float* to = x.row(r);
        const float* s = sum.row(r);
        for (int64_t n = 0; n < N; ++n) {  // in binary64: an error of Ā^block would add up
            const double re = to[n], im = to[N + n];
            to[n] = settled<float>(power[n] * re - power[N + n] * im + s[n]);
            to[N + n] = settled<float>(power[n] * im + power[N + n] * re + s[N + n]);
        }
    });
    return x;
}

/// All layers, moved over the first `count` inputs of the block.
next_block decoder::after(int64_t count) const {
    next_block next;
    for (size_t i = 0; i < layers_.size(); ++i) {
        next.states.push_back(moved(model_->layers[i], layers_[i], count));
        next.readouts.push_back(read_out(model_->layers[i], next.states[i]));
    }
    return next;
}

/// A block begins with these states, `tokens` tokens later.
void decoder::begin_block(next_block next, int64_t tokens) noexcept {
    for (size_t i = 0; i < layers_.size(); ++i) {
        std::swap(layers_[i].state, next.states[i]);
        std::swap(layers_[i].readout, next.readouts[i]);
    }
    filled_ = 0, position_ += tokens;
}

void decoder::state(view<float, 4> out, bool before_pending) const {
    const int64_t H = model_->channels, N = model_->states;
    for (int64_t i = 0; i < depth(); ++i) {
        const grid x = moved(model_->layers[i], layers_[i], before_pending ? 0 : filled_.load());
        serial_for(batch_ * H, [&](int64_t r) {
            for (int64_t n = 0; n < 2 * N; ++n)
                *out.at(i * batch_ + r / H, r % H, n % N, n / N) = x.row(r)[n];
        });
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
    const int64_t H = model_->channels, N = model_->states, block = model_->block;
    const int64_t count = pending ? pending->shape[1] : 0;
    std::vector<memory> layers(layers_.size(), memory(batch_, block, H, N));
    for (int64_t i = 0; i < depth(); ++i) {
        memory& m = layers[i];
        serial_for(batch_ * H, [&](int64_t r) {
            for (int64_t n = 0; n < 2 * N; ++n)
                m.state.row(r)[n] = *state.at(i * batch_ + r / H, r % H, n % N, n / N);
        });
        for (int64_t b = 0; b < batch_; ++b)
            for (int64_t n = 0; n < count; ++n)
                for (int64_t h = 0; h < H; ++h)
                    m.inputs.row(b * block + n)[h] = *pending->at(i * batch_ + b, n, h);
        m.readout = read_out(model_->layers[i], m.state);
    }
    layers_.swap(layers), filled_ = count, position_ = position;
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

/// Tokens (B,L) as a view, for what is asked of every argument; of the size of binary64.
refgss_array as_array(const int64_t* tokens, int64_t batch, int64_t length) {
    if (length < 0) throw error{REFGSS_ERROR_VALUE, "length must not be negative"};
    return {const_cast<int64_t*>(tokens), REFGSS_F64, 2, {batch, length}, {length, 1}};
}

/// Throws unless the tokens are there, and the output is their and its own only user.
void check_read(const refgss_decoder& d, const int64_t* tokens, const int64_t* targets, int64_t length,
                const refgss_array* output, const char* name) {
    const refgss_array t = as_array(tokens, d.batch(), length);
    const refgss_array u = as_array(targets ? targets : tokens, d.batch(), length);
    check_array(&t, "tokens", 2), check_array(&u, "targets", 2);
    check_outputs({{output, name}}, {{&t, "tokens"}, {&u, "targets"}});
}

template <class T>
view<T, 4> states_of(const decoder& d, const refgss_array* a) {
    return shaped<T, 4>(a, "state", d.depth() * d.batch(), d.of().channels, d.of().states, int64_t(2));
}

}  // namespace

int32_t refgss_decoder_new(const refgss_lm_params* params, int64_t batch, int64_t block,
                           refgss_decoder** decoder) {
    return guarded([&] {
        *need(decoder, "decoder") = nullptr;
        need(need(params, "params")->layers, "params->layers");
        if (batch < 0 || block < 1)
            throw error{REFGSS_ERROR_VALUE, "a decoder needs batch >= 0 and block >= 1"};
        auto made = std::make_unique<refgss_decoder>(std::make_shared<model>(*params, block), batch);
        *decoder = made.release();
    });
}

int32_t refgss_decoder_fork(const refgss_decoder* decoder, refgss_decoder** fork) {
    return alone_with(decoder, [&](const refgss_decoder& d) {
        *need(fork, "fork") = nullptr;
        *fork = new refgss_decoder(d);
    });
}

int32_t refgss_decoder_fresh(const refgss_decoder* decoder, int64_t batch, refgss_decoder** fresh) {
    return alone_with(decoder, [&](const refgss_decoder& d) {
        *need(fresh, "fresh") = nullptr;
        if (batch < 0) throw error{REFGSS_ERROR_VALUE, "a decoder needs batch >= 0"};
        *fresh = new refgss_decoder(d.weights(), batch);
    });
}

void refgss_decoder_free(refgss_decoder* decoder) { delete decoder; }

int32_t refgss_decoder_step(refgss_decoder* decoder, const int64_t* tokens,
                            const refgss_array* logits) {
    return alone_with(decoder, [&](refgss_decoder& d) {
        auto out = shaped<float, 2>(logits, "logits", d.batch(), d.of().vocabulary);
        check_read(d, tokens, nullptr, 1, logits, "logits");
        d.step(tokens, out);
    });
}

int32_t refgss_decoder_prefill(refgss_decoder* decoder, const int64_t* tokens, int64_t length,
                               const refgss_array* logits) {
    return alone_with(decoder, [&](refgss_decoder& d) {
        check_array(logits, "logits", need(logits, "logits")->rank == 3 ? 3 : 2);
        check_read(d, tokens, nullptr, length, logits, "logits");
        d.prefill(tokens, length, logits);
    });
}

int32_t refgss_decoder_loss(refgss_decoder* decoder, const int64_t* tokens, const int64_t* targets,
                            int64_t length, const refgss_array* loss) {
    return alone_with(decoder, [&](refgss_decoder& d) {
        auto out = shaped<double, 2>(loss, "loss", d.batch(), length);
        if (out.size() > 0) need(targets, "targets");
        check_read(d, tokens, targets, length, loss, "loss");
        d.loss(tokens, targets, length, out);
    });
}

int32_t refgss_decoder_state(const refgss_decoder* decoder, const refgss_array* state) {
    return alone_with(decoder, [&](const refgss_decoder& d) {
        const auto out = states_of<float>(d, state);
        check_outputs({{state, "state"}}, {});
        d.state(out, false);
    });
}

int64_t refgss_decoder_pending(const refgss_decoder* decoder) {
    return decoder ? decoder->filled() : 0;
}

int64_t refgss_decoder_position(const refgss_decoder* decoder) {
    return decoder ? decoder->position() : 0;
}

int32_t refgss_decoder_snapshot(const refgss_decoder* decoder, const refgss_array* state,
                                const refgss_array* pending) {
    return alone_with(decoder, [&](const refgss_decoder& d) {
        auto x = states_of<float>(d, state);
        auto u = shaped<float, 3>(pending, "pending", d.depth() * d.batch(), d.filled(), d.of().channels);
        check_outputs({{state, "state"}, {pending, "pending"}}, {});
        d.state(x, true);
        d.pending(u);
    });
}

int32_t refgss_decoder_restore(refgss_decoder* decoder, const refgss_array* state,
                               const refgss_array* pending, int64_t position) {
    return alone_with(decoder, [&](refgss_decoder& d) {
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
