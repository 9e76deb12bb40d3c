/* Equal calls of training ops give equal bits, with sizes that all threads share. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/train_ops.h"
#include "tests/backends.h"
#include "tests/op_util.h"

enum { N_ROWS = 600, DIM = 32, N_HEADS = 4, N_KV_HEADS = 2, LD = (N_HEADS + 2 * N_KV_HEADS) * DIM, WIDE = 300 };

static struct buf noise(const struct backend *b, size_t n, uint64_t seed) {
    struct rnd rnd = {.seed = seed};
    double *x = zalloc(n, sizeof *x);
    rnd_fill(&rnd, x, n, -1, 1);
    struct buf buf = buf_make(b, DTYPE_F32, n, x);
    free(x);
    return buf;
}

/* Keeps a result, or compares it with the kept one, and frees it. Doubles hold f32 as it is. */
static void keep(struct buf *result, double **kept, bool again) {
    double *values = zalloc(result->n, sizeof *values);
    buf_read(result, values);
    if (again)
        assert_memory_equal(values, *kept, result->n * sizeof *values);
    free(again ? *kept : NULL);
    *kept = values;
    buf_free(result);
}

static void attend(const struct backend *b, double *kept[3], bool again) {
    static const int splits[] = {0, 400, N_ROWS}, window[] = {17, 64};
    struct buf qkv = noise(b, N_ROWS * LD, 1), gate = noise(b, N_ROWS * N_KV_HEADS, 2);
    struct buf out = noise(b, N_ROWS * N_HEADS * DIM, 3), lse = noise(b, N_ROWS * N_HEADS, 4);
    struct buf dout = noise(b, N_ROWS * N_HEADS * DIM, 5), d = noise(b, N_ROWS * LD, 6);
    struct buf dgate = noise(b, N_ROWS * N_KV_HEADS, 7);
    float *q = qkv.ptr, *dq = d.ptr;
    struct attend_seq_args a = {.n_seq = 2, .row_splits = splits, .q = q, .k = q + N_HEADS * DIM,
                                .v = q + (N_HEADS + N_KV_HEADS) * DIM, .n_rows = N_ROWS, .n_heads = N_HEADS,
                                .n_kv_heads = N_KV_HEADS, .head_dim = DIM, .ld_qkv = LD, .window = window,
                                .log_gate = gate.ptr, .scale = 0.2f, .out = out.ptr, .lse = lse.ptr};
    b->ops->train->attend_seq(b->dev, &a);
    b->ops->train->attend_seq_grad(b->dev, &(struct attend_seq_grad_args){
                                               .forward = &a, .dout = dout.ptr, .dq = dq, .dk = dq + N_HEADS * DIM,
                                               .dv = dq + (N_HEADS + N_KV_HEADS) * DIM, .dlog_gate = dgate.ptr});
    keep(&out, &kept[0], again), keep(&d, &kept[1], again), keep(&dgate, &kept[2], again);
    buf_free(&qkv), buf_free(&gate), buf_free(&lse), buf_free(&dout);
}

/* Products and sums over rows: the loss, a norm and the sum of squares. */
static void sums(const struct backend *b, double *kept[4], bool again) {
    struct buf w = noise(b, WIDE * LD, 1), x = noise(b, N_ROWS * LD, 2), dx = noise(b, N_ROWS * LD, 3);
    struct buf dw = noise(b, WIDE * LD, 4), dnorm = noise(b, LD, 5), nll = noise(b, N_ROWS, 6);
    struct buf sum = buf_make(b, DTYPE_F64, 1, (double[]){0.5});
    struct weight *weight = NULL;
    struct err err = {0};
    int32_t ids[N_ROWS];
    for (int i = 0; i < N_ROWS; i++)
        ids[i] = i % 7 ? i % WIDE : -1;
    struct buf target = buf_bytes(b, sizeof ids, ids);
    assert_int_equal(b->ops->train->weight_make(b->dev, w.ptr, WIDE, LD, WEIGHT_COMPUTE, &weight, &err), OK);
    struct nll_args forward = {.w = weight, .x = x.ptr, .target = target.ptr, .n_rows = N_ROWS, .nll = nll.ptr};
    b->ops->train->nll_grad(b->dev, &(struct nll_grad_args){.forward = &forward, .scale = 0.5f, .dx = dx.ptr, .dw = dw.ptr});
    b->ops->train->rmsnorm_grad(b->dev, &(struct rmsnorm_grad_args){
                                            .x = x.ptr, .weight = w.ptr, .eps = 1e-5f, .n_rows = N_ROWS, .n_groups = 1,
                                            .n_cols = LD, .ld_x = LD, .dy = x.ptr, .ld_dy = LD, .dx = dx.ptr, .ld_dx = LD,
                                            .add_dx = true, .dweight = dnorm.ptr});
    b->ops->train->norm_sq(b->dev, x.ptr, N_ROWS * LD, sum.ptr);
    keep(&dx, &kept[0], again), keep(&dw, &kept[1], again), keep(&dnorm, &kept[2], again), keep(&sum, &kept[3], again);
    b->ops->weight_free(b->dev, weight);
    buf_free(&w), buf_free(&x), buf_free(&nll), buf_free(&target);
}

static void repeat(void (*run)(const struct backend *, double **, bool)) {
    const struct ops *list[MAX_BACKENDS];
    int n = backends_under_test(list);
    for (int i = 0; i < n; i++)
        for (int n_threads = 1; n_threads <= 3; n_threads++) {
            if (!list[i]->train || (n_threads > 1 && strncmp(list[i]->name, "cpu", 3) != 0))
                continue;
            struct backend b = backend_open_on(list[i], DTYPE_F32, n_threads);
            double *kept[4] = {NULL};
            for (int again = 0; again < 3; again++)
                run(&b, kept, again);
            for (int k = 0; k < 4; k++)
                free(kept[k]);
            backend_close(&b);
        }
}

static void test_attend(void **state) {
    (void)state;
    repeat(attend);
}

static void test_sums(void **state) {
    (void)state;
    repeat(sums);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_attend), cmocka_unit_test(test_sums)};
    backends_print_skipped();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
