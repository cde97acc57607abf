// transformer.cpp: a transformer layer (GSS-HYB-2) in a decoder.
//
//   h = norm(x);  q, k, v = h W_q, h W_k, h W_v, turned or biased by position
//   x += attention(q, k, v) W_o;  x += act(norm(x) W_1) W_2
//
// It remembers keys and values in a ring of one slot more than a query sees: the key of a token lies where
// none is that this token or those before it since the last advance can see.
#include <cmath>

#include "attention/positions.hpp"
#include "attention/window.hpp"
#include "decoder/key_ring.hpp"
#include "decoder/layer.hpp"
#include "decoder/mlp.hpp"
#include "dense/matmul.hpp"

namespace refgss::decoding {
namespace {

constexpr int64_t count_step = int64_t(1) << 20;  // of a number of tokens in binary32

struct transformer_weights {
    std::string name;
    norm before, between;
    matrix w_q, w_k, w_v, w_o, w_1, w_2, w_3;
    std::vector<float> b_q, b_k, b_v, b_o, b_1, b_2, b_3;
    int64_t width, heads, groups, D, hidden;  // E, Hq, G, D, M
    refgss_window window;
    float scale;
    int32_t position, mlp;
    double rope_base;
    std::vector<double> frequency;  // of each pair
    std::vector<float> bias;        // (Hq, distances), of T5 and ALiBi
    grid learned;                   // (positions, E)

    struct window see() const { return {window.chunk, window.visible}; }
    int64_t distances() const { return see().distances(); }
    bool rotates() const {
        return position == REFGSS_POSITION_ROPE_HALF || position == REFGSS_POSITION_ROPE_INTERLEAVED;
    }
    /// The position that a rotation or a table is told.
    int64_t told(int64_t t) const { return see().in_chunks() ? t % window.chunk : t; }
};

/// A state as the op `attention` has it.
struct op_state {
    std::vector<float> k, v;
    std::vector<int64_t> t;
    int64_t shape[4];

    op_state(int64_t B, int64_t S, int64_t G, int64_t D)
        : k(sized(sized(B, S), sized(G, D)), 0.0f), v(k.size(), 0.0f), t(B, 0), shape{B, S, G, D} {}
    view<float, 4> slots(std::vector<float>& of) const {
        const auto [B, S, G, D] = shape;
        return {of.data(), {B, S, G, D}, {S * G * D, G * D, D, 1}};
    }
    float* row(std::vector<float>& of, int64_t b, int64_t s, int64_t g) const {
        return of.data() + ((b * shape[1] + s % shape[1]) * shape[2] + g) * shape[3];
    }
};

enum buffer { H, Q, K, V, A, M1, M3 };

class transformer : public layer {
public:
    transformer(std::shared_ptr<const transformer_weights> weights, int64_t batch)
        : weights_(std::move(weights)), batch_(batch),
          ring_(batch, weights_->groups, weights_->see().slots() + 1, weights_->D) {}
    transformer(const transformer& other) = default;

    std::unique_ptr<layer> fresh(int64_t batch) const override {
        return std::make_unique<transformer>(weights_, batch);
    }
    std::unique_ptr<layer> fork() const override { return std::make_unique<transformer>(*this); }

    std::vector<int64_t> widths() const override {
        const auto& w = *weights_;
        return {w.width, w.heads * w.D, w.groups * w.D, w.groups * w.D, w.heads * w.D, w.hidden,
                w.w_3 ? w.hidden : 1};
    }

    // ---- one token ----

    void add_phases(token& t) override {
        const transformer_weights& w = *weights_;
        grid &h = t.work[H], &q = t.work[Q], &k = t.work[K], &v = t.work[V], &a = t.work[A];
        const bool learned = w.position == REFGSS_POSITION_LEARNED;
        if (learned)
            t.add(1, [&, this](int64_t, int) {
                for (int64_t b = 0; b < batch_; ++b) norm_with_position(b, now(t, b), t.x, h.row(b));
            });
        const int64_t of_q = w.w_q->tiles(), of_k = w.w_k->tiles();
        t.add(of_q + of_k + w.w_v->tiles(), [&, of_q, of_k, learned](int64_t item, int slot) {
            const grid& in = learned ? h : t.normed(w.before, t.x, slot);
            if (item < of_q) return tile(t, *w.w_q, w.b_q, item, in, q);
            if (item < of_q + of_k) return tile(t, *w.w_k, w.b_k, item - of_q, in, k);
            tile(t, *w.w_v, w.b_v, item - of_q - of_k, in, v);
        });
        logits_.assign(t.threads, std::vector<float>(w.see().slots() + 1));
        t.add(batch_ * w.groups, [&, this](int64_t item, int slot) {
            attend(item / w.groups, item % w.groups, now(t, item / w.groups), q, k, v, a,
                   logits_[slot].data());
        });
        t.add_output(*w.w_o, w.b_o, a);
        t.add(w.w_1->tiles(), [&, this](int64_t item, int slot) {
            hidden_tile(t, item, t.normed(w.between, t.x, slot));
        });
        t.add_output(*w.w_2, w.b_2, t.work[M1]);
    }

    // ---- a prompt ----

    void begin(int64_t pending) override { pending_ = pending, aside_.reset(); }

    void through(prompt& p) override {
        const transformer_weights& w = *weights_;
        if (!aside_) aside_ = std::make_unique<op_state>(state(pending_));
        const int64_t rows = p.rows();
        grid &h = p.work[H], &q = p.work[Q], &k = p.work[K], &v = p.work[V], &a = p.work[A];
        std::vector<int64_t> told(rows);
        for (int64_t i = 0; i < rows; ++i) told[i] = w.told(aside_->t[i / p.steps] + i % p.steps);
        for_rows(rows, [&](int64_t i) { norm_with_position(i, told[i], p.x, h.row(i)); });
        product(*w.w_q, w.b_q, rows, h, q);
        product(*w.w_k, w.b_k, rows, h, k);
        product(*w.w_v, w.b_v, rows, h, v);
        if (w.rotates()) {
            const auto turned = [&](const view<float, 4>& x) {
                turn<float>(as_const(x), told.data(), w.rope_base, w.position, 1.0f, x);
            };
            turned(heads(q, p.steps, w.heads)), turned(heads(k, p.steps, w.groups));
        }
        attend(p.steps, q, k, v, a);
        multiply(*w.w_o, rows, a, p.h);
        p.add_output(w.b_o, w.width);
        for_rows(rows, [&](int64_t i) { w.between(p.x.row(i), h.row(i)); });
        product(*w.w_1, w.b_1, rows, h, p.work[M1]);
        if (w.w_3) product(*w.w_3, w.b_3, rows, h, p.work[M3]);
        for_rows(rows, [&](int64_t i) { activate(w.hidden, p.work[M1].row(i), p.work[M3].row(i)); });
        multiply(*w.w_2, rows, p.work[M1], p.h);
        p.add_output(w.b_2, w.width);
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
        const std::vector<int64_t> slots{batch_, w.see().slots(), w.groups, w.D};
        return {{"k", slots}, {"v", slots}, {"t", {batch_, 2}}};
    }

    void save(refgss_saved, int64_t pending, arrays to) const override {
        op_state now = state(pending);
        const auto k = typed<float, 4>(to[0]), v = typed<float, 4>(to[1]);
        for_slots([&](int64_t b, int64_t s, int64_t g, int64_t d) {
            *k.at(b, s, g, d) = now.row(now.k, b, s, g)[d];
            *v.at(b, s, g, d) = now.row(now.v, b, s, g)[d];
        });
        const auto t = typed<float, 2>(to[2]);
        for (int64_t b = 0; b < batch_; ++b) {
            *t.at(b, int64_t(0)) = static_cast<float>(now.t[b] / count_step);
            *t.at(b, int64_t(1)) = static_cast<float>(now.t[b] % count_step);
        }
    }

    void restore(refgss_saved, int64_t pending, arrays from) override {
        const auto& w = *weights_;
        op_state then(batch_, w.see().slots(), w.groups, w.D);
        const auto t = typed<const float, 2>(from[2]);
        for (int64_t b = 0; b < batch_; ++b) {
            const float high = *t.at(b, int64_t(0)), low = *t.at(b, int64_t(1));
            const bool sound = high >= 0 && high < count_step && low >= 0 && low < count_step;
            then.t[b] = sound ? static_cast<int64_t>(high) * count_step + static_cast<int64_t>(low) : -1;
            if (!sound || then.t[b] < 0 || (w.see().in_chunks() && then.t[b] >= w.window.chunk))
                throw error{REFGSS_ERROR_VALUE,
                            w.name + "state t is no number of tokens of such a layer (GSS-ATT-26)"};
        }
        const auto k = typed<const float, 4>(from[0]), v = typed<const float, 4>(from[1]);
        for_slots([&](int64_t b, int64_t s, int64_t g, int64_t d) {
            then.row(then.k, b, s, g)[d] = *k.at(b, s, g, d);
            then.row(then.v, b, s, g)[d] = *v.at(b, s, g, d);
        });
        take(then);
        // the pending tokens are among those of the state: what follows counts from before them
        for (int64_t& tokens : ring_.tokens) tokens -= pending;
    }

private:
    /// The token's position; under a chunk, from the beginning of one, and perhaps in a later one.
    int64_t now(const token& t, int64_t b) const { return ring_.tokens[b] + t.pending; }
    /// Tokens are counted modulo the ring and the chunk, so that positions never run out.
    int64_t counted(int64_t t) const {
        const int64_t C = weights_->window.chunk;
        return weights_->see().in_chunks() ? t % (C * (C + 1)) : t;
    }

    void norm_with_position(int64_t i, int64_t position, const grid& x, float* h) const {
        const transformer_weights& w = *weights_;
        w.before(x.row(i), h);
        if (w.position != REFGSS_POSITION_LEARNED) return;
        const float* more = w.learned.row(w.told(position));
        for (int64_t e = 0; e < w.width; ++e) h[e] += more[e];
    }

    /// A tile of y = x W + b.
    static void tile(token& t, const weight_matrix& w, const std::vector<float>& bias, int64_t item,
                     const grid& x, grid& y) {
        t.multiply_tile(w, item, x, y);
        const int64_t first = item * gemv_width;
        for (int64_t b = 0; b < t.batch; ++b)
            for (int64_t j = first; j < first + gemv_width; ++j) y.row(b)[j] += bias[j];
    }
    static void product(const weight_matrix& w, const std::vector<float>& bias, int64_t rows, const grid& x,
                        grid& y) {
        multiply(w, rows, x, y);
        for_rows(rows, [&](int64_t i) {
            for (size_t j = 0; j < bias.size(); ++j) y.row(i)[j] += bias[j];
        });
    }

    void hidden_tile(token& t, int64_t item, const grid& in) const {
        const transformer_weights& w = *weights_;
        tile(t, *w.w_1, w.b_1, item, in, t.work[M1]);
        if (w.w_3) tile(t, *w.w_3, w.b_3, item, in, t.work[M3]);
        for (int64_t b = 0; b < t.batch; ++b)
            activate(gemv_width, t.work[M1].row(b) + item * gemv_width,
                     w.w_3 ? t.work[M3].row(b) + item * gemv_width : nullptr);
    }
    /// m = act(m), times the gate where the MLP has one.
    void activate(int64_t count, float* m, const float* gate) const {
        decoding::activate(weights_->mlp, count, m, weights_->w_3 ? gate : nullptr);
    }

    /// One token of a sequence, and the heads of queries that share the key head g.
    void attend(int64_t b, int64_t g, int64_t t, grid& q, grid& k, const grid& v, grid& a, float* logits) {
        const transformer_weights& w = *weights_;
        const auto& kernel = kernels<query_kernels>();
        const int64_t D = w.D, each = w.heads / w.groups, first = w.see().first(t), end = w.see().end(t);
        float* key = ring_.key(b, g, t);
        std::copy_n(k.row(b) + g * D, D, key);
        std::copy_n(v.row(b) + g * D, D, ring_.value(b, g, t));
        rotate(w.told(t), key);
        for (int64_t h = g * each; h < (g + 1) * each; ++h) {
            float *query = q.row(b) + h * D, *y = a.row(b) + h * D;
            rotate(w.told(t), query);
            std::fill_n(y, D, 0.0f);
            if (first == end) continue;  // nothing is seen (GSS-ATT-11)
            ring_.runs(first, end, [&](int64_t s, int64_t count) {
                const float* bias = w.bias.empty() ? nullptr : w.bias.data() + h * w.distances() + (t - s);
                kernel.logits(count, D, ring_.key(b, g, s), query, w.scale, bias, logits + (s - first));
            });
            const float sum = kernel.weights(end - first, logits);
            ring_.runs(first, end, [&](int64_t s, int64_t count) {
                kernel.add(count, D, ring_.value(b, g, s), logits + (s - first), y);
            });
            for (int64_t d = 0; d < D; ++d) y[d] /= sum;
        }
    }
    /// One head, in place.
    void rotate(int64_t position, float* x) const {
        const transformer_weights& w = *weights_;
        if (!w.rotates()) return;
        const int64_t half = w.D / 2;
        const bool halves = w.position == REFGSS_POSITION_ROPE_HALF;
        for (int64_t j = 0; j < half; ++j) {
            const double angle = static_cast<double>(position) * w.frequency[j];
            const float c = static_cast<float>(std::cos(angle)), s = static_cast<float>(std::sin(angle));
            float &x1 = x[halves ? j : 2 * j], &x2 = x[halves ? j + half : 2 * j + 1];
            const float y1 = x1 * c - x2 * s, y2 = x1 * s + x2 * c;
            x1 = y1, x2 = y2;
        }
    }

    /// Rows of a prompt as (B,L,H,D).
    view<float, 4> heads(grid& x, int64_t steps, int64_t count) const {
        const int64_t D = weights_->D;
        return {x.data(), {batch_, steps, count, D}, {steps * x.stride(), x.stride(), D, 1}};
    }
    /// The prompt's attention, and the state aside moves on.
    void attend(int64_t steps, grid& q, grid& k, grid& v, grid& a) {
        const transformer_weights& w = *weights_;
        auto next = std::make_unique<op_state>(batch_, w.see().slots(), w.groups, w.D);
        op_state& before = *aside_;
        attention_shape shape{w.see(), batch_, steps, w.heads, w.groups, w.D, steps, before.t};
        attention_arrays<float> given{as_const(heads(q, steps, w.heads)), as_const(heads(k, steps, w.groups)),
                                      as_const(heads(v, steps, w.groups))};
        if (!w.bias.empty()) given.bias = {w.bias.data(), {w.heads, w.distances()}, {w.distances(), 1}};
        given.state_k = as_const(before.slots(before.k)), given.state_v = as_const(before.slots(before.v));
        const attention_input<float> in(shape, given, std::vector<float>(w.heads, w.scale));
        attention(in, heads(a, steps, w.heads));
        keep_keys(in, next->slots(next->k), next->slots(next->v));
        for (int64_t b = 0; b < batch_; ++b) next->t[b] = w.told(before.t[b] + steps);
        aside_ = std::move(next);
    }

    /// As the op has it, after `pending` tokens since the last advance (GSS-ATT-7).
    op_state state(int64_t pending) const {
        const transformer_weights& w = *weights_;
        op_state made(batch_, w.see().slots(), w.groups, w.D);
        auto& ring = const_cast<key_ring&>(ring_);  // which is only read
        for (int64_t b = 0; b < batch_; ++b) {
            const int64_t t = ring_.tokens[b] + pending, from = w.see().first(t);
            made.t[b] = w.told(t);
            for (int64_t s = from; s < t; ++s)
                for (int64_t g = 0; g < w.groups; ++g) {
                    // under a chunk a slot is the token's place in it
                    std::copy_n(ring.key(b, g, s), w.D, made.row(made.k, b, w.told(s), g));
                    std::copy_n(ring.value(b, g, s), w.D, made.row(made.v, b, w.told(s), g));
                }
        }
        return made;
    }
    /// The inverse.
    void take(op_state& from) noexcept {
        const transformer_weights& w = *weights_;
        for (int64_t b = 0; b < batch_; ++b) {
            const int64_t t = ring_.tokens[b] = from.t[b];
            for (int64_t s = w.see().first(t); s < t; ++s)
                for (int64_t g = 0; g < w.groups; ++g) {
                    std::copy_n(from.row(from.k, b, s, g), w.D, ring_.key(b, g, s));
                    std::copy_n(from.row(from.v, b, s, g), w.D, ring_.value(b, g, s));
                }
        }
    }
    /// f(b, slot, g, d)
    template <class F> void for_slots(F&& f) const {
        const auto& w = *weights_;
        serial_for(batch_ * w.see().slots() * w.groups, [&](int64_t i) {
            const int64_t g = i % w.groups, s = i / w.groups % w.see().slots();
            for (int64_t d = 0; d < w.D; ++d) f(i / w.groups / w.see().slots(), s, g, d);
        });
    }

    std::shared_ptr<const transformer_weights> weights_;
    int64_t batch_;
    key_ring ring_;
    int64_t pending_ = 0;               // tokens between the last advance and the state aside
    std::shared_ptr<op_state> aside_;   // after a prompt's tokens; none: the ring itself
    std::vector<std::vector<float>> logits_;  // of each thread
};

norm norm_of(const refgss_array* weight, const refgss_array* bias, const std::string& name, int64_t E,
             double eps) {
    return bias ? norm(weight, bias, name, E, eps) : norm(weight, name, E, eps);
}

/// The bias of each distance (GSS-ATT-4), or none.
std::vector<float> bias_of(const transformer_weights& w, const refgss_array* table) {
    const int64_t M = w.distances();
    if (w.position != REFGSS_POSITION_T5 && w.position != REFGSS_POSITION_ALIBI) return {};
    std::vector<float> bias(sized(w.heads, M));
    view<const float, 2> t{};
    if (w.position == REFGSS_POSITION_T5)
        t = shaped<const float, 2>(table, (w.name + "position.table").c_str(), w.heads, t5_buckets);
    for (int64_t h = 0; h < w.heads; ++h)
        for (int64_t n = 0; n < M; ++n)
            bias[h * M + n] = t.data ? *t.at(h, t5_bucket(n))
                                     : static_cast<float>(-std::exp2(-8.0 * double(h + 1) / double(w.heads)) *
                                                          double(n));
    return bias;
}

}  // namespace

std::unique_ptr<layer> make_transformer(const layer_source& from) {
    const auto& p = *static_cast<const refgss_transformer_layer_params*>(from.params.params);
    static constexpr refgss_transformer_layer_scales none{};
    const auto* given = static_cast<const refgss_transformer_layer_scales*>(from.params.scales);
    const refgss_transformer_layer_scales& scales = given ? *given : none;
    const std::string& name = from.name;
    const auto refuse = [&](const char* why) { throw error{REFGSS_ERROR_VALUE, name + why}; };
    auto w = std::make_shared<transformer_weights>();
    const int64_t E = w->width = from.width, A = axis_of(p.w_q, name + "w_q", 2, 1);
    const int64_t M = w->hidden = axis_of(p.w_1, name + "w_1", 2, 1);
    w->name = name, w->heads = p.heads, w->groups = p.kv_heads, w->window = p.window;
    w->position = p.position, w->mlp = p.mlp, w->rope_base = p.rope_base;
    if (p.heads < 1 || p.kv_heads < 1 || p.heads % p.kv_heads || A < 1 || A % p.heads || M < 1)
        refuse("heads do not divide the width of the attention, or kv_heads do not divide them");
    if (p.window.chunk < 1 || p.window.chunk > (int64_t(1) << 30) || p.window.visible < REFGSS_VISIBLE_CHUNK ||
        p.window.visible > REFGSS_VISIBLE_STRICT)
        refuse("window is none: use a chunk of at least 1 and one of enum refgss_visible");
    if (p.position < REFGSS_POSITION_NONE || p.position > REFGSS_POSITION_LEARNED ||
        p.mlp < REFGSS_MLP_GELU || p.mlp > REFGSS_MLP_RELU || !(p.eps > 0))
        refuse("position, mlp or eps is none that this library knows");
    const int64_t D = w->D = A / p.heads, K = p.kv_heads * D;
    if (w->rotates() && (D % 2 || !(p.rope_base > 0) || !std::isfinite(p.rope_base)))
        refuse("a rotation needs an even width of a head, and a base that is positive and finite");
    w->scale = p.window.unscaled ? 1.0f : static_cast<float>(1 / std::sqrt(static_cast<double>(D)));
    w->before = norm_of(p.norm1_weight, p.norm1_bias, name + "norm1", E, p.eps);
    w->between = norm_of(p.norm2_weight, p.norm2_bias, name + "norm2", E, p.eps);
    w->w_q = read_matrix(p.w_q, scales.w_q, name + "w_q", E, A);
    w->w_k = read_matrix(p.w_k, scales.w_k, name + "w_k", E, K);
    w->w_v = read_matrix(p.w_v, scales.w_v, name + "w_v", E, K);
    w->w_o = read_matrix(p.w_o, scales.w_o, name + "w_o", A, E);
    w->w_1 = read_matrix(p.w_1, scales.w_1, name + "w_1", E, M);
    w->w_2 = read_matrix(p.w_2, scales.w_2, name + "w_2", M, E);
    if (p.mlp == REFGSS_MLP_GLU) w->w_3 = read_matrix(p.w_3, scales.w_3, name + "w_3", E, M);
    w->b_q = read_optional(p.b_q, name + "b_q", A), w->b_k = read_optional(p.b_k, name + "b_k", K);
    w->b_v = read_optional(p.b_v, name + "b_v", K), w->b_o = read_optional(p.b_o, name + "b_o", E);
    w->b_1 = read_optional(p.b_1, name + "b_1", M), w->b_2 = read_optional(p.b_2, name + "b_2", E);
    w->b_3 = read_optional(p.mlp == REFGSS_MLP_GLU ? p.b_3 : nullptr, name + "b_3", M);
    for (int64_t j = 0; j < D / 2 && w->rotates(); ++j)
        w->frequency.push_back(std::pow(p.rope_base, -2.0 * double(j) / double(D)));
    w->bias = bias_of(*w, p.table);
    if (p.position == REFGSS_POSITION_LEARNED) {
        const int64_t rows = axis_of(p.table, name + "position.weight", 2, 0);
        if (!w->see().in_chunks() || rows < p.window.chunk)
            refuse("position.weight must have a row for each token of a chunk, and nothing else is seen");
        const auto table = shaped<const float, 2>(p.table, (name + "position.weight").c_str(), rows, E);
        w->learned = grid(rows, E);
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t e = 0; e < E; ++e) w->learned.row(i)[e] = *table.at(i, e);
    }
    return std::make_unique<transformer>(std::move(w), 0);
}

}  // namespace refgss::decoding
