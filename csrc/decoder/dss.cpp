// dss.cpp: a DSS layer (GSS-LAY-6) in a decoder.
//
//   h = norm(x);  x += GELU(SSM(h) + D h) W_o + b
#include <cmath>

#include "decoder/recurrence.hpp"

namespace refgss::decoding {
namespace {

struct dss_weights {
    norm before;              // of E
    matrix w_o;               // (E,E)
    std::vector<float> bias;  // (E)
    int64_t span;             // the length over which a softmax is normalised
};

enum buffer { Y };  // (M,E)

class dss : public ssm_layer {
public:
    dss(std::shared_ptr<const dss_weights> weights, std::shared_ptr<const recurrence_weights> ssm,
        int64_t batch)
        : ssm_layer(std::move(ssm), batch), weights_(std::move(weights)) {}

    std::unique_ptr<layer> fresh(int64_t batch) const override {
        return std::make_unique<dss>(weights_, ssm_weights_, batch);
    }
    std::unique_ptr<layer> fork() const override { return std::make_unique<dss>(*this); }

    std::vector<int64_t> widths() const override { return {ssm_weights_->channels}; }
    int64_t span() const override { return weights_->span; }

    void add_phases(token& t) override {
        const dss_weights& w = *weights_;
        grid& y = t.work[Y];
        t.add(w.w_o->tiles(), [&, this](int64_t tile, int slot) {
            ssm_.step(tile, t, t.normed(w.before, t.x, slot), y);
            t.gelu_tile(tile, y);
        });
        t.add_output(*w.w_o, w.bias, y);
    }

    void through(prompt& p) override {
        const dss_weights& w = *weights_;
        auto& pointwise = kernels<pointwise_kernels<float>>();
        const int64_t M = p.rows(), E = ssm_weights_->channels;
        grid& y = p.work[Y];
        for_rows(M, [&](int64_t i) { w.before(p.x.row(i), p.h.row(i)); });
        ssm_.through(p, p.h, y);
        for_rows(M, [&](int64_t i) { pointwise.gelu(E, y.row(i), y.row(i)); });
        multiply(*w.w_o, M, y, p.h);
        p.add_output(w.bias, E);
    }

private:
    std::shared_ptr<const dss_weights> weights_;
};

/// Δ = e^{log Δ}, of one column or two, contiguous.
std::vector<float> step_sizes(const refgss_array* log_delta, const std::string& name) {
    if (log_delta == nullptr) throw error{REFGSS_ERROR_VALUE, name + " is NULL: pass an array"};
    const int columns = log_delta->rank == 2 ? 2 : 1;
    check_array(log_delta, name.c_str(), columns);
    if (log_delta->dtype != REFGSS_F32)
        throw error{REFGSS_ERROR_TYPE, name + " must be float32"};
    if (columns == 2) check_axis(name.c_str(), "its last axis", log_delta->shape[1], 2);
    std::vector<float> steps;
    for (int64_t i = 0; i < log_delta->shape[0]; ++i)
        for (int64_t j = 0; j < columns; ++j) {
            const int64_t at = i * log_delta->stride[0] + (columns == 2 ? j * log_delta->stride[1] : 0);
            const double log = static_cast<const float*>(log_delta->data)[at];
            steps.push_back(static_cast<float>(std::exp(log)));
        }
    return steps;
}

}  // namespace

std::unique_ptr<layer> make_dss(const layer_source& from) {
    const auto& p = *static_cast<const refgss_dss_layer_params*>(from.params.params);
    const auto* scales = static_cast<const refgss_dss_layer_scales*>(from.params.scales);
    const std::string& name = from.name;
    const int64_t E = from.width;
    if (axis_of(p.c, name + "ssm.c", 3, 0) != E)
        throw error{REFGSS_ERROR_VALUE, name + "ssm.c must have a row for each of the model's width"};
    auto w = std::make_shared<dss_weights>();
    w->before = norm(p.norm_weight, p.norm_bias, name + "norm", E, p.eps);
    w->w_o = read_matrix(p.w_o, scales ? scales->w_o : nullptr, name + "w_o", E, E);
    w->bias = read_optional(p.b_o, name + "b_o", E);
    w->span = is_softmax(p.form) ? p.form.length : INT64_MAX;
    std::vector<float> steps = step_sizes(p.log_delta, name + "ssm.log_delta");
    const int64_t rows = p.log_delta->shape[0];
    const int columns = p.log_delta->rank == 2 ? 2 : 1;
    const refgss_array delta{steps.data(), REFGSS_F32, columns, {rows, columns}, {columns, 1}};
    auto ssm = std::make_shared<recurrence_weights>(p.lam_a, p.lam_b, p.c, p.d, p.imag_is_exp, delta,
                                                    p.form, from);
    return std::make_unique<dss>(std::move(w), std::move(ssm), 0);
}

}  // namespace refgss::decoding
