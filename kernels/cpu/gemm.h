/* gemm.h - matrix products of the CPU backend. Internal to kernels/cpu/. All are row-major and bitwise deterministic for
 * equal arguments and thread count. */
#ifndef SPKV_KERNELS_CPU_GEMM_H
#define SPKV_KERNELS_CPU_GEMM_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/cpu/device.h"

enum { WIDE_TILE_ELEMENTS = 1 << 20 }; /* of a weight widened at a time */

/* Rows `outputs` of w times n_rows rows of x: y[r * ld_y + o - outputs.begin] = w[o] . x[r] (+ bias[o]). */
struct product {
    const struct weight *w;
    struct range outputs;
    const void *x;     /* (n_rows, w->n_cols), contiguous, act (f32 for a WEIGHT_F32 weight) */
    enum dtype x_dtype;
    size_t n_rows;
    const float *bias; /* NULL or (w->n_rows) */
    float *y;
    size_t ld_y;
};

/* Picks the kernel: own loops for few rows, tiles or GEMM for many. */
void product_run(struct device *dev, const struct product *p);

/* c (m, n), ldc = scale * a (m, k), lda times b, plus c where `accumulate`. b is (k, n) or, transposed, (n, k). f32 by
 * oneDNN; uses all threads of the device outside a parallel region and the calling thread inside one. */
struct sgemm {
    size_t m, n, k;
    float scale;
    const float *a, *b;
    size_t lda, ldb;
    bool transpose_a, transpose_b;
    float *c;
    size_t ldc;
    bool accumulate;
};
bool sgemm_run(const struct sgemm *g);
/* The same outside a parallel region with the threads of the device; a failure is sticky. */
void sgemm_run_on(struct device *dev, const struct sgemm *g);

/* sum (n_cols) += rows of x (n_rows, n_cols), ld_x, in order. */
void column_sums_add(struct device *dev, const float *x, size_t n_rows, size_t n_cols, size_t ld_x, float *sum);

enum { GEMV_MAX_ROWS = 4 };
/* At most GEMV_MAX_ROWS rows: every row of w is read once from memory and used for all rows of x. */
void gemv_run(struct device *dev, const struct product *p);

/* f32 x of several rows, on AVX2 devices. */
void gemm_avx2_run(struct device *dev, const struct product *p);

/* bf16 x and weight, on AMX devices. */
void gemm_amx_run(struct device *dev, const struct product *p);
/* The nll and is_argmax of `a` without the logits leaving the cache; p->y is NULL, all outputs. No soft-cap. */
void gemm_amx_losses(struct device *dev, const struct product *p, const struct nll_args *a);
/* The same for one row. */
void gemv_run_bf16(struct device *dev, const struct product *p);

#endif
