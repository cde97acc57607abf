// layer.cpp: what the layers of a decoder work on: one token, or a chunk of a prompt.
#include "decoder/layer.hpp"

#include <algorithm>

namespace refgss::decoding {
namespace {

std::vector<grid> buffers(int64_t rows, const std::vector<int64_t>& widths) {
    std::vector<grid> made;
    for (int64_t width : widths) made.emplace_back(rows, width);
    return made;
}

}  // namespace

token::token(int64_t batch, int64_t width, int64_t vocabulary, const std::vector<int64_t>& widths)
    : gemv(kernels<gemv_kernels>()), pointwise(kernels<pointwise_kernels<float>>()), batch(batch),
      threads(thread_count()), x(batch, width), o(batch, width), logits(batch, vocabulary),
      work(buffers(batch, widths)) {
    int64_t most = width;
    for (int64_t w : widths) most = std::max(most, w);
    for (int slot = 0; slot < threads; ++slot) normed_.push_back({grid(batch, most), nullptr});
}

const grid& token::normed(const norm& n, const grid& of, int slot) {
    if (!n) return of;
    own& mine = normed_[slot];
    if (mine.of != &n) {
        for (int64_t b = 0; b < batch; ++b) n(of.row(b), mine.values.row(b));
        mine.of = &n;
    }
    return mine.values;
}

void token::add_output(const weight_matrix& w, const std::vector<float>& bias, const grid& y) {
    add(w.tiles(), [&, this](int64_t tile, int) {
        multiply_tile(w, tile, y, o);
        const int64_t first = tile * gemv_width;
        for (int64_t b = 0; b < batch; ++b)
            for (int64_t j = first; j < first + gemv_width; ++j) x.row(b)[j] += o.row(b)[j] + bias[j];
    });
}

void token::add_head(const weight_matrix& w, const norm& n) {
    add(w.tiles(), [&, this](int64_t tile, int slot) {
        multiply_tile(w, tile, normed(n, x, slot), logits);
    });
    phases_.seal();
}

void token::run(int64_t tokens_before, int64_t inputs_pending) {
    position = tokens_before, pending = inputs_pending;
    for (own& o : normed_) o.of = nullptr;
    phases_.run();
}

prompt::prompt(int64_t batch, int64_t most_rows, int64_t width, const std::vector<int64_t>& widths)
    : batch(batch), x(most_rows, width), h(most_rows, width), work(buffers(most_rows, widths)) {}

void prompt::add_output(const std::vector<float>& bias, int64_t width) {
    for_rows(rows(), [&](int64_t i) {
        for (int64_t e = 0; e < width; ++e) x.row(i)[e] += h.row(i)[e] + bias[e];
    });
}

}  // namespace refgss::decoding
