#include "tests/grad_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static const double STEP = 1e-5, TOLERANCE = 1e-6;

struct fixture fixture_open(uint64_t seed) {
    struct fixture f = {.b = backend_open(ops_ref(), DTYPE_F64), .train = ops_ref()->train, .rnd = {.seed = seed}};
    return f;
}

struct var var_strided(struct fixture *f, size_t n_rows, size_t n_cols, size_t ld, size_t ld_grad, double size, bool added) {
    struct var v = {.n_rows = n_rows, .n_cols = n_cols, .ld = ld, .ld_grad = ld_grad};
    double *x = zalloc(n_rows * ld, sizeof *x);
    v.before = zalloc(n_rows * ld_grad, sizeof *v.before);
    rnd_fill(&f->rnd, x, n_rows * ld, -size, size);
    for (size_t i = 0; i < n_rows * ld_grad; i++)
        v.before[i] = added ? rnd_real(&f->rnd, -1, 1) : NAN;
    v.x = buf_make(&f->b, DTYPE_F64, n_rows * ld, x);
    v.grad = buf_make(&f->b, DTYPE_F64, n_rows * ld_grad, v.before);
    free(x);
    return v;
}

struct var var_make(struct fixture *f, size_t n_rows, size_t n_cols, double size, bool added) {
    return var_strided(f, n_rows, n_cols, n_cols, n_cols, size, added);
}

void buf_write(const struct buf *buf, const double *values) {
    buf->b->ops->upload(buf->b->dev, buf->ptr, values, buf->n * sizeof *values);
}

/* (loss(x + step) - loss(x - step)) / (2 step) for the element at i; 0 for an infinite one. */
static double difference(const struct buf *buf, double *x, size_t i, double (*loss)(void *), void *context) {
    double at = x[i], up, down;
    if (isinf(at))
        return 0;
    x[i] = at + STEP;
    buf_write(buf, x);
    up = loss(context);
    x[i] = at - STEP;
    buf_write(buf, x);
    down = loss(context);
    x[i] = at;
    buf_write(buf, x);
    return (up - down) / (2 * STEP);
}

void var_free(struct var *v) {
    buf_free(&v->x), buf_free(&v->grad);
    free(v->before);
}

void var_check(const char *what, struct var *v, double (*loss)(void *), void *context) {
    size_t n = v->n_rows * v->ld_grad;
    double *x = zalloc(v->x.n, sizeof *x), *got = zalloc(n, sizeof *got), *want = zalloc(n, sizeof *want), largest = 0;
    buf_read(&v->x, x);
    buf_read(&v->grad, got);
    for (size_t i = 0; i < n; i++) {
        size_t row = i / v->ld_grad, col = i % v->ld_grad;
        want[i] = v->before[i];
        if (col >= v->n_cols)
            continue;
        double slope = difference(&v->x, x, row * v->ld + col, loss, context);
        want[i] = slope + (isnan(v->before[i]) ? 0 : v->before[i]);
        largest = fmax(largest, fabs(slope));
    }
    compare_within(what, got, want, n, TOLERANCE * largest, 0);
    free(x), free(got), free(want);
}

struct weight *var_weight(struct fixture *f, const struct var *v, enum weight_use use) {
    struct weight *w = NULL;
    struct err err = {0};
    assert_int_equal(f->train->weight_make(f->b.dev, v->x.ptr, v->n_rows, v->n_cols, use, &w, &err), OK);
    return w;
}

struct sink sink_make(struct fixture *f, size_t n_rows, size_t n_cols, size_t ld, size_t ld_dy) {
    struct sink s = {.n_rows = n_rows, .n_cols = n_cols, .ld = ld, .ld_dy = ld_dy};
    double *c = zalloc(n_rows * ld_dy, sizeof *c);
    rnd_fill(&f->rnd, c, n_rows * ld_dy, -1, 1);
    s.y = buf_make(&f->b, DTYPE_F64, n_rows * ld, NULL);
    s.dy = buf_make(&f->b, DTYPE_F64, n_rows * ld_dy, c);
    free(c);
    return s;
}

double sink_loss(const struct sink *s) {
    double *y = zalloc(s->y.n, sizeof *y), *c = zalloc(s->dy.n, sizeof *c), sum = 0;
    buf_read(&s->y, y);
    buf_read(&s->dy, c);
    for (size_t r = 0; r < s->n_rows; r++)
        for (size_t i = 0; i < s->n_cols; i++)
            sum += c[r * s->ld_dy + i] * y[r * s->ld + i];
    free(y), free(c);
    return sum;
}

void sink_free(struct sink *s) {
    buf_free(&s->y), buf_free(&s->dy);
}
