#include "ssm/modes.hpp"

#include <algorithm>
#include <cmath>

#include "conv/nonuniform.hpp"
#include "core/dispatch.hpp"
#include "core/scratch.hpp"
#include "core/threads.hpp"

namespace refgss {
namespace {

constexpr double pi = 3.14159265358979323846;

// columns of a tile at most: two vectors, and no instruction set has more than 64 lanes
constexpr int64_t widest_tile = 2 * 64;
// blocks of a segment of time, which a thread takes at a time: whole tiles, whatever their rows
constexpr int64_t segment_blocks = 4 * tile_limit;
// Modes from which on a nonuniform transform takes less time than their sum: its two transforms of J
// points a block cost the same whatever the number of modes.
constexpr int64_t fewest_slow = 64;
// Larger weights would make sums of powers that float has lost.
constexpr double largest_slow_weight = 0x1p14;

/// The rows of work: `tiles` tiles in each group, of neighbouring signals where there are enough of
/// them, of neighbouring blocks of one signal otherwise.
struct partition {
    int64_t groups, signals, blocks;  // signals in a group
    int rows;
    bool across_signals;

    partition(const mode_set& modes, int64_t batch, int64_t channels, int64_t blocks, int rows)
        : groups(modes.groups), signals(modes.groups == 1 ? batch * channels : batch),
          blocks(blocks), rows(rows), across_signals(signals >= rows / 2 || blocks == 1) {}
    int64_t stacks() const { return across_signals ? (signals + rows - 1) / rows : signals; }
    /// (b, h) of a signal.
    template <class F> void locate(int64_t group, int64_t signal, int64_t channels, F&& f) const {
        groups == 1 ? f(signal / channels, signal % channels) : f(signal, group);
    }
};

/// The job of one group; `powers` holds block_re, block_im and block_decay.
template <class T>
mode_job job_of(const mode_set& modes, int64_t group, int64_t block, double* powers) {
    int64_t row = padded(modes.count);
    mode_job job{};
    job.count = modes.count, job.block = block;
    job.re = modes.re.data() + group * row, job.im = modes.im.data() + group * row;
    job.block_re = powers, job.block_im = powers + row, job.block_decay = powers + 2 * row;
    for (int64_t n = 0; n < row; ++n) {
        powers[n] = job.re[n] * static_cast<double>(block);
        powers[row + n] = std::remainder(job.im[n] * static_cast<double>(block), 2 * pi);
    }
    kernels<mode_kernels<T>>().block_powers(row, job.re, block, powers + 2 * row);
    return job;
}

/// What a thread keeps between items: the tables of one group.
template <class T> struct workplace {
    int64_t group = -1;
    mode_job job{};
    double* powers;
    T *table, *work;
};

template <class T> class workplaces {
public:
    workplaces(int slots, const mode_set& modes, int64_t block)
        : places_(slots), row_(padded(modes.count)), table_(sized(slots, 2 * row_ * block)),
          powers_(slots * 3 * row_), work_(slots * work_size(block)) {
        for (int s = 0; s < slots; ++s) {
            places_[s].powers = powers_.data() + s * 3 * row_;
            places_[s].table = table_.data() + s * 2 * row_ * block;
            places_[s].work = work_.data() + s * work_size(block);
        }
    }
    workplace<T>& operator[](int slot) { return places_[slot]; }

private:
    // left operands, a tile of sums, and three rows of doubles
    int64_t work_size(int64_t block) const {
        return tile_limit * (2 * row_ + block + widest_tile) + 6 * row_ + 64;
    }
    std::vector<workplace<T>> places_;
    int64_t row_;
    scratch<T> table_;
    scratch<double> powers_;
    scratch<T> work_;
};

int64_t block_for(int64_t length, int64_t width) {
    return std::min<int64_t>(mode_block, (length + width - 1) / width * width);
}

/// Any modes, by matrix products.
template <class T>
void sum_products(const mode_set& modes, const double* weights, view<T, 3> signal, bool add) {
    auto& kernel = kernels<mode_kernels<T>>();
    const int64_t B = signal.shape[0], L = signal.shape[1], H = signal.shape[2];
    if (signal.size() == 0) return;
    const int64_t row = padded(modes.count), block = block_for(L, kernel.panel_columns);
    partition parts(modes, B, H, (L + block - 1) / block, kernel.tile_rows);
    // segments of time give threads work where signals are few
    const int64_t segment = parts.groups == 1 ? segment_blocks : parts.blocks;
    const int64_t segments = (parts.blocks + segment - 1) / segment;
    const int64_t items = parts.groups * parts.stacks() * segments;
    const int slots = slots_for(items);
    workplaces<T> places(slots, modes, block);
    parallel_for(items, slots, [&](int64_t item, int slot) {
        auto& place = places[slot];
        int64_t group = item / (parts.stacks() * segments);
        if (place.group != group) {
            place.group = group;
            place.job = job_of<T>(modes, group, block, place.powers);
            place.job.length = L, place.job.stride = signal.stride[1];
            kernel.sample_table(place.job, place.table);
        }
        int64_t stack = item / segments % parts.stacks(), j = item % segments * segment;
        int64_t end = std::min(parts.blocks, j + segment), active = modes.count;
        while (j < end && !stopping()) {
            mode_tile<T> tile{};
            const double* w[tile_limit];
            int64_t first = parts.across_signals ? stack * parts.rows : stack;
            int64_t left = parts.across_signals ? parts.signals - first : end - j;
            tile.rows = static_cast<int>(std::min<int64_t>(parts.rows, left));
            for (int i = 0; i < tile.rows; ++i) {
                tile.block[i] = parts.across_signals ? j : j + i;
                parts.locate(group, parts.across_signals ? first + i : first, H,
                             [&](int64_t b, int64_t h) {
                                 tile.signal[i] = signal.at(b, int64_t(0), h);
                                 w[i] = weights + (b * H + h) * 2 * row;
                             });
            }
            active = kernel.synthesize(place.job, place.table, tile, w, active, add, place.work);
            j += parts.across_signals ? 1 : tile.rows;
        }
    });
}

/// How many modes a nonuniform transform is good for: the slow ones, if it takes less time than
/// their sum.
int64_t slow_modes(const mode_set& modes, int64_t length, int64_t channels) {
    if (modes.groups > 1 || length < nonuniform_block || channels < 2) return 0;
    int64_t slow = 0;
    while (slow < modes.count && -modes.re[slow] * nonuniform_block <= nonuniform_decay) ++slow;
    return slow < fewest_slow ? 0 : slow;
}

/// A mode as a line of a spectrum: its frequency, and what it gives to `width` bins.  A mode of negative
/// frequency is replaced by its conjugate, which has the same real part.
template <class T> struct spectral_line {
    std::complex<double> z;
    int64_t first;
    std::complex<double> share[window_width<T>];
};
template <class T> std::vector<spectral_line<T>> lines_of(const mode_set& modes, int64_t slow) {
    std::vector<spectral_line<T>> lines(slow);
    parallel_for(slow, slots_for(slow), [&](int64_t n, int) {
        spectral_line<T>& l = lines[n];
        l.z = {modes.re[n], std::abs(modes.im[n])};
        const std::complex<double> x(l.z.imag(), -l.z.real());
        window<T>(x * (nonuniform_block / pi), &l.first, l.share);
    });
    return lines;
}

/// Weights of strips of `lanes` channels, (B strips, slow, 2, lanes).
template <class T>
void weights_in_lanes(const mode_set& modes, int64_t slow, const double* weights, int64_t B, int64_t H,
                      int64_t lanes, T* all) {
    const int64_t strips = (H + lanes - 1) / lanes, row = padded(modes.count);
    parallel_for(B * strips, slots_for(B * strips), [&](int64_t s, int) {
        T* to = all + s * slow * 2 * lanes;
        const int64_t b = s / strips, h0 = s % strips * lanes;
        std::fill_n(to, slow * 2 * lanes, T(0));
        for (int64_t lane = 0; lane < std::min(lanes, H - h0); ++lane) {
            const double* from = weights + (b * H + h0 + lane) * 2 * row;
            for (int64_t n = 0; n < slow; ++n) {
                const double im = from[row + n];
                to[n * 2 * lanes + lane] = static_cast<T>(from[n]);
                to[(2 * n + 1) * lanes + lane] = static_cast<T>(modes.im[n] < 0 ? -im : im);
            }
        }
    });
}

/// The shares of all lines in block j, bin by bin: those of bin b are from start[b] to start[b + 1].
/// `starts` has bins + 2 entries, and start is returned.
template <class T>
const int32_t* shares_of_block(const std::vector<spectral_line<T>>& lines, int64_t j, int64_t bins,
                               int32_t* starts, bin_share<T>* shares) {
    constexpr int width = window_width<T>;
    constexpr int64_t J = nonuniform_block;
    int32_t* start = starts + 1;
    std::fill_n(starts, bins + 2, 0);
    for (const auto& l : lines)
        for (int k = 0; k < width; ++k) ++start[l.first + k + width + 1];
    for (int64_t b = 0; b < bins; ++b) start[b + 1] += start[b];
    for (size_t n = 0; n < lines.size(); ++n) {
        const auto& l = lines[n];
        const std::complex<double> turn = std::exp(l.z * static_cast<double>(J * j + J / 2));
        for (int k = 0; k < width; ++k) {
            const double re = turn.real() * l.share[k].real() - turn.imag() * l.share[k].imag();
            const double im = turn.real() * l.share[k].imag() + turn.imag() * l.share[k].real();
            shares[start[l.first + k + width]++] = {static_cast<int32_t>(n), static_cast<T>(re),
                                                    static_cast<T>(im)};
        }
    }
    return starts;  // filling has moved every start to the next one
}

/// The first `slow` modes of one group, by nonuniform transforms.
template <class T>
void sum_slow(const mode_set& modes, int64_t slow, const double* weights, view<T, 3> signal,
              bool add) {
    constexpr int width = window_width<T>;
    constexpr int64_t J = nonuniform_block;
    auto& kernel = kernels<nonuniform_kernels<T>>();
    const auto& plan = plan_nonuniform<T>();
    const int64_t B = signal.shape[0], L = signal.shape[1], H = signal.shape[2];
    const int64_t lanes = kernel.lanes, strips = (H + lanes - 1) / lanes, bins = bin_count<T>(J);
    const auto lines = lines_of<T>(modes, slow);
    scratch<T> lane_weights(sized(sized(B * strips, slow), 2 * lanes));
    weights_in_lanes(modes, slow, weights, B, H, lanes, lane_weights.data());
    const int64_t blocks = (L + J - 1) / J, work = 2 * lanes * (bins + J);
    const int slots = slots_for(blocks);
    scratch<T> memory(slots * work);
    scratch<int32_t> starts(slots * (bins + 2));
    scratch<bin_share<T>> all_shares(slots * slow * width);
    parallel_for(blocks, slots, [&](int64_t j, int slot) {
        bin_share<T>* shares = all_shares.data() + slot * slow * width;
        const int32_t* start =
            shares_of_block(lines, j, bins, starts.data() + slot * (bins + 2), shares);
        for (int64_t s = 0; s < B * strips; ++s) {
            const int64_t b = s / strips, h0 = s % strips * lanes;
            const panel<T> y{signal.at(b, J * j, h0), std::min(J, L - J * j), signal.stride[1],
                             signal.stride[2], static_cast<int>(std::min(lanes, H - h0)), locality::anywhere};
            kernel.samples(plan, start, shares, lane_weights.data() + s * slow * 2 * lanes, y, add,
                           memory.data() + slot * work);
        }
    });
}

}  // namespace

template <class T>
void synthesize(const mode_set& modes, const double* weights, view<T, 3> signal, bool add) {
    int64_t slow = slow_modes(modes, signal.shape[1], signal.shape[2]);
    const double* end = weights + signal.shape[0] * signal.shape[2] * 2 * padded(modes.count);
    const auto large = [](double w) { return std::abs(w) > largest_slow_weight; };
    if (slow > 0 && std::any_of(weights, end, large)) slow = 0;
    if (slow == 0 || signal.size() == 0) return sum_products(modes, weights, signal, add);
    sum_slow(modes, slow, weights, signal, add);
    if (slow == modes.count) return;
    mode_set rest{1, modes.count - slow, {}, {}};
    const int64_t row = padded(modes.count), short_row = padded(rest.count);
    const auto tail = [&](const double* from, double* to) {
        std::copy_n(from + slow, rest.count, to);
    };
    rest.re.resize(short_row), rest.im.resize(short_row);
    tail(modes.re.data(), rest.re.data()), tail(modes.im.data(), rest.im.data());
    const int64_t rows = 2 * signal.shape[0] * signal.shape[2];
    std::vector<double> some(rows * short_row, 0);
    for (int64_t r = 0; r < rows; ++r) tail(weights + r * row, some.data() + r * short_row);
    sum_products(rest, some.data(), signal, true);
}

template <class T>
void analyze(const mode_set& modes, view<const T, 3> signal, moment weighting, double* weights,
             bool add) {
    auto& kernel = kernels<mode_kernels<T>>();
    const int64_t B = signal.shape[0], L = signal.shape[1], H = signal.shape[2];
    const int64_t row = padded(modes.count);
    if (!add) std::fill(weights, weights + B * H * 2 * row, 0.0);
    if (signal.size() == 0 || modes.count == 0) return;
    const int64_t block = block_for(L, kernel.panel_columns);
    partition parts(modes, B, H, (L + block - 1) / block, kernel.tile_rows);
    const int64_t items = parts.groups * parts.stacks();
    const int slots = slots_for(items);
    workplaces<T> places(slots, modes, block);
    parallel_for(items, slots, [&](int64_t item, int slot) {
        auto& place = places[slot];
        int64_t group = item / parts.stacks(), stack = item % parts.stacks();
        if (place.group != group) {
            place.group = group;
            place.job = job_of<T>(modes, group, block, place.powers);
            place.job.length = L, place.job.stride = signal.stride[1];
            kernel.mode_table(place.job, place.table);
        }
        mode_scale scales[tile_limit], *scale[tile_limit];
        double* sum[tile_limit];
        mode_tile<const T> tile{};
        int64_t first = parts.across_signals ? stack * parts.rows : stack;
        auto fill = [&](int64_t j, int count) {
            tile.rows = count;
            for (int i = 0; i < count; ++i) {
                tile.block[i] = parts.across_signals ? j : j - i;
                scale[i] = &scales[parts.across_signals ? i : 0];
                parts.locate(group, parts.across_signals ? first + i : first, H,
                             [&](int64_t b, int64_t h) {
                                 tile.signal[i] = signal.at(b, int64_t(0), h);
                                 sum[i] = weights + (b * H + h) * 2 * row;
                             });
            }
        };
        int signals = parts.across_signals
                          ? static_cast<int>(std::min<int64_t>(parts.rows, parts.signals - first))
                          : 1;
        fill(0, signals);
        for (int i = 0; i < signals; ++i)
            for (int64_t l = 0; l < std::min(block, L); ++l)
                scales[i].first += std::abs(static_cast<double>(tile.signal[i][l * signal.stride[1]]));
        for (int64_t j = parts.blocks - 1; j >= 0 && !stopping();) {
            int count = parts.across_signals ? signals
                                             : static_cast<int>(std::min<int64_t>(parts.rows, j + 1));
            fill(j, count);
            kernel.analyze(place.job, place.table, tile, weighting, scale, sum, place.work);
            j -= parts.across_signals ? 1 : count;
        }
    });
}

template void synthesize(const mode_set&, const double*, view<float, 3>, bool);
template void synthesize(const mode_set&, const double*, view<double, 3>, bool);
template void analyze(const mode_set&, view<const float, 3>, moment, double*, bool);
template void analyze(const mode_set&, view<const double, 3>, moment, double*, bool);

}  // namespace refgss
