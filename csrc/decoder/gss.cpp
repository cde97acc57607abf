// gss.cpp: a GSS layer (GSS-LAY-1) in a decoder.
//
//   h = norm(x);  u = GELU(h W_u), normed once more if asked;  y = SSM(u) + D u
//   x += (y W_uc ⊙ GELU(h W_v)) W_o + b
#include "decoder/recurrence.hpp"

namespace refgss::decoding {
namespace {

struct gss_weights {
    int64_t gate;               // F
    norm before, inner;         // of E; of the H inputs of the SSM, or none
    matrix w_u, w_v, w_uc, w_o;  // (E,H), (E,F), (H,F), (F,E)
    std::vector<float> bias;    // (E)
};

enum buffer { U, Y, V, G };  // (M,H), (M,H), (M,F), (M,F)

class gss : public ssm_layer {
public:
    gss(std::shared_ptr<const gss_weights> weights, std::shared_ptr<const recurrence_weights> ssm,
        int64_t batch)
        : ssm_layer(std::move(ssm), batch), weights_(std::move(weights)) {}

    std::unique_ptr<layer> fresh(int64_t batch) const override {
        return std::make_unique<gss>(weights_, ssm_weights_, batch);
    }
    std::unique_ptr<layer> fork() const override { return std::make_unique<gss>(*this); }

    std::vector<int64_t> widths() const override {
        const int64_t H = ssm_weights_->channels, F = weights_->gate;
        return {H, H, F, F};
    }

    void add_phases(token& t) override {
        const gss_weights& w = *weights_;
        grid &u = t.work[U], &y = t.work[Y], &v = t.work[V], &g = t.work[G];
        const int64_t of_u = w.w_u->tiles();
        t.add(of_u + w.w_v->tiles(), [&, this, of_u](int64_t item, int slot) {
            const grid& h = t.normed(w.before, t.x, slot);
            if (item >= of_u) {
                t.multiply_tile(*w.w_v, item - of_u, h, v);
                return t.gelu_tile(item - of_u, v);
            }
            t.multiply_tile(*w.w_u, item, h, u);
            t.gelu_tile(item, u);
            if (!w.inner) ssm_.step(item, t, u, y);
        });
        if (w.inner)
            t.add(of_u, [&, this](int64_t tile, int slot) {
                ssm_.step(tile, t, t.normed(w.inner, u, slot), y);
            });
        t.add(w.w_uc->tiles(), [&](int64_t tile, int) {
            t.multiply_tile(*w.w_uc, tile, y, g);
            const int64_t first = tile * gemv_width;
            for (int64_t b = 0; b < t.batch; ++b)
                for (int64_t j = first; j < first + gemv_width; ++j) g.row(b)[j] *= v.row(b)[j];
        });
        t.add_output(*w.w_o, w.bias, g);
    }

    void through(prompt& p) override {
        const gss_weights& w = *weights_;
        auto& pointwise = kernels<pointwise_kernels<float>>();
        const int64_t M = p.rows(), H = ssm_weights_->channels;
        grid &u = p.work[U], &y = p.work[Y], &v = p.work[V], &g = p.work[G];
        for_rows(M, [&](int64_t i) { w.before(p.x.row(i), p.h.row(i)); });
        multiply(*w.w_u, M, p.h, u);
        for_rows(M, [&](int64_t i) {
            pointwise.gelu(H, u.row(i), u.row(i));
            if (w.inner) w.inner(u.row(i), u.row(i));
        });
        ssm_.through(p, u, y);
        multiply(*w.w_v, M, p.h, v);
        multiply(*w.w_uc, M, y, g);
        for_rows(M, [&](int64_t i) { pointwise.gate(w.gate, g.row(i), v.row(i), v.row(i)); });
        multiply(*w.w_o, M, v, p.h);
        p.add_output(w.bias, w.before.width);
    }

private:
    std::shared_ptr<const gss_weights> weights_;
};

}  // namespace

std::unique_ptr<layer> make_gss(const layer_source& from) {
    const auto& p = *static_cast<const refgss_gss_layer_params*>(from.params.params);
    static constexpr refgss_gss_layer_scales none{};
    const auto* given = static_cast<const refgss_gss_layer_scales*>(from.params.scales);
    const refgss_gss_layer_scales& scales = given ? *given : none;
    const std::string& name = from.name;
    const int64_t E = from.width;
    const int64_t H = axis_of(p.c, name + "ssm.c", 3, 0), F = axis_of(p.w_v, name + "w_v", 2, 1);
    if (H < 1 || F < 1) throw error{REFGSS_ERROR_VALUE, name + "w_v or ssm.c is empty"};
    auto w = std::make_shared<gss_weights>();
    w->gate = F;
    w->before = norm(p.norm_weight, p.norm_bias, name + "norm", E, p.eps);
    if (p.ssm_norm_weight)
        w->inner = norm(p.ssm_norm_weight, p.ssm_norm_bias, name + "ssm.norm", H, p.eps);
    w->w_u = read_matrix(p.w_u, scales.w_u, name + "w_u", E, H);
    w->w_v = read_matrix(p.w_v, scales.w_v, name + "w_v", E, F);
    w->w_uc = read_matrix(p.w_uc, scales.w_uc, name + "w_uc", H, F);
    w->w_o = read_matrix(p.w_o, scales.w_o, name + "w_o", F, E);
    w->bias = read_optional(p.b_o, name + "b_o", E);
    float one = 1;
    const refgss_array delta{&one, REFGSS_F32, 0, {}, {}};
    auto ssm = std::make_shared<recurrence_weights>(p.lam_a, p.lam_b, p.c, p.d, p.imag_is_exp, delta,
                                                    refgss_form{REFGSS_ZOH, 0, 0, 0}, from);
    return std::make_unique<gss>(std::move(w), std::move(ssm), 0);
}

}  // namespace refgss::decoding
