/* Products and losses of the CPU backend at sizes that the op tests do not reach: inputs of several cache blocks, rows of
 * several passes, edges of tiles, more threads than work. Expectations are sums in double over the same stored numbers;
 * tolerances are those of op_pair.h. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/backends.h"
#include "tests/op_pair.h"

/* A product y = x w^T + bias on one device, and what it holds. */
struct problem {
    struct backend b;
    size_t n_rows, n_in, n_out;
    enum dtype stored;
    double *x, *w, *bias;
    struct weight *weight;
    void *bytes; /* of the weight */
};

static double *random_array(struct rnd *r, size_t n, enum dtype dtype) {
    double *x = zalloc(n, sizeof *x);
    rnd_fill(r, x, n, -1, 1);
    round_all(x, n, dtype);
    return x;
}

static struct problem problem_make(const struct ops *ops, enum dtype dtype, int n_threads, size_t n_rows, size_t n_in,
                                   size_t n_out, enum dtype stored) {
    struct rnd r = {.seed = n_rows * 7 + n_in * 3 + n_out};
    struct problem p = {.n_rows = n_rows, .n_in = n_in, .n_out = n_out, .stored = stored};
    struct device_options options = {.n_threads = n_threads, .dtype = dtype};
    struct err err = {0};
    bool borrowed;
    p.b = (struct backend){.ops = ops, .act = dtype, .real = DTYPE_F32};
    assert_int_equal(ops->open(&options, &p.b.dev, &err), OK);
    p.x = random_array(&r, n_rows * n_in, dtype);
    p.w = random_array(&r, n_out * n_in, stored);
    p.bias = random_array(&r, n_out, DTYPE_F32);
    p.bytes = zalloc(n_out * n_in, dtype_size(stored));
    for (size_t i = 0; i < n_out * n_in; i++)
        dtype_store(p.bytes, stored, i, p.w[i]);
    struct host_matrix m = {p.bytes, stored, n_out, n_in};
    assert_int_equal(ops->weight_prepare(p.b.dev, &m, WEIGHT_COMPUTE, &p.weight, &borrowed, &err), OK);
    return p;
}

static void problem_free(struct problem *p) {
    p->b.ops->weight_free(p->b.dev, p->weight);
    backend_close(&p->b);
    free(p->x), free(p->w), free(p->bias), free(p->bytes);
}

static double norm(const double *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sqrt(sum);
}

static double dot(const double *x, const double *y, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

/* Runs the op twice: both results must be equal bit for bit. */
static void check_linear(struct problem *p) {
    size_t ld = p->n_out + 5, n = p->n_rows * ld;
    double *y = zalloc(n, sizeof *y), *again = zalloc(n, sizeof *again), *want = zalloc(n, sizeof *want);
    double *tol = zalloc(n, sizeof *tol);
    char what[96];
    snprintf(what, sizeof what, "%s %s: %zu x %zu x %zu", p->b.ops->name, dtype_name(p->b.act), p->n_rows, p->n_out,
             p->n_in);
    struct buf x = buf_make(&p->b, p->b.act, p->n_rows * p->n_in, p->x), bias = buf_make(&p->b, DTYPE_F32, p->n_out,
                                                                                         p->bias);
    for (int run = 0; run < 2; run++) {
        struct buf out = buf_make(&p->b, DTYPE_F32, n, want); /* zeros */
        p->b.ops->linear(p->b.dev, &(struct linear_args){p->weight, x.ptr, bias.ptr, out.ptr, p->n_rows, ld});
        buf_read(&out, run ? again : y);
        buf_free(&out);
    }
    for (size_t r = 0; r < p->n_rows; r++)
        for (size_t o = 0; o < p->n_out; o++) {
            double size = norm(p->x + r * p->n_in, p->n_in) * norm(p->w + o * p->n_in, p->n_in);
            want[r * ld + o] = dot(p->x + r * p->n_in, p->w + o * p->n_in, p->n_in) + p->bias[o];
            tol[r * ld + o] = 5 * U * size + U;
        }
    compare(what, y, want, tol, n);
    assert_memory_equal(y, again, n * sizeof *y);
    buf_free(&x), buf_free(&bias);
    free(y), free(again), free(want), free(tol);
}

static void check_losses(struct problem *p) {
    double *nll = zalloc(p->n_rows, sizeof *nll), *want = zalloc(p->n_rows, sizeof *want);
    double *tol = zalloc(p->n_rows, sizeof *tol);
    int32_t *target = zalloc(p->n_rows, sizeof *target);
    char what[96];
    snprintf(what, sizeof what, "nll, %s %s: %zu x %zu x %zu", p->b.ops->name, dtype_name(p->b.act), p->n_rows, p->n_out,
             p->n_in);
    for (size_t r = 0; r < p->n_rows; r++) {
        double sum = 0, largest = 0, size = norm(p->x + r * p->n_in, p->n_in) * sqrt((double)p->n_in);
        target[r] = r % 7 == 6 ? -1 : (int32_t)((r * 31) % p->n_out);
        for (size_t o = 0; o < p->n_out; o++) {
            double logit = dot(p->x + r * p->n_in, p->w + o * p->n_in, p->n_in);
            sum += exp(logit - 40);
            largest = fabs(logit) > largest ? fabs(logit) : largest;
        }
        want[r] = target[r] < 0 ? NAN : 40 + log(sum) - dot(p->x + r * p->n_in, p->w + (size_t)target[r] * p->n_in, p->n_in);
        tol[r] = 2 * 4 * U * size + ((double)p->n_out / 2 + 4) * U + 4 * U * (largest + 10);
    }
    struct buf x = buf_make(&p->b, p->b.act, p->n_rows * p->n_in, p->x), out = buf_make(&p->b, DTYPE_F32, p->n_rows, NULL);
    struct buf targets = buf_bytes(&p->b, p->n_rows * sizeof *target, target);
    p->b.ops->nll(p->b.dev, &(struct nll_args){p->weight, x.ptr, targets.ptr, 0, p->n_rows, out.ptr, NULL});
    buf_read(&out, nll);
    compare(what, nll, want, tol, p->n_rows);
    buf_free(&x), buf_free(&out), buf_free(&targets);
    free(nll), free(want), free(tol), free(target);
}

struct size {
    size_t n_rows, n_in, n_out;
    int n_threads;
};

/* Each crosses one border: few rows and their first tile, one and two tiles of rows, whole and broken tiles of inputs and
 * outputs, one and several blocks of inputs (576 each), rows shared by threads, several passes of rows, threads without
 * work. */
static const struct size sizes[] = {
    {3, 577, 101, 2}, {4, 1543, 67, 1},  {5, 576, 100, 2},   {8, 61, 13, 1},     {24, 601, 66, 2},  {64, 1543, 50, 2},
    {1, 576, 100, 1}, {1, 1543, 67, 2},  {2, 1536, 65, 2},   {16, 577, 64, 1},   {17, 576, 33, 2},  {33, 600, 129, 1},
    {70, 1152, 96, 2}, {130, 608, 70, 2}, {300, 2050, 40, 1}, {900, 1300, 34, 1}, {500, 64, 70, 3},
};

static void for_all(void (*check)(struct problem *p)) {
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    const struct ops *list[MAX_BACKENDS];
    int n = backends_under_test(list);
    for (int i = 0; i < n; i++)
        for (int d = 0; d < 2; d++)
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes && backend_opens(list[i], dtypes[d], NULL); s++) {
                struct problem p = problem_make(list[i], dtypes[d], sizes[s].n_threads, sizes[s].n_rows, sizes[s].n_in,
                                                sizes[s].n_out, s % 2 ? DTYPE_F32 : DTYPE_BF16);
                if (p.b.act == DTYPE_BF16) /* such a device rounds what is stored wider */
                    round_all(p.w, p.n_out * p.n_in, DTYPE_BF16);
                check(&p);
                problem_free(&p);
            }
}

static void test_linear(void **state) {
    (void)state;
    for_all(check_linear);
}

static void test_losses(void **state) {
    (void)state;
    for_all(check_losses);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_linear), cmocka_unit_test(test_losses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
