// block_recurrent.cpp: a block-recurrent layer (GSS-BRT-11) in a decoder.
//
//   h = norm(x);  q, k, v, q2 = h W_q, h W_k, h W_v, h W_q2;  q, k, q2 of length 1
//   x += [attention to the W tokens before | attention to the state] W_o;  x += act(norm(x) W_1) W_2
//
// After every W tokens of a sequence its state is renewed from itself and from the last 2W keys.  It has
// two places for the state: windows alternate, so that a token that does not count changes nothing.
#include "attention/positions.hpp"
#include "attention/window.hpp"
#include "decoder/key_ring.hpp"
#include "decoder/layer.hpp"
#include "decoder/mlp.hpp"

namespace refgss::decoding {
namespace {

constexpr int64_t count_step = int64_t(1) << 20;  // of a number of tokens in binary32
constexpr float length_eps = 1e-6f;               // of queries and keys (GSS-BRT-3)

struct gate_weights {
    matrix w_f, w_i;
    std::vector<float> b_f, b_i;
};

/// Of the tokens, or of the state; what there is not is empty.
struct part_weights {
    norm before, between;
    matrix w_q, w_k, w_v, w_q2, w_o, w_1, w_2, w_3;
    std::vector<float> scale, scale2;  // |scale| of each head, or 1/√D
};

/// A state of one sequence, and what tokens see of it.
struct state_vectors {
    std::vector<float> s, k, v;  // (S,E), (H,S,D), (H,S,D)
};

struct block_recurrent_weights {
    std::string name;
    part_weights tokens, state;
    gate_weights gate1, gate2;
    grid ids;                 // (S,E)
    state_vectors initial;
    std::vector<float> bias;  // (H,W+1), scaled; or none
    std::vector<float> zeros; // of no bias
    int64_t width, heads, D, hidden, state_hidden, window, states;  // E, H, D, F, F, W, S
    int32_t gate, update, mlp;
    bool lengths_are_one;

    int64_t inner() const { return heads * D; }  // A
};

/// Queries or keys of heads of length 1, in place, where the layer has them so.
void normalize(const block_recurrent_weights& w, float* heads) {
    if (!w.lengths_are_one) return;
    const auto& kernel = kernels<pointwise_kernels<float>>();
    for (int64_t h = 0; h < w.heads; ++h)
        kernel.l2_normalize(w.D, heads + h * w.D, length_eps, heads + h * w.D);
}

/// Rows of a grid as (1,rows,H,D), from the column `first` on.
view<float, 4> as_heads(const block_recurrent_weights& w, grid& x, int64_t first_row, int64_t rows,
                        int64_t first = 0) {
    return {x.row(first_row) + first, {1, rows, w.heads, w.D}, {rows * x.stride(), x.stride(), w.D, 1}};
}

/// y = x W of heads, of length 1.
void to_heads(const block_recurrent_weights& w, const weight_matrix& m, int64_t rows, const grid& x, grid& y,
              bool normal = true) {
    multiply(m, rows, x, y);
    if (normal) for_rows(rows, [&](int64_t i) { normalize(w, y.row(i)); });
}

/// Every query sees every key (GSS-BRT-9).
void attend_all(const block_recurrent_weights& w, const attention_arrays<float>& in,
                const std::vector<float>& scale, const view<float, 4>& y) {
    const int64_t keys = in.k.shape[1];
    const attention_shape shape{{keys, window::everything}, 1, in.q.shape[1], w.heads, w.heads, w.D, keys, {0}};
    attention(attention_input<float>(shape, in, scale), y);
}

/// The keys or values of a state, (1,S,H,D).
view<const float, 4> of_state(const block_recurrent_weights& w, const std::vector<float>& x) {
    return {x.data(), {1, w.states, w.heads, w.D}, {w.states * w.inner(), w.D, w.states * w.D, 1}};
}

/// h_s: norm(s) and ids (GSS-BRT-5).
grid state_rows(const block_recurrent_weights& w, const std::vector<float>& s) {
    grid h(w.states, w.width);
    for (int64_t i = 0; i < w.states; ++i) {
        w.state.before(s.data() + i * w.width, h.row(i));
        for (int64_t e = 0; e < w.width; ++e) h.row(i)[e] += w.ids.row(i)[e];
    }
    return h;
}

/// What tokens see of a state (GSS-BRT-10).
void show(const block_recurrent_weights& w, state_vectors& of) {
    const grid h = state_rows(w, of.s);
    grid k(w.states, w.inner()), v(w.states, w.inner());
    to_heads(w, *w.state.w_k, w.states, h, k), to_heads(w, *w.state.w_v, w.states, h, v, false);
    for (int64_t head = 0; head < w.heads; ++head)
        for (int64_t i = 0; i < w.states; ++i) {
            const int64_t to = (head * w.states + i) * w.D;
            std::copy_n(k.row(i) + head * w.D, w.D, of.k.data() + to);
            std::copy_n(v.row(i) + head * w.D, w.D, of.v.data() + to);
        }
}

/// s, renewed by z through a gate whose input is `in` (GSS-BRT-13), in place.
void renew(const block_recurrent_weights& w, const gate_weights& g, const grid& in, const grid& z, grid& s) {
    const auto product = [&](const matrix& m, const std::vector<float>& bias) {
        grid y(w.states, w.width);
        if (!m) return y;
        multiply(*m, w.states, in, y);
        for (int64_t i = 0; i < w.states; ++i)
            for (int64_t e = 0; e < w.width; ++e) y.row(i)[e] += bias[e];
        return y;
    };
    const grid f = product(g.w_f, g.b_f), i = product(g.w_i, g.b_i);
    const float shift = w.gate == REFGSS_GATE_FIXED ? 0.0f : 1.0f;
    const auto& kernel = kernels<pointwise_kernels<float>>();
    for_rows(w.states, [&](int64_t row) {
        const recurrent_gate<float> gate{g.w_f ? f.row(row) : g.b_f.data(), g.w_i ? i.row(row) : nullptr, shift};
        kernel.mix(w.width, gate, s.row(row), z.row(row), s.row(row));
    });
}

/// The hidden numbers of the state's MLP, and its output.
void state_mlp(const block_recurrent_weights& w, const grid& in, grid& m, grid& out) {
    const part_weights& p = w.state;
    multiply(*p.w_1, w.states, in, m);
    grid linear(p.w_3 ? w.states : 0, w.state_hidden);
    if (p.w_3) multiply(*p.w_3, w.states, in, linear);
    for_rows(w.states, [&](int64_t i) {
        activate(w.mlp, w.state_hidden, m.row(i), p.w_3 ? linear.row(i) : nullptr);
    });
    multiply(*p.w_2, w.states, m, out);
}

/// The state after a window: keys, values (1,2W,H,D) of it and of the one before (GSS-BRT-12).
void renew(const block_recurrent_weights& w, const state_vectors& old, const view<const float, 4>& keys,
           const view<const float, 4>& values, state_vectors& made) {
    const int64_t S = w.states, A = w.inner();
    const part_weights& p = w.state;
    const grid h = state_rows(w, old.s);
    grid q(S, A), a(S, 2 * A);
    to_heads(w, *p.w_q, S, h, q);
    const auto queries = as_const(as_heads(w, q, 0, S));
    attend_all(w, {queries, of_state(w, old.k), of_state(w, old.v)}, p.scale, as_heads(w, a, 0, S));
    to_heads(w, *p.w_q2, S, h, q);
    attend_all(w, {queries, keys, values}, p.scale2, as_heads(w, a, 0, S, A));

    grid s(S, w.width), z(S, w.width), m(p.w_1 ? S : 0, w.state_hidden);
    for (int64_t i = 0; i < S; ++i) std::copy_n(old.s.data() + i * w.width, w.width, s.row(i));
    if (w.update != REFGSS_UPDATE_SINGLE) multiply(*p.w_o, S, a, z), renew(w, w.gate1, a, z, s);
    if (w.update == REFGSS_UPDATE_SINGLE) {
        state_mlp(w, a, m, z);
        for (int64_t i = 0; i < S; ++i)
            for (int64_t e = 0; e < w.width; ++e) z.row(i)[e] = std::tanh(z.row(i)[e]);
        renew(w, w.gate2, m, z, s);
    } else if (w.update == REFGSS_UPDATE_DUAL) {
        grid h2(S, w.width);
        for (int64_t i = 0; i < S; ++i) p.between(s.row(i), h2.row(i));
        state_mlp(w, h2, m, z);
        renew(w, w.gate2, m, z, s);
    }
    for (int64_t i = 0; i < S; ++i) std::copy_n(s.row(i), w.width, made.s.data() + i * w.width);
    show(w, made);
}

/// A state as the op has it (GSS-BRT-18), of B sequences.
struct op_state {
    std::vector<float> k, v;  // (B,2W,H,D)
    std::vector<int64_t> t;
    std::vector<state_vectors> of;

    op_state(const block_recurrent_weights& w, int64_t B)
        : k(sized(sized(B, 2 * w.window), w.inner()), 0.0f), v(k.size(), 0.0f), t(B, 0), of(B, w.initial) {}
    float* row(const block_recurrent_weights& w, std::vector<float>& x, int64_t b, int64_t slot) {
        return x.data() + (b * 2 * w.window + slot) * w.inner();
    }
    /// Slots of one sequence, (1,count,H,D).
    view<float, 4> slots(const block_recurrent_weights& w, std::vector<float>& x, int64_t b, int64_t first,
                         int64_t count) {
        return {row(w, x, b, first), {1, count, w.heads, w.D}, {count * w.inner(), w.inner(), w.D, 1}};
    }
};

enum buffer { H, Q, K, V, Q2, A, M1, M3 };

class block_recurrent : public layer {
public:
    block_recurrent(std::shared_ptr<const block_recurrent_weights> weights, int64_t batch)
        : weights_(std::move(weights)), batch_(batch),
          ring_(batch, weights_->heads, 2 * weights_->window, weights_->D),
          states_(2, std::vector<state_vectors>(batch, weights_->initial)) {}
    block_recurrent(const block_recurrent& other) = default;

    std::unique_ptr<layer> fresh(int64_t batch) const override {
        return std::make_unique<block_recurrent>(weights_, batch);
    }
    std::unique_ptr<layer> fork() const override { return std::make_unique<block_recurrent>(*this); }

    std::vector<int64_t> widths() const override {
        const auto& w = *weights_;
        const int64_t A = w.inner();
        return {w.width, A, A, A, A, 2 * A, w.hidden, w.tokens.w_3 ? w.hidden : 1};
    }

    // ---- one token ----

    void add_phases(token& t) override {
        const block_recurrent_weights& w = *weights_;
        const part_weights& p = w.tokens;
        const int64_t each = p.w_q->tiles();
        t.add(4 * each, [&, each](int64_t item, int slot) {
            const matrix* of[] = {&p.w_q, &p.w_k, &p.w_v, &p.w_q2};
            const int64_t which = item / each;
            t.multiply_tile(**of[which], item % each, t.normed(p.before, t.x, slot), t.work[Q + which]);
        });
        logits_.assign(t.threads, std::vector<float>(std::max(w.window, w.states)));
        t.add(batch_ * w.heads, [&, this](int64_t item, int slot) {
            attend(t, item / w.heads, item % w.heads, logits_[slot].data());
        });
        t.add_output(*p.w_o, w.zeros, t.work[A]);
        t.add(p.w_1->tiles(), [&](int64_t item, int slot) {
            const grid& in = t.normed(p.between, t.x, slot);
            t.multiply_tile(*p.w_1, item, in, t.work[M1]);
            if (p.w_3) t.multiply_tile(*p.w_3, item, in, t.work[M3]);
            for (int64_t b = 0; b < t.batch; ++b)
                activate(w.mlp, gemv_width, t.work[M1].row(b) + item * gemv_width,
                         p.w_3 ? t.work[M3].row(b) + item * gemv_width : nullptr);
        });
        t.add_output(*p.w_2, w.zeros, t.work[M1]);
    }

    /// Where a token was the last of its window, the next one begins with another state.
    void settle(int64_t pending) override {
        const block_recurrent_weights& w = *weights_;
        std::vector<float> keys, values;
        for (int64_t b = 0; b < batch_; ++b) {
            const int64_t next = now(b, pending) + 1;
            if (next % w.window || w.states == 0) continue;
            keys.resize(2 * w.window * w.inner()), values.resize(keys.size());
            const view<const float, 4> k = gathered(b, next, keys, true), v = gathered(b, next, values, false);
            renew(w, at(b, next - 1), k, v, at(b, next));
        }
    }

    // ---- a prompt ----

    void begin(int64_t pending) override { pending_ = pending, aside_.reset(); }

    void through(prompt& p) override {
        const block_recurrent_weights& w = *weights_;
        const part_weights& own = w.tokens;
        if (!aside_) aside_ = std::make_unique<op_state>(state(pending_));
        const int64_t rows = p.rows();
        grid &h = p.work[H], &a = p.work[A], &m = p.work[M1], &linear = p.work[M3];
        for_rows(rows, [&](int64_t i) { own.before(p.x.row(i), h.row(i)); });
        to_heads(w, *own.w_q, rows, h, p.work[Q]), to_heads(w, *own.w_k, rows, h, p.work[K]);
        to_heads(w, *own.w_v, rows, h, p.work[V], false), to_heads(w, *own.w_q2, rows, h, p.work[Q2]);
        for (int64_t b = 0; b < batch_; ++b) attend(p, b);
        multiply(*own.w_o, rows, a, p.h);
        p.add_output(w.zeros, w.width);
        for_rows(rows, [&](int64_t i) { own.between(p.x.row(i), h.row(i)); });
        multiply(*own.w_1, rows, h, m);
        if (own.w_3) multiply(*own.w_3, rows, h, linear);
        for_rows(rows, [&](int64_t i) {
            activate(w.mlp, w.hidden, m.row(i), own.w_3 ? linear.row(i) : nullptr);
        });
        multiply(*own.w_2, rows, m, p.h);
        p.add_output(w.zeros, w.width);
    }
    void end() override {}

    void commit() noexcept override {
        if (aside_) take(*aside_);
        else
            for (int64_t& t : ring_.tokens) t = counted(t + pending_);
        aside_.reset(), pending_ = 0;
    }

    // ---- saved and restored ----

    std::vector<part> parts(refgss_saved, int64_t) const override {
        const auto& w = *weights_;
        const std::vector<int64_t> slots{batch_, 2 * w.window, w.heads, w.D};
        return {{"s", {batch_, w.states, w.width}}, {"k", slots}, {"v", slots}, {"t", {batch_, 2}}};
    }

    void save(refgss_saved, int64_t pending, arrays to) const override {
        op_state then = state(pending);
        const auto s = typed<float, 3>(to[0]);
        const auto t = typed<float, 2>(to[3]);
        for (int64_t b = 0; b < batch_; ++b) {
            const bool begun = then.t[b] != 0;  // a row that has read nothing holds zeros
            for_state([&](int64_t i, int64_t e) {
                *s.at(b, i, e) = begun ? then.of[b].s[i * weights_->width + e] : 0.0f;
            });
            *t.at(b, int64_t(0)) = static_cast<float>(then.t[b] / count_step);
            *t.at(b, int64_t(1)) = static_cast<float>(then.t[b] % count_step);
        }
        const auto k = typed<float, 4>(to[1]), v = typed<float, 4>(to[2]);
        for_slots([&](int64_t b, int64_t slot, int64_t h, int64_t d) {
            *k.at(b, slot, h, d) = then.row(*weights_, then.k, b, slot)[h * weights_->D + d];
            *v.at(b, slot, h, d) = then.row(*weights_, then.v, b, slot)[h * weights_->D + d];
        });
    }

    void restore(refgss_saved, int64_t pending, arrays from) override {
        const auto& w = *weights_;
        op_state then(w, batch_);
        const auto s = typed<const float, 3>(from[0]);
        const auto t = typed<const float, 2>(from[3]);
        for (int64_t b = 0; b < batch_; ++b) {
            const float high = *t.at(b, int64_t(0)), low = *t.at(b, int64_t(1));
            const bool sound = high >= 0 && high < count_step && low >= 0 && low < count_step;
            then.t[b] = sound ? static_cast<int64_t>(high) * count_step + static_cast<int64_t>(low) : -1;
            if (then.t[b] < 0 || then.t[b] >= 2 * w.window)
                throw error{REFGSS_ERROR_VALUE,
                            w.name + "state t is no number of tokens of such a layer (GSS-BRT-18)"};
            if (then.t[b] == 0) continue;
            for_state([&](int64_t i, int64_t e) { then.of[b].s[i * w.width + e] = *s.at(b, i, e); });
            show(w, then.of[b]);
        }
        const auto k = typed<const float, 4>(from[1]), v = typed<const float, 4>(from[2]);
        for_slots([&](int64_t b, int64_t slot, int64_t h, int64_t d) {
            if (then.t[b] == 0) return;
            then.row(w, then.k, b, slot)[h * w.D + d] = *k.at(b, slot, h, d);
            then.row(w, then.v, b, slot)[h * w.D + d] = *v.at(b, slot, h, d);
        });
        take(then);
        // the pending tokens are among those of the state: what follows counts from before them
        for (int64_t& tokens : ring_.tokens) tokens -= pending;
    }

private:
    /// How many tokens a sequence has read; from two windows on, modulo these and two windows more.
    int64_t counted(int64_t t) const {
        const int64_t both = 2 * weights_->window;
        return t < both ? t : both + t % both;
    }
    int64_t now(int64_t b, int64_t pending) const { return ring_.tokens[b] + pending; }
    /// The state that a token sees.
    state_vectors& at(int64_t b, int64_t t) { return states_[t / weights_->window % 2][b]; }
    /// Positions before the first token are in the ring, as zeros.
    int64_t place(int64_t t) const { return t + 2 * weights_->window; }

    /// The 2W keys, or values, before the token `next`, in order, (1,2W,H,D).
    view<const float, 4> gathered(int64_t b, int64_t next, std::vector<float>& to, bool keys) {
        const auto& w = *weights_;
        const int64_t W2 = 2 * w.window, inner = w.inner();
        for (int64_t i = 0; i < W2; ++i)
            for (int64_t h = 0; h < w.heads; ++h) {
                const int64_t s = place(next - W2 + i);
                std::copy_n(keys ? ring_.key(b, h, s) : ring_.value(b, h, s), w.D,
                            to.data() + i * inner + h * w.D);
            }
        return {to.data(), {1, W2, w.heads, w.D}, {W2 * inner, inner, w.D, 1}};
    }

    /// One head of one token: to the window before it, and to the state.
    void attend(token& t, int64_t b, int64_t h, float* logits) {
        const block_recurrent_weights& w = *weights_;
        const auto& kernel = kernels<query_kernels>();
        const auto& pointwise = t.pointwise;
        const int64_t D = w.D, W = w.window, S = w.states, position = now(b, t.pending), s0 = place(position);
        float *q = t.work[Q].row(b) + h * D, *q2 = t.work[Q2].row(b) + h * D, *key = ring_.key(b, h, s0);
        std::copy_n(t.work[K].row(b) + h * D, D, key);
        std::copy_n(t.work[V].row(b) + h * D, D, ring_.value(b, h, s0));
        if (w.lengths_are_one)
            for (float* x : {q, q2, key}) pointwise.l2_normalize(D, x, length_eps, x);
        float *y = t.work[A].row(b) + h * D, *y2 = y + w.inner();
        std::fill_n(y, D, 0.0f), std::fill_n(y2, D, 0.0f);
        const float* bias = w.bias.empty() ? nullptr : w.bias.data() + h * (W + 1);
        ring_.runs(s0 - W, s0, [&](int64_t s, int64_t count) {
            kernel.logits(count, D, ring_.key(b, h, s), q, w.tokens.scale[h], bias ? bias + (s0 - s) : nullptr,
                          logits + (s - s0 + W));
        });
        const float sum = kernel.weights(W, logits);
        ring_.runs(s0 - W, s0, [&](int64_t s, int64_t count) {
            kernel.add(count, D, ring_.value(b, h, s), logits + (s - s0 + W), y);
        });
        for (int64_t d = 0; d < D; ++d) y[d] /= sum;
        if (S == 0) return;
        const state_vectors& of = at(b, position);
        kernel.logits(S, D, of.k.data() + h * S * D, q2, w.tokens.scale2[h], nullptr, logits);
        const float sum2 = kernel.weights(S, logits);
        kernel.add(S, D, of.v.data() + h * S * D, logits, y2);
        for (int64_t d = 0; d < D; ++d) y2[d] /= sum2;
    }

    /// The tokens of one sequence in a prompt, window by window; the state aside moves on.
    void attend(prompt& p, int64_t b) {
        const block_recurrent_weights& w = *weights_;
        op_state& to = *aside_;
        const int64_t W = w.window, L = p.steps, first = b * L;
        const auto rows = [&](buffer of, int64_t from, int64_t count, int64_t column = 0) {
            return as_heads(w, p.work[of], first + from, count, column);
        };
        int64_t j = to.t[b] % W;
        attention_arrays<float> in{as_const(rows(Q, 0, L)), as_const(rows(K, 0, L)), as_const(rows(V, 0, L))};
        if (!w.bias.empty()) in.bias = {w.bias.data(), {w.heads, W + 1}, {W + 1, 1}};
        in.state_k = as_const(to.slots(w, to.k, b, j, W)), in.state_v = as_const(to.slots(w, to.v, b, j, W));
        attention_shape shape{{W, REFGSS_VISIBLE_STRICT}, 1, L, w.heads, w.heads, w.D, L, {W}, true};
        attention(attention_input<float>(shape, in, w.tokens.scale), rows(A, 0, L));

        for (int64_t from = 0, count; from < L; from += count) {
            j = to.t[b] % W, count = std::min(L - from, W - j);
            attend_all(w, {as_const(rows(Q2, from, count)), of_state(w, to.of[b].k), of_state(w, to.of[b].v)},
                       w.tokens.scale2, rows(A, from, count, w.inner()));
            for (int64_t i = 0; i < count; ++i) {
                std::copy_n(p.work[K].row(first + from + i), w.inner(), to.row(w, to.k, b, W + j + i));
                std::copy_n(p.work[V].row(first + from + i), w.inner(), to.row(w, to.v, b, W + j + i));
            }
            to.t[b] += count;
            if (j + count == W) turn_over(to, b);
        }
    }
    /// A window of the state aside is full: another state, and the window is now the one before.
    void turn_over(op_state& to, int64_t b) const {
        const block_recurrent_weights& w = *weights_;
        const int64_t W = w.window;
        if (w.states) {
            state_vectors made = to.of[b];
            renew(w, to.of[b], as_const(to.slots(w, to.k, b, 0, 2 * W)),
                  as_const(to.slots(w, to.v, b, 0, 2 * W)), made);
            to.of[b] = std::move(made);
        }
        for (std::vector<float>* x : {&to.k, &to.v}) {
            std::copy_n(to.row(w, *x, b, W), W * w.inner(), to.row(w, *x, b, 0));
            std::fill_n(to.row(w, *x, b, W), W * w.inner(), 0.0f);
        }
        to.t[b] = W;
    }

    /// As the op has it, after `pending` tokens since the last advance.
    op_state state(int64_t pending) const {
        const block_recurrent_weights& w = *weights_;
        op_state made(w, batch_);
        auto& mine = const_cast<block_recurrent&>(*this);  // which is only read
        for (int64_t b = 0; b < batch_; ++b) {
            const int64_t t = now(b, pending), j = t % w.window;
            made.t[b] = t < w.window ? t : w.window + j;
            made.of[b] = mine.at(b, t);
            for (int64_t slot = 0; slot < w.window + j; ++slot)
                for (int64_t h = 0; h < w.heads; ++h) {
                    const int64_t s = place(t - j - w.window + slot);
                    std::copy_n(mine.ring_.key(b, h, s), w.D, made.row(w, made.k, b, slot) + h * w.D);
                    std::copy_n(mine.ring_.value(b, h, s), w.D, made.row(w, made.v, b, slot) + h * w.D);
                }
        }
        return made;
    }
    /// The inverse.
    void take(op_state& from) noexcept {
        const block_recurrent_weights& w = *weights_;
        for (int64_t b = 0; b < batch_; ++b) {
            const int64_t t = ring_.tokens[b] = from.t[b], j = t % w.window;
            state_vectors& to = at(b, t);
            std::copy(from.of[b].s.begin(), from.of[b].s.end(), to.s.begin());
            std::copy(from.of[b].k.begin(), from.of[b].k.end(), to.k.begin());
            std::copy(from.of[b].v.begin(), from.of[b].v.end(), to.v.begin());
            for (int64_t slot = 0; slot < w.window + j; ++slot)
                for (int64_t h = 0; h < w.heads; ++h) {
                    const int64_t s = place(t - j - w.window + slot);
                    std::copy_n(from.row(w, from.k, b, slot) + h * w.D, w.D, ring_.key(b, h, s));
                    std::copy_n(from.row(w, from.v, b, slot) + h * w.D, w.D, ring_.value(b, h, s));
                }
        }
    }

    /// f(i, e)
    template <class F> void for_state(F&& f) const {
        const auto& w = *weights_;
        serial_for(w.states, [&](int64_t i) {
            for (int64_t e = 0; e < w.width; ++e) f(i, e);
        });
    }
    /// f(b, slot, h, d)
    template <class F> void for_slots(F&& f) const {
        const auto& w = *weights_;
        serial_for(batch_ * 2 * w.window * w.heads, [&](int64_t i) {
            const int64_t h = i % w.heads, slot = i / w.heads % (2 * w.window);
            for (int64_t d = 0; d < w.D; ++d) f(i / w.heads / (2 * w.window), slot, h, d);
        });
    }

    std::shared_ptr<const block_recurrent_weights> weights_;
    int64_t batch_;
    key_ring ring_;                                    // of 2W tokens
    std::vector<std::vector<state_vectors>> states_;   // of windows of even and of odd number, by sequence
    int64_t pending_ = 0;                              // tokens between the last advance and the state aside
    std::shared_ptr<op_state> aside_;                  // after a prompt's tokens; none: the ring itself
    std::vector<std::vector<float>> logits_;           // of each thread
};

// ---- from the arrays of a model ----

std::vector<float> scales_of(const block_recurrent_weights& w, const refgss_array* scale,
                             const std::string& name) {
    std::vector<float> sizes(w.heads, static_cast<float>(1 / std::sqrt(static_cast<double>(w.D))));
    if (!w.lengths_are_one) return sizes;
    const auto given = shaped<const float, 1>(scale, name.c_str(), w.heads);
    for (int64_t h = 0; h < w.heads; ++h) sizes[h] = std::abs(*given.at(h));
    return sizes;
}

/// What tokens and the state have alike; `in` is the width of what the MLP reads, 0 where there is none,
/// and `norms` says whether there is a norm before it.
part_weights read_part(const block_recurrent_weights& w, const refgss_block_recurrent_part& p,
                       const refgss_block_recurrent_part_scales& scales, const std::string& name, double eps,
                       bool norms, int64_t in, int64_t hidden) {
    const int64_t E = w.width, A = w.inner();
    part_weights made;
    made.before = norm(p.norm1_weight, name + "norm1", E, eps);
    made.w_q = read_matrix(p.w_q, scales.w_q, name + "w_q", E, A);
    made.w_k = read_matrix(p.w_k, scales.w_k, name + "w_k", E, A);
    made.w_v = read_matrix(p.w_v, scales.w_v, name + "w_v", E, A);
    made.w_q2 = read_matrix(p.w_q2, scales.w_q2, name + "w_q2", E, A);
    made.scale = scales_of(w, p.scale, name + "scale"), made.scale2 = scales_of(w, p.scale2, name + "scale2");
    if (p.w_o) made.w_o = read_matrix(p.w_o, scales.w_o, name + "w_o", 2 * A, E);
    if (norms) made.between = norm(p.norm2_weight, name + "norm2", E, eps);
    if (in == 0) return made;
    made.w_1 = read_matrix(p.w_1, scales.w_1, name + "w_1", in, hidden);
    made.w_2 = read_matrix(p.w_2, scales.w_2, name + "w_2", hidden, E);
    if (w.mlp == REFGSS_MLP_GLU) made.w_3 = read_matrix(p.w_3, scales.w_3, name + "w_3", in, hidden);
    return made;
}

gate_weights read_gate(const block_recurrent_weights& w, const refgss_block_recurrent_gate& p,
                       const refgss_array* scale_f, const refgss_array* scale_i, const std::string& name,
                       int64_t in) {
    gate_weights made;
    made.b_f = read_vector(p.b_f, name + "b_f", w.width);
    if (w.gate != REFGSS_GATE_FIXED) made.w_f = read_matrix(p.w_f, scale_f, name + "w_f", in, w.width);
    if (w.gate != REFGSS_GATE_LSTM) return made;
    made.w_i = read_matrix(p.w_i, scale_i, name + "w_i", in, w.width);
    made.b_i = read_vector(p.b_i, name + "b_i", w.width);
    return made;
}

/// The bias of each distance, scaled (GSS-BRT-4).
std::vector<float> bias_of(const block_recurrent_weights& w, const refgss_array* table) {
    if (table == nullptr) return {};
    const auto t = shaped<const float, 2>(table, (w.name + "position.table").c_str(), w.heads, t5_buckets);
    std::vector<float> bias(sized(w.heads, w.window + 1));
    for (int64_t h = 0; h < w.heads; ++h)
        for (int64_t n = 0; n <= w.window; ++n)
            bias[h * (w.window + 1) + n] =
                *t.at(h, t5_bucket(n)) * (w.lengths_are_one ? w.tokens.scale[h] : 1.0f);
    return bias;
}

}  // namespace

std::unique_ptr<layer> make_block_recurrent(const layer_source& from) {
    const auto& p = *static_cast<const refgss_block_recurrent_layer_params*>(from.params.params);
    static constexpr refgss_block_recurrent_layer_scales none{};
    const auto* given = static_cast<const refgss_block_recurrent_layer_scales*>(from.params.scales);
    const refgss_block_recurrent_layer_scales& scales = given ? *given : none;
    const std::string& name = from.name;
    const auto refuse = [&](const char* why) { throw error{REFGSS_ERROR_VALUE, name + why}; };
    auto w = std::make_shared<block_recurrent_weights>();
    const int64_t E = w->width = from.width, A = axis_of(p.tokens.w_q, name + "w_q", 2, 1);
    const int64_t F = w->hidden = axis_of(p.tokens.w_1, name + "w_1", 2, 1);
    w->name = name, w->heads = p.heads, w->window = p.window;
    w->gate = p.gate, w->update = p.update, w->mlp = p.mlp;
    w->lengths_are_one = p.tokens.scale != nullptr;
    if (p.heads < 1 || A < 1 || A % p.heads || F < 1) refuse("heads do not divide the width of the attention");
    if (p.window < 1 || p.window > (int64_t(1) << 30)) refuse("window must be at least 1");
    if (p.gate < REFGSS_GATE_FIXED || p.gate > REFGSS_GATE_FULL || p.update < REFGSS_UPDATE_SKIP ||
        p.update > REFGSS_UPDATE_DUAL || p.mlp < REFGSS_MLP_GELU || p.mlp > REFGSS_MLP_RELU || !(p.eps > 0))
        refuse("gate, update, mlp or eps is none that this library knows");
    const bool single = p.update == REFGSS_UPDATE_SINGLE, dual = p.update == REFGSS_UPDATE_DUAL;
    need(p.tokens.w_o, (name + "w_o").c_str());
    if (!single) need(p.state.w_o, (name + "state.w_o").c_str());
    w->D = A / p.heads, w->zeros = read_optional(nullptr, name, E);
    w->states = axis_of(p.ids, name + "state.ids", 2, 0);
    w->tokens = read_part(*w, p.tokens, scales.tokens, name, p.eps, true, E, F);
    w->state_hidden = single || dual ? axis_of(p.state.w_1, name + "state.w_1", 2, 1) : 1;
    const int64_t in = single ? 2 * A : dual ? E : 0;
    const std::string of = name + "state.";
    w->state = read_part(*w, p.state, scales.state, of, p.eps, dual, in, w->state_hidden);
    if (!single)
        w->gate1 = read_gate(*w, p.gate1, scales.gate1_w_f, scales.gate1_w_i, of + "gate1.", 2 * A);
    if (in)
        w->gate2 = read_gate(*w, p.gate2, scales.gate2_w_f, scales.gate2_w_i, of + "gate2.", w->state_hidden);
    w->bias = bias_of(*w, p.table);
    const auto ids = shaped<const float, 2>(p.ids, (of + "ids").c_str(), w->states, E);
    const auto initial = shaped<const float, 2>(p.initial, (of + "initial").c_str(), w->states, E);
    w->ids = grid(w->states, E);
    w->initial.s.resize(sized(w->states, E));
    w->initial.k.resize(sized(w->states, A)), w->initial.v.resize(sized(w->states, A));
    for (int64_t i = 0; i < w->states; ++i)
        for (int64_t e = 0; e < E; ++e) {
            w->ids.row(i)[e] = *ids.at(i, e);
            w->initial.s[i * E + e] = *initial.at(i, e);
        }
    show(*w, w->initial);
    return std::make_unique<block_recurrent>(std::move(w), 0);
}

}  // namespace refgss::decoding
