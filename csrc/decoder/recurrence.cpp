#include "decoder/recurrence.hpp"

#include <algorithm>
#include <cmath>

#include "ssm/kernel.hpp"

namespace refgss::decoding {

// ---- Weights ------------------------------------------------------------------------------------

block_maps::block_maps(const ssm<float>& map, int64_t block) : states(map.states()), log(states) {
    const int64_t N = states, H = map.channels();
    auto& modes = map.modes();
    for (int64_t k = 0; k < N; ++k)
        log[modes.order[k]] = {modes.set.re[k], modes.set.im[k]};
    std::vector<float> powers(sized(block, 2 * N));
    last.resize(2 * N), weights.resize(sized(H, 2 * N));
    for (int64_t n = 0; n < N; ++n) {
        for (int64_t j = 0; j < block; ++j) {
            const complex a = power(n, j);
            powers[j * 2 * N + n] = static_cast<float>(a.real());
            powers[j * 2 * N + N + n] = static_cast<float>(a.imag());
        }
        const complex a = power(n, block);
        last[n] = a.real(), last[N + n] = a.imag();
    }
    auto packed = [&](int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride) {
        return std::make_shared<weight_matrix>(matrix_source{
            powers.data(), weight_format::f32, rows, columns, row_stride, column_stride, nullptr, 0, 0});
    };
    to_state = packed(block, 2 * N, 2 * N, 1);
    for (int64_t j = 0; j < block; ++j)
        for (int64_t n = N; n < 2 * N; ++n) powers[j * 2 * N + n] *= -1;
    to_output = packed(2 * N, block, 1, 2 * N);
    for (int64_t h = 0; h < H; ++h)
        for (int64_t k = 0; k < N; ++k) {
            const int64_t n = modes.order[k], row = map.row();
            const double* w = map.weights().data() + h * 2 * row + k;
            const complex next = times({w[0], w[row]}, power(n, 1));
            weights[h * 2 * N + n] = static_cast<float>(next.real());
            weights[h * 2 * N + N + n] = static_cast<float>(next.imag());
        }
}

recurrence_weights::recurrence_weights(const refgss_array* lam_a, const refgss_array* lam_b,
                                       const refgss_array* c, const refgss_array* d,
                                       int32_t imag_is_exp, const refgss_array& delta,
                                       const refgss_form& form, const layer_source& from)
    : block(from.block) {
    auto weights = checked<const float, 3>(c, (from.name + "ssm.c").c_str());
    const int64_t H = channels = weights.shape[0], N = states = weights.shape[1];
    skip = read_vector(d, from.name + "ssm.d", H);
    std::vector<float> lam(2 * N);
    refgss_array l{lam.data(), REFGSS_F32, 2, {N, 2}, {2, 1}};
    gss_lambda(shaped<const float, 1>(lam_a, (from.name + "ssm.a").c_str(), N),
               shaped<const float, 1>(lam_b, (from.name + "ssm.b").c_str(), N), imag_is_exp,
               typed<float, 2>(l));
    int64_t length = std::max(chunk_rows, block);
    if (is_softmax(form)) length = std::min(length, form.length);
    map = std::make_unique<ssm<float>>(parameters_of<float>(&l, &delta, &form), weights, length);
    map->prepare();
    if (delta.rank == 0) blocks = block_maps(*map, block);
    taps = grid(block, H);
    auto kernel = map->kernel();
    for (int64_t j = 0; j < std::min(block, kernel.shape[1]); ++j)
        for (int64_t h = 0; h < H; ++h)
            taps.row(j)[h] = std::ldexp(*kernel.at(h, j), map->exponent(h));
}

// ---- Tokens -------------------------------------------------------------------------------------

recurrence::recurrence(std::shared_ptr<const recurrence_weights> weights, int64_t batch)
    : weights_(std::move(weights)), batch_(batch),
      state_(sized(batch, weights_->channels), 2 * weights_->states),
      inputs_(sized(batch, weights_->block), weights_->channels),
      readout_(read_out(state_)), next_state_(state_), next_readout_(readout_) {}

void recurrence::step(int64_t tile, const token& t, const grid& u, grid& y) {
    const recurrence_weights& w = *weights_;
    const int64_t first = tile * gemv_width, count = std::min(gemv_width, w.channels - first);
    const int64_t stride = inputs_.stride();
    const int64_t last = w.states ? t.pending : -1;  // a sum over nothing is 0 (GSS-NFI-14)
    for (int64_t b = 0; b < batch_; ++b) {
        float* in = inputs_.row(b * w.block) + first;
        const float* now = u.row(b) + first;
        std::copy(now, now + count, in + t.pending * stride);
        t.gemv.recent(last, stride, w.taps.data() + first, in + (t.pending - last) * stride,
                      readout_.row(b * w.block + t.pending) + first, w.skip.data() + first,
                      y.row(b) + first);
    }
}

void recurrence::through(const prompt& p, const grid& u, grid& y) {
    const int64_t H = weights_->channels;
    auto sequences = [&](auto* data, int64_t stride) {
        return view<std::remove_pointer_t<decltype(data)>, 3>{
            data, {batch_, p.steps, H}, {p.steps * stride, stride, 1}};
    };
    auto state = state_of(next_state_);
    auto from = as_const(state);
    weights_->map->apply(sequences(u.data(), u.stride()), &from, sequences(y.data(), y.stride()), &state);
    for_rows(p.rows(), [&](int64_t i) {
        for (int64_t h = 0; h < H; ++h) y.row(i)[h] += weights_->skip[h] * u.row(i)[h];
    });
}

// ---- The state ----------------------------------------------------------------------------------

view<float, 4> recurrence::state_of(grid& states) const {
    const int64_t H = weights_->channels, N = weights_->states, row = states.stride();
    return {states.data(), {batch_, H, N, 2}, {H * row, row, 1, N}};
}
view<const float, 4> recurrence::state_of(const grid& states) const {
    const int64_t H = weights_->channels, N = weights_->states, row = states.stride();
    return {states.data(), {batch_, H, N, 2}, {H * row, row, 1, N}};
}

/// The states after the first `count` inputs of the block.  They are rounded to binary32 here and
/// nowhere else.
grid recurrence::moved(int64_t count) const {
    const recurrence_weights& w = *weights_;
    const int64_t block = w.block, H = w.channels, N = w.states;
    grid x = state_;
    if (count == 0) return x;
    if (!w.blocks) {
        auto from = state_of(state_);
        std::vector<double> sorted = w.map->sorted(&from, batch_);
        const int64_t stride = inputs_.stride();
        w.map->advance(sorted, {inputs_.data(), {batch_, count, H}, {block * stride, stride, 1}});
        w.map->unsorted(sorted, state_of(x));
        return x;
    }
    grid u(batch_ * H, block), sum(batch_ * H, 2 * N);
    for_rows(batch_ * H, [&](int64_t r) {
        for (int64_t j = 0; j < count; ++j)
            u.row(r)[j] = inputs_.row(r / H * block + count - 1 - j)[r % H];
    });
    multiply(*w.blocks.to_state, batch_ * H, u, sum);
    std::vector<double> power = w.blocks.last;
    for (int64_t n = 0; n < N && count < block; ++n) {
        const complex a = w.blocks.power(n, count);
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

/// What these states add to the outputs of a block, (B block,H).
grid recurrence::read_out(const grid& states) const {
    const recurrence_weights& w = *weights_;
    const int64_t block = w.block, H = w.channels, N = w.states;
    grid readout(sized(batch_, block), H);
    const int64_t stride = readout.stride();
    if (!w.blocks) {
        auto from = state_of(states);
        view<float, 3> to{readout.data(), {batch_, block, H}, {block * stride, stride, 1}};
        w.map->read_out(w.map->sorted(&from, batch_), to, false);
        return readout;
    }
    grid weighted(batch_ * H, 2 * N), y(batch_ * H, block);
    for_rows(batch_ * H, [&](int64_t r) {
        const float *x = states.row(r), *c = w.blocks.weights.data() + r % H * 2 * N;
        float* to = weighted.row(r);
        for (int64_t n = 0; n < N; ++n) {
            to[n] = c[n] * x[n] - c[N + n] * x[N + n];
            to[N + n] = c[n] * x[N + n] + c[N + n] * x[n];
        }
    });
    multiply(*w.blocks.to_output, batch_ * H, weighted, y);
    for_rows(batch_ * block, [&](int64_t i) {
        for (int64_t h = 0; h < H; ++h) readout.row(i)[h] = y.row(i / block * H + h)[i % block];
    });
    return readout;
}

void recurrence::begin(int64_t pending) { next_state_ = moved(pending); }
void recurrence::end() { next_readout_ = read_out(next_state_); }
void recurrence::commit() noexcept {
    std::swap(state_, next_state_);
    std::swap(readout_, next_readout_);
}

// ---- Saved and restored -------------------------------------------------------------------------

std::vector<part> recurrence::parts(refgss_saved what, int64_t pending) const {
    const int64_t H = weights_->channels, N = weights_->states;
    std::vector<part> all{{"x", {batch_, H, N, 2}}};
    if (what == REFGSS_SNAPSHOT) all.push_back({"pending", {batch_, pending, H}});
    return all;
}

void recurrence::save(refgss_saved what, int64_t pending, arrays to) const {
    const int64_t H = weights_->channels, N = weights_->states;
    const auto x = typed<float, 4>(to[0]);
    const grid states = moved(what == REFGSS_STATE ? pending : 0);
    serial_for(batch_ * H, [&](int64_t r) {
        for (int64_t n = 0; n < 2 * N; ++n) *x.at(r / H, r % H, n % N, n / N) = states.row(r)[n];
    });
    if (what == REFGSS_STATE) return;
    const auto inputs = typed<float, 3>(to[1]);
    for (int64_t b = 0; b < batch_; ++b)
        for (int64_t n = 0; n < pending; ++n)
            for (int64_t h = 0; h < H; ++h)
                *inputs.at(b, n, h) = inputs_.row(b * weights_->block + n)[h];
}

void recurrence::restore(refgss_saved what, int64_t pending, arrays from) {
    const int64_t H = weights_->channels, N = weights_->states;
    const auto x = typed<const float, 4>(from[0]);
    serial_for(batch_ * H, [&](int64_t r) {
        for (int64_t n = 0; n < 2 * N; ++n) state_.row(r)[n] = *x.at(r / H, r % H, n % N, n / N);
    });
    readout_ = read_out(state_);
    if (what == REFGSS_STATE) return;
    const auto inputs = typed<const float, 3>(from[1]);
    for (int64_t b = 0; b < batch_; ++b)
        for (int64_t n = 0; n < pending; ++n)
            for (int64_t h = 0; h < H; ++h)
                inputs_.row(b * weights_->block + n)[h] = *inputs.at(b, n, h);
}

}  // namespace refgss::decoding
