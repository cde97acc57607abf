// tokens.cpp: tokens through the layers of a decoder, one of each sequence or many.
//
// One token is a few hundred thousand cycles of reading weights, cut into phases by what must be known
// before what.  In a GSS layer:
//
//   h = norm(x): u = GELU(h W_u), its SSM and D;  v = GELU(h W_v)     by tiles of 32 columns
//   y W_uc ⊙ v                                                        by tiles
//   x += (...) W_o + b                                                by tiles
//
// A prompt goes through the same weights as matrix products over many rows.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

#include "decoder/decoder.hpp"

namespace refgss::decoding {

void decoder::check(const int64_t* tokens, int64_t count, const char* name) const {
    serial_for(count, [&](int64_t i) {
        if (tokens[i] < 0 || tokens[i] >= model_->vocabulary)
            throw error{REFGSS_ERROR_VALUE, std::string(name) + " must be between 0 and " +
                                                std::to_string(model_->vocabulary - 1) + ", not " +
                                                std::to_string(tokens[i])};
    });
}

void decoder::make_room(int64_t tokens) const {
    if (tokens > model_->span - position_)
        throw error{REFGSS_ERROR_VALUE, "the stream is longer than the softmax is normalised over: " +
                                            std::to_string(model_->span) + " tokens (GSS-STA-8)"};
}

// ---- Phases -------------------------------------------------------------------------------------

namespace {

/// Work in phases: no item of one begins before all items of the one before are done.  Items are
/// claimed by the threads that are there, each from its own share first, and the caller waits for no
/// thread that has not come; which is why a barrier would not do.
class phases {
public:
    explicit phases(std::vector<int64_t> items)
        : items_(std::move(items)), slots_(slots_for(*std::max_element(items_.begin(), items_.end()))),
          claimed_(items_.size() * slots_), done_(items_.size()) {}
    int slots() const { return slots_; }

    /// body(phase, item, slot).
    template <class Body> void run(const Body& body) {
        for (auto* counters : {&claimed_, &done_})
            for (counter& c : *counters) c.value.store(0, std::memory_order_relaxed);
        parallel_for(slots_, slots_, [&](int64_t, int slot) {
            for (size_t phase = 0; phase < items_.size(); ++phase) {
                const int64_t count = items_[phase];
                for (int k = 0; k < slots_; ++k) {
                    const int64_t share = (slot + k) % slots_;
                    const int64_t first = count * share / slots_, end = count * (share + 1) / slots_;
                    auto& next = claimed_[phase * slots_ + share].value;
                    for (int64_t i; first + next.load(std::memory_order_relaxed) < end &&
                                    (i = first + next.fetch_add(1, std::memory_order_relaxed)) < end;) {
                        body(static_cast<int64_t>(phase), i, slot);
                        done_[phase].value.fetch_add(1, std::memory_order_release);
                    }
                }
                for (int spins = 0; done_[phase].value.load(std::memory_order_acquire) < count;)
                    if (++spins > 5000) std::this_thread::yield();
            }
        });
    }

private:
    struct alignas(64) counter {
        std::atomic<int64_t> value{0};
    };
    std::vector<int64_t> items_;
    int slots_;
    std::vector<counter> claimed_, done_;
};

}  // namespace

// ---- One token ----------------------------------------------------------------------------------

/// What a token goes through, and where each thread works.
struct token_plan {
    enum class stage { in, inner, gate, out, head };
    struct part {
        stage what;
        int64_t layer;
    };
    struct place {  // norm(x) of the layer that a thread works on
        grid h, inner;
        int64_t layer;
    };
    int threads;
    std::vector<part> parts;
    std::vector<place> places;
    std::unique_ptr<phases> work;

    token_plan(const model& m, int64_t batch) : threads(thread_count()) {
        std::vector<int64_t> items;
        auto add = [&](stage what, int64_t i, int64_t count) {
            parts.push_back({what, i}), items.push_back(count);
        };
        for (size_t i = 0; i < m.layers.size(); ++i) {
            const layer& l = m.layers[i];
            add(stage::in, i, whole_tiles(m.channels) + whole_tiles(l.gate));
            if (l.inner) add(stage::inner, i, whole_tiles(m.channels));
            if (l.gated()) add(stage::gate, i, whole_tiles(l.gate));
            add(stage::out, i, whole_tiles(m.width));
        }
        add(stage::head, m.layers.size(), m.head->tiles());
        work = std::make_unique<phases>(items);
        for (int s = 0; s < work->slots(); ++s)
            places.push_back({grid(batch, m.width), grid(batch, m.channels), -1});
    }
};

void decoder::step(const int64_t* tokens, view<float, 2> logits) {
    const model& m = *model_;
    check(tokens, batch_, "tokens");
    make_room(1);
    if (!plan_ || plan_->threads != thread_count()) plan_ = std::make_shared<token_plan>(m, batch_);
    using stage = token_plan::stage;
    auto& gemv = kernels<gemv_kernels>();
    auto& pointwise = kernels<pointwise_kernels<float>>();
    const int64_t B = batch_, E = m.width, H = m.channels, block = m.block;
    const int64_t tiles_h = whole_tiles(H), filled = filled_;
    const int64_t last = m.states ? filled : -1;  // a sum over nothing is 0 (GSS-NFI-14)
    for (int64_t b = 0; b < B; ++b) m.embedding->column(tokens[b], x_.row(b));
    for (auto& place : plan_->places) place.layer = -1;

    auto product = [&](const weight_matrix& w, int64_t t, const grid& x, grid& y) {
        gemv.product[static_cast<int>(w.format())](w.tile(t), w.rows(), B, x.data(), x.stride(),
                                                   y.data() + t * gemv_width, y.stride());
    };
    /// Inputs u of 32 channels, in their place -> y.
    auto remember = [&](const layer& l, memory& mem, int64_t t, const grid& u) {
        const int64_t c = t * gemv_width;
        for (int64_t b = 0; b < B; ++b) {
            float* in = mem.inputs.row(b * block) + c;
            const float* now = u.row(b) + c;
            std::copy(now, now + std::min(gemv_width, H - c), in + filled * mem.inputs.stride());
            gemv.recent(last, mem.inputs.stride(), l.taps.data() + c,
                        in + (filled - last) * mem.inputs.stride(), mem.readout.row(b * block + filled) + c, l.skip.data() + c, y_.row(b) + c);
        }
    };
    plan_->work->run([&](int64_t phase, int64_t item, int slot) {
        const token_plan::part& p = plan_->parts[phase];
        token_plan::place& at = plan_->places[slot];
        if ((p.what == stage::in || p.what == stage::head) && at.layer != p.layer) {
            const norm& n = p.what == stage::head ? m.last : m.layers[p.layer].before;
            for (int64_t b = 0; b < B; ++b)
                n ? n(x_.row(b), at.h.row(b))
                  : static_cast<void>(std::copy(x_.row(b), x_.row(b) + E, at.h.row(b)));
            at.layer = p.layer;
        }
        if (p.what == stage::head) return product(*m.head, item, at.h, logits_);
        const layer& l = m.layers[p.layer];
        memory& mem = layers_[p.layer];
        const int64_t c = item * gemv_width;
        switch (p.what) {
            case stage::in:
                if (item >= tiles_h) {  // v
                    const int64_t t = item - tiles_h;
                    product(*l.w_v, t, at.h, v_);
                    for (int64_t b = 0; b < B; ++b) {
                        float* v = v_.row(b) + t * gemv_width;
                        pointwise.gelu(gemv_width, v, v);
                    }
                } else if (!l.gated()) {  // DSS: y = GELU(SSM(h))
                    remember(l, mem, item, at.h);
                    for (int64_t b = 0; b < B; ++b)
                        pointwise.gelu(gemv_width, y_.row(b) + c, y_.row(b) + c);
                } else {
                    product(*l.w_u, item, at.h, u_);
                    for (int64_t b = 0; b < B; ++b)
                        pointwise.gelu(gemv_width, u_.row(b) + c, u_.row(b) + c);
                    if (!l.inner) remember(l, mem, item, u_);
                }
                break;
            case stage::inner:
                for (int64_t b = 0; b < B; ++b) l.inner(u_.row(b), at.inner.row(b));
                remember(l, mem, item, at.inner);
                break;
            case stage::gate:
                product(*l.w_uc, item, y_, g_);
                for (int64_t b = 0; b < B; ++b)
                    for (int64_t j = c; j < c + gemv_width; ++j) g_.row(b)[j] *= v_.row(b)[j];
                break;
            case stage::out:
                product(*l.w_o, item, l.gated() ? g_ : y_, v_);
                for (int64_t b = 0; b < B; ++b)
                    for (int64_t j = c; j < c + gemv_width; ++j)
                        x_.row(b)[j] += v_.row(b)[j] + l.bias[j];
                break;
            case stage::head: break;
        }
    });
    const int64_t step = logits.stride[1];
    for (int64_t b = 0; b < B; ++b)
        for (int64_t t = 0; t < m.vocabulary; ++t)
            logits.data[b * logits.stride[0] + t * step] = logits_.row(b)[t];
    if (filled_ + 1 == block)
        begin_block(after(block), 1);
    else
        ++filled_, ++position_;
}

// ---- Many tokens --------------------------------------------------------------------------------

/// What the layers pass through one after the other; memory that is new costs as much as work.
struct chunk {
    grid x, h, u, y, v, g;
    chunk(const model& m, int64_t rows)
        : x(rows, m.width), h(rows, m.width), u(rows, m.channels), y(rows, m.channels),
          v(rows, m.gate), g(rows, m.gate) {}
};

/// One layer over `steps` steps of every sequence; nothing is pending.
void decoder::through(const layer& l, grid& states, int64_t steps, chunk& space) const {
    auto& pointwise = kernels<pointwise_kernels<float>>();
    const int64_t M = batch_ * steps, E = model_->width, H = model_->channels, F = l.gate;
    grid &x = space.x, &h = space.h, &u = space.u, &y = space.y, &v = space.v, &g = space.g;
    for_rows(M, [&](int64_t i) { l.before(x.row(i), h.row(i)); });
    if (l.gated()) {
        multiply(*l.w_u, M, h, u);
        for_rows(M, [&](int64_t i) {
            pointwise.gelu(H, u.row(i), u.row(i));
            if (l.inner) l.inner(u.row(i), u.row(i));
        });
    }
    const grid& in = l.gated() ? u : h;
    const int64_t stride = in.stride();
    auto state = state_of(states);
    auto from = as_const(state);
    l.map->apply({in.data(), {batch_, steps, H}, {steps * stride, stride, 1}}, &from,
                 {y.data(), {batch_, steps, H}, {steps * stride, stride, 1}}, &state);
    for_rows(M, [&](int64_t i) {
        for (int64_t c = 0; c < H; ++c) y.row(i)[c] += l.skip[c] * in.row(i)[c];
        if (!l.gated()) pointwise.gelu(H, y.row(i), y.row(i));
    });
    auto add = [&](const grid& o) {
        for_rows(M, [&](int64_t i) {
            for (int64_t e = 0; e < E; ++e) x.row(i)[e] += o.row(i)[e] + l.bias[e];
        });
    };
    if (!l.gated()) {
        multiply(*l.w_o, M, y, h);
        return add(h);
    }
    multiply(*l.w_v, M, h, v);
    multiply(*l.w_uc, M, y, g);
    for_rows(M, [&](int64_t i) { pointwise.gate(F, g.row(i), v.row(i), v.row(i)); });
    multiply(*l.w_o, M, v, h);
    add(h);
}

/// f(first, steps, x) for pieces of the tokens (B,L), x the output of the last layer (B steps, E).
template <class F>
void decoder::read(const int64_t* tokens, int64_t length, F&& f) {
    check(tokens, batch_ * length, "tokens");
    make_room(length);
    if (length == 0 || batch_ == 0) return;
    next_block next;
    for (int64_t i = 0; i < depth(); ++i)
        next.states.push_back(moved(model_->layers[i], layers_[i], filled_));
    const int64_t most = std::max<int64_t>(1, chunk_rows / batch_);
    chunk space(*model_, batch_ * std::min(most, length));
    grid& x = space.x;
    for (int64_t first = 0; first < length; first += most) {
        const int64_t steps = std::min(most, length - first);
        for_rows(batch_ * steps, [&](int64_t i) {
            model_->embedding->column(tokens[i / steps * length + first + i % steps], x.row(i));
        });
        for (int64_t i = 0; i < depth(); ++i) through(model_->layers[i], next.states[i], steps, space);
        f(first, steps, x);
    }
    for (int64_t i = 0; i < depth(); ++i)
        next.readouts.push_back(read_out(model_->layers[i], next.states[i]));
    begin_block(std::move(next), length);
}

void decoder::prefill(const int64_t* tokens, int64_t length, const refgss_array* out) {
    const int64_t V = model_->vocabulary, E = model_->width;
    const bool all = out != nullptr && out->rank == 3;
    if (!all && length < 1)
        throw error{REFGSS_ERROR_VALUE, "there are no tokens, and so no last one: pass at least one"};
    view<float, 3> logits;
    if (all) {
        logits = shaped<float, 3>(out, "logits", batch_, length, V);
    } else {
        auto v = shaped<float, 2>(out, "logits", batch_, V);
        logits = {v.data, {batch_, 1, V}, {v.stride[0], 0, v.stride[1]}};
    }
    auto normed = [&](const float* x, float* to) {
        if (model_->last) model_->last(x, to);
        else std::copy(x, x + E, to);
    };
    read(tokens, length, [&](int64_t first, int64_t steps, const grid& x) {
        if (!all && first + steps < length) return;
        const int64_t each = all ? steps : 1, M = batch_ * each;
        grid h(M, E), y(M, V);
        for_rows(M, [&](int64_t i) {
            normed(x.row(all ? i : i * steps + steps - 1), h.row(i));
        });
        multiply(*model_->head, M, h, y);
        for_rows(M, [&](int64_t i) {
            for (int64_t t = 0; t < V; ++t)
                *logits.at(i / each, all ? first + i % each : 0, t) = y.row(i)[t];
        });
    });
}

void decoder::loss(const int64_t* tokens, const int64_t* targets, int64_t length,
                   view<double, 2> out) {
    const int64_t V = model_->vocabulary, E = model_->width;
    check(targets, batch_ * length, "targets");
    constexpr int64_t together = 128;  // rows of logits at a time
    grid h(together, E), y(together, V);
    read(tokens, length, [&](int64_t first, int64_t steps, const grid& x) {
        for (int64_t start = 0; start < batch_ * steps; start += together) {
            const int64_t M = std::min(together, batch_ * steps - start);
            for_rows(M, [&](int64_t i) {
                if (model_->last) model_->last(x.row(start + i), h.row(i));
                else std::copy(x.row(start + i), x.row(start + i) + E, h.row(i));
            });
            multiply(*model_->head, M, h, y);
            for_rows(M, [&](int64_t i) {
                const float* row = y.row(i);
                const int64_t b = (start + i) / steps, l = first + (start + i) % steps;
                const double top = *std::max_element(row, row + V);
                double sum = 0;
                for (int64_t t = 0; t < V; ++t) sum += std::exp(row[t] - top);
                *out.at(b, l) = std::log(sum) + top - row[targets[b * length + l]];
            });
        }
    });
}

}  // namespace refgss::decoding
