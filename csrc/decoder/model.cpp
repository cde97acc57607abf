// model.cpp: the model of a decoder, made from the arrays of a language model.
#include <algorithm>

#include "decoder/decoder.hpp"

namespace refgss::decoding {
namespace {

/// The layer kinds, by their numbers in refgss.h.
struct maker {
    int32_t kind;
    std::unique_ptr<layer> (*make)(const layer_source& from);
};
constexpr maker makers[] = {{REFGSS_LAYER_GSS, make_gss},
                            {REFGSS_LAYER_DSS, make_dss},
                            {REFGSS_LAYER_TRANSFORMER, make_transformer},
                            {REFGSS_LAYER_BLOCK_RECURRENT, make_block_recurrent}};

std::unique_ptr<layer> make_layer(const layer_source& from) {
    for (const maker& m : makers) {
        if (m.kind != from.params.kind) continue;
        need(from.params.params, (from.name + "params").c_str());
        return m.make(from);
    }
    throw error{REFGSS_ERROR_VALUE, from.name + "kind is " + std::to_string(from.params.kind) +
                                        ", which is no refgss_layer_kind that this library knows"};
}

}  // namespace

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
    for (int64_t i = 0; i < p.depth; ++i) {
        layers.push_back(make_layer({p.layers[i], "layers." + std::to_string(i) + ".", width, block}));
        const std::vector<int64_t> wanted = layers.back()->widths();
        widths.resize(std::max(widths.size(), wanted.size()), 1);
        for (size_t k = 0; k < wanted.size(); ++k) widths[k] = std::max(widths[k], wanted[k]);
        span = std::min(span, layers.back()->span());
    }
}

}  // namespace refgss::decoding
