// stepper.hpp: a recurrence whose state advances every `block` tokens.
#pragma once

#include <vector>

#include "core/scratch.hpp"
#include "core/threads.hpp"
#include "ssm/ssm.hpp"

namespace refgss {

/// Between updates of the state x, y_i = readout_i + Σ_{j<=i} K_j u_{i-j}.
template <class T> class stepper {
public:
    stepper(const ssm<T>& map, int64_t batch, int64_t block, const view<const T, 4>* state)
        : map_(map, block), batch_(batch), block_(block),
          inputs_(sized(sized(batch, block), map.channels())) {
        begin_block(map_.sorted(state, batch));
    }
    void step(view<const T, 2> u, view<T, 2> y) {
        const int64_t H = map_.channels();
        view<const T, 2> k = map_.kernel();
        const int64_t taps = map_.states() ? filled_ + 1 : 0;  // a sum over nothing is 0 (GSS-NFI-14)
        for (int64_t b = 0; b < batch_; ++b) {
            if (b % 64 == 63) check_interrupt();
            T *in = inputs_.data() + b * block_ * H, *now = in + filled_ * H;
            for (int64_t h = 0; h < H; ++h) now[h] = *u.at(b, h);
            sum_.assign(readout_.data() + (b * block_ + filled_) * H,
                        readout_.data() + (b * block_ + filled_ + 1) * H);
            for (int64_t j = 0; j < taps; ++j) {  // taps as (block, H): see ssm
                const T *tap = k.data + j * k.stride[1], *then = in + (filled_ - j) * H;
                for (int64_t h = 0; h < H; ++h) sum_[h] += tap[h] * then[h];
            }
            for (int64_t h = 0; h < H; ++h) *y.at(b, h) = sum_[h];
        }
        if (filled_ + 1 == block_)
            begin_block(moved(block_));
        else
            ++filled_;
    }
    void state(view<T, 4> out) const { map_.unsorted(moved(filled_), out); }
    int64_t batch() const { return batch_; }
    const ssm<T>& map() const { return map_; }

private:
    /// The states after the first `count` inputs of the block.
    std::vector<double> moved(int64_t count) const {
        const int64_t H = map_.channels();
        std::vector<double> x = x_;
        map_.advance(x, {inputs_.data(), {batch_, count, H}, {block_ * H, H, 1}});
        return x;
    }
    /// All of it or, where that fails, nothing.
    void begin_block(std::vector<double> x) {
        const int64_t H = map_.channels();
        std::vector<T> readout(inputs_.size());
        map_.read_out(x, {readout.data(), {batch_, block_, H}, {block_ * H, H, 1}}, false);
        x_.swap(x), readout_.swap(readout), filled_ = 0;
    }

    ssm<T> map_;
    int64_t batch_, block_, filled_ = 0;
    std::vector<double> x_;
    std::vector<T> inputs_, readout_, sum_;
};

}  // namespace refgss
