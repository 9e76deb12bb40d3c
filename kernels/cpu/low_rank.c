/* Low-rank updates of products, and their gradients: small products, all by GEMM. */
#include "kernels/cpu/gemm.h"

void cpu_low_rank(struct device *dev, const struct low_rank_args *a) {
    ASSERT(a->ld_y >= a->n_out);
    if (!device_trains(dev) || a->n_rows == 0)
        return;
    sgemm_run_on(dev, &(struct sgemm){.m = a->n_rows, .n = a->rank, .k = a->n_in, .scale = 1, .a = a->x, .lda = a->n_in,
                                      .b = a->a, .ldb = a->n_in, .transpose_b = true, .c = a->low, .ldc = a->rank});
    sgemm_run_on(dev, &(struct sgemm){.m = a->n_rows, .n = a->n_out, .k = a->rank, .scale = a->scale, .a = a->low,
                                      .lda = a->rank, .b = a->b, .ldb = a->rank, .transpose_b = true, .c = a->y,
                                      .ldc = a->ld_y, .accumulate = true});
}

void cpu_low_rank_grad(struct device *dev, const struct low_rank_grad_args *g) {
    const struct low_rank_args *a = g->forward;
    ASSERT(g->ld_dy >= a->n_out);
    if (!device_trains(dev) || a->n_rows == 0)
        return;
    sgemm_run_on(dev, &(struct sgemm){.m = a->n_out, .n = a->rank, .k = a->n_rows, .scale = a->scale, .a = g->dy,
                                      .lda = g->ld_dy, .transpose_a = true, .b = a->low, .ldb = a->rank, .c = g->db,
                                      .ldc = a->rank, .accumulate = true});
    sgemm_run_on(dev, &(struct sgemm){.m = a->n_rows, .n = a->rank, .k = a->n_out, .scale = a->scale, .a = g->dy,
                                      .lda = g->ld_dy, .b = a->b, .ldb = a->rank, .c = a->low, .ldc = a->rank});
    sgemm_run_on(dev, &(struct sgemm){.m = a->rank, .n = a->n_in, .k = a->n_rows, .scale = 1, .a = a->low, .lda = a->rank,
                                      .transpose_a = true, .b = a->x, .ldb = a->n_in, .c = g->da, .ldc = a->n_in,
                                      .accumulate = true});
    sgemm_run_on(dev, &(struct sgemm){.m = a->n_rows, .n = a->n_in, .k = a->rank, .scale = 1, .a = a->low, .lda = a->rank,
                                      .b = a->a, .ldb = a->n_in, .c = g->dx, .ldc = a->n_in, .accumulate = true});
}
