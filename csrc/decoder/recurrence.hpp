// recurrence.hpp: the state-space model of one layer over the sequences of a decoder, which layers of
// any kind may have (gss.cpp, dss.cpp).
//
// Between two advances of the state x, `block` tokens apart, the n-th output is
//
//   y_n = readout_n + Σ_{j<=n} K_j u_{n-j} + D u_n,   readout_n = Re Σ C̃ Ā^{n+1} x
//
// so that a token reads a row of a table and at most `block` taps, and not the state.
#pragma once

#include <memory>
#include <vector>

#include "decoder/layer.hpp"
#include "ssm/ssm.hpp"

namespace refgss::decoding {

/// Moving all states by a block where the modes are shared by all channels: two products with the powers
/// of Ā.  Rows of states and weights are N real parts, then N imaginary parts.
struct block_maps {
    int64_t states = 0;
    std::vector<complex> log;    // (N)        log Ā
    std::vector<double> last;    // (2N)       Ā^block
    std::vector<float> weights;  // (H,2N)     C̃ Ā
    matrix to_state;             // (block,2N) Ā^j
    matrix to_output;            // (2N,block) Re Ā^j, -Im Ā^j

    block_maps() = default;
    block_maps(const ssm<float>& map, int64_t block);
    explicit operator bool() const { return states > 0; }
    complex power(int64_t n, int64_t j) const { return std::exp(log[n] * static_cast<double>(j)); }
};

struct recurrence_weights {
    int64_t channels, states, block;  // H, N
    std::vector<float> skip;          // (H) D
    std::unique_ptr<ssm<float>> map;
    block_maps blocks;                // none where each channel has modes of its own
    grid taps;                        // (block,H) K

    /// c (H,N,2), d (H); delta as in refgss.h, its shape checked by the caller.
    recurrence_weights(const refgss_array* lam_a, const refgss_array* lam_b, const refgss_array* c,
                       const refgss_array* d, int32_t imag_is_exp, const refgss_array& delta,
                       const refgss_form& form, const layer_source& from);
};

class recurrence {
public:
    recurrence(std::shared_ptr<const recurrence_weights> weights, int64_t batch);

    /// One token, a tile of 32 channels: u is remembered at place t.pending, and y = SSM(u) + D u.
    void step(int64_t tile, const token& t, const grid& u, grid& y);
    /// Many tokens, (M,H): y = SSM(u) + D u from the state aside, which moves on.
    void through(const prompt& p, const grid& u, grid& y);

    // as in layer.hpp
    void begin(int64_t pending);
    void end();
    void commit() noexcept;
    std::vector<part> parts(refgss_saved what, int64_t pending) const;
    void save(refgss_saved what, int64_t pending, arrays to) const;
    void restore(refgss_saved what, int64_t pending, arrays from);

private:
    view<float, 4> state_of(grid& states) const;
    view<const float, 4> state_of(const grid& states) const;
    grid moved(int64_t count) const;
    grid read_out(const grid& states) const;

    std::shared_ptr<const recurrence_weights> weights_;
    int64_t batch_;
    grid state_;    // (B H, 2N)   at the last advance: N real parts, N imaginary parts
    grid inputs_;   // (B block,H) u since then
    grid readout_;  // (B block,H) what the state adds to the outputs of the block
    grid next_state_, next_readout_;  // the memory aside
};

/// A layer that remembers no more than its state-space model does.
class ssm_layer : public layer {
public:
    ssm_layer(std::shared_ptr<const recurrence_weights> weights, int64_t batch)
        : ssm_weights_(std::move(weights)), ssm_(ssm_weights_, batch) {}
    void begin(int64_t pending) override { ssm_.begin(pending); }
    void end() override { ssm_.end(); }
    void commit() noexcept override { ssm_.commit(); }
    std::vector<part> parts(refgss_saved what, int64_t pending) const override {
        return ssm_.parts(what, pending);
    }
    void save(refgss_saved what, int64_t pending, arrays to) const override {
        ssm_.save(what, pending, to);
    }
    void restore(refgss_saved what, int64_t pending, arrays from) override {
        ssm_.restore(what, pending, from);
    }

protected:
    std::shared_ptr<const recurrence_weights> ssm_weights_;
    recurrence ssm_;
};

}  // namespace refgss::decoding
