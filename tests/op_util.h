/* op_util.h - what tests of op tables share: a backend under test, device buffers between sentinels, seeded numbers,
 * and the comparison with a reference. Failures end the test through cmocka. */
#ifndef SPKV_TESTS_OP_UTIL_H
#define SPKV_TESTS_OP_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

/* ---- seeded numbers ---- */

struct rnd {
    uint64_t seed;
    uint32_t at;
};

double rnd_unit(struct rnd *r);                  /* [0, 1) */
double rnd_real(struct rnd *r, double lo, double hi);
int rnd_int(struct rnd *r, int lo, int hi);      /* lo .. hi, both included */
void rnd_fill(struct rnd *r, double *x, size_t n, double lo, double hi);

/* ---- backends and buffers ---- */

struct backend {
    const struct ops *ops;
    struct device *dev;
    enum dtype act, real; /* act elements; "f32" elements */
};

struct backend backend_open(const struct ops *ops, enum dtype dtype);                /* 2 threads */
struct backend backend_open_on(const struct ops *ops, enum dtype dtype, int n_threads);
void backend_close(struct backend *b);
void backend_sync(const struct backend *b);

/* n elements on the device, with a guard zone on both sides. */
struct buf {
    const struct backend *b;
    char *base;
    void *ptr; /* device */
    enum dtype dtype;
    size_t n;
};

/* From doubles, rounded to dtype; NULL: filled with 0xFF bytes, a NaN. */
struct buf buf_make(const struct backend *b, enum dtype dtype, size_t n, const double *values);
struct buf buf_bytes(const struct backend *b, size_t n_bytes, const void *bytes); /* dtype is meaningless */
void buf_read(const struct buf *buf, double *out);       /* checks the guard zones */
void buf_read_bytes(const struct buf *buf, void *out);
void buf_free(struct buf *buf);

/* Values after a round trip through a dtype. */
void round_all(double *x, size_t n, enum dtype dtype);

/* calloc that fails the test instead of returning NULL. */
void *zalloc(size_t count, size_t size);

/* ---- comparison ---- */

double eps_of(enum dtype dtype); /* spacing of numbers at 1: f32 2^-23, bf16 2^-7, f64 2^-52 */

/* Fails when |got - want| > tol anywhere; NaN must meet NaN, infinities must be equal. Prints the worst element. */
void compare(const char *what, const double *got, const double *want, const double *tol, size_t n);
/* The same with one tolerance: absolute + relative * |want|. */
void compare_within(const char *what, const double *got, const double *want, size_t n, double absolute, double relative);

#endif
