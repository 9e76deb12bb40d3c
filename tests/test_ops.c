/* Every op of every backend against the reference, on the same inputs: (op, rows 0, 1, 17, 97, widths, dtype).
 *
 * Tolerances. u = eps(f32) = 2^-23 is the spacing of f32 at 1, twice the rounding error. A dot product of f32 sums gets
 * 4 u |a| |b|; a sum of n positive terms is off by at most n u / 2 of itself in any order; an output rounded to its dtype
 * adds eps(out) |ref|. Each case says what else it needs. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/backends.h"
#include "tests/op_util.h"

static const double U = 0x1p-23;

/* A backend under test and the reference, opened with the same dtype. */
struct pair {
    struct backend got, want;
    struct rnd rnd;
    char what[64]; /* "cpu-avx2 bf16 97x17" for messages */
};

/* The same buffer on both. */
struct duo {
    struct buf got, want;
};

static struct duo duo_make(const struct pair *p, enum dtype dtype, size_t n, const double *values) {
    return (struct duo){buf_make(&p->got, dtype, n, values), buf_make(&p->want, dtype, n, values)};
}

static struct duo duo_bytes(const struct pair *p, size_t n_bytes, const void *bytes) {
    return (struct duo){buf_bytes(&p->got, n_bytes, bytes), buf_bytes(&p->want, n_bytes, bytes)};
}

/* The device address on side 0, the backend under test, or side 1, the reference. */
static void *on(const struct duo *d, int side) {
    return side ? d->want.ptr : d->got.ptr;
}

static const struct backend *side_of(const struct pair *p, int side) {
    return side ? &p->want : &p->got;
}

static void duo_free(struct duo *d) {
    buf_free(&d->got);
    buf_free(&d->want);
}

/* Compares within tol + relative * |reference|, and frees; tol NULL: 0. */
static void duo_finish(const struct pair *p, const char *op, struct duo *d, const double *tol, double relative) {
    char what[128];
    double *got = zalloc(d->got.n, sizeof *got), *want = zalloc(d->got.n, sizeof *want);
    double *limit = zalloc(d->got.n, sizeof *limit);
    snprintf(what, sizeof what, "%s, %s", op, p->what);
    buf_read(&d->got, got);
    buf_read(&d->want, want);
    for (size_t i = 0; i < d->got.n; i++)
        limit[i] = (tol ? tol[i] : 0) + (isfinite(want[i]) ? relative * fabs(want[i]) : 0);
    compare(what, got, want, limit, d->got.n);
    free(got), free(want), free(limit);
    duo_free(d);
}

static double *random_values(struct pair *p, size_t n, double lo, double hi, enum dtype dtype) {
    double *x = zalloc(n, sizeof *x);
    rnd_fill(&p->rnd, x, n, lo, hi);
    round_all(x, n, dtype);
    return x;
}

static double norm(const double *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sqrt(sum);
}

/* Runs a case on every backend that opens, in f32 and bf16, for all numbers of rows and two widths each. */
static void for_all(void (*run)(struct pair *p, size_t n_rows, size_t n_cols)) {
    static const size_t rows[] = {0, 1, 17, 97}, cols[] = {1, 17, 64, 97};
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    const struct ops *list[MAX_BACKENDS];
    int n = backends_under_test(list);
    for (int b = 0; b < n; b++)
        for (int d = 0; d < 2; d++) {
            if (!backend_opens(list[b], dtypes[d]))
                continue;
            struct pair p = {backend_open(list[b], dtypes[d]), backend_open(ops_ref(), dtypes[d]), {.seed = 11}, ""};
            for (int r = 0; r < 4; r++)
                for (int c = 0; c < 4; c++) {
                    snprintf(p.what, sizeof p.what, "%s %s %zux%zu", list[b]->name, dtype_name(dtypes[d]), rows[r], cols[c]);
                    run(&p, rows[r], cols[c]);
                }
            backend_close(&p.got);
            backend_close(&p.want);
        }
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

/* One infinity and one NaN among many numbers. */
static void add_specials(double *x, size_t n) {
    if (n >= 64) {
        x[n / 2] = INFINITY;
        x[n - 1] = NAN;
    }
}

static void case_add(struct pair *p, size_t n_rows, size_t n_cols) {
    size_t n = n_rows * n_cols;
    double *x = random_values(p, n, -3, 3, DTYPE_F32), *y = random_values(p, n, -1e-3, 1e-3, DTYPE_F32);
    add_specials(x, n);
    struct duo xd = duo_make(p, p->got.real, n, x), yd = duo_make(p, p->got.real, n, y);
    for (int side = 0; side < 2; side++)
        side_of(p, side)->ops->add(side_of(p, side)->dev, on(&xd, side), on(&yd, side), n);
    duo_finish(p, "add", &xd, NULL, 0); /* one rounding on both sides */
    duo_free(&yd);
    free(x), free(y);
}

/* The sum of squares is positive: n u / 2 of itself, half of that after the root; four more operations. */
static void case_rmsnorm(struct pair *p, size_t n_rows, size_t n_cols) {
    for (int variant = 0; variant < 8; variant++) {
        bool with_add = variant & 1, in_place = !with_add && (variant & 2), with_f32 = in_place || (variant & 4);
        size_t n_groups = variant & 4 ? 3 : 1, ld = n_groups * n_cols + (variant & 2 ? 5 : 0), n = n_rows * ld;
        size_t n_act = n_rows * n_groups * n_cols;
        double *x = random_values(p, n, -3, 3, DTYPE_F32), *add = random_values(p, n, -3, 3, DTYPE_F32);
        double *w = random_values(p, n_cols, -1, 1, DTYPE_F32);
        struct duo xd = duo_make(p, p->got.real, n, x), ad = duo_make(p, p->got.real, n, add);
        struct duo wd = duo_make(p, p->got.real, n_cols, w), fd = duo_make(p, p->got.real, n, x);
        struct duo actd = duo_make(p, p->got.act, n_act, NULL);
        for (int side = 0; side < 2; side++) {
            const struct backend *b = side_of(p, side);
            b->ops->rmsnorm(b->dev, &(struct rmsnorm_args){
                .x = on(&xd, side), .add = with_add ? on(&ad, side) : NULL, .weight = on(&wd, side), .eps = 1e-5f,
                .plus_one = variant & 2, .n_rows = n_rows, .n_groups = n_groups, .n_cols = n_cols, .ld_x = ld,
                .out_f32 = in_place ? on(&xd, side) : with_f32 ? on(&fd, side) : NULL,
                .out_act = in_place ? NULL : on(&actd, side)});
        }
        double relative = ((double)n_cols / 4 + 4) * U;
        duo_finish(p, "rmsnorm x", &xd, NULL, in_place ? relative : 0);
        duo_finish(p, "rmsnorm out_f32", &fd, NULL, relative);
        duo_finish(p, "rmsnorm out_act", &actd, NULL, relative + eps_of(p->got.act));
        duo_free(&ad), duo_free(&wd);
        free(x), free(add), free(w);
    }
}

/* Two products and a sum. */
static void case_rope(struct pair *p, size_t n_rows, size_t n_cols) {
    size_t dim = 2 * n_cols, n_heads = 3, ld = n_heads * dim + 1, n_pos = 50, n = n_rows * ld;
    double *x = random_values(p, n, -3, 3, DTYPE_F32), *table = random_values(p, n_pos * dim, -1, 1, DTYPE_F32);
    double *tol = zalloc(n, sizeof *tol);
    int32_t *pos = zalloc(n_rows, sizeof *pos);
    for (size_t i = 0; i < n_rows; i++)
        pos[i] = rnd_int(&p->rnd, 0, (int)n_pos - 1);
    for (size_t i = 0; i < n; i++)
        tol[i] = 2 * U * 6;
    struct duo xd = duo_make(p, p->got.real, n, x), td = duo_make(p, p->got.real, n_pos * dim, table);
    struct duo pd = duo_bytes(p, n_rows * sizeof *pos, pos);
    for (int side = 0; side < 2; side++) {
        const struct backend *b = side_of(p, side);
        b->ops->rope(b->dev, &(struct rope_args){.x = on(&xd, side), .pos = on(&pd, side), .table = on(&td, side),
                                                .n_rows = n_rows, .n_heads = n_heads, .head_dim = dim, .ld_x = ld});
    }
    duo_finish(p, "rope", &xd, tol, 0);
    duo_free(&td), duo_free(&pd);
    free(x), free(table), free(tol), free(pos);
}

/* exp is within 2 ulp and the rest are four roundings: 8 u of the result. 1 + tanh and 1 + erf cancel for negative
 * arguments, so their error is one of |gate * up|. */
static void case_act_mul(struct pair *p, size_t n_rows, size_t n_cols) {
    static const enum act acts[] = {ACT_NONE, ACT_SILU, ACT_GELU, ACT_GELU_TANH};
    size_t n = n_rows * n_cols;
    for (int k = 0; k < 4; k++) {
        double *x = random_values(p, 2 * n, -12, 12, DTYPE_F32), *tol = zalloc(n, sizeof *tol);
        for (size_t i = 0; n_cols > 5 && i < n_rows; i++) {
            static const double special[] = {0, -0.0, -200, 200, 1e-30, INFINITY};
            memcpy(x + i * 2 * n_cols, special, 6 * sizeof *x);
        }
        for (size_t i = 0; i < n; i++) {
            const double *gate = x + i / n_cols * 2 * n_cols + i % n_cols;
            double product = isfinite(gate[0]) ? gate[0] * gate[n_cols] : 0;
            tol[i] = (acts[k] == ACT_GELU || acts[k] == ACT_GELU_TANH ? 8 * U * fabs(product) : 0) + (double)FLT_MIN;
        }
        struct duo xd = duo_make(p, p->got.real, 2 * n, x), od = duo_make(p, p->got.act, n, NULL);
        for (int side = 0; side < 2; side++) {
            const struct backend *b = side_of(p, side);
            b->ops->act_mul(b->dev, on(&xd, side), acts[k], n_rows, n_cols, on(&od, side));
        }
        duo_finish(p, k == 0 ? "act none" : k == 1 ? "silu" : k == 2 ? "gelu" : "gelu_tanh", &od, tol,
                   8 * U + eps_of(p->got.act));
        duo_free(&xd);
        free(x), free(tol);
    }
}

static void case_gather(struct pair *p, size_t n_rows, size_t n_cols) {
    double *x = random_values(p, 31 * n_cols, -3, 3, p->got.act);
    int32_t *index = zalloc(n_rows, sizeof *index);
    for (size_t i = 0; i < n_rows; i++)
        index[i] = rnd_int(&p->rnd, 0, 30);
    struct duo xd = duo_make(p, p->got.act, 31 * n_cols, x), id = duo_bytes(p, n_rows * sizeof *index, index);
    struct duo od = duo_make(p, p->got.act, n_rows * n_cols, NULL);
    for (int side = 0; side < 2; side++) {
        const struct backend *b = side_of(p, side);
        b->ops->gather(b->dev, on(&xd, side), on(&id, side), n_rows, n_cols, on(&od, side));
    }
    duo_finish(p, "gather", &od, NULL, 0);
    duo_free(&xd), duo_free(&id);
    free(x), free(index);
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

static const enum dtype stored_dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

/* The same stored matrix prepared on both sides, from odd addresses. */
struct weights {
    struct weight *got, *want;
    char *stored[2];
    double *values; /* (n_out, n_in) as the op uses them */
};

static struct weight *prepare(const struct backend *b, const struct host_matrix *m, enum weight_use use, bool *borrowed) {
    struct weight *w = NULL;
    struct err err = {0};
    if (b->ops->weight_prepare(b->dev, m, use, &w, borrowed, &err))
        fail_msg("%s: weight_prepare: %s", b->ops->name, err.message);
    return w;
}

/* Numbers in +-1 of any stored dtype; dtype_store() does not know how to write f16. */
static void store(char *at, enum dtype dtype, size_t i, double value) {
    uint16_t bits = (uint16_t)((value < 0 ? 0x8000 : 0) | (uint16_t)(fabs(value) * 0x3BFF)); /* 0x3C00 is 1 */
    if (dtype == DTYPE_F16)
        memcpy(at + 2 * i, &bits, 2);
    else
        dtype_store(at, dtype, i, value);
}

static struct weights weights_make(struct pair *p, enum dtype dtype, size_t n_out, size_t n_in, enum weight_use use) {
    size_t n = n_out * n_in, n_bytes = n * dtype_size(dtype);
    bool borrowed[2];
    struct weights w = {.stored = {(char *)zalloc(n_bytes + 1, 1) + 1, (char *)zalloc(n_bytes + 1, 1) + 1},
                        .values = zalloc(n, sizeof *w.values)};
    for (size_t i = 0; i < n; i++) {
        store(w.stored[0], dtype, i, rnd_real(&p->rnd, -1, 1));
        w.values[i] = dtype_load(w.stored[0], dtype, i);
    }
    memcpy(w.stored[1], w.stored[0], n_bytes);
    w.got = prepare(&p->got, &(struct host_matrix){w.stored[0], dtype, n_out, n_in}, use, &borrowed[0]);
    w.want = prepare(&p->want, &(struct host_matrix){w.stored[1], dtype, n_out, n_in}, use, &borrowed[1]);
    for (int side = 0; side < 2; side++)
        if (!borrowed[side]) /* then the caller may drop its memory */
            memset(w.stored[side], 0xFF, n_bytes);
    if (use == WEIGHT_COMPUTE)
        round_all(w.values, n, p->got.act);
    return w;
}

static const struct weight *weight_on(const struct weights *w, int side) {
    return side ? w->want : w->got;
}

static void weights_free(struct pair *p, struct weights *w) {
    p->got.ops->weight_free(p->got.dev, w->got);
    p->want.ops->weight_free(p->want.dev, w->want);
    free(w->stored[0] - 1);
    free(w->stored[1] - 1);
    free(w->values);
}

static void case_embed(struct pair *p, size_t n_rows, size_t n_cols) {
    size_t vocab = 29, n = n_rows * n_cols;
    for (int k = 0; k < 3; k++) {
        struct weights w = weights_make(p, stored_dtypes[k], vocab, n_cols, WEIGHT_COMPUTE);
        int32_t *ids = zalloc(n_rows, sizeof *ids);
        for (size_t i = 0; i < n_rows; i++)
            ids[i] = rnd_int(&p->rnd, 0, (int)vocab - 1);
        struct duo id = duo_bytes(p, n_rows * sizeof *ids, ids), out = duo_make(p, p->got.real, n, NULL);
        for (int side = 0; side < 2; side++) {
            const struct backend *b = side_of(p, side);
            b->ops->embed(b->dev, weight_on(&w, side), on(&id, side), n_rows, 5.5f, on(&out, side));
        }
        duo_finish(p, "embed", &out, NULL, 0); /* one rounding on both sides */
        duo_free(&id);
        weights_free(p, &w);
        free(ids);
    }
}

/* tol (n_rows, ld) of x w^T: 4 u |x| |w|, and the rounding of the output. */
static void dot_tolerance(const double *x, const double *w, const double *bias, size_t n_rows, size_t n_in, size_t n_out,
                          size_t ld, double *tol) {
    for (size_t r = 0; r < n_rows; r++)
        for (size_t o = 0; o < n_out; o++) {
            double size = norm(x + r * n_in, n_in) * norm(w + o * n_in, n_in);
            tol[r * ld + o] = 4 * U * size + U * (size + (bias ? fabs(bias[o]) : 0));
        }
}

static void run_linear(struct pair *p, enum dtype stored, size_t n_rows, size_t n_in, size_t n_out, bool with_bias) {
    size_t ld = n_out + 3;
    struct weights w = weights_make(p, stored, n_out, n_in, WEIGHT_COMPUTE);
    double *x = random_values(p, n_rows * n_in, -3, 3, p->got.act), *bias = random_values(p, n_out, -2, 2, DTYPE_F32);
    double *tol = zalloc(n_rows * ld, sizeof *tol);
    dot_tolerance(x, w.values, with_bias ? bias : NULL, n_rows, n_in, n_out, ld, tol);
    if (n_rows > 2) { /* one infinity in a row, one NaN in another */
        x[n_in - 1] = INFINITY;
        x[n_in] = NAN;
    }
    struct duo xd = duo_make(p, p->got.act, n_rows * n_in, x), bd = duo_make(p, p->got.real, n_out, bias);
    struct duo yd = duo_make(p, p->got.real, n_rows * ld, NULL);
    for (int side = 0; side < 2; side++) {
        const struct backend *b = side_of(p, side);
        b->ops->linear(b->dev, &(struct linear_args){weight_on(&w, side), on(&xd, side), with_bias ? on(&bd, side) : NULL,
                                                    on(&yd, side), n_rows, ld});
    }
    duo_finish(p, "linear", &yd, tol, 0);
    duo_free(&xd), duo_free(&bd);
    weights_free(p, &w);
    free(x), free(bias), free(tol);
}

static void case_linear(struct pair *p, size_t n_rows, size_t n_cols) {
    for (int k = 0; k < 3; k++) {
        run_linear(p, stored_dtypes[k], n_rows, n_cols, 1, true);
        run_linear(p, stored_dtypes[k], n_rows, n_cols, 33, k & 1);
        run_linear(p, stored_dtypes[k], n_rows, 576, n_cols, !(k & 1));
    }
}

/* Soft-capping has slope 1 at most; tanh is within 4 u of itself. */
static void case_logits(struct pair *p, size_t n_rows, size_t n_cols) {
    size_t vocab = 131;
    for (int k = 0; k < 4; k++) {
        float softcap = k & 1 ? 2.5f : 0;
        struct weights w = weights_make(p, stored_dtypes[k % 3], vocab, n_cols, WEIGHT_COMPUTE);
        double *x = random_values(p, n_rows * n_cols, -2, 2, p->got.act), *tol = zalloc(n_rows * vocab, sizeof *tol);
        dot_tolerance(x, w.values, NULL, n_rows, n_cols, vocab, vocab, tol);
        for (size_t i = 0; i < n_rows * vocab; i++)
            tol[i] += 4 * U * (double)softcap;
        struct duo xd = duo_make(p, p->got.act, n_rows * n_cols, x), od = duo_make(p, p->got.real, n_rows * vocab, NULL);
        for (int side = 0; side < 2; side++) {
            const struct backend *b = side_of(p, side);
            b->ops->logits(b->dev, weight_on(&w, side), on(&xd, side), softcap, n_rows, on(&od, side));
        }
        duo_finish(p, "logits", &od, tol, 0);
        duo_free(&xd);
        weights_free(p, &w);
        free(x), free(tol);
    }
}

/* Twice the largest error of a logit (log of the sum, target), n u / 2 for the positive sum, 4 u for exp, the roundings
 * of the log and the difference. */
static void case_nll(struct pair *p, size_t n_rows, size_t n_cols) {
    size_t vocab = n_rows == 97 ? 5003 : 131; /* several tiles */
    for (int k = 0; k < 2; k++) {
        float softcap = k ? 2.5f : 0;
        struct weights w = weights_make(p, stored_dtypes[k], vocab, n_cols, WEIGHT_COMPUTE);
        double *x = random_values(p, n_rows * n_cols, -2, 2, p->got.act), *tol = zalloc(n_rows, sizeof *tol);
        int32_t *target = zalloc(n_rows, sizeof *target);
        for (size_t r = 0; r < n_rows; r++) {
            double size = norm(x + r * n_cols, n_cols) * sqrt((double)n_cols); /* |w| is below sqrt(n) */
            tol[r] = 2 * (4 * U * size + 4 * U * (double)softcap) + ((double)vocab / 2 + 4) * U + 4 * U * (size + 10);
            target[r] = r % 5 == 4 ? -1 : rnd_int(&p->rnd, 0, (int)vocab - 1);
        }
        if (n_rows > 2)
            x[2 * n_cols] = NAN;
        struct duo xd = duo_make(p, p->got.act, n_rows * n_cols, x), td = duo_bytes(p, n_rows * sizeof *target, target);
        struct duo nd = duo_make(p, p->got.real, n_rows, NULL);
        for (int side = 0; side < 2; side++) {
            const struct backend *b = side_of(p, side);
            b->ops->nll(b->dev, &(struct nll_args){weight_on(&w, side), on(&xd, side), on(&td, side), softcap, n_rows,
                                                  on(&nd, side)});
        }
        duo_finish(p, "nll", &nd, tol, 0);
        duo_free(&xd), duo_free(&td);
        weights_free(p, &w);
        free(x), free(target), free(tol);
    }
}

/* ---- scores and gates -------------------------------------------------------------------------------------------- */

/* The error of the hidden layer (slope of the activations at most 1.13) through |w2|, plus its own dot product. */
static void predict_tolerance(const double *h, const double *w1, const double *w2, size_t n_rows, size_t d_model,
                              size_t hidden, size_t n_heads, bool sigmoid, double *tol) {
    for (size_t i = 0; i < n_rows * n_heads; i++) {
        const double *row = h + i / n_heads * d_model, *out = w2 + i % n_heads * hidden;
        double sum = 0, size = 0;
        for (size_t j = 0; j < hidden; j++) {
            double pre = norm(row, d_model) * norm(w1 + j * d_model, d_model) + 1;
            sum += fabs(out[j]) * (1.13 * 5 * U * pre + 8 * U * pre);
            size += pre * pre;
        }
        sum += 5 * U * (sqrt(size) * norm(out, hidden) + 1);
        tol[i] = (sigmoid ? 0.25 * sum : sum) + 8 * U;
    }
}

static void case_predict(struct pair *p, size_t n_rows, size_t n_cols) {
    static const enum act acts[] = {ACT_SILU, ACT_GELU, ACT_NONE, ACT_SILU};
    size_t hidden = n_cols / 4 + 3, n_heads = 5, n = n_rows * n_heads;
    for (int k = 0; k < 4; k++) {
        bool sigmoid = k < 2;
        struct weights w1 = weights_make(p, stored_dtypes[k % 3], hidden, n_cols, WEIGHT_F32);
        struct weights w2 = weights_make(p, stored_dtypes[k % 3], n_heads, hidden, WEIGHT_F32);
        double *h = random_values(p, n_rows * n_cols, -2, 2, DTYPE_F32), *tol = zalloc(n, sizeof *tol);
        double *b1 = random_values(p, hidden, -1, 1, DTYPE_F32), *b2 = random_values(p, n_heads, -1, 1, DTYPE_F32);
        struct duo hd = duo_make(p, p->got.real, n_rows * n_cols, h), b1d = duo_make(p, p->got.real, hidden, b1);
        struct duo b2d = duo_make(p, p->got.real, n_heads, b2), ud = duo_make(p, p->got.real, n, NULL);
        struct duo fixed = duo_make(p, p->got.real, n, NULL);
        for (int side = 0; side < 2; side++) {
            const struct backend *b = side_of(p, side);
            struct predict_args a = {.h = on(&hd, side), .fc1 = weight_on(&w1, side), .b1 = on(&b1d, side),
                                     .fc2 = weight_on(&w2, side), .b2 = on(&b2d, side), .act = acts[k], .sigmoid = sigmoid,
                                     .n_rows = n_rows, .n_kv_heads = n_heads, .u = on(&ud, side)};
            b->ops->predict(b->dev, &a);
            a.fc1 = a.fc2 = NULL; /* static gates */
            a.u = on(&fixed, side);
            b->ops->predict(b->dev, &a);
        }
        predict_tolerance(h, w1.values, w2.values, n_rows, n_cols, hidden, n_heads, sigmoid, tol);
        duo_finish(p, "predict", &ud, tol, 0);
        for (size_t i = 0; i < n; i++)
            tol[i] = sigmoid ? 8 * U : 0;
        duo_finish(p, "static gates", &fixed, tol, 0);
        duo_free(&hd), duo_free(&b1d), duo_free(&b2d);
        weights_free(p, &w1), weights_free(p, &w2);
        free(h), free(b1), free(b2), free(tol);
    }
}

/* Two runs of rows, when there are two rows. */
static void case_score_random(struct pair *p, size_t n_rows, size_t n_cols) {
    int n_seq = n_rows > 1 ? 2 : n_rows > 0 ? 1 : 0, slots[2] = {3, 1}, pos0[2] = {70000, 0};
    int splits[3] = {0, n_seq == 2 ? (int)n_rows / 3 + 1 : (int)n_rows, (int)n_rows};
    uint64_t ids[2] = {UINT64_MAX - 1, 5};
    struct kv_batch batch = {.n_seq = n_seq, .slots = slots, .row_splits = splits, .pos0 = pos0, .sequence_id = ids};
    double *value = random_values(p, n_cols, -5, 5, DTYPE_F32);
    struct duo ud = duo_make(p, p->got.real, n_rows * n_cols, NULL), cd = duo_make(p, p->got.real, n_rows * n_cols, NULL);
    struct duo vd = duo_make(p, p->got.real, n_cols, value);
    for (int side = 0; side < 2; side++) {
        const struct backend *b = side_of(p, side);
        b->ops->score_random(b->dev, &batch, 0x123456789abcdefull, 13, n_cols, on(&ud, side));
        b->ops->score_const(b->dev, on(&vd, side), n_rows, n_cols, on(&cd, side));
    }
    duo_finish(p, "score_random", &ud, NULL, 0);
    duo_finish(p, "score_const", &cd, NULL, 0);
    duo_free(&vd);
    free(value);
}

static void case_gate(struct pair *p, size_t n_rows, size_t n_cols) {
    static const double special[] = {NAN, INFINITY, -INFINITY, 0.5, 0.49999997, 0.50000006, 0, -0.0};
    size_t n = n_rows * n_cols;
    uint8_t *got = zalloc(n, 1), *want = zalloc(n, 1);
    for (int strict = 0; strict < 2; strict++) {
        double *u = random_values(p, n, 0, 1, DTYPE_F32);
        for (size_t i = 0; i < n; i += 3)
            u[i] = special[i / 3 % 8];
        struct duo ud = duo_make(p, p->got.real, n, u), od = duo_bytes(p, n, NULL);
        for (int side = 0; side < 2; side++) {
            const struct backend *b = side_of(p, side);
            b->ops->gate(b->dev, on(&ud, side), n, n_cols == 17 ? 0 : 0.5f, strict, on(&od, side));
        }
        buf_read_bytes(&od.got, got);
        buf_read_bytes(&od.want, want);
        for (size_t i = 0; i < n; i++)
            if (got[i] != want[i])
                fail_msg("gate, %s: element %zu of %zu (%.9g) is %d, expected %d", p->what, i, n, u[i], got[i], want[i]);
        duo_free(&ud), duo_free(&od);
        free(u);
    }
    free(got), free(want);
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

/* Ids must be equal: a draw falls between two ids, and the borders move by rounding errors only (1e-7 of 1), so that a
 * disagreement among these few thousand draws would be an error and not bad luck. */
static void case_sample(struct pair *p, size_t n_rows, size_t n_cols) {
    static const struct sample_args how[] = {
        {.temperature = 0, .top_p = 1},
        {.temperature = 1, .top_p = 1, .seed = 1},
        {.temperature = 0.3f, .top_k = 5, .top_p = 1, .seed = 2},
        {.temperature = 1.5f, .top_p = 0.8f, .seed = 3},
        {.temperature = 1, .top_k = 20, .top_p = 0.5f, .seed = 4},
    };
    static const double special[] = {NAN, -INFINITY, 4, 4};
    uint64_t *sequence = zalloc(n_rows, sizeof *sequence);
    int *position = zalloc(n_rows, sizeof *position);
    int32_t *got = zalloc(n_rows, sizeof *got), *want = zalloc(n_rows, sizeof *want);
    for (size_t k = 0; k < sizeof how / sizeof *how; k++) {
        double *logits = random_values(p, n_rows * n_cols, -4, 4, DTYPE_F32);
        for (size_t r = 0; r < n_rows; r++) {
            for (size_t i = 0; r % 3 && i < n_cols; i++) /* ties */
                logits[r * n_cols + i] = r % 3 == 2 ? NAN : round(logits[r * n_cols + i]);
            for (size_t i = 0; n_cols > 8 && r % 4 && i < 4; i++)
                logits[r * n_cols + (r * 7 + i * 3) % n_cols] = special[i];
            sequence[r] = r;
            position[r] = (int)(1000 * k + r);
        }
        struct duo ld = duo_make(p, p->got.real, n_rows * n_cols, logits);
        struct duo id = duo_bytes(p, n_rows * sizeof *got, NULL);
        for (int side = 0; side < 2; side++) {
            const struct backend *b = side_of(p, side);
            struct sample_args a = how[k];
            a.logits = on(&ld, side);
            a.n_rows = n_rows;
            a.n_vocab = n_cols;
            a.sequence_id = sequence;
            a.position = position;
            a.id = on(&id, side);
            b->ops->sample(b->dev, &a);
        }
        buf_read_bytes(&id.got, got);
        buf_read_bytes(&id.want, want);
        for (size_t r = 0; r < n_rows; r++)
            if (got[r] != want[r])
                fail_msg("sample, %s, case %zu: row %zu gives id %d, expected %d", p->what, k, r, got[r], want[r]);
        duo_free(&ld), duo_free(&id);
        free(logits);
    }
    free(sequence), free(position), free(got), free(want);
}

static void run_case(void **state) {
    void (*run)(struct pair *, size_t, size_t);
    memcpy(&run, *state, sizeof run);
    for_all(run);
}

int main(void) {
    static const struct {
        const char *name;
        void (*run)(struct pair *p, size_t n_rows, size_t n_cols);
    } cases[] = {
        {"add", case_add}, {"rmsnorm", case_rmsnorm}, {"rope", case_rope}, {"act_mul", case_act_mul},
        {"gather", case_gather}, {"embed", case_embed}, {"linear", case_linear}, {"logits", case_logits},
        {"nll", case_nll}, {"predict", case_predict}, {"score_random, score_const", case_score_random},
        {"gate", case_gate}, {"sample", case_sample},
    };
    enum { N = sizeof cases / sizeof *cases };
    struct CMUnitTest tests[N];
    void (*runs[N])(struct pair *, size_t, size_t);
    for (int i = 0; i < N; i++) {
        runs[i] = cases[i].run;
        tests[i] = (struct CMUnitTest){.name = cases[i].name, .test_func = run_case, .initial_state = &runs[i]};
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
