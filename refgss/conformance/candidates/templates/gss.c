/* A candidate in C99 without dependencies: the core ops behind include/refgss.h.
 *
 *     include=$(python -c "import refgss; print(refgss.get_include())")
 *     cc -O2 -shared -fPIC -I"$include" gss.c -o libgss.so -lm
 *     refgss check --candidate lib:./libgss.so
 *
 * Everything is computed in binary64 by the definitions and rounded once, when it is stored.
 */
#include <complex.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "refgss.h"

/* ---- Errors and arrays ------------------------------------------------------------------------ */

static _Thread_local char sentence[160] = "";

const char *refgss_last_error(void) { return sentence; }
int32_t refgss_abi_version(void) { return REFGSS_ABI_VERSION; }

static int32_t refuse(const char *op, const char *why) {
    snprintf(sentence, sizeof sentence, "%s: %s", op, why);
    return REFGSS_ERROR_VALUE;
}

static double get(const refgss_array *a, int64_t i, int64_t j, int64_t k, int64_t m) {
    const int64_t at[4] = {i, j, k, m};
    int64_t offset = 0;
    for (int axis = 0; axis < a->rank; axis++) offset += at[axis] * a->stride[axis];
    return a->dtype == REFGSS_F32 ? ((const float *)a->data)[offset] : ((const double *)a->data)[offset];
}

static void set(const refgss_array *a, int64_t i, int64_t j, int64_t k, int64_t m, double x) {
    const int64_t at[4] = {i, j, k, m};
    int64_t offset = 0;
    for (int axis = 0; axis < a->rank; axis++) offset += at[axis] * a->stride[axis];
    if (a->dtype == REFGSS_F32) ((float *)a->data)[offset] = (float)x;
    else ((double *)a->data)[offset] = x;
}

static int is_shape(const refgss_array *a, int rank, int64_t i, int64_t j, int64_t k, int64_t m) {
    const int64_t want[4] = {i, j, k, m};
    if (a->rank != rank) return 0;
    for (int axis = 0; axis < rank; axis++)
        if (a->shape[axis] != want[axis]) return 0;
    return 1;
}

/* ---- Modes: from (lam, delta) to A and B (chapter 2) ------------------------------------------ */

static double complex mode(const refgss_array *lam, int64_t n) {
    return get(lam, n, 0, 0, 0) + I * get(lam, n, 1, 0, 0);
}

/* z = delta lam; delta is one step, a step for each channel, or one for Re and one for Im. */
static double complex exponent(const refgss_array *lam, const refgss_array *delta, int64_t h, int64_t n) {
    const double complex l = mode(lam, n);
    const double re = get(delta, h, 0, 0, 0);
    const double im = delta->rank == 2 ? get(delta, h, 1, 0, 0) : re;
    return re * creal(l) + I * (im * cimag(l));
}

/* (e^z - 1)/z without cancellation: cos b - 1 = -2 sin(b/2)^2. */
static double complex phi(double complex z) {
    if (z == 0) return 1;
    const double a = creal(z), b = cimag(z), s = sin(b / 2);
    return (expm1(a) * cos(b) - 2 * s * s + I * (exp(a) * sin(b))) / z;
}

/* A^l for real l; under dss-softmax l may be negative. */
static double complex power(double complex z, double l, const refgss_form *form) {
    if (l == 0) return 1;
    return cexp(l * (form->method == REFGSS_BILINEAR ? clog((1 + z / 2) / (1 - z / 2)) : z));
}

static int is_softmax(const refgss_form *form) {
    return form->method == REFGSS_DSS_SOFTMAX || form->method == REFGSS_DSS_SOFTMAX_SHIFTED ||
           form->method == REFGSS_DSS_SOFTMAX_SHIFTED_SUM;
}

/* What is taken off every l, so that the largest term of the softmax is 1. */
static double shift(double complex z, const refgss_form *form) {
    return is_softmax(form) && creal(z) > 0 ? (double)(form->length - 1) : 0;
}

static double complex shifted_reciprocal(double complex x, const refgss_form *form) {
    return conj(x) / (creal(x) * creal(x) + cimag(x) * cimag(x) + form->eps);
}

static double complex input_weight(const refgss_array *lam, const refgss_array *delta, int64_t h,
                                   int64_t n, const refgss_form *form) {
    const double complex l = mode(lam, n), z = exponent(lam, delta, h, n);
    if (form->method == REFGSS_ZOH) return get(delta, h, 0, 0, 0) * phi(z);
    if (form->method == REFGSS_BILINEAR) return get(delta, h, 0, 0, 0) / (1 - z / 2);
    if (form->method == REFGSS_DSS_EXP)
        return z * phi(z) * conj(l) / fmax(creal(l) * creal(l) + cimag(l) * cimag(l), form->eps);
    if (form->method == REFGSS_DSS_EXP_SHIFTED) return z * phi(z) * shifted_reciprocal(l, form);
    if (form->method == REFGSS_DSS_SOFTMAX_SHIFTED) {
        const double complex f = creal(z) > 0 ? -z : z, all = f * (double)form->length;
        return f * phi(f) * shifted_reciprocal(all * phi(all) * l, form);
    }
    double complex sum = 0;
    for (int64_t r = 0; r < form->length; r++) sum += power(z, (double)r - shift(z, form), form);
    if (form->method == REFGSS_DSS_SOFTMAX_SHIFTED_SUM) return shifted_reciprocal(sum, form) / l;
    return 1 / (l * sum);
}

/* s C B: the weight of a mode in the output. */
static double complex weight(const refgss_array *lam, const refgss_array *c, const refgss_array *delta,
                             int64_t h, int64_t n, const refgss_form *form) {
    const double complex ch = get(c, h, n, 0, 0) + I * get(c, h, n, 1, 0);
    return (form->pairs ? 2 : 1) * ch * input_weight(lam, delta, h, n, form);
}

/* NULL, or why the modes are refused.  `unstable` allows Re lam > 0, in a dss-softmax kernel. */
static const char *wrong_modes(const refgss_array *lam, const refgss_array *c,
                               const refgss_array *delta, const refgss_form *form, int unstable) {
    const int dss = form->method >= REFGSS_DSS_EXP;
    const int64_t N = lam->shape[0], H = c ? c->shape[0] : delta->shape[0];
    if (lam->rank != 2 || lam->shape[1] != 2) return "lam must be (N,2)";
    if (c && !is_shape(c, 3, c->shape[0], N, 2, 0)) return "c must be (H,N,2)";
    if (delta->rank > 2 || (delta->rank == 2 && !(dss && delta->shape[1] == 2)))
        return "delta must be a scalar, (H) or, for the dss methods, (H,2)";
    if (delta->rank && delta->shape[0] != H) return "delta must have the channels of c";
    for (int64_t n = 0; n < N; n++) {
        const double complex l = mode(lam, n);
        if (!isfinite(creal(l)) || !isfinite(cimag(l))) return "lam must be finite";
        if (creal(l) > 0 && !unstable) return "Re lam must not be positive";
        if (l == 0 && is_softmax(form)) return "lam must not be 0 under dss-softmax";
    }
    for (int64_t h = 0; h < (delta->rank ? H : 1); h++)
        for (int64_t part = 0; part < (delta->rank == 2 ? 2 : 1); part++) {
            const double step = get(delta, h, part, 0, 0);
            if (!(step > 0) || !isfinite(step)) return "delta must be positive and finite";
        }
    return NULL;
}

int32_t refgss_gss_lambda(const refgss_array *a, const refgss_array *b, int32_t imag_is_exp,
                          const refgss_array *lam) {
    const int64_t N = a->shape[0];
    if (a->rank != 1 || !is_shape(b, 1, N, 0, 0, 0)) return refuse("gss_lambda", "a and b must be (N)");
    for (int64_t n = 0; n < N; n++) {
        const double im = get(b, n, 0, 0, 0);
        set(lam, n, 0, 0, 0, -exp(get(a, n, 0, 0, 0)));
        set(lam, n, 1, 0, 0, imag_is_exp ? exp(im) : im);
    }
    return REFGSS_OK;
}

int32_t refgss_discretize(const refgss_array *lam, const refgss_array *delta, const refgss_form *form,
                          const refgss_array *abar, const refgss_array *bbar) {
    const char *wrong = wrong_modes(lam, NULL, delta, form, 0);
    if (wrong) return refuse("discretize", wrong);
    for (int64_t h = 0; h < (delta->rank ? delta->shape[0] : 1); h++)
        for (int64_t n = 0; n < lam->shape[0]; n++) {
            const double complex A = power(exponent(lam, delta, h, n), 1, form);
            const double complex B = input_weight(lam, delta, h, n, form);
            for (int part = 0; part < 2; part++) { /* (N,2), or (H,N,2) where delta has channels */
                const int64_t at[3] = {delta->rank ? h : n, delta->rank ? n : part, part};
                set(abar, at[0], at[1], at[2], 0, part ? cimag(A) : creal(A));
                set(bbar, at[0], at[1], at[2], 0, part ? cimag(B) : creal(B));
            }
        }
    return REFGSS_OK;
}

/* ---- Kernel, convolution, recurrence (chapters 3 to 5) ---------------------------------------- */

typedef struct {
    double complex z, A, w, x; /* exponent, transition, weight in the output, state */
} Mode;

/* The modes of channel h, their states zero. */
static void channel(const refgss_array *lam, const refgss_array *c, const refgss_array *delta,
                    int64_t h, const refgss_form *form, Mode *modes) {
    for (int64_t n = 0; n < lam->shape[0]; n++) {
        const double complex z = exponent(lam, delta, h, n);
        modes[n] = (Mode){z, power(z, 1, form), weight(lam, c, delta, h, n, form), 0};
    }
}

/* N + 1, so that no mode at all is no failure. */
static Mode *room(int64_t N) { return malloc((size_t)(N + 1) * sizeof(Mode)); }

/* k[h,l] = Re sum over n of w A^l */
int32_t refgss_ssm_kernel(const refgss_array *lam, const refgss_array *c, const refgss_array *delta,
                          const refgss_form *form, const refgss_array *k) {
    const int softmax = is_softmax(form);
    const char *wrong = wrong_modes(lam, c, delta, form, softmax);
    if (wrong) return refuse("ssm_kernel", wrong);
    const int64_t H = c->shape[0], N = c->shape[1], L = k->shape[1];
    if (!is_shape(k, 2, H, L, 0, 0)) return refuse("ssm_kernel", "k must be (H,L)");
    if (softmax && L > form->length) return refuse("ssm_kernel", "k is longer than form.length");
    Mode *modes = room(N);
    if (!modes) return REFGSS_ERROR_MEMORY;
    for (int64_t h = 0; h < H; h++) {
        channel(lam, c, delta, h, form, modes);
        for (int64_t l = 0; l < L; l++) {
            double sum = 0;
            for (const Mode *m = modes; m < modes + N; m++)
                sum += creal(m->w * power(m->z, (double)l - shift(m->z, form), form));
            set(k, h, l, 0, 0, sum);
        }
    }
    free(modes);
    return REFGSS_OK;
}

/* y[b,l,h] = sum over j of k[h,j] u[b,l-j,h] */
int32_t refgss_causal_conv(const refgss_array *u, const refgss_array *k, const refgss_array *y) {
    const int64_t B = u->shape[0], L = u->shape[1], H = u->shape[2];
    if (u->rank != 3 || k->rank != 2 || k->shape[0] != H)
        return refuse("causal_conv", "u must be (B,L,H) and k (H,Lk)");
    for (int64_t b = 0; b < B; b++)
        for (int64_t l = 0; l < L; l++)
            for (int64_t h = 0; h < H; h++) {
                double sum = 0;
                for (int64_t j = 0; j <= l && j < k->shape[1]; j++)
                    sum += get(k, h, j, 0, 0) * get(u, b, l - j, h, 0);
                set(y, b, l, h, 0, sum);
            }
    return REFGSS_OK;
}

/* x_l = A x_(l-1) + u_l, y_l = Re sum over n of w x_l.  Without a time axis u is (B,H): one step. */
static int32_t recurrence(const char *op, int time, const refgss_array *u, const refgss_array *lam,
                          const refgss_array *c, const refgss_array *state,
                          const refgss_array *delta, const refgss_form *form,
                          const refgss_array *y, const refgss_array *state_out) {
    const char *wrong = wrong_modes(lam, c, delta, form, 0);
    if (wrong) return refuse(op, wrong);
    const int64_t B = u->shape[0], L = time ? u->shape[1] : 1, H = c->shape[0], N = c->shape[1];
    if (u->rank != 2 + time || u->shape[1 + time] != H)
        return refuse(op, time ? "u must be (B,L,H)" : "u must be (B,H)");
    if (state && !is_shape(state, 4, B, H, N, 2)) return refuse(op, "state must be (B,H,N,2)");
    if (is_softmax(form) && L > form->length)
        return refuse(op, "u is longer than form.length");
    Mode *modes = room(N);
    if (!modes) return REFGSS_ERROR_MEMORY;
    for (int64_t h = 0; h < H; h++) {
        channel(lam, c, delta, h, form, modes);
        for (int64_t b = 0; b < B; b++) {
            for (int64_t n = 0; n < N; n++)
                modes[n].x = state ? get(state, b, h, n, 0) + I * get(state, b, h, n, 1) : 0;
            for (int64_t l = 0; l < L; l++) {
                double sum = 0;
                for (Mode *m = modes; m < modes + N; m++) {
                    m->x = m->A * m->x + get(u, b, time ? l : h, h, 0);
                    sum += creal(m->w * m->x);
                }
                set(y, b, time ? l : h, h, 0, sum);
            }
            for (int64_t n = 0; n < N; n++) {
                set(state_out, b, h, n, 0, creal(modes[n].x));
                set(state_out, b, h, n, 1, cimag(modes[n].x));
            }
        }
    }
    free(modes);
    return REFGSS_OK;
}

int32_t refgss_ssm_scan(const refgss_array *u, const refgss_array *lam, const refgss_array *c,
                        const refgss_array *state, const refgss_array *delta,
                        const refgss_form *form, const refgss_array *y,
                        const refgss_array *state_out) {
    return recurrence("ssm_scan", 1, u, lam, c, state, delta, form, y, state_out);
}

int32_t refgss_ssm_step(const refgss_array *u, const refgss_array *lam, const refgss_array *c,
                        const refgss_array *state, const refgss_array *delta,
                        const refgss_form *form, const refgss_array *y,
                        const refgss_array *state_out) {
    return recurrence("ssm_step", 0, u, lam, c, state, delta, form, y, state_out);
}
