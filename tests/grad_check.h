/* grad_check.h - gradients of the reference backend against central differences, on an F64 device.
 *
 * Step and tolerance. Inputs are of size 1. With a step of 1e-5 a central difference is off by 1e-10 / 6 of the third
 * derivative and by eps(f64) |loss| / step = 2e-11 |loss| of rounding, where a loss is a sum of at most a few hundred terms
 * of size 1 and gradients are of size 0.1 and more: well within 1e-6 of the largest gradient of the tensor. */
#ifndef SPKV_TESTS_GRAD_CHECK_H
#define SPKV_TESTS_GRAD_CHECK_H

#include "kernels/train_ops.h"
#include "tests/op_util.h"

struct fixture {
    struct backend b; /* the reference in F64 */
    const struct train_ops *train;
    struct rnd rnd;
};

struct fixture fixture_open(uint64_t seed);

/* A matrix that an op reads, rows ld apart, and its gradient, rows ld_grad apart. */
struct var {
    size_t n_rows, n_cols, ld, ld_grad;
    struct buf x, grad;
    double *before; /* of the gradient; NaN where it is written, not added to */
};

/* Random in +- size. */
struct var var_make(struct fixture *f, size_t n_rows, size_t n_cols, double size, bool added);
struct var var_strided(struct fixture *f, size_t n_rows, size_t n_cols, size_t ld, size_t ld_grad, double size, bool added);
void var_free(struct var *v);
/* A handle over it, as parameters have it. */
struct weight *var_weight(struct fixture *f, const struct var *v, enum weight_use use);
/* Compares the gradient with differences of the loss; an infinite element (a closed gate) has gradient 0, and what lies
 * between the rows of the gradient must be untouched. */
void var_check(const char *what, struct var *v, double (*loss)(void *), void *context);

/* An output y with random weights c: the loss is sum(c y), and c is the gradient that the op is given. */
struct sink {
    size_t n_rows, n_cols, ld, ld_dy;
    struct buf y, dy;
};

struct sink sink_make(struct fixture *f, size_t n_rows, size_t n_cols, size_t ld, size_t ld_dy);
double sink_loss(const struct sink *s);
void sink_free(struct sink *s);

void buf_write(const struct buf *buf, const double *values); /* of an F64 buffer */

#endif
