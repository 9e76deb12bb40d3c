/* Ops without a weight matrix, every backend against the reference (tests/op_pair.h). */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/op_pair.h"

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
static void run_rope(struct pair *p, size_t n_rows, size_t dim, bool inverse) {
    size_t n_heads = 3, ld = n_heads * dim + 1, n_pos = 50, n = n_rows * ld;
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
                                                .n_rows = n_rows, .n_heads = n_heads, .head_dim = dim, .ld_x = ld,
                                                .inverse = inverse});
    }
    duo_finish(p, inverse ? "rope back" : "rope", &xd, tol, 0);
    duo_free(&td), duo_free(&pd);
    free(x), free(table), free(tol), free(pos);
}

static void case_rope(struct pair *p, size_t n_rows, size_t n_cols) {
    run_rope(p, n_rows, 2 * n_cols, false);
    run_rope(p, n_rows, 2 * n_cols, true);
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

static void case_copy_fill(struct pair *p, size_t n_rows, size_t n_cols) {
    size_t n = n_rows * n_cols;
    double *x = random_values(p, n, -3, 3, DTYPE_F32);
    struct duo xd = duo_make(p, p->got.real, n, x), yd = duo_make(p, p->got.real, n, NULL);
    struct duo zd = duo_make(p, p->got.real, n, x);
    for (int side = 0; side < 2; side++) {
        const struct backend *b = side_of(p, side);
        b->ops->copy(b->dev, on(&yd, side), on(&xd, side), n * 4);
        b->ops->fill(b->dev, on(&zd, side), 0x40, n * 4);
        b->ops->read(b->dev, on(&xd, side), n * 4);
    }
    double *got = zalloc(n, sizeof *got);
    buf_read(&yd.got, got);
    for (size_t i = 0; i < n; i++)
        assert_true(got[i] == x[i]);
    buf_read(&zd.got, got);
    for (size_t i = 0; i < n; i++)
        assert_true(got[i] == 3.0039215087890625); /* 0x40404040 */
    duo_finish(p, "copy", &yd, NULL, 0);
    duo_free(&xd), duo_free(&zd);
    free(x), free(got);
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

/* ---- scores and gates -------------------------------------------------------------------------------------------- */

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

/* A sum of n squares is off by n U / 2 of itself, its root by half of that and a rounding. */
static void case_score_key_norm(struct pair *p, size_t n_rows, size_t n_cols) {
    size_t n_kv_heads = 3, ld = n_kv_heads * n_cols + 5, n = n_rows * ld;
    double *k = random_values(p, n, -3, 3, DTYPE_F32);
    add_specials(k, n);
    struct duo kd = duo_make(p, p->got.real, n, k), ud = duo_make(p, p->got.real, n_rows * n_kv_heads, NULL);
    for (int side = 0; side < 2; side++) {
        const struct backend *b = side_of(p, side);
        b->ops->score_key_norm(b->dev, on(&kd, side), ld, n_rows, n_kv_heads, n_cols, on(&ud, side));
    }
    duo_finish(p, "score_key_norm", &ud, NULL, ((double)n_cols / 4 + 1) * U);
    duo_free(&kd);
    free(k);
}

/* v gram v; *size becomes |v|^2 |gram|. */
static double product_of(const double *gram, const double *v, size_t n, double *size) {
    double sum = 0, squares = 0, frobenius = 0;
    for (size_t i = 0; i < n * n; i++) {
        sum += gram[i] * v[i / n] * v[i % n];
        frobenius += gram[i] * gram[i];
        squares += i < n ? v[i] * v[i] : 0;
    }
    *size = squares * sqrt(frobenius);
    return sum;
}

/* gram = B B^T, so that v gram v is a square. Rows and their sum are products of f32: d = 8 U |v|^2 |gram| off together, and
 * the root of x that of d near 0, elsewhere d / sqrt(x). */
static void case_output_norm(struct pair *p, size_t n_rows, size_t n_cols) {
    size_t n_kv = 2, n_heads = 6, dim = n_cols < 32 ? n_cols : 32, ld = n_kv * dim + 3, n = n_rows * n_kv;
    size_t square = dim * dim;
    double *v = random_values(p, n_rows * ld, -2, 2, DTYPE_F32), *b = random_values(p, n_heads * square, -1, 1, DTYPE_F32);
    double *gram = zalloc(n_heads * square, sizeof *gram), *tol = zalloc(n, sizeof *tol);
    for (size_t i = 0; i < n_heads * square; i++)
        for (size_t c = 0; c < dim; c++)
            gram[i] += b[i / dim * dim + c] * b[(i / square * dim + i % dim) * dim + c];
    round_all(gram, n_heads * square, DTYPE_F32);
    for (size_t i = 0; i < n; i++) {
        double x = 0, d = 0, size;
        for (size_t h = i % n_kv * 3; h < i % n_kv * 3 + 3; h++) {
            x = fmax(x, product_of(gram + h * square, v + i / n_kv * ld + i % n_kv * dim, dim, &size));
            d = fmax(d, 8 * U * size);
        }
        tol[i] = fmin(sqrt(d), d / sqrt(x));
    }
    struct duo vd = duo_make(p, p->got.real, n_rows * ld, v), gd = duo_make(p, p->got.real, n_heads * dim * dim, gram);
    struct duo nd = duo_make(p, p->got.real, n, NULL);
    for (int side = 0; side < 2; side++) {
        const struct backend *k = side_of(p, side);
        k->ops->output_norm(k->dev, &(struct output_norm_args){.v = on(&vd, side), .gram = on(&gd, side), .n_rows = n_rows,
                                                              .n_heads = n_heads, .n_kv_heads = n_kv, .head_dim = dim,
                                                              .ld_v = ld, .norm = on(&nd, side)});
    }
    duo_finish(p, "output_norm", &nd, tol, U);
    duo_free(&vd), duo_free(&gd);
    free(v), free(b), free(gram), free(tol);
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

int main(void) {
    static const struct op_case cases[] = {
        {"add", case_add},
        {"rmsnorm", case_rmsnorm},
        {"rope", case_rope},
        {"act_mul", case_act_mul},
        {"gather", case_gather},
        {"copy, fill, read", case_copy_fill},
        {"score_random, score_const", case_score_random},
        {"score_key_norm", case_score_key_norm},
        {"output_norm", case_output_norm},
        {"gate", case_gate},
        {"sample", case_sample},
    };
    return op_cases_run(cases, sizeof cases / sizeof *cases);
}
