/* Attention over whole sequences in the reference backend: against a plain statement, against the cache, and its gradient
 * against central differences (tests/grad_check.h). */
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/grad_check.h"
#include "tests/kv_world.h"

enum gating { GATES_NONE, GATES_SOFT, GATES_HARD };

struct attend_case {
    struct fixture f;
    struct attend_seq_args forward;
    struct var q, k, v, gate;
    struct sink out;
    struct buf lse;
};

static double attend_loss(void *context) {
    struct attend_case *c = context;
    c->f.train->attend_seq(c->f.b.dev, &c->forward);
    return sink_loss(&c->out);
}

/* Soft gates have utilities of 0.05 and more; hard ones are 0 or -INFINITY, about half of each. */
static void gates_fill(struct attend_case *c, enum gating gating) {
    double *gate = zalloc(c->gate.x.n, sizeof *gate);
    for (size_t i = 0; i < c->gate.x.n; i++) {
        double u = rnd_real(&c->f.rnd, 0.05, 1);
        gate[i] = gating == GATES_SOFT ? log(u) : u < 0.5 ? -INFINITY : 0;
    }
    buf_write(&c->gate.x, gate);
    free(gate);
}

static const int some_splits[] = {0, 1, 12, 19};

static void attend_case_open(struct attend_case *c, size_t n_kv_heads, size_t group, size_t dim, const int *window,
                             int sinks, float softcap, enum gating gating) {
    size_t n_rows = 19, n_heads = n_kv_heads * group, ld = n_heads * dim + 2;
    c->f = fixture_open(20 + n_heads);
    c->q = var_strided(&c->f, n_rows, n_heads * dim, ld, ld, 1.5, false);
    c->k = var_strided(&c->f, n_rows, n_kv_heads * dim, ld, ld, 1.5, false);
    c->v = var_strided(&c->f, n_rows, n_kv_heads * dim, ld, ld, 1.5, false);
    c->gate = var_make(&c->f, n_rows, n_kv_heads, 1, false);
    c->out = sink_make(&c->f, n_rows, n_heads * dim, n_heads * dim, n_heads * dim);
    c->lse = buf_make(&c->f.b, DTYPE_F64, n_rows * n_heads, NULL);
    gates_fill(c, gating);
    c->forward = (struct attend_seq_args){
        .n_seq = 3, .row_splits = some_splits, .q = c->q.x.ptr, .k = c->k.x.ptr, .v = c->v.x.ptr, .n_rows = n_rows,
        .n_heads = n_heads, .n_kv_heads = n_kv_heads, .head_dim = dim, .ld_qkv = ld, .window = window, .sinks = sinks,
        .log_gate = gating == GATES_NONE ? NULL : c->gate.x.ptr, .scale = 0.7f, .softcap = softcap, .out = c->out.y.ptr,
        .lse = c->lse.ptr};
    attend_loss(c);
}

static void attend_case_close(struct attend_case *c) {
    var_free(&c->q), var_free(&c->k), var_free(&c->v), var_free(&c->gate);
    buf_free(&c->lse);
    sink_free(&c->out);
    backend_close(&c->f.b);
}

/* Output (head_dim) and lse of one query, stated over all keys of its sequence. */
static void expect_query(const struct attend_seq_args *a, const double *const qkv[3], const double *log_gate, size_t first,
                         size_t row, size_t head, double *out, double *lse) {
    size_t dim = a->head_dim, kv_head = head / (a->n_heads / a->n_kv_heads), t = row - first;
    double sum = 0, cap = (double)a->softcap;
    memset(out, 0, dim * sizeof *out);
    for (size_t s = 0; s <= t; s++) {
        bool far = t - s >= (size_t)a->window[kv_head] && s >= (size_t)a->sinks;
        double gate = !far ? 0 : log_gate ? log_gate[(first + s) * a->n_kv_heads + kv_head] : -INFINITY, logit = 0;
        for (size_t i = 0; i < dim; i++)
            logit += qkv[0][row * a->ld_qkv + head * dim + i] * qkv[1][(first + s) * a->ld_qkv + kv_head * dim + i];
        logit *= (double)a->scale;
        double weight = exp((cap > 0 ? cap * tanh(logit / cap) : logit) + gate); /* logits are small here */
        sum += weight;
        for (size_t i = 0; i < dim; i++)
            out[i] += weight * qkv[2][(first + s) * a->ld_qkv + kv_head * dim + i];
    }
    for (size_t i = 0; i < dim; i++)
        out[i] /= sum;
    *lse = log(sum);
}

static void expect_forward(const struct attend_case *c) {
    const struct attend_seq_args *a = &c->forward;
    const struct buf *const bufs[] = {&c->q.x, &c->k.x, &c->v.x, &c->gate.x, &c->out.y, &c->lse};
    double *values[6], *out = zalloc(c->out.y.n, sizeof *out), *lse = zalloc(c->lse.n, sizeof *lse);
    for (int i = 0; i < 6; i++)
        buf_read(bufs[i], values[i] = zalloc(bufs[i]->n, sizeof *values[i]));
    for (int seq = 0; seq < a->n_seq; seq++)
        for (size_t row = (size_t)a->row_splits[seq]; row < (size_t)a->row_splits[seq + 1]; row++)
            for (size_t head = 0; head < a->n_heads; head++) {
                size_t at = row * a->n_heads + head;
                expect_query(a, (const double *const[]){values[0], values[1], values[2]}, a->log_gate ? values[3] : NULL,
                             (size_t)a->row_splits[seq], row, head, out + at * a->head_dim, lse + at);
            }
    compare_within("attend_seq", values[4], out, c->out.y.n, 1e-14, 1e-14);
    compare_within("attend_seq lse", values[5], lse, c->lse.n, 1e-14, 1e-14);
    for (int i = 0; i < 6; i++)
        free(values[i]);
    free(out), free(lse);
}

static void check_attend(size_t n_kv_heads, size_t group, size_t dim, const int *window, int sinks, float softcap,
                         enum gating gating, bool with_dgate) {
    struct attend_case c;
    attend_case_open(&c, n_kv_heads, group, dim, window, sinks, softcap, gating);
    expect_forward(&c);
    c.f.train->attend_seq_grad(c.f.b.dev, &(struct attend_seq_grad_args){
        .forward = &c.forward, .dout = c.out.dy.ptr, .dq = c.q.grad.ptr, .dk = c.k.grad.ptr, .dv = c.v.grad.ptr,
        .dlog_gate = with_dgate ? c.gate.grad.ptr : NULL});
    var_check("attend_seq dq", &c.q, attend_loss, &c);
    var_check("attend_seq dk", &c.k, attend_loss, &c);
    var_check("attend_seq dv", &c.v, attend_loss, &c);
    if (with_dgate)
        var_check("attend_seq dlog_gate", &c.gate, attend_loss, &c);
    attend_case_close(&c);
}

static void test_attend_seq(void **state) {
    (void)state;
    static const int full[] = {INT_MAX, INT_MAX}, mixed[] = {1, 4, INT_MAX}, four[] = {4, 4};
    check_attend(1, 1, 1, full, 0, 0, GATES_NONE, false);
    check_attend(2, 2, 4, full, 0, 0, GATES_SOFT, true);
    check_attend(3, 2, 3, mixed, 0, 0, GATES_SOFT, true);
    check_attend(3, 1, 4, mixed, 2, 0, GATES_SOFT, true);
    check_attend(2, 3, 2, four, 0, 1.5f, GATES_SOFT, true);
    check_attend(3, 2, 3, mixed, 0, 0, GATES_HARD, true);
    check_attend(3, 2, 3, mixed, 3, 1.5f, GATES_HARD, true);
    check_attend(2, 1, 4, four, 2, 0, GATES_NONE, true);
    check_attend(2, 2, 4, four, 0, 2, GATES_NONE, false);
}

/* One layer of everything that was fed to the slots of a world, as packed sequences of different lengths. */
static void expect_as_cached(const struct kv_world *w, int layer) {
    const struct kv_geometry *g = &w->g;
    size_t dim = (size_t)g->head_dim, n_kv_heads = (size_t)g->n_kv_heads, n_heads = n_kv_heads * (size_t)g->group;
    size_t ld = n_heads * dim, n_rows = 0;
    int splits[WORLD_MAX_SLOTS + 1] = {0};
    for (int slot = 0; slot < g->n_slots; slot++)
        splits[slot + 1] = (int)(n_rows += (size_t)w->fed[slot]);
    double *qkv[3], *gate = zalloc(n_rows * n_kv_heads, sizeof *gate), *want = zalloc(n_rows * ld, sizeof *want);
    double *want_lse = zalloc(n_rows * n_heads, sizeof *want_lse), *got = zalloc(n_rows * ld, sizeof *got);
    for (int i = 0; i < 3; i++)
        qkv[i] = zalloc(n_rows * ld, sizeof *qkv[i]);
    for (int slot = 0; slot < g->n_slots; slot++)
        for (int pos = 0; pos < w->fed[slot]; pos++) {
            size_t row = (size_t)(splits[slot] + pos), at = world_at(w, slot, layer, pos);
            for (size_t i = 0; i < ld; i++)
                qkv[0][row * ld + i] = kv_world_input(w, 'q', slot, layer, pos, (int)(i / dim), (int)(i % dim));
            for (size_t i = 0; i < n_kv_heads * dim; i++)
                for (int x = 1; x < 3; x++)
                    qkv[x][row * ld + i] = kv_world_input(w, "qkv"[x], slot, layer, pos, (int)(i / dim), (int)(i % dim));
            for (size_t k = 0; k < n_kv_heads; k++)
                gate[row * n_kv_heads + k] = kv_world_gate(w, slot, layer, pos, (int)k) ? 0 : -INFINITY;
            memcpy(want + row * ld, w->out + at * ld, ld * sizeof *want);
            memcpy(want_lse + row * n_heads, w->lse + at * n_heads, n_heads * sizeof *want);
        }
    struct buf q = buf_make(&w->b, DTYPE_F64, n_rows * ld, qkv[0]), k = buf_make(&w->b, DTYPE_F64, n_rows * ld, qkv[1]);
    struct buf v = buf_make(&w->b, DTYPE_F64, n_rows * ld, qkv[2]), out = buf_make(&w->b, DTYPE_F64, n_rows * ld, NULL);
    struct buf gates = buf_make(&w->b, DTYPE_F64, n_rows * n_kv_heads, gate);
    struct buf lse = buf_make(&w->b, DTYPE_F64, n_rows * n_heads, NULL);
    bool ring_only = g->ring_only[layer];
    w->b.ops->train->attend_seq(w->b.dev, &(struct attend_seq_args){
        .n_seq = g->n_slots, .row_splits = splits, .q = q.ptr, .k = k.ptr, .v = v.ptr, .n_rows = n_rows, .n_heads = n_heads,
        .n_kv_heads = n_kv_heads, .head_dim = dim, .ld_qkv = ld, .window = g->window + layer * g->n_kv_heads,
        .sinks = ring_only ? 0 : g->sinks, .log_gate = ring_only ? NULL : gates.ptr, .scale = (float)g->scale,
        .softcap = (float)g->softcap, .out = out.ptr, .lse = lse.ptr});
    buf_read(&out, got);
    compare_within("attend_seq beside attend_cache", got, want, n_rows * ld, 1e-13, 1e-13);
    buf_read(&lse, got);
    compare_within("lse beside attend_cache", got, want_lse, n_rows * n_heads, 1e-13, 1e-13);
    buf_free(&q), buf_free(&k), buf_free(&v), buf_free(&gates), buf_free(&out), buf_free(&lse);
    free(qkv[0]), free(qkv[1]), free(qkv[2]), free(gate), free(want), free(want_lse), free(got);
}

/* With hard gates it sees what a cache fed in chunks keeps (method.md section 4). */
static void test_attend_seq_as_cached(void **state) {
    (void)state;
    for (uint64_t seed = 600; seed < 610; seed++) {
        static const int chunks[] = {1, 7, 64};
        struct rnd r = {.seed = seed};
        struct kv_geometry g = kv_geometry_random(&r, 150);
        struct kv_world w;
        kv_world_open(&w, ops_ref(), DTYPE_F64, DTYPE_F64, &g);
        for (int slot = 0; slot < g.n_slots; slot++)
            for (int left = slot == 0 ? 1 : rnd_int(&r, 1, 150), n; left > 0; left -= n) {
                n = chunks[rnd_int(&r, 0, 2)];
                n = n < left ? n : left;
                kv_world_step(&w, 1, &slot, &n);
            }
        for (int layer = 0; layer < g.n_layers; layer++)
            expect_as_cached(&w, layer);
        kv_world_close(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attend_seq),
        cmocka_unit_test(test_attend_seq_as_cached),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
