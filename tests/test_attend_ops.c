/* Attention over whole sequences and its gradient, every backend against the reference (tests/op_pair.h).
 *
 * Tolerances, with p the softmax weights of a query, L the loss and T the longest sequence. A logit is off by
 * e = 4 u scale |q| |k| and what the soft-cap and the gate add; p by d = 2 e and its sum over keys, 4 u sqrt(T), relative.
 * dL/dp = dout.v is at most P = |dout| |v| and off by 4 u P; dL/dlogit = p (dL/dp - sum of p dL/dp) is then off by
 * p E, E = (4 d + 8 u) P. Sums over keys have weights p that add up to 1; sums over queries have weights that add up to the
 * mass of the key, which the reference tells: it is dv where dout is 1 everywhere. On bf16 devices every operand of a
 * product may be rounded once more: b, half a spacing of bf16; inputs are bf16 numbers there. */
#include <float.h>
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/train_ops.h"
#include "tests/op_pair.h"

enum { MAX_SEQ = 4, MAX_KV_HEADS = 3 };

enum gating { GATES_ABSENT, GATES_CLOSED, GATES_FEW, GATES_HALF, GATES_OPEN, GATES_SOFT, N_GATINGS };

/* One call: q, k and v are columns of one matrix, as the engine has them, and so are their gradients. */
struct attend_case {
    struct attend_seq_args a; /* without device pointers */
    int splits[MAX_SEQ + 1], window[MAX_KV_HEADS];
    enum gating gating;
    size_t group, n_out, n_qkv, max_len;
    double *qkv, *gate, *dout;
};

/* 1 .. MAX_SEQ sequences, the first of them one row long where there are several. */
static void splits_fill(struct pair *p, struct attend_case *c) {
    int n_rows = (int)c->a.n_rows;
    c->a.n_seq = n_rows ? 1 + rnd_int(&p->rnd, 0, n_rows < MAX_SEQ ? n_rows - 1 : MAX_SEQ - 1) : 0;
    for (int i = 1; i < c->a.n_seq; i++)
        c->splits[i] = i == 1 ? 1 : rnd_int(&p->rnd, c->splits[i - 1] + 1, n_rows - (c->a.n_seq - i));
    c->splits[c->a.n_seq] = n_rows;
    for (int i = 0; i < c->a.n_seq; i++) {
        size_t len = (size_t)(c->splits[i + 1] - c->splits[i]);
        c->max_len = len > c->max_len ? len : c->max_len;
    }
}

static double gate_random(struct pair *p, enum gating gating) {
    static const double open[] = {0, 0, 0.05, 0.5, 1};
    return gating == GATES_SOFT ? log(rnd_real(&p->rnd, 0.01, 1)) : rnd_unit(&p->rnd) < open[gating] ? 0 : -INFINITY;
}

static void values_fill(struct pair *p, struct attend_case *c) {
    const struct attend_seq_args *a = &c->a;
    enum dtype dtype = p->got.act;
    size_t n_q = a->n_heads * a->head_dim, n_k = a->n_kv_heads * a->head_dim;
    c->qkv = random_values(p, c->n_qkv, -1, 1, dtype);
    c->dout = random_values(p, c->n_out, -1, 1, DTYPE_F32);
    c->gate = zalloc(a->n_rows * a->n_kv_heads, sizeof *c->gate);
    for (size_t i = 0; i < c->n_qkv; i++) /* powers of two keep them bf16 numbers */
        c->qkv[i] *= i % a->ld_qkv < n_q ? 2 : i % a->ld_qkv < n_q + n_k ? 1 : 0.5;
    for (size_t i = 0; i < a->n_rows * a->n_kv_heads; i++)
        c->gate[i] = gate_random(p, c->gating);
    round_all(c->gate, a->n_rows * a->n_kv_heads, DTYPE_F32);
}

static struct attend_case attend_case_make(struct pair *p, size_t n_rows, size_t dim, enum gating gating) {
    static const int windows[] = {1, 16, 64, INT_MAX};
    size_t n_kv_heads = (size_t)rnd_int(&p->rnd, 1, dim > 16 ? 2 : MAX_KV_HEADS), group = (size_t)rnd_int(&p->rnd, 1, 4);
    struct attend_case c = {.gating = gating, .group = group};
    c.a = (struct attend_seq_args){
        .n_rows = n_rows, .n_heads = n_kv_heads * group, .n_kv_heads = n_kv_heads, .head_dim = dim,
        .ld_qkv = (group + 2) * n_kv_heads * dim + 1, .sinks = rnd_int(&p->rnd, 0, 1) * 3, .scale = 1 / sqrtf((float)dim),
        .softcap = rnd_int(&p->rnd, 0, 1) ? 0 : 2.5f};
    for (size_t k = 0; k < n_kv_heads; k++)
        c.window[k] = windows[rnd_int(&p->rnd, 0, 3)];
    c.n_out = n_rows * c.a.n_heads * dim;
    c.n_qkv = n_rows * c.a.ld_qkv;
    splits_fill(p, &c);
    values_fill(p, &c);
    return c;
}

static void attend_case_free(struct attend_case *c) {
    free(c->qkv), free(c->gate), free(c->dout);
}

/* What the ops make of it, on both sides. */
struct results {
    struct duo qkv, gate, dout, out, lse, dqkv, dgate;
};

static struct results attend_case_run(const struct pair *p, const struct attend_case *c) {
    size_t n_gates = c->a.n_rows * c->a.n_kv_heads, n_q = c->a.n_heads * c->a.head_dim, n_k = n_q / c->group;
    struct results r = {duo_make(p, p->got.real, c->n_qkv, c->qkv), duo_make(p, p->got.real, n_gates, c->gate),
                        duo_make(p, p->got.real, c->n_out, c->dout), duo_make(p, p->got.act, c->n_out, NULL),
                        duo_make(p, p->got.real, c->a.n_rows * c->a.n_heads, NULL),
                        duo_make(p, p->got.real, c->n_qkv, NULL), duo_make(p, p->got.real, n_gates, NULL)};
    for (int side = 0; side < 2; side++) {
        const struct backend *b = side_of(p, side);
        struct attend_seq_args a = c->a;
        float *qkv = on(&r.qkv, side), *dqkv = on(&r.dqkv, side);
        a.row_splits = c->splits, a.window = c->window;
        a.q = qkv, a.k = qkv + n_q, a.v = qkv + n_q + n_k;
        a.log_gate = c->gating == GATES_ABSENT ? NULL : on(&r.gate, side);
        a.out = on(&r.out, side), a.lse = on(&r.lse, side);
        b->ops->train->attend_seq(b->dev, &a);
        b->ops->train->attend_seq_grad(b->dev, &(struct attend_seq_grad_args){
            .forward = &a, .dout = on(&r.dout, side), .dq = dqkv, .dk = dqkv + n_q, .dv = dqkv + n_q + n_k,
            .dlog_gate = on(&r.dgate, side)});
    }
    return r;
}

static void results_free(struct results *r) {
    struct duo *all[] = {&r->qkv, &r->gate, &r->dout, &r->out, &r->lse, &r->dqkv, &r->dgate};
    for (int i = 0; i < 7; i++)
        duo_free(all[i]);
}

/* Softmax weights that keys get from all queries of their group, (n_rows, n_kv_heads). */
static double *masses(const struct pair *p, const struct attend_case *c) {
    size_t n_kv_heads = c->a.n_kv_heads, n_q = c->a.n_heads * c->a.head_dim, n_k = n_q / c->group;
    struct attend_case ones = *c;
    double *dqkv = zalloc(c->n_qkv, sizeof *dqkv), *mass = zalloc(c->a.n_rows * n_kv_heads, sizeof *mass);
    ones.dout = zalloc(c->n_out, sizeof *ones.dout);
    for (size_t i = 0; i < c->n_out; i++)
        ones.dout[i] = 1;
    struct results r = attend_case_run(p, &ones);
    buf_read(&r.dqkv.want, dqkv);
    for (size_t i = 0; i < c->a.n_rows * n_kv_heads; i++)
        mass[i] = dqkv[i / n_kv_heads * c->a.ld_qkv + n_q + n_k + i % n_kv_heads * c->a.head_dim];
    results_free(&r);
    free(dqkv), free(ones.dout);
    return mass;
}

/* The largest norm of n elements at any of `columns` places of a row. */
static double largest_norm(const double *x, size_t n_rows, size_t ld, size_t n, size_t n_columns) {
    double largest = 0;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t col = 0; col < n_columns; col++) {
            double sum = 0;
            for (size_t i = 0; i < n; i++)
                sum += x[r * ld + col * n + i] * x[r * ld + col * n + i];
            largest = fmax(largest, sqrt(sum));
        }
    return largest;
}

/* The bounds of the head of this file. Inputs: |q| <= 2, |k| <= 1, |v| <= 0.5, |dout| <= 1 in every element. */
struct bounds {
    double out, lse, dq, dk, dv, dgate; /* the last three per mass of the key */
};

static struct bounds bounds_of(const struct pair *p, const struct attend_case *c) {
    const struct attend_seq_args *a = &c->a;
    size_t dim = a->head_dim, n_q = a->n_heads * dim, n_k = a->n_kv_heads * dim;
    double bf = p->got.act == DTYPE_BF16 ? eps_of(DTYPE_BF16) / 2 : 0, scale = (double)a->scale, cap = (double)a->softcap;
    double q = largest_norm(c->qkv, a->n_rows, a->ld_qkv, dim, a->n_heads);
    double k = largest_norm(c->qkv + n_q, a->n_rows, a->ld_qkv, dim, a->n_kv_heads);
    double v = largest_norm(c->qkv + n_q + n_k, a->n_rows, a->ld_qkv, dim, a->n_kv_heads);
    double P = largest_norm(c->dout, a->n_rows, n_q, dim, a->n_heads) * v;
    double keys = 4 * U * sqrt((double)c->max_len), queries = 4 * U * sqrt((double)(c->max_len * c->group));
    double e = 4 * U * (scale * q * k + cap) + 5 * U, d = 2 * e + keys + 8 * U + bf;
    double E = (4 * d + 8 * U + 3 * bf) * P, slope = cap > 0 ? 2 * e / cap + 4 * U : 0;
    return (struct bounds){
        .out = 0.5 * (d + keys),
        .lse = e + keys + 4 * U,
        .dq = scale * 1 * (E + 2 * P * (slope + bf + keys)),
        .dk = scale * 2 * (E + 2 * P * (slope + bf + queries)),
        .dv = d + bf + queries,
        .dgate = E + 2 * P * queries,
    };
}

/* At most 1e-3 of the largest gradient of a tensor, columns begin .. end-1, whatever the bound; bf16 has no such bar. A
 * tensor of two rows may be all cancellation. */
static void bar_apply(const struct pair *p, const struct duo *gradient, size_t ld, size_t begin, size_t end, double *tol) {
    double *want = zalloc(gradient->want.n, sizeof *want), largest = 0;
    buf_read(&gradient->want, want);
    for (size_t i = 0; i < gradient->want.n; i++)
        largest = i % ld >= begin && i % ld < end ? fmax(largest, fabs(want[i])) : largest;
    for (size_t i = 0; i < gradient->want.n && gradient->want.n > 2 * ld && p->got.act == DTYPE_F32; i++)
        tol[i] = i % ld >= begin && i % ld < end ? fmin(tol[i], 1e-3 * largest) : tol[i];
    free(want);
}

static void results_compare(const struct pair *p, const struct attend_case *c, struct results *r) {
    const struct attend_seq_args *a = &c->a;
    size_t n_kv_heads = a->n_kv_heads, n_q = a->n_heads * a->head_dim, n_k = n_q / c->group;
    struct bounds bounds = bounds_of(p, c);
    double *mass = masses(p, c), *out = zalloc(c->n_out, 8), *lse = zalloc(a->n_rows * a->n_heads, 8);
    double *dqkv = zalloc(c->n_qkv, 8), *dgate = zalloc(a->n_rows * n_kv_heads, 8);
    for (size_t i = 0; i < c->n_out; i++)
        out[i] = bounds.out;
    for (size_t i = 0; i < a->n_rows * a->n_heads; i++)
        lse[i] = bounds.lse;
    for (size_t i = 0; i < a->n_rows * n_kv_heads; i++)
        dgate[i] = mass[i] * bounds.dgate;
    for (size_t i = 0; i < c->n_qkv; i++) {
        size_t col = i % a->ld_qkv, key_col = (col - n_q) % n_k;
        bool is_q = col < n_q, is_v = !is_q && col >= n_q + n_k;
        double m = mass[i / a->ld_qkv * n_kv_heads + (is_q ? 0 : key_col / a->head_dim)];
        dqkv[i] = is_q ? bounds.dq : m * (is_v ? bounds.dv : bounds.dk);
    }
    bar_apply(p, &r->dqkv, a->ld_qkv, 0, n_q, dqkv);
    bar_apply(p, &r->dqkv, a->ld_qkv, n_q, n_q + n_k, dqkv);
    bar_apply(p, &r->dqkv, a->ld_qkv, n_q + n_k, n_q + 2 * n_k, dqkv);
    bar_apply(p, &r->dgate, n_kv_heads, 0, n_kv_heads, dgate);
    duo_finish(p, "attend_seq out", &r->out, out, eps_of(p->got.act));
    duo_finish(p, "attend_seq lse", &r->lse, lse, U);
    duo_finish(p, "attend_seq_grad dq dk dv", &r->dqkv, dqkv, U);
    duo_finish(p, "attend_seq_grad dlog_gate", &r->dgate, dgate, U);
    free(mass), free(out), free(lse), free(dqkv), free(dgate);
}

static void case_attend_seq(struct pair *p, size_t n_rows, size_t n_cols) {
    size_t dim = n_cols == 1 ? 8 : n_cols == 17 ? 12 : n_cols == 64 ? 64 : 16;
    for (int gating = 0; gating < N_GATINGS; gating++) {
        struct attend_case c = attend_case_make(p, 2 * n_rows, dim, (enum gating)gating);
        snprintf(p->what + strcspn(p->what, ","), 72, ", %zux%zu of %zu, gates %d", c.a.n_kv_heads, c.group, dim, gating);
        struct results r = attend_case_run(p, &c);
        results_compare(p, &c, &r);
        results_free(&r);
        attend_case_free(&c);
    }
}

/* Rows before `end` keep every NaN of the reference (how far it spreads among them is the backend's business); the others
 * have none. */
static void expect_nans(const struct pair *p, const char *what, const struct duo *d, size_t ld, size_t n_cols, size_t end) {
    double *got = zalloc(d->got.n, sizeof *got), *want = zalloc(d->got.n, sizeof *want);
    size_t n_nan = 0;
    buf_read(&d->got, got);
    buf_read(&d->want, want);
    for (size_t i = 0; i < d->got.n; i++) {
        if (i % ld >= n_cols)
            continue;
        n_nan += isnan(want[i]);
        if (i / ld < end ? isnan(want[i]) && !isnan(got[i]) : !isfinite(got[i]))
            fail_msg("%s, %s: element %zu of %zu is %.9g, expected %.9g", what, p->what, i, d->got.n, got[i], want[i]);
    }
    assert_true(n_nan > 0);
    free(got), free(want);
}

/* A NaN is not lost, and stays in its sequence. */
static void case_attend_nan(struct pair *p, size_t n_rows, size_t n_cols) {
    size_t dim = n_cols == 64 ? 64 : 8, len = n_rows + 3;
    for (int where = 0; where < 2; where++) {
        struct attend_case c = attend_case_make(p, 2 * len, dim, GATES_HALF);
        size_t n_q = c.a.n_heads * dim, n_grad = (c.group + 2) * c.a.n_kv_heads * dim;
        c.a.n_seq = 2;
        c.splits[1] = (int)len, c.splits[2] = 2 * (int)len;
        if (where == 0)
            c.qkv[len / 2 * c.a.ld_qkv + n_q] = NAN; /* a key */
        else
            c.dout[len / 2 * n_q] = NAN;
        struct results r = attend_case_run(p, &c);
        if (where == 0) {
            expect_nans(p, "attend_seq out with a NaN", &r.out, n_q, n_q, len);
            expect_nans(p, "attend_seq lse with a NaN", &r.lse, c.a.n_heads, c.a.n_heads, len);
        }
        expect_nans(p, "attend_seq_grad with a NaN", &r.dqkv, c.a.ld_qkv, n_grad, len);
        results_free(&r);
        attend_case_free(&c);
    }
}

int main(void) {
    static const struct op_case cases[] = {
        {"attend_seq", case_attend_seq},
        {"attend_seq with a NaN", case_attend_nan},
    };
    return train_cases_run(cases, sizeof cases / sizeof *cases);
}
