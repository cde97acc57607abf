// decoder.hpp: a language model prepared for streaming (GSS-LM, GSS-STA), and where its sequences are.
//
//   layer.hpp       what a decoder asks of a layer; token and prompt, what layers work on
//   gss.cpp, ...    a layer kind each; recurrence.cpp is the state-space model that some of them have
//   phases.cpp      how threads share a token
//   model.cpp       the weights; decoder.cpp: the way of tokens through them
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/handle.hpp"
#include "decoder/layer.hpp"

namespace refgss::decoding {

struct model {
    int64_t vocabulary, width, block;  // V, E, and the tokens between two advances
    matrix embedding, head;            // (E,V): columns are tokens
    norm last;                         // or none
    std::vector<std::unique_ptr<layer>> layers;  // of no sequences: a decoder makes its own of them
    std::vector<int64_t> widths;       // of the work buffers, the largest that a layer needs
    int64_t span = INT64_MAX;          // after how many tokens a stream ends

    model(const refgss_lm_params& p, int64_t block_);
};

class decoder : public changing_handle {
public:
    decoder(std::shared_ptr<const model> m, int64_t batch);
    decoder(const decoder& other);

    /// tokens (B) -> logits (B,V).
    void step(const int64_t* tokens, view<float, 2> logits);
    /// tokens (B,L) -> logits (B,L,V); or those of the last token, (B,1,V), where there is one.
    void prefill(const int64_t* tokens, int64_t length, view<float, 3> logits);
    /// tokens, targets (B,L) -> -log p(target) (B,L).
    void loss(const int64_t* tokens, const int64_t* targets, int64_t length, view<double, 2> loss);

    /// The arrays of all layers, those of the first layer first, and the layer of each.
    struct named_part {
        int64_t layer;
        part what;
    };
    std::vector<named_part> parts(refgss_saved what, int64_t pending) const;
    void save(refgss_saved what, arrays to) const;
    void restore(refgss_saved what, arrays from, int64_t pending, int64_t position);

    const model& of() const { return *model_; }
    std::shared_ptr<const model> weights() const { return model_; }
    int64_t batch() const { return batch_; }
    int64_t pending() const { return pending_; }
    int64_t position() const { return position_; }

private:
    void check_tokens(const int64_t* tokens, int64_t count, const char* name) const;
    void make_room(int64_t tokens) const;
    void advance(int64_t tokens) noexcept;
    template <class F> void read(const int64_t* tokens, int64_t length, F&& f);

    std::shared_ptr<const model> model_;
    int64_t batch_;
    std::atomic<int64_t> pending_{0}, position_{0};  // may be asked during a call
    std::vector<std::unique_ptr<layer>> layers_;
    std::unique_ptr<token> token_;  // made at the first step
};

}  // namespace refgss::decoding
