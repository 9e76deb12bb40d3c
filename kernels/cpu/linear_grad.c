/* Gradients of products with weights. */
#include "kernels/cpu/gemm.h"

/* dx = dy w, tile by tile of the rows of w, plus dx where it is added to. */
static void dx_run(struct device *dev, const struct linear_grad_args *a) {
    size_t n_in = a->w->n_cols, n_out = a->w->n_rows, step = WIDE_TILE_ELEMENTS / (n_in ? n_in : 1) + 1;
    if (a->w->dtype == DTYPE_F32)
        step = n_out;
    for (size_t o = 0; o < n_out && !device_failed(dev); o += step) {
        size_t n = n_out - o < step ? n_out - o : step;
        const float *w = weight_rows_f32(dev, a->w, o, o + n);
        if (!w)
            return;
        sgemm_run_on(dev, &(struct sgemm){.m = a->n_rows, .n = n_in, .k = n, .scale = 1, .a = a->dy + o, .lda = a->ld_dy,
                                          .b = w, .ldb = n_in, .c = a->dx, .ldc = n_in, .accumulate = a->add_dx || o > 0});
    }
}

void cpu_linear_grad(struct device *dev, const struct linear_grad_args *a) {
    size_t n_in = a->w->n_cols, n_out = a->w->n_rows;
    ASSERT(a->ld_dy >= n_out);
    if (!device_trains(dev) || a->n_rows == 0)
        return;
    if (a->dx)
        dx_run(dev, a);
    if (a->dw && !device_failed(dev))
        sgemm_run_on(dev, &(struct sgemm){.m = n_out, .n = n_in, .k = a->n_rows, .scale = 1, .a = a->dy, .lda = a->ld_dy,
                                          .transpose_a = true, .b = a->x, .ldb = n_in, .c = a->dw, .ldc = n_in,
                                          .accumulate = true});
    if (a->dbias)
        column_sums_add(dev, a->dy, a->n_rows, n_out, a->ld_dy, a->dbias);
}
