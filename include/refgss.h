/* refgss.h: the C ABI of the refgss kernels.
 *
 * Anybody may implement this header, in any language; `refgss check --candidate lib:PATH` judges
 * the result.  The rules hold for every function:
 *
 *  - An array is a borrowed view (`refgss_array`): the library neither keeps nor frees it.  Inputs
 *    are only read.  Outputs are allocated by the caller with the shape that is documented, and are
 *    overwritten.  The address range of an output must not meet that of any other argument.
 *  - Strides count elements, in any order of axes, and may be negative or, for inputs, zero.  Data is
 *    aligned to its element, no more.  An axis may have length zero: `data` may then be NULL.
 *  - All floating-point arrays of one call have the same dtype.  Complex arrays have a trailing
 *    axis of two, (re, im).
 *  - The result is a status.  On any status but REFGSS_OK the outputs are unspecified and
 *    `refgss_last_error` holds one sentence for this thread.  Nothing is thrown.
 *  - Every function may be called from several threads at once.  A refgss_spectrum and a refgss_ssm
 *    are only read: any number of calls may share one.  A refgss_conv_stream, refgss_stepper or
 *    refgss_decoder serves one call at a time: a second one at the same time is REFGSS_ERROR_BUSY,
 *    and changes nothing.  A handle is freed when no call uses it.  After fork() the child may call
 *    as well.
 *  - A call that fails or is interrupted leaves a handle as it was before; a refgss_conv_stream that
 *    cannot be, refuses all further calls.
 *  - Memory that a call needs beyond its arguments is allocated in it and given back before it
 *    returns; the notes "workspace" say how much.  Up to 64 MiB of it are kept for later calls, and
 *    twiddle factors, a few bytes per point of the largest transform so far, for the life of the
 *    process.
 *  - Results do not depend on the number of threads.
 */
#ifndef REFGSS_H
#define REFGSS_H

#include <stdint.h>

#ifndef REFGSS_API
#define REFGSS_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Version ------------------------------------------------------------------------------- */

/* 2, since a layer of a language model has a kind and a decoder's memory is a list of arrays; the fields
 * of Lambda, once a and b, are lam_a and lam_b. */
#define REFGSS_ABI_VERSION 2

/* The version this library implements; compare with REFGSS_ABI_VERSION before anything else: a caller
 * of another version must not call on. */
REFGSS_API int32_t refgss_abi_version(void);

/* Optional: what reports call the library, and its own version ("" if it has none).  A library need
 * not have these two. */
REFGSS_API const char *refgss_name(void);
REFGSS_API const char *refgss_version(void);

/* ---- Arrays and errors ---------------------------------------------------------------------- */

#define REFGSS_MAX_RANK 4

enum refgss_dtype {
    REFGSS_F32 = 1,
    REFGSS_F64 = 2,
    REFGSS_BF16 = 3, /* the upper half of a float; this and the next: weights of a decoder, no others */
    REFGSS_I8 = 4
};

typedef struct refgss_array {
    void *data;
    int32_t dtype; /* enum refgss_dtype */
    int32_t rank;  /* 0 .. REFGSS_MAX_RANK; further entries of shape and stride are ignored */
    int64_t shape[4];
    int64_t stride[4]; /* in elements */
} refgss_array;

enum refgss_status {
    REFGSS_OK = 0,
    REFGSS_ERROR_TYPE = 1,        /* a dtype is not supported, or dtypes differ */
    REFGSS_ERROR_VALUE = 2,       /* a rank, shape, stride, alignment or option is wrong */
    REFGSS_ERROR_MEMORY = 3,      /* workspace could not be allocated */
    REFGSS_ERROR_INTERRUPTED = 4, /* the interrupt check asked to stop */
    REFGSS_ERROR_INTERNAL = 5,    /* a defect of the library */
    REFGSS_ERROR_BUSY = 6         /* another call uses the handle */
};

/* The sentence that belongs to this thread's last failure; "" before any. */
REFGSS_API const char *refgss_last_error(void);

/* ---- Threads and instruction sets ----------------------------------------------------------- */

/* Threads that a call may use, the caller's included: REFGSS_NUM_THREADS, or all processors.
 * 0 where REFGSS_NUM_THREADS is not a number of threads; refgss_last_error says so. */
REFGSS_API int32_t refgss_get_num_threads(void);
REFGSS_API int32_t refgss_set_num_threads(int32_t threads);

/* "baseline", "avx2", "avx512" or "amx": REFGSS_SIMD, or the widest this processor has.  NULL where
 * REFGSS_SIMD is unknown or not supported; refgss_last_error says which. */
REFGSS_API const char *refgss_simd(void);

/* Called now and then on the calling thread during long work; non-zero stops the call, which then
 * returns REFGSS_ERROR_INTERRUPTED.  NULL removes it. */
REFGSS_API int32_t refgss_set_interrupt_check(int32_t (*check)(void));

/* ---- Causal convolution (GSS-CNV) ------------------------------------------------------------ */

/* y[b,l,h] = sum over j = 0 .. min(l, Lk-1) of k[h,j] u[b,l-j,h].
 * u (B,L,H), k (H,Lk) -> y (B,L,H).
 * A NaN or an infinity in row (b, ., h) of u reaches no other row.
 * Workspace: for each thread 6 times L (or Lk, if L is more than twice that) scalars for each of up to
 * 16 channels; where these are few and L is large, L for each channel and 4 times L for each thread. */
REFGSS_API int32_t refgss_causal_conv(const refgss_array *u, const refgss_array *k,
                                      const refgss_array *y);

/* The gradients of the above: dy (B,L,H) -> du (B,L,H), dk (H,Lk). */
REFGSS_API int32_t refgss_causal_conv_vjp(const refgss_array *u, const refgss_array *k,
                                          const refgss_array *dy, const refgss_array *du,
                                          const refgss_array *dk);

/* A kernel transformed once for many convolutions with signals of at most `length` steps. */
typedef struct refgss_spectrum refgss_spectrum;
REFGSS_API int32_t refgss_spectrum_new(const refgss_array *k, int64_t length,
                                       refgss_spectrum **spectrum);
REFGSS_API void refgss_spectrum_free(refgss_spectrum *spectrum);
REFGSS_API int32_t refgss_spectrum_conv(const refgss_spectrum *spectrum, const refgss_array *u,
                                        const refgss_array *y);

/* The convolution of a signal that arrives in chunks of any lengths: pushing u_1, u_2, ... gives
 * the pieces of the convolution of the whole.  The memory held is that of Lk-1 steps and of one
 * spectrum, whatever the length of the signal. */
typedef struct refgss_conv_stream refgss_conv_stream;
REFGSS_API int32_t refgss_conv_stream_new(const refgss_array *k, int64_t batch,
                                          refgss_conv_stream **stream);
REFGSS_API void refgss_conv_stream_free(refgss_conv_stream *stream);
REFGSS_API int32_t refgss_conv_stream_push(refgss_conv_stream *stream, const refgss_array *u,
                                           const refgss_array *y);

/* ---- State-space maps (GSS-DIS, GSS-KER, GSS-REC) ----------------------------------------------
 *
 * lam (N,2), c (H,N,2); delta is a scalar (rank 0), (H) or, for the dss methods, (H,2) with steps of
 * their own for Re and Im.  States are (B,H,N,2); an input state may be NULL, which means zeros.
 * Exponents are formed in binary64 whatever the dtype.  A value that the standard refuses (Re lam > 0
 * except in a dss-softmax kernel, a step that is not positive) is REFGSS_ERROR_VALUE.
 * In gradients, the cotangent of a complex number is d/dRe + i d/dIm.
 * Workspace: for each thread tables of 600 N numbers; 16 B H N bytes for states. */

enum refgss_method {
    REFGSS_ZOH = 1,        /* A = e^z, B = (e^z - 1)/lam, z = delta lam */
    REFGSS_BILINEAR = 2,   /* A = (1 + z/2)/(1 - z/2), B = delta/(1 - z/2) */
    REFGSS_DSS_EXP = 3,    /* B = (e^z - 1) conj(lam)/max(|lam|^2, eps) */
    REFGSS_DSS_SOFTMAX = 4, /* B = 1/(lam sum over r < length of e^(z r)) */
    /* with the reciprocal r(x) = conj(x)/(|x|^2 + eps), z and the sum as for a mode that decays: */
    REFGSS_DSS_EXP_SHIFTED = 5,        /* B = (e^z - 1) r(lam) */
    REFGSS_DSS_SOFTMAX_SHIFTED = 6,    /* B = (e^z - 1) r((e^(z length) - 1) lam) */
    REFGSS_DSS_SOFTMAX_SHIFTED_SUM = 7 /* B = r(sum over r < length of e^(z r))/lam */
};

typedef struct refgss_form {
    int32_t method;
    int32_t pairs;  /* not 0: one mode of each conjugate pair is stored, and real parts are doubled */
    double eps;     /* dss-exp, and the shifted methods */
    int64_t length; /* the dss-softmax methods */
} refgss_form;

/* lam = -e^a + i e^b, or with imag_is_exp = 0 -e^a + i b.  a, b (N) -> lam (N,2). */
REFGSS_API int32_t refgss_gss_lambda(const refgss_array *a, const refgss_array *b,
                                     int32_t imag_is_exp, const refgss_array *lam);
/* dlam (N,2) -> da, db (N). */
REFGSS_API int32_t refgss_gss_lambda_vjp(const refgss_array *a, const refgss_array *b,
                                         const refgss_array *dlam, int32_t imag_is_exp,
                                         const refgss_array *da, const refgss_array *db);

/* -> abar, bbar (N,2), or (H,N,2) where delta has channels. */
REFGSS_API int32_t refgss_discretize(const refgss_array *lam, const refgss_array *delta,
                                     const refgss_form *form, const refgss_array *abar,
                                     const refgss_array *bbar);
/* dabar, dbbar -> dlam (N,2), ddelta of delta's shape. */
REFGSS_API int32_t refgss_discretize_vjp(const refgss_array *lam, const refgss_array *delta,
                                         const refgss_array *dabar, const refgss_array *dbbar,
                                         const refgss_form *form, const refgss_array *dlam,
                                         const refgss_array *ddelta);

/* k[h,l] = s Re sum over n of c[h,n] B[n] A[n]^l -> k (H,L). */
REFGSS_API int32_t refgss_ssm_kernel(const refgss_array *lam, const refgss_array *c,
                                     const refgss_array *delta, const refgss_form *form,
                                     const refgss_array *k);
/* dk (H,L) -> dlam (N,2), dc (H,N,2), ddelta. */
REFGSS_API int32_t refgss_ssm_kernel_vjp(const refgss_array *lam, const refgss_array *c,
                                         const refgss_array *dk, const refgss_array *delta,
                                         const refgss_form *form, const refgss_array *dlam,
                                         const refgss_array *dc, const refgss_array *ddelta);

/* x_l = A x_(l-1) + u_l, y_l = s Re sum c B x_l: u (B,L,H), state -> y (B,L,H), state_out.
 * Any cut of a sequence into calls gives the same map.  state_out may be state.  A NaN or an infinity at u[b,t,h] makes
 * y[b,l,h] NaN from l = t on, and state_out[b,h,:] not finite; nothing else is touched. */
REFGSS_API int32_t refgss_ssm_scan(const refgss_array *u, const refgss_array *lam,
                                   const refgss_array *c, const refgss_array *state,
                                   const refgss_array *delta, const refgss_form *form,
                                   const refgss_array *y, const refgss_array *state_out);
/* dy (B,L,H), dstate or NULL, which means zeros -> du (B,L,H), dlam, dc, dstate0 or NULL, ddelta. */
REFGSS_API int32_t refgss_ssm_scan_vjp(const refgss_array *u, const refgss_array *lam,
                                       const refgss_array *c, const refgss_array *state,
                                       const refgss_array *dy, const refgss_array *dstate,
                                       const refgss_array *delta, const refgss_form *form,
                                       const refgss_array *du, const refgss_array *dlam,
                                       const refgss_array *dc, const refgss_array *dstate0,
                                       const refgss_array *ddelta);
/* One token: u (B,H), state -> y (B,H), state_out. */
REFGSS_API int32_t refgss_ssm_step(const refgss_array *u, const refgss_array *lam,
                                   const refgss_array *c, const refgss_array *state,
                                   const refgss_array *delta, const refgss_form *form,
                                   const refgss_array *y, const refgss_array *state_out);

/* The map, discretised once, with its kernel transformed for scans of `length` steps (others work
 * too).  Changing lam, c or delta afterwards changes nothing here. */
typedef struct refgss_ssm refgss_ssm;
REFGSS_API int32_t refgss_ssm_new(const refgss_array *lam, const refgss_array *c,
                                  const refgss_array *delta, const refgss_form *form,
                                  int64_t length, refgss_ssm **ssm);
REFGSS_API void refgss_ssm_free(refgss_ssm *ssm);
/* refgss_ssm_scan; with one step it is the recurrence. */
REFGSS_API int32_t refgss_ssm_apply(const refgss_ssm *ssm, const refgss_array *u,
                                    const refgss_array *state, const refgss_array *y,
                                    const refgss_array *state_out);

/* Decoding: a batch of sequences that advance by one token a call.  The state moves forward only
 * every `block` tokens, by two matrix products; in between an output is a table entry and a
 * convolution of at most `block` taps.  Exact, and a fraction of the recurrence's traffic. */
typedef struct refgss_stepper refgss_stepper;
REFGSS_API int32_t refgss_stepper_new(const refgss_ssm *ssm, int64_t batch, int64_t block,
                                      const refgss_array *state, refgss_stepper **stepper);
REFGSS_API void refgss_stepper_free(refgss_stepper *stepper);
REFGSS_API int32_t refgss_stepper_step(refgss_stepper *stepper, const refgss_array *u,
                                       const refgss_array *y);
/* The state after the tokens so far. */
REFGSS_API int32_t refgss_stepper_state(const refgss_stepper *stepper,
                                        const refgss_array *state_out);

/* ---- Pointwise maps (GSS-NRM) ------------------------------------------------------------------
 *
 * Any array is a matrix here, its last axis the columns.  Outputs have contiguous rows. */

/* (x - mean)/sqrt(var + eps) weight + bias.  x (M,E), weight, bias (E) -> y (M,E). */
REFGSS_API int32_t refgss_layer_norm(const refgss_array *x, const refgss_array *weight,
                                     const refgss_array *bias, double eps, const refgss_array *y);
/* dy (M,E) -> dx (M,E), dweight, dbias (E). */
REFGSS_API int32_t refgss_layer_norm_vjp(const refgss_array *x, const refgss_array *weight,
                                         const refgss_array *dy, double eps,
                                         const refgss_array *dx, const refgss_array *dweight,
                                         const refgss_array *dbias);
/* x/sqrt(mean of x^2 + eps) weight.  x (M,E), weight (E) -> y (M,E). */
REFGSS_API int32_t refgss_rms_norm(const refgss_array *x, const refgss_array *weight, double eps,
                                   const refgss_array *y);
/* dy (M,E) -> dx (M,E), dweight (E). */
REFGSS_API int32_t refgss_rms_norm_vjp(const refgss_array *x, const refgss_array *weight,
                                       const refgss_array *dy, double eps, const refgss_array *dx,
                                       const refgss_array *dweight);
/* x Phi(x), the exact form.  x (M,E) -> y. */
REFGSS_API int32_t refgss_gelu(const refgss_array *x, const refgss_array *y);
REFGSS_API int32_t refgss_gelu_vjp(const refgss_array *x, const refgss_array *dy,
                                   const refgss_array *dx);
/* x (M,I), weight (I,O), bias (O) or NULL -> y (M,O). */
REFGSS_API int32_t refgss_dense(const refgss_array *x, const refgss_array *weight,
                                const refgss_array *bias, const refgss_array *y);
/* dy (M,O) -> dx (M,I), dweight (I,O), dbias (O) or NULL. */
REFGSS_API int32_t refgss_dense_vjp(const refgss_array *x, const refgss_array *weight,
                                    const refgss_array *dy, const refgss_array *dx,
                                    const refgss_array *dweight, const refgss_array *dbias);

/* ---- Attention (GSS-ATT) -----------------------------------------------------------------------
 *
 * q (B,L,Hq,D), k, v (B,L,G,D), G divides Hq: the query head h uses the keys and values of the head
 * h div (Hq/G).  bias (Hq,M) or NULL: bias[h,n] is added to the logits of the distance n.  The state is
 * k and v (B,S,G,D), S = chunk, or twice that under look1, and t, B integers: how many tokens the row has
 * read, modulo the chunk under chunk.  An input state is NULL in all of its parts, which means none.
 * Outputs have a contiguous last axis.
 * Workspace: for each thread about 500 (3 D) scalars; in the gradient three times as much, and besides
 * 4 D scalars a token of a chunk (of the row, where visible is another). */

enum refgss_visible {
    REFGSS_VISIBLE_CHUNK = 1,   /* the keys of the query's chunk, up to its own */
    REFGSS_VISIBLE_SLIDING = 2, /* the last `chunk` keys, its own among them */
    REFGSS_VISIBLE_LOOK1 = 3,   /* those of its chunk, and of the chunk before */
    REFGSS_VISIBLE_STRICT = 4   /* the `chunk` keys before its own */
};

typedef struct refgss_window {
    int64_t chunk;
    int32_t visible;  /* enum refgss_visible */
    int32_t unscaled; /* not 0: products are not divided by the root of D */
} refgss_window;

/* y = sum of softmax(q k + bias) v over the keys that a query sees -> y (B,L,Hq,D), the next state. */
REFGSS_API int32_t refgss_attention(const refgss_array *q, const refgss_array *k, const refgss_array *v,
                                    const refgss_array *bias, const refgss_array *state_k,
                                    const refgss_array *state_v, const int64_t *state_t,
                                    const refgss_window *window, const refgss_array *y,
                                    const refgss_array *state_k_out, const refgss_array *state_v_out,
                                    int64_t *state_t_out);
/* dy (B,L,Hq,D), dstate_k, dstate_v (B,S,G,D) or both NULL, which means zeros -> dq, dk, dv, dbias or
 * NULL, and the gradients of the input state's keys and values, or both NULL. */
REFGSS_API int32_t refgss_attention_vjp(const refgss_array *q, const refgss_array *k,
                                        const refgss_array *v, const refgss_array *bias,
                                        const refgss_array *state_k, const refgss_array *state_v,
                                        const int64_t *state_t, const refgss_array *dy,
                                        const refgss_array *dstate_k, const refgss_array *dstate_v,
                                        const refgss_window *window, const refgss_array *dq,
                                        const refgss_array *dk, const refgss_array *dv,
                                        const refgss_array *dbias, const refgss_array *dstate0_k,
                                        const refgss_array *dstate0_v);
/* One token: q, y (B,Hq,D), k, v (B,G,D). */
REFGSS_API int32_t refgss_attention_step(const refgss_array *q, const refgss_array *k,
                                         const refgss_array *v, const refgss_array *bias,
                                         const refgss_array *state_k, const refgss_array *state_v,
                                         const int64_t *state_t, const refgss_window *window,
                                         const refgss_array *y, const refgss_array *state_k_out,
                                         const refgss_array *state_v_out, int64_t *state_t_out);
REFGSS_API int32_t refgss_attention_step_vjp(const refgss_array *q, const refgss_array *k,
                                             const refgss_array *v, const refgss_array *bias,
                                             const refgss_array *state_k, const refgss_array *state_v,
                                             const int64_t *state_t, const refgss_array *dy,
                                             const refgss_array *dstate_k,
                                             const refgss_array *dstate_v,
                                             const refgss_window *window, const refgss_array *dq,
                                             const refgss_array *dk, const refgss_array *dv,
                                             const refgss_array *dbias,
                                             const refgss_array *dstate0_k,
                                             const refgss_array *dstate0_v);

enum refgss_pairing {
    REFGSS_PAIRING_HALF = 1,       /* the numbers i and i + D/2 of a head */
    REFGSS_PAIRING_INTERLEAVED = 2 /* 2i and 2i + 1 */
};

/* Each pair (x1, x2) -> (x1 cos a - x2 sin a, x1 sin a + x2 cos a), a = r base^(-2i/D) in binary64.
 * x (B,L,H,D), D even, r (B,L) integers, contiguous -> y (B,L,H,D). */
REFGSS_API int32_t refgss_rope(const refgss_array *x, const int64_t *r, double base, int32_t pairing,
                               const refgss_array *y);
/* dy (B,L,H,D) -> dx: turned back. */
REFGSS_API int32_t refgss_rope_vjp(const int64_t *r, const refgss_array *dy, double base,
                                   int32_t pairing, const refgss_array *dx);

/* bias[h,n] = table[h,bucket of n]: table (H,32) -> bias (H,M). */
REFGSS_API int32_t refgss_t5_bias(const refgss_array *table, const refgss_array *bias);
/* dbias (H,M) -> dtable (H,32). */
REFGSS_API int32_t refgss_t5_bias_vjp(const refgss_array *dbias, const refgss_array *dtable);

/* ---- Block-recurrent layers (GSS-BRT) -----------------------------------------------------------
 *
 * y = x / sqrt(sum of x x + eps) over the last axis.  x, y, dx, dy (M,D), D > 0. */
REFGSS_API int32_t refgss_l2_normalize(const refgss_array *x, double eps, const refgss_array *y);
REFGSS_API int32_t refgss_l2_normalize_vjp(const refgss_array *x, const refgss_array *dy, double eps,
                                           const refgss_array *dx);

enum refgss_gate_kind {
    REFGSS_GATE_FIXED = 1, /* s sigma(f) + z sigma(-f), f (E) */
    REFGSS_GATE_LSTM = 2,  /* s sigma(f + 1) + z sigma(i - 1), f and i (M,E) */
    REFGSS_GATE_FULL = 3   /* s sigma(f + 1) + z sigma(-f - 1), f (M,E) */
};
/* s, z (M,E), i NULL but under lstm -> y (M,E). */
REFGSS_API int32_t refgss_gate(const refgss_array *s, const refgss_array *z, const refgss_array *f,
                               const refgss_array *i, int32_t kind, const refgss_array *y);
/* dout (M,E) -> ds, dz (M,E), df of the shape of f, di (M,E) or NULL. */
REFGSS_API int32_t refgss_gate_vjp(const refgss_array *s, const refgss_array *z, const refgss_array *f,
                                   const refgss_array *i, const refgss_array *dout, int32_t kind,
                                   const refgss_array *ds, const refgss_array *dz,
                                   const refgss_array *df, const refgss_array *di);

/* Attention of each token to the `window` keys before it, W >= 1: those before the first token are zeros
 * and are seen.  Logits are (q k + bias[h,distance]) |scale[h]|, or without a scale q k / sqrt(D) + bias.
 * q, k, v (B,L,H,D), bias (H,M), M > W, or NULL, scale (H) or NULL -> y (B,L,H,D).  The state is the last
 * W keys and values, (B,W,H,D), oldest first; an input state is NULL in both parts, which means zeros.
 * Outputs have a contiguous last axis.  Workspace: as refgss_attention's. */
REFGSS_API int32_t refgss_window_attention(const refgss_array *q, const refgss_array *k,
                                           const refgss_array *v, const refgss_array *bias,
                                           const refgss_array *scale, const refgss_array *state_k,
                                           const refgss_array *state_v, int64_t window,
                                           const refgss_array *y, const refgss_array *state_k_out,
                                           const refgss_array *state_v_out);
/* dy (B,L,H,D), dstate_k, dstate_v (B,W,H,D) or both NULL, which means zeros -> dq, dk, dv, dbias and
 * dscale, NULL without these, and the gradients of the input state, or both NULL. */
REFGSS_API int32_t refgss_window_attention_vjp(
    const refgss_array *q, const refgss_array *k, const refgss_array *v, const refgss_array *bias,
    const refgss_array *scale, const refgss_array *state_k, const refgss_array *state_v,
    const refgss_array *dy, const refgss_array *dstate_k, const refgss_array *dstate_v, int64_t window,
    const refgss_array *dq, const refgss_array *dk, const refgss_array *dv, const refgss_array *dbias,
    const refgss_array *dscale, const refgss_array *dstate0_k, const refgss_array *dstate0_v);

/* Every query sees every key, without a bias; y is 0 where there is none.
 * q (B,T,H,D), k, v (B,M,H,D), scale (H) or NULL -> y (B,T,H,D), its last axis contiguous. */
REFGSS_API int32_t refgss_state_attention(const refgss_array *q, const refgss_array *k,
                                          const refgss_array *v, const refgss_array *scale,
                                          const refgss_array *y);
/* dy (B,T,H,D) -> dq, dk, dv, their last axes contiguous, and dscale, NULL without a scale. */
REFGSS_API int32_t refgss_state_attention_vjp(const refgss_array *q, const refgss_array *k,
                                              const refgss_array *v, const refgss_array *scale,
                                              const refgss_array *dy, const refgss_array *dq,
                                              const refgss_array *dk, const refgss_array *dv,
                                              const refgss_array *dscale);

/* ---- Layers (GSS-LAY) ------------------------------------------------------------------------ */

/* E model width, F gate width, H channels, N states.  Lambda is refgss_gss_lambda of lam_a and lam_b. */
typedef struct refgss_gss_layer_params {
    const refgss_array *norm_weight, *norm_bias;         /* (E) */
    const refgss_array *w_v, *w_u;                       /* (E,F), (E,H) */
    const refgss_array *ssm_norm_weight, *ssm_norm_bias; /* (H), or NULL: no norm in the SSM */
    const refgss_array *lam_a, *lam_b, *c, *d;           /* (N), (N), (H,N,2), (H) */
    const refgss_array *w_uc, *w_o;                      /* (H,F), (F,E) */
    const refgss_array *b_o;                             /* (E), or NULL */
    double eps;
    int32_t imag_is_exp;
} refgss_gss_layer_params;

typedef struct refgss_dss_layer_params {
    const refgss_array *norm_weight, *norm_bias; /* (E) */
    const refgss_array *lam_a, *lam_b, *c, *d;   /* (N), (N), (E,N,2), (E) */
    const refgss_array *log_delta;               /* (E) or (E,2) */
    const refgss_array *w_o, *b_o;               /* (E,E), (E) or NULL */
    refgss_form form;
    double eps;
    int32_t imag_is_exp;
} refgss_dss_layer_params;

/* x (B,L,E), state (B,H,N,2) or NULL -> y (B,L,E), state_out or NULL.  `ssm` is the layer's map,
 * prepared; or NULL, and lam_a, lam_b and c are used.
 * Workspace: 2 H scalars a row of x, and 1152 rows of 2 E + 2 F. */
REFGSS_API int32_t refgss_gss_layer(const refgss_gss_layer_params *params, const refgss_ssm *ssm,
                                    const refgss_array *x, const refgss_array *state,
                                    const refgss_array *y, const refgss_array *state_out);
/* The same with H = E.  Workspace: 3 E scalars a row of x. */
REFGSS_API int32_t refgss_dss_layer(const refgss_dss_layer_params *params, const refgss_ssm *ssm,
                                    const refgss_array *x, const refgss_array *state,
                                    const refgss_array *y, const refgss_array *state_out);

/* What the gradient of a GSS layer needs of its forward pass: all (B,L,.), contiguous. */
typedef struct refgss_gss_layer_kept {
    const refgss_array *v, *u; /* (B,L,F), (B,L,H): h w_v and h w_u, before GELU */
    const refgss_array *y;     /* (B,L,H): the SSM with its skip */
    const refgss_array *uc;    /* (B,L,F): y w_uc */
} refgss_gss_layer_kept;

/* refgss_gss_layer, which also writes `kept`. */
REFGSS_API int32_t refgss_gss_layer_keeping(const refgss_gss_layer_params *params,
                                            const refgss_array *x, const refgss_array *state,
                                            const refgss_array *y, const refgss_array *state_out,
                                            const refgss_gss_layer_kept *kept);

/* dy (B,L,E), dstate (B,H,N,2) or NULL, which means zeros -> dx (B,L,E), dstate0 or NULL, and the
 * arrays of `dparams`: outputs of the parameters' shapes (its eps and imag_is_exp are not read).
 * `kept` is what the forward pass wrote, or NULL: then it is computed anew.
 * Workspace: 2 E + 5 H scalars a row of x, and 1152 rows of E + 3 F; without `kept` 2 (F + H) more
 * scalars a row. */
REFGSS_API int32_t refgss_gss_layer_vjp(const refgss_gss_layer_params *params,
                                        const refgss_array *x, const refgss_array *state,
                                        const refgss_gss_layer_kept *kept, const refgss_array *dy,
                                        const refgss_array *dstate,
                                        const refgss_gss_layer_params *dparams,
                                        const refgss_array *dx, const refgss_array *dstate0);
/* The same with H = E; `form` of dparams is not read.  Workspace: 5 E scalars a row of x. */
REFGSS_API int32_t refgss_dss_layer_vjp(const refgss_dss_layer_params *params,
                                        const refgss_array *x, const refgss_array *state,
                                        const refgss_array *dy, const refgss_array *dstate,
                                        const refgss_dss_layer_params *dparams,
                                        const refgss_array *dx, const refgss_array *dstate0);

/* ---- Language models (GSS-LM) ------------------------------------------------------------------
 *
 * A decoder is a language model, prepared once, and a batch of sequences that it reads together.
 * Everything is float32, but a matrix may be float32, bf16 or int8.  An int8 weight is the number
 * times its scale; a scale, bf16, belongs to 32 weights along the axis that is summed over: w (I,O)
 * has scales (ceil(I/32),O), the embedding (V,E) has (V,ceil(E/32)).  Scales of others are NULL.
 * The parameters are copied, once: the arrays may be freed.
 * Tokens and targets are int64 from 0 to V-1, (B,L), contiguous. */

/* Scales of the matrices of a layer; NULL for those that are not int8. */
typedef struct refgss_gss_layer_scales {
    const refgss_array *w_v, *w_u, *w_uc, *w_o;
} refgss_gss_layer_scales;
typedef struct refgss_dss_layer_scales {
    const refgss_array *w_o;
} refgss_dss_layer_scales;

/* A transformer layer (GSS-HYB-2) of a decoder: E model width, A = heads D, K = kv_heads D, M hidden. */
enum refgss_position {
    REFGSS_POSITION_NONE = 0,
    REFGSS_POSITION_ROPE_HALF = 1, /* as refgss_pairing */
    REFGSS_POSITION_ROPE_INTERLEAVED = 2,
    REFGSS_POSITION_T5 = 3,      /* table (heads,32) */
    REFGSS_POSITION_ALIBI = 4,
    REFGSS_POSITION_LEARNED = 5  /* table (chunk or more,E), under REFGSS_VISIBLE_CHUNK alone */
};
enum refgss_mlp { REFGSS_MLP_GELU = 1, REFGSS_MLP_GELU_TANH = 2, REFGSS_MLP_GLU = 3, REFGSS_MLP_RELU = 4 };
typedef struct refgss_transformer_layer_params {
    const refgss_array *norm1_weight, *norm1_bias; /* (E); the bias NULL: an RMS norm */
    const refgss_array *w_q, *w_k, *w_v, *w_o;     /* (E,A), (E,K), (E,K), (A,E) */
    const refgss_array *b_q, *b_k, *b_v, *b_o;     /* (A), (K), (K), (E), or NULL */
    const refgss_array *table;                     /* of the position, or NULL */
    const refgss_array *norm2_weight, *norm2_bias; /* (E) */
    const refgss_array *w_1, *w_2, *w_3;           /* (E,M), (M,E), (E,M); w_3 NULL unless glu */
    const refgss_array *b_1, *b_2, *b_3;           /* (M), (E), (M), or NULL */
    refgss_window window;
    int64_t heads, kv_heads;
    int32_t position, mlp; /* enum refgss_position, enum refgss_mlp */
    double rope_base, eps;
} refgss_transformer_layer_params;
typedef struct refgss_transformer_layer_scales {
    const refgss_array *w_q, *w_k, *w_v, *w_o, *w_1, *w_2, *w_3;
} refgss_transformer_layer_scales;

/* A block-recurrent layer (GSS-BRT-11) of a decoder: E model width, A = heads D, F hidden, S states; the
 * matrices of the state are those of the names `state.`.  I is the input of a matrix: of the state's MLP
 * 2A under single and E under dual, of gate1 2A, of gate2 F. */
enum refgss_update { REFGSS_UPDATE_SKIP = 1, REFGSS_UPDATE_SINGLE = 2, REFGSS_UPDATE_DUAL = 3 };
typedef struct refgss_block_recurrent_gate {
    const refgss_array *w_f, *b_f, *w_i, *b_i; /* (I,E), (E), (I,E), (E); NULL where the kind has none */
} refgss_block_recurrent_gate;
typedef struct refgss_block_recurrent_part {   /* of the tokens, or of the state */
    const refgss_array *norm1_weight, *norm2_weight; /* (E); of the state norm2 under dual, else NULL */
    const refgss_array *w_q, *w_k, *w_v, *w_q2;      /* (E,A) */
    const refgss_array *scale, *scale2;              /* (heads), or both NULL: keys as they are */
    const refgss_array *w_o, *w_1, *w_2, *w_3;       /* (2A,E), (I,F), (F,E), (I,F); NULL where there is none */
} refgss_block_recurrent_part;
typedef struct refgss_block_recurrent_layer_params {
    refgss_block_recurrent_part tokens, state;
    const refgss_array *table;         /* (heads,32), or NULL: no bias */
    const refgss_array *initial, *ids; /* (S,E) */
    refgss_block_recurrent_gate gate1, gate2;
    int64_t heads, window;
    int32_t gate, update, mlp; /* enum refgss_gate_kind, refgss_update, refgss_mlp */
    double eps;
} refgss_block_recurrent_layer_params;
typedef struct refgss_block_recurrent_part_scales {
    const refgss_array *w_q, *w_k, *w_v, *w_q2, *w_o, *w_1, *w_2, *w_3;
} refgss_block_recurrent_part_scales;
typedef struct refgss_block_recurrent_layer_scales {
    refgss_block_recurrent_part_scales tokens, state;
    const refgss_array *gate1_w_f, *gate1_w_i, *gate2_w_f, *gate2_w_i;
} refgss_block_recurrent_layer_scales;

/* What a kind adds to this header: its number, its parameters and its scales, and which arrays a
 * decoder remembers of it. */
enum refgss_layer_kind {
    REFGSS_LAYER_GSS = 1, /* refgss_gss_layer_params, refgss_gss_layer_scales */
    REFGSS_LAYER_DSS = 2, /* refgss_dss_layer_params, refgss_dss_layer_scales */
    REFGSS_LAYER_TRANSFORMER = 3, /* refgss_transformer_layer_params, refgss_transformer_layer_scales */
    REFGSS_LAYER_BLOCK_RECURRENT = 4 /* refgss_block_recurrent_layer_params, _scales */
};

/* Layers of several kinds and sizes may follow one another; they share E. */
typedef struct refgss_lm_layer {
    int32_t kind;       /* enum refgss_layer_kind */
    const void *params; /* of the kind */
    const void *scales; /* of the kind, or NULL: no matrix is int8 */
} refgss_lm_layer;

typedef struct refgss_lm_params {
    const refgss_array *embedding, *embedding_scale; /* (V,E) */
    const refgss_lm_layer *layers;
    int64_t depth;
    const refgss_array *norm_weight, *norm_bias;     /* (E), or NULL: no final norm */
    double eps;
    const refgss_array *head, *head_scale;           /* (E,V), or NULL: the embedding, transposed */
} refgss_lm_params;

/* The state-space models advance every `block` tokens, as a refgss_stepper does; the inputs since
 * then are `pending`. */
typedef struct refgss_decoder refgss_decoder;
REFGSS_API int32_t refgss_decoder_new(const refgss_lm_params *params, int64_t batch, int64_t block,
                                      refgss_decoder **decoder);
/* Another decoder at the same place of the same sequences.  Weights are shared, also afterwards. */
REFGSS_API int32_t refgss_decoder_fork(const refgss_decoder *decoder, refgss_decoder **fork);
/* Another decoder, of `batch` sequences at their beginning.  Weights are shared, also afterwards. */
REFGSS_API int32_t refgss_decoder_fresh(const refgss_decoder *decoder, int64_t batch,
                                        refgss_decoder **fresh);
REFGSS_API void refgss_decoder_free(refgss_decoder *decoder);
/* tokens (B,1) -> logits (B,V). */
REFGSS_API int32_t refgss_decoder_step(refgss_decoder *decoder, const int64_t *tokens,
                                       const refgss_array *logits);
/* tokens (B,L) -> logits (B,L,V), or of the last position, (B,V), for L > 0.  The memory needed
 * beyond that does not grow with L. */
REFGSS_API int32_t refgss_decoder_prefill(refgss_decoder *decoder, const int64_t *tokens,
                                          int64_t length, const refgss_array *logits);
/* tokens, targets (B,L) -> -log p(target), in nats, (B,L) of float64. */
REFGSS_API int32_t refgss_decoder_loss(refgss_decoder *decoder, const int64_t *tokens,
                                       const int64_t *targets, int64_t length,
                                       const refgss_array *loss);
/* How many inputs are pending, below `block`; and the tokens of each sequence so far.  These two may
 * be asked at any time: during another call they are those before it. */
REFGSS_API int64_t refgss_decoder_pending(const refgss_decoder *decoder);
REFGSS_API int64_t refgss_decoder_position(const refgss_decoder *decoder);

/* What a decoder remembers is a list of float32 arrays, those of the first layer first:
 *
 *   kind       state                   snapshot
 *   gss, dss   x (B,H,N,2)             x (B,H,N,2), pending (B,n,H)
 *   transformer  k, v (B,S,G,D), t (B,2)  the same; t, a number of tokens, as t div 2^20 and t mod 2^20
 *   block-recurrent  s (B,S,E), k, v (B,2W,H,D), t (B,2)  the same
 *
 * A state is that after all tokens.  A snapshot of a state-space model is its state at the last advance,
 * and the n inputs since then; n is the same for all layers. */
enum refgss_saved { REFGSS_STATE = 1, REFGSS_SNAPSHOT = 2 };

/* How many arrays they are now, and the dtype, rank, shape and contiguous strides of the first `room`
 * of them; their data is NULL.  With room = 0, arrays may be NULL. */
REFGSS_API int32_t refgss_decoder_layout(const refgss_decoder *decoder, int32_t what,
                                         refgss_array *arrays, int64_t room, int64_t *count);
/* Writes the arrays. */
REFGSS_API int32_t refgss_decoder_save(const refgss_decoder *decoder, int32_t what,
                                       const refgss_array *arrays, int64_t count);
/* Goes where they were saved, on a decoder of the same parameters, batch and block: after a snapshot,
 * what follows is the same bit by bit. */
REFGSS_API int32_t refgss_decoder_restore(refgss_decoder *decoder, int32_t what,
                                          const refgss_array *arrays, int64_t count,
                                          int64_t position);

#ifdef __cplusplus
}
#endif

#endif
