// model.cpp: the model of a decoder, made from the arrays of a language model: weights are put
// in the order in which they are read, and what the state-space models need is computed once.
#include <algorithm>
#include <cmath>

#include "decoder/decoder.hpp"

namespace refgss::decoding {
namespace {

/// A vector of parameters, padded by zeros to whole tiles.
std::vector<float> padded_vector(const refgss_array* a, const std::string& name, int64_t width) {
    auto v = shaped<const float, 1>(a, name.c_str(), width);
    std::vector<float> values(padded_width(width), 0.0f);
    for (int64_t i = 0; i < width; ++i) values[i] = *v.at(i);
    return values;
}

matrix read_matrix(const refgss_array* a, const refgss_array* scale, const std::string& name,
                   int64_t rows, int64_t columns, bool transposed = false) {
    return std::make_shared<weight_matrix>(
        matrix_source::of(a, scale, name.c_str(), rows, columns, transposed));
}

int64_t axis_of(const refgss_array* a, const std::string& name, int rank, int axis) {
    check_weights(a, name, rank);
    return a->shape[axis];
}

}  // namespace

norm::norm(const refgss_array* w, const refgss_array* b, const std::string& name, int64_t n, double e)
    : weight(padded_vector(w, name + ".weight", n)), bias(padded_vector(b, name + ".bias", n)),
      width(n), eps(static_cast<float>(e)) {}

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
        if (g.log_delta->dtype != REFGSS_F32)
            throw error{REFGSS_ERROR_TYPE, name + "ssm.log_delta must be float32"};
        if (columns == 2) check_axis((name + "ssm.log_delta").c_str(), "its last axis",
                                     g.log_delta->shape[1], 2);
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
    if (is_softmax(form)) {
        span = std::min(span, form.length);
        length = std::min(length, span);
    }
    to.map = std::make_unique<ssm<float>>(parameters_of<float>(&l, &delta, &form), weights, length);
    to.map->prepare();
    auto kernel = to.map->kernel();
    if (delta.rank == 0) to.blocks = block_maps(*to.map, block);
    to.taps = grid(block, H);
    for (int64_t j = 0; j < std::min(block, kernel.shape[1]); ++j)
        for (int64_t h = 0; h < H; ++h) to.taps.row(j)[h] = std::ldexp(*kernel.at(h, j), to.map->exponent(h));
}

}  // namespace refgss::decoding
