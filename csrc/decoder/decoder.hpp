// decoder.hpp: a language model prepared for streaming (GSS-LM, GSS-STA): what its model
// (model.cpp), its way through tokens (tokens.cpp) and its states (decoder.cpp) share.
#pragma once

#include <algorithm>
#include <atomic>
#include <complex>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/dispatch.hpp"
#include "core/handle.hpp"
#include "core/threads.hpp"
#include "dense/gemv.hpp"
#include "layers/pointwise.hpp"
#include "ssm/ssm.hpp"

namespace refgss::decoding {

constexpr int64_t chunk_rows = 1024;  // of a prompt at a time, over all sequences

constexpr int64_t padded_width(int64_t width) { return whole_tiles(width) * gemv_width; }

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

/// f(i) for rows, in parallel.
template <class F> void for_rows(int64_t rows, F&& f) {
    constexpr int64_t some = 8;
    const int64_t items = (rows + some - 1) / some;
    parallel_for(items, slots_for(items), [&](int64_t item, int) {
        for (int64_t i = item * some; i < std::min(rows, (item + 1) * some); ++i) f(i);
    });
}

inline void multiply(const weight_matrix& w, int64_t rows, const grid& x, grid& y) {
    w.multiply(rows, x.data(), x.stride(), y.data(), y.stride());
}

// ---- The model ----------------------------------------------------------------------------------

struct norm {
    std::vector<float> weight, bias;
    int64_t width = 0;
    float eps = 0;

    norm() = default;
    norm(const refgss_array* w, const refgss_array* b, const std::string& name, int64_t n, double e);
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

// ---- The sequences ------------------------------------------------------------------------------

/// The state-space model of one layer over all sequences.  Between two advances,
/// y_n = readout_n + Σ_{j<=n} K_j u_{n-j} + D u_n.
struct memory {
    grid state;            // (B H, 2N) at the last advance: N real parts, N imaginary parts
    grid inputs, readout;  // (B block, H)

    memory(int64_t batch, int64_t block, int64_t H, int64_t N)
        : state(sized(batch, H), 2 * N), inputs(sized(batch, block), H),
          readout(sized(batch, block), H) {}
};

/// What the states of all layers are to become, made aside: a call that fails changes nothing.
struct next_block {
    std::vector<grid> states, readouts;
};

struct token_plan;
struct chunk;

/// A model, and where its sequences are.
struct decoder : changing_handle {
    decoder(std::shared_ptr<const model> m, int64_t batch)
        : model_(std::move(m)), batch_(batch),
          layers_(model_->layers.size(), memory(batch, model_->block, model_->channels, model_->states)),
          x_(batch, model_->width), u_(batch, model_->channels), y_(batch, model_->channels),
          v_(batch, std::max(model_->gate, model_->width)), g_(batch, std::max(model_->gate, int64_t(1))),
          logits_(batch, model_->vocabulary) {
        begin_block(after(0), 0);
    }

    decoder(const decoder& other)
        : changing_handle(), model_(other.model_), batch_(other.batch_),
          filled_(other.filled_.load()), position_(other.position_.load()), layers_(other.layers_), x_(other.x_), u_(other.u_),
          y_(other.y_), v_(other.v_), g_(other.g_), logits_(other.logits_) {}

    void step(const int64_t* tokens, view<float, 2> logits);
    void prefill(const int64_t* tokens, int64_t length, const refgss_array* logits);
    void loss(const int64_t* tokens, const int64_t* targets, int64_t length, view<double, 2> loss);
    void state(view<float, 4> out, bool before_pending) const;
    void pending(view<float, 3> out) const;
    void restore(view<const float, 4> state, const view<const float, 3>* pending, int64_t position);

    const model& of() const { return *model_; }
    std::shared_ptr<const model> weights() const { return model_; }
    int64_t batch() const { return batch_; }
    int64_t filled() const { return filled_; }
    int64_t position() const { return position_; }
    int64_t depth() const { return static_cast<int64_t>(layers_.size()); }

private:
    template <class Grid> auto state_of(Grid& states) const {
        using T = std::remove_pointer_t<decltype(states.data())>;
        const int64_t H = model_->channels, N = model_->states, row = states.stride();
        return view<T, 4>{states.data(), {batch_, H, N, 2}, {H * row, row, 1, N}};
    }
    /// The first `count` inputs since the last advance.
    view<const float, 3> seen(const memory& m, int64_t count) const {
        const int64_t stride = m.inputs.stride();
        return {m.inputs.data(), {batch_, count, model_->channels}, {model_->block * stride, stride, 1}};
    }
    grid read_out(const layer& l, const grid& states) const;
    grid moved(const layer& l, const memory& m, int64_t count) const;
    next_block after(int64_t count) const;
    void begin_block(next_block next, int64_t tokens) noexcept;
    void make_room(int64_t tokens) const;
    void check(const int64_t* tokens, int64_t count, const char* name) const;
    template <class F> void read(const int64_t* tokens, int64_t length, F&& f);
    void through(const layer& l, grid& states, int64_t steps, chunk& space) const;

    std::shared_ptr<const model> model_;
    int64_t batch_;
    std::atomic<int64_t> filled_{0}, position_{0};  // may be asked during a call
    std::vector<memory> layers_;
    grid x_, u_, y_, v_, g_, logits_;  // of one token of each sequence
    std::shared_ptr<token_plan> plan_;  // made at the first step; of this decoder alone
};

}  // namespace refgss::decoding
