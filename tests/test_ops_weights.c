/* Ops that multiply by a weight, every backend against the reference (tests/op_pair.h). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/op_pair.h"

static double norm(const double *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sqrt(sum);
}

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

/* Whole numbers up to +- whole, which f16 may not be; 0: numbers in +-1. */
static struct weights weights_make(struct pair *p, enum dtype dtype, size_t n_out, size_t n_in, enum weight_use use,
                                   int whole) {
    size_t n = n_out * n_in, n_bytes = n * dtype_size(dtype);
    bool borrowed[2];
    struct weights w = {.stored = {(char *)zalloc(n_bytes + 1, 1) + 1, (char *)zalloc(n_bytes + 1, 1) + 1},
                        .values = zalloc(n, sizeof *w.values)};
    for (size_t i = 0; i < n; i++) {
        store(w.stored[0], dtype, i, whole ? rnd_int(&p->rnd, -whole, whole) : rnd_real(&p->rnd, -1, 1));
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
        struct weights w = weights_make(p, stored_dtypes[k], vocab, n_cols, WEIGHT_COMPUTE, 0);
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
    struct weights w = weights_make(p, stored, n_out, n_in, WEIGHT_COMPUTE, 0);
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
        struct weights w = weights_make(p, stored_dtypes[k % 3], vocab, n_cols, WEIGHT_COMPUTE, 0);
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
    size_t vocab = n_rows == 97 && n_cols == 64 ? 5003 : 131; /* several tiles */
    for (int k = 0; k < 2; k++) {
        float softcap = k ? 2.5f : 0;
        struct weights w = weights_make(p, stored_dtypes[k], vocab, n_cols, WEIGHT_COMPUTE, 0);
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
                                                  on(&nd, side), NULL});
        }
        duo_finish(p, "nll", &nd, tol, 0);
        duo_free(&xd), duo_free(&td);
        weights_free(p, &w);
        free(x), free(target), free(tol);
    }
}

/* The lowest id of the largest product with x, then the next one as large or, without, the same. */
static void largest_two(const double *w, const double *x, size_t vocab, size_t n_cols, int32_t id[2]) {
    double largest = -INFINITY;
    for (size_t o = 0; o < vocab; o++) {
        double logit = 0;
        for (size_t j = 0; j < n_cols; j++)
            logit += w[o * n_cols + j] * x[j];
        if (logit > largest)
            id[0] = id[1] = (int32_t)o;
        else if (logit == largest && id[1] == id[0])
            id[1] = (int32_t)o;
        largest = fmax(largest, logit);
    }
}

/* Of whole numbers every logit is exact and ties are many; a soft-cap of 1000 leaves steps of at least 0.8. Targets: the
 * largest, another one as large, any, none. */
static void case_argmax(struct pair *p, size_t n_rows, size_t n_cols) {
    size_t vocab = n_rows == 97 && n_cols == 64 ? 5003 : 131;
    for (int k = 0; k < 2; k++) {
        struct weights w = weights_make(p, stored_dtypes[k], vocab, n_cols, WEIGHT_COMPUTE, 2);
        double *x = zalloc(n_rows * n_cols, sizeof *x);
        int32_t *target = zalloc(n_rows, sizeof *target);
        uint8_t *want = zalloc(n_rows, 1), *found = zalloc(n_rows, 1);
        for (size_t r = 0; r < n_rows; r++) {
            for (size_t j = 0; j < n_cols; j++)
                x[r * n_cols + j] = rnd_int(&p->rnd, -2, 2);
            int32_t id[2] = {0, 0};
            largest_two(w.values, x + r * n_cols, vocab, n_cols, id);
            target[r] = r % 4 == 3 ? -1 : r % 4 == 2 ? rnd_int(&p->rnd, 0, (int)vocab - 1) : id[r % 4];
            want[r] = target[r] == id[0];
        }
        if (n_rows > 4) {
            x[4 * n_cols] = NAN;
            want[4] = 0;
        }
        struct duo xd = duo_make(p, p->got.act, n_rows * n_cols, x), td = duo_bytes(p, n_rows * sizeof *target, target);
        struct duo nd = duo_make(p, p->got.real, n_rows, NULL), ad = duo_bytes(p, n_rows, found);
        for (int side = 0; side < 2; side++) {
            const struct backend *b = side_of(p, side);
            b->ops->nll(b->dev, &(struct nll_args){weight_on(&w, side), on(&xd, side), on(&td, side), k ? 1000 : 0, n_rows,
                                                  on(&nd, side), on(&ad, side)});
            buf_read_bytes(side ? &ad.want : &ad.got, found);
            for (size_t r = 0; r < n_rows; r++)
                if (found[r] != want[r])
                    fail_msg("%s, side %d, softcap %d: is_argmax of row %zu is %d, expected %d", p->what, side, k, r,
                             found[r], want[r]);
        }
        duo_free(&xd), duo_free(&td), duo_free(&nd), duo_free(&ad);
        weights_free(p, &w);
        free(x), free(target), free(want), free(found);
    }
}

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

static void run_predict_trunk(struct pair *p, size_t n_rows, size_t n_cols) {
    static const enum act acts[] = {ACT_SILU, ACT_GELU, ACT_NONE, ACT_SILU};
    size_t hidden = n_cols / 4 + 3, n_heads = 5, n = n_rows * n_heads;
    for (int k = 0; k < 4; k++) {
        bool sigmoid = k < 2;
        struct weights w1 = weights_make(p, stored_dtypes[k % 3], hidden, n_cols, WEIGHT_F32, 0);
        struct weights w2 = weights_make(p, stored_dtypes[k % 3], n_heads, hidden, WEIGHT_F32, 0);
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

/* Without a trunk: one dot product and a bias. */
static void run_predict_linear(struct pair *p, size_t n_rows, size_t n_cols, bool sigmoid) {
    size_t n_heads = 5, n = n_rows * n_heads;
    struct weights w = weights_make(p, DTYPE_F32, n_heads, n_cols, WEIGHT_F32, 0);
    double *h = random_values(p, n_rows * n_cols, -2, 2, DTYPE_F32), *bias = random_values(p, n_heads, -1, 1, DTYPE_F32);
    double *tol = zalloc(n, sizeof *tol);
    dot_tolerance(h, w.values, bias, n_rows, n_cols, n_heads, n_heads, tol);
    for (size_t i = 0; i < n; i++)
        tol[i] = (sigmoid ? 0.25 * tol[i] : tol[i]) + 8 * U;
    struct duo hd = duo_make(p, p->got.real, n_rows * n_cols, h), bd = duo_make(p, p->got.real, n_heads, bias);
    struct duo ud = duo_make(p, p->got.real, n, NULL);
    for (int side = 0; side < 2; side++) {
        const struct backend *b = side_of(p, side);
        b->ops->predict(b->dev, &(struct predict_args){.h = on(&hd, side), .fc2 = weight_on(&w, side), .b2 = on(&bd, side),
                                                      .sigmoid = sigmoid, .n_rows = n_rows, .n_kv_heads = n_heads,
                                                      .u = on(&ud, side)});
    }
    duo_finish(p, "linear predictor", &ud, tol, 0);
    duo_free(&hd), duo_free(&bd);
    weights_free(p, &w);
    free(h), free(bias), free(tol);
}

static void case_predict(struct pair *p, size_t n_rows, size_t n_cols) {
    run_predict_trunk(p, n_rows, n_cols);
    run_predict_linear(p, n_rows, n_cols, true);
    run_predict_linear(p, n_rows, n_cols, false);
}

int main(void) {
    static const struct op_case cases[] = {
        {"embed", case_embed}, {"linear", case_linear}, {"logits", case_logits},
        {"nll", case_nll},     {"argmax", case_argmax}, {"predict", case_predict},
    };
    return op_cases_run(cases, sizeof cases / sizeof *cases);
}
