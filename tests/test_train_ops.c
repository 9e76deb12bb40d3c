/* Training ops of every backend against the reference (tests/op_pair.h); attention is in tests/test_attend_ops.c.
 *
 * On bf16 devices a backend may round the f32 operands of its matrix products to bf16: half a spacing of each of them. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/train_ops.h"
#include "tests/backends.h"
#include "tests/op_pair.h"

static const struct train_ops *train_of(const struct backend *b) {
    return b->ops->train;
}

/* Relative error of an f32 number that becomes an operand of a matrix product. */
static double operand_error(const struct pair *p) {
    return p->got.act == DTYPE_BF16 ? eps_of(DTYPE_BF16) / 2 : 0;
}

/* Norm of n numbers `stride` apart. */
static double norm(const double *x, size_t n, size_t stride) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i * stride] * x[i * stride];
    return sqrt(sum);
}

/* ---- norms and activations --------------------------------------------------------------------------------------- */

/* r = 1 / sqrt(mean of squares + eps) has the error of the forward op, sum(dy w x) that of a dot product. Also adds the
 * sizes of the terms of dweight (n). */
static void norm_tolerance(const struct rmsnorm_grad_args *a, const double *x, const double *w, const double *dy,
                           double *tol_dx, double *size_dweight) {
    size_t n = a->n_cols;
    double squares = norm(x, n, 1) * norm(x, n, 1), r = 1 / sqrt(squares / (double)n + (double)a->eps);
    double error_r = ((double)n / 4 + 4) * U, *xw = zalloc(n, sizeof *xw);
    for (size_t i = 0; i < n; i++)
        xw[i] = x[i] * (w[i] + a->plus_one);
    double along = norm(xw, n, 1) * norm(dy, n, 1);
    for (size_t i = 0; i < n; i++) {
        tol_dx[i] = (error_r + 4 * U) * fabs(r * (w[i] + a->plus_one) * dy[i]);
        tol_dx[i] += (3 * error_r + 12 * U) * fabs(r * r * r * x[i] / (double)n) * along;
        size_dweight[i] += fabs(r * x[i] * dy[i]);
    }
    free(xw);
}

static void run_rmsnorm_grad(struct pair *p, size_t n_rows, size_t n_cols, size_t n_groups, int variant) {
    bool in_place = variant == 4, with_dweight = variant != 1;
    size_t width = n_groups * n_cols, ld = width + 3, n = n_rows * ld, n_terms = n_rows * n_groups;
    struct rmsnorm_grad_args a = {.eps = 1e-5f, .plus_one = variant & 1, .n_rows = n_rows, .n_groups = n_groups,
                                  .n_cols = n_cols, .ld_x = ld, .ld_dy = ld, .ld_dx = ld, .add_dx = variant & 2};
    double *x = random_values(p, n, -3, 3, DTYPE_F32), *w = random_values(p, n_cols, -1, 1, DTYPE_F32);
    double *dy = random_values(p, n, -1, 1, DTYPE_F32), *before = random_values(p, n, -1, 1, DTYPE_F32);
    double *dweight = random_values(p, n_cols, -1, 1, DTYPE_F32);
    double *tol = zalloc(n, sizeof *tol), *tol_dweight = zalloc(n_cols, sizeof *tol);
    for (size_t i = 0; i < n_terms; i++) {
        size_t at = i / n_groups * ld + i % n_groups * n_cols;
        norm_tolerance(&a, x + at, w, dy + at, tol + at, tol_dweight);
    }
    for (size_t i = 0; i < n; i++)
        tol[i] += a.add_dx ? U * fabs(before[i]) : 0;
    for (size_t i = 0; i < n_cols; i++)
        tol_dweight[i] *= ((double)n_cols / 4 + 8 + (double)n_terms / 2) * U;
    if (n_rows > 2 && !with_dweight)
        dy[ld] = NAN;
    struct duo xd = duo_make(p, p->got.real, n, x), wd = duo_make(p, p->got.real, n_cols, w);
    struct duo dyd = duo_make(p, p->got.real, n, dy), dxd = duo_make(p, p->got.real, n, before);
    struct duo dwd = duo_make(p, p->got.real, n_cols, dweight), *out = in_place ? &dyd : &dxd;
    for (int side = 0; side < 2; side++) {
        a.x = on(&xd, side), a.weight = on(&wd, side), a.dy = on(&dyd, side), a.dx = on(out, side);
        a.dweight = with_dweight ? on(&dwd, side) : NULL;
        train_of(side_of(p, side))->rmsnorm_grad(side_of(p, side)->dev, &a);
    }
    duo_finish(p, "rmsnorm_grad dx", out, tol, 0);
    duo_finish(p, "rmsnorm_grad dweight", &dwd, tol_dweight, U);
    duo_free(&xd), duo_free(&wd), duo_free(in_place ? &dxd : &dyd);
    free(x), free(w), free(dy), free(before), free(dweight), free(tol), free(tol_dweight);
}

static void case_rmsnorm_grad(struct pair *p, size_t n_rows, size_t n_cols) {
    for (int variant = 0; variant < 5; variant++)
        run_rmsnorm_grad(p, n_rows, n_cols, variant & 1 ? 3 : 1, variant);
}

/* What an activation's slope may be off by. The cubic of gelu_tanh makes the error of 1 - tanh^2 large, up to where tanh
 * is 1 in f32. */
static double slope_tolerance(enum act act, double x) {
    double size = fmin(fabs(x), 10);
    double factor = act == ACT_GELU_TANH ? 16 * (1 + size * (0.8 + 0.11 * size * size)) : 8 * (1 + size);
    return act == ACT_NONE ? 0 : factor * U;
}

static void run_act_mul_grad(struct pair *p, size_t n_rows, size_t n_cols, enum act act, bool in_place) {
    size_t n = n_rows * n_cols;
    double *x = random_values(p, 2 * n, -12, 12, DTYPE_F32), *dout = random_values(p, n, -1, 1, DTYPE_F32);
    double *tol = zalloc(2 * n, sizeof *tol);
    bool gelu = act == ACT_GELU || act == ACT_GELU_TANH;
    for (size_t r = 0; n_cols > 5 && r < n_rows; r++) {
        static const double special[] = {0, -0.0, -200, 200, 1e-30, NAN};
        memcpy(x + r * 2 * n_cols, special, sizeof special);
    }
    for (size_t i = 0; i < n; i++) {
        size_t at = i / n_cols * 2 * n_cols + i % n_cols;
        double gate = isnan(x[at]) ? 0 : x[at];
        tol[at] = slope_tolerance(act, gate) * fabs(x[at + n_cols] * dout[i]) + 200 * (double)FLT_MIN;
        tol[at + n_cols] = gelu ? 8 * U * fabs(gate * dout[i]) : 0;
        tol[at + n_cols] += 200 * (double)FLT_MIN;
    }
    struct duo xd = duo_make(p, p->got.real, 2 * n, x), dd = duo_make(p, p->got.real, n, dout);
    struct duo out = duo_make(p, p->got.real, 2 * n, NULL);
    for (int side = 0; side < 2; side++)
        train_of(side_of(p, side))->act_mul_grad(side_of(p, side)->dev, on(&xd, side), act, n_rows, n_cols, on(&dd, side),
                                                 on(in_place ? &xd : &out, side));
    duo_finish(p, act == ACT_NONE ? "none" : act == ACT_SILU ? "silu" : act == ACT_GELU ? "gelu" : "gelu_tanh",
               in_place ? &xd : &out, tol, 8 * U);
    duo_free(in_place ? &out : &xd), duo_free(&dd);
    free(x), free(dout), free(tol);
}

static const enum act all_acts[] = {ACT_NONE, ACT_SILU, ACT_GELU, ACT_GELU_TANH};

static void case_act_mul_grad(struct pair *p, size_t n_rows, size_t n_cols) {
    for (int k = 0; k < 4; k++)
        for (int in_place = 0; in_place < 2; in_place++)
            run_act_mul_grad(p, n_rows, n_cols, all_acts[k], in_place);
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

/* A weight over a master in device memory, on both sides. */
struct handle {
    size_t n_rows, n_cols;
    struct duo master;
    struct weight *weight[2];
    double *values; /* (n_rows, n_cols) as ops use them */
};

static struct handle handle_make(struct pair *p, size_t n_rows, size_t n_cols, enum weight_use use) {
    double *first = random_values(p, n_rows * n_cols, 5, 6, DTYPE_F32);
    double *values = random_values(p, n_rows * n_cols, -1, 1, DTYPE_F32);
    struct handle h = {.n_rows = n_rows, .n_cols = n_cols, .values = values};
    struct duo changed = duo_make(p, p->got.real, n_rows * n_cols, values);
    h.master = duo_make(p, p->got.real, n_rows * n_cols, first);
    for (int side = 0; side < 2; side++) {
        const struct backend *b = side_of(p, side);
        struct err err = {0};
        if (train_of(b)->weight_make(b->dev, on(&h.master, side), n_rows, n_cols, use, &h.weight[side], &err))
            fail_msg("%s: weight_make: %s", b->ops->name, err.message);
        b->ops->copy(b->dev, on(&h.master, side), on(&changed, side), n_rows * n_cols * 4);
        train_of(b)->weight_refresh(b->dev, h.weight[side]);
    }
    if (use == WEIGHT_COMPUTE)
        round_all(values, n_rows * n_cols, p->got.act);
    duo_free(&changed);
    free(first);
    return h;
}

static void handle_free(struct pair *p, struct handle *h) {
    for (int side = 0; side < 2; side++)
        side_of(p, side)->ops->weight_free(side_of(p, side)->dev, h->weight[side]);
    duo_free(&h->master);
    free(h->values);
}

/* Forward ops read what the master holds after a refresh. */
static void case_weight_make(struct pair *p, size_t n_rows, size_t n_cols) {
    static const size_t n_outs[] = {1, 33, 130};
    for (int k = 0; k < 3; k++) {
        size_t n_out = n_outs[k];
        struct handle w = handle_make(p, n_out, n_cols, WEIGHT_COMPUTE);
        double *x = random_values(p, n_rows * n_cols, -2, 2, p->got.act), *tol = zalloc(n_rows * n_out, sizeof *tol);
        int32_t *ids = zalloc(n_rows, sizeof *ids);
        for (size_t r = 0; r < n_rows; r++) {
            ids[r] = rnd_int(&p->rnd, 0, (int)n_out - 1);
            for (size_t o = 0; o < n_out; o++)
                tol[r * n_out + o] = 5 * U * norm(x + r * n_cols, n_cols, 1) * norm(w.values + o * n_cols, n_cols, 1);
        }
        struct duo xd = duo_make(p, p->got.act, n_rows * n_cols, x), id = duo_bytes(p, n_rows * sizeof *ids, ids);
        struct duo yd = duo_make(p, p->got.real, n_rows * n_out, NULL), ld = duo_make(p, p->got.real, n_rows * n_out, NULL);
        struct duo ed = duo_make(p, p->got.real, n_rows * n_cols, NULL);
        for (int side = 0; side < 2; side++) {
            const struct backend *b = side_of(p, side);
            b->ops->linear(b->dev, &(struct linear_args){.w = w.weight[side], .x = on(&xd, side), .y = on(&yd, side),
                                                        .n_rows = n_rows, .ld_y = n_out});
            b->ops->logits(b->dev, w.weight[side], on(&xd, side), 0, n_rows, on(&ld, side));
            b->ops->embed(b->dev, w.weight[side], on(&id, side), n_rows, 1, on(&ed, side));
        }
        duo_finish(p, "linear over a master", &yd, tol, 0);
        duo_finish(p, "logits over a master", &ld, tol, 0);
        duo_finish(p, "embed over a master", &ed, NULL, 0);
        duo_free(&xd), duo_free(&id);
        handle_free(p, &w);
        free(x), free(tol), free(ids);
    }
}

/* Tolerances of the three gradients of linear: dot products over outputs, rows, and a sum over rows. */
static void linear_tolerance(const struct pair *p, const double *x, const double *w, const double *dy, size_t n_rows,
                             size_t n_in, size_t n_out, size_t ld, double *dx, double *dw, double *dbias) {
    double unit = 5 * U + operand_error(p);
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < n_in; i++)
            dx[r * n_in + i] = U + unit * norm(dy + r * ld, n_out, 1) * norm(w + i, n_out, n_in);
    for (size_t o = 0; o < n_out; o++) {
        for (size_t i = 0; i < n_in; i++)
            dw[o * n_in + i] = U + unit * norm(dy + o, n_rows, ld) * norm(x + i, n_rows, n_in);
        dbias[o] = U + 5 * U * norm(dy + o, n_rows, ld) * sqrt((double)n_rows);
    }
}

static void run_linear_grad(struct pair *p, size_t n_rows, size_t n_in, size_t n_out, int variant) {
    bool with_dx = variant != 1, with_dw = variant != 2, with_dbias = variant & 1, add_dx = variant == 3;
    size_t ld = n_out + 3, n = n_rows * n_in;
    struct handle w = handle_make(p, n_out, n_in, WEIGHT_COMPUTE);
    double *x = random_values(p, n, -2, 2, p->got.act), *dy = random_values(p, n_rows * ld, -1, 1, DTYPE_F32);
    double *dx = random_values(p, n, -1, 1, DTYPE_F32), *dw = random_values(p, n_out * n_in, -1, 1, DTYPE_F32);
    double *dbias = random_values(p, n_out, -1, 1, DTYPE_F32), *tol_dx = zalloc(n, sizeof *dx);
    double *tol_dw = zalloc(n_out * n_in, sizeof *dw), *tol_dbias = zalloc(n_out, sizeof *dw);
    linear_tolerance(p, x, w.values, dy, n_rows, n_in, n_out, ld, tol_dx, tol_dw, tol_dbias);
    if (n_rows > 2) { /* one infinity in a row, one NaN in another */
        dy[n_out - 1] = INFINITY;
        dy[ld] = NAN;
    }
    struct duo xd = duo_make(p, p->got.act, n, with_dw ? x : NULL), dyd = duo_make(p, p->got.real, n_rows * ld, dy);
    struct duo dxd = duo_make(p, p->got.real, n, with_dx && !add_dx ? NULL : dx);
    struct duo dwd = duo_make(p, p->got.real, n_out * n_in, dw), dbd = duo_make(p, p->got.real, n_out, dbias);
    for (int side = 0; side < 2; side++)
        train_of(side_of(p, side))->linear_grad(side_of(p, side)->dev, &(struct linear_grad_args){
            .w = w.weight[side], .x = on(&xd, side), .dy = on(&dyd, side), .n_rows = n_rows, .ld_dy = ld,
            .dx = with_dx ? on(&dxd, side) : NULL, .add_dx = add_dx, .dw = with_dw ? on(&dwd, side) : NULL,
            .dbias = with_dbias ? on(&dbd, side) : NULL});
    duo_finish(p, "linear_grad dx", &dxd, tol_dx, 0);
    duo_finish(p, "linear_grad dw", &dwd, tol_dw, 0);
    duo_finish(p, "linear_grad dbias", &dbd, tol_dbias, 0);
    duo_free(&xd), duo_free(&dyd);
    handle_free(p, &w);
    free(x), free(dy), free(dx), free(dw), free(dbias), free(tol_dx), free(tol_dw), free(tol_dbias);
}

static void case_linear_grad(struct pair *p, size_t n_rows, size_t n_cols) {
    for (int variant = 0; variant < 4; variant++) {
        run_linear_grad(p, n_rows, n_cols, 1, variant);
        run_linear_grad(p, n_rows, n_cols, 33, variant);
        run_linear_grad(p, n_rows, 130, n_cols, variant);
    }
}

/* Everything is rounded where f32 is, so that the tolerance of each product holds for its own operands; what comes after low
 * or its gradient also has their errors, which are as large as the product of the norms behind them. */
static void run_low_rank(struct pair *p, size_t n_rows, size_t n_in, size_t n_out, size_t rank) {
    size_t ld = n_out + 3, n_low = n_rows * rank;
    double unit = 5 * U * sqrt((double)rank), scale = 1.75;
    double *x = random_values(p, n_rows * n_in, -2, 2, p->got.act), *y = random_values(p, n_rows * ld, -1, 1, DTYPE_F32);
    double *a = random_values(p, rank * n_in, -1, 1, DTYPE_F32), *b = random_values(p, n_out * rank, -1, 1, DTYPE_F32);
    double *dy = random_values(p, n_rows * ld, -1, 1, DTYPE_F32), *dx = random_values(p, n_rows * n_in, -1, 1, DTYPE_F32);
    double *da = random_values(p, rank * n_in, -1, 1, DTYPE_F32), *db = random_values(p, n_out * rank, -1, 1, DTYPE_F32);
    double norm_a = norm(a, rank * n_in, 1), norm_b = norm(b, n_out * rank, 1), norm_x = norm(x, n_rows * n_in, 1);
    double norm_dy = norm(dy, n_rows * ld, 1);
    struct tolerance {
        double *y, *low, *db, *da, *dx;
    } tol = {zalloc(n_rows * ld, sizeof *y), zalloc(n_low, sizeof *y), zalloc(n_out * rank, sizeof *y),
             zalloc(rank * n_in, sizeof *y), zalloc(n_rows * n_in, sizeof *y)};
    for (size_t i = 0; i < n_rows * ld; i++)
        tol.y[i] = 2 * U + 2 * unit * scale * norm_x * norm_a * norm_b;
    for (size_t i = 0; i < n_low; i++)
        tol.low[i] = unit * scale * norm_dy * norm_b;
    for (size_t i = 0; i < n_out * rank; i++)
        tol.db[i] = 2 * U + 2 * unit * scale * norm_dy * norm_x * norm_a;
    for (size_t i = 0; i < rank * n_in; i++)
        tol.da[i] = 2 * U + 2 * unit * scale * norm_dy * norm_b * norm_x;
    for (size_t i = 0; i < n_rows * n_in; i++)
        tol.dx[i] = 2 * U + 2 * unit * scale * norm_dy * norm_b * norm_a;
    struct duo xd = duo_make(p, p->got.act, n_rows * n_in, x), yd = duo_make(p, p->got.real, n_rows * ld, y);
    struct duo ad = duo_make(p, p->got.real, rank * n_in, a), bd = duo_make(p, p->got.real, n_out * rank, b);
    struct duo lowd = duo_make(p, p->got.real, n_low, NULL), dyd = duo_make(p, p->got.real, n_rows * ld, dy);
    struct duo dxd = duo_make(p, p->got.real, n_rows * n_in, dx), dad = duo_make(p, p->got.real, rank * n_in, da);
    struct duo dbd = duo_make(p, p->got.real, n_out * rank, db);
    for (int side = 0; side < 2; side++) {
        const struct backend *backend = side_of(p, side);
        const struct low_rank_args forward = {
            .a = on(&ad, side), .b = on(&bd, side), .scale = (float)scale, .rank = rank, .n_in = n_in, .n_out = n_out,
            .x = on(&xd, side), .low = on(&lowd, side), .y = on(&yd, side), .n_rows = n_rows, .ld_y = ld};
        train_of(backend)->low_rank(backend->dev, &forward);
        train_of(backend)->low_rank_grad(backend->dev, &(struct low_rank_grad_args){
            .forward = &forward, .dy = on(&dyd, side), .ld_dy = ld, .da = on(&dad, side), .db = on(&dbd, side),
            .dx = on(&dxd, side)});
    }
    duo_finish(p, "low_rank", &yd, tol.y, 0);
    duo_finish(p, "low_rank_grad low", &lowd, tol.low, 0);
    duo_finish(p, "low_rank_grad da", &dad, tol.da, 0);
    duo_finish(p, "low_rank_grad db", &dbd, tol.db, 0);
    duo_finish(p, "low_rank_grad dx", &dxd, tol.dx, 0);
    duo_free(&xd), duo_free(&ad), duo_free(&bd), duo_free(&dyd);
    free(x), free(y), free(a), free(b), free(dy), free(dx), free(da), free(db);
    free(tol.y), free(tol.low), free(tol.db), free(tol.da), free(tol.dx);
}

static void case_low_rank(struct pair *p, size_t n_rows, size_t n_cols) {
    run_low_rank(p, n_rows, n_cols, 33, 1);
    run_low_rank(p, n_rows, 130, n_cols, 8);
}

/* Ids repeat: a sum of as many terms as there are rows. */
static void case_embed_grad(struct pair *p, size_t n_rows, size_t n_cols) {
    size_t vocab = 11, n = n_rows * n_cols;
    double *dout = random_values(p, n, -1, 1, DTYPE_F32), *before = random_values(p, vocab * n_cols, -1, 1, DTYPE_F32);
    double *tol = zalloc(vocab * n_cols, sizeof *tol);
    int32_t *ids = zalloc(n_rows, sizeof *ids);
    for (size_t r = 0; r < n_rows; r++) {
        ids[r] = rnd_int(&p->rnd, 0, (int)vocab - 2); /* the last one never */
        for (size_t i = 0; i < n_cols; i++)
            tol[(size_t)ids[r] * n_cols + i] += ((double)n_rows / 2 + 2) * U * fabs(5.5 * dout[r * n_cols + i]);
    }
    for (size_t i = 0; i < vocab * n_cols; i++)
        tol[i] += tol[i] > 0 ? ((double)n_rows / 2 + 1) * U * fabs(before[i]) : 0;
    if (n_rows > 2)
        dout[0] = NAN;
    struct duo id = duo_bytes(p, n_rows * sizeof *ids, ids), dd = duo_make(p, p->got.real, n, dout);
    struct duo td = duo_make(p, p->got.real, vocab * n_cols, before);
    for (int side = 0; side < 2; side++)
        train_of(side_of(p, side))->embed_grad(side_of(p, side)->dev, on(&id, side), n_rows, n_cols, 5.5f, on(&dd, side),
                                               on(&td, side));
    duo_finish(p, "embed_grad", &td, tol, 0);
    duo_free(&id), duo_free(&dd);
    free(dout), free(before), free(tol), free(ids);
}

/* ---- losses ------------------------------------------------------------------------------------------------------ */

/* One row of the loss: its logits off by error_logit, softmax weights twice that and n u / 2 for the sum; the slope of the
 * soft-cap is 1 - (logit / cap)^2. Fills dlogit (n_vocab) and its error. */
static void loss_row(const struct nll_args *a, const double *logit, int32_t target, double error_logit, size_t n_vocab,
                     double *dlogit, double *error) {
    double sum = 0, cap = (double)a->softcap;
    for (size_t o = 0; o < n_vocab; o++)
        sum += exp(logit[o]);
    for (size_t o = 0; o < n_vocab; o++) {
        double p = exp(logit[o]) / sum, slope = cap > 0 ? 1 - logit[o] / cap * (logit[o] / cap) : 1;
        double off = p * (2 * error_logit + ((double)n_vocab / 2 + 8) * U) + U;
        dlogit[o] = (p - ((int32_t)o == target)) * slope;
        error[o] = off + fabs(p - ((int32_t)o == target)) * (cap > 0 ? 2 * error_logit / cap + 4 * U : 0);
    }
}

struct loss_case {
    size_t n_rows, d_model, n_vocab;
    double *x, *dx, *dw, *before;   /* tolerances of dx and dw; what dw holds before */
    double *nll;                    /* tolerance */
    int32_t *target;
    struct handle w;
};

/* dx and dw are dot products of the gradients of logits, whose own errors come on top. */
static void loss_tolerance(const struct pair *p, const struct nll_args *a, double scale, struct loss_case *c) {
    size_t d = c->d_model, n_vocab = c->n_vocab;
    double *dlogit = zalloc(c->n_rows * n_vocab, sizeof *dlogit), *error = zalloc(c->n_rows * n_vocab, sizeof *error);
    double *logit = zalloc(n_vocab, sizeof *logit), unit = 5 * U + operand_error(p);
    for (size_t r = 0; r < c->n_rows; r++) {
        double largest = 0, cap = (double)a->softcap;
        for (size_t o = 0; o < n_vocab; o++) {
            logit[o] = 0;
            for (size_t i = 0; i < d; i++)
                logit[o] += c->x[r * d + i] * c->w.values[o * d + i];
            logit[o] = cap > 0 ? cap * tanh(logit[o] / cap) : logit[o];
            largest = fmax(largest, norm(c->x + r * d, d, 1) * norm(c->w.values + o * d, d, 1));
        }
        c->nll[r] = 2 * 4 * U * (largest + cap) + ((double)n_vocab / 2 + 4) * U + 4 * U * (largest + 10);
        if (c->target[r] >= 0)
            loss_row(a, logit, c->target[r], 4 * U * (largest + cap), n_vocab, dlogit + r * n_vocab, error + r * n_vocab);
    }
    for (size_t r = 0; r < c->n_rows; r++)
        for (size_t i = 0; i < d; i++)
            c->dx[r * d + i] = norm(c->w.values + i, n_vocab, d) * scale *
                               (unit * norm(dlogit + r * n_vocab, n_vocab, 1) + norm(error + r * n_vocab, n_vocab, 1));
    for (size_t o = 0; o < n_vocab && c->n_rows; o++)
        for (size_t i = 0; i < d; i++)
            c->dw[o * d + i] = U * fabs(c->before[o * d + i]) + norm(c->x + i, c->n_rows, d) * scale *
                               (unit * norm(dlogit + o, c->n_rows, n_vocab) + norm(error + o, c->n_rows, n_vocab));
    free(dlogit), free(error), free(logit);
}

/* A row of NaNs has a gradient of 0 without a target, else of NaN; dw would be NaN as a whole. */
static void run_nll_grad(struct pair *p, size_t n_rows, size_t n_cols, float softcap, bool with_dw) {
    size_t n_vocab = n_rows == 97 && n_cols == 17 ? 2003 : 131, n = n_rows * n_cols, n_w = n_vocab * n_cols;
    struct loss_case c = {n_rows, n_cols, n_vocab, random_values(p, n, -2, 2, p->got.act), zalloc(n, 8), zalloc(n_w, 8),
                          random_values(p, n_w, -1, 1, DTYPE_F32), zalloc(n_rows, 8), zalloc(n_rows, 4),
                          handle_make(p, n_vocab, n_cols, WEIGHT_COMPUTE)};
    struct nll_args forward = {.softcap = softcap, .n_rows = n_rows};
    for (size_t r = 0; r < n_rows; r++)
        c.target[r] = r % 5 == 2 ? -1 : rnd_int(&p->rnd, 0, (int)n_vocab - 1);
    loss_tolerance(p, &forward, 0.375, &c);
    for (size_t i = 0; i < 2 * n_cols && n_rows > 3 && !with_dw; i++)
        c.x[2 * n_cols + i] = NAN;
    struct duo xd = duo_make(p, p->got.act, n, c.x), td = duo_bytes(p, n_rows * sizeof *c.target, c.target);
    struct duo nd = duo_make(p, p->got.real, n_rows, NULL), dxd = duo_make(p, p->got.real, n, NULL);
    struct duo dwd = duo_make(p, p->got.real, n_w, c.before);
    for (int side = 0; side < 2; side++) {
        forward.w = c.w.weight[side], forward.x = on(&xd, side), forward.target = on(&td, side), forward.nll = on(&nd, side);
        train_of(side_of(p, side))->nll_grad(side_of(p, side)->dev, &(struct nll_grad_args){
            .forward = &forward, .scale = 0.375f, .dx = on(&dxd, side), .dw = with_dw ? on(&dwd, side) : NULL});
    }
    duo_finish(p, "nll_grad nll", &nd, c.nll, 0);
    duo_finish(p, "nll_grad dx", &dxd, c.dx, U);
    duo_finish(p, "nll_grad dw", &dwd, c.dw, U);
    duo_free(&xd), duo_free(&td);
    handle_free(p, &c.w);
    free(c.x), free(c.dx), free(c.dw), free(c.before), free(c.nll), free(c.target);
}

static void case_nll_grad(struct pair *p, size_t n_rows, size_t n_cols) {
    run_nll_grad(p, n_rows, n_cols, 0, true);
    run_nll_grad(p, n_rows, n_cols, 2.5f, true);
    run_nll_grad(p, n_rows, n_cols, 2.5f, false);
}

/* ---- utilities and gates ----------------------------------------------------------------------------------------- */

/* Inputs and tolerances of a predictor; of its gradients those that its kind has. */
struct predictor {
    size_t n_rows, d_model, n_features, n_heads; /* features: the hidden layer, or h of a linear predictor */
    bool trunk;
    double *h, *b1, *b2, *u, *du;
    struct handle fc1, fc2;
    double *tol_dfc1, *tol_db1, *tol_dfc2, *tol_db2, *tol_dh;
};

static struct predictor predictor_make(struct pair *p, size_t n_rows, size_t n_cols, bool trunk) {
    struct predictor m = {.n_rows = n_rows, .d_model = n_cols, .n_features = trunk ? n_cols / 4 + 3 : n_cols, .n_heads = 5,
                          .trunk = trunk};
    size_t hidden = m.n_features;
    m.fc1 = handle_make(p, hidden, n_cols, WEIGHT_F32);
    m.fc2 = handle_make(p, m.n_heads, hidden, WEIGHT_F32);
    m.h = random_values(p, n_rows * n_cols, -2, 2, DTYPE_F32);
    m.b1 = random_values(p, hidden, -1, 1, DTYPE_F32);
    m.b2 = random_values(p, m.n_heads, -1, 1, DTYPE_F32);
    m.u = random_values(p, n_rows * m.n_heads, 0, 1, DTYPE_F32);
    m.du = random_values(p, n_rows * m.n_heads, -1, 1, DTYPE_F32);
    m.tol_dfc1 = zalloc(hidden * n_cols, sizeof *m.tol_dfc1);
    m.tol_db1 = zalloc(hidden, sizeof *m.tol_db1);
    m.tol_dfc2 = zalloc(m.n_heads * hidden, sizeof *m.tol_dfc2);
    m.tol_db2 = zalloc(m.n_heads, sizeof *m.tol_db2);
    m.tol_dh = zalloc(n_rows * n_cols, sizeof *m.tol_dh);
    return m;
}

static void predictor_free(struct pair *p, struct predictor *m) {
    handle_free(p, &m->fc1), handle_free(p, &m->fc2);
    free(m->h), free(m->b1), free(m->b2), free(m->u), free(m->du);
    free(m->tol_dfc1), free(m->tol_db1), free(m->tol_dfc2), free(m->tol_db2), free(m->tol_dh);
}

/* Adds one row. The hidden layer is off by 5 u |h| |w1| before its activation, whose slope is at most 1.13 and changes by
 * at most 0.8 of that; sums over rows, heads and the hidden layer are off by n u / 2. */
static void predictor_tolerance_row(struct predictor *m, bool sigmoid, size_t row) {
    size_t d = m->d_model, n = m->n_features;
    double rows = ((double)m->n_rows / 2 + 8) * U, sum = ((double)n / 2 + 8) * U, *dout = zalloc(m->n_heads, sizeof *dout);
    const double *h = m->h + row * d;
    for (size_t k = 0; k < m->n_heads; k++) {
        double u = m->u[row * m->n_heads + k];
        dout[k] = fabs(m->du[row * m->n_heads + k]) * (sigmoid ? u * (1 - u) : 1);
        m->tol_db2[k] += rows * dout[k];
    }
    for (size_t j = 0; j < n; j++) {
        double size = norm(h, d, 1) * norm(m->fc1.values + j * d, d, 1) + 1, error = 5 * U * size, back = 0;
        for (size_t k = 0; k < m->n_heads; k++) {
            double feature = m->trunk ? size * rows + 1.13 * error + 8 * U * size : fabs(h[j]) * rows;
            m->tol_dfc2[k * n + j] += dout[k] * feature;
            back += dout[k] * fabs(m->fc2.values[k * n + j]);
        }
        if (!m->trunk)
            m->tol_dh[row * d + j] += 8 * U * back;
        double dhidden = 1.13 * back, error_dhidden = 10 * U * dhidden + back * (0.8 * error + 16 * U);
        m->tol_db1[j] += error_dhidden + rows * dhidden;
        for (size_t i = 0; i < d && m->trunk; i++) {
            m->tol_dfc1[j * d + i] += (error_dhidden + rows * dhidden) * fabs(h[i]);
            m->tol_dh[row * d + i] += (error_dhidden + sum * dhidden) * fabs(m->fc1.values[j * d + i]);
        }
    }
    free(dout);
}

enum predictor_kind { PREDICTOR_TRUNK, PREDICTOR_LINEAR, PREDICTOR_STATIC };

/* Gradients that are not wanted, or that the kind does not have, must stay as they were. */
static void run_predict_grad(struct pair *p, size_t n_rows, size_t n_cols, enum predictor_kind kind, enum act act,
                             bool sigmoid) {
    struct predictor m = predictor_make(p, n_rows, n_cols, kind == PREDICTOR_TRUNK);
    size_t n_fc1 = m.n_features * n_cols, n_fc2 = m.n_heads * m.n_features, n_u = n_rows * m.n_heads;
    bool trunk = kind == PREDICTOR_TRUNK, affine = kind != PREDICTOR_STATIC;
    for (size_t r = 0; r < n_rows; r++)
        predictor_tolerance_row(&m, sigmoid, r);
    double *before = random_values(p, n_fc1 + n_rows * n_cols + n_fc2, -0.01, 0.01, DTYPE_F32);
    struct duo h = duo_make(p, p->got.real, n_rows * n_cols, m.h), b1 = duo_make(p, p->got.real, m.n_features, m.b1);
    struct duo b2 = duo_make(p, p->got.real, m.n_heads, m.b2), u = duo_make(p, p->got.real, n_u, m.u);
    struct duo du = duo_make(p, p->got.real, n_u, m.du), dfc1 = duo_make(p, p->got.real, n_fc1, before);
    struct duo db1 = duo_make(p, p->got.real, m.n_features, before), dfc2 = duo_make(p, p->got.real, n_fc2, before);
    struct duo db2 = duo_make(p, p->got.real, m.n_heads, before), dh = duo_make(p, p->got.real, n_rows * n_cols, before);
    for (int side = 0; side < 2; side++) {
        struct predict_args forward = {
            .h = on(&h, side), .fc1 = trunk ? m.fc1.weight[side] : NULL, .b1 = on(&b1, side),
            .fc2 = affine ? m.fc2.weight[side] : NULL, .b2 = on(&b2, side), .act = act, .sigmoid = sigmoid,
            .n_rows = n_rows, .n_kv_heads = m.n_heads, .u = on(&u, side)};
        train_of(side_of(p, side))->predict_grad(side_of(p, side)->dev, &(struct predict_grad_args){
            .forward = &forward, .du = on(&du, side), .dfc1 = trunk ? on(&dfc1, side) : NULL,
            .db1 = trunk ? on(&db1, side) : NULL, .dfc2 = affine ? on(&dfc2, side) : NULL, .db2 = on(&db2, side),
            .dh = affine && n_cols != 17 ? on(&dh, side) : NULL});
    }
    duo_finish(p, "predict_grad dfc1", &dfc1, m.tol_dfc1, U);
    duo_finish(p, "predict_grad db1", &db1, m.tol_db1, U);
    duo_finish(p, "predict_grad dfc2", &dfc2, m.tol_dfc2, U);
    duo_finish(p, "predict_grad db2", &db2, m.tol_db2, U);
    duo_finish(p, "predict_grad dh", &dh, m.tol_dh, U);
    duo_finish(p, "predict_grad u", &u, NULL, 0);
    duo_free(&h), duo_free(&b1), duo_free(&b2), duo_free(&du);
    predictor_free(p, &m);
    free(before);
}

static void case_predict_grad(struct pair *p, size_t n_rows, size_t n_cols) {
    for (int k = 0; k < 4; k++)
        run_predict_grad(p, n_rows, n_cols, PREDICTOR_TRUNK, all_acts[k], k & 1);
    for (int sigmoid = 0; sigmoid < 2; sigmoid++) {
        run_predict_grad(p, n_rows, n_cols, PREDICTOR_LINEAR, ACT_NONE, sigmoid);
        run_predict_grad(p, n_rows, n_cols, PREDICTOR_STATIC, ACT_NONE, sigmoid);
    }
}

/* The share under the log is off by 3 u of itself, all its terms being positive. */
static void case_gate_log(struct pair *p, size_t n_rows, size_t n_cols) {
    static const float blends[] = {0, 0.3f, 1};
    size_t n = n_rows * n_cols;
    for (int k = 0; k < 4; k++) {
        float blend = blends[k % 3];
        double *u = random_values(p, n, 0, 1, DTYPE_F32), *d = random_values(p, n, -1, 1, DTYPE_F32);
        double *tol = zalloc(n, sizeof *tol);
        uint8_t *open = zalloc(n, 1);
        for (size_t i = 0; i < n; i++) {
            static const double special[] = {0, 1, NAN};
            u[i] = n > 50 && i < 3 ? special[i] : u[i];
            open[i] = u[i] >= 0.5;
            tol[i] = 4 * U;
        }
        struct duo ud = duo_make(p, p->got.real, n, u), od = duo_bytes(p, n, open), dd = duo_make(p, p->got.real, n, d);
        struct duo log_gate = duo_make(p, p->got.real, n, NULL), du = duo_make(p, p->got.real, n, NULL);
        for (int side = 0; side < 2; side++) {
            const struct backend *b = side_of(p, side);
            train_of(b)->gate_log(b->dev, &(struct gate_log_args){on(&ud, side), on(&od, side), n, blend, k == 3,
                                                                  on(&log_gate, side)});
            train_of(b)->gate_log_grad(b->dev, &(struct gate_log_grad_args){
                .u = on(&ud, side), .open = on(&od, side), .n = n, .blend = blend, .slope = k == 3 ? 1 : 1 - blend,
                .dlog_gate = on(&dd, side), .density = 0.25f, .du = on(k == 2 ? &dd : &du, side)});
        }
        duo_finish(p, "gate_log", &log_gate, k == 3 ? NULL : tol, k == 3 ? 0 : 4 * U);
        for (size_t i = 0; i < n; i++)
            tol[i] = 8 * U * (0.25 + 0.25); /* the quotient may cancel against the density */
        duo_finish(p, "gate_log_grad", k == 2 ? &dd : &du, tol, 8 * U);
        duo_free(&ud), duo_free(&od), duo_free(k == 2 ? &du : &dd);
        free(u), free(d), free(tol), free(open);
    }
}

/* Draws must be equal; NaN stays closed. */
static void case_gate_sample(struct pair *p, size_t n_rows, size_t n_cols) {
    size_t n = n_rows * n_cols;
    int splits[] = {0, (int)n_rows / 3, (int)n_rows / 3, (int)n_rows};
    static const uint64_t ids[] = {5, 6, (uint64_t)1 << 33};
    struct attend_seq_args sequences = {.n_seq = 3, .row_splits = splits, .n_rows = n_rows, .n_kv_heads = n_cols};
    for (int k = 0; k < 2; k++) {
        double *u = random_values(p, n, 0, 1, DTYPE_F32);
        uint8_t *got = zalloc(n, 1), *want = zalloc(n, 1);
        if (n)
            u[n / 2] = NAN;
        struct duo ud = duo_make(p, p->got.real, n, u), od = duo_bytes(p, n, NULL);
        for (int side = 0; side < 2; side++)
            train_of(side_of(p, side))->gate_sample(side_of(p, side)->dev, on(&ud, side), &sequences, ids, 3, 2,
                                                    k ? 0.25f : 0, on(&od, side));
        buf_read_bytes(&od.got, got);
        buf_read_bytes(&od.want, want);
        assert_memory_equal(got, want, n);
        assert_true(n == 0 || got[n / 2] == 0);
        duo_free(&ud), duo_free(&od);
        free(u), free(got), free(want);
    }
}

/* ---- optimizer --------------------------------------------------------------------------------------------------- */

/* m and v: three roundings of their terms, which may cancel in m. The step has those of m, and eight more. */
static void case_adamw(struct pair *p, size_t n_rows, size_t n_cols) {
    static const int64_t steps[] = {1, 7, 100000};
    size_t n = n_rows * n_cols;
    for (int k = 0; k < 3; k++) {
        struct adamw_args a = {.n = n, .lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.1f,
                               .grad_scale = 0.7f, .step = steps[k]};
        double *x[] = {random_values(p, n, -1, 1, DTYPE_F32), random_values(p, n, -1, 1, DTYPE_F32),
                       random_values(p, n, 0, 1, DTYPE_F32), random_values(p, n, -1, 1, DTYPE_F32)};
        double *tol[] = {zalloc(n, 8), zalloc(n, 8), zalloc(n, 8)};
        for (size_t i = 0; i < n; i++) {
            double g = 0.7 * x[3][i], v = 0.999 * x[2][i] + 0.001 * g * g, size = 0.9 * fabs(x[1][i]) + 0.1 * fabs(g);
            double factor = 1 / (1 - pow(0.9, (double)a.step)) / sqrt(v / (1 - pow(0.999, (double)a.step)));
            tol[0][i] = U * fabs(x[0][i]) + 0.01 * (12 * U * size * factor + 4 * U * 0.1 * fabs(x[0][i]));
            tol[1][i] = 3 * U * size;
            tol[2][i] = 4 * U * v;
        }
        if (n > 20)
            x[3][n / 2] = NAN;
        struct duo d[4];
        for (int i = 0; i < 4; i++)
            d[i] = duo_make(p, p->got.real, n, x[i]);
        for (int side = 0; side < 2; side++) {
            a.param = on(&d[0], side), a.m = on(&d[1], side), a.v = on(&d[2], side), a.grad = on(&d[3], side);
            train_of(side_of(p, side))->adamw(side_of(p, side)->dev, &a);
        }
        duo_finish(p, "adamw param", &d[0], tol[0], 0);
        duo_finish(p, "adamw m", &d[1], tol[1], 0);
        duo_finish(p, "adamw v", &d[2], tol[2], 0);
        duo_finish(p, "adamw grad", &d[3], NULL, 0);
        for (int i = 0; i < 4; i++)
            free(x[i]);
        free(tol[0]), free(tol[1]), free(tol[2]);
    }
}

/* A sum of positive terms in double. */
static void case_norm_sq(struct pair *p, size_t n_rows, size_t n_cols) {
    static const double before = 2, special[] = {1, 3e30, INFINITY, NAN};
    size_t n = n_rows * n_cols;
    for (int k = 0; k < 4; k++) {
        double *x = random_values(p, n, -3, 3, DTYPE_F32);
        if (n)
            x[n / 2] = special[k];
        round_all(x, n, DTYPE_F32);
        struct duo xd = duo_make(p, p->got.real, n, x), sum = duo_make(p, DTYPE_F64, 1, &before);
        for (int side = 0; side < 2; side++)
            train_of(side_of(p, side))->norm_sq(side_of(p, side)->dev, on(&xd, side), n, on(&sum, side));
        duo_finish(p, "norm_sq", &sum, NULL, ((double)n + 2) * eps_of(DTYPE_F64));
        duo_free(&xd);
        free(x);
    }
}

int main(void) {
    static const struct op_case cases[] = {
        {"rmsnorm_grad", case_rmsnorm_grad}, {"act_mul_grad", case_act_mul_grad},
        {"weight_make", case_weight_make},   {"linear_grad", case_linear_grad},
        {"low_rank", case_low_rank},
        {"embed_grad", case_embed_grad},     {"nll_grad", case_nll_grad},
        {"predict_grad", case_predict_grad}, {"gate_log", case_gate_log},
        {"gate_sample", case_gate_sample},   {"adamw", case_adamw},
        {"norm_sq", case_norm_sq},
    };
    return train_cases_run(cases, sizeof cases / sizeof *cases);
}
