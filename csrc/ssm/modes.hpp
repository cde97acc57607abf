// modes.hpp: sums of exponentials, from modes to samples and back.
//
// Everything that is heavy about a state-space layer, its convolution apart, is one of two maps:
//     synthesize   s[b,l,h] (+)= Re Σ_n w[b,h,n] Ā[·,n]^l
//     analyze      w[b,h,n]   =  Σ_l s[b,l,h] Ā[·,n]^l,  or with weights l + 1
// The kernel is the synthesis of C̃; an initial state is read out by the synthesis of C̃ Ā x_0; a final
// state is the analysis of the input in reversed time; gradients are analyses of cotangents.
//
// Both are matrix products.  Time is cut into blocks of J steps, and Ā^{Jj+i} = Ā^{Jj} Ā^i: the
// table of Ā^i (fine) is one operand; Ā^{Jj} (coarse) is multiplied into the weights before, or onto
// the sums after.  Every factor is one exponential of binary64.
//
// Modes are sorted by decay.  In a block where the modes from m on contribute less than a quarter of
// an ulp of what the rounding model grants to the sum (𝐮 Σ|w Ā^l|), only the first m are summed.
#pragma once

#include <cstdint>
#include <vector>

#include "core/array.hpp"

namespace refgss {

/// Rows over modes are padded to whole panels.
constexpr int64_t padded(int64_t modes) { return (modes + 31) / 32 * 32; }

/// log Ā of N modes in each of `groups` groups: one for all channels, or one a channel.  |Im| <= π;
/// rows are padded(N) long, padded by zeros, and sorted so that slow modes come first.
struct mode_set {
    int64_t groups, count;
    std::vector<double> re, im;
};

constexpr int64_t mode_block = 128;  // J

/// Signals are (B,L,H) views.  Weights are (B,H,2,padded(N)): real parts, then imaginary parts.
template <class T>
void synthesize(const mode_set& modes, const double* weights, view<T, 3> signal, bool add);

enum class moment { none, first };
template <class T>
void analyze(const mode_set& modes, view<const T, 3> signal, moment weighting, double* weights,
             bool add = false);

// ---- What drivers (modes.cpp) and kernels (kernels/modes.cpp) share -----------------------------

constexpr int tile_limit = 12;

/// One group of modes and its tables.
struct mode_job {
    int64_t count, block;               // N, and J: a multiple of the panel width
    const double *re, *im;              // log Ā
    const double *block_re, *block_im;  // J log Ā, with its own reduction of the imaginary part
    const double* block_decay;          // |Ā|^J
    int64_t length, stride;             // of the signals, in time
};
/// The rows of a tile: a signal, its weights, and the block of time.
template <class T> struct mode_tile {
    int rows;
    T* signal[tile_limit];
    int64_t block[tile_limit];
};
/// What analysis knows of a signal: Σ|s| over block 0, and over the blocks seen so far.
struct mode_scale {
    double first = 0, seen = 0;
};

template <class T> struct mode_kernels {
    int panel_columns, tile_rows;
    /// Ā^i as panels of i: [re, im][n][i]; and as panels of n: [re, im][i][n].
    void (*sample_table)(const mode_job& job, T* table);
    void (*mode_table)(const mode_job& job, T* table);
    /// J log Ā and |Ā|^J of padded(N) modes.
    void (*block_powers)(int64_t padded, const double* re, int64_t block, double* decay);
    /// One tile of samples; at most `active` modes matter, and the result says how many did.
    int64_t (*synthesize)(const mode_job& job, const T* table, const mode_tile<T>& tile,
                          const double* const* weights, int64_t active, bool add, T* scratch);
    /// One tile's part of sum[row][2][padded(N)].  Blocks come last first.
    void (*analyze)(const mode_job& job, const T* table, const mode_tile<const T>& tile,
                    moment weighting, mode_scale* const* scale, double* const* sum, T* scratch);
};

}  // namespace refgss
