// decoder.cpp: a language model prepared for streaming (GSS-LM, GSS-STA).
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

#include "dispatch.hpp"
#include "gemv.hpp"
#include "pointwise.hpp"
#include "ssm.hpp"
#include "threads.hpp"

using namespace refgss;

namespace {

constexpr int64_t chunk_rows = 1024;  // of a prompt at a time, over all sequences

constexpr int64_t padded_width(int64_t width) { return whole_tiles(width) * gemv_width; }

/// A vector of parameters, padded by zeros to whole tiles.
std::vector<float> padded_vector(const refgss_array* a, const std::string& name, int64_t width) {
    auto v = shaped<const float, 1>(a, name.c_str(), width);
    std::vector<float> values(padded_width(width), 0.0f);
    for (int64_t i = 0; i < width; ++i) values[i] = *v.at(i);
    return values;
}

/// Rows side by side, each padded to whole tiles; the padding is finite and never seen.
class grid {
public:
    grid(int64_t rows, int64_t width)
        : stride_(padded_width(width)), values_(sized(rows, stride_), 0.0f) {}
    float* row(int64_t i) { return values_.data() + i * stride_; }
    const float* row(int64_t i) const { return values_.data() + i * stride_; }
    float* data() { return values_.data(); }
    const float* data() const { return values_.data(); }
    int64_t stride() const { return stride_; }

private:
    int64_t stride_;
    std::vector<float> values_;
};

// ---- The model ----------------------------------------------------------------------------------

struct norm {
    std::vector<float> weight, bias;
    int64_t width = 0;
    float eps = 0;

    norm() = default;
    norm(const refgss_array* w, const refgss_array* b, const std::string& name, int64_t n, double e)
        : weight(padded_vector(w, name + ".weight", n)), bias(padded_vector(b, name + ".bias", n)),
          width(n), eps(static_cast<float>(e)) {}
    explicit operator bool() const { return width > 0; }
    void operator()(const float* x, float* y) const {
        kernels<pointwise_kernels<float>>().layer_norm(width, x, weight.data(), bias.data(), eps, y);
    }
};

using matrix = std::shared_ptr<const weight_matrix>;

/// Moving all states of a layer by a block, where the modes are shared by all channels: two products
/// with the powers of Ā.  Rows of states and weights are N real parts, then N imaginary parts.
struct block_maps {
    int64_t states = 0;
    std::vector<complex> log;    // of Ā (N)
    std::vector<double> last;    // Ā^block (2N)
    std::vector<float> weights;  // C̃ Ā (H,2N)
    matrix to_state, to_output;  // Ā^j (block,2N), and Ā^j, -Im, (2N,block)

    block_maps() = default;
    block_maps(const ssm<float>& map, int64_t block);
    explicit operator bool() const { return states > 0; }
    complex power(int64_t n, int64_t j) const { return std::exp(log[n] * static_cast<double>(j)); }
};

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

struct layer {
    norm before, inner;            // inner: of the H channels, where there is one
    matrix w_u, w_v, w_uc, w_o;    // DSS: w_o alone
    std::vector<float> skip, bias;  // D and b_o
    std::unique_ptr<ssm<float>> map;
    block_maps blocks;             // none where each channel has modes of its own
    grid taps;                     // K (block, H)
    int64_t gate = 0;              // F; 0 for DSS

    layer() : taps(0, 0) {}
    bool gated() const { return gate > 0; }
};

struct model {
    int64_t vocabulary, width, channels = -1, states = -1, gate = 0, block;
    int64_t span = INT64_MAX;  // the length that dss-softmax declares
    matrix embedding, head;  // (E,V): columns are tokens
    std::vector<layer> layers;
    norm last;

    model(const refgss_lm_params& p, int64_t block_);

private:
    void add(const refgss_lm_layer& p, const std::string& name);
    void prepare(layer& to, const refgss_array* a, const refgss_array* b, const refgss_array* c,
                 const refgss_array* d, int32_t imag_is_exp, const refgss_array& delta,
                 const refgss_form& form, const std::string& name);
};

matrix read_matrix(const refgss_array* a, const refgss_array* scale, const std::string& name,
                   int64_t rows, int64_t columns, bool transposed = false) {
    return std::make_shared<weight_matrix>(
        matrix_source::of(a, scale, name.c_str(), rows, columns, transposed));
}

int64_t axis_of(const refgss_array* a, const std::string& name, int rank, int axis) {
    if (a == nullptr) throw error{REFGSS_ERROR_VALUE, name + " is NULL: pass an array"};
    if (a->rank != rank)
        throw error{REFGSS_ERROR_VALUE, name + " has " + std::to_string(a->rank) +
                                            " axes: it needs " + std::to_string(rank)};
    return a->shape[axis];
}

model::model(const refgss_lm_params& p, int64_t block_)
    : vocabulary(axis_of(p.embedding, "embedding.weight", 2, 0)),
      width(axis_of(p.embedding, "embedding.weight", 2, 1)), block(block_) {
    if (vocabulary < 1 || width < 1)
        throw error{REFGSS_ERROR_VALUE, "embedding.weight is empty: a model needs V > 0 and E > 0"};
    if (p.depth < 1) throw error{REFGSS_ERROR_VALUE, "a language model has at least one layer"};
    if (!(p.eps > 0)) throw error{REFGSS_ERROR_VALUE, "eps must be positive"};
    embedding = read_matrix(p.embedding, p.embedding_scale, "embedding.weight", width, vocabulary, true);
    head = p.head ? read_matrix(p.head, p.head_scale, "head.weight", width, vocabulary) : embedding;
    if (p.norm_weight) last = norm(p.norm_weight, p.norm_bias, "norm", width, p.eps);
    for (int64_t i = 0; i < p.depth; ++i) add(p.layers[i], "layers." + std::to_string(i) + ".");
}

void model::add(const refgss_lm_layer& p, const std::string& name) {
    layer to;
    if ((p.gss == nullptr) == (p.dss == nullptr))
        throw error{REFGSS_ERROR_VALUE, name + "gss or .dss must be given, and not both"};
    if (p.gss) {
        const refgss_gss_layer_params& g = *p.gss;
        const int64_t H = axis_of(g.c, name + "ssm.c", 3, 0), F = axis_of(g.w_v, name + "w_v", 2, 1);
        if (H < 1 || F < 1) throw error{REFGSS_ERROR_VALUE, name + "w_v or ssm.c is empty"};
        to.before = norm(g.norm_weight, g.norm_bias, name + "norm", width, g.eps);
        if (g.ssm_norm_weight)
            to.inner = norm(g.ssm_norm_weight, g.ssm_norm_bias, name + "ssm.norm", H, g.eps);
        to.gate = F;
        to.w_u = read_matrix(g.w_u, p.w_u_scale, name + "w_u", width, H);
        to.w_v = read_matrix(g.w_v, p.w_v_scale, name + "w_v", width, F);
        to.w_uc = read_matrix(g.w_uc, p.w_uc_scale, name + "w_uc", H, F);
        to.w_o = read_matrix(g.w_o, p.w_o_scale, name + "w_o", F, width);
        to.bias = g.b_o ? padded_vector(g.b_o, name + "b_o", width)
                        : std::vector<float>(padded_width(width), 0.0f);
        float one = 1;
        refgss_array delta{&one, REFGSS_F32, 0, {}, {}};
        prepare(to, g.a, g.b, g.c, g.d, g.imag_is_exp, delta, {REFGSS_ZOH, 0, 0, 0}, name);
        gate = std::max(gate, F);
    } else {
        const refgss_dss_layer_params& g = *p.dss;
        to.before = norm(g.norm_weight, g.norm_bias, name + "norm", width, g.eps);
        to.w_o = read_matrix(g.w_o, p.w_o_scale, name + "w_o", width, width);
        to.bias = g.b_o ? padded_vector(g.b_o, name + "b_o", width)
                        : std::vector<float>(padded_width(width), 0.0f);
        if (g.log_delta == nullptr)
            throw error{REFGSS_ERROR_VALUE, name + "ssm.log_delta is NULL: pass an array"};
        const int columns = g.log_delta->rank == 2 ? 2 : 1;
        check_array(g.log_delta, (name + "ssm.log_delta").c_str(), columns);
        const refgss_array& log = *g.log_delta;
        std::vector<float> steps;
        for (int64_t i = 0; i < log.shape[0]; ++i)
            for (int64_t j = 0; j < columns; ++j) {
                const int64_t at = i * log.stride[0] + (columns == 2 ? j * log.stride[1] : 0);
                steps.push_back(
                    static_cast<float>(std::exp(double(static_cast<const float*>(log.data)[at]))));
            }
        refgss_array delta{steps.data(), log.dtype, columns, {log.shape[0], columns}, {columns, 1}};
        prepare(to, g.a, g.b, g.c, g.d, g.imag_is_exp, delta, g.form, name);
        if (channels != width)
            throw error{REFGSS_ERROR_VALUE, name + "ssm.c must have a row for each of the model's width"};
    }
    layers.push_back(std::move(to));
}

void model::prepare(layer& to, const refgss_array* a, const refgss_array* b, const refgss_array* c,
                    const refgss_array* d, int32_t imag_is_exp, const refgss_array& delta,
                    const refgss_form& form, const std::string& name) {
    auto weights = checked<const float, 3>(c, (name + "ssm.c").c_str());
    const int64_t H = weights.shape[0], N = weights.shape[1];
    if (channels < 0) channels = H, states = N;
    if (H != channels || N != states)
        throw error{REFGSS_ERROR_VALUE, name + "ssm.c must have the shape of the first layer's"};
    to.skip = padded_vector(d, name + "ssm.d", H);
    std::vector<float> lam(2 * N);
    refgss_array l{lam.data(), REFGSS_F32, 2, {N, 2}, {2, 1}};
    require(refgss_gss_lambda(a, b, imag_is_exp, &l));
    int64_t length = std::max(chunk_rows, block);
    if (form.method == REFGSS_DSS_SOFTMAX) {
        span = std::min(span, form.length);
        length = std::min(length, span);
    }
    to.map = std::make_unique<ssm<float>>(parameters_of<float>(&l, &delta, &form), weights, length);
    to.map->prepare();
    auto kernel = to.map->kernel();
    if (delta.rank == 0) to.blocks = block_maps(*to.map, block);
    to.taps = grid(block, H);
    for (int64_t j = 0; j < std::min(block, kernel.shape[1]); ++j)
        for (int64_t h = 0; h < H; ++h) to.taps.row(j)[h] = *kernel.at(h, j);
}

// ---- Phases -------------------------------------------------------------------------------------

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

/// f(i) for rows, in parallel.
template <class F> void for_rows(int64_t rows, F&& f) {
    constexpr int64_t some = 8;
    const int64_t items = (rows + some - 1) / some;
    parallel_for(items, slots_for(items), [&](int64_t item, int) {
        for (int64_t i = item * some; i < std::min(rows, (item + 1) * some); ++i) f(i);
    });
}

void multiply(const weight_matrix& w, int64_t rows, const grid& x, grid& y) {
    w.multiply(rows, x.data(), x.stride(), y.data(), y.stride());
}

// ---- The sequences ------------------------------------------------------------------------------

/// The state-space model of one layer over all sequences.  Between two advances,
/// y_n = readout_n + Σ_{j<=n} K_j u_{n-j} + D u_n.
struct memory {
    grid state;            // (B H, 2N) at the last advance: N real parts, N imaginary parts
    grid inputs, readout;  // (B block, H)

    memory(int64_t batch, int64_t block, int64_t H, int64_t N)
        : state(sized(batch, H), 2 * N), inputs(batch * block, H), readout(batch * block, H) {}
};

}  // namespace

struct token_plan;
struct chunk;

struct refgss_decoder {
    refgss_decoder(std::shared_ptr<const model> m, int64_t batch)
        : model_(std::move(m)), batch_(batch),
          layers_(model_->layers.size(), memory(batch, model_->block, model_->channels, model_->states)),
          x_(batch, model_->width), u_(batch, model_->channels), y_(batch, model_->channels),
          v_(batch, std::max(model_->gate, model_->width)), g_(batch, std::max(model_->gate, int64_t(1))),
          logits_(batch, model_->vocabulary) {
        for (size_t i = 0; i < layers_.size(); ++i) read_out(i);
    }

    refgss_decoder(const refgss_decoder& other)
        : model_(other.model_), batch_(other.batch_), filled_(other.filled_),
          position_(other.position_), layers_(other.layers_), x_(other.x_), u_(other.u_),
          y_(other.y_), v_(other.v_), g_(other.g_), logits_(other.logits_) {}

    void step(const int64_t* tokens, view<float, 2> logits);
    void prefill(const int64_t* tokens, int64_t length, const refgss_array* logits);
    void loss(const int64_t* tokens, const int64_t* targets, int64_t length, view<double, 2> loss);
    void state(view<float, 4> out, bool before_pending) const;
    void pending(view<float, 3> out) const;
    void restore(view<const float, 4> state, const view<const float, 3>* pending, int64_t position);

    const model& of() const { return *model_; }
    int64_t batch() const { return batch_; }
    int64_t filled() const { return filled_; }
    int64_t position() const { return position_; }
    int64_t depth() const { return static_cast<int64_t>(layers_.size()); }

private:
    template <class Memory> auto state_of(Memory& m) const {
        using T = std::remove_pointer_t<decltype(m.state.data())>;
        const int64_t H = model_->channels, N = model_->states, row = m.state.stride();
        return view<T, 4>{m.state.data(), {batch_, H, N, 2}, {H * row, row, 1, N}};
    }
    view<const float, 3> seen(const memory& m) const {
        const int64_t stride = m.inputs.stride();
        return {m.inputs.data(), {batch_, filled_, model_->channels}, {model_->block * stride, stride, 1}};
    }
    void read_out(size_t i);
    grid moved(const layer& l, const memory& m) const;
    void advance();
    void make_room(int64_t tokens) const;
    void check(const int64_t* tokens, int64_t count, const char* name) const;
    template <class F> void read(const int64_t* tokens, int64_t length, F&& f);
    void through(const layer& l, memory& m, int64_t steps, chunk& space);

    std::shared_ptr<const model> model_;
    int64_t batch_, filled_ = 0, position_ = 0;
    std::vector<memory> layers_;
    grid x_, u_, y_, v_, g_, logits_;  // of one token of each sequence
    std::shared_ptr<token_plan> plan_;  // made at the first step; of this decoder alone
};

void refgss_decoder::read_out(size_t i) {
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
grid refgss_decoder::moved(const layer& l, const memory& m) const {
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
void refgss_decoder::advance() {
    if (filled_ == 0) return;
    for (size_t i = 0; i < layers_.size(); ++i)
        layers_[i].state = moved(model_->layers[i], layers_[i]);
    filled_ = 0;
    for (size_t i = 0; i < layers_.size(); ++i) read_out(i);
}

void refgss_decoder::check(const int64_t* tokens, int64_t count, const char* name) const {
    for (int64_t i = 0; i < count; ++i)
        if (tokens[i] < 0 || tokens[i] >= model_->vocabulary)
            throw error{REFGSS_ERROR_VALUE, std::string(name) + " must be between 0 and " +
                                                std::to_string(model_->vocabulary - 1) + ", not " +
                                                std::to_string(tokens[i])};
}

void refgss_decoder::make_room(int64_t tokens) const {
    if (tokens > model_->span - position_)
        throw error{REFGSS_ERROR_VALUE, "the stream is longer than the softmax is normalised over: " +
                                            std::to_string(model_->span) + " tokens (GSS-STA-8)"};
}

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

void refgss_decoder::step(const int64_t* tokens, view<float, 2> logits) {
    const model& m = *model_;
    check(tokens, batch_, "tokens");
    make_room(1);
    if (!plan_ || plan_->threads != thread_count()) plan_ = std::make_shared<token_plan>(m, batch_);
    using stage = token_plan::stage;
    auto& gemv = kernels<gemv_kernels>();
    auto& pointwise = kernels<pointwise_kernels<float>>();
    const int64_t B = batch_, E = m.width, H = m.channels, block = m.block;
    const int64_t tiles_h = whole_tiles(H);
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
            std::copy(now, now + std::min(gemv_width, H - c), in + filled_ * mem.inputs.stride());
            gemv.recent(filled_, mem.inputs.stride(), l.taps.data() + c, in,
                        mem.readout.row(b * block + filled_) + c, l.skip.data() + c, y_.row(b) + c);
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
    ++position_;
    if (++filled_ == block) advance();
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
void refgss_decoder::through(const layer& l, memory& mem, int64_t steps, chunk& space) {
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
    auto state = state_of(mem);
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
void refgss_decoder::read(const int64_t* tokens, int64_t length, F&& f) {
    check(tokens, batch_ * length, "tokens");
    make_room(length);
    if (length == 0 || batch_ == 0) return;
    advance();
    const int64_t most = std::max<int64_t>(1, chunk_rows / batch_);
    chunk space(*model_, batch_ * std::min(most, length));
    grid& x = space.x;
    for (int64_t first = 0; first < length; first += most) {
        const int64_t steps = std::min(most, length - first);
        for_rows(batch_ * steps, [&](int64_t i) {
            model_->embedding->column(tokens[i / steps * length + first + i % steps], x.row(i));
        });
        for (int64_t i = 0; i < depth(); ++i) through(model_->layers[i], layers_[i], steps, space);
        f(first, steps, x);
        position_ += steps;
    }
    for (size_t i = 0; i < layers_.size(); ++i) read_out(i);
}

void refgss_decoder::prefill(const int64_t* tokens, int64_t length, const refgss_array* out) {
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

void refgss_decoder::loss(const int64_t* tokens, const int64_t* targets, int64_t length,
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

// ---- States -------------------------------------------------------------------------------------

void refgss_decoder::state(view<float, 4> out, bool before_pending) const {
    const int64_t H = model_->channels, N = model_->states;
    for (int64_t i = 0; i < depth(); ++i) {
        const memory& m = layers_[i];
        const grid x = before_pending ? m.state : moved(model_->layers[i], m);
        for (int64_t r = 0; r < batch_ * H; ++r)
            for (int64_t n = 0; n < 2 * N; ++n)
                *out.at(i * batch_ + r / H, r % H, n % N, n / N) = x.row(r)[n];
    }
}

void refgss_decoder::pending(view<float, 3> out) const {
    for (int64_t r = 0; r < out.shape[0]; ++r)
        for (int64_t n = 0; n < filled_; ++n)
            for (int64_t h = 0; h < out.shape[2]; ++h)
                *out.at(r, n, h) =
                    layers_[r / batch_].inputs.row(r % batch_ * model_->block + n)[h];
}

void refgss_decoder::restore(view<const float, 4> state, const view<const float, 3>* pending,
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

// ---- The ABI ------------------------------------------------------------------------------------

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
view<T, 4> states_of(const refgss_decoder& d, const refgss_array* a) {
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
