// decoder.cpp: tokens through the layers of a decoder, one of each sequence or many.
//
// One token is a few hundred thousand cycles of reading weights, cut into phases by what must be known
// before what; the layers say which.  A prompt goes through the same weights as matrix products over
// many rows.
#include "decoder/decoder.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace refgss::decoding {
namespace {

constexpr int64_t logit_rows = 128;  // of logits at a time, where they are only summed over

/// Logits of `count` rows of x, the i-th of which is row(i): norm(x) W in y, h between.
template <class Row>
void logits_of(const model& m, int64_t count, const grid& x, Row&& row, grid& h, grid& y) {
    for_rows(count, [&](int64_t i) {
        const float* from = x.row(row(i));
        if (m.last) m.last(from, h.row(i));
        else std::copy(from, from + m.width, h.row(i));
    });
    multiply(*m.head, count, h, y);
}

}  // namespace

decoder::decoder(std::shared_ptr<const model> m, int64_t batch) : model_(std::move(m)), batch_(batch) {
    for (const auto& prototype : model_->layers) layers_.push_back(prototype->fresh(batch));
}

decoder::decoder(const decoder& other)
    : changing_handle(), model_(other.model_), batch_(other.batch_), pending_(other.pending_.load()),
      position_(other.position_.load()) {
    for (const auto& l : other.layers_) layers_.push_back(l->fork());
}

void decoder::check_tokens(const int64_t* tokens, int64_t count, const char* name) const {
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

/// The layers take over what they have made aside, `tokens` tokens later.
void decoder::advance(int64_t tokens) noexcept {
    for (auto& l : layers_) l->commit();
    pending_ = 0, position_ += tokens;
}

// ---- One token ----------------------------------------------------------------------------------

void decoder::step(const int64_t* tokens, view<float, 2> logits) {
    const model& m = *model_;
    check_tokens(tokens, batch_, "tokens");
    make_room(1);
    if (!token_ || token_->threads != thread_count()) {
        auto made = std::make_unique<token>(batch_, m.width, m.vocabulary, m.widths);
        for (auto& l : layers_) l->add_phases(*made);
        made->add_head(*m.head, m.last);
        token_ = std::move(made);
    }
    for (int64_t b = 0; b < batch_; ++b) m.embedding->column(tokens[b], token_->x.row(b));
    token_->run(position_, pending_);
    for (auto& l : layers_) l->settle(pending_);
    for (int64_t b = 0; b < batch_; ++b)
        for (int64_t t = 0; t < m.vocabulary; ++t) *logits.at(b, t) = token_->logits.row(b)[t];
    if (pending_ + 1 < m.block) {
        ++pending_, ++position_;
        return;
    }
    for (auto& l : layers_) l->begin(m.block), l->end();
    advance(1);
}

// ---- Many tokens --------------------------------------------------------------------------------

/// f(first, p) for chunks p of the tokens (B,L), the first of which is token `first`; p.x is the output of
/// the last layer.
template <class F> void decoder::read(const int64_t* tokens, int64_t length, F&& f) {
    check_tokens(tokens, batch_ * length, "tokens");
    make_room(length);
    if (length == 0 || batch_ == 0) return;
    for (auto& l : layers_) l->begin(pending_);
    const int64_t most = std::max<int64_t>(1, chunk_rows / batch_);
    prompt p(batch_, batch_ * std::min(most, length), model_->width, model_->widths);
    for (int64_t first = 0; first < length; first += most) {
        p.steps = std::min(most, length - first), p.position = position_ + first;
        for_rows(p.rows(), [&](int64_t i) {
            model_->embedding->column(tokens[i / p.steps * length + first + i % p.steps], p.x.row(i));
        });
        for (auto& l : layers_) l->through(p);
        f(first, p);
    }
    for (auto& l : layers_) l->end();
    advance(length);
}

void decoder::prefill(const int64_t* tokens, int64_t length, view<float, 3> logits) {
    const int64_t V = model_->vocabulary, E = model_->width;
    const bool all = logits.shape[1] == length;  // for one token, all of them are the last
    read(tokens, length, [&](int64_t first, const prompt& p) {
        if (!all && first + p.steps < length) return;
        const int64_t each = all ? p.steps : 1, M = batch_ * each;
        grid h(M, E), y(M, V);
        logits_of(*model_, M, p.x, [&](int64_t i) { return all ? i : i * p.steps + p.steps - 1; }, h, y);
        for_rows(M, [&](int64_t i) {
            for (int64_t t = 0; t < V; ++t)
                *logits.at(i / each, all ? first + i % each : 0, t) = y.row(i)[t];
        });
    });
}

void decoder::loss(const int64_t* tokens, const int64_t* targets, int64_t length,
                   view<double, 2> out) {
    const int64_t V = model_->vocabulary;
    check_tokens(targets, batch_ * length, "targets");
    grid h(logit_rows, model_->width), y(logit_rows, V);
    read(tokens, length, [&](int64_t first, const prompt& p) {
        for (int64_t start = 0; start < p.rows(); start += logit_rows) {
            const int64_t M = std::min(logit_rows, p.rows() - start);
            logits_of(*model_, M, p.x, [&](int64_t i) { return start + i; }, h, y);
            for_rows(M, [&](int64_t i) {
                const float* row = y.row(i);
                const int64_t b = (start + i) / p.steps, l = first + (start + i) % p.steps;
                const double top = *std::max_element(row, row + V);
                double sum = 0;
                for (int64_t t = 0; t < V; ++t) sum += std::exp(row[t] - top);
                *out.at(b, l) = std::log(sum) + top - row[targets[b * length + l]];
            });
        }
    });
}

// ---- What it remembers --------------------------------------------------------------------------

std::vector<decoder::named_part> decoder::parts(refgss_saved what, int64_t pending) const {
    std::vector<named_part> all;
    for (size_t i = 0; i < layers_.size(); ++i)
        for (part& p : layers_[i]->parts(what, pending))
            all.push_back({static_cast<int64_t>(i), std::move(p)});
    return all;
}

void decoder::save(refgss_saved what, arrays to) const {
    for (const auto& l : layers_) {
        l->save(what, pending_, to);
        to += l->parts(what, pending_).size();
    }
}

void decoder::restore(refgss_saved what, arrays from, int64_t pending, int64_t position) {
    std::vector<std::unique_ptr<layer>> restored;
    for (const auto& prototype : model_->layers) {
        restored.push_back(prototype->fresh(batch_));
        restored.back()->restore(what, pending, from);
        from += restored.back()->parts(what, pending).size();
    }
    token_.reset();  // its phases are those of the layers of before
    layers_.swap(restored), pending_ = pending, position_ = position;
}

}  // namespace refgss::decoding
