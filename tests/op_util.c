#include "tests/op_util.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"

enum { ZONE_BYTES = 256, ZONE_BYTE = 0xA5 };

double rnd_unit(struct rnd *r) {
    return (double)rng_uniform(r->seed, 0, 0, 0, r->at++);
}

double rnd_real(struct rnd *r, double lo, double hi) {
    return lo + (hi - lo) * rnd_unit(r);
}

int rnd_int(struct rnd *r, int lo, int hi) {
    return lo + (int)(rnd_unit(r) * (double)(hi - lo + 1));
}

void rnd_fill(struct rnd *r, double *x, size_t n, double lo, double hi) {
    for (size_t i = 0; i < n; i++)
        x[i] = rnd_real(r, lo, hi);
}

struct backend backend_open_on(const struct ops *ops, enum dtype dtype, int n_threads) {
    struct backend b = {.ops = ops, .act = dtype, .real = dtype == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32};
    struct device_options options = {.n_threads = n_threads, .dtype = dtype};
    struct err err = {0};
    if (ops->open(&options, &b.dev, &err))
        fail_msg("%s does not open: %s", ops->name, err.message);
    assert_int_equal(ops->device_dtype(b.dev), dtype);
    return b;
}

struct backend backend_open(const struct ops *ops, enum dtype dtype) {
    return backend_open_on(ops, dtype, 2);
}

void backend_close(struct backend *b) {
    backend_sync(b);
    b->ops->close(b->dev);
    b->dev = NULL;
}

void backend_sync(const struct backend *b) {
    struct err err = {0};
    if (b->ops->sync(b->dev, &err))
        fail_msg("%s: %s: %s", b->ops->name, err.where, err.message);
}

void *zalloc(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size ? size : 1);
    if (!memory)
        fail_msg("out of memory");
    return memory;
}

struct buf buf_bytes(const struct backend *b, size_t n_bytes, const void *bytes) {
    struct buf buf = {.b = b, .dtype = DTYPE_F64, .n = n_bytes};
    buf.base = b->ops->mem_alloc(b->dev, n_bytes + 2 * ZONE_BYTES);
    assert_non_null(buf.base);
    assert_int_equal((uintptr_t)buf.base % 64, 0);
    buf.ptr = buf.base + ZONE_BYTES;
    b->ops->fill(b->dev, buf.base, ZONE_BYTE, n_bytes + 2 * ZONE_BYTES);
    if (bytes)
        b->ops->upload(b->dev, buf.ptr, bytes, n_bytes);
    else
        b->ops->fill(b->dev, buf.ptr, 0xFF, n_bytes);
    return buf;
}

struct buf buf_make(const struct backend *b, enum dtype dtype, size_t n, const double *values) {
    char *host = values ? zalloc(n, dtype_size(dtype)) : NULL;
    for (size_t i = 0; values && i < n; i++)
        dtype_store(host, dtype, i, values[i]);
    struct buf buf = buf_bytes(b, n * dtype_size(dtype), host);
    free(host);
    buf.dtype = dtype;
    buf.n = n;
    return buf;
}

static void read_checked(const struct buf *buf, size_t n_bytes, void *out) {
    size_t all = n_bytes + 2 * ZONE_BYTES;
    uint8_t *host = zalloc(all, 1);
    buf->b->ops->download(buf->b->dev, host, buf->base, all);
    backend_sync(buf->b);
    for (size_t i = 0; i < all; i++)
        if ((i < ZONE_BYTES || i >= ZONE_BYTES + n_bytes) && host[i] != ZONE_BYTE)
            fail_msg("%s wrote outside a buffer of %zu bytes, at byte %td", buf->b->ops->name, n_bytes,
                     (ptrdiff_t)i - ZONE_BYTES);
    memcpy(out, host + ZONE_BYTES, n_bytes);
    free(host);
}

void buf_read_bytes(const struct buf *buf, void *out) {
    read_checked(buf, buf->n, out);
}

void buf_read(const struct buf *buf, double *out) {
    char *host = zalloc(buf->n, dtype_size(buf->dtype));
    read_checked(buf, buf->n * dtype_size(buf->dtype), host);
    for (size_t i = 0; i < buf->n; i++)
        out[i] = dtype_load(host, buf->dtype, i);
    free(host);
}

void buf_free(struct buf *buf) {
    if (buf->base)
        buf->b->ops->mem_free(buf->b->dev, buf->base);
    buf->base = NULL;
}

void round_all(double *x, size_t n, enum dtype dtype) {
    for (size_t i = 0; i < n; i++) {
        double stored;
        dtype_store(&stored, dtype, 0, x[i]);
        x[i] = dtype_load(&stored, dtype, 0);
    }
}

double eps_of(enum dtype dtype) {
    return dtype == DTYPE_F64 ? 0x1p-52 : dtype == DTYPE_F32 ? 0x1p-23 : 0x1p-7;
}

/* How far beyond its tolerance an element is: <= 1 is fine. */
static double excess(double got, double want, double tol) {
    if (isnan(want) || isinf(want) || isnan(got) || isinf(got))
        return (isnan(want) && isnan(got)) || got == want ? 0 : INFINITY;
    if (got == want)
        return 0;
    return tol > 0 ? fabs(got - want) / tol : INFINITY;
}

void compare(const char *what, const double *got, const double *want, const double *tol, size_t n) {
    size_t worst = 0;
    double worst_excess = 0;
    for (size_t i = 0; i < n; i++) {
        double e = excess(got[i], want[i], tol[i]);
        if (e > worst_excess) {
            worst = i;
            worst_excess = e;
        }
    }
    if (worst_excess > 1)
        fail_msg("%s: element %zu of %zu is %.17g, expected %.17g within %.3g", what, worst, n, got[worst], want[worst],
                 tol[worst]);
}

void compare_within(const char *what, const double *got, const double *want, size_t n, double absolute, double relative) {
    double *tol = zalloc(n, sizeof *tol);
    for (size_t i = 0; i < n; i++)
        tol[i] = absolute + (isfinite(want[i]) ? relative * fabs(want[i]) : 0);
    compare(what, got, want, tol, n);
    free(tol);
}
