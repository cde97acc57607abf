// positions.cpp: what tells attention positions: the rotation of pairs, and the bias of a distance.
#include <algorithm>
#include <cmath>
#include <vector>

#include "attention/positions.hpp"
#include "core/scratch.hpp"
#include "core/threads.hpp"

namespace refgss {
namespace {

/// cos and sin of r base^(-2j/D) for the tokens (GSS-ATT-14): one row for each r where these are few, else
/// one for each token.
template <class T> class rotations {
public:
    rotations(const int64_t* r, int64_t tokens, int64_t D, double base) : r_(r), half_(D / 2) {
        if (tokens == 0) return;
        const auto [least, greatest] = std::minmax_element(r, r + tokens);
        const uint64_t span = static_cast<uint64_t>(*greatest) - static_cast<uint64_t>(*least);
        shared_ = span < static_cast<uint64_t>(tokens), least_ = *least;
        const int64_t rows = shared_ ? static_cast<int64_t>(span) + 1 : tokens;
        values_.resize(sized(rows, D));
        std::vector<double> frequency(half_);
        for (int64_t j = 0; j < half_; ++j)
            frequency[j] = std::pow(base, -2.0 * static_cast<double>(j) / static_cast<double>(D));
        parallel_for(rows, slots_for(rows), [&](int64_t row, int) {
            const double position = static_cast<double>(shared_ ? least_ + row : r_[row]);
            T* to = values_.data() + row * 2 * half_;
            for (int64_t j = 0; j < half_; ++j) {
                const double angle = position * frequency[j];
                to[j] = static_cast<T>(std::cos(angle)), to[half_ + j] = static_cast<T>(std::sin(angle));
            }
        });
    }
    /// The cosines of a token, then its sines.
    const T* of(int64_t token) const {
        return values_.data() + (shared_ ? r_[token] - least_ : token) * 2 * half_;
    }

private:
    const int64_t* r_;
    int64_t half_, least_ = 0;
    bool shared_ = false;
    std::vector<T> values_;
};

}  // namespace

template <class T>
void turn(view<const T, 4> x, const int64_t* r, double base, int32_t pairing, T sign, view<T, 4> y) {
    const int64_t L = x.shape[1], H = x.shape[2], D = x.shape[3], half = D / 2, tokens = x.shape[0] * L;
    const rotations<T> angles(r, tokens, D, base);
    const int64_t step = pairing == REFGSS_PAIRING_HALF ? 1 : 2, other = pairing == REFGSS_PAIRING_HALF ? half : 1;
    const int64_t xs = x.stride[3], ys = y.stride[3];
    parallel_for(tokens, slots_for(tokens), [&](int64_t token, int) {
        const T *cosine = angles.of(token), *sine = cosine + half;
        for (int64_t h = 0; h < H; ++h) {
            const T* from = x.at(token / L, token % L, h, int64_t(0));
            T* to = y.at(token / L, token % L, h, int64_t(0));
            for (int64_t j = 0; j < half; ++j) {
                const T a = from[j * step * xs], b = from[(j * step + other) * xs], s = sign * sine[j];
                to[j * step * ys] = a * cosine[j] - b * s;
                to[(j * step + other) * ys] = a * s + b * cosine[j];
            }
        }
    });
}
template void turn(view<const float, 4>, const int64_t*, double, int32_t, float, view<float, 4>);
template void turn(view<const double, 4>, const int64_t*, double, int32_t, double, view<double, 4>);

int64_t t5_bucket(int64_t distance) {
    static constexpr int64_t first[] = {16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113};
    if (distance < 16) return distance;
    return 15 + (std::upper_bound(first, std::end(first), distance) - first);
}

}  // namespace refgss
