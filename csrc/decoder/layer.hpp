// layer.hpp: what a decoder asks of a layer, whatever its kind.
//
// To add a kind: a file NAME.cpp beside gss.cpp with a class derived from `layer`, a line for it in
// `makers` (model.cpp), its number and parameters in refgss.h.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/array.hpp"
#include "decoder/phases.hpp"
#include "decoder/weights.hpp"

namespace refgss::decoding {

constexpr int64_t chunk_rows = 1024;  // of a prompt at a time, over all sequences

/// One token of each of B sequences on its way through all layers: the buffers, and the phases that
/// work on them.
class token {
public:
    /// `widths` are those of the work buffers.
    token(int64_t batch, int64_t width, int64_t vocabulary, const std::vector<int64_t>& widths);
    token(const token&) = delete;

    /// Goes through all phases; x holds the embeddings.
    void run(int64_t tokens_before, int64_t inputs_pending);

    // ---- for add_phases: a phase, and what its items do ----

    /// A phase of `items` items, each body(item, slot).
    void add(int64_t items, std::function<void(int64_t item, int slot)> body) {
        phases_.add({items, std::move(body)});
    }
    /// The phase x += y W + b, by tiles.
    void add_output(const weight_matrix& w, const std::vector<float>& bias, const grid& y);
    /// The last phase, logits = norm(x) W, by tiles.
    void add_head(const weight_matrix& w, const norm& n);
    /// norm(of), whole, in memory of this slot, which has it once a token; `of` itself where there is
    /// no norm.
    const grid& normed(const norm& n, const grid& of, int slot);
    /// A tile of y = x W, 32 columns.
    void multiply_tile(const weight_matrix& w, int64_t tile, const grid& x, grid& y) const {
        gemv.product[static_cast<int>(w.format())](w.tile(tile), w.rows(), batch, x.data(), x.stride(),
                                                   y.data() + tile * gemv_width, y.stride());
    }
    /// GELU of a tile, in place.
    void gelu_tile(int64_t tile, grid& y) const {
        for (int64_t b = 0; b < batch; ++b) {
            float* to = y.row(b) + tile * gemv_width;
            pointwise.gelu(gemv_width, to, to);
        }
    }

    const gemv_kernels& gemv;
    const pointwise_kernels<float>& pointwise;
    const int64_t batch;    // B
    const int threads;      // that the phases are made for
    int64_t position = 0;   // tokens before this one
    int64_t pending = 0;    // inputs since the last advance of the state-space models, below `block`
    grid x;                 // (B,E) what the layers add to
    grid o;                 // (B,E) what a layer adds
    grid logits;            // (B,V)
    std::vector<grid> work;  // (B,W_i) what a layer needs beside these: see layer::widths

private:
    struct own {  // of a slot
        grid values;           // (B, the largest width) norm(...)
        const norm* of;        // which one; nullptr: none of this token
    };
    std::vector<own> normed_;
    phases phases_;
};

/// A chunk of a prompt on its way through all layers: M = B steps rows, those of a sequence together.
struct prompt {
    int64_t batch, steps = 0;
    int64_t position = 0;    // tokens of each sequence before the chunk
    grid x;                  // (M,E) what the layers add to
    grid h;                  // (M,E) norm(x), then what a layer adds
    std::vector<grid> work;  // (M,W_i) what a layer needs beside these: see layer::widths

    prompt(int64_t batch, int64_t most_rows, int64_t width, const std::vector<int64_t>& widths);
    int64_t rows() const { return batch * steps; }
    /// x += h + b.
    void add_output(const std::vector<float>& bias, int64_t width);
};

/// What a layer remembers, as an array that is saved and restored.
struct part {
    const char* name;
    std::vector<int64_t> shape;
};
using arrays = const refgss_array*;  // one for each part, checked

/// One layer of a model over the sequences of a decoder: its weights, which all decoders of a model
/// share, and what it remembers of the sequences.
///
/// A failed call must leave a decoder where it was.  So what a layer remembers changes in two steps:
/// `begin`, `through` and `end` work on a memory aside, and `commit` takes it over.  The phases of a token
/// may write only what is not read before the token counts, such as the input at place `pending`.
class layer {
public:
    virtual ~layer() = default;
    /// The same weights, with `batch` sequences at their beginning.
    virtual std::unique_ptr<layer> fresh(int64_t batch) const = 0;
    /// The same weights, at the same place of the same sequences.
    virtual std::unique_ptr<layer> fork() const = 0;

    /// Widths W_i of the work buffers that `add_phases` and `through` use.
    virtual std::vector<int64_t> widths() const = 0;
    /// After how many tokens a stream ends.
    virtual int64_t span() const { return INT64_MAX; }

    /// Adds the phases of one token; they are run for every token, so they keep references to `t`.
    virtual void add_phases(token& t) = 0;
    /// After the phases of a token, before it counts: what has phases of its own now and then.  As with
    /// phases, nothing changes that is read if the token does not count.
    virtual void settle(int64_t pending) { (void)pending; }

    /// The memory aside is that after the first `pending` inputs since the last advance.
    virtual void begin(int64_t pending) = 0;
    /// A chunk of a prompt, and the memory aside moves with it.
    virtual void through(prompt& p) = 0;
    /// The memory aside is complete.
    virtual void end() = 0;
    /// The memory aside is that of the layer, and no input is pending.
    virtual void commit() noexcept = 0;

    /// The arrays of what it remembers: as a state after all tokens (REFGSS_STATE), or as a snapshot with
    /// `pending` inputs since the last advance (REFGSS_SNAPSHOT).
    virtual std::vector<part> parts(refgss_saved what, int64_t pending) const = 0;
    virtual void save(refgss_saved what, int64_t pending, arrays to) const = 0;
    /// On a fresh layer.
    virtual void restore(refgss_saved what, int64_t pending, arrays from) = 0;
};

/// What a layer is made from: the model's numbers and its own parameters.
struct layer_source {
    const refgss_lm_layer& params;
    std::string name;       // "layers.3."
    int64_t width, block;   // E, and the tokens between two advances
};
std::unique_ptr<layer> make_gss(const layer_source& from);
std::unique_ptr<layer> make_dss(const layer_source& from);
std::unique_ptr<layer> make_transformer(const layer_source& from);
std::unique_ptr<layer> make_block_recurrent(const layer_source& from);

}  // namespace refgss::decoding
