#include "ssm/modes.hpp"

#include <cmath>
#include <limits>

#include "core/dispatch.hpp"
#include "core/tile.hpp"
#include "kernels/elementary.hpp"

namespace refgss {
namespace REFGSS_ISA {
namespace {

constexpr int lanes = real::lanes;

REFGSS_INLINE real count_from(double first) {
    real r;
    for (int i = 0; i < lanes; ++i) r.set(i, first + i);
    return r;
}

REFGSS_INLINE cvec<double> power(const double* re, const double* im, int64_t n, double l) {
    return exp(cvec<double>{load(re + n) * real(l), load(im + n) * real(l)});
}

/// The powers of a table are multiplied by 2^room, so that no weight and no sample makes a sum of those
/// that would be too small for T; weights and samples above 2^room_above are divided by a power of two
/// before.  room + room_above is 2^17 (2^123) below the largest T: sums over 2^16 modes are finite.
template <class T> constexpr int room = sizeof(T) == 4 ? 80 : 600;
template <class T> constexpr int room_above = sizeof(T) == 4 ? 30 : 300;

/// 2^n for a normal result.
inline double power_of_two(int n) {
    const int64_t bits = static_cast<int64_t>(1023 + n) << 52;
    double p;
    std::memcpy(&p, &bits, sizeof p);
    return p;
}
inline int exponent_of(double x) {
    int64_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return static_cast<int>(bits >> 52 & 2047) - 1023;
}

template <class T> void sample_table(const mode_job& job, T* table) {
    constexpr int width = tile_columns<T>;
    for (int64_t i = 0; i < job.block; i += width, table += 2 * job.count * width)
        for (int64_t n = 0; n < job.count; ++n)
            for (int x = 0; x < width; x += lanes) {
                real l = count_from(static_cast<double>(i + x));
                cvec<double> p = exp<room<T>>(cvec<double>{l * real(job.re[n]), l * real(job.im[n])});
                store_as(table + n * width + x, p.re);
                store_as(table + (job.count + n) * width + x, p.im);
            }
}

template <class T> void mode_table(const mode_job& job, T* table) {
    constexpr int width = tile_columns<T>;
    for (int64_t n = 0; n < job.count; n += width, table += 2 * job.block * width)
        for (int64_t i = 0; i < job.block; ++i)
            for (int x = 0; x < width; x += lanes) {
                const real l(static_cast<double>(i));
                cvec<double> p =
                    exp<room<T>>(cvec<double>{load(job.re + n + x) * l, load(job.im + n + x) * l});
                store_as(table + i * width + x, p.re);
                store_as(table + (job.block + i) * width + x, p.im);
            }
}

void block_powers(int64_t padded, const double* re, int64_t block, double* decay) {
    for (int64_t n = 0; n < padded; n += lanes)
        store(decay + n, exp(load(re + n) * real(static_cast<double>(block))));
}

double largest_of(real a) {
    double most = a[0];
    for (int i = 1; i < lanes; ++i) most = a[i] > most ? a[i] : most;
    return most;
}

/// How many of the first `active` modes must stay, for what is dropped to be below `allowed`.
int64_t still_active(const double* size, int64_t active, double allowed) {
    double dropped = 0;
    while (active > 0 && dropped + size[active - 1] <= allowed) dropped += size[--active];
    return active;  // a NaN stays
}

/// |re| + |im| is at most √2 |w|, and divided by this at most |w|.
constexpr double over_magnitude = 1.5;
/// Of what the rounding model grants to a sum, the part that dropping modes may take (see modes.hpp).
constexpr double dropped_share = 0.25;

/// What is known of a row of left operands.
struct weighted_row {
    double unscale;  // what its sums are to be multiplied by
    int64_t matter;  // how many of its first modes matter
};
/// The left operands of one row, w Ā^{Jj}: re, -im, to `to`.  `coarse` is Ā^{Jj}, and stays where the row has the block of the one before; `size` is room.
template <class T>
REFGSS_INLINE weighted_row weigh(const mode_job& job, int64_t block, bool same_block,
                                    const double* weights, int64_t active, T* to, double* size,
                                    double* coarse_re, double* coarse_im) {
    constexpr double unit = std::numeric_limits<T>::epsilon() / 2;
    const int64_t row = padded(job.count);
    real total(0.0), most(0.0);
    for (int64_t n = 0; n < active; n += lanes) {
        if (!same_block) {
            auto p = power(job.block_re, job.block_im, n, static_cast<double>(block));
            store(coarse_re + n, p.re), store(coarse_im + n, p.im);
        }
        cvec<double> w{load(weights + n), load(weights + row + n)};
        w = w * cvec<double>{load(coarse_re + n), load(coarse_im + n)};
        store_as(to + n, w.re);
        store_as(to + row + n, -w.im);
        real bound = abs(w.re) + abs(w.im);
        store(size + n, bound);
        most = most.v > bound.v ? most.v : bound.v;
        total = fma(bound, load(job.block_decay + n), total);
    }
    double unscale = power_of_two(-room<T>);
    const int excess = exponent_of(largest_of(most)) - room_above<T>;
    if (excess > 0 && excess < 1024 - room_above<T>) {
        const real divided(power_of_two(-excess));
        for (int64_t n = 0; n < active; n += lanes) {
            cvec<double> w{load(weights + n), load(weights + row + n)};
            w = w * cvec<double>{load(coarse_re + n), load(coarse_im + n)};
            store_as(to + n, w.re * divided);
            store_as(to + row + n, -w.im * divided);
        }
        unscale = power_of_two(excess - room<T>);
    }
    const double granted = unit * (sum_of(total) / over_magnitude) + std::numeric_limits<T>::min();
    return {unscale, still_active(size, active, granted * dropped_share)};
}

template <class T>
int64_t synthesize(const mode_job& job, const T* table, const mode_tile<T>& tile,
                   const double* const* weights, int64_t active, bool add, T* scratch) {
    constexpr int width = tile_columns<T>;
    const int64_t row = padded(job.count);
    T* left = scratch;  // [rows][re, -im][row]
    T* sum = left + tile_limit * 2 * row;
    double* size = reinterpret_cast<double*>(sum + tile_limit * width);
    double *coarse_re = size + row, *coarse_im = coarse_re + row;

    int64_t needed = 0;
    const T* a[2][tile_limit];
    double unscale[tile_limit];
    for (int i = 0; i < tile.rows; ++i) {
        T* to = left + i * 2 * row;
        a[0][i] = to, a[1][i] = to + row;
        const bool same_block = i > 0 && tile.block[i] == tile.block[i - 1];
        const auto weighed = weigh(job, tile.block[i], same_block, weights[i], active, to, size,
                                   coarse_re, coarse_im);
        unscale[i] = weighed.unscale;
        needed = weighed.matter > needed ? weighed.matter : needed;
    }

    for (int64_t first = 0; first < job.block; first += width, table += 2 * job.count * width) {
        tile_product(tile.rows, needed, a[0], table, width, sum, width, false);
        tile_product(tile.rows, needed, a[1], table + job.count * width, width, sum, width, true);
        for (int i = 0; i < tile.rows; ++i) {
            int64_t start = tile.block[i] * job.block + first, left_over = job.length - start;
            T* to = tile.signal[i] + start * job.stride;
            const T* from = sum + i * width;
            if (left_over > width) left_over = width;
            const T by = static_cast<T>(unscale[i]);
            if (add)
                for (int64_t x = 0; x < left_over; ++x) to[x * job.stride] += from[x] * by;
            else
                for (int64_t x = 0; x < left_over; ++x) to[x * job.stride] = from[x] * by;
        }
    }
    return needed;
}

/// s, or (l + 1) s, over one block, padded by zeros; returns Σ|.|.
template <class T>
double gather(const mode_job& job, const T* signal, int64_t j, moment weighting, T* to) {
    int64_t first = j * job.block, room = job.length - first;
    if (room > job.block) room = job.block;
    const T* from = signal + first * job.stride;
    for (int64_t x = 0; x < room; ++x) to[x] = from[x * job.stride];
    if (weighting == moment::first)
        for (int64_t x = 0; x < room; ++x) to[x] *= static_cast<T>(first + x + 1);
    for (int64_t x = room; x < job.block; ++x) to[x] = T(0);
    real total(0.0);
    for (int64_t x = 0; x < job.block; x += lanes) total = total + abs(load_as(to + x));
    return sum_of(total);
}

template <class T>
void analyze(const mode_job& job, const T* table, const mode_tile<const T>& tile, moment weighting,
             mode_scale* const* scale, double* const* sum, T* scratch) {
    constexpr int width = tile_columns<T>;
    constexpr double unit = std::numeric_limits<T>::epsilon() / 2;
    const int64_t row = padded(job.count);
    T* left = scratch;  // [rows][block]
    T* part = left + tile_limit * job.block;  // [re, im][rows][width]
    const T* a[tile_limit];
    double unscale[tile_limit];
    for (int i = 0; i < tile.rows; ++i) {
        a[i] = left + i * job.block;
        double size = gather(job, tile.signal[i], tile.block[i], weighting, left + i * job.block);
        scale[i]->seen += size;
        unscale[i] = power_of_two(-room<T>);
        const int excess = exponent_of(size) - room_above<T>;
        if (excess > 0 && excess < 1024 - room_above<T>) {
            const auto divided = static_cast<T>(power_of_two(-excess));
            for (int64_t x = 0; x < job.block; ++x) left[i * job.block + x] *= divided;
            unscale[i] = power_of_two(excess - room<T>);
        }
    }

    // From block j on, a mode adds at most |Ā|^{Jj} Σ|s|; its budget is at least 𝐮 |Ā|^J Σ_0|s|.
    int64_t active = job.count;
    double slowest = 0;  // modes with log|Ā| below this do not matter
    for (int i = 0; i < tile.rows; ++i) {
        double blocks = static_cast<double>(tile.block[i] - 1), enough = -INFINITY;
        if (blocks > 0 && scale[i]->first > 0)
            enough = std::log(unit / 4 * (scale[i]->first / scale[i]->seen)) /
                     (blocks * static_cast<double>(job.block));
        if (scale[i]->seen == 0) continue;
        if (!(enough >= slowest)) slowest = enough < slowest ? enough : -INFINITY;
    }
    while (active > 0 && job.re[active - 1] <= slowest) --active;

    for (int64_t n = 0; n < active; n += width, table += 2 * job.block * width) {
        T *re = part, *im = part + tile_limit * width;
        tile_product(tile.rows, job.block, a, table, width, re, width, false);
        tile_product(tile.rows, job.block, a, table + job.block * width, width, im, width, false);
        cvec<double> coarse[width / lanes];
        for (int i = 0; i < tile.rows; ++i)
            for (int x = 0; x < width; x += lanes) {
                cvec<double>& p = coarse[x / lanes];
                if (i == 0 || tile.block[i] != tile.block[i - 1])
                    p = power(job.block_re, job.block_im, n + x, static_cast<double>(tile.block[i]));
                cvec<double> g{load_as(re + i * width + x), load_as(im + i * width + x)};
                g = g * cvec<double>{p.re * real(unscale[i]), p.im * real(unscale[i])};
                double *to_re = sum[i] + n + x, *to_im = to_re + row;
                store(to_re, load(to_re) + g.re);
                store(to_im, load(to_im) + g.im);
            }
    }
}

}  // namespace

}  // namespace REFGSS_ISA

using namespace REFGSS_ISA;
REFGSS_TABLE(mode_kernels<float>,
             {tile_columns<float>, tile_rows, sample_table<float>, mode_table<float>, block_powers,
              REFGSS_ISA::synthesize<float>, REFGSS_ISA::analyze<float>})
REFGSS_TABLE(mode_kernels<double>,
             {tile_columns<double>, tile_rows, sample_table<double>, mode_table<double>,
              block_powers, REFGSS_ISA::synthesize<double>, REFGSS_ISA::analyze<double>})

}  // namespace refgss
